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

/// n edits of states of d rows as one compact WY product, with unit directions and beta in [0, 2]; `size` is
/// at least the length of every column of every state on the way, and every entry written.
///
/// Forward substitution computes p_i = beta_i (v_i - k_i^T x_{i-1}) + e_i, where x_i = x_0 + k_1
/// p_1 + .. + k_i p_i in the computed p. So x_n is off by the sum of A_n .. A_{i+1} k_i e_i, and no A
/// expands. With u = eps / 2 and |p| <= 4 size, e_i holds beta_i <= 2 times d roundings of at most u size
/// (k_i^T x_0), (i - 1)(d + 1) of at most 4 u size (k_i^T k_j, and its multiple of p_j), and i + 2 of at most
/// 2 u size (the sums, which are k_i^T (x_j - x_0)). The last product adds 2 n of at most 4 u size. Roundings
/// are taken as independent (Higham and Mary 2019): the root of the sum of squares. It grows as n sqrt(d), in
/// whatever order a machine adds.
template <class Scalar>
double compact_tolerance(Index n, Index d, double size) {
  const double edits = static_cast<double>(n), rows = static_cast<double>(d);
  const double squares = 8 * edits * edits * (rows + 1.25) + edits * (rows + 16);
  return static_cast<double>(std::numeric_limits<RealOf<Scalar>>::epsilon()) * size * std::sqrt(squares);
}

/// A gradient that is the difference of several sums, each rounded like an identity.
template <class Scalar>
constexpr double derivative_tolerance = 4 * identity_tolerance<Scalar>;

/// A state after 200 layers and back, against what it was.
template <class Scalar>
inline constexpr double reversible_tolerance = std::is_same_v<Scalar, float> ? 1e-5 : 1e-12;

/// 64 operators and back: the condition of their product is not 1 (0.7^-13 for the gates that the tests mix).
inline constexpr double undo_tolerance = 1e-9;

/// What the measures below give where numbers are not finite, shapes differ or there is nothing to compare
/// with. (Neither NaN nor infinity: under -ffast-math, comparisons with them may hold.)
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
