// SPDX-License-Identifier: MIT
/// @file  Rotary position embedding, by halves.
/// @source Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021.
#pragma once

#include <cmath>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"

namespace ddl {

/// How many of a head's dimensions are rotated: `ratio` of them, rounded down to an even number.
/// @throws std::invalid_argument if the ratio is not in [0, 1], or a head with an odd size is to be rotated.
inline Index rotated_dimensions(const char* where, Index head_dim, double ratio) {
  check_range(where, "rope_ratio", ratio, ratio >= 0 && ratio <= 1, "a number from 0 to 1");
  if (ratio > 0 && head_dim % 2 != 0)
    fail(where, "head_dim", std::to_string(head_dim), "an even number, or a rope_ratio of 0");
  return static_cast<Index>(ratio * static_cast<double>(head_dim)) / 2 * 2;
}

/// Rotary positions: turns the pair (x_i, x_{i + r/2}), i < r/2, of a vector at position p by the angle p
/// base^(-2 i / r); what comes after the first r dimensions stays. The scalar product of two turned vectors
/// depends on how far apart they are, not on where.
template <class Scalar>
struct RotaryTable {
  Matrix<Scalar> cosine, sine;  ///< r/2 x positions
  double base = 0;              ///< of the angles, see above

  /// Fills the table for positions 0 .. positions - 1 unless it holds them already.
  /// @throws std::invalid_argument if the base is not a number above 0.
  void prepare(Index rotated, double base_, Index positions) {
    check_range("ddl::RotaryTable", "base", base_, base_ > 0, "a number above 0");
    if (cosine.rows() == rotated / 2 && base == base_ && cosine.cols() >= positions) return;
    base = base_;
    cosine.resize(rotated / 2, positions);
    sine.resize(rotated / 2, positions);
    for (Index i = 0; i < rotated / 2; ++i) {
      const double speed = std::pow(base, -2 * static_cast<double>(i) / static_cast<double>(rotated));
      for (Index p = 0; p < positions; ++p) {
        const double angle = static_cast<double>(p) * speed;
        cosine(i, p) = static_cast<Scalar>(std::cos(angle));
        sine(i, p) = static_cast<Scalar>(std::sin(angle));
      }
    }
  }

  /// x, in place, for position p of the table.
  void rotate(detail::Run<Scalar> x, Index p) const noexcept { turn(x, p, Scalar(1)); }
  /// The adjoint, which is the inverse.
  void rotate_back(detail::Run<Scalar> x, Index p) const noexcept { turn(x, p, Scalar(-1)); }

 private:
  void turn(detail::Run<Scalar>& x, Index p, Scalar sign) const noexcept {
    const Index half = cosine.rows();
    for (Index i = 0; i < half; ++i) {
      const Scalar a = x[i], b = x[i + half], c = cosine(i, p), s = sign * sine(i, p);
      x[i] = a * c - b * s;
      x[i + half] = b * c + a * s;
    }
  }
};

}  // namespace ddl
