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
constexpr double identity_tolerance = 10 *
                                      static_cast<double>(std::numeric_limits<RealOf<Scalar>>::epsilon());

/// Hand-written gradients in double against central differences.
inline constexpr double gradient_tolerance = 1e-7;

/// The same computation in float and in double.
inline constexpr double float_tolerance = 1e-5;

/// A result stored in 16 bits against one in float: the rounding of data and result, four units in all.
template <class Scalar>
inline constexpr double storage_tolerance = 4.0 / (1 << std::numeric_limits<Scalar>::digits);

/// n identities one after the other: 2 eps for each, and no less than one may have. (Against long double, 64
/// repeated reflections lose 53 eps as a product of dense matrices, 25 applied one by one, 48 in compact WY.)
template <class Scalar>
constexpr double sequence_tolerance(Index n) {
  return identity_tolerance<Scalar> * (std::max)(1.0, static_cast<double>(n) / 5);
}

/// A gradient that is the difference of several sums, each rounded like an identity.
template <class Scalar>
constexpr double slope_tolerance = 4 * identity_tolerance<Scalar>;

/// A state after 200 layers and back, against what it was.
template <class Scalar>
inline constexpr double rewind_tolerance = std::is_same_v<Scalar, float> ? 1e-5 : 1e-12;

/// 64 operators and back: the condition of their product is not 1 (0.7^-13 for the gates that the tests mix).
inline constexpr double undo_tolerance = 1e-9;

/// What the measures below give where numbers are not finite, shapes differ or there is nothing to compare with.
/// (Neither NaN nor infinity: under -ffast-math, comparisons with them may hold.)
inline constexpr double not_comparable = 1e300;

/// |a - b| / max(1, |b|), largest entries. Use as CHECK(error(a, b) <= tolerance).
template <class A, class B>
double error(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return not_comparable;
  if (a.size() == 0) return 0;
  const auto given = a.template cast<typename B::Scalar>().eval();
  const auto reference = b.eval();
  if (!all_finite(given) || !all_finite(reference)) return not_comparable;
  return static_cast<double>((given - reference).cwiseAbs().maxCoeff()) /
         (std::max)(1.0, static_cast<double>(reference.cwiseAbs().maxCoeff()));
}

/// The same relative to |b| alone, for comparisons in which b must not be small.
template <class A, class B>
double relative_error(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return not_comparable;
  const auto given = a.template cast<typename B::Scalar>().eval();
  const auto reference = b.eval();
  const double size = static_cast<double>(reference.norm());
  const double distance = static_cast<double>((given - reference).norm());
  if (!is_finite(size) || !is_finite(distance) || size <= 0) return not_comparable;
  return distance / size;
}

}  // namespace ddl::test
