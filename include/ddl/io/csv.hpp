// SPDX-License-Identifier: MIT
/// @file  Delimited text with a header: one sample a line, one column for each feature, label or target.
///
/// A field may stand in quotes, and may then hold delimiters, line breaks and quotes, these doubled. Lines end with
/// LF or CRLF, blank lines do not count, nor do blanks around a field. Numbers are written as in C, whatever the
/// locale.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <locale>
#include <map>
#include <numeric>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "ddl/core/check.hpp"
#include "ddl/data/dataset.hpp"
#include "ddl/io/messages.hpp"

namespace ddl {

/// How texts become class numbers.
enum class ClassOrder {
  sorted,     ///< integers first, by value; then all other names, by their bytes
  first_seen  ///< as they come in the file
};

struct CsvSettings {
  char delimiter = '\0';                  ///< '\0': whichever of , ; and tab the header has most of
  std::string label = {};                 ///< name of the column of classes; empty if there is none
  std::vector<std::string> targets = {};  ///< names of the columns of numbers to learn
  std::vector<std::string> ignored = {};  ///< names of columns that do not matter; all others are features
  ClassOrder class_order = ClassOrder::sorted;
  std::vector<std::string> class_names = {};  ///< where they are known before: those of the training data
};

template <class Scalar>
struct CsvData {
  Dataset<Scalar> data;
  std::vector<std::string> feature_names, target_names;  ///< in the file's order
};

namespace detail {

/// Gives the fields of delimited text one by one.
class CsvReader {
 public:
  struct Field {
    std::string_view text;  ///< until the next field is read
    std::size_t line;       ///< on which it begins
    bool last;              ///< of its record
  };

  CsvReader(std::string_view text, const std::string& file, char delimiter)
      : text_(text), file_(file), delimiter_(delimiter) {}

  /// Nothing at the end of the text.
  std::optional<Field> next() {
    if (at_record_start_)
      while (accept_line_end()) {
      }
    if (at_record_start_ && at_ == text_.size()) return std::nullopt;
    if (delimiter_ != ' ') at_ = (std::min)(text_.find_first_not_of(' ', at_), text_.size());
    Field field{.text = {}, .line = line_, .last = false};
    field.text = is_at('"') ? quoted_field() : plain_field();
    if (delimiter_ != ' ') at_ = (std::min)(text_.find_first_not_of(' ', at_), text_.size());
    if (is_at(delimiter_))
      ++at_;
    else if (at_ == text_.size() || accept_line_end())
      field.last = true;
    else
      fail_file(file_, "line " + std::to_string(line_) + ": after a quoted field stands " +
                           quoted_text(text_.substr(at_, 1)) +
                           ", expected a delimiter or the end of the line");
    at_record_start_ = field.last;
    return field;
  }

 private:
  bool is_at(char c) const noexcept { return at_ < text_.size() && text_[at_] == c; }
  bool is_at_line_end() const noexcept {
    return is_at('\n') || (is_at('\r') && text_.substr(at_ + 1, 1) == "\n");
  }
  bool accept_line_end() noexcept {
    if (!is_at_line_end()) return false;
    at_ += is_at('\r') ? 2u : 1u;
    ++line_;
    return true;
  }

  std::string_view plain_field() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != delimiter_ && !is_at_line_end()) ++at_;
    std::string_view field = text_.substr(begin, at_ - begin);
    if (delimiter_ != ' ') field = field.substr(0, field.find_last_not_of(' ') + 1);
    return field;
  }

  std::string_view quoted_field() {
    const std::size_t first_line = line_;
    unquoted_.clear();
    bool is_doubled = false;
    do {  // from one quote to the next; two in a row are one of the text
      if (is_doubled) unquoted_ += '"';
      const std::size_t close = text_.find('"', at_ + 1);
      if (close == std::string_view::npos)
        fail_file(file_, "line " + std::to_string(first_line) + ": a quote is opened here and never closed");
      const std::string_view piece = text_.substr(at_ + 1, close - at_ - 1);
      unquoted_ += piece;
      line_ += static_cast<std::size_t>(std::count(piece.begin(), piece.end(), '\n'));
      at_ = close + 1;
      is_doubled = is_at('"');
    } while (is_doubled);
    return unquoted_;
  }

