// SPDX-License-Identifier: MIT
#include "ddl/io/npy.hpp"

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;
using namespace std::string_literals;

namespace {

/// The bytes of a header and what comes after it.
std::string npy_of(const std::string& header, const std::string& data, int version = 1) {
  std::string bytes = "\x93NUMPY" + std::string(1, static_cast<char>(version)) + '\0';
  for (std::size_t i = 0; i < (version == 1 ? 2u : 4u); ++i)
    bytes += static_cast<char>(header.size() >> (8 * i) & 255);
  return bytes + header + data;
}
std::string npy(const std::string& type, bool fortran, const std::string& shape, const std::string& data,
                int version = 1) {
  return npy_of("{'descr': '" + type + "', 'fortran_order': " + (fortran ? "True" : "False") +
                    ", 'shape': " + shape + ", }     \n",
                data, version);
}

template <class T>
std::string bytes_of(char order, std::initializer_list<double> values) {
  std::string bytes;
  for (const double value : values) {
    auto element =
        Eigen::numext::bit_cast<std::array<char, sizeof(T)>>(static_cast<T>(static_cast<Accum<T>>(value)));
    if ((order == '>') == (std::endian::native == std::endian::little))
      std::reverse(element.begin(), element.end());
    bytes.append(element.data(), element.size());
  }
  return bytes;
}

}  // namespace

TEST_CASE("files as NumPy writes them are read", "[io][npy]") {
  // By NumPy 1.24.2, whose data begin at a multiple of 64 bytes.
  const auto saved = [](std::string header, const std::string& data) {
    header.resize(127, ' ');
    return header + "\n" + data;
  };
  // numpy.save of numpy.array([1., 2., 3.])
  const std::string bytes =
      saved("\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"s,
            "\0\0\0\0\0\0\xf0\x3f\0\0\0\0\0\0\x00\x40\0\0\0\0\0\0\x08\x40"s);
  CHECK(parse_npy<double>(bytes, "x") == Eigen::Vector3d(1, 2, 3));
  CHECK(parse_npy_samples<float>(bytes, "x") == Eigen::RowVector3f(1, 2, 3));

  // of numpy.array([[1.5, -2, 3], [4, 5, 6]], '>f4', order='F')
  const std::string by_columns =
      saved("\x93NUMPY\x01\x00v\x00{'descr': '>f4', 'fortran_order': True, 'shape': (2, 3), }"s,
            "?\xc0\0\0@\x80\0\0\xc0\0\0\0@\xa0\0\0@@\0\0@\xc0\0\0"s);
  CHECK(parse_npy<double>(by_columns, "x") == (Matrix<double>(2, 3) << 1.5, -2, 3, 4, 5, 6).finished());

  // of numpy.array(True)
  const std::string number =
      saved("\x93NUMPY\x01\x00v\x00{'descr': '|b1', 'fortran_order': False, 'shape': (), }"s, "\x01");
  CHECK(parse_npy<double>(number, "x") == Matrix<double>::Ones(1, 1));

  // numpy.lib.format.write_array of numpy.array([[1, 2], [3, 4]]), version=(2, 0)
  const std::string version_2 =
      saved("\x93NUMPY\x02\x00t\x00\x00\x00{'descr': '<i8', 'fortran_order': False, 'shape': (2, 2), }"s,
            "\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0"s);
  CHECK(parse_npy<double>(version_2, "x") == (Matrix<double>(2, 2) << 1, 2, 3, 4).finished());
}

TEMPLATE_TEST_CASE("every type is read in both byte orders, both orders of indices and all versions",
                   "[io][npy]", std::int8_t, std::int16_t, std::int32_t, std::int64_t, std::uint8_t,
                   std::uint16_t, std::uint32_t, std::uint64_t, Eigen::half, float, double) {
  using T = TestType;
  const std::string type = (!std::is_integral_v<T> ? "f"
                            : std::is_signed_v<T>  ? "i"
                                                   : "u") +
                           std::to_string(sizeof(T));
  const char order = GENERATE('<', '>');
  const int version = GENERATE(1, 2, 3);
  const double first = std::is_signed_v<T> || !std::is_integral_v<T> ? -3 : 3;
  Matrix<double> expected(2, 3);
  expected << first, 1, 2, 100, 5, 6;
  CAPTURE(type, order, version);
  const std::string by_rows =
      npy(order + type, false, "(2, 3)", bytes_of<T>(order, {first, 1, 2, 100, 5, 6}), version);
  const std::string by_columns =
      npy(order + type, true, "(2, 3)", bytes_of<T>(order, {first, 100, 1, 5, 2, 6}), version);
  for (const std::string& bytes : {by_rows, by_columns}) {
    CHECK(parse_npy<double>(bytes, "x") == expected);
    CHECK(parse_npy<float>(bytes, "x") == expected.cast<float>());
    CHECK(parse_npy_samples<double>(bytes, "x") == expected.transpose());
  }
}

