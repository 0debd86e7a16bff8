// SPDX-License-Identifier: MIT
/// @file  The calls of the operating system that files need, of POSIX and of Windows. Nothing else in ddl
/// tells the two apart.
///
/// Functions that fail return -1 or a null pointer and set errno, on Windows, too.
#pragma once

#include "ddl/core/requirements.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#ifdef _WIN32
#include <io.h>
#include <share.h>
#else
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <system_error>

namespace ddl::detail::system {

using Path = std::filesystem::path;

#ifdef _WIN32

inline int open_shared(const Path& path, int flags, int sharing) noexcept {
  int file = -1;
  const int error =
      ::_wsopen_s(&file, path.c_str(), flags | _O_BINARY | _O_NOINHERIT, sharing, _S_IREAD | _S_IWRITE);
  if (error != 0) errno = error;
  return error == 0 ? file : -1;
}
inline int open_to_read(const Path& path) noexcept { return open_shared(path, _O_RDONLY, _SH_DENYNO); }
inline int create(const Path& path, std::filesystem::perms) noexcept {
  return open_shared(path, _O_WRONLY | _O_CREAT | _O_EXCL, _SH_DENYNO);
}
/// errno is EWOULDBLOCK if somebody else has it.
inline int open_alone(const Path& path) noexcept {
  const int file = open_shared(path, _O_RDWR | _O_CREAT, _SH_DENYRW);
  std::error_code ignored;
  if (file < 0 && errno == EACCES) errno = std::filesystem::exists(path, ignored) ? EWOULDBLOCK : EACCES;
  return file;
}
inline std::FILE* open_to_append(const Path& path) noexcept { return ::_wfopen(path.c_str(), L"abN"); }

inline std::int64_t read(int file, void* to, std::size_t count) noexcept {
  return ::_read(file, to, static_cast<unsigned>(count));
}
inline std::int64_t write(int file, const void* from, std::size_t count) noexcept {
  return ::_write(file, from, static_cast<unsigned>(count));
}
/// The offset after the last byte; the next read() is of the first.
inline std::int64_t size_of(int file) noexcept {
  const std::int64_t size = ::_lseeki64(file, 0, SEEK_END);
  return size < 0 || ::_lseeki64(file, 0, SEEK_SET) < 0 ? -1 : size;
}
inline int flush(int file) noexcept { return ::_commit(file); }
inline int close(int file) noexcept { return ::_close(file); }

/// Files are not mapped: one that is could not be replaced.
inline std::shared_ptr<const std::byte[]> map(int, std::size_t) { return nullptr; }
/// A folder needs no flush.
inline int flush_folder(const Path&) noexcept { return 0; }

#else

/// Does not wait for the writer of a pipe.
inline int open_to_read(const Path& path) noexcept {
  return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}
inline int create(const Path& path, std::filesystem::perms permissions) noexcept {
  return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, static_cast<mode_t>(permissions));
}
/// Moves a file that is open for long away from 0 to 2. A program that was started without its standard
/// streams would print into it.
inline int above_standard_streams(int file) noexcept {
  if (file < 0 || file > 2) return file;
  const int moved = ::fcntl(file, F_DUPFD_CLOEXEC, 3);
  ::close(file);
  return moved;
}
/// errno is EWOULDBLOCK if somebody else has it.
inline int open_alone(const Path& path) noexcept {
  const int file =
      above_standard_streams(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666));
  if (file < 0 || ::flock(file, LOCK_EX | LOCK_NB) == 0) return file;
  const int error = errno;
  ::close(file);
  errno = error;
  return -1;
}
inline std::FILE* open_to_append(const Path& path) noexcept {
  const int file =
      above_standard_streams(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  return file < 0 ? nullptr : ::fdopen(file, "a");
}

inline std::int64_t read(int file, void* to, std::size_t count) noexcept { return ::read(file, to, count); }
inline std::int64_t write(int file, const void* from, std::size_t count) noexcept {
  return ::write(file, from, count);
}
/// The offset after the last byte; the next read() is of the first.
inline std::int64_t size_of(int file) noexcept {
  const std::int64_t size = ::lseek(file, 0, SEEK_END);
  return size < 0 || ::lseek(file, 0, SEEK_SET) < 0 ? -1 : size;
}
inline int flush(int file) noexcept { return ::fsync(file); }
inline int close(int file) noexcept { return ::close(file); }

/// Null if it cannot be: an empty file, or a file system without mmap.
inline std::shared_ptr<const std::byte[]> map(int file, std::size_t size) {
  void* const address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  if (address == MAP_FAILED) return nullptr;
  return {static_cast<const std::byte*>(address),
          [address, size](const std::byte*) { ::munmap(address, size); }};
}
/// A new name is on the disk once its folder is. Folders that cannot be opened or flushed stay as they are.
inline int flush_folder(const Path& folder) noexcept {
  const int file = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return 0;
  const int result = ::fsync(file) != 0 && errno != EINVAL ? -1 : 0;
  const int error = errno;
  ::close(file);
  errno = error;
  return result;
}

#endif

}  // namespace ddl::detail::system
