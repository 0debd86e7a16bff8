// SPDX-License-Identifier: MIT
/// @file  Bytes of files: numbers of any type and byte order, and a hash.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "ddl/core/scalar.hpp"

namespace ddl {

namespace detail {

/// The number at `from`, which need not be aligned. Byte: std::byte or char.
template <class T, class Byte>
T load(const Byte* from, std::endian order) noexcept {
  static_assert(sizeof(Byte) == 1);
  if constexpr (std::is_same_v<T, bool>) {
    return *from != Byte{0};
  } else {
    std::array<std::byte, sizeof(T)> bytes;
    std::memcpy(bytes.data(), from, sizeof(T));
    if (order != std::endian::native) std::reverse(bytes.begin(), bytes.end());
    return Eigen::numext::bit_cast<T>(bytes);
  }
}
template <class T, class Byte>
T load_little(const Byte* from) noexcept {
  return load<T>(from, std::endian::little);
}
template <class T, class Byte>
void store_little(T value, Byte* to) noexcept {
  static_assert(sizeof(Byte) == 1);
  auto bytes = Eigen::numext::bit_cast<std::array<std::byte, sizeof(T)>>(value);
  if constexpr (std::endian::native == std::endian::big) std::reverse(bytes.begin(), bytes.end());
  std::memcpy(to, bytes.data(), sizeof(T));
}

/// Integers and booleans become any scalar, real numbers become any but an integer; the 16-bit ones pass
/// through float. Nothing if the value does not fit an integer Scalar.
template <class Scalar, class T>
std::optional<Scalar> convert(T value) noexcept {
  if constexpr (std::is_same_v<Scalar, T>) {
    return value;
  } else if constexpr (!std::is_integral_v<Scalar>) {
    return static_cast<Scalar>(static_cast<Accum<Scalar>>(static_cast<Accum<T>>(value)));
  } else if constexpr (!std::is_integral_v<T> || std::is_same_v<Scalar, bool>) {
    return std::nullopt;
  } else if constexpr (std::is_same_v<T, bool>) {
    return static_cast<Scalar>(value);
  } else {
    if (!std::in_range<Scalar>(value)) return std::nullopt;
    return static_cast<Scalar>(value);
  }
}

}  // namespace detail

/// XXH64, a fast hash that finds damage by accident. It is no protection from forgery.
/// @source Yann Collet, XXH64 algorithm description, github.com/Cyan4973/xxHash, doc/xxhash_spec.md.
inline std::uint64_t xxh64(std::span<const std::byte> bytes, std::uint64_t seed = 0) noexcept {
  constexpr std::uint64_t prime1 = 0x9e3779b185ebca87u, prime2 = 0xc2b2ae3d27d4eb4fu,
                          prime3 = 0x165667b19e3779f9u, prime4 = 0x85ebca77c2b2ae63u,
                          prime5 = 0x27d4eb2f165667c5u;
  const auto round = [=](std::uint64_t lane, std::uint64_t input) {
    return std::rotl(lane + input * prime2, 31) * prime1;
  };
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t hash = seed + prime5;
  if (left >= 32) {
    std::array<std::uint64_t, 4> lanes = {seed + prime1 + prime2, seed + prime2, seed, seed - prime1};
    for (; left >= 32; left -= 32)
      for (auto& lane : lanes) {
        lane = round(lane, detail::load_little<std::uint64_t>(at));
        at += 8;
      }
    hash =
        std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) + std::rotl(lanes[3], 18);
    for (const auto lane : lanes) hash = (hash ^ round(0, lane)) * prime1 + prime4;
  }
  hash += bytes.size();
  for (; left >= 8; left -= 8, at += 8)
    hash = std::rotl(hash ^ round(0, detail::load_little<std::uint64_t>(at)), 27) * prime1 + prime4;
  if (left >= 4) {
    hash = std::rotl(hash ^ (detail::load_little<std::uint32_t>(at) * prime1), 23) * prime2 + prime3;
    left -= 4;
    at += 4;
  }
  for (; left > 0; --left, ++at)
    hash = std::rotl(hash ^ (std::to_integer<std::uint64_t>(*at) * prime5), 11) * prime1;
  hash = (hash ^ (hash >> 33)) * prime2;
  hash = (hash ^ (hash >> 29)) * prime3;
  return hash ^ (hash >> 32);
}

}  // namespace ddl
