// SPDX-License-Identifier: MIT
// Golden values: the first two cases are published test vectors of SplitMix64 and xoshiro256++; the others
// were computed in exact rational arithmetic, rounded where the header rounds. They must agree bit for bit.
#include "ddl/core/random.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "ddl/core/batch.hpp"
#include "support/catch.hpp"

using ddl::Index;
using ddl::Random;

namespace {

/// False where std::fma multiplies and adds with a rounding of each, as in mingw-w64 without -mfma.
bool fma_is_exact() {
  const volatile double x = 1 + 0x1p-52;  // x^2 = 1 + 2^-51 + 2^-104
  return std::fma(x, x, -(1 + 0x1p-51)) == 0x1p-104;
}

}  // namespace

TEST_CASE("the seed is spread by SplitMix64", "[core][random]") {
  CHECK(Random(1234567).state() == Random::State{6457827717110365317u, 3203168211198807973u,
                                                 9817491932198370423u, 4593380528125082431u});
}

TEST_CASE("the engine is xoshiro256++", "[core][random]") {
  STATIC_REQUIRE(std::uniform_random_bit_generator<Random>);
  Random random(Random::State{1, 2, 3, 4});
  for (const std::uint64_t expected :
       {std::uint64_t{41943041}, std::uint64_t{58720359}, std::uint64_t{3588806011781223},
        std::uint64_t{3591011842654386}, std::uint64_t{9228616714210784205u},
        std::uint64_t{9973669472204895162u}})
    CHECK(random() == expected);
}

TEST_CASE("one seed gives one stream of uniform numbers", "[core][random]") {
  Random unit(42), scaled(42);
  for (const double expected : {0x1.a0ec9a9e88ecdp-1, 0x1.467905d15dbccp-2, 0x1.f7c0f9f61849dp-1})
    CHECK(unit.uniform() == expected);
  for (const double expected : {0x1.0927c1462b280p+1, -0x1.9fa2e2e92b504p-2, 0x1.75b138739e5c4p+1})
    CHECK(scaled.uniform(-2, 3) == expected);
}

TEST_CASE("one seed gives one stream of normal numbers", "[core][random]") {
  Random random(42);
  for (const double expected : {0x1.f679d98b6ab7bp-1, 0x1.571f94d19c30ap+0, -0x1.edae4f6954ef1p-1,
                                0x1.91df36fc7a31dp-3, 0x1.9f8e83e100ac7p-3, -0x1.1eea5740e03d7p+1})
    CHECK(random.normal() == expected);
  random = Random(42);
  std::uint64_t digest = 0;
  for (int i = 0; i < 10000; ++i)
    digest = 31 * digest + Eigen::numext::bit_cast<std::uint64_t>(random.normal());
  if (fma_is_exact())
    CHECK(digest == 3417147004180193437u);
  else
    WARN("std::fma rounds twice on this system: 10,000 normal numbers were not compared");
}

TEST_CASE("one seed gives one stream of indices, and draws again what would bias them", "[core][random]") {
  Random random(42);
  for (const Index expected : {1, 3, 0, 4, 1, 5, 8, 0, 5, 8, 4, 9}) CHECK(random.below(10) == expected);
  // Of 2^64 draws the 2^64 mod count lowest, one in four here, are drawn again; the seventh is the first of
  // them.
  constexpr std::uint64_t count = (std::uint64_t{3} << 61) + 1;
  Random large(42), raw(42);
  for (int i = 0; i < 7; ++i) {
    if (i == 6) raw();
    CHECK(large.below(static_cast<Index>(count)) == static_cast<Index>(raw() % count));
  }
}

TEST_CASE("one seed gives one shuffle", "[core][random]") {
  std::vector<int> items(10);
  std::iota(items.begin(), items.end(), 0);
  Random(42).shuffle(items);
  CHECK(items == std::vector<int>{6, 9, 7, 8, 0, 5, 3, 4, 2, 1});
  std::vector<int> none, single = {7};
  Random(42).shuffle(none);
  Random(42).shuffle(single);
  CHECK(none.empty());
  CHECK(single == std::vector<int>{7});
}

TEST_CASE("a matrix is filled with scaled normal numbers, column by column", "[core][random]") {
  Random random(7), again(7);
  Eigen::Matrix<float, 3, 2, Eigen::RowMajor> x;
  random.fill_normal(x, 0.5);
  for (Index j = 0; j < 2; ++j)
    for (Index i = 0; i < 3; ++i) CHECK(x(i, j) == static_cast<float>(0.5 * again.normal()));
}

TEST_CASE("a saved state continues the stream", "[core][random]") {
  Random random(3);
  random.normal();
  Random resumed(random.state());
  for (int i = 0; i < 100; ++i) CHECK(random.normal() == resumed.normal());
  CHECK(random.state() == resumed.state());
  CHECK(Random(3).state() != Random(4).state());
  CHECK_THROWS_WITH(Random(Random::State{}),
                    "ddl::Random: the state is zero, expected a state that Random has had");
}

TEST_CASE("uniform numbers fill their interval evenly", "[core][random]") {
  constexpr int count = 200000;
  Random random(1);
  std::vector<int> bins(16);
  double low = 1, high = 0;
  for (int i = 0; i < count; ++i) {
    const double u = random.uniform();
    low = (std::min)(low, u);
    high = (std::max)(high, u);
    ++bins.at(static_cast<std::size_t>(16 * u));
  }
  CHECK(low >= 0);
  CHECK(high < 1);
  double chi_squared = 0;
  for (const int bin : bins) chi_squared += std::pow(bin - count / 16.0, 2) / (count / 16.0);
  CHECK(chi_squared <= 37.7);  // 15 degrees of freedom, exceeded once in a thousand seeds
}

TEST_CASE("normal numbers have the moments of the normal distribution", "[core][random]") {
  constexpr int count = 400000;
  Random random(1);
  double moment[7] = {};
  for (int i = 0; i < count; ++i) {
    double power = 1;
    const double x = random.normal();
    for (double& sum : moment) sum += power / count, power *= x;
  }
  // Five standard deviations of each estimate: 5 sqrt((E x^2n - (E x^n)^2) / count).
  const double expected[7] = {1, 0, 1, 0, 3, 0, 15};
  const double variance[7] = {0, 1, 2, 15, 96, 945, 10170};
  for (int n = 0; n <= 6; ++n) {
    CAPTURE(n, moment[n]);
    CHECK(std::abs(moment[n] - expected[n]) <= 5 * std::sqrt(variance[n] / count) + 1e-9);
  }
}
