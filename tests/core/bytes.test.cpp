// SPDX-License-Identifier: MIT
#include "ddl/core/bytes.hpp"

#include <string_view>
#include <vector>

#include "support/catch.hpp"

using namespace ddl;

namespace {

std::uint64_t hash_of(std::string_view text) { return xxh64(std::as_bytes(std::span(text))); }

}  // namespace

TEST_CASE("XXH64 gives the reference's values", "[core][bytes]") {
  CHECK(hash_of("") == 0xef46db3751d8e999u);
  CHECK(hash_of("a") == 0xd24ec4f1a98c6e5bu);
  CHECK(hash_of("abc") == 0x44bc2cf5ad770999u);

  // The buffer and the values of the reference's self-test, xxHash/cli/xsum_sanity_check.c.
  std::vector<std::byte> buffer(222);
  std::uint64_t generator = 2654435761u;
  for (std::byte& byte : buffer) {
    byte = static_cast<std::byte>(generator >> 56);
    generator *= 11400714785074694797u;
  }
  const auto first = [&](std::size_t count) { return std::span<const std::byte>(buffer).first(count); };
  CHECK(xxh64(first(1)) == 0xe934a84adb052768u);
  CHECK(xxh64(first(4)) == 0x9136a0dca57457eeu);
  CHECK(xxh64(first(14)) == 0x8282dcc4994e35c8u);
  CHECK(xxh64(first(222)) == 0xb641ae8cb691c174u);
  CHECK(xxh64(first(222), 2654435761u) == 0x20cb8ab7ae10c14au);
}

TEST_CASE("XXH64 does not depend on the alignment", "[core][bytes]") {
  std::vector<std::byte> bytes(100);
  for (std::size_t i = 0; i < 77; ++i) bytes[i] = static_cast<std::byte>(3 * i);
  const std::uint64_t expected = xxh64(std::span(bytes).first(77));
  for (std::size_t shift = 1; shift < 16; ++shift) {
    std::vector<std::byte> moved(bytes.size());
    std::copy(bytes.begin(), bytes.begin() + 77, moved.begin() + static_cast<std::ptrdiff_t>(shift));
    CHECK(xxh64(std::span(moved).subspan(shift, 77)) == expected);
  }
}
