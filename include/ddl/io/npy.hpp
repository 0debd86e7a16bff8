// SPDX-License-Identifier: MIT
/// @file  .npy: one array as NumPy stores it.
/// @source numpy.org/doc/stable/reference/generated/numpy.lib.format.html
///
///     6 bytes         "\x93NUMPY"
///     2 bytes         version: 1.0, 2.0 or 3.0
///     2 or 4 bytes    N, little-endian; 2 in version 1.0
///     N bytes         {'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }, blanks, a line feed
///     the rest        the elements
///
/// Read are real numbers, integers and booleans in either byte order and either order of the indices.
#pragma once

#include <charconv>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "ddl/io/stored_array.hpp"

namespace ddl {

namespace detail {

/// Reads the header of a .npy file: Python's text for a dictionary, but only as NumPy writes it, which leaves
/// one order of the keys and no freedom but in blanks.
class NpyHeaderReader {
 public:
  NpyHeaderReader(std::string_view text, const std::string& file) : rest_(text), file_(file) {}

  void read(StoredArray& array) {
    expect("{");
    expect("'descr'");
    expect(":");
    read_type(array);
    expect(",");
    expect("'fortran_order'");
    expect(":");
    array.fortran = accept("True");
    if (!array.fortran) expect("False");
    expect(",");
    expect("'shape'");
    expect(":");
    read_shape(array.shape);
    accept(",");
    expect("}");
    accept("\n");
    if (!rest_.empty()) fail_expected("its end");
  }

 private:
  bool accept(std::string_view token) {
    rest_.remove_prefix((std::min)(rest_.find_first_not_of(' '), rest_.size()));
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  void expect(const char* token) {
    if (!accept(token)) fail_expected(token);
  }
  [[noreturn]] void fail_expected(const std::string& what) const {
    fail_file(file_, "the header has " + in_quotes(rest_) + ", expected " + what);
  }

  void read_type(StoredArray& array) {
    if (accept("[")) fail_file(file_, "holds records, expected plain numbers");
    expect("'");
    const std::string_view type = rest_.substr(0, rest_.find('\''));
    rest_.remove_prefix(type.size());
    expect("'");
    const auto at = [&](std::size_t i) { return i < type.size() ? type[i] : ' '; };
    const char order = at(0), kind = at(1), size = at(2);  // of elements, in bytes
    array.order = order == '>' ? std::endian::big : std::endian::little;
    const std::string bits = std::to_string(8 * (size - '0'));
    array.type = kind == 'b'   ? "BOOL"
                 : kind == 'i' ? "I" + bits
                 : kind == 'u' ? "U" + bits
                 : kind == 'f' ? "F" + bits
                               : "";
    const bool known =
        type.size() == 3 && (kind != 'b' || size == '1') && with_element_of(array.type, [](auto) {});
    if (known && (order == '<' || order == '>' || (order == '|' && size == '1'))) return;
    fail_file(file_, std::string("holds ") +
                         (kind == 'O'                  ? "Python objects, "
                          : kind == 'c'                ? "complex numbers, "
                          : kind == 'U' || kind == 'S' ? "text, "
                          : kind == 'M' || kind == 'm' ? "times, "
                                                       : "") +
                         "type " + in_quotes(type) +
                         ", expected b1, i1 to i8, u1 to u8, f2, f4 or f8 after < or >");
  }

  void read_shape(TensorShape& shape) {
    expect("(");
    while (!accept(")")) {
      std::uint64_t size = 0;
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), size);
      if (error != std::errc{}) fail_expected("a size");
      rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
      shape.push_back(size);
      // A single size has a comma behind it: that makes it a list in Python.
      if (shape.size() == 1 || !rest_.starts_with(')')) expect(",");
    }
  }

  std::string_view rest_;
  const std::string& file_;
};

inline StoredArray parse_npy_array(std::string_view bytes, const std::string& file) {
  if (bytes.starts_with("PK")) fail_file(file, "is an archive (.npz), expected a single array (.npy)");
  if (!bytes.starts_with("\x93NUMPY"))
    fail_file(file, "begins with " + in_quotes(bytes.substr(0, 6)) + ", expected \"\\x93NUMPY\"");
  const int version = bytes.size() < 8 ? 0 : bytes[6];
  if (version < 1 || version > 3 || bytes[7] != 0)
    fail_file(file, "has the version bytes " + in_quotes(bytes.substr(6, 2)) + ", expected 1.0, 2.0 or 3.0");
  const std::size_t start = version == 1 ? 10 : 12;
  if (bytes.size() < start) fail_file(file, "ends before the length of its header");
  const std::size_t length = version == 1 ? load<std::uint16_t>(bytes.data() + 8, std::endian::little)
                                          : load<std::uint32_t>(bytes.data() + 8, std::endian::little);
  if (length > bytes.size() - start)
    fail_file(file, "has a header said to be " + std::to_string(length) + " bytes long, expected at most " +
                        std::to_string(bytes.size() - start) + ", the rest of the file");
  StoredArray array{
      .type = {}, .order = std::endian::little, .shape = {}, .data = bytes.substr(start + length)};
  NpyHeaderReader(bytes.substr(start, length), file).read(array);
  check_stored_size(array, file);
  return array;
}

}  // namespace detail

