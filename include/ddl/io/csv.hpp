// SPDX-License-Identifier: MIT
/// @file  CSV: delimited text with a header, one sample a line, one column for each feature, label or target.
/// @source RFC 4180, "Common Format and MIME Type for CSV Files"
///
/// The delimiter is whichever of comma, semicolon and tab the header has most of. A field may be in quotes: delimiters,
/// line breaks and doubled quotes in it are then text. Lines end with LF or CRLF. Blank lines, and blanks around a
/// field, are ignored. Numbers are decimal, with a point, whatever the locale.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <locale>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "ddl/core/check.hpp"
#include "ddl/data/dataset.hpp"
#include "ddl/io/messages.hpp"

namespace ddl {

struct CsvSettings {
  std::string label = {};  ///< name of the column of classes; empty if there is none
  std::vector<std::string> targets =
      {};  ///< names of the columns of numbers to learn, kept in the file's order
  std::vector<std::string> ignored = {};  ///< names of the columns to leave out; all others are features
  /// The classes by number, for test data: those of the training data. If empty, they are those of the file, sorted:
  /// integers first, by value, then all others, by their bytes.
  std::vector<std::string> class_names = {};
};

namespace detail {

/// Reads delimited text record by record.
class CsvReader {
 public:
  /// Reads the header. @throws FileError if there is none.
  CsvReader(std::string_view text, const std::string& file) : text_(text), file_(file) {
    if (text.starts_with("\xef\xbb\xbf")) at_ = 3;
    while (accept_line_end()) continue;
    std::string unquoted;
    bool is_quoted = false;
    for (const char c : text.substr(at_)) {
      if (c == '\n' && !is_quoted) break;
      if (c == '"') is_quoted = !is_quoted;
      if (!is_quoted) unquoted += c;
    }
    const auto count = [&](char c) { return std::count(unquoted.begin(), unquoted.end(), c); };
    delimiter_ = (std::max)({',', ';', '\t'}, [&](char a, char b) { return count(a) < count(b); });
    if (!next()) fail_file(file, "is empty, expected the names of columns");
    names_ = fields_;
  }

  /// Reads the next record. @return false at the end of the text.
  bool next() {
    while (accept_line_end()) continue;
    record_line_ = line_;
    if (at_ == text_.size()) return false;
    for (std::size_t count = 1;; ++count) {
      if (fields_.size() < count) fields_.emplace_back();
      read_field(fields_[count - 1]);
      if (at_ == text_.size() || accept_line_end()) {
        fields_.resize(count);
        return true;
      }
      if (text_[at_] != delimiter_)
        fail_file(file_, "line " + std::to_string(line_) + ": after a quoted field stands " +
                             quoted_text(text_.substr(at_, 1)) +
                             ", expected a delimiter or the end of the line");
      ++at_;
    }
  }

  const std::vector<std::string>& names() const noexcept { return names_; }
  const std::vector<std::string>& fields() const noexcept { return fields_; }
  /// Of the record, for messages.
  std::string place() const { return "line " + std::to_string(record_line_); }

 private:
  bool is_at(char c) const noexcept { return at_ < text_.size() && text_[at_] == c; }
  bool is_at_line_end() const noexcept { return is_at('\n') || text_.substr(at_).starts_with("\r\n"); }
  bool accept_line_end() noexcept {
    if (!is_at_line_end()) return false;
    at_ += is_at('\r') ? 2u : 1u;
    ++line_;
    return true;
  }
  void skip_blanks() noexcept { at_ = (std::min)(text_.find_first_not_of(' ', at_), text_.size()); }

  void read_field(std::string& field) {
    field.clear();
    skip_blanks();
    if (!is_at('"')) {
      while (at_ < text_.size() && text_[at_] != delimiter_ && !is_at_line_end()) field += text_[at_++];
      field.resize(field.find_last_not_of(' ') + 1);
      return;
    }
    const std::size_t first_line = line_;
    for (bool is_doubled = false;; is_doubled = true) {  // from one quote to the next
      if (is_doubled) field += '"';
      const std::size_t close = text_.find('"', at_ + 1);
      if (close == std::string_view::npos)
        fail_file(file_, "line " + std::to_string(first_line) + ": a quote is opened here and never closed");
      const std::string_view piece = text_.substr(at_ + 1, close - at_ - 1);
      field += piece;
      line_ += static_cast<std::size_t>(std::count(piece.begin(), piece.end(), '\n'));
      at_ = close + 1;
      if (!is_at('"')) break;
    }
    skip_blanks();
  }

  std::string_view text_;
  const std::string& file_;
  char delimiter_ = ',';
  std::size_t at_ = 0, line_ = 1, record_line_ = 1;
  std::vector<std::string> names_, fields_;
};

/// Whether the text is [+-] digits [. digits] [e [+-] digits], with a digit before the exponent.
inline bool is_decimal(std::string_view text) noexcept {
  const auto accept = [&](std::string_view any) {
    const bool is_there = !text.empty() && any.find(text.front()) != std::string_view::npos;
    if (is_there) text.remove_prefix(1);
    return is_there;
  };
  const auto digits = [&] {
    const std::size_t count = (std::min)(text.find_first_not_of("0123456789"), text.size());
    text.remove_prefix(count);
    return count;
  };
  accept("+-");
  std::size_t count = digits();
  if (accept(".")) count += digits();
  if (count == 0) return false;
  if (accept("eE")) {
    accept("+-");
    if (digits() == 0) return false;
  }
  return text.empty();
}

/// Nothing if the text is no decimal number, or none that is finite in this type. Numbers that are too small are 0.
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
    const bool is_in_range = static_cast<bool>(in >> number);
    if (!is_in_range && std::abs(number) >= (std::numeric_limits<double>::max)()) return std::nullopt;
  }
  const auto scalar = static_cast<Scalar>(static_cast<Accum<Scalar>>(number));
  if (!is_finite(scalar)) return std::nullopt;
  return scalar;
}

