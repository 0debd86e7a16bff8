// SPDX-License-Identifier: MIT
#include "ddl/io/file.hpp"

#include <functional>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("a file is read and mapped alike", "[io][file]") {
  const TemporaryFolder folder;
  const std::string text = GENERATE(as<std::string>(), "", "x", "some bytes");
  const Access access = GENERATE(Access::read, Access::map);
  write_file(folder / "file", text);
  FileContents contents(folder / "file", access);
  CHECK(contents.name() == folder / "file");
  CHECK(as_text(contents.bytes()) == text);
  const FileContents copy = contents;
  CHECK(copy.bytes().data() == contents.bytes().data());
  contents = FileContents("name", copy.bytes());
  CHECK(as_text(contents.bytes()) == text);
  const FileContents in_memory("name", as_bytes(text));
  CHECK(as_text(in_memory.bytes()) == text);
}

#if DDL_TEST_POSIX  // elsewhere it is read
TEST_CASE("a mapped file takes no memory", "[io][file]") {
  const TemporaryFolder folder;
  write_file(folder / "file", std::string(1'000'000, 'x'));
  CHECK(heap_use_of([&] { FileContents(folder / "file", Access::map); }).peak < 10'000);
  CHECK(heap_use_of([&] { FileContents(folder / "file", Access::read); }).peak >= 1'000'000);
}
#endif

TEST_CASE("what is no regular file is refused, without waiting for it", "[io][file]") {
  const TemporaryFolder folder;
  const Access access = GENERATE(Access::read, Access::map);
  const auto open = [&](const std::string& path) { return error_of([&] { FileContents(path, access); }); };
  CHECK_THAT(open(folder / "none"), ContainsSubstring("cannot open: No such file"));
  CHECK_THAT(open(folder / ""), ContainsSubstring("is a folder, expected a regular file"));
  const auto write = [&](const std::string& path) { return error_of([&] { FileWriter writer(path); }); };
  CHECK_THAT(write(folder / "none/file"), ContainsSubstring("cannot create a temporary"));
  CHECK_THAT(write(folder / ""), ContainsSubstring("is a folder"));
  const auto lock = [&](const std::string& path) { return error_of([&] { FileLock held(path); }); };
  CHECK_THAT(lock(folder / "none/file"), ContainsSubstring("cannot lock: No such file"));
  CHECK_THAT(lock(folder / ""), ContainsSubstring("is a folder"));
  CHECK(folder.count() == 0);
#if DDL_TEST_POSIX
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  for (const auto& use : {std::function(open), std::function(write), std::function(lock)}) {
    CHECK_THAT(use("/dev/full"), ContainsSubstring("is a device, expected a regular file"));
    CHECK_THAT(use(folder / "pipe"), ContainsSubstring("is a pipe, expected a regular file"));
  }
  CHECK(folder.count() == 1);
#endif
}

TEST_CASE("a file that shrinks while it is read is an error", "[io][file]") {
  const TemporaryFolder folder;
  write_file(folder / "file", "12345");
  const detail::Descriptor file(detail::system::open_to_read(detail::path_of(folder / "file")));
  std::vector<std::byte> memory(6);
  CHECK_THAT(error_of([&] { detail::read_exactly(file, memory, "NAME"); }),
             ContainsSubstring("NAME: ended after 5 bytes, expected 6"));
}

TEST_CASE("a file is written whole or not at all", "[io][file]") {
  const TemporaryFolder folder;
  const std::string path = folder / "file", old_text = "the old file", text(100'000, 'x');
  const bool there = GENERATE(false, true);
  if (there) write_file(path, old_text);
  const auto check_old = [&] {
    CHECK(folder.count() == (there ? 1 : 0));
    if (there) CHECK(read_file(path) == old_text);
  };

  SECTION("committed") {
    FileWriter writer(path);
    writer.write(as_bytes(text));
    writer.write(as_bytes("end"));
    if (there) CHECK(read_file(path) == old_text);
    writer.commit();
    CHECK(read_file(path) == text + "end");
    CHECK(folder.count() == 1);
  }
  SECTION("not committed") {
    {
      FileWriter writer(path);
      writer.write(as_bytes(text));
    }
    check_old();
  }
#if DDL_TEST_POSIX
  SECTION("on a full disk") {
    const FullDisk disk(4096);
    CHECK_THAT(error_of([&] {
                 FileWriter writer(path);
                 writer.write(as_bytes(text));
                 writer.commit();
               }),
               ContainsSubstring(path + ": cannot write: File too large"));
    check_old();
  }
#endif
  SECTION("into a name that became a folder") {
    FileWriter writer(path);
    std::filesystem::remove(path);
    std::filesystem::create_directories(path + "/full");
    CHECK_THAT(error_of([&] { writer.commit(); }), ContainsSubstring("cannot replace"));
    std::filesystem::remove_all(path);
  }
  SECTION("beside what a killed process left") {
    write_file(path + ".tmp0", "left");
    FileWriter writer(path);
    writer.write(as_bytes(text));
    writer.commit();
    CHECK(read_file(path) == text);
    CHECK(read_file(path + ".tmp0") == "left");
  }
}

#if DDL_TEST_POSIX  // elsewhere a file that may not be written may not be replaced either
TEST_CASE("a file keeps its permissions when it is replaced", "[io][file]") {
  const TemporaryFolder folder;
  write_file(folder / "file", "secret");
  std::filesystem::permissions(folder / "file", std::filesystem::perms::owner_read);
  FileWriter(folder / "file").commit();
  CHECK(read_file(folder / "file").empty());
  CHECK(std::filesystem::status(folder / "file").permissions() == std::filesystem::perms::owner_read);
}
#endif

TEST_CASE("whoever has the old file mapped keeps it", "[io][file]") {
  const TemporaryFolder folder;
  write_file(folder / "file", "the old file");
  const FileContents mapped(folder / "file", Access::map);
  FileWriter writer(folder / "file");
  writer.write(as_bytes("new"));
  writer.commit();
  CHECK(as_text(mapped.bytes()) == "the old file");
}

#if DDL_TEST_POSIX && !DDL_TEST_SANITIZED
TEST_CASE("a file that memory does not hold is named, with its size", "[io][file]") {
  const TemporaryFolder folder;
  const std::string path = folder / "large";
  write_file(path, "");
  std::filesystem::resize_file(path, std::uintmax_t{1} << 31);  // a hole
  const int status = in_another_process([&] {
    const rlimit limit{rlim_t{1} << 30, rlim_t{1} << 30};
    ::setrlimit(RLIMIT_AS, &limit);
    const std::string message = error_of([&] { FileContents{path}; });
    if (message != path + ": is 2147483648 bytes long, for which there is no memory; Access::map takes none")
      throw std::runtime_error(message);
  });
  CHECK(status == 0);
}
#endif

TEST_CASE("names are UTF-8", "[io][file]") {
  const TemporaryFolder folder;
  const std::string name = folder /
                           "gr\xc3\xb6\xc3\x9f"
                           "e \xe2\x82\xac \xf0\x9f\x98\x80";
  replace_file(name, "text");
  CHECK(FileContents(name).text() == "text");
  CHECK(folder.count() == 1);
  const auto path = std::filesystem::directory_iterator(detail::path_of(folder / ""))->path();
  CHECK(detail::name_of(path.filename()) == name.substr((folder / "").size()));
  CHECK(FileContents(detail::name_of(path)).text() == "text");
#ifdef _WIN32
  CHECK_THAT(error_of([] { FileContents("\xff"); }),
             ContainsSubstring("is no name of a file, expected UTF-8"));
#else
  replace_file(folder / "\xff", "bytes");
  CHECK(FileContents(folder / "\xff").text() == "bytes");
#endif
}

TEST_CASE("a lock has one holder at a time", "[io][file]") {
  const TemporaryFolder folder;
  const std::string path = folder / "lock";
  const auto try_lock = [&] { return error_of([&] { FileLock lock(path); }); };
  const std::string refused = path + ": is locked, expected that no other program or thread uses it";
  {
    FileLock lock(path);
    CHECK(try_lock() == refused);
    const FileLock moved = std::move(lock);
    CHECK(try_lock() == refused);
    CHECK(in_another_process([&] {
            if (try_lock() != refused) throw std::runtime_error("two hold one lock");
          }) == 0);
  }
  CHECK(try_lock() == "no error");
  CHECK(read_file(path).empty());
}

#if DDL_TEST_POSIX
TEST_CASE("a lock ends with its process, even if that is killed", "[io][file]") {
  const TemporaryFolder folder;
  const int status = in_another_process([&] {
    const FileLock lock(folder / "lock");
    ::raise(SIGKILL);
  });
  CHECK(WIFSIGNALED(status));
  CHECK(error_of([&] { FileLock lock(folder / "lock"); }) == "no error");
}
#endif
