// SPDX-License-Identifier: MIT
#include "../../examples/automata.hpp"

#include <set>

#include "support/catch.hpp"

using automata::Automaton;

namespace {

int run(const Automaton& automaton, const std::vector<int>& tokens) {
  int state = 0;
  for (const int token : tokens) state = automaton.step(state, token);
  return state;
}

}  // namespace

TEST_CASE("the groups of permutations are groups of the right size", "[examples][automata]") {
  const auto check = [](const std::string& name, int size, bool commutes) {
    CAPTURE(name);
    const Automaton group = automata::named(name);
    REQUIRE(group.states == size);
    REQUIRE(group.tokens == size);
    int associative = 0, commuting = 0;
    for (int a = 0; a < size; ++a) {
      CHECK(group.step(0, a) == a);
      CHECK(group.step(a, 0) == a);
      std::set<int> reached;
      for (int b = 0; b < size; ++b) {
        reached.insert(group.step(a, b));
        commuting += group.step(a, b) == group.step(b, a);
        for (int c = 0; c < size; ++c)
          associative += group.step(group.step(a, b), c) == group.step(a, group.step(b, c));
      }
      CHECK(static_cast<int>(reached.size()) == size);
    }
    CHECK(associative == size * size * size);
    CHECK((commuting == size * size) == commutes);
  };
  check("parity", 2, true);
  check("S3", 6, false);
  check("A5", 60, false);
  check("S5", 120, false);
}

TEST_CASE("the state is the product of the tokens", "[examples][automata]") {
  CHECK(run(automata::named("parity"), {1, 0, 1, 1}) == 1);
  CHECK(run(automata::named("parity"), {1, 0, 1, 1, 0, 1}) == 0);
  // In lexicographic order: 012 021 102 120 201 210. Swapping 1 and 2, then 0 and 1, takes 0 to 1, 1 to 2, 2
  // to 0.
  CHECK(run(automata::named("S3"), {1, 2}) == 3);
  CHECK(run(automata::named("S3"), {2, 1}) == 4);
  CHECK(run(automata::named("S3"), {3, 3, 3}) == 0);
}

TEST_CASE("arithmetic mod 5 goes from left to right", "[examples][automata]") {
  const Automaton mod5 = automata::named("mod5");
  CHECK(mod5.states == 5);
  CHECK(mod5.tokens == 15);
  const auto plus = [](int x) { return x; };
  const auto minus = [](int x) { return 5 + x; };
  const auto times = [](int x) { return 10 + x; };
  CHECK(run(mod5, {plus(3), plus(4)}) == 2);
  CHECK(run(mod5, {plus(3), minus(4)}) == 4);
  CHECK(run(mod5, {plus(3), plus(4), times(3), minus(2)}) == 4);
  CHECK(run(mod5, {plus(3), times(0)}) == 0);
}

TEST_CASE("guessing gets the most frequent state right", "[examples][automata]") {
  CHECK(most_frequent(automata::named("parity")) == Catch::Approx(0.5));
  CHECK(most_frequent(automata::named("A5")) == Catch::Approx(1.0 / 60));
  // p = 2/3 1/5 + 1/3 (p + (1 - p) / 5)
  CHECK(most_frequent(automata::named("mod5")) == Catch::Approx(3.0 / 11));
}

TEST_CASE("a task that is unknown is refused", "[examples][automata]") {
  CHECK_THROWS_WITH(automata::named("S4"), "the task is S4, expected parity, mod5, S3, S5 or A5");
}
