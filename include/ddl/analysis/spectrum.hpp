// SPDX-License-Identifier: MIT
/// @file  The spectrum of a sequence of Delta operators, and how many dimensions a matrix really uses.
#pragma once

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>
#include <algorithm>
#include <complex>
#include <stdexcept>

#include "ddl/op/delta_product.hpp"

namespace ddl {

/// Singular values and eigenvalues of a map of d dimensions that leaves all but a few of them alone.
template <class Real>
struct Spectrum {
  Vector<Real> singular_values;            ///< descending
  Vector<std::complex<Real>> eigenvalues;  ///< in no order
  Index ones = 0;                          ///< how many more of each there are, all exactly 1
};

/// Singular values, descending, computed in the accumulation type.
/// @throws std::invalid_argument if an entry is not finite.
template <class Derived>
Vector<RealOf<Accum<typename Derived::Scalar>>> singular_values(const Eigen::MatrixBase<Derived>& A) {
  using Dense = Matrix<Accum<typename Derived::Scalar>>;
  if (!all_finite(A)) fail("ddl::singular_values", "the matrix", "not finite", "finite numbers");
  if (A.size() == 0) return {};
  return Eigen::JacobiSVD<Dense>(Dense(A.template cast<typename Dense::Scalar>())).singularValues();
}

/// The spectrum of the linear map A_n .. A_1; writes are no part of it.
///
/// The problem is one of p = min(n, d) dimensions, see DeltaProduct::core(). The operators are applied one after the
/// other: that costs no more than the triangular solve of the compact form, and any number of edits is safe.
///
/// @throws std::invalid_argument if the product overflows, std::runtime_error if the eigenvalues do not converge.
template <class Scalar, int Rows>
Spectrum<RealOf<Accum<Scalar>>> spectrum(const DeltaProduct<Scalar, Rows>& product) {
  using Dense = Matrix<Accum<Scalar>>;
  using Solver = std::conditional_t<bool(Eigen::NumTraits<Accum<Scalar>>::IsComplex),
                                    Eigen::ComplexEigenSolver<Dense>, Eigen::EigenSolver<Dense>>;
  const Dense core = product.core();
  if (core.size() == 0) return {{}, {}, product.rows()};
  if (!all_finite(core)) fail("ddl::spectrum", "the product", "not finite", "finite numbers");
  const Solver solver(core, false);
  if (solver.info() != Eigen::Success)
    throw std::runtime_error("ddl::spectrum: the eigenvalues do not converge");
  return {singular_values(core), solver.eigenvalues(), product.rows() - core.rows()};
}

namespace detail {

template <class Derived>
auto check_singular_values(const char* where, const Eigen::MatrixBase<Derived>& values) {
  EIGEN_STATIC_ASSERT_VECTOR_ONLY(Derived)
  typename Derived::Scalar largest(0);
  for (Index i = 0; i < values.size(); ++i) {
    const auto value = values.derived().coeff(i);
    check_range(where, "a singular value", static_cast<double>(value), value >= 0, "a number of at least 0");
    largest = (std::max)(largest, value);
  }
  return largest;
}

}  // namespace detail

/// exp of the entropy of the singular values' shares in their sum: n for n equal ones, 1 for a single one, 0 for none.
/// @source Roy and Vetterli 2007, The effective rank.
/// @throws std::invalid_argument if a value is negative or not finite.
template <class Derived>
typename Derived::Scalar effective_rank(const Eigen::MatrixBase<Derived>& singular_values) {
  using std::exp;
  using std::log;
  using Real = typename Derived::Scalar;
  const Real largest = detail::check_singular_values("ddl::effective_rank", singular_values);
  if (!(largest > 0)) return Real(0);
  const Vector<Real> share = singular_values / largest;
  const Real sum = share.sum();
  Real entropy(0);
  for (const Real s : share)
    if (s > 0) entropy -= s / sum * log(s / sum);
  return exp(entropy);
}

/// |A|_F^2 / |A|_2^2 from A's singular values: never above the rank, and unmoved by small values; 0 for A = 0.
/// @throws std::invalid_argument if a value is negative or not finite.
template <class Derived>
typename Derived::Scalar stable_rank(const Eigen::MatrixBase<Derived>& singular_values) {
  using Real = typename Derived::Scalar;
  const Real largest = detail::check_singular_values("ddl::stable_rank", singular_values);
  return largest > 0 ? Real((singular_values / largest).squaredNorm()) : Real(0);
}

}  // namespace ddl
