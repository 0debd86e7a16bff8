// SPDX-License-Identifier: MIT
/// @file  What the readers of data say when a file is wrong.
#pragma once

#include <string>
#include <string_view>

#include "ddl/io/file.hpp"

namespace ddl::detail {

[[noreturn]] inline void fail_file(const std::string& file, const std::string& problem) {
  throw FileError(file, problem);
}

/// A piece of a file for messages: in quotes, without control characters, cut if it is long.
inline std::string quoted_text(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown = "\"";
  for (const char c : text.substr(0, 100)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f)
      shown += c;
    else
      shown.append("\\x").append(1, digits[byte / 16u]).append(1, digits[byte % 16u]);
  }
  return shown + (text.size() > 100 ? "...\"" : "\"");
}

}  // namespace ddl::detail
