// SPDX-License-Identifier: MIT
/// @file  Every tolerance of the tests, and the one way in which they compare.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "ddl/core/batch.hpp"

namespace ddl::test {

/// Identities that hold exactly but for rounding: 10 eps of the scalar.
template <class Scalar>
constexpr double identity_tolerance = 10 * static_cast<double>(std::numeric_limits<RealOf<Scalar>>::epsilon());

/// Hand-written gradients in double against central differences.
inline constexpr double gradient_tolerance = 1e-7;

/// The same computation in float and in double.
inline constexpr double float_tolerance = 1e-5;

/// |a - b| / max(1, |b|), largest entries; NaN if there is a NaN anywhere, infinite if the shapes differ. Use as
/// CHECK(error(a, b) <= tolerance): NaN fails.
template <class A, class B>
double error(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return std::numeric_limits<double>::infinity();
  if (a.size() == 0) return 0;
  // Plain maxCoeff drops NaN in Eigen 3.4.
  const auto largest = [](const auto& x) {
    return static_cast<double>(x.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  };
  const auto reference = b.eval();
  using Scalar = typename B::Scalar;
  return largest((a.template cast<Scalar>() - reference).eval()) / (std::max)(1.0, largest(reference));
}

/// The same relative to |b| alone, for comparisons in which b must not be small.
template <class A, class B>
double relative_error(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return std::numeric_limits<double>::infinity();
  using Scalar = typename B::Scalar;
  const double size = static_cast<double>(b.norm());
  if (!(size > 0)) return std::numeric_limits<double>::infinity();
  return static_cast<double>((a.template cast<Scalar>() - b).norm()) / size;
}

}  // namespace ddl::test
