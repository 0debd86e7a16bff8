// SPDX-License-Identifier: MIT
/// @file  IDX: the format of MNIST and its kin.
/// @source yann.lecun.com/exdb/mnist, "The IDX file format"
///
///     2 bytes     0
///     1 byte      the type: 0x08 unsigned byte, 0x09 signed byte, 0x0B, 0x0C integers of 2 and 4 bytes,
///                 0x0D float, 0x0E double
///     1 byte      the number of dimensions
///     4 bytes     for each dimension: its size
///     the rest    the elements, the last index fastest; all numbers are big-endian
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/io/stored_array.hpp"

namespace ddl {

namespace detail {

inline StoredArray parse_idx(std::string_view bytes, const std::string& file) {
  constexpr std::size_t most_dimensions = 8;
  if (bytes.starts_with("\x1f\x8b")) fail_file(file, "is compressed by gzip, expected IDX: unpack it first");
  if (bytes.size() < 4)
    fail_file(file, "is " + std::to_string(bytes.size()) +
                        " bytes long, expected at least the 4 that an IDX file begins with");
  if (bytes[0] != 0 || bytes[1] != 0)
    fail_file(file,
              "begins with " + in_quotes(bytes.substr(0, 4)) + ", expected two zero bytes: it is not IDX");
  const auto type = static_cast<unsigned char>(bytes[2]);
  const auto rank = static_cast<std::size_t>(static_cast<unsigned char>(bytes[3]));
  StoredArray array{.type = type == 0x08   ? "U8"
                            : type == 0x09 ? "I8"
                            : type == 0x0B ? "I16"
                            : type == 0x0C ? "I32"
                            : type == 0x0D ? "F32"
                            : type == 0x0E ? "F64"
                                           : "",
                    .order = std::endian::big,
                    .shape = {},
                    .data = {}};
  if (array.type.empty())
    fail_file(file, "has elements of type " + std::to_string(type) + ", expected 8, 9 or 11 to 14");
  if (rank < 1 || rank > most_dimensions)
    fail_file(file, "has " + std::to_string(rank) + " dimensions, expected 1 to 8");
  if (bytes.size() < 4 + 4 * rank)
    fail_file(file, "is " + std::to_string(bytes.size()) + " bytes long, expected at least " +
                        std::to_string(4 + 4 * rank) + ": the sizes of its " + std::to_string(rank) +
                        " dimensions");
  for (std::size_t i = 0; i < rank; ++i) {
    array.shape.push_back(load<std::uint32_t>(bytes.data() + 4 + 4 * i, array.order));
  }
  array.data = bytes.substr(4 + 4 * rank);
  check_stored_size(array, file);
  return array;
}

}  // namespace detail

/// The array in the bytes of an IDX file, features x samples: the first dimension counts samples, all others
/// are flattened, the last fastest. Unsigned bytes are scaled to [0, 1], other types left as they are. `file`
/// is what errors call it. @throws FileError if the bytes are not what the format asks for.
template <class Scalar>
Matrix<Scalar> parse_idx_images(std::string_view bytes, const std::string& file) {
  const detail::StoredArray array = detail::parse_idx(bytes, file);
  Matrix<Scalar> images = detail::stored_samples<Scalar>(array);
  if (array.type == "U8") images /= Scalar(255);
  return images;
}

/// The class numbers in the bytes of an IDX file of integers. @throws FileError as parse_idx_images does, and
/// if one of them is negative.
inline std::vector<int> parse_idx_labels(std::string_view bytes, const std::string& file) {
  return detail::stored_labels(detail::parse_idx(bytes, file), file);
}

/// parse_idx_images of a file. @throws FileError also if it cannot be read.
template <class Scalar>
Matrix<Scalar> read_idx_images(const std::string& path) {
  return parse_idx_images<Scalar>(FileContents(path).text(), path);
}

/// parse_idx_labels of a file. @throws FileError also if it cannot be read.
inline std::vector<int> read_idx_labels(const std::string& path) {
  return parse_idx_labels(FileContents(path).text(), path);
}

}  // namespace ddl