TEST_CASE("booleans are 0 and 1", "[io][npy]") {
  const std::string bytes = npy("|b1", false, "(3,)", "\0\1\2"s);
  CHECK(parse_npy<double>(bytes, "x") == Eigen::Vector3d(0, 1, 1));
  CHECK(parse_npy_labels(bytes, "x") == std::vector{0, 1, 1});
}

TEST_CASE("the limits of integers become the nearest real numbers", "[io][npy]") {
  CHECK(parse_npy<double>(npy("<u8", false, "(1,)", std::string(8, '\xff')), "x")(0, 0) == 0x1p64);
  CHECK(parse_npy<double>(npy(">i8", false, "(1,)", "\x80" + std::string(7, '\0')), "x")(0, 0) == -0x1p63);
}

TEST_CASE("any number of dimensions becomes samples of features, the last index fastest", "[io][npy]") {
  // Element (i, j, k) of 2 x 3 x 2 is 100 i + 10 j + k.
  Matrix<double> expected(6, 2);
  expected << 0, 100, 1, 101, 10, 110, 11, 111, 20, 120, 21, 121;
  const std::string by_last =
      bytes_of<std::int16_t>('<', {0, 1, 10, 11, 20, 21, 100, 101, 110, 111, 120, 121});
  const std::string by_first =
      bytes_of<std::int16_t>('<', {0, 100, 10, 110, 20, 120, 1, 101, 11, 111, 21, 121});
  CHECK(parse_npy_samples<double>(npy("<i2", false, "(2, 3, 2)", by_last), "x") == expected);
  CHECK(parse_npy_samples<double>(npy("<i2", true, "(2, 3, 2)", by_first), "x") == expected);
  CHECK_THROWS_WITH(parse_npy<double>(npy("<i2", true, "(2, 3, 2)", by_first), "NAME"),
                    "NAME: has shape [2, 3, 2], expected at most two dimensions");
  CHECK(parse_npy<double>(npy("|i1", false, "()", "\x05"), "x")(0, 0) == 5);
  CHECK(parse_npy_samples<double>(npy("|i1", false, "()", "\x05"), "x").size() == 1);
}

TEST_CASE("an empty array keeps its shape", "[io][npy]") {
  const auto rows = parse_npy<float>(npy("<f8", false, "(0, 3)", ""), "x");
  CHECK((rows.rows() == 0 && rows.cols() == 3));
  const auto cols = parse_npy<float>(npy("<f8", true, "(3, 0)", ""), "x");
  CHECK((cols.rows() == 3 && cols.cols() == 0));
  CHECK(parse_npy_labels(npy("<i8", false, "(0,)", ""), "x").empty());
}

TEST_CASE("labels are integers, one for each sample", "[io][npy]") {
  CHECK(parse_npy_labels(npy(">i8", false, "(3,)", bytes_of<std::int64_t>('>', {2, 0, 70000})), "x") ==
        std::vector{2, 0, 70000});
  CHECK(parse_npy_labels(npy("|u1", false, "(2, 1)", "\xff\x01"), "x") == std::vector{255, 1});
  CHECK_THROWS_WITH(parse_npy_labels(npy("|u1", false, "(1, 2)", "ab"), "NAME"),
                    "NAME: has shape [1, 2], expected one label for each sample");
  CHECK_THROWS_WITH(parse_npy_labels(npy("<f4", false, "(1,)", "abcd"), "NAME"),
                    "NAME: holds numbers of type F32, expected integers: class numbers");
  CHECK_THROWS_WITH(parse_npy_labels(npy("<i8", false, "(2,)", bytes_of<std::int64_t>('<', {0, -1})), "NAME"),
                    "NAME: label 1 is -1, expected 0 to 2147483647");
  CHECK_THROWS_WITH(parse_npy_labels(npy("<u4", false, "(1,)", "\0\0\0\x80"s), "NAME"),
                    "NAME: label 0 is 2147483648, expected 0 to 2147483647");
}

