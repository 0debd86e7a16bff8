// SPDX-License-Identifier: MIT
/// @file  Whole files: read or mapped, and written so that nothing is lost; locks between processes. Names
/// are UTF-8 on Windows, and any bytes elsewhere.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "ddl/io/system.hpp"

namespace ddl {

/// Something is wrong with a file: what() begins with its name.
class FileError : public std::runtime_error {
 public:
  /// what() becomes "file: problem".
  FileError(const std::string& file, const std::string& problem)
      : std::runtime_error(file + ": " + problem), file_(file) {}
  const std::string& file() const noexcept { return file_; }  ///< its name

 private:
  std::string file_;
};

namespace detail {

[[noreturn]] inline void fail_errno(const std::string& file, const char* what) {
  const int error = errno;
  throw FileError(file, std::string(what) + ": " + std::generic_category().message(error));
}

/// The path that a name stands for, and the name of a path, with / between folders on Windows, too.
/// @throws FileError if no file can have this name.
inline system::Path path_of(const std::string& name) {
  try {
    return std::u8string(name.begin(), name.end());
  } catch (const std::system_error&) {
    throw FileError(name, "is no name of a file, expected UTF-8");
  }
}
inline std::string name_of(const system::Path& path) {
  const std::u8string name = path.generic_u8string();
  return {name.begin(), name.end()};
}

/// An open file, closed at the end of its scope.
class Descriptor {
 public:
  explicit Descriptor(int opened) noexcept : number_(opened) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() { close(); }

  bool is_open() const noexcept { return number_ >= 0; }
  int number() const noexcept { return number_; }
  bool close() noexcept { return !is_open() || system::close(std::exchange(number_, -1)) == 0; }

 private:
  int number_;
};

/// The largest count that one read() or write() of every system takes.
inline constexpr std::size_t most_bytes_at_once = std::size_t{1} << 30;

/// @throws FileError if fewer bytes are left than there is room for.
inline void read_exactly(const Descriptor& file, std::span<std::byte> to, const std::string& name) {
  for (std::size_t done = 0; done < to.size();) {
    const auto count =
        system::read(file.number(), to.data() + done, (std::min)(to.size() - done, most_bytes_at_once));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_errno(name, "cannot read");
    if (count == 0)
      throw FileError(name, "ended after " + std::to_string(done) + " bytes, expected " +
                                std::to_string(to.size()) + ": it shrank while it was read");
    done += static_cast<std::size_t>(count);
  }
}

/// What is at `path`; its type is not_found or none if nothing is, or nobody may look.
/// @throws FileError if it is no regular file.
inline std::filesystem::file_status regular_file_at(const system::Path& path, const std::string& name) {
  using std::filesystem::file_type;
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  const file_type type = status.type();
  if (type == file_type::regular || type == file_type::not_found || type == file_type::none) return status;
  const bool is_device = type == file_type::character || type == file_type::block;
  throw FileError(name, std::string("is ") +
                            (type == file_type::directory ? "a folder"
                             : type == file_type::fifo    ? "a pipe"
                             : is_device                  ? "a device"
                                                          : "a special file") +
                            ", expected a regular file");
}

}  // namespace detail

/// How to hold a file's bytes. A mapped file costs no memory of the process and must stay as it is while it
/// is held: if somebody cuts it short, reading it ends the program (SIGBUS). FileWriter never does that; it
/// puts a new file in the place of the old one, which stays whole for whoever has it mapped.
enum class Access { read, map };

/// The bytes of a whole file, which copies share.
class FileContents {
 public:
  /// Reads or maps the file at `path`.
  /// @throws FileError if it is no regular file or cannot be read. A file that cannot be mapped is read.
  explicit FileContents(std::string path, Access access = Access::read) : name_(std::move(path)) {
    const auto native = detail::path_of(name_);
    detail::regular_file_at(native, name_);
    const detail::Descriptor file(detail::system::open_to_read(native));
    if (!file.is_open()) detail::fail_errno(name_, "cannot open");
    const auto size = detail::system::size_of(file.number());
    if (size < 0) detail::fail_errno(name_, "cannot look at");
    if (!std::in_range<std::ptrdiff_t>(size))
      throw FileError(name_, "is " + std::to_string(size) + " bytes long, which no pointer can span");
    size_ = static_cast<std::size_t>(size);
    if (access == Access::map) memory_ = detail::system::map(file.number(), size_);
    if (memory_) return;
    const std::shared_ptr<std::byte[]> memory(new (std::nothrow) std::byte[size_]);
    if (!memory)
      throw FileError(name_, "is " + std::to_string(size) +
                                 " bytes long, for which there is no memory; Access::map takes none");
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

  const std::string& name() const noexcept { return name_; }                            ///< of the file
  std::span<const std::byte> bytes() const noexcept { return {memory_.get(), size_}; }  ///< all of them
  /// The bytes as characters.
  std::string_view text() const noexcept { return {reinterpret_cast<const char*>(memory_.get()), size_}; }

 private:
  std::string name_;
  std::size_t size_ = 0;
  std::shared_ptr<const std::byte[]> memory_;
};

/// Writes a file whole or not at all: into a temporary NAME.tmp0, NAME.tmp1 or so on in the same folder,
/// which takes the name only when all of it is on the disk. Whatever goes wrong, a full disk or a killed
/// process, the old file is whole. A FileWriter that is not committed removes its temporary; a killed process
/// leaves it behind.
class FileWriter {
 public:
  /// Creates the temporary.
  /// @throws FileError if `path` is there and no regular file, or its folder cannot be written to.
  explicit FileWriter(std::string path) : name_(std::move(path)), path_(detail::path_of(name_)), file_(-1) {
    using std::filesystem::perms;
    const auto old = detail::regular_file_at(path_, name_);
    const bool is_there = old.type() == std::filesystem::file_type::regular;
    // The new file is no more public than the old one.
    const perms permissions = is_there ? old.permissions() & perms::all : perms(0666);
    for (int i = 0; !file_.is_open(); ++i) {
      temporary_ = detail::path_of(name_ + ".tmp" + std::to_string(i));
      file_ = detail::Descriptor(detail::system::create(temporary_, permissions));
      if (!file_.is_open() && errno != EEXIST)
        detail::fail_errno(name_, "cannot create a temporary beside it");
    }
  }
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter() {
    if (is_committed_) return;
    file_.close();  // Windows removes no open file
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
  }

