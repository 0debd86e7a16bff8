// SPDX-License-Identifier: MIT
#include "ddl/train/progress_line.hpp"

#include <string>
#include <vector>

#if __has_include(<sys/ioctl.h>)
#include <fcntl.h>
#endif

#include "support/catch.hpp"

using namespace ddl;

namespace {

std::string printed_to_memory(const auto& print) {
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* const stream = open_memstream(&text, &size);
  print(stream);
  std::fclose(stream);
  const std::string all(text, size);
  std::free(text);
  return all;
}

}  // namespace

TEST_CASE("a progress line is as wide as it may be, and its end is what it loses first after the bar",
          "[train][progress]") {
  const auto text = [](std::size_t width) {
    return detail::progress_text("seed 1 ", 0.5, "  loss 0.1234  0:07 left", width);
  };
  const std::string whole = "seed 1 [############............]  50 %  loss 0.1234  0:07 left";
  CHECK(text(std::string::npos) == whole);
  CHECK(text(whole.size()) == whole);
  CHECK(text(whole.size() - 4) == "seed 1 [##########..........]  50 %  loss 0.1234  0:07 left");
  CHECK(text(43) == "seed 1 [##..]  50 %  loss 0.1234  0:07 left");
  CHECK(text(42) == "seed 1   50 %  loss 0.1234  0:07 left");
  CHECK(text(26) == "seed 1   50 %  loss 0.1234");
  CHECK(text(3) == "see");
  CHECK(text(0).empty());
  // Characters of several bytes take one column, and are not cut apart.
  CHECK(detail::progress_text("Übung ", 0, "", 17) == "Übung    0 %");
  CHECK(detail::progress_text("Übung ", 0, "", 18) == "Übung [....]   0 %");
  CHECK(detail::progress_text("aÜb", 0, "", 2) == "aÜ");
}

TEST_CASE("without a terminal, a progress line is printed at each tenth", "[train][progress]") {
  const std::string all = printed_to_memory([](std::FILE* stream) {
    ProgressLine line(stream);
    for (int run = 0; run < 2; ++run) {
      for (int i = 1; i <= 1000; ++i)
        if (line.due(i / 1000.0)) line.draw("a ", i / 1000.0, " b");
      line.erase();  // nothing to take away
      line.end();
    }
  });
  CHECK(std::count(all.begin(), all.end(), '\n') == 20);
  CHECK(all.find('\r') == std::string::npos);
  CHECK(all.starts_with("a [##......................]  10 % b\n"));
  CHECK(all.ends_with("a [########################] 100 % b\n"));
}

#ifdef TIOCGWINSZ
TEST_CASE("on a terminal, a progress line stays within the width of the window", "[train][progress]") {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) {
    WARN("there are no pseudo-terminals here");
    return;
  }
  std::FILE* const stream = std::fopen(ptsname(master), "r+");
  REQUIRE(stream);
  const auto set_width = [&](unsigned short columns) {
    const winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    REQUIRE(ioctl(master, TIOCSWINSZ, &size) == 0);
  };
  const auto read_all = [&] {
    std::string text(4096, '\0');
    const auto size = read(master, text.data(), text.size());
    text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    return text;
  };
  REQUIRE(is_terminal(stream));
  set_width(60);
  CHECK(terminal_width(stream) == 60);
  {
    ProgressLine line(stream);
    CHECK(line.due(0));
    line.draw("seed 1 ", 0.25, "  loss 0.1234  accuracy 12.34 %");
    CHECK(read_all() == "\rseed 1 [###..........]  25 %  loss 0.1234  accuracy 12.34 %");  // 59 columns
    line.draw("seed 1 ", 0.5, "  loss 0.1");  // blanks over the rest
    CHECK(read_all() == "\rseed 1 [############............]  50 %  loss 0.1" + std::string(10, ' '));
    CHECK_FALSE(line.due(0.51));
    CHECK(line.due(1));
    set_width(20);
    line.draw("seed 1 ", 1, "  loss 0.1234");
    CHECK(read_all() == "\rseed 1  100 %  loss");
    line.erase();
    CHECK(read_all() == "\r" + std::string(19, ' ') + "\r");
    line.draw("seed 2 ", 0, "");
    CHECK(read_all() == "\rseed 2 [....]   0 %");
  }
  CHECK(read_all() == "\r\n");  // as the terminal shows a new line
  set_width(0);                 // a terminal that does not tell
  REQUIRE(setenv("COLUMNS", "47", 1) == 0);
  CHECK(terminal_width(stream) == 47);
  REQUIRE(setenv("COLUMNS", "wide", 1) == 0);
  CHECK(terminal_width(stream) == 80);
  REQUIRE(unsetenv("COLUMNS") == 0);
  CHECK(terminal_width(stream) == 80);
  std::fclose(stream);
  close(master);
}
#endif
