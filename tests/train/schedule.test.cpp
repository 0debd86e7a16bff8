// SPDX-License-Identifier: MIT
#include "ddl/train/schedule.hpp"

#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace ddl;

namespace {
auto about(double value) { return Catch::Approx(value).epsilon(test::identity_tolerance<double>); }
}  // namespace

TEST_CASE("a constant schedule is constant", "[train][schedule]") {
  const ConstantSchedule schedule{0.5};
  CHECK(schedule(0) == 0.5);
  CHECK(schedule(1'000'000) == 0.5);
}

TEST_CASE("the rate rises linearly to the peak and falls by half a cosine to the floor",
          "[train][schedule]") {
  const WarmupCosine schedule({.peak = 1, .floor = 0.2, .warmup = 4, .steps = 24});
  CHECK(schedule(0) == about(0.25));
  CHECK(schedule(1) == about(0.5));
  CHECK(schedule(3) == about(1));
  CHECK(schedule(4) == about(1));
  CHECK(schedule(14) == about(0.6));
  CHECK(schedule(9) == about(0.6 + 0.4 * std::sqrt(0.5)));
  CHECK(schedule(24) == about(0.2));
  CHECK(schedule(1'000'000) == about(0.2));
  for (Index step = 4; step < 24; ++step) CHECK(schedule(step + 1) < schedule(step));
  CHECK(schedule.settings().peak == 1);
}

TEST_CASE("without warm-up the first step has the peak", "[train][schedule]") {
  const WarmupCosine schedule({.peak = 3, .steps = 2});
  CHECK(schedule(0) == about(3));
  CHECK(schedule(1) == about(1.5));
  CHECK(schedule(2) == Catch::Approx(0).margin(test::identity_tolerance<double>));
}

TEST_CASE("the schedule refuses settings out of range", "[train][schedule][errors]") {
  const auto make = [](WarmupCosineSettings settings) { WarmupCosine{settings}; };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH(make({.peak = -1}), "ddl::WarmupCosine: peak is -1, expected a number of at least 0");
  CHECK_THROWS_WITH(make({.peak = nan}), "ddl::WarmupCosine: peak is nan, expected a number of at least 0");
  CHECK_THROWS_WITH(make({.peak = 1, .floor = 2}), "ddl::WarmupCosine: floor is 2, expected 0 to the peak");
  CHECK_THROWS_WITH(make({.steps = 0}), "ddl::WarmupCosine: steps is 0, expected at least 1");
  CHECK_THROWS_WITH(make({.warmup = 3, .steps = 2}), "ddl::WarmupCosine: warmup is 3, expected 0 to 2 steps");
  CHECK_THROWS_WITH(make({.warmup = -1}), "ddl::WarmupCosine: warmup is -1, expected 0 to 1 steps");
  CHECK_THROWS_AS(make({.steps = -1}), std::invalid_argument);
  const WarmupCosine schedule({.peak = 1, .warmup = 4, .steps = 24});
  CHECK_THROWS_WITH(schedule(-1), "ddl::WarmupCosine: step is -1, expected at least 0");
}
