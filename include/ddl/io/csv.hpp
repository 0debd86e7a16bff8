// SPDX-License-Identifier: MIT
/// @file  CSV: delimited text with a header, a sample a line, a column for each feature and one for the
/// class.
/// @source RFC 4180, "Common Format and MIME Type for CSV Files"
///
/// The delimiter is the first comma, semicolon or tab of the header. A field may be in quotes: delimiters and
/// doubled quotes in it are then text, but it ends in its line. Lines end with LF or CRLF. Empty lines, and
/// blanks around a field, are ignored. Numbers are decimal, with a point, whatever the locale.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <locale>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ddl/core/check.hpp"
#include "ddl/data/dataset.hpp"
#include "ddl/io/messages.hpp"

namespace ddl {

/// How parse_csv and read_csv take a file.
struct CsvSettings {
  /// Name of the column of classes, empty if there is none. All others are features.
  std::string label = {};
  /// The classes by number, for test data: those of the training data. If empty, they are those of the file,
  /// shorter names first, then by their bytes: numbers by value, if they are not negative.
  std::vector<std::string> class_names = {};
};

namespace detail {

/// Calls f(number of the line, its fields) for every line that is not empty, the header first, until f
/// returns false.
/// @throws FileError if there is no such line, or a quote is not closed in its line.
template <class F>
void for_each_csv_line(std::string_view text, const std::string& file, F&& f) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  std::string delimiters = ",;\t";  // one of them, once it was seen
  std::vector<std::string> fields;
  for (std::size_t number = 1; !text.empty(); ++number) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix((std::min)(line.size() + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    fields.assign(1, {});
    bool is_quoted = false;
    for (std::size_t i = 0; i < line.size(); ++i) {
      std::string& field = fields.back();
      const char c = line[i];
      if (is_quoted && line.substr(i).starts_with("\"\""))
        field += line[i++];
      else if (c == '"' && (is_quoted || field.find_first_not_of(' ') == std::string::npos))
        is_quoted = !is_quoted;
      else if (!is_quoted && delimiters.find(c) != std::string::npos)
        delimiters = c, fields.emplace_back();
      else
        field += c;
    }
    if (is_quoted)
      fail_file(file,
                "line " + std::to_string(number) + ": a quote is opened and not closed in the same line");
    for (std::string& field : fields) {
      field.resize(field.find_last_not_of(' ') + 1);
      field.erase(0, field.find_first_not_of(' '));
    }
    if (!f(number, std::as_const(fields))) return;
  }
  if (fields.empty()) fail_file(file, "is empty, expected the names of columns");
}

/// Whether the text is [+-] digits [. digits] [e [+-] digits], with a digit before the exponent.
inline bool is_decimal(std::string_view text) noexcept {
  const auto skip = [&](std::string_view any, std::size_t most) {
    const std::size_t count = (std::min)({text.find_first_not_of(any), text.size(), most});
    text.remove_prefix(count);
    return count;
  };
  const auto digits = [&] { return skip("0123456789", text.size()); };
  skip("+-", 1);
  std::size_t count = digits();
  if (skip(".", 1) == 1) count += digits();
  if (count > 0 && skip("eE", 1) == 1) skip("+-", 1), count = digits();
  return count > 0 && text.empty();
}

/// Nothing if the text is no decimal number, or none that is finite in this type. Numbers that are too small
/// are 0.
template <class Scalar>
std::optional<Scalar> parse_number(std::string_view text) {
  if (!is_decimal(text)) return std::nullopt;
  double number = 0;
  bool is_read = false;
#ifdef __cpp_lib_to_chars  // not in libc++ before LLVM 20
  const std::size_t sign = text.front() == '+' ? 1 : 0;
  is_read = std::from_chars(text.data() + sign, text.data() + text.size(), number).ec == std::errc();
#endif
  if (!is_read) {  // a stream tells too small from too large
    std::istringstream in{std::string(text)};
    in.imbue(std::locale::classic());
    if (!(in >> number) && std::abs(number) >= (std::numeric_limits<double>::max)()) return std::nullopt;
  }
  const auto scalar = static_cast<Scalar>(static_cast<Accum<Scalar>>(number));
  return is_finite(scalar) ? std::optional(scalar) : std::nullopt;
}

/// Shorter names first, then by their bytes.
struct ShorterFirst {
  bool operator()(const std::string& a, const std::string& b) const {
    return a.size() != b.size() ? a.size() < b.size() : a < b;
  }
};

}  // namespace detail

/// The names of the columns, in the file's order. @throws FileError if there is no header.
inline std::vector<std::string> read_csv_names(const std::string& path) {
  std::vector<std::string> names;
  detail::for_each_csv_line(FileContents(path).text(), path,
                            [&](std::size_t, const auto& fields) { return names = fields, false; });
  return names;
}

/// The samples in delimited text; `file` is what errors call it. @throws FileError that names the line, the
/// column and what is there; also if the names of all features are numbers: then the header may be a sample.
template <class Scalar>
Dataset<Scalar> parse_csv(std::string_view text, const std::string& file, const CsvSettings& settings = {}) {
  using detail::fail_file, detail::in_quotes;
  std::map<std::string, int, detail::ShorterFirst> classes;
  for (const std::string& name : settings.class_names)
    classes.emplace(name, static_cast<int>(classes.size()));
  if (classes.size() != settings.class_names.size())
    fail("ddl::CsvSettings", "class_names", "a list with a name twice", "different names");
  const Index label_count = settings.label.empty() ? 0 : 1;
  const auto is_label = [&](const std::string& name) { return label_count == 1 && name == settings.label; };

  std::vector<std::string> names;
  std::vector<Scalar> inputs;
  std::vector<const int*> labels;  // in `classes`, which are numbered at the end
  Index samples = -1;              // for the header
  detail::for_each_csv_line(text, file, [&](std::size_t number, const std::vector<std::string>& fields) {
    const std::string line = "line " + std::to_string(number);
    if (++samples == 0) {
      names = fields;
      const Index found = std::count_if(names.begin(), names.end(), is_label);
      if (found != label_count)
        fail_file(file,
                  "has " + std::to_string(found) + " columns " + in_quotes(settings.label) + ", expected 1");
      const auto numbers = std::count_if(names.begin(), names.end(), [&](const std::string& name) {
        return !is_label(name) && detail::is_decimal(name);
      });
      if (numbers > 0 && numbers + label_count == std::ssize(names))
        fail_file(file, "begins with a line of numbers, expected a header: the names of columns");
      return true;
    }
    if (fields.size() != names.size())
      fail_file(file, line + " has " + std::to_string(fields.size()) + " fields, expected " +
                          std::to_string(names.size()));
    for (std::size_t c = 0; c < fields.size(); ++c) {
      const auto expect = [&](bool is_there, const char* expected) {
        if (!is_there)
          fail_file(file, line + ", column " + in_quotes(names[c]) + " is " + in_quotes(fields[c]) +
                              ", expected " + expected);
      };
      if (is_label(names[c])) {
        expect(!fields[c].empty(), "a class");
        expect(settings.class_names.empty() || classes.contains(fields[c]), "one of class_names");
        labels.push_back(&classes.try_emplace(fields[c]).first->second);
      } else {
        const auto value = detail::parse_number<Scalar>(fields[c]);
        expect(value.has_value(), "a finite number");
        inputs.push_back(*value);
      }
    }
    return true;
  });
  if (samples == 0) fail_file(file, "has no line after the header, expected samples");

  Dataset<Scalar> data;
  data.inputs = Eigen::Map<const Matrix<Scalar>>(inputs.data(), std::ssize(names) - label_count, samples);
  data.class_names = settings.class_names;
  if (data.class_names.empty())
    for (auto& [name, number] : classes) {
      number = static_cast<int>(data.class_names.size());
      data.class_names.push_back(name);
    }
  for (const int* number : labels) data.labels.push_back(*number);
  return data;
}

/// parse_csv of a file. @throws FileError also if it cannot be read.
template <class Scalar>
Dataset<Scalar> read_csv(const std::string& path, const CsvSettings& settings = {}) {
  return parse_csv<Scalar>(FileContents(path).text(), path, settings);
}

}  // namespace ddl
