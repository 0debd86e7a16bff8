// SPDX-License-Identifier: MIT
/// @file  Scalar types: what to accumulate in, what is real, what is finite.
#pragma once

#include "ddl/core/requirements.hpp"

#if !__has_include(<Eigen/Core>)
#error \
    "ddl needs Eigen 3.4 or newer on the include path (Debian, Ubuntu: libeigen3-dev; then -I/usr/include/eigen3)"
#endif

#include <Eigen/Core>
#include <bit>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

static_assert(EIGEN_VERSION_AT_LEAST(3, 4, 0), "ddl needs Eigen 3.4 or newer");

namespace ddl {

using Index = Eigen::Index;                     ///< Eigen's index type, a signed integer
inline constexpr int Dynamic = Eigen::Dynamic;  ///< a size that is known at run time only, as in Eigen

/// The type in which reductions, directions, gates and errors live: float for the 16-bit storage
/// types, the type itself otherwise. A direction rounded to 16 bits can have |k| > 1, which expands the
/// state at every layer once beta nears 2.
template <class Scalar>
struct AccumOf {
  using type = Scalar;  ///< of sums
};
template <>
struct AccumOf<Eigen::half> {
  using type = float;
};
template <>
struct AccumOf<Eigen::bfloat16> {
  using type = float;
};
/// AccumOf<Scalar>::type.
template <class Scalar>
using Accum = typename AccumOf<Scalar>::type;

/// The type of |x|: Scalar itself, or that of the parts of a complex number.
template <class Scalar>
using RealOf = typename Eigen::NumTraits<Scalar>::Real;

/// False for NaN and the infinities, also under -ffast-math, where std::isfinite is folded to true.
/// Scalars that are not built in (automatic differentiation) count as finite.
template <class Scalar>
bool is_finite(const Scalar& x) noexcept {
  if constexpr (std::is_same_v<Scalar, float>) {
    return (Eigen::numext::bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u;
  } else if constexpr (std::is_same_v<Scalar, double>) {
    return (Eigen::numext::bit_cast<std::uint64_t>(x) & 0x7ff0000000000000u) != 0x7ff0000000000000u;
  } else if constexpr (std::is_same_v<Scalar, long double>) {
    constexpr int digits = std::numeric_limits<long double>::digits;
    if constexpr (digits != 64 &&
                  digits != 113) {  // a double, or the sum of two of which the first is the nearest
      return is_finite(static_cast<double>(x));
    } else {
      // The exponent is the highest 16 bits of the 80-bit and the 128-bit format. All ones mark NaN and
      // infinity.
      constexpr bool big_endian = std::endian::native == std::endian::big;
      constexpr std::size_t at = big_endian ? 0 : digits == 64 ? 8 : sizeof(long double) - 2;
      std::uint16_t exponent;
      std::memcpy(&exponent, reinterpret_cast<const char*>(&x) + at, sizeof exponent);
      return (exponent & 0x7fffu) != 0x7fffu;
    }
  } else if constexpr (Eigen::NumTraits<Scalar>::IsComplex) {
    return is_finite(x.real()) && is_finite(x.imag());
  } else if constexpr (!std::is_same_v<Accum<Scalar>, Scalar>) {
    return is_finite(static_cast<Accum<Scalar>>(x));
  } else {
    return true;
  }
}

/// Whether is_finite of every entry.
template <class Derived>
bool all_finite(const Eigen::DenseBase<Derived>& x) noexcept {
  for (Index j = 0; j < x.cols(); ++j)
    for (Index i = 0; i < x.rows(); ++i)
      if (!is_finite(x.derived().coeff(i, j))) return false;
  return true;
}

}  // namespace ddl
