// SPDX-License-Identifier: MIT
/// @file  Errors. What a caller can get wrong throws std::invalid_argument at the boundary, naming the
/// argument, what it was and what it should have been; what only the library can get wrong is an
/// eigen_assert.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "ddl/core/scalar.hpp"

namespace ddl {

// What makes an error's message is never inlined: checks stand in every function of the library.

/// Throws "where: what is GIVEN, expected EXPECTED".
[[noreturn]] EIGEN_DONT_INLINE inline void fail(std::string_view where, std::string_view what,
                                                std::string_view given, std::string_view expected) {
  std::string text;
  for (const std::string_view part : {where, std::string_view(": "), what, std::string_view(" is "), given,
                                      std::string_view(", expected "), expected})
    text += part;
  throw std::invalid_argument(text);
}

/// "3 x 4", as messages write a shape.
EIGEN_DONT_INLINE inline std::string shape_text(Index rows, Index cols) {
  return std::to_string(rows) + " x " + std::to_string(cols);
}

namespace detail {

[[noreturn]] EIGEN_DONT_INLINE inline void fail_shape(const char* where, const char* what, Index rows,
                                                      Index cols, Index expected_rows, Index expected_cols) {
  fail(where, what, shape_text(rows, cols), shape_text(expected_rows, expected_cols));
}

}  // namespace detail

/// Checks a shape.
/// @throws std::invalid_argument unless x is rows x cols.
template <class Derived>
void check_shape(const char* where, const char* what, const Eigen::EigenBase<Derived>& x, Index rows,
                 Index cols) {
  if (x.rows() != rows || x.cols() != cols) detail::fail_shape(where, what, x.rows(), x.cols(), rows, cols);
}

/// Checks a size.
/// @throws std::invalid_argument unless the value is at least 1.
EIGEN_DONT_INLINE inline void check_positive(const char* where, const char* what, Index value) {
  if (value < 1) fail(where, what, std::to_string(value), "at least 1");
}

/// A size given at run time must agree with one fixed at compile time.
EIGEN_DONT_INLINE inline void check_fixed(const char* where, const char* what, Index value, int fixed) {
  if (fixed != Dynamic && value != fixed)
    fail(where, what, std::to_string(value), std::to_string(fixed) + " (fixed)");
}

namespace detail {

/// A short text that reads back as the same number, by printf.
inline std::string printed_text(double value) {
  std::array<char, 32> text{};
  for (int digits = 6; digits <= 17; ++digits) {
    std::snprintf(text.data(), text.size(), "%.*g", digits, value);
    if (std::strtod(text.data(), nullptr) == value) break;
  }
  std::replace(text.begin(), text.end(), ',', '.');  // a decimal comma of the locale
  return text.data();
}

}  // namespace detail

/// The shortest text that reads back as the same number; not always the shortest before libc++ 15, which
/// lacks std::to_chars of a double.
inline std::string number_text(double value) {
#ifdef __cpp_lib_to_chars
  std::array<char, 32> text{};
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
#else
  return detail::printed_text(value);
#endif
}

/// Checks a number.
/// @throws std::invalid_argument if the value is NaN or infinite.
EIGEN_DONT_INLINE inline void check_finite(const char* where, const char* what, double value) {
  if (!is_finite(value)) fail(where, what, number_text(value), "a finite number");
}

/// Written so that NaN fails too.
EIGEN_DONT_INLINE inline void check_range(const char* where, const char* what, double value, bool inside,
                                          const char* expected) {
  if (!is_finite(value) || !inside) fail(where, what, number_text(value), expected);
}

}  // namespace ddl