TEMPLATE_TEST_CASE("what is written is read again", "[io][npy]", float, double) {
  using Scalar = TestType;
  const TemporaryFolder folder;
  const auto check = [&](const auto& values, const std::string& shape) {
    write_npy(folder / "x.npy", values);
    CHECK(read_npy<Scalar>(folder / "x.npy") == values);
    const std::string bytes = read_file(folder / "x.npy");
    CHECK_THAT(bytes, ContainsSubstring(shape));
    const auto end = bytes.find('\n') + 1;
    CHECK(end % 64 == 0);
    CHECK(bytes.size() == end + static_cast<std::size_t>(values.size()) * sizeof(Scalar));
  };
  const Matrix<Scalar> x = Matrix<Scalar>::Random(3, 5);
  check(x, "'fortran_order': True, 'shape': (3, 5), }");
  check(Vector<Scalar>(x.col(1)), "'fortran_order': False, 'shape': (3,), }");
  CHECK(npy_bytes(x.row(1)) == npy_bytes(Vector<Scalar>(x.row(1).transpose())));
  CHECK(npy_bytes(Eigen::Matrix<Scalar, Dynamic, Dynamic, Eigen::RowMajor>(x)) == npy_bytes(x));
  check(Matrix<Scalar>(0, 4), "(0, 4)");
  CHECK(read_npy_samples<Scalar>((write_npy(folder / "x.npy", x), folder / "x.npy")) == x.transpose());
  CHECK_THROWS_WITH(write_npy(folder / "none/x.npy", x), ContainsSubstring("none/x.npy: cannot create"));
  write_file(folder / "y.npy", npy("<i4", false, "(1,)", "\x09\0\0\0"s));
  CHECK(read_npy_labels(folder / "y.npy") == std::vector{9});
}

TEST_CASE("bytes are written little-endian, the first index fastest", "[io][npy]") {
  const std::string bytes = npy_bytes((Matrix<float>(2, 2) << 1, 2, 3, 4).finished());
  CHECK(bytes.starts_with(
      "\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), } "s));
  CHECK(bytes.substr(128) == bytes_of<float>('<', {1, 3, 2, 4}));
}

