// SPDX-License-Identifier: MIT
#include "ddl/model/sampling.hpp"

#include <limits>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// log of 0.1, 0.4, 0.15, 0.05, 0.3
Vector<double> logits() {
  Vector<double> shares(5);
  shares << 0.1, 0.4, 0.15, 0.05, 0.3;
  return shares.array().log() + 3;
}

/// How often each of the five tokens comes in many draws.
Vector<double> shares_of(const SamplingSettings& settings, const Vector<double>& of = logits()) {
  constexpr int draws = 200000;
  Sampler sampler(settings);
  Random random(5);
  Vector<double> counts = Vector<double>::Zero(of.size());
  for (int i = 0; i < draws; ++i) ++counts[sampler(of, random)];
  return counts / draws;
}

void check_shares(const SamplingSettings& settings, const std::vector<double>& weights) {
  Vector<double> expected = Eigen::Map<const Vector<double>>(weights.data(), 5);
  expected /= expected.sum();
  const Vector<double> given = shares_of(settings);
  for (Index i = 0; i < 5; ++i) {
    CAPTURE(i, given[i], expected[i]);
    CHECK((given[i] == 0) == (expected[i] == 0));
    CHECK(std::abs(given[i] - expected[i]) <= 0.005);  // four deviations
  }
}

}  // namespace

TEST_CASE("tokens come as often as softmax says", "[model][sampling]") {
  check_shares({}, {0.1, 0.4, 0.15, 0.05, 0.3});
  check_shares({.temperature = 0.5}, {0.01, 0.16, 0.0225, 0.0025, 0.09});
}

TEST_CASE("top-k leaves the k most likely tokens", "[model][sampling]") {
  check_shares({.top_k = 3}, {0, 0.4, 0.15, 0, 0.3});
  check_shares({.top_k = 1}, {0, 1, 0, 0, 0});
  check_shares({.top_k = 9}, {0.1, 0.4, 0.15, 0.05, 0.3});
}

TEST_CASE("top-p leaves the fewest tokens that have the share", "[model][sampling]") {
  check_shares({.top_p = 0.39}, {0, 1, 0, 0, 0});
  check_shares({.top_p = 0.41}, {0, 0.4, 0, 0, 0.3});
  check_shares({.top_p = 0.9}, {0.1, 0.4, 0.15, 0, 0.3});
  check_shares({.top_k = 3, .top_p = 0.6}, {0, 0.4, 0, 0, 0.3});  // 0.6 of 0.85
}

TEST_CASE("a temperature of 0 is the most likely token, and of equals the first", "[model][sampling]") {
  Sampler greedy({.temperature = 0});
  Random random(1);
  const auto state = random.state();
  CHECK(greedy(logits(), random) == 1);
  CHECK(greedy(Vector<float>::Constant(4, -2), random) == 0);
  CHECK(random.state() == state);
}

TEST_CASE("a logit of minus infinity is never drawn", "[model][sampling]") {
  Vector<double> masked = logits();
  masked[1] = -infinity;
  CHECK(shares_of({}, masked)[1] == 0);
}

TEST_CASE("a seed gives one text, and drawing allocates nothing after the first", "[model][sampling]") {
  Sampler one({.top_k = 4, .top_p = 0.95}), other = one;
  Random random(3), same(3);
  const Vector<double> from = logits();
  for (int i = 0; i < 100; ++i) CHECK(one(from, random) == other(from, same));
  CHECK(allocations_in([&] { one(from, random); }) == 0);
}

TEST_CASE("the sampler refuses what is out of range", "[model][sampling][errors]") {
  CHECK_THROWS_WITH(Sampler({.temperature = -1}),
                    "ddl::Sampler: temperature is -1, expected a number of at least 0");
  CHECK_THROWS_WITH(Sampler({.top_p = 0}),
                    "ddl::Sampler: top_p is 0, expected a number above 0 and at most 1");
  CHECK_THROWS_WITH(Sampler({.top_k = 0}), "ddl::Sampler: top_k is 0, expected at least 1");
  CHECK_THROWS_WITH(Sampler({.top_k = -1}), "ddl::Sampler: top_k is -1, expected at least 1");
  Sampler sampler;
  Random random;
  Vector<double> wrong = logits();
  wrong[2] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH(sampler(wrong, random), "ddl::Sampler: a logit is nan, expected a number");
  wrong[2] = infinity;
  CHECK_THROWS_WITH(sampler(wrong, random), "ddl::Sampler: a logit is inf, expected a number");
  CHECK_THROWS_WITH(sampler(Vector<double>::Constant(3, -infinity), random),
                    "ddl::Sampler: the largest logit is -inf, expected a finite number");
  CHECK_THROWS_WITH(sampler(Vector<double>(), random),
                    "ddl::Sampler: the number of logits is 0, expected at least 1");
}
