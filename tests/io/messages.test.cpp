// SPDX-License-Identifier: MIT
#include "ddl/io/messages.hpp"

#include "support/catch.hpp"

using namespace ddl;

TEST_CASE("what a message quotes is short, UTF-8 and has no control characters", "[io][messages]") {
  using detail::in_quotes;
  CHECK(in_quotes("a b") == "\"a b\"");
  CHECK(in_quotes(R"(a"b\c)") == R"("a\"b\\c")");
  CHECK(in_quotes("\xc3\xb6 \xe2\x82\xac \xf0\x9f\x98\x80") == "\"\xc3\xb6 \xe2\x82\xac \xf0\x9f\x98\x80\"");
  CHECK(in_quotes("\xc3\xb6\xff\xc3") == "\"\xc3\xb6\\xff\\xc3\"");
  CHECK(in_quotes("\xc0\xaf\xed\xa0\x80") ==
        R"("\xc0\xaf\xed\xa0\x80")");  // not the shortest form; a surrogate
  CHECK(in_quotes("\xc2\x80\xc2\x9f\xc2\xa0") ==
        "\"\\xc2\\x80\\xc2\\x9f\xc2\xa0\"");  // U+0080 to U+009F are control
  CHECK(in_quotes(std::string_view("\0\x1f\x7f\n", 4)) == R"("\x00\x1f\x7f\x0a")");
  CHECK(in_quotes(std::string(200, 'x')) == '"' + std::string(200, 'x') + '"');
  CHECK(in_quotes(std::string(201, 'x')) == '"' + std::string(200, 'x') + "...\"");
  CHECK(in_quotes(std::string(199, 'x') + "\xc3\xb6") ==
        '"' + std::string(199, 'x') + "...\"");  // no half character
}
