// SPDX-License-Identifier: MIT
/// @file  Windows of a text's tokens, and the tokens to predict, for a language model.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "ddl/core/check.hpp"
#include "ddl/core/random.hpp"

namespace ddl {

/// B windows of T tokens, one after the other, and for each token the one that follows it in the text: what a
/// language model is to predict. Nothing is allocated after the first use with the same sizes.
struct TokenWindows {
  std::vector<Index> starts = {};  ///< B: where in the text each window begins
  std::vector<int> tokens = {};    ///< B T
  std::vector<int> targets = {};   ///< B T
};

namespace detail {

inline void check_window(const char* where, std::span<const int> text, Index length) {
  check_positive(where, "length", length);
  if (length >= static_cast<Index>(text.size()))
    fail(where, "length", std::to_string(length),
         "less than " + std::to_string(text.size()) + ", the number of tokens in the text");
}

}  // namespace detail

/// Fills tokens and targets with windows of `length` tokens that begin at windows.starts.
/// @throws std::invalid_argument if a window and the token after it do not lie within the text.
inline void cut_windows(std::span<const int> text, Index length, TokenWindows& windows) {
  constexpr const char* where = "ddl::cut_windows";
  detail::check_window(where, text, length);
  const Index last = static_cast<Index>(text.size()) - length - 1;
  for (const Index start : windows.starts)
    if (start < 0 || start > last)
      fail(where, "a start", std::to_string(start), "0 to " + std::to_string(last));
  windows.tokens.clear();
  windows.targets.clear();
  for (const Index start : windows.starts) {
    const auto begin = text.begin() + start;
    windows.tokens.insert(windows.tokens.end(), begin, begin + length);
    windows.targets.insert(windows.targets.end(), begin + 1, begin + length + 1);
  }
}

/// `count` windows of `length` tokens, each beginning anywhere in the text with the same probability.
/// @throws std::invalid_argument if count or length is below 1, or the text has no more than `length` tokens.
inline void draw_windows(std::span<const int> text, Index length, Index count, Random& random,
                         TokenWindows& windows) {
  constexpr const char* where = "ddl::draw_windows";
  check_positive(where, "count", count);
  detail::check_window(where, text, length);
  windows.starts.resize(static_cast<std::size_t>(count));
  for (Index& start : windows.starts) start = random.below(static_cast<Index>(text.size()) - length);
  cut_windows(text, length, windows);
}

}  // namespace ddl
