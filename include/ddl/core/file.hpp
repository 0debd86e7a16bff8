// SPDX-License-Identifier: MIT
/// @file  Whole files: read or mapped, and written so that nothing is lost. POSIX.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "ddl/core/requirements.hpp"

namespace ddl {

/// Something is wrong with a file: what() begins with its name.
class FileError : public std::runtime_error {
 public:
  FileError(const std::string& file, const std::string& problem)
      : std::runtime_error(file + ": " + problem), file_(file) {}
  const std::string& file() const noexcept { return file_; }

 private:
  std::string file_;
};

namespace detail {

[[noreturn]] inline void fail_errno(const std::string& file, const char* what) {
  const int error = errno;
  throw FileError(file, std::string(what) + ": " + std::generic_category().message(error));
}

/// An open file, closed at the end of its scope.
struct Descriptor {
  int number;

  explicit Descriptor(int opened) noexcept : number(opened) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { close(); }
  bool close() noexcept { return number < 0 || ::close(std::exchange(number, -1)) == 0; }
};

/// The largest count that one read() or write() of every system takes.
inline constexpr std::size_t most_bytes_at_once = std::size_t{1} << 30;

/// @throws FileError if fewer bytes are left than there is room for.
inline void read_exactly(const Descriptor& file, std::span<std::byte> to, const std::string& name) {
  for (std::size_t done = 0; done < to.size();) {
    const auto count =
        ::read(file.number, to.data() + done, (std::min)(to.size() - done, most_bytes_at_once));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_errno(name, "cannot read");
    if (count == 0)
      throw FileError(name, "ended after " + std::to_string(done) + " bytes, expected " +
                                std::to_string(to.size()) + ": it shrank while it was read");
    done += static_cast<std::size_t>(count);
  }
}

inline const char* kind_of_file(mode_t mode) noexcept {
  return S_ISDIR(mode)                    ? "a folder"
         : S_ISFIFO(mode)                 ? "a pipe"
         : S_ISCHR(mode) || S_ISBLK(mode) ? "a device"
                                          : "a special file";
}

}  // namespace detail

/// How to hold a file's bytes. A mapped file costs no memory of the process and must stay as it is while it
/// is held: if somebody cuts it short, reading it ends the program (SIGBUS). FileWriter never does that; it
/// puts a new file in the place of the old one, which stays whole for whoever has it mapped.
enum class Access { read, map };

/// The bytes of a whole file, which copies share.
class FileContents {
 public:
  /// @throws FileError if it is no regular file or cannot be read. A file that cannot be mapped is read.
  explicit FileContents(std::string path, Access access = Access::read) : name_(std::move(path)) {
    // Opening a pipe must not wait for its writer.
    const detail::Descriptor file(::open(name_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.number < 0) detail::fail_errno(name_, "cannot open");
    struct stat status = {};
    if (::fstat(file.number, &status) != 0) detail::fail_errno(name_, "cannot look at");
    if (!S_ISREG(status.st_mode))
      throw FileError(
          name_, std::string("is ") + detail::kind_of_file(status.st_mode) + ", expected a regular file");
    if (!std::in_range<std::ptrdiff_t>(status.st_size))
      throw FileError(name_,
                      "is " + std::to_string(status.st_size) + " bytes long, which no pointer can span");
    size_ = static_cast<std::size_t>(status.st_size);
    if (access == Access::map && map(file)) return;
    const std::shared_ptr<std::byte[]> memory(new std::byte[size_]);
    detail::read_exactly(file, {memory.get(), size_}, name_);
    memory_ = memory;
  }

  /// A copy of bytes in memory, `name` being what errors call them.
  FileContents(std::string name, std::span<const std::byte> bytes)
      : name_(std::move(name)), size_(bytes.size()) {
    const std::shared_ptr<std::byte[]> memory(new std::byte[size_]);
    std::copy(bytes.begin(), bytes.end(), memory.get());
    memory_ = memory;
  }

  const std::string& name() const noexcept { return name_; }
  std::span<const std::byte> bytes() const noexcept { return {memory_.get(), size_}; }
  std::string_view text() const noexcept { return {reinterpret_cast<const char*>(memory_.get()), size_}; }

 private:
  bool map(const detail::Descriptor& file) {
    void* const address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number, 0);
    if (address == MAP_FAILED) return false;  // an empty file, or a file system without mmap
    memory_ = std::shared_ptr<const std::byte[]>(
        static_cast<const std::byte*>(address),
        [address, size = size_](const std::byte*) { ::munmap(address, size); });
    return true;
  }

  std::string name_;
  std::size_t size_ = 0;
  std::shared_ptr<const std::byte[]> memory_;
};

/// Writes a file whole or not at all: into a temporary NAME.tmp<i> in the same folder, which takes the name
/// only when all of it is on the disk. Whatever goes wrong, a full disk or a killed process, the old file is
/// whole. A FileWriter that is not committed removes its temporary; a killed process leaves it behind.
class FileWriter {
 public:
  /// @throws FileError if `path` is there and no regular file, or its folder cannot be written to.
  explicit FileWriter(std::string path) : name_(std::move(path)), file_(-1) {
    struct stat old = {};
    mode_t mode = 0666;
    if (::stat(name_.c_str(), &old) == 0) {
      if (!S_ISREG(old.st_mode))
        throw FileError(name_, std::string("is ") + detail::kind_of_file(old.st_mode) +
                                   ", expected a regular file to replace");
      mode = old.st_mode & 0777;  // the new file is no more public than the old one
    }
    for (int i = 0; file_.number < 0; ++i) {
      temporary_ = name_ + ".tmp" + std::to_string(i);
      file_.number = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
      if (file_.number < 0 && errno != EEXIST)
        detail::fail_errno(name_, "cannot create a temporary beside it");
    }
  }
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter() {
    if (!committed_) ::unlink(temporary_.c_str());
  }

  /// @throws FileError
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const auto count =
          ::write(file_.number, bytes.data(), (std::min)(bytes.size(), detail::most_bytes_at_once));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) detail::fail_errno(name_, "cannot write");
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

  /// Puts the new file in the place of the old one. @throws FileError
  void commit() {
    if (::fsync(file_.number) != 0) detail::fail_errno(name_, "cannot flush to the disk");
    if (!file_.close()) detail::fail_errno(name_, "cannot close");
    if (std::rename(temporary_.c_str(), name_.c_str()) != 0) detail::fail_errno(name_, "cannot replace");
    committed_ = true;
    // The new name is on the disk once its folder is. Folders that cannot be opened or flushed stay as they
    // are.
    const auto slash = name_.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : name_.substr(0, slash + 1);
    const detail::Descriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory.number >= 0 && ::fsync(directory.number) != 0 && errno != EINVAL)
      detail::fail_errno(name_, "is written, but its folder cannot be flushed to the disk");
  }

 private:
  std::string name_, temporary_;
  detail::Descriptor file_;
  bool committed_ = false;
};

/// Writes a whole file, or leaves the old one (FileWriter). @throws FileError
inline void replace_file(const std::string& path, std::string_view text) {
  FileWriter file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace ddl
