// SPDX-License-Identifier: MIT
/// @file  What IDX and .npy have in common: an array of numbers of some type, byte order and number of
/// dimensions, which lies in the bytes of a file.
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
#include "ddl/io/tensor_types.hpp"

namespace ddl::detail {

struct StoredArray {
  std::string type;  ///< one of with_element_of's
  std::endian order;
  bool fortran = false;  ///< whether the first index, and not the last, varies fastest
  TensorShape shape;
  std::string_view data;

  /// The first dimension counts samples, all others features; a single number is one sample of one feature.
  Index samples() const noexcept { return shape.empty() ? 1 : static_cast<Index>(shape.front()); }
  Index features() const noexcept {
    Index product = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) product *= static_cast<Index>(shape[i]);
    return product;
  }
};

/// The array has as many bytes as its shape asks for, and no product of some of its sizes overflows. @throws
/// FileError
inline void check_stored_size(const StoredArray& array, const std::string& file) {
  constexpr std::uint64_t most = static_cast<std::uint64_t>((std::numeric_limits<Index>::max)()) / 8;
  std::uint64_t product = 1;
  for (const std::uint64_t size : array.shape) {
    if (size > most / product)
      fail_file(file,
                "claims the shape " + tensor_shape_text(array.shape) + ", which is too large for any memory");
    product *= (std::max)(size, std::uint64_t{1});
  }
  const std::string problem = size_problem(*find_dtype(array.type), array.shape, array.data.size());
  if (!problem.empty()) fail_file(file, problem);
}

/// Calls f(sample, feature, value) for every element; features are numbered with the last index fastest. The
/// size was checked before.
template <class F>
void for_each_element(const StoredArray& array, F&& f) {
  if (array.data.empty()) return;
  const std::vector<Index> sizes(array.shape.begin(), array.shape.end());
  std::vector<Index> strides(sizes.size(), 1);
  if (array.fortran)
    for (std::size_t i = 1; i < strides.size(); ++i) strides[i] = strides[i - 1] * sizes[i - 1];
  else
    for (std::size_t i = strides.size(); i-- > 1;) strides[i - 1] = strides[i] * sizes[i];
  std::vector<Index> offsets(static_cast<std::size_t>(array.features()), 0);
  for (std::size_t feature = 0; feature < offsets.size(); ++feature) {
    Index rest = static_cast<Index>(feature);
    for (std::size_t i = strides.size(); i-- > 1; rest /= sizes[i])
      offsets[feature] += rest % sizes[i] * strides[i];
  }
  const Index sample_stride = strides.empty() ? 1 : strides.front();
  with_element_of(array.type, [&]<class T>(T) {
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
    fail_file(file, "has shape " + tensor_shape_text(array.shape) + ", expected one label for each sample");
  if (array.type.front() == 'F')
    fail_file(file, "holds numbers of type " + array.type + ", expected integers: class numbers");
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
