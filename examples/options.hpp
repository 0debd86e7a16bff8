// SPDX-License-Identifier: MIT
/// @file  Options of the command line: numbers, which are decimal and checked, texts, and what sizes take in
/// memory.
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <ddl/core/check.hpp>

namespace options {

/// The numbers that an option takes: from low to high, low itself left out if `above`.
template <class T>
struct Range {
  T low = 0, high = std::numeric_limits<T>::max();
  bool above = false;

  bool contains(T x) const { return (above ? x > low : x >= low) && x <= high; }
  std::string text() const {
    const auto of = [](T x) {
      if constexpr (std::is_integral_v<T>)
        return std::to_string(x);
      else
        return ddl::number_text(x);
    };
    const std::string kind = std::is_integral_v<T> ? "a whole number" : "a number";
    if (high == std::numeric_limits<T>::max()) return kind + (above ? " above " : " of at least ") + of(low);
    return kind + (above ? " above " + of(low) + ", at most " : " from " + of(low) + " to ") + of(high);
  }
};

/// Sizes and counts: no product of two overflows.
inline constexpr Range<ddl::Index> size{1, std::numeric_limits<std::int32_t>::max()};
inline constexpr Range<ddl::Index> size_or_0{0, std::numeric_limits<std::int32_t>::max()};
inline constexpr Range<ddl::Index> threads{1, 4096};
inline constexpr Range<double> positive{.low = 0, .above = true};
inline constexpr Range<double> non_negative{};

/// The number that is all of `text`, in decimal. @throws CLI::ValidationError if it is none, or out of range.
template <class T>
T number(const std::string& option, const std::string& text, const Range<T>& range) {
  T value{};
  bool is_number;
  if constexpr (std::is_integral_v<T>) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    is_number = error == std::errc() && end == text.data() + text.size();
  } else {
    char* end = nullptr;
    value = static_cast<T>(std::strtod(text.c_str(), &end));
    is_number = !text.empty() && end == text.c_str() + text.size() &&
                text.find_first_not_of("+-.0123456789eE") == std::string::npos && ddl::is_finite(value);
  }
  if (!is_number || !range.contains(value))
    throw CLI::ValidationError(option, "is " + text + ", expected " + range.text());
  return value;
}

/// An option with a number, of which CLI11 2.1 would take 010 for 8 and 99999999999999999999 for the largest
/// there is.
template <class T>
CLI::Option* add(CLI::App& app, const std::string& name, T& value, const Range<T>& range,
                 const std::string& description) {
  const auto text = [&value] {
    if constexpr (std::is_integral_v<T>)
      return std::to_string(value);
    else
      return ddl::number_text(value);
  };
  const auto take = [&value, name, range](const CLI::results_t& given) {
    value = number(name, given.back(), range);
    return true;
  };
  return app.add_option(name, CLI::callback_t(take), description, true, text)
      ->type_name(std::is_integral_v<T> ? "INT" : "FLOAT")
      ->default_str(text());
}

/// An option with a text that goes into JSON, which is UTF-8.
inline CLI::Option* add_text(CLI::App& app, const std::string& name, std::string& value,
                             const std::string& description) {
  const auto is_utf8 = [](const std::string& text) -> std::string {
    try {
      nlohmann::json(text).dump();
      return "";
    } catch (const nlohmann::json::exception&) {
      return "is not in UTF-8, which logs and checkpoints need";
    }
  };
  return app.add_option(name, value, description)->check(CLI::Validator(is_utf8, ""));
}

/// An option that is a size.
template <class Options>
struct Size {
  const char* name;
  ddl::Index Options::*value;
};

/// Calls f(). If memory runs out, throws a std::runtime_error with what the options take, `bytes(options)`,
/// and the one of them that is the most to blame: by its default, the least would be taken.
template <class Options, class Bytes, class F>
auto within_memory(const Options& given, const std::vector<Size<Options>>& sizes, const Bytes& bytes,
                   const F& f) {
  try {
    if (bytes(given) > 1e14) throw std::bad_alloc();  // no machine has that
    return f();
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {
  }
  const Size<Options>* worst = &sizes.front();
  double least = std::numeric_limits<double>::infinity();
  for (const auto& option : sizes) {
    Options without = given;
    without.*option.value = Options().*option.value;
    if (bytes(without) < least) {
      least = bytes(without);
      worst = &option;
    }
  }
  char text[64];
  std::snprintf(text, sizeof text, "about %.3g GB, with %ld about %.3g GB", bytes(given) / 1e9,
                long(Options().*worst->value), least / 1e9);
  throw std::runtime_error(std::string("there is not enough memory: ") + worst->name + " " +
                           std::to_string(given.*worst->value) + " takes " + text);
}

}  // namespace options
