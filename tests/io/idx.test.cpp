// SPDX-License-Identifier: MIT
#include "ddl/io/idx.hpp"

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;
using namespace std::string_literals;

namespace {

/// The bytes of these numbers, big-endian.
template <class T>
std::string big(std::initializer_list<T> values) {
  std::string bytes;
  for (const T value : values) {
    auto element = std::bit_cast<std::array<char, sizeof(T)>>(value);
    if constexpr (std::endian::native == std::endian::little) std::reverse(element.begin(), element.end());
    bytes.append(element.data(), element.size());
  }
  return bytes;
}

std::string idx(int type, std::initializer_list<std::uint32_t> shape, const std::string& data) {
  return "\0\0"s + static_cast<char>(type) + static_cast<char>(shape.size()) + big(shape) + data;
}

}  // namespace

TEST_CASE("images of bytes become columns between 0 and 1", "[io][idx]") {
  const std::string bytes = idx(8, {2, 2, 3}, "\x00\x01\x02\x03\x04\x05\xff\x80\x40\x20\x10\x08"s);
  Matrix<double> expected(6, 2);
  expected << 0, 255, 1, 128, 2, 64, 3, 32, 4, 16, 5, 8;
  CHECK(parse_idx_images<double>(bytes, "x") == expected / 255);
  CHECK(parse_idx_images<float>(bytes, "x") == expected.cast<float>() / 255.f);
  CHECK(parse_idx_images<Eigen::half>(bytes, "x")(0, 1) == Eigen::half(1.f));
}

TEST_CASE("every type of element is read as it is", "[io][idx]") {
  const Matrix<double> expected = Eigen::RowVector3d(-1, 2, 100);
  const auto check = [&](int type, const std::string& data) {
    CHECK(parse_idx_images<double>(idx(type, {3}, data), "x") == expected);
  };
  check(9, big<std::int8_t>({-1, 2, 100}));
  check(11, big<std::int16_t>({-1, 2, 100}));
  check(12, big<std::int32_t>({-1, 2, 100}));
  check(13, big<float>({-1, 2, 100}));
  check(14, big<double>({-1, 2, 100}));
  CHECK(parse_idx_images<double>(idx(12, {2}, big<std::int32_t>({0x01020304, -2})), "x") ==
        Eigen::RowVector2d(0x01020304, -2));
}

TEST_CASE("labels are integers of any size", "[io][idx]") {
  const std::vector<int> expected = {7, 0, 100};
  CHECK(parse_idx_labels(idx(8, {3}, "\x07\x00\x64"s), "x") == expected);
  CHECK(parse_idx_labels(idx(8, {2}, "\xff\x80"), "x") == std::vector{255, 128});
  CHECK(parse_idx_labels(idx(9, {3}, big<std::int8_t>({7, 0, 100})), "x") == expected);
  CHECK(parse_idx_labels(idx(11, {3}, big<std::int16_t>({7, 0, 100})), "x") == expected);
  CHECK(parse_idx_labels(idx(12, {3}, big<std::int32_t>({7, 0, 100})), "x") == expected);
  CHECK_THROWS_WITH(parse_idx_labels(idx(12, {2}, big<std::int32_t>({7, -3})), "NAME"),
                    "NAME: label 1 is -3, expected 0 to 2147483647");
  CHECK_THROWS_WITH(parse_idx_labels(idx(13, {1}, big<float>({7})), "NAME"),
                    "NAME: holds numbers of type F32, expected integers: class numbers");
  CHECK_THROWS_WITH(parse_idx_labels(idx(8, {1, 2}, "ab"), "NAME"),
                    "NAME: has shape [1, 2], expected one label for each sample");
}

