// SPDX-License-Identifier: MIT
/// @file  Hands a CSV file to one of the gnuplot scripts in examples/plots.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include <ddl/io/file.hpp>

namespace plots {

/// A table for a script: a header, then one line for each row.
class Table {
 public:
  explicit Table(const std::string& header) : text_(header + "\n") {}

  template <class... Fields>
  void add(const Fields&... fields) {
    std::string line;
    ((line += (line.empty() ? "" : ",") + text(fields)), ...);
    text_ += line + "\n";
  }
  /// @throws ddl::FileError
  void save(const std::string& path) const { ddl::replace_file(path, text_); }

 private:
  static std::string text(const std::string& field) { return field; }
  static std::string text(const char* field) { return field; }
  template <class Number>
  static std::string text(Number number) {
    char digits[32];
    std::snprintf(digits, sizeof(digits), "%.10g", static_cast<double>(number));
    return digits;
  }

  std::string text_;
};

/// Draws OUTPUT.svg and OUTPUT.png from `input` by examples/plots/SCRIPT where gnuplot is found. Prints where
/// they are, and the command.
inline void draw(const std::string& script, const std::string& input, const std::string& output,
                 const std::string& more = {}) {
  const auto is_plain = [](const std::string& text) {
    return text.find_first_of("'\"\\$`") == std::string::npos;
  };
  if (!is_plain(input) || !is_plain(output)) {
    std::printf("%s: not drawn, as a quote, backslash, $ or backtick is in its name\n", output.c_str());
    return;
  }
  const std::string command = "gnuplot -e \"input='" + input + "'; output='" + output + "'" +
                              (more.empty() ? "" : "; " + more) + "\" '" DDL_PLOTS "/" + script + "'";
  const bool has_gnuplot = std::system("command -v gnuplot > /dev/null 2>&1") == 0;
  const bool drawn = has_gnuplot && std::system(command.c_str()) == 0;
  if (drawn) std::printf("picture: %s.svg, %s.png\n", output.c_str(), output.c_str());
  if (!has_gnuplot) std::printf("no picture, as gnuplot is not installed (Debian: gnuplot-nox)\n");
  std::printf("%s %s\n", drawn ? "drawn by:" : has_gnuplot ? "failed:" : "to draw it:", command.c_str());
}

}  // namespace plots
