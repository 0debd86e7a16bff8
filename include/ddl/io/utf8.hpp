// SPDX-License-Identifier: MIT
/// @file  Characters in UTF-8, read and written.
/// @source RFC 3629, "UTF-8, a transformation format of ISO 10646"
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "ddl/core/requirements.hpp"

namespace ddl::detail {

struct Utf8Character {
  char32_t code;      ///< the Unicode code point
  std::size_t bytes;  ///< 1 to 4
};

/// The character that begins the text. Nothing if the text does not begin with valid UTF-8: a character in
/// its shortest form that is no surrogate and at most U+10FFFF.
inline std::optional<Utf8Character> decode_utf8(std::string_view text) noexcept {
  if (text.empty()) return std::nullopt;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  const std::size_t length = lead < 0x80             ? 1
                             : (lead & 0xe0) == 0xc0 ? 2
                             : (lead & 0xf0) == 0xe0 ? 3
                             : (lead & 0xf8) == 0xf0 ? 4
                                                     : 0;
  if (length == 0 || length > text.size()) return std::nullopt;
  char32_t code = length == 1 ? lead : lead & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return std::nullopt;
    code = code << 6 | (byte(i) & 0x3fu);
  }
  constexpr std::array<char32_t, 5> least = {0, 0, 0x80, 0x800, 0x10000};
  if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return std::nullopt;
  return Utf8Character{code, length};
}

inline void append_utf8(std::string& text, char32_t character) {
  const auto rest = [&](int shift) { text += static_cast<char>(0x80 | (character >> shift & 0x3f)); };
  if (character < 0x80) {
    text += static_cast<char>(character);
  } else if (character < 0x800) {
    text += static_cast<char>(0xc0 | character >> 6);
    rest(0);
  } else if (character < 0x10000) {
    text += static_cast<char>(0xe0 | character >> 12);
    rest(6);
    rest(0);
  } else {
    text += static_cast<char>(0xf0 | character >> 18);
    rest(12);
    rest(6);
    rest(0);
  }
}

}  // namespace ddl::detail
