// SPDX-License-Identifier: MIT
/// @file  Types and shapes of the numbers in files, under the names that safetensors gives them: F64, BF16,
/// I32, BOOL.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "ddl/core/scalar.hpp"

namespace ddl {

/// The size of each dimension.
using TensorShape = std::vector<std::uint64_t>;

namespace detail {

inline constexpr std::size_t max_rank = 64;  ///< PyTorch's and NumPy's

struct Dtype {
  std::string_view name;
  std::uint64_t bits;
};
/// In the reference's order, in which later ones are stored first.
inline constexpr std::array<Dtype, 22> dtypes = {
    {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
     {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
     {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
     {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}}};

inline const Dtype* find_dtype(std::string_view name) noexcept {
  const auto found =
      std::find_if(dtypes.begin(), dtypes.end(), [&](const Dtype& d) { return d.name == name; });
  return found == dtypes.end() ? nullptr : &*found;
}

/// Calls f(an element of the C++ type) and returns true, or returns false if `dtype` has no such type here.
template <class F>
bool with_element_of(std::string_view dtype, F&& f) {
  const auto call = [&](auto element) { return f(element), true; };
  return dtype == "F64"    ? call(double{})
         : dtype == "F32"  ? call(float{})
         : dtype == "F16"  ? call(Eigen::half{})
         : dtype == "BF16" ? call(Eigen::bfloat16{})
         : dtype == "I64"  ? call(std::int64_t{})
         : dtype == "U64"  ? call(std::uint64_t{})
         : dtype == "I32"  ? call(std::int32_t{})
         : dtype == "U32"  ? call(std::uint32_t{})
         : dtype == "I16"  ? call(std::int16_t{})
         : dtype == "U16"  ? call(std::uint16_t{})
         : dtype == "I8"   ? call(std::int8_t{})
         : dtype == "U8"   ? call(std::uint8_t{})
         : dtype == "BOOL" ? call(bool{})
                           : false;
}

template <class Scalar>
constexpr std::string_view dtype_of() {
  constexpr bool is_integer = std::is_integral_v<Scalar>, is_signed = std::is_signed_v<Scalar>;
  constexpr std::size_t size = sizeof(Scalar);
  if constexpr (std::is_same_v<Scalar, double>)
    return "F64";
  else if constexpr (std::is_same_v<Scalar, float>)
    return "F32";
  else if constexpr (std::is_same_v<Scalar, Eigen::half>)
    return "F16";
  else if constexpr (std::is_same_v<Scalar, Eigen::bfloat16>)
    return "BF16";
  else if constexpr (std::is_same_v<Scalar, bool>)
    return "BOOL";
  else if constexpr (is_integer && size == 8)
    return is_signed ? "I64" : "U64";
  else if constexpr (is_integer && size == 4)
    return is_signed ? "I32" : "U32";
  else if constexpr (is_integer && size == 2)
    return is_signed ? "I16" : "U16";
  else if constexpr (is_integer && size == 1)
    return is_signed ? "I8" : "U8";
  else
    static_assert(!sizeof(Scalar), "safetensors has no dtype for this scalar");
}

inline std::string tensor_shape_text(const TensorShape& shape) {
  std::string text = "[";
  for (const auto size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

inline std::optional<std::uint64_t> checked_product(std::uint64_t a, std::uint64_t b) noexcept {
  if (b != 0 && a > (std::numeric_limits<std::uint64_t>::max)() / b) return std::nullopt;
  return a * b;
}

/// What is wrong with a tensor of this dtype and shape that has `bytes` bytes; empty if nothing is. As in the
/// reference, the product is taken from the left: a zero hides what comes after it, not what came before.
inline std::string size_problem(const Dtype& dtype, const TensorShape& shape, std::uint64_t bytes) {
  const auto what = [&] { return std::string(dtype.name) + " of shape " + tensor_shape_text(shape); };
  std::optional<std::uint64_t> bits = 1;
  for (const auto size : shape)
    if (bits) bits = checked_product(*bits, size);
  if (bits) bits = checked_product(*bits, dtype.bits);
  if (!bits) return what() + " overflows 64 bits";
  if (*bits % 8 != 0) return what() + " takes " + std::to_string(*bits) + " bits, expected whole bytes";
  if (*bits / 8 != bytes)
    return "has " + std::to_string(bytes) + " bytes of data, expected " + std::to_string(*bits / 8) +
           " for " + what();
  return {};
}

}  // namespace detail

}  // namespace ddl