  /// Appends bytes to the temporary.
  /// @throws FileError
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const auto count = detail::system::write(file_.number(), bytes.data(),
                                               (std::min)(bytes.size(), detail::most_bytes_at_once));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) detail::fail_errno(name_, "cannot write");
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

  /// Puts the new file in the place of the old one. @throws FileError
  void commit() {
    if (detail::system::flush(file_.number()) != 0) detail::fail_errno(name_, "cannot flush to the disk");
    if (!file_.close()) detail::fail_errno(name_, "cannot close");
    std::error_code error;
    std::filesystem::rename(temporary_, path_, error);
    if (error) throw FileError(name_, "cannot replace: " + error.message());
    is_committed_ = true;
    if (detail::system::flush_folder(path_.parent_path()) != 0)
      detail::fail_errno(name_, "is written, but its folder cannot be flushed to the disk");
  }

 private:
  std::string name_;
  detail::system::Path path_, temporary_;
  detail::Descriptor file_;
  bool is_committed_ = false;
};

/// Writes a whole file, or leaves the old one (FileWriter). @throws FileError
inline void replace_file(const std::string& path, std::string_view text) {
  FileWriter file(path);
  file.write(std::as_bytes(std::span(text.data(), text.size())));
  file.commit();
}

/// A lock that one holder at a time has, among all processes and the threads of each. It ends with the object
/// or with its process, however that ends. The file is empty, is made if it is not there, and stays.
///
///     const ddl::FileLock lock(folder + "/lock");   // from here on the folder is ours
class FileLock {
 public:
  /// Takes the lock.
  /// @throws FileError if somebody else holds the lock, or the file cannot be made.
  explicit FileLock(const std::string& name) : file_(-1) {
    const auto path = detail::path_of(name);
    detail::regular_file_at(path, name);
    file_ = detail::Descriptor(detail::system::open_alone(path));
    if (!file_.is_open() && errno == EWOULDBLOCK)
      throw FileError(name, "is locked, expected that no other program or thread uses it");
    if (!file_.is_open()) detail::fail_errno(name, "cannot lock");
  }

 private:
  detail::Descriptor file_;
};

}  // namespace ddl
