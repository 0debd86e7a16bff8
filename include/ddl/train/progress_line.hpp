// SPDX-License-Identifier: MIT
/// @file  A line of text with a bar that shows how far a computation is.
#pragma once

#include "ddl/core/requirements.hpp"

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif
#if __has_include(<sys/ioctl.h>)
#include <sys/ioctl.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

namespace ddl {

/// True if the stream is a terminal; false where the system does not tell.
inline bool is_terminal([[maybe_unused]] std::FILE* stream) {
#if __has_include(<unistd.h>)
  return isatty(fileno(stream)) != 0;
#else
  return false;
#endif
}

/// The columns of the stream's terminal. Where the system does not tell, those of the environment variable
/// COLUMNS, or 80.
inline std::size_t terminal_width([[maybe_unused]] std::FILE* stream) {
#ifdef TIOCGWINSZ
  winsize size{};
  if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
#endif
  const char* const columns = std::getenv("COLUMNS");
  const long given = columns ? std::strtol(columns, nullptr, 10) : 0;
  return given > 0 ? static_cast<std::size_t>(given) : 80;
}

namespace detail {

/// The bytes of UTF-8 text that take `columns` columns, one a character, or all of it.
inline std::size_t prefix_of(const std::string& text, std::size_t columns) {
  std::size_t size = 0;
  for (; size < text.size(); ++size) {
    const bool begins_character = (static_cast<unsigned char>(text[size]) & 0xc0) != 0x80;
    if (begins_character && columns-- == 0) break;
  }
  return size;
}

inline std::size_t columns_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

/// "before[####....]  50 %after" in at most `width` columns: the bar is shortened first, then left out, then
/// the end is cut off.
inline std::string progress_text(const std::string& before, double share, const std::string& after,
                                 std::size_t width) {
  constexpr std::size_t longest = 24, shortest = 4;
  char percent[16];
  std::snprintf(percent, sizeof percent, " %3.0f %%", 100 * share);
  std::string end = percent + after;
  const std::size_t others = columns_of(before) + columns_of(end) + 2;
  std::string text = before;
  if (others + shortest <= width) {
    std::string bar((std::min)(longest, width - others), '.');
    std::fill_n(bar.begin(), static_cast<std::size_t>(share * static_cast<double>(bar.size())), '#');
    text += "[" + bar + "]";
  }
  text += end;
  text.resize(prefix_of(text, width));
  return text;
}

}  // namespace detail

/// A line that shows how far a computation is. On a terminal it is redrawn in its place, and fits the
/// terminal's width. To other streams, a line is printed whenever a further tenth is done.
///
///     ddl::ProgressLine line(stderr);
///     for (int step = 1; step <= 1000; ++step) {
///       const double share = step / 1000.0;
///       if (line.due(share)) line.draw("seed 1 ", share, "  step " + std::to_string(step));
///     }
class ProgressLine {
 public:
  /// Draws nothing yet.
  explicit ProgressLine(std::FILE* stream) : stream_(stream), redraws_(is_terminal(stream)) {}
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  /// Ends the line.
  ~ProgressLine() { end(); }

  /// Whether it is time to draw: on a terminal ten times a second and at the end, otherwise at each tenth.
  /// @param share  what is done, from 0 to 1
  bool due(double share) const {
    if (!redraws_) return tenth(share) > tenth_;
    return share >= 1 || columns_ == 0 || Clock::now() - drawn_ > std::chrono::milliseconds(100);
  }

  /// Shows `before`, a bar, the share in percent and `after`: UTF-8 without control characters.
  void draw(const std::string& before, double share, const std::string& after) {
    tenth_ = tenth(share);
    share = share > 0 ? (std::min)(share, 1.0) : 0;
    if (!redraws_) {
      std::fprintf(stream_, "%s\n", detail::progress_text(before, share, after, std::string::npos).c_str());
    } else {
      drawn_ = Clock::now();
      // Most terminals go on to the next line once the last column is filled.
      const std::size_t width = (std::max)(terminal_width(stream_), std::size_t(2)) - 1;
      replace(detail::progress_text(before, share, after, width), width);
    }
    std::fflush(stream_);
  }

  /// Takes what was drawn away from the terminal: other text can be printed in its place.
  void erase() {
    if (columns_ == 0) return;
    replace("", terminal_width(stream_) - 1);
    std::fputc('\r', stream_);
    std::fflush(stream_);
  }

  /// Goes on to the next line. A new computation may begin.
  void end() {
    if (std::exchange(columns_, 0) > 0) std::fputc('\n', stream_);
    tenth_ = 0;
  }

 private:
  using Clock = std::chrono::steady_clock;

  static int tenth(double share) { return static_cast<int>(10 * share); }

  void replace(const std::string& text, std::size_t width) {
    const std::size_t columns = detail::columns_of(text), before = (std::min)(columns_, width);
    const std::string blanks(before > columns ? before - columns : 0, ' ');
    std::fprintf(stream_, "\r%s%s", text.c_str(), blanks.c_str());
    columns_ = columns;
  }

  std::FILE* stream_;
  bool redraws_;
  int tenth_ = 0;            ///< that was printed
  std::size_t columns_ = 0;  ///< of the line that is open
  Clock::time_point drawn_ = {};
};

}  // namespace ddl
