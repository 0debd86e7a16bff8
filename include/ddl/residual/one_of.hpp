// SPDX-License-Identifier: MIT
/// @file  A part of a block that is chosen at run time.
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "ddl/core/parameters.hpp"
#include "ddl/core/random.hpp"
#include "ddl/residual/value.hpp"

namespace ddl {

template <class... Parts>
struct OneOf;

namespace detail {

template <class T>
inline constexpr bool is_one_of = false;
template <class... Parts>
inline constexpr bool is_one_of<OneOf<Parts...>> = true;

struct CacheOfOne {};

/// Of an argument, what part number I is to have: its own cache, its own gradient, or the argument itself.
template <std::size_t I, class Argument>
auto& share_of(Argument& argument) {
  using Plain = std::remove_const_t<Argument>;
  if constexpr (is_one_of<Plain>) {
    return std::get<I>(argument.part);
  } else if constexpr (std::is_base_of_v<CacheOfOne, Plain>) {
    return std::get<I>(argument);
  } else {
    return argument;
  }
}

}  // namespace detail

/// One of several parts that model the same concept, which it models too. The part is that whose settings the
/// variant of Settings holds; parameters have its names.
template <class... Parts>
struct OneOf {
  using Scalar = typename std::tuple_element_t<0, std::tuple<Parts...>>::Scalar;
  using Settings = std::variant<typename Parts::Settings...>;

  /// The caches of all parts, of which those that were not chosen stay empty.
  template <int Tokens = Dynamic>
  struct Cache : detail::CacheOfOne, std::tuple<typename Parts::template Cache<Tokens>...> {};

  std::variant<Parts...> part;

  static constexpr auto parameters() { return std::tuple(field("", &OneOf::part)); }

  OneOf() = default;
  /// A sublayer. These three throw what the part's own constructor throws.
  OneOf(Index in, Index out, const Settings& settings, Random& random) {
    choose(settings.index(),
           [&](auto i) { part.template emplace<i>(in, out, std::get<i>(settings), random); });
  }
  /// A gate.
  OneOf(const Settings& settings, Index width, Random& random) {
    choose(settings.index(), [&](auto i) { part.template emplace<i>(std::get<i>(settings), width, random); });
  }
  /// A value or a compressor.
  OneOf(const Settings& settings, Index width, Index channels, Random& random) {
    choose(settings.index(),
           [&](auto i) { part.template emplace<i>(std::get<i>(settings), width, channels, random); });
  }

  Index cache_scalars() const {
    return choose(part.index(), [&](auto i) { return std::get<i>(part).cache_scalars(); });
  }
  ValueSource reads() const {
    return choose(part.index(), [&](auto i) { return std::get<i>(part).reads(); });
  }

  template <class... Arguments>
  auto forward(Arguments&&... arguments) const {
    return choose(part.index(),
                  [&](auto i) { return std::get<i>(part).forward(detail::share_of<i>(arguments)...); });
  }
  template <class... Arguments>
  auto output(Arguments&&... arguments) const {
    return choose(part.index(),
                  [&](auto i) { return std::get<i>(part).output(detail::share_of<i>(arguments)...); });
  }
  template <class... Arguments>
  void backward(Arguments&&... arguments) const {
    choose(part.index(), [&](auto i) { std::get<i>(part).backward(detail::share_of<i>(arguments)...); });
  }

 private:
  /// f(chosen), as a constant.
  template <std::size_t I = 0, class F>
  static auto choose(std::size_t chosen, const F& f) {
    if constexpr (I + 1 < sizeof...(Parts)) {
      if (chosen != I) return choose<I + 1>(chosen, f);
    }
    return f(std::integral_constant<std::size_t, I>{});
  }
};

}  // namespace ddl
