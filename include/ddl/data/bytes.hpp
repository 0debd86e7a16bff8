// SPDX-License-Identifier: MIT
/// @file  Whole files as bytes, and what the readers of data say when a file is wrong: std::runtime_error, whose what()
/// begins with the file's name.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace ddl {

namespace detail {

[[noreturn]] inline void fail_file(const std::string& file, const std::string& problem) {
  throw std::runtime_error(file + ": " + problem);
}

[[noreturn]] inline void fail_system(const std::string& file, const std::string& what) {
  const int error = errno;
  fail_file(file, what + ": " + std::generic_category().message(error));
}

/// A piece of a file for messages: in quotes, without control characters, cut if it is long.
inline std::string quoted_text(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown = "\"";
  for (const char c : text.substr(0, 100)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f)
      shown += c;
    else
      shown.append("\\x").append(1, digits[byte / 16u]).append(1, digits[byte % 16u]);
  }
  return shown + (text.size() > 100 ? "...\"" : "\"");
}

using OpenFile = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

/// Writes a file whole or not at all: under another name first, which it gives up for its own when it is complete.
inline void write_bytes(const std::string& path, std::string_view bytes) {
  const std::string temporary = path + ".tmp";
  OpenFile file(std::fopen(temporary.c_str(), "wb"), &std::fclose);
  if (!file) fail_system(path, "cannot create " + quoted_text(temporary));
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file.get()) == bytes.size();
  if (std::fclose(file.release()) != 0 || !written || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    std::remove(temporary.c_str());
    errno = error;
    fail_system(path, "cannot write");
  }
}

}  // namespace detail

/// All bytes of a file. @throws std::runtime_error if it cannot be read.
inline std::string read_bytes(const std::string& path) {
  const detail::OpenFile file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) detail::fail_system(path, "cannot open");
  std::string bytes;
  for (std::size_t count = 1; count > 0;) {
    const std::size_t before = bytes.size();
    bytes.resize(before + (std::max)(before, std::size_t{1} << 16));
    count = std::fread(bytes.data() + before, 1, bytes.size() - before, file.get());
    bytes.resize(before + count);
  }
  if (std::ferror(file.get()) != 0) detail::fail_system(path, "cannot read");
  return bytes;
}

}  // namespace ddl
