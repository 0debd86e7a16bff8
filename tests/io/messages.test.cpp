// SPDX-License-Identifier: MIT
#include "ddl/io/messages.hpp"

#include "support/catch.hpp"

using namespace ddl;

TEST_CASE("what a message quotes is short, in ASCII and has no control characters", "[io][messages]") {
  using detail::in_quotes;
  CHECK(in_quotes("a b") == "\"a b\"");
  CHECK(in_quotes(R"(a"b\c)") == R"("a\"b\\c")");
  CHECK(in_quotes("\xc3\xb6\xff") == R"("\xc3\xb6\xff")");
  CHECK(in_quotes(std::string_view("\0\x1f\x7f\n", 4)) == R"("\x00\x1f\x7f\x0a")");
  CHECK(in_quotes(std::string(200, 'x')) == '"' + std::string(200, 'x') + '"');
  CHECK(in_quotes(std::string(201, 'x')) == '"' + std::string(200, 'x') + "...\"");
}
