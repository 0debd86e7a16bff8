// SPDX-License-Identifier: MIT
#include "ddl/io/json.hpp"

#include "support/catch.hpp"

using namespace ddl;
using namespace std::string_literals;
using detail::parse_json;

namespace {

template <class F>
std::string problem_of(const F& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "none";
}
std::string parse_problem(const std::string& text) {
  return problem_of([&] { parse_json(text); });
}

}  // namespace

TEST_CASE("JSON is parsed within limits", "[io][json]") {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(parse_json(R"({"a":[1,2.5,"x",null,true],"b":{"a":-1}})").at("b").at("a") == -1);
  CHECK(parse_json(" 7 ") == 7);
  CHECK(parse_problem(nested(128)) == "none");
  CHECK(parse_problem(nested(129)) == "is nested deeper than 128 levels");
  CHECK(parse_problem(nested(100'000)) == "is nested deeper than 128 levels");
  CHECK(parse_problem(std::string(100'000, '[')) == "is nested deeper than 128 levels");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  CHECK(parse_problem(objects) == "is nested deeper than 128 levels");
}

TEST_CASE("a key that stands twice in an object is an error", "[io][json]") {
  CHECK(parse_problem(R"({"a":1,"b":{"a":1},"c":[{"a":1},{"a":2}]})") == "none");
  CHECK(parse_problem(R"({"a":1,"b":2,"a":1})") == R"(has the key "a" twice)");
  CHECK(parse_problem(R"({"b":{"a":1,"\u0061":2}})") == R"(has the key "a" twice)");
}

TEST_CASE("what is no JSON is said by its place", "[io][json]") {
  CHECK(parse_problem("") == "is not JSON: it ends too early");
  CHECK(parse_problem("{\"a\":") == "is not JSON: it ends too early");
  CHECK(parse_problem("{\"a\":x}") == R"(is not JSON: unexpected "x}" at byte 5)");
  CHECK(parse_problem("{\"a\":1}}") == R"(is not JSON: unexpected "}" at byte 7)");
  CHECK(parse_problem("[1e999]").starts_with("is not JSON: unexpected "));
  CHECK(parse_problem("[\"\xff\"]") == R"(is not JSON: unexpected "\xff\"]" at byte 2)");
  CHECK(parse_problem("[]\0"s) == "is not JSON: it has a zero byte");
  CHECK(parse_problem("\xef\xbb\xbf[]") == "is not JSON: it begins with a byte order mark");
}

TEST_CASE("values are taken by their kind and range", "[io][json]") {
  const auto value = parse_json(
      R"({"i":-3,"u":18446744073709551615,"f":1.5,"big":1e30,"b":true,"s":"x","n":null,"list":[1]})");
  const auto integer = [&](const char* key) {
    return problem_of([&] { detail::json_integer("here", key, detail::json_at("here", value, key)); });
  };
  CHECK(detail::json_integer("here", "i", value.at("i"), -3, -3) == -3);
  CHECK_THAT(integer("i"), Catch::Matchers::ContainsSubstring("here: i is -3, expected an integer of 0 to "));
  CHECK_THAT(integer("u"), Catch::Matchers::ContainsSubstring("u is 18446744073709551615, expected"));
  CHECK_THAT(integer("f"), Catch::Matchers::ContainsSubstring("f is 1.5, expected an integer"));
  CHECK_THAT(integer("big"), Catch::Matchers::ContainsSubstring("big is 1e+30, expected an integer"));
  CHECK_THAT(integer("b"), Catch::Matchers::ContainsSubstring("b is true, expected an integer"));
  CHECK(integer("x") == "here: x is missing, expected to be there");
  CHECK(problem_of([&] { detail::json_at("here", value.at("list"), "x"); }) ==
        "here: the value is [1], expected an object");
  CHECK(detail::json_number("here", "u", value.at("u")) == 0x1p64);
  CHECK(problem_of([&] { detail::json_number("here", "s", value.at("s")); }) ==
        "here: s is \"x\", expected a number");
  CHECK(detail::json_flag("here", "b", value.at("b")));
  CHECK(problem_of([&] { detail::json_flag("here", "n", value.at("n")); }) ==
        "here: n is null, expected true or false");
  CHECK(detail::json_text(nlohmann::json(std::string(1000, 'x'))).size() == 203);
}
