// SPDX-License-Identifier: MIT
#include "ddl/io/messages.hpp"

#include "support/catch.hpp"

using namespace ddl;

TEST_CASE("what a message quotes is short and has no control characters", "[io][messages]") {
  CHECK(detail::quoted_text("größe") == "\"größe\"");
  CHECK(detail::quoted_text(std::string_view("\0\x1f\x7f\n", 4)) == R"("\x00\x1f\x7f\x0a")");
  CHECK(detail::quoted_text(std::string(100, 'x')) == '"' + std::string(100, 'x') + '"');
  CHECK(detail::quoted_text(std::string(101, 'x')) == '"' + std::string(100, 'x') + "...\"");
}