  std::string_view text_;
  const std::string& file_;
  const char delimiter_;
  std::size_t at_ = 0, line_ = 1;
  bool at_record_start_ = true;
  std::string unquoted_;
};

/// The one of , ; and tab that stands most often on the first line, quoted fields left out.
inline char detect_delimiter(std::string_view text) {
  std::array<std::pair<char, int>, 3> counts = {{{',', 0}, {';', 0}, {'\t', 0}}};
  bool is_quoted = false;
  text.remove_prefix((std::min)(text.find_first_not_of("\r\n"), text.size()));
  for (const char c : text) {
    if (c == '\n' && !is_quoted) break;
    if (c == '"') is_quoted = !is_quoted;
    for (auto& [delimiter, count] : counts) count += c == delimiter && !is_quoted;
  }
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

/// Nothing if the text is no number, or none that is finite in this type.
template <class Scalar>
std::optional<Scalar> parse_number(std::string_view text) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  double number = 0;
#ifdef __cpp_lib_to_chars
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
#else  // libc++ before LLVM 20
  std::istringstream in{std::string(text)};
  in.imbue(std::locale::classic());
  in >> std::noskipws >> number;
  if (!in || in.peek() != std::char_traits<char>::eof()) return std::nullopt;
#endif
  const auto scalar = static_cast<Scalar>(static_cast<Accum<Scalar>>(number));
  if (!is_finite(scalar)) return std::nullopt;
  return scalar;
}

/// Numbers classes as they come.
class ClassNumbers {
 public:
  explicit ClassNumbers(const std::vector<std::string>& known) : are_known_(!known.empty()) {
    for (const std::string& name : known)
      if (!numbers_.emplace(name, static_cast<int>(numbers_.size())).second)
        fail("ddl::CsvSettings", "class_names", "a list with " + quoted_text(name) + " twice",
             "different names");
  }

  /// Nothing if the class is not among those known before.
  std::optional<int> number(std::string_view name) {
    auto found = numbers_.find(name);
    if (found == numbers_.end()) {
      if (are_known_) return std::nullopt;
      found = numbers_.emplace(std::string(name), static_cast<int>(numbers_.size())).first;
    }
    return found->second;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names(numbers_.size());
    for (const auto& [name, number] : numbers_) names[static_cast<std::size_t>(number)] = name;
    return names;
  }

 private:
  bool are_known_;
  std::map<std::string, int, std::less<>> numbers_;
};

/// Renumbers classes so that their names are sorted.
inline void sort_classes(std::vector<std::string>& names, std::vector<int>& labels) {
  const auto rank = [&](std::size_t i) {
    const std::string& name = names[i];
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), value);
    const bool is_integer = error == std::errc{} && end == name.data() + name.size();
    return std::tuple(!is_integer, is_integer ? value : 0, std::string_view(name));
  };
  std::vector<std::size_t> order(names.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return rank(a) < rank(b); });
  std::vector<std::string> sorted;
  std::vector<int> numbers(names.size());
  for (const std::size_t old : order) {
    numbers[old] = static_cast<int>(sorted.size());
    sorted.push_back(std::move(names[old]));
  }
  for (int& label : labels) label = numbers[static_cast<std::size_t>(label)];
  names = std::move(sorted);
}

enum class CsvRole { feature, label, target, ignored };

struct CsvColumn {
  std::string name;
  CsvRole role = CsvRole::feature;
};