/// The array in the bytes of a .npy file as a matrix that has NumPy's rows and columns; one dimension is a
/// column, none a single number. `file` is what errors call it. @throws FileError if the bytes are not what
/// the format asks for, or there are more than two dimensions.
template <class Scalar>
Matrix<Scalar> parse_npy(std::string_view bytes, const std::string& file) {
  const detail::StoredArray array = detail::parse_npy_array(bytes, file);
  if (array.shape.size() > 2)
    detail::fail_file(
        file, "has shape " + detail::tensor_shape_text(array.shape) + ", expected at most two dimensions");
  Matrix<Scalar> matrix(array.samples(), array.features());
  detail::for_each_element(
      array, [&](Index n, Index i, auto value) { matrix(n, i) = *detail::convert<Scalar>(value); });
  return matrix;
}

/// The array in the bytes of a .npy file as features x samples: the first dimension counts samples, all
/// others are flattened, the last fastest. @throws FileError if the bytes are not what the format asks for.
template <class Scalar>
Matrix<Scalar> parse_npy_samples(std::string_view bytes, const std::string& file) {
  return detail::stored_samples<Scalar>(detail::parse_npy_array(bytes, file));
}

/// The class numbers in the bytes of a .npy file of integers, one for each sample. @throws FileError as
/// parse_npy_samples does, and if one of them is negative.
inline std::vector<int> parse_npy_labels(std::string_view bytes, const std::string& file) {
  return detail::stored_labels(detail::parse_npy_array(bytes, file), file);
}

/// parse_npy of a file. @throws FileError also if it cannot be read.
template <class Scalar>
Matrix<Scalar> read_npy(const std::string& path) {
  return parse_npy<Scalar>(FileContents(path).text(), path);
}
/// parse_npy_samples of a file. @throws FileError also if it cannot be read.
template <class Scalar>
Matrix<Scalar> read_npy_samples(const std::string& path) {
  return parse_npy_samples<Scalar>(FileContents(path).text(), path);
}
/// parse_npy_labels of a file. @throws FileError also if it cannot be read.
inline std::vector<int> read_npy_labels(const std::string& path) {
  return parse_npy_labels(FileContents(path).text(), path);
}

/// A .npy file of these numbers: version 1.0, little-endian, a matrix with the first index fastest, what is a
/// vector at compile time with one dimension.
template <class Derived>
std::string npy_bytes(const Eigen::DenseBase<Derived>& values) {
  using Scalar = typename Derived::Scalar;
  static_assert(std::is_same_v<Scalar, float> || std::is_same_v<Scalar, double>,
                "ddl: .npy files are written of float or double");
  constexpr bool is_vector = Derived::IsVectorAtCompileTime;
  const Matrix<Scalar> matrix = values;
  std::string header = std::string("{'descr': '<f") + (sizeof(Scalar) == 4 ? "4" : "8") +
                       "', 'fortran_order': " + (is_vector ? "False" : "True") + ", 'shape': (" +
                       std::to_string(is_vector ? matrix.size() : matrix.rows()) + "," +
                       (is_vector ? "" : " " + std::to_string(matrix.cols())) + "), }";
  constexpr std::size_t start = 10, alignment = 64;
  header.resize((start + header.size() + alignment) / alignment * alignment - start - 1, ' ');
  header += '\n';
  std::string bytes = "\x93NUMPY";
  bytes += {'\x01', '\x00', static_cast<char>(header.size() % 256), static_cast<char>(header.size() / 256)};
  bytes += header;
  std::size_t at = bytes.size();
  bytes.resize(at + static_cast<std::size_t>(matrix.size()) * sizeof(Scalar));
  for (const Scalar value : matrix.reshaped()) {
    detail::store_little(value, bytes.data() + at);
    at += sizeof(Scalar);
  }
  return bytes;
}

/// Writes npy_bytes(values) to a file, whole or not at all. @throws FileError
template <class Derived>
void write_npy(const std::string& path, const Eigen::DenseBase<Derived>& values) {
  replace_file(path, npy_bytes(values));
}

}  // namespace ddl
