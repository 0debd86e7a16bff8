// SPDX-License-Identifier: MIT
#include "ddl/data/bytes.hpp"

#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("a file is read whole, whatever its size and its bytes", "[datasets][bytes]") {
  const TemporaryFolder folder;
  for (const std::size_t size : {0u, 1u, 65535u, 65536u, 65537u, 400'000u}) {
    std::string bytes(size, '\0');
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * i % 257);
    write_file(folder / "file", bytes);
    CHECK(read_bytes(folder / "file") == bytes);
  }
}

TEST_CASE("a file that cannot be read is an error with its name", "[datasets][bytes]") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(read_bytes(folder / "none"),
                    folder / "none" + ": cannot open: No such file or directory");
  CHECK_THROWS_WITH(read_bytes(folder / ""), ContainsSubstring("cannot read: Is a directory"));
  CHECK_THROWS_AS(read_bytes(folder / ""), std::runtime_error);
}

TEST_CASE("a file is written whole, or the old one stays and nothing else", "[datasets][bytes]") {
  const TemporaryFolder folder;
  detail::write_bytes(folder / "file", "old and longer");
  detail::write_bytes(folder / "file", "new");
  CHECK(read_bytes(folder / "file") == "new");
  CHECK_THROWS_WITH(detail::write_bytes(folder / "none/file", "x"),
                    ContainsSubstring("none/file: cannot create"));
  std::filesystem::create_directories(folder / "full/x");
  CHECK_THROWS_WITH(detail::write_bytes(folder / "full", "x"), ContainsSubstring("full: cannot write: "));
  CHECK(folder.count() == 2);
}

TEST_CASE("what a message quotes is short and has no control characters", "[datasets][bytes]") {
  CHECK(detail::quoted_text("größe") == "\"größe\"");
  CHECK(detail::quoted_text(std::string_view("\0\x1f\x7f\n", 4)) == R"("\x00\x1f\x7f\x0a")");
  CHECK(detail::quoted_text(std::string(100, 'x')) == '"' + std::string(100, 'x') + '"');
  CHECK(detail::quoted_text(std::string(101, 'x')) == '"' + std::string(100, 'x') + "...\"");
}
