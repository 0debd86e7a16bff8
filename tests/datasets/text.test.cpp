// SPDX-License-Identifier: MIT
#include "ddl/data/text.hpp"

#include <set>

#include "support/allocations.hpp"
#include "support/catch.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;
using Tokens = std::vector<int>;

TEST_CASE("bytes become tokens and bytes again", "[datasets][text]") {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) text += static_cast<char>(byte);
  const Tokens tokens = byte_tokens(text);
  for (int byte = 0; byte < 256; ++byte) CHECK(tokens[static_cast<std::size_t>(byte)] == byte);
  CHECK(text_of_bytes(tokens) == text);
  for (const int token : {-1, 256})
    CHECK_THROWS_WITH(text_of_bytes(Tokens{token}),
                      "ddl::text_of_bytes: a token is " + std::to_string(token) + ", expected 0 to 255");
}

TEST_CASE("characters become tokens in the order of Unicode, and characters again", "[datasets][text]") {
  const std::string text = "ba\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\na";
  const Vocabulary vocabulary(text);
  CHECK(vocabulary.size() == 6);
  CHECK(vocabulary.characters() == "\nab\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
  const Tokens tokens = vocabulary.encode(text);
  CHECK(tokens == Tokens{2, 1, 3, 4, 5, 0, 1});
  CHECK(vocabulary.decode(tokens) == text);
  const Vocabulary again(vocabulary.characters());
  CHECK(again.encode(text) == tokens);
  CHECK(Vocabulary("").size() == 0);
}

TEST_CASE("the first and last characters of each length of UTF-8 are read and written", "[datasets][text]") {
  for (const std::string text : {"\x01", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
                                 "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    const Vocabulary vocabulary(text);
    CHECK(vocabulary.size() == 1);
    CHECK(vocabulary.characters() == text);
  }
}

TEST_CASE("what is not UTF-8 is refused with its place", "[datasets][text][errors]") {
  for (const std::string bad :
       {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc3", "\xc3(", "\xe0\x9f\xbf", "\xe2\x82", "\xe2(\xa1",
        "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf0\x9f\x98", "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80", "\xf8\x88\x80\x80\x80", "\xff"}) {
    CHECK_THROWS_WITH(Vocabulary("ab" + bad, "NAME"),
                      ContainsSubstring("NAME: byte 2 is ") && ContainsSubstring(", expected UTF-8"));
    CHECK_THROWS_AS(Vocabulary("ab").encode(bad), std::runtime_error);
  }
}

TEST_CASE("a character or a token that the vocabulary lacks is refused", "[datasets][text][errors]") {
  const Vocabulary vocabulary("abc");
  CHECK_THROWS_WITH(vocabulary.encode("ab\xc3\xa4", "NAME"),
                    "NAME: byte 2 begins \"\xc3\xa4\", which is not in the vocabulary of 3 characters");
  CHECK_THROWS_AS(vocabulary.encode("A"), std::runtime_error);
  for (const int token : {-1, 3})
    CHECK_THROWS_WITH(vocabulary.decode(Tokens{token}),
                      "ddl::Vocabulary::decode: a token is " + std::to_string(token) + ", expected 0 to 2");
}

TEST_CASE("windows are pieces of the text, and their targets what follows each token", "[datasets][text]") {
  const Tokens text = {10, 11, 12, 13, 14, 15};
  TokenWindows windows{.starts = {2, 0}};
  cut_windows(text, 3, windows);
  CHECK(windows.tokens == Tokens{12, 13, 14, 10, 11, 12});
  CHECK(windows.targets == Tokens{13, 14, 15, 11, 12, 13});
  windows.starts.clear();
  cut_windows(text, 3, windows);
  CHECK(windows.tokens.empty());
}

TEST_CASE("drawn windows begin anywhere with the same probability", "[datasets][text]") {
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

TEST_CASE("windows allocate nothing after the first", "[datasets][text]") {
  const Tokens text(100, 1);
  Random random(1);
  TokenWindows windows;
  draw_windows(text, 8, 4, random, windows);
  CHECK(allocations_in([&] { draw_windows(text, 8, 4, random, windows); }) == 0);
}

TEST_CASE("windows that the text does not have are refused", "[datasets][text][errors]") {
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