TEST_CASE("a file that is not what its header says is refused", "[io][npy][errors]") {
  const auto check = [](const std::string& bytes, const std::string& problem) {
    INFO(problem);
    const auto use = heap_use_of([&] {
      CHECK_THROWS_WITH(parse_npy_samples<double>(bytes, "NAME"), ContainsSubstring("NAME: " + problem));
    });
    CHECK(use.largest < 10'000);
    CHECK_THROWS_AS(parse_npy_labels(bytes, "NAME"), std::runtime_error);
    CHECK_THROWS_AS(parse_npy<float>(bytes, "NAME"), std::runtime_error);
  };
  const std::string good = npy("<f4", false, "(2,)", "12345678");
  CHECK_NOTHROW(parse_npy<float>(good, "x"));
  check("", R"(begins with "", expected "\x93NUMPY")");
  check("\x93NUMPX\x01", R"(begins with ")");
  check("PK\x03\x04", "is an archive (.npz)");
  check(good.substr(0, 7), R"(has the version bytes "\x01")");
  check(npy("<f4", false, "(2,)", "12345678", 4),
        R"(has the version bytes "\x04\x00", expected 1.0, 2.0 or)");
  check("\x93NUMPY\x01\x01\0\0"s, R"(has the version bytes "\x01\x01")");
  check(good.substr(0, 9), "ends before the length of its header");
  check(npy("<f4", false, "(2,)", "12345678", 2).substr(0, 11), "ends before the length of its header");
  check(good.substr(0, 30), "has a header said to be " + std::to_string(good.size() - 18) +
                                " bytes long, expected at most 20, the rest of the file");
  const std::string empty = npy("<f4", false, "(0,)", "");
  check(empty.substr(0, empty.size() - 1), "has a header said to be");
  check("\x93NUMPY\x02\0\xff\xff\xff\xff{"s, "has a header said to be 4294967295 bytes long");
  check(good.substr(0, good.size() - 1), "has 7 bytes of data, expected 8 for F32 of shape [2]");
  check(good + "9", "has 9 bytes of data, expected 8");

  const auto type = [&](const std::string& text, const std::string& problem) {
    check(npy(text, false, "(1,)", "12345678"), problem);
  };
  type("|O", R"(holds Python objects, type "|O", expected b1, i1 to i8, u1 to u8, f2, f4 or f8)");
  type("<c16", R"(holds complex numbers, type "<c16", expected)");
  type("<c8", R"(holds complex numbers, type "<c8")");
  type("<U2", R"(holds text, type "<U2")");
  type("|S8", R"(holds text, type "|S8")");
  type("<M8[D]", R"(holds times, type "<M8[D]")");
  type("<m8[s]", R"(holds times, type "<m8[s]")");
  for (const std::string text :
       {"", "<", "f4", "<f", "<f3", "<f16", "<i3", "<f4x", "=f4", "|f4", "|i8", "|V8", "<b8", "< f4", "<F4"})
    type(text, "holds type \"" + text + "\", expected");
  const std::string start = "{'descr': '<f4', 'fortran_order': ";
  const auto header = [&](const std::string& text, const std::string& problem) {
    check(npy_of(text, "1234"), "the header has " + problem);
  };
  header("", R"("", expected {)");
  header("[", R"("[", expected {)");
  header("{'descr", R"("'descr", expected 'descr')");
  header("{'descr': <f4'", R"("<f4'", expected ')");
  header("{'descr': '<f4", R"("", expected ')");
  header("{'fortran_order': False, 'descr': '<f4', 'shape': (1,), }", "\"'fortran_order'");
  check(npy_of("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "1234"),
        "holds records");
  header(start + "false, 'shape': (1,), }", "\"false, 'shape': (1,), }\", expected False");
  header(start + "0, 'shape': (1,), }", "\"0,");
  header(start + "Falsey, 'shape': (1,), }", "\"y,");
  header(start + "False}", R"("}", expected ,)");
  const auto shape = [&](const std::string& text, const std::string& problem) {
    header(start + "False, 'shape': " + text + ", }\n", problem);
  };
  shape("1", R"("1, }\x0a", expected ()");
  shape("(1)", R"(")");
  shape("(1", R"("}\x0a", expected a size)");
  shape("(,)", R"(",), }\x0a", expected a size)");
  shape("(-1,)", R"("-1,), }\x0a", expected a size)");
  shape("(-0, -1)", R"("-0, -1), }\x0a", expected a size)");
  shape("(+1,)", R"("+1,)");
  shape("(1.0,)", R"(".0,)");
  shape("(1L,)", R"("L,)");
  shape("(1 1)", R"("1)");
  shape("(None,)", R"("None,)");
  shape("(18446744073709551616,)", R"("18446744073709551616,), }\x0a", expected a size)");
  shape("[1,]", R"("[1,])");
  header(start + "False, 'shape': (1,), 'x': 1}", R"("'x': 1}", expected })");
  header(start + "False, 'shape': (1,), }\nx", R"("x", expected its end)");
  header(start + "False, 'shape': (1,), } x", R"("x", expected its end)");
  header(start + "False, 'shape': (1,), }\n\n", R"("\x0a", expected its end)");

  const auto claim = [&](const std::string& text, const std::string& problem) {
    check(npy("<f8", false, text, "12345678"), problem);
  };
  claim("(1000000000,)", "has 8 bytes of data, expected 8000000000");
  claim("(1152921504606846975,)", "F64 of shape [1152921504606846975] overflows 64 bits");
  claim("(1152921504606846976,)",
        "claims the shape [1152921504606846976], which is too large for any memory");
  claim("(9223372036854775807,)", "claims the shape");
  claim("(18446744073709551615,)", "claims the shape");
  claim("(4294967296, 4294967296)", "claims the shape");
  claim("(4294967296, 4294967296, 0)", "claims the shape");
  claim("(0, 4294967296, 4294967296)", "claims the shape");
  claim("(0, 9)", "has 8 bytes of data, expected 0");
}
