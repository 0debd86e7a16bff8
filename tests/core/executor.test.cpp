// SPDX-License-Identifier: MIT
#include "ddl/core/executor.hpp"

#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/executors.hpp"

using ddl::Index;
using ddl::test::Backwards;
using ddl::test::Counting;

TEST_CASE("the serial executor runs every piece once, in order", "[core][executor]") {
  STATIC_REQUIRE(ddl::Executor<ddl::Serial>);
  STATIC_REQUIRE(ddl::Executor<Backwards>);
  STATIC_REQUIRE_FALSE(ddl::Executor<int>);
  std::vector<Index> seen;
  ddl::Serial().for_each(3, [&](Index i) { seen.push_back(i); });
  CHECK(seen == std::vector<Index>{0, 1, 2});
  ddl::Serial().for_each(0, [&](Index i) { seen.push_back(i); });
  CHECK(seen.size() == 3);
}

TEMPLATE_TEST_CASE("ranges cover every index once and never exceed the grain", "[core][executor]",
                   ddl::Serial, Backwards) {
  for (const Index total : {0, 1, 5, 16, 17, 1000})
    for (const Index grain : {1, 3, 16, 5000}) {
      std::vector<int> visits(static_cast<std::size_t>(total));
      bool fits = true;
      ddl::for_ranges(TestType(), total, grain, [&](Index begin, Index end) {
        fits = fits && begin < end && end - begin <= grain;
        for (Index i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
      });
      CAPTURE(total, grain);
      CHECK(fits);
      CHECK(visits == std::vector<int>(static_cast<std::size_t>(total), 1));
    }
}

TEST_CASE("a sum over ranges has the same bits in any order of the pieces", "[core][executor]") {
  const auto harmonic = [](Index begin, Index end) {
    double sum = 0;
    for (Index i = begin; i < end; ++i) sum += 1 / static_cast<double>(i + 1);
    return sum;
  };
  for (const Index total : {0, 1, 255, 256, 257, 16384, 16385, 1000000}) {
    const double sum = ddl::sum_ranges(ddl::Serial(), total, 1, harmonic);
    CAPTURE(total);
    CHECK(sum == ddl::sum_ranges(Backwards(), total, 1, harmonic));
    CHECK(sum == Catch::Approx(harmonic(0, total)).epsilon(1e-12));
  }
}

TEMPLATE_TEST_CASE("a loop throws what the lowest piece that throws threw", "[core][executor]", ddl::Serial,
                   Backwards) {
  ddl::test::check_exceptions(TestType());
}

TEMPLATE_TEST_CASE("ranges and sums throw what their lowest range threw", "[core][executor]", ddl::Serial,
                   Backwards) {
  const auto fails = [](Index begin, Index) -> double {
    if (begin >= 512) throw begin;
    return 0;
  };
  const auto begin_of_failure = [](const auto& f) {
    try {
      f();
    } catch (Index begin) {
      return begin;
    }
    return Index(-1);
  };
  CHECK(begin_of_failure([&] { ddl::for_ranges(TestType(), 1000, 100, fails); }) == 600);
  CHECK(begin_of_failure([&] { ddl::sum_ranges(TestType(), 2000, 100, fails); }) == 512);
}

TEST_CASE("a sum that takes less time than waking a thread stays on the calling thread", "[core][executor]") {
  int loops = 0;
  const Counting executor{loops};
  const auto nothing = [](Index, Index) { return 0.0; };
  const Index least = 2 * ddl::scalars_per_piece;
  ddl::sum_ranges(executor, least - 1, 1, nothing);
  ddl::sum_ranges(executor, 1000, (least - 1) / 1000, nothing);
  CHECK(loops == 0);
  ddl::sum_ranges(executor, least, 1, nothing);
  ddl::sum_ranges(executor, 1024, least / 1024, nothing);
  CHECK(loops == 2);
}

TEST_CASE("a piece has at least one column, whatever the height", "[core][executor]") {
  for (const Index rows : {0, 1, 64, 16383, 16384, 1000000}) CHECK(ddl::columns_per_piece(rows) >= 1);
  CHECK(ddl::columns_per_piece(64) == 256);
  CHECK(ddl::rows_per_piece(64) == 256);
  CHECK(ddl::rows_per_piece(100000) == 64);
}
