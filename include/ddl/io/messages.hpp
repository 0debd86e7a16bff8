// SPDX-License-Identifier: MIT
/// @file  What readers say when a file is wrong.
#pragma once

#include <string>
#include <string_view>

#include "ddl/io/file.hpp"
#include "ddl/io/utf8.hpp"

namespace ddl::detail {

[[noreturn]] inline void fail_file(const std::string& file, const std::string& problem) {
  throw FileError(file, problem);
}

/// A piece of a file for messages: in quotes, as UTF-8, and cut after at most 200 bytes. Control characters
/// and bytes that are not UTF-8 are written as \xNN.
inline std::string in_quotes(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  constexpr std::size_t most = 200;
  std::string shown = "\"";
  std::size_t at = 0;
  while (at < text.size()) {
    const auto character = decode_utf8(text.substr(at));
    const std::size_t bytes = character ? character->bytes : 1;
    if (at + bytes > most) break;
    const char32_t code = character ? character->code : 0;
    if (code < 0x20 || (code >= 0x7f && code < 0xa0)) {
      for (const char c : text.substr(at, bytes)) {
        const auto byte = static_cast<unsigned char>(c);
        shown.append("\\x").append(1, digits[byte / 16u]).append(1, digits[byte % 16u]);
      }
    } else {
      if (code == '"' || code == '\\') shown += '\\';
      shown += text.substr(at, bytes);
    }
    at += bytes;
  }
  return shown + (at < text.size() ? "...\"" : "\"");
}

}  // namespace ddl::detail
