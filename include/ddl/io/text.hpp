// SPDX-License-Identifier: MIT
/// @file  Plain text as tokens, one for each byte or each character.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ddl/core/check.hpp"
#include "ddl/io/messages.hpp"
#include "ddl/io/utf8.hpp"

namespace ddl {

/// Every byte is a token, 0 to 255. The text of a file is FileContents(path).text().
inline std::vector<int> byte_tokens(std::string_view text) {
  std::vector<int> tokens;
  tokens.reserve(text.size());
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

/// The text whose bytes these tokens are: the inverse of byte_tokens. @throws std::invalid_argument if a
/// token is no byte.
inline std::string text_of_bytes(std::span<const int> tokens) {
  std::string text;
  text.reserve(tokens.size());
  for (const int token : tokens) {
    if (token < 0 || token > 255) fail("ddl::text_of_bytes", "a token", std::to_string(token), "0 to 255");
    text += static_cast<char>(token);
  }
  return text;
}

namespace detail {

/// The character that begins at `at`, which is moved behind it. @throws FileError if there is none.
inline char32_t next_character(std::string_view text, std::size_t& at, const std::string& file) {
  const auto character = decode_utf8(text.substr(at));
  if (!character)
    fail_file(file, "byte " + std::to_string(at) + " is " +
                        std::to_string(static_cast<unsigned char>(text[at])) + ", expected UTF-8");
  at += character->bytes;
  return character->code;
}

}  // namespace detail

/// A token for each character that a text has, in the order of Unicode. The vocabulary of characters() is
/// this one again: that text is all there is to save.
class Vocabulary {
 public:
  Vocabulary() = default;
  /// The vocabulary of the characters in this text, which is UTF-8; `file` is what errors call it.
  /// @throws FileError if it is not UTF-8.
  explicit Vocabulary(std::string_view text, const std::string& file = "text") {
    for (std::size_t at = 0; at < text.size();) characters_ += detail::next_character(text, at, file);
    std::sort(characters_.begin(), characters_.end());
    characters_.erase(std::unique(characters_.begin(), characters_.end()), characters_.end());
    characters_.shrink_to_fit();
  }

  int size() const noexcept { return static_cast<int>(characters_.size()); }  ///< the number of characters

  /// All of them as UTF-8.
  std::string characters() const {
    std::string text;
    for (const char32_t character : characters_) detail::append_utf8(text, character);
    return text;
  }

  /// The token of each character of a text.
  /// @throws FileError if the text is not UTF-8 or has a character that is not in the vocabulary.
  std::vector<int> encode(std::string_view text, const std::string& file = "text") const {
    std::vector<int> tokens;
    tokens.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t begin = at;
      const char32_t character = detail::next_character(text, at, file);
      const auto found = std::lower_bound(characters_.begin(), characters_.end(), character);
      if (found == characters_.end() || *found != character)
        detail::fail_file(file, "byte " + std::to_string(begin) + " begins " +
                                    detail::in_quotes(text.substr(begin, at - begin)) +
                                    ", which is not in the vocabulary of " + std::to_string(size()) +
                                    " characters");
      tokens.push_back(static_cast<int>(found - characters_.begin()));
    }
    return tokens;
  }

  /// The text of these tokens: the inverse of encode.
  /// @throws std::invalid_argument if there is no such token.
  std::string decode(std::span<const int> tokens) const {
    std::string text;
    for (const int token : tokens) {
      if (token < 0 || token >= size())
        fail("ddl::Vocabulary::decode", "a token", std::to_string(token),
             "0 to " + std::to_string(size() - 1));
      detail::append_utf8(text, characters_[static_cast<std::size_t>(token)]);
    }
    return text;
  }

 private:
  std::u32string characters_;
};

}  // namespace ddl
