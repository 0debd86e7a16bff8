// SPDX-License-Identifier: MIT
/// @file  JSON from files, which nobody vouches for: parsed within limits, its values taken by kind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "ddl/core/check.hpp"
#include "ddl/io/file.hpp"
#include "ddl/io/messages.hpp"

namespace ddl::detail {

inline constexpr std::size_t max_json_depth = 128;  ///< serde_json's

/// A value for messages, cut if it is very long.
inline std::string json_text(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 200) text.replace(200, std::string::npos, "...");
  return text;
}

/// What keeps `text` from being JSON where nlohmann_json gave up after so many characters.
inline std::string json_problem(std::string_view text, std::size_t characters) {
  if (characters > text.size()) return "is not JSON: it ends too early";
  const std::size_t at = characters > 0 ? characters - 1 : 0;
  return "is not JSON: unexpected " + in_quotes(text.substr(at, 20)) + " at byte " + std::to_string(at);
}

/// nlohmann_json takes a zero byte for the end and skips a byte order mark. JSON knows neither.
/// @return the problem; empty if there is none.
inline std::string json_bytes_problem(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) return "is not JSON: it has a zero byte";
  if (text.starts_with("\xef\xbb\xbf")) return "is not JSON: it begins with a byte order mark";
  return {};
}

/// Takes the events of nlohmann_json's parser and throws std::invalid_argument at the first that breaks a
/// rule.
class JsonRules {
 public:
  explicit JsonRules(std::string_view text) : text_(text) {}

  bool null() { return true; }
  bool boolean(bool) { return true; }
  bool number_integer(std::int64_t) { return true; }
  bool number_unsigned(std::uint64_t) { return true; }
  bool number_float(double, const std::string&) { return true; }
  bool string(std::string&) { return true; }
  bool binary(std::vector<std::uint8_t>&) { return true; }  // not in JSON
  bool start_object(std::size_t) { return enter(); }
  bool start_array(std::size_t) { return enter(); }
  bool end_object() { return leave(); }
  bool end_array() { return leave(); }
  bool key(std::string& name) {
    if (!keys_.back().insert(name).second)
      throw std::invalid_argument("has the key " + in_quotes(name) + " twice");
    return true;
  }
  bool parse_error(std::size_t characters, const std::string&, const nlohmann::json::exception&) {
    throw std::invalid_argument(json_problem(text_, characters));
  }

 private:
  bool enter() {
    if (keys_.size() == max_json_depth)
      throw std::invalid_argument("is nested deeper than " + std::to_string(max_json_depth) + " levels");
    keys_.emplace_back();
    return true;
  }
  bool leave() {
    keys_.pop_back();
    return true;
  }

  std::string_view text_;
  std::vector<std::set<std::string>> keys_;  ///< of the objects, and lists, around the place
};

/// The value that `text` holds. Copying, writing and comparing it recurse: its depth is bounded.
/// @throws std::invalid_argument if the text is not JSON, is nested deeper than 128 levels or has a key twice
/// in an object; what() begins with a verb.
inline nlohmann::json parse_json(std::string_view text) {
  if (const std::string problem = json_bytes_problem(text); !problem.empty())
    throw std::invalid_argument(problem);
  JsonRules rules(text);
  nlohmann::json::sax_parse(text, &rules);
  return nlohmann::json::parse(text);
}

/// The JSON object that `text`, a part of `file`, holds. `what` names the part, with a blank behind it.
/// @throws FileError
inline nlohmann::json parse_json_object(std::string_view text, const std::string& file,
                                        const std::string& what = {}) {
  try {
    nlohmann::json value = parse_json(text);
    if (!value.is_object())
      throw std::invalid_argument("is " + json_text(value) + ", expected a JSON object");
    return value;
  } catch (const std::invalid_argument& error) {
    throw FileError(file, what + error.what());
  }
}
/// The JSON object in the file at `path`, which may be `most_bytes` long. @throws FileError
inline nlohmann::json read_json_object(const std::string& path, std::size_t most_bytes) {
  std::error_code unknown;  // then the file cannot be opened either
  const auto size = std::filesystem::file_size(path_of(path), unknown);
  if (!unknown && size > most_bytes)
    throw FileError(
        path, "is " + std::to_string(size) + " bytes long, expected at most " + std::to_string(most_bytes));
  return parse_json_object(FileContents(path).text(), path);
}

// These take a value by its kind. They throw std::invalid_argument "WHERE: KEY is VALUE, expected ...".

inline const nlohmann::json& json_at(const std::string& where, const nlohmann::json& object,
                                     const char* key) {
  if (!object.is_object()) fail(where, "the value", json_text(object), "an object");
  const auto found = object.find(key);
  if (found == object.end()) fail(where, key, "missing", "to be there");
  return *found;
}
inline Index json_integer(const std::string& where, const std::string& key, const nlohmann::json& value,
                          Index least = 0, Index most = (std::numeric_limits<Index>::max)()) {
  const bool fits = value.is_number_unsigned() ? std::in_range<Index>(value.get<std::uint64_t>())
                                               : value.is_number_integer();
  if (!fits || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most)
    fail(where, key, json_text(value),
         "an integer of " + std::to_string(least) + " to " + std::to_string(most));
  return static_cast<Index>(value.get<std::int64_t>());
}
inline double json_number(const std::string& where, const std::string& key, const nlohmann::json& value) {
  if (!value.is_number()) fail(where, key, json_text(value), "a number");
  return value.get<double>();
}
inline bool json_flag(const std::string& where, const std::string& key, const nlohmann::json& value) {
  if (!value.is_boolean()) fail(where, key, json_text(value), "true or false");
  return value.get<bool>();
}

}  // namespace ddl::detail
