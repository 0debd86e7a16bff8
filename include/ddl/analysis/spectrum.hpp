// SPDX-License-Identifier: MIT
/// @file  The spectrum of a sequence of Delta operators, and how many dimensions a matrix really uses.
#pragma once

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <complex>
#include <stdexcept>
#include <string>
#include <type_traits>

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

/// The p x p matrix, p = min(n, d), that has the eigenvalues and singular values of the linear map A_n .. A_1
/// but for d - p, which are 1. It is A_n .. A_1 in an orthonormal basis whose span holds all k_i. Cost 2 d n
/// p + 4 n p^2.
///
/// The operators are applied one after the other: that costs no more than the triangular solve of the compact
/// form, and any number of edits is safe.
template <class Scalar, int Rows>
Matrix<Accum<Scalar>> core_matrix(const DeltaProduct<Scalar, Rows>& product) {
  // With K = Q R, each I - beta k k^H is the identity outside the span of Q and I - beta r r^H in it, r being
  // k's column of R. Q is not needed.
  using Dense = Matrix<Accum<Scalar>>;
  const Index p = (std::min)(product.rows(), product.size());
  Dense core = Dense::Identity(p, p);
  if (p == 0) return core;
  const Dense R = Eigen::HouseholderQR<Dense>(product.directions())
                      .matrixQR()
                      .topRows(p)
                      .template triangularView<Eigen::Upper>();
  for (Index i = 0; i < product.size(); ++i)
    core -= Accum<Scalar>(product.betas()[i]) * R.col(i) * (R.col(i).adjoint() * core).eval();
  return core;
}

namespace detail {

template <class AccumScalar>
Vector<std::complex<RealOf<AccumScalar>>> eigenvalues_of(const char* where, const Matrix<AccumScalar>& core) {
  using Dense = Matrix<AccumScalar>;
  using Solver = std::conditional_t<bool(Eigen::NumTraits<AccumScalar>::IsComplex),
                                    Eigen::ComplexEigenSolver<Dense>, Eigen::EigenSolver<Dense>>;
  if (!all_finite(core)) fail(where, "the product", "not finite", "finite numbers");
  if (core.size() == 0) return {};
  const Solver solver(core, false);
  if (solver.info() != Eigen::Success)
    throw std::runtime_error(std::string(where) + ": the eigenvalues do not converge");
  return solver.eigenvalues();
}

}  // namespace detail

/// The d eigenvalues of the linear map A_n .. A_1, in no order; writes are no part of it. The cost is that of
/// core_matrix and of a p x p eigenvalue problem.
/// @throws std::invalid_argument if the product overflows, std::runtime_error if the eigenvalues do not
/// converge.
template <class Scalar, int Rows>
Vector<std::complex<RealOf<Accum<Scalar>>>, Rows> eigenvalues(const DeltaProduct<Scalar, Rows>& product) {
  using All = Vector<std::complex<RealOf<Accum<Scalar>>>, Rows>;
  All all = All::Ones(product.rows());
  const auto few = detail::eigenvalues_of("ddl::eigenvalues", core_matrix(product));
  all.head(few.size()) = few;
  return all;
}

/// The eigenvalues and singular values of the linear map A_n .. A_1, at the cost of core_matrix and of two
/// problems of p = min(n, d) dimensions.
/// @throws std::invalid_argument if the product overflows, std::runtime_error if the eigenvalues do not
/// converge.
template <class Scalar, int Rows>
Spectrum<RealOf<Accum<Scalar>>> spectrum(const DeltaProduct<Scalar, Rows>& product) {
  const auto core = core_matrix(product);
  const auto values = detail::eigenvalues_of("ddl::spectrum", core);
  return {singular_values(core), values, product.rows() - core.rows()};
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

/// exp of the entropy of the singular values' shares in their sum: n for n equal ones, 1 for a single one, 0
/// for none.
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

/// |A|_F^2 / |A|_2^2 from A's singular values: never above the rank, and unmoved by small values; 0 for
/// A = 0.
/// @throws std::invalid_argument if a value is negative or not finite.
template <class Derived>
typename Derived::Scalar stable_rank(const Eigen::MatrixBase<Derived>& singular_values) {
  using Real = typename Derived::Scalar;
  const Real largest = detail::check_singular_values("ddl::stable_rank", singular_values);
  return largest > 0 ? Real((singular_values / largest).squaredNorm()) : Real(0);
}

}  // namespace ddl
