// SPDX-License-Identifier: MIT
/// @file  From an unnormalised direction to k: k = kt / sqrt(|kt|^2 + k_eps^2).
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417, sec. 3.1.
#pragma once

#include <cmath>
#include <limits>

#include "ddl/core/scalar.hpp"

namespace ddl {

/// The default k_eps. It stands inside the root, in training, inference and export alike: kt = 0 gives k = 0,
/// a skipped write.
inline constexpr double default_k_eps = 1e-5;

/// The s of k = s kt, given |kt|^2 as summed; `kt` is read again only where that sum over- or underflowed.
/// @return 0 if kt and k_eps are both 0.
template <class Real, class Derived>
Real direction_scale(const Eigen::MatrixBase<Derived>& kt, const Real& squared_norm, const Real& k_eps) {
  using std::sqrt;
  if constexpr (std::is_floating_point_v<Real>) {
    constexpr Real safe = (std::numeric_limits<Real>::max)() * std::numeric_limits<Real>::epsilon();
    const Real sum = squared_norm + k_eps * k_eps;
    if (sum > 1 / safe && sum < safe) return 1 / sqrt(sum);
    const Real largest = kt.template cast<Accum<typename Derived::Scalar>>().cwiseAbs().maxCoeff();
    if (!(largest > 0)) return k_eps > 0 ? 1 / k_eps : Real(0);
    const Real scaled_eps = k_eps / largest;
    const Real scaled_sum = (kt.template cast<Accum<typename Derived::Scalar>>() / largest).squaredNorm() +
                            scaled_eps * scaled_eps;
    return 1 / largest / sqrt(scaled_sum);
  } else {
    const Real sum = squared_norm + k_eps * k_eps;
    return sum > Real(0) ? Real(Real(1) / sqrt(sum)) : Real(0);
  }
}

}  // namespace ddl
