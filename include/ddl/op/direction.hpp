// SPDX-License-Identifier: MIT
/// @file  From an unnormalised direction to k: k = kt / sqrt(|kt|^2 + k_eps^2).
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417, sec. 3.1.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "ddl/core/batch.hpp"

namespace ddl {

/// The default k_eps. It stands inside the root, in training, inference and export alike: kt = 0 gives k = 0,
/// a skipped write.
inline constexpr double default_k_eps = 1e-5;

namespace detail {

/// k = scale (power kt), where `power` is a power of two. It is 1 for lengths of a common size. For all
/// others it brings max(|kt|, k_eps) to about 1, so that no square, inner product or multiple of power kt
/// over- or underflows.
template <class Real>
struct Normalizer {
  Real power, scale;
};

/// Lengths from 1 / common_length to common_length are used without a power of two: float 2^21, double 2^170.
template <class Real>
constexpr Real common_length() noexcept {
  Real length(1);
  for (int i = 0; i < std::numeric_limits<Real>::max_exponent / 6; ++i) length *= 2;
  return length;
}

template <class Real>
constexpr bool is_common(const Real& x, const Real& limit) noexcept {
  return x > 1 / limit && x < limit;
}

/// The normalizer of a kt of any length |kt|, given its entries.
template <class Real, class Scalar>
EIGEN_DONT_INLINE Normalizer<Real> scaled_normalizer(const Scalar* kt, Index size, const Real& k_eps) {
  const Eigen::Map<const Vector<Scalar>> entries(kt, size);
  const auto& wide = entries.template cast<Accum<Scalar>>();  // `entries` itself where the types are equal
  const Real largest = (std::max)(Real(wide.cwiseAbs().maxCoeff()), k_eps);
  if (!(largest > 0)) return {Real(1), Real(0)};
  constexpr int limit = std::numeric_limits<Real>::max_exponent - 2;
  const Real power = std::ldexp(Real(1), -std::clamp(std::ilogb(largest), -limit, limit));
  const Real eps = power * k_eps;
  return {power, 1 / std::sqrt((power * wide).squaredNorm() + eps * eps)};
}

/// The normalizer, given |kt|^2 as summed. `kt` is read only where the length is not a common one.
template <class Real, class Scalar>
Normalizer<Real> normalizer(const Scalar* kt, Index size, const Real& squared_norm, const Real& k_eps) {
  using std::sqrt;
  const Real sum = squared_norm + k_eps * k_eps;
  if constexpr (std::is_floating_point_v<Real>) {
    constexpr Real length = common_length<Real>();
    if (is_common(sum, length * length)) return {Real(1), 1 / sqrt(sum)};
    return scaled_normalizer(kt, size, k_eps);
  } else {
    return {Real(1), sum > Real(0) ? Real(Real(1) / sqrt(sum)) : Real(0)};
  }
}

}  // namespace detail

/// The s of k = s kt, given |kt|^2 as summed. That sum may have over- or underflowed. The entries of kt are
/// contiguous.
/// @return 0 if kt and k_eps are both 0, and where s is larger than the largest number (float: kt and k_eps
/// below 3e-39), so that k is 0 there.
template <class Real, class Derived>
Real direction_scale(const Eigen::MatrixBase<Derived>& kt, const Real& squared_norm, const Real& k_eps) {
  const auto [power, scale] = detail::normalizer(kt.derived().data(), kt.size(), squared_norm, k_eps);
  const Real s = power * scale;
  return is_finite(s) ? s : Real(0);
}

}  // namespace ddl
