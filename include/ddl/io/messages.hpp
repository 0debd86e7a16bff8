// SPDX-License-Identifier: MIT
/// @file  What readers say when a file is wrong.
#pragma once

#include <string>
#include <string_view>

#include "ddl/io/file.hpp"

namespace ddl::detail {

[[noreturn]] inline void fail_file(const std::string& file, const std::string& problem) {
  throw FileError(file, problem);
}

/// A piece of a file for messages: in quotes, in ASCII without control characters, and cut after 200 bytes. All other
/// bytes are written as \xNN.
inline std::string in_quotes(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown = "\"";
  for (const char c : text.substr(0, 200)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      shown.append("\\x").append(1, digits[byte / 16u]).append(1, digits[byte % 16u]);
      continue;
    }
    if (c == '"' || c == '\\') shown += '\\';
    shown += c;
  }
  return shown + (text.size() > 200 ? "...\"" : "\"");
}

}  // namespace ddl::detail
