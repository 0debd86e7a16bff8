// SPDX-License-Identifier: MIT
#include "ddl/io/text.hpp"

#include "support/catch.hpp"

using namespace ddl;
using Catch::Matchers::ContainsSubstring;
using Tokens = std::vector<int>;

TEST_CASE("bytes become tokens and bytes again", "[io][text]") {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) text += static_cast<char>(byte);
  const Tokens tokens = byte_tokens(text);
  for (int byte = 0; byte < 256; ++byte) CHECK(tokens[static_cast<std::size_t>(byte)] == byte);
  CHECK(text_of_bytes(tokens) == text);
  for (const int token : {-1, 256})
    CHECK_THROWS_WITH(text_of_bytes(Tokens{token}),
                      "ddl::text_of_bytes: a token is " + std::to_string(token) + ", expected 0 to 255");
}

TEST_CASE("characters become tokens in the order of Unicode, and characters again", "[io][text]") {
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

TEST_CASE("the first and last characters of each length of UTF-8 are read and written", "[io][text]") {
  for (const std::string text : {"\x01", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
                                 "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    const Vocabulary vocabulary(text);
    CHECK(vocabulary.size() == 1);
    CHECK(vocabulary.characters() == text);
  }
}

TEST_CASE("what is not UTF-8 is refused with its place", "[io][text][errors]") {
  for (const std::string bad :
       {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc3", "\xc3(", "\xe0\x9f\xbf", "\xe2\x82", "\xe2(\xa1",
        "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf0\x9f\x98", "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80", "\xf8\x88\x80\x80\x80", "\xff"}) {
    CHECK_THROWS_WITH(Vocabulary("ab" + bad, "NAME"),
                      ContainsSubstring("NAME: byte 2 is ") && ContainsSubstring(", expected UTF-8"));
    CHECK_THROWS_AS(Vocabulary("ab").encode(bad), std::runtime_error);
  }
}

TEST_CASE("a character or a token that the vocabulary lacks is refused", "[io][text][errors]") {
  const Vocabulary vocabulary("abc");
  CHECK_THROWS_WITH(vocabulary.encode("ab\xc3\xa4", "NAME"),
                    "NAME: byte 2 begins \"\xc3\xa4\", which is not in the vocabulary of 3 characters");
  CHECK_THROWS_AS(vocabulary.encode("A"), std::runtime_error);
  for (const int token : {-1, 3})
    CHECK_THROWS_WITH(vocabulary.decode(Tokens{token}),
                      "ddl::Vocabulary::decode: a token is " + std::to_string(token) + ", expected 0 to 2");
}
