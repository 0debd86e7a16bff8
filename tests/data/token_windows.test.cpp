// SPDX-License-Identifier: MIT
#include "ddl/data/token_windows.hpp"

#include <limits>

#include "support/allocations.hpp"
#include "support/catch.hpp"

using namespace ddl;
using namespace ddl::test;
using Tokens = std::vector<int>;

TEST_CASE("windows are pieces of the text, and their targets what follows each token",
          "[data][token_windows]") {
  const Tokens text = {10, 11, 12, 13, 14, 15};
  TokenWindows windows{.starts = {2, 0}};
  cut_windows(text, 3, windows);
  CHECK(windows.tokens == Tokens{12, 13, 14, 10, 11, 12});
  CHECK(windows.targets == Tokens{13, 14, 15, 11, 12, 13});
  windows.starts.clear();
  cut_windows(text, 3, windows);
  CHECK(windows.tokens.empty());
}

TEST_CASE("drawn windows begin anywhere with the same probability", "[data][token_windows]") {
  Tokens text(10);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<int>(i);
  Random random(5);
  TokenWindows windows;
  draw_windows(text, 4, 6000, random, windows);
  CHECK(windows.tokens.size() == 24000);
  std::vector<int> counts(6);
  for (const Index start : windows.starts) ++counts.at(static_cast<std::size_t>(start));
  for (const int count : counts) CHECK(std::abs(count - 1000) < 150);  // five deviations
  for (std::size_t i = 0; i < windows.tokens.size(); ++i)
    if (windows.targets[i] != windows.tokens[i] + 1 ||
        windows.tokens[i] != windows.starts[i / 4] + static_cast<int>(i % 4))
      FAIL("at " << i);

  TokenWindows again;
  Random same(5);
  draw_windows(text, 4, 6000, same, again);
  CHECK(again.starts == windows.starts);
  draw_windows(text, 9, 3, same, again);  // the only window there is
  CHECK(again.starts == std::vector<Index>(3, 0));
  CHECK(again.tokens.size() == 27);
}

TEST_CASE("windows allocate nothing after the first", "[data][token_windows]") {
  const Tokens text(100, 1);
  Random random(1);
  TokenWindows windows;
  draw_windows(text, 8, 4, random, windows);
  CHECK(allocations_in([&] { draw_windows(text, 8, 4, random, windows); }) == 0);
}

TEST_CASE("windows that the text does not have are refused", "[data][token_windows][errors]") {
  const Tokens text(6, 1);
  Random random(1);
  TokenWindows windows{.starts = {0}, .tokens = {7}};
  CHECK_THROWS_WITH(draw_windows(text, 6, 1, random, windows),
                    "ddl::draw_windows: length is 6, expected less than 6, the number of tokens in the text");
  CHECK_THROWS_WITH(draw_windows(text, 0, 1, random, windows),
                    "ddl::draw_windows: length is 0, expected at least 1");
  CHECK_THROWS_WITH(draw_windows(text, 2, 0, random, windows),
                    "ddl::draw_windows: count is 0, expected at least 1");
  CHECK_THROWS_AS(cut_windows(Tokens{}, 1, windows), std::invalid_argument);
  const Index start = GENERATE(Index{-1}, Index{3}, std::numeric_limits<Index>::max());
  windows.starts = {0, start};
  CHECK_THROWS_WITH(cut_windows(text, 3, windows),
                    "ddl::cut_windows: a start is " + std::to_string(start) + ", expected 0 to 2");
  CHECK(windows.tokens == Tokens{7});
}