/// Sorts integers first, by value, then all other texts, by their bytes.
struct IntegersFirst {
  static auto rank(std::string_view name) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), value);
    const bool is_integer = error == std::errc() && end == name.data() + name.size();
    return std::tuple(!is_integer, is_integer ? value : 0, name);
  }
  bool operator()(std::string_view a, std::string_view b) const { return rank(a) < rank(b); }
};

enum class CsvRole { feature, label, target, ignored };

/// What each column is for. @throws FileError if the header does not fit the settings, or may be a sample.
inline std::vector<CsvRole> csv_roles(const std::vector<std::string>& names, const std::string& file,
                                      const CsvSettings& settings) {
  auto sorted = names;
  std::sort(sorted.begin(), sorted.end());
  if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
    fail_file(file, "the header names two columns " + quoted_text(*twice) + ", expected different names");
  std::vector<CsvRole> roles(names.size(), CsvRole::feature);
  const auto assign = [&](const std::string& name, CsvRole role) {
    const auto column = std::find(names.begin(), names.end(), name);
    if (column == names.end()) {
      std::string all;
      for (const std::string& other : names) all += (all.empty() ? "" : ", ") + other;
      fail_file(file, "has no column " + quoted_text(name) + ", expected one of " + quoted_text(all));
    }
    auto& own = roles[static_cast<std::size_t>(column - names.begin())];
    if (own != CsvRole::feature)
      fail("ddl::CsvSettings", "column " + quoted_text(name), "named twice", "a label, a target or ignored");
    own = role;
  };
  if (!settings.label.empty()) assign(settings.label, CsvRole::label);
  for (const std::string& name : settings.targets) assign(name, CsvRole::target);
  for (const std::string& name : settings.ignored) assign(name, CsvRole::ignored);

  const std::string* number = nullptr;  // a name that is one
  for (std::size_t c = 0; c < names.size(); ++c) {
    if (roles[c] == CsvRole::label || roles[c] == CsvRole::ignored) continue;
    if (!is_decimal(names[c])) return roles;
    number = &names[c];
  }
  if (number)
    fail_file(file, "begins with a line of numbers, such as " + quoted_text(*number) +
                        ", expected a header: the names of columns");
  return roles;
}

}  // namespace detail

/// The names of the columns, in the file's order. @throws FileError if there is no header.
inline std::vector<std::string> read_csv_names(const std::string& path) {
  const FileContents contents(path);
  return detail::CsvReader(contents.text(), path).names();
}

/// The samples in delimited text; `file` is what errors call it. @throws FileError that names the line, the
/// column and what is there; also if the names of all features and targets are numbers, that is, if the header may be a
/// sample.
template <class Scalar>
Dataset<Scalar> parse_csv(std::string_view text, const std::string& file, const CsvSettings& settings = {}) {
  using detail::CsvRole, detail::quoted_text;
  detail::CsvReader reader(text, file);
  const auto& names = reader.names();
  const std::vector<CsvRole> roles = detail::csv_roles(names, file, settings);
  std::map<std::string, int, detail::IntegersFirst> classes;
  for (const std::string& name : settings.class_names)
    if (!classes.emplace(name, static_cast<int>(classes.size())).second)
      fail("ddl::CsvSettings", "class_names", "a list with " + quoted_text(name) + " twice",
           "different names");

  Dataset<Scalar> data;
  std::vector<const int*> labels;  // in `classes`, where they are numbered at the end
  std::vector<Scalar> inputs, targets;
  Index records = 0;
  for (; reader.next(); ++records) {
    const auto& fields = reader.fields();
    if (fields.size() != names.size())
      detail::fail_file(file, reader.place() + " has " + std::to_string(fields.size()) +
                                  " fields, expected " + std::to_string(names.size()));
    for (std::size_t c = 0; c < fields.size(); ++c) {
      const auto fail_field = [&](const std::string& expected) {
        detail::fail_file(file, reader.place() + ", column " + quoted_text(names[c]) + " is " +
                                    quoted_text(fields[c]) + ", expected " + expected);
      };
      if (roles[c] == CsvRole::ignored) continue;
      if (roles[c] == CsvRole::label) {
        if (fields[c].empty()) fail_field("a class");
        if (!settings.class_names.empty() && !classes.contains(fields[c]))
          fail_field("one of the " + std::to_string(classes.size()) + " classes in class_names");
        labels.push_back(&classes.try_emplace(fields[c]).first->second);
      } else {
        const auto number = detail::parse_number<Scalar>(fields[c]);
        if (!number) fail_field("a finite number");
        (roles[c] == CsvRole::feature ? inputs : targets).push_back(*number);
      }
    }
  }
  if (records == 0) detail::fail_file(file, "has no line after the header, expected samples");

  const auto matrix = [&](const std::vector<Scalar>& values, CsvRole role) {
    const Index rows = std::count(roles.begin(), roles.end(), role);
    return Eigen::Map<const Matrix<Scalar>>(values.data(), rows, records);
  };
  data.inputs = matrix(inputs, CsvRole::feature);
  data.targets = matrix(targets, CsvRole::target);
  data.class_names = settings.class_names;
  if (settings.class_names.empty())
    for (auto& [name, number] : classes) {
      number = static_cast<int>(data.class_names.size());
      data.class_names.push_back(name);
    }
  for (const int* label : labels) data.labels.push_back(*label);
  return data;
}

template <class Scalar>
Dataset<Scalar> read_csv(const std::string& path, const CsvSettings& settings = {}) {
  return parse_csv<Scalar>(FileContents(path).text(), path, settings);
}

}  // namespace ddl
