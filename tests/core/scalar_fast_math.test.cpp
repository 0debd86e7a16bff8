// SPDX-License-Identifier: MIT
// The build compiles this one file with -ffast-math, under which x != x and std::isfinite are folded away.
#include <cstdint>
#include <limits>

#include "ddl/core/scalar.hpp"
#include "support/catch.hpp"

#if defined(__GNUC__) && !defined(__FAST_MATH__)
#error "compile this file with -ffast-math"
#endif

namespace {

// A double whose value the compiler cannot know.
double opaque(std::uint64_t bits) {
  volatile std::uint64_t hidden = bits;
  return Eigen::numext::bit_cast<double>(std::uint64_t{hidden});
}

}  // namespace

TEMPLATE_TEST_CASE("NaN and infinity are told from finite numbers under -ffast-math", "[core][scalar]", float,
                   double, long double, Eigen::half, Eigen::bfloat16, std::complex<double>,
                   std::complex<long double>) {
  using Real = ddl::RealOf<TestType>;
  const std::uint64_t finite[] = {0x0, 0x3ff0000000000000u, 0xc0c0000000000000u};
  const std::uint64_t broken[] = {0x7ff8000000000000u, 0xfff8000000000000u, 0x7ff0000000000000u,
                                  0xfff0000000000000u};
  for (const auto bits : finite) CHECK(ddl::is_finite(TestType(static_cast<Real>(opaque(bits)))));
  for (const auto bits : broken) {
    const auto x = TestType(static_cast<Real>(opaque(bits)));
    CHECK_FALSE(ddl::is_finite(x));
    Eigen::Matrix<TestType, 3, 1> column = Eigen::Matrix<TestType, 3, 1>::Zero();
    CHECK(ddl::all_finite(column));
    column(2) = x;
    CHECK_FALSE(ddl::all_finite(column));
  }
}