TEST_CASE("an array may have 1 to 8 dimensions, and be empty", "[io][idx]") {
  const std::string eight = idx(8, {2, 1, 2, 1, 1, 2, 1, 1}, "\0\1\2\3\4\5\6\7"s);
  const auto images = parse_idx_images<double>(eight, "x");
  CHECK(images.rows() == 4);
  CHECK(images(3, 0) == 3. / 255);
  CHECK(images(0, 1) == 4. / 255);
  CHECK(parse_idx_images<double>(idx(8, {0, 28, 28}, ""), "x").rows() == 784);
  CHECK(parse_idx_images<double>(idx(8, {0xffffffff, 0}, ""), "x").size() == 0);
  CHECK(parse_idx_labels(idx(8, {0}, ""), "x").empty());
  for (const char rank : {'\0', '\x09', '\xff'})
    CHECK_THROWS_WITH(
        parse_idx_images<float>("\0\0\x08"s + rank + std::string(2000, '\0'), "NAME"),
        "NAME: has " + std::to_string(static_cast<unsigned char>(rank)) + " dimensions, expected 1 to 8");
}

TEST_CASE("files are read as their bytes are", "[io][idx]") {
  const TemporaryFolder folder;
  write_file(folder / "images", idx(8, {1, 2}, "\xff\x00"s));
  write_file(folder / "labels", idx(8, {1}, "\x03"));
  CHECK(read_idx_images<float>(folder / "images") == Eigen::Vector2f(1, 0));
  CHECK(read_idx_labels(folder / "labels") == std::vector{3});
  CHECK_THROWS_WITH(read_idx_labels(folder / "none"), ContainsSubstring("none: cannot open"));
  write_file(folder / "images", "");
  CHECK_THROWS_WITH(read_idx_images<float>(folder / "images"),
                    ContainsSubstring(folder / "images: is 0 bytes long"));
}

TEST_CASE("a file that is not what its header says is refused", "[io][idx][errors]") {
  const auto check = [](const std::string& bytes, const std::string& problem) {
    INFO(problem);
    const auto use = heap_use_of([&] {
      CHECK_THROWS_WITH(parse_idx_images<double>(bytes, "NAME"), ContainsSubstring("NAME: " + problem));
    });
    CHECK(use.largest < 10'000);
    CHECK_THROWS_AS(parse_idx_labels(bytes, "NAME"), std::runtime_error);
  };
  check("", "is 0 bytes long, expected at least the 4");
  check("\0\0\x08"s, "is 3 bytes long, expected at least the 4");
  check("\0\1\x08\x01"s, R"(begins with "\x00\x01\x08\x01", expected two zero bytes)");
  check("x\0\x08\x01"s, "begins with");
  check("\x1f\x8b\x08\x08", "is compressed by gzip");
  for (const int type : {0, 7, 10, 15, 255})
    check(idx(type, {1}, "x"),
          "has elements of type " + std::to_string(type) + ", expected 8, 9 or 11 to 14");
  const std::string good = idx(8, {2, 3}, "abcdef");
  for (std::size_t size = 4; size < 12; ++size)
    check(good.substr(0, size),
          "is " + std::to_string(size) + " bytes long, expected at least 12: the sizes of its 2 dimensions");
  check(good.substr(0, 17), "has 5 bytes of data, expected 6 for U8 of shape [2, 3]");
  check(good + "x", "has 7 bytes of data, expected 6 for U8 of shape [2, 3]");
  check(idx(14, {2}, "12345678"), "has 8 bytes of data, expected 16");
  check(idx(8, {0xffffffff}, "abc"), "has 3 bytes of data, expected 4294967295");
  check(idx(8, {0x10000, 0x10000}, ""), "has 0 bytes of data, expected 4294967296");
  check(idx(8, {0x10000, 0x10000, 0x10000, 0x10000}, ""), "claims the shape [65536, 65536, 65536, 65536]");
  check(idx(8, {0, 0xffffffff, 0xffffffff, 0xffffffff}, ""), "claims the shape");
  check(idx(14, {0x80000000, 0x40000000}, ""), "claims the shape");
  check(idx(8, {0, 3}, "x"), "has 1 bytes of data, expected 0");
}
