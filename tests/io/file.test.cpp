// SPDX-License-Identifier: MIT
#include "ddl/io/file.hpp"

#include <signal.h>
#include <sys/resource.h>

#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

namespace {

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

}  // namespace

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

TEST_CASE("a mapped file takes no memory", "[io][file]") {
  const TemporaryFolder folder;
  write_file(folder / "file", std::string(1'000'000, 'x'));
  CHECK(heap_use_of([&] { FileContents(folder / "file", Access::map); }).peak < 10'000);
  CHECK(heap_use_of([&] { FileContents(folder / "file", Access::read); }).peak >= 1'000'000);
}

TEST_CASE("what is no regular file is refused, without waiting for it", "[io][file]") {
  const TemporaryFolder folder;
  const Access access = GENERATE(Access::read, Access::map);
  const auto open = [&](const std::string& path) { return error_of([&] { FileContents(path, access); }); };
  CHECK_THAT(open(folder / "none"), ContainsSubstring("cannot open: No such file"));
  CHECK_THAT(open(folder / ""), ContainsSubstring("is a folder, expected a regular file"));
  CHECK_THAT(open("/dev/zero"), ContainsSubstring("is a device, expected a regular file"));
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK_THAT(open(folder / "pipe"), ContainsSubstring("is a pipe, expected a regular file"));

  const auto write = [&](const std::string& path) { return error_of([&] { FileWriter writer(path); }); };
  CHECK_THAT(write(folder / "none/file"), ContainsSubstring("cannot create a temporary"));
  CHECK_THAT(write(folder / ""), ContainsSubstring("is a folder"));
  CHECK_THAT(write("/dev/full"), ContainsSubstring("is a device, expected a regular file to replace"));
  CHECK_THAT(write(folder / "pipe"), ContainsSubstring("is a pipe"));
  CHECK(folder.count() == 1);
}

TEST_CASE("a file that shrinks while it is read is an error", "[io][file]") {
  const TemporaryFolder folder;
  write_file(folder / "file", "12345");
  const detail::Descriptor file(::open((folder / "file").c_str(), O_RDONLY));
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

TEST_CASE("a file keeps its permissions when it is replaced", "[io][file]") {
  const TemporaryFolder folder;
  write_file(folder / "file", "secret");
  std::filesystem::permissions(folder / "file", std::filesystem::perms::owner_read);
  FileWriter(folder / "file").commit();
  CHECK(read_file(folder / "file").empty());
  CHECK(std::filesystem::status(folder / "file").permissions() == std::filesystem::perms::owner_read);
}

TEST_CASE("whoever has the old file mapped keeps it", "[io][file]") {
  const TemporaryFolder folder;
  write_file(folder / "file", "the old file");
  const FileContents mapped(folder / "file", Access::map);
  FileWriter writer(folder / "file");
  writer.write(as_bytes("new"));
  writer.commit();
  CHECK(as_text(mapped.bytes()) == "the old file");
}
