// SPDX-License-Identifier: MIT
/// @file  What IDX and .npy have in common: an array of numbers of some type, byte order and number of dimensions,
/// which lies in the bytes of a file.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/core/batch.hpp"
#include "ddl/core/bytes.hpp"
#include "ddl/io/messages.hpp"

namespace ddl::detail {

struct StoredArray {
  std::string_view type;  ///< as NumPy calls it: b1, i1 to i8, u1 to u8, f2, f4, f8
  std::endian order;
  bool fortran = false;  ///< whether the first index, and not the last, varies fastest
  std::vector<Index> shape;
  std::string_view data;

  /// The first dimension counts samples, all others features; a single number is one sample of one feature.
  Index samples() const noexcept { return shape.empty() ? 1 : shape.front(); }
  Index features() const noexcept {
    Index product = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) product *= shape[i];
    return product;
  }
};

/// Calls f(a zero of the C++ type) and returns true, or returns false if the type is none of StoredArray's.
template <class F>
bool with_type(std::string_view type, F&& f) {
  const auto call = [&](auto zero) { return f(zero), true; };
  return type == "b1"   ? call(bool{})
         : type == "i1" ? call(std::int8_t{})
         : type == "i2" ? call(std::int16_t{})
         : type == "i4" ? call(std::int32_t{})
         : type == "i8" ? call(std::int64_t{})
         : type == "u1" ? call(std::uint8_t{})
         : type == "u2" ? call(std::uint16_t{})
         : type == "u4" ? call(std::uint32_t{})
         : type == "u8" ? call(std::uint64_t{})
         : type == "f2" ? call(Eigen::half{})
         : type == "f4" ? call(float{})
         : type == "f8" ? call(double{})
                        : false;
}

inline std::string size_list(const std::vector<Index>& shape) {
  std::string text = "(";
  for (const Index size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ")";
}

/// The array has as many bytes as its shape asks for, and no product of some of its sizes overflows.
inline void check_stored_size(const StoredArray& array, const std::string& file) {
  Index product = 1;
  bool empty = false;
  for (const Index size : array.shape) {
    empty = empty || size == 0;
    if (size > (std::numeric_limits<Index>::max)() / 8 / product)
      fail_file(file, "claims the shape " + size_list(array.shape) + ", which is too large for any memory");
    product *= (std::max)(size, Index{1});
  }
  with_type(array.type, [&]<class T>(T) {
    const auto expected = empty ? std::size_t{0} : static_cast<std::size_t>(product) * sizeof(T);
    if (array.data.size() != expected)
      fail_file(file, "holds " + std::to_string(array.data.size()) + " bytes of data, expected " +
                          std::to_string(expected) + " for the shape " + size_list(array.shape) +
                          " of type " + std::string(array.type));
  });
}

/// Calls f(sample, feature, value) for every element; features are numbered with the last index fastest. The size was
/// checked before.
template <class F>
void for_each_element(const StoredArray& array, F&& f) {
  if (array.data.empty()) return;
  std::vector<Index> strides(array.shape.size(), 1);
  if (array.fortran)
    for (std::size_t i = 1; i < strides.size(); ++i) strides[i] = strides[i - 1] * array.shape[i - 1];
  else
    for (std::size_t i = strides.size(); i-- > 1;) strides[i - 1] = strides[i] * array.shape[i];
  std::vector<Index> offsets(static_cast<std::size_t>(array.features()), 0);
  for (std::size_t feature = 0; feature < offsets.size(); ++feature) {
    Index rest = static_cast<Index>(feature);
    for (std::size_t i = strides.size(); i-- > 1; rest /= array.shape[i])
      offsets[feature] += rest % array.shape[i] * strides[i];
  }
  const Index sample_stride = strides.empty() ? 1 : strides.front();
  with_type(array.type, [&]<class T>(T) {
    for (Index n = 0; n < array.samples(); ++n)
      for (std::size_t i = 0; i < offsets.size(); ++i) {
        const Index at = n * sample_stride + offsets[i];
        f(n, static_cast<Index>(i), load<T>(array.data.data() + at * Index{sizeof(T)}, array.order));
      }
  });
}

/// features x samples
template <class Scalar>
Matrix<Scalar> stored_samples(const StoredArray& array) {
  static_assert(!std::is_integral_v<Scalar>, "ddl: data are read as real numbers");
  Matrix<Scalar> samples(array.features(), array.samples());
  for_each_element(array, [&](Index n, Index i, auto value) { samples(i, n) = *convert<Scalar>(value); });
  return samples;
}

/// One class number for each sample.
inline std::vector<int> stored_labels(const StoredArray& array, const std::string& file) {
  if (array.features() != 1)
    fail_file(file, "has shape " + size_list(array.shape) + ", expected one label for each sample");
  if (array.type.front() == 'f')
    fail_file(file,
              "holds numbers of type " + std::string(array.type) + ", expected integers: class numbers");
  std::vector<int> labels;
  labels.reserve(static_cast<std::size_t>(array.samples()));
  for_each_element(array, [&]<class T>(Index n, Index, T value) {
    if constexpr (std::is_same_v<T, bool>) {
      labels.push_back(value ? 1 : 0);
    } else if constexpr (std::is_integral_v<T>) {
      if (value < 0 || !std::in_range<int>(value))
        fail_file(file, "label " + std::to_string(n) + " is " + std::to_string(value) + ", expected 0 to " +
                            std::to_string((std::numeric_limits<int>::max)()));
      labels.push_back(static_cast<int>(value));
    }
  });
  return labels;
}

}  // namespace ddl::detail
