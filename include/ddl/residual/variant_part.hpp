// SPDX-License-Identifier: MIT
/// @file  A part of a block that is chosen at run time.
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "ddl/nn/part.hpp"

namespace ddl {

/// One of several parts of the same kind, chosen by the alternative that the variant of settings holds. It is
/// itself a part of that kind; parameters have the names of the chosen part.
template <BlockPart First, BlockPart... Rest>
struct VariantPart {
  static_assert(((First::kind == Rest::kind) && ...), "ddl::VariantPart: the alternatives are of one kind");
  using Scalar = typename First::Scalar;
  using Settings = std::variant<typename First::Settings, typename Rest::Settings...>;
  static constexpr PartKind kind = First::kind;

  /// One tape for each alternative; only that of the chosen one is used.
  template <int Tokens = Dynamic>
  struct Tape {
    /// In the order of the alternatives.
    std::tuple<typename First::template Tape<Tokens>, typename Rest::template Tape<Tokens>...> of;
  };

  /// The state of the chosen alternative.
  struct State {
    using Scalar = typename First::Scalar;
    std::variant<StateOf<First>, StateOf<Rest>...> of;  ///< the state of the chosen alternative
    static constexpr auto parameters() { return std::tuple(parameter("", &State::of)); }
  };

  std::variant<First, Rest...> part;  ///< the chosen one

  static constexpr auto parameters() { return std::tuple(parameter("", &VariantPart::part)); }

  VariantPart() = default;
  /// @throws what the constructor of the chosen part throws.
  VariantPart(Index in, Index out, const Settings& settings, Random& random) {
    choose(settings.index(),
           [&](auto i) { part.template emplace<i>(in, out, std::get<i>(settings), random); });
  }

  /// See ValuePart.
  auto reads() const {
    return choose(part.index(), [&](auto i) { return std::get<i>(part).reads(); });
  }
  /// Multiplies the output by a factor, which all alternatives must be able to do.
  void scale_output(Scalar factor) {
    choose(part.index(), [&](auto i) { std::get<i>(part).scale_output(factor); });
  }

  /// See nn/part.hpp.
  template <class X, class Y, int Tokens>
  void forward(const X& x, Y&& y, Tape<Tokens>& tape, const Pass& pass = {}) const {
    choose(part.index(), [&](auto i) { std::get<i>(part).forward(x, y, std::get<i>(tape.of), pass); });
  }
  /// See nn/part.hpp.
  template <class X, class Y, class DY, class DX, int Tokens>
  void backward(const X& x, const Y& y, DY&& dy, DX&& dx, Tape<Tokens>& tape, VariantPart& gradient,
                const Pass& pass = {}) const {
    choose(part.index(), [&](auto i) {
      std::get<i>(part).backward(x, y, dy, dx, std::get<i>(tape.of), std::get<i>(gradient.part), pass);
    });
  }

  // A compressor's passes.
  /// See CompressorPart.
  template <class X, int Tokens>
  auto forward(const X& x, Tape<Tokens>& tape, const Pass& pass = {}) const {
    return choose(part.index(),
                  [&](auto i) { return std::get<i>(part).forward(x, std::get<i>(tape.of), pass); });
  }
  /// See CompressorPart.
  template <class X, int Tokens>
  auto output(const X& x, const Tape<Tokens>& tape) const {
    return choose(part.index(), [&](auto i) { return std::get<i>(part).output(x, std::get<i>(tape.of)); });
  }
  /// See CompressorPart.
  template <class X, class DY, class DX, int Tokens>
  void backward(const X& x, const DY& dy, DX&& dx, Tape<Tokens>& tape, VariantPart& gradient,
                const Pass& pass = {}) const {
    choose(part.index(), [&](auto i) {
      std::get<i>(part).backward(x, dy, dx, std::get<i>(tape.of), std::get<i>(gradient.part), pass);
    });
  }

  /// At the start of sequences.
  /// @throws std::invalid_argument if the chosen part cannot take tokens back and `rollback` is not 0.
  State make_state(Index sequences, Index capacity, Index rollback = 0) const {
    State state;
    choose(part.index(), [&](auto i) {
      state.of.template emplace<i>(ddl::make_state(std::get<i>(part), sequences, capacity, rollback));
    });
    return state;
  }
  /// See nn/part.hpp.
  void roll_back(State& state, Index tokens) const {
    choose(part.index(),
           [&](auto i) { ddl::roll_back(std::get<i>(part), state_of_chosen<i>(state), tokens); });
  }
  /// See infer_part.
  /// @throws std::invalid_argument if the state is that of another alternative.
  template <class X, class Y, int Tokens>
  void infer(const X& x, Y&& y, State& state, Tape<Tokens>& tape, const Pass& pass = {}) const {
    choose(part.index(), [&](auto i) {
      infer_part(std::get<i>(part), x, y, state_of_chosen<i>(state), std::get<i>(tape.of), pass);
    });
  }
  /// See CompressorPart.
  template <class X, int Tokens>
  auto infer(const X& x, State& state, Tape<Tokens>& tape, const Pass& pass = {}) const {
    return choose(part.index(), [&](auto i) {
      return infer_compressor(std::get<i>(part), x, state_of_chosen<i>(state), std::get<i>(tape.of), pass);
    });
  }

 private:
  template <std::size_t I>
  static auto& state_of_chosen(State& state) {
    if (state.of.index() != I)
      fail("ddl::VariantPart::infer", "the state", "that of alternative " + std::to_string(state.of.index()),
           "alternative " + std::to_string(I));
    return std::get<I>(state.of);
  }

  /// f(chosen), as a constant.
  template <std::size_t I = 0, class F>
  static auto choose(std::size_t chosen, const F& f) {
    if constexpr (I < sizeof...(Rest)) {
      if (chosen != I) return choose<I + 1>(chosen, f);
    }
    return f(std::integral_constant<std::size_t, I>{});
  }
};

}  // namespace ddl
