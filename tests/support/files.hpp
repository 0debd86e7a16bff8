// SPDX-License-Identifier: MIT
/// @file  Files for tests: a folder of their own, bytes in and out, the folder of committed data; what only
/// POSIX has.
#pragma once

/// Whether there are fork(), signals, pipes and limits. Only this file and tests of these look at it.
#ifdef _WIN32
#define DDL_TEST_POSIX 0
#else
#define DDL_TEST_POSIX 1
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "ddl/io/file.hpp"

namespace ddl::test {

/// A folder that is gone at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::random_device random;
    do
      path_ =
          detail::name_of(std::filesystem::temp_directory_path() / ("ddl-test-" + std::to_string(random())));
    while (!std::filesystem::create_directory(detail::path_of(path_)));
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(detail::path_of(path_), ignored);
  }

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  /// The number of files in it.
  auto count() const {
    return std::distance(std::filesystem::directory_iterator(detail::path_of(path_)), {});
  }

 private:
  std::string path_;
};

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline std::string as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline void write_file(const std::string& path, std::string_view text) {
  std::ofstream file(detail::path_of(path), std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(detail::path_of(path), std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// tests/data/NAME
inline std::string data_path(const std::string& name) {
  return (std::filesystem::path(__FILE__).parent_path().parent_path() / "data" / name).string();
}

/// What the FileError says that f() throws, which begins with the file's name.
template <class F>
std::string error_of(const F& f) {
  try {
    f();
  } catch (const FileError& error) {
    const std::string message = error.what();
    return message.starts_with(error.file() + ": ") ? message : "no name before: " + message;
  }
  return "no error";
}

/// f() in a process of its own. @return its status as waitpid() gives it, 0 if all went well. Windows has no
/// fork(): there f() runs in this process.
template <class F>
int in_another_process(const F& f) {
#if DDL_TEST_POSIX
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      f();
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
#else
  f();
  return 0;
#endif
}

#if DDL_TEST_POSIX
/// While there is one of these, a file of this process cannot grow beyond `bytes`: a full disk.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : ignore_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit = {bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    ::signal(SIGXFSZ, ignore_);
  }

 private:
  void (*ignore_)(int);
  rlimit old_ = {};
};
#endif

}  // namespace ddl::test