/// The header: names, which must differ, and what the settings say of them.
inline std::vector<CsvColumn> read_csv_header(CsvReader& reader, const std::string& file,
                                              const CsvSettings& settings) {
  std::vector<CsvColumn> columns;
  std::string all;
  while (const auto field = reader.next()) {
    columns.push_back({std::string(field->text)});
    all.append(columns.size() > 1 ? ", " : "").append(field->text);
    if (field->last) break;
  }
  if (columns.empty()) fail_file(file, "is empty, expected the names of columns");
  std::vector<std::string_view> names;
  for (const CsvColumn& column : columns) names.push_back(column.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    fail_file(file, "the header names two columns " + quoted_text(*twice) + ", expected different names");
  const auto assign = [&](const std::string& name, CsvRole role) {
    const auto column =
        std::find_if(columns.begin(), columns.end(), [&](const CsvColumn& c) { return c.name == name; });
    if (column == columns.end())
      fail_file(file, "has no column " + quoted_text(name) + ", expected one of " + quoted_text(all));
    if (column->role != CsvRole::feature)
      fail("ddl::CsvSettings", "column " + quoted_text(name), "named twice", "a label, a target or ignored");
    column->role = role;
  };
  if (!settings.label.empty()) assign(settings.label, CsvRole::label);
  for (const std::string& name : settings.targets) assign(name, CsvRole::target);
  for (const std::string& name : settings.ignored) assign(name, CsvRole::ignored);
  return columns;
}

}  // namespace detail

/// The samples in delimited text; `file` is what errors call it. @throws FileError that names the line, the
/// column and what stands there.
template <class Scalar>
CsvData<Scalar> parse_csv(std::string_view text, const std::string& file, const CsvSettings& settings = {}) {
  using detail::CsvRole, detail::quoted_text;
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff"))
    detail::fail_file(file, "is UTF-16, expected UTF-8");
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  detail::CsvReader reader(text, file,
                           settings.delimiter != '\0' ? settings.delimiter : detail::detect_delimiter(text));
  const std::vector<detail::CsvColumn> columns = detail::read_csv_header(reader, file, settings);
  detail::ClassNumbers classes(settings.class_names);

  CsvData<Scalar> csv;
  std::vector<Scalar> inputs, targets;
  Index records = 0;
  std::size_t c = 0;
  while (const auto field = reader.next()) {
    const auto place = [&] { return "line " + std::to_string(field->line); };
    const auto expected_fields = [&] { return ", expected " + std::to_string(columns.size()); };
    if (c == columns.size())
      detail::fail_file(file, place() + " has more fields than the header" + expected_fields());
    const auto fail_field = [&](const std::string& expected) {
      detail::fail_file(file, place() + ", column " + quoted_text(columns[c].name) + " is " +
                                  quoted_text(field->text) + ", expected " + expected);
    };
    const CsvRole role = columns[c].role;
    if (role == CsvRole::label) {
      if (field->text.empty()) fail_field("a class");
      const auto number = classes.number(field->text);
      if (!number)
        fail_field("one of the " + std::to_string(settings.class_names.size()) + " classes in class_names");
      csv.data.labels.push_back(*number);
    } else if (role != CsvRole::ignored) {
      const auto number = detail::parse_number<Scalar>(field->text);
      if (!number) fail_field("a finite number");
      (role == CsvRole::feature ? inputs : targets).push_back(*number);
    }
    ++c;
    if (!field->last) continue;
    if (c < columns.size())
      detail::fail_file(file, place() + " has " + std::to_string(c) + " fields" + expected_fields());
    c = 0;
    ++records;
  }
  if (records == 0) detail::fail_file(file, "has no line after the header, expected samples");

  for (const auto& [name, role] : columns) {
    if (role == CsvRole::feature) csv.feature_names.push_back(name);
    if (role == CsvRole::target) csv.target_names.push_back(name);
  }
  const auto matrix = [&](const std::vector<Scalar>& values, const std::vector<std::string>& names) {
    return Eigen::Map<const Matrix<Scalar>>(values.data(), static_cast<Index>(names.size()), records);
  };
  csv.data.inputs = matrix(inputs, csv.feature_names);
  csv.data.targets = matrix(targets, csv.target_names);
  csv.data.class_names = classes.names();
  if (settings.class_names.empty() && settings.class_order == ClassOrder::sorted)
    detail::sort_classes(csv.data.class_names, csv.data.labels);
  return csv;
}

template <class Scalar>
CsvData<Scalar> read_csv(const std::string& path, const CsvSettings& settings = {}) {
  return parse_csv<Scalar>(FileContents(path).text(), path, settings);
}

}  // namespace ddl
