// SPDX-License-Identifier: MIT
#include "ddl/core/check.hpp"

#include <limits>

#include "support/catch.hpp"

using Catch::Matchers::ContainsSubstring;

TEST_CASE("a failed check names the place, the argument, what it was and what it should be",
          "[core][check]") {
  const Eigen::MatrixXd x(2, 3);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  struct {
    void (*check)(const Eigen::MatrixXd&, double);
    const char* message;
  } const cases[] = {
      {[](auto&, double) { ddl::fail("f", "x", "1", "2"); }, "f: x is 1, expected 2"},
      {[](auto& m, double) { ddl::check_shape("f", "X", m, 3, 3); }, "f: X is 2 x 3, expected 3 x 3"},
      {[](auto& m, double) { ddl::check_shape("f", "X", m, 2, 4); }, "f: X is 2 x 3, expected 2 x 4"},
      {[](auto&, double) { ddl::check_positive("f", "n", 0); }, "f: n is 0, expected at least 1"},
      {[](auto&, double) { ddl::check_positive("f", "n", -7); }, "f: n is -7, expected at least 1"},
      {[](auto&, double) { ddl::check_fixed("f", "d", 3, 4); }, "f: d is 3, expected 4 (fixed)"},
      {[](auto&, double bad) { ddl::check_finite("f", "b", bad); }, "f: b is nan, expected a finite number"},
      {[](auto&, double) { ddl::check_range("f", "b", 2.5, false, "in (0, 2)"); }, "f: b is 2.5"},
      {[](auto&, double bad) { ddl::check_range("f", "b", bad, true, "in (0, 2)"); },
       "f: b is nan, expected in (0, 2)"},
  };
  for (const auto& c : cases) CHECK_THROWS_WITH(c.check(x, nan), ContainsSubstring(c.message));
}

TEST_CASE("the text of a number reads back as the same number", "[core][check]") {
  for (const double value : {0.0, -0.0, 1.0, -2.5, 0.1, 1e-5, 1000.0, 123456.0, 1234567.0, 1e300, 5e-324,
                             1 / 3.0, -0.1 * 3, 1.7976931348623157e308})
    for (const std::string& text : {ddl::number_text(value), ddl::detail::printed_text(value)}) {
      CAPTURE(value, text);
      CHECK(std::strtod(text.c_str(), nullptr) == value);
    }
  const auto& printed = ddl::detail::printed_text;
  CHECK(printed(0.1) == "0.1");
  CHECK(printed(-2.5) == "-2.5");
  CHECK(printed(1000) == "1000");
  CHECK(printed(0.1 * 3) == "0.30000000000000004");
  CHECK(printed(std::numeric_limits<double>::infinity()) == "inf");
  CHECK(printed(std::numeric_limits<double>::quiet_NaN()) == "nan");
}

TEST_CASE("a check that holds is silent", "[core][check]") {
  const Eigen::MatrixXd x(2, 3);
  CHECK_NOTHROW(ddl::check_shape("f", "X", x, 2, 3));
  CHECK_NOTHROW(ddl::check_shape("f", "X", x.transpose(), 3, 2));
  CHECK_NOTHROW(ddl::check_positive("f", "n", 1));
  CHECK_NOTHROW(ddl::check_fixed("f", "d", 3, 3));
  CHECK_NOTHROW(ddl::check_fixed("f", "d", 3, ddl::Dynamic));
  CHECK_NOTHROW(ddl::check_finite("f", "b", -1e300));
  CHECK_NOTHROW(ddl::check_range("f", "b", 1, true, "anything"));
}
