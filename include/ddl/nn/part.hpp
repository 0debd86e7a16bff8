// SPDX-License-Identifier: MIT
/// @file  What a part of a network is.
///
/// A part owns its weights and nothing else. What a pass writes lives outside of it, by lifetime:
///
///     Pass    one call: the executor, and the layout of the batch
///     Tape    from a forward pass to its backward pass: what backward needs
///     State   as long as a sequence is continued: what `infer` remembers of the tokens before
///
/// A part that maps x (in x N) to y (out x N) has
///
///     static constexpr PartKind kind = PartKind::sublayer;
///     using Scalar = ..;  using Settings = ..;       a plain struct with defaults
///     template <int Tokens = Dynamic> struct Tape;   Tokens: N at compile time, or Dynamic
///     static constexpr auto parameters();            see core/parameters.hpp
///     Part(Index in, Index out, const Settings&, Random&);
///     void forward(x, y, Tape&, const Pass&) const;                         y = f(x)
///     void backward(x, y, dy, dx, Tape&, Part& gradient, const Pass&) const;
///
/// backward adds to dx and to the parameters of `gradient`; it may overwrite dy and the tape. A part that
/// looks at earlier tokens of a sequence also has
///
///     struct State;                                  matrices, listed by parameters(); zero at the start of a sequence
///     State make_state(Index sequences, Index capacity) const;
///     void infer(x, y, State&, Tape&, const Pass&) const;   forward for the tokens after those in the state
///
/// infer moves the state on by the pass's tokens of each sequence and uses the tape as scratch memory;
/// pass.before(s) is the number of tokens of sequence s before them. A part whose state can also go back has,
/// in place of that make_state,
///
///     State make_state(Index sequences, Index capacity, Index rollback = 0) const;
///     void roll_back(State&, Index tokens) const;       takes back the last tokens of every sequence, at most `rollback`
///
/// A type that has one of these members, but not all of them with these signatures, is not a part.
#pragma once

#include <concepts>
#include <string>
#include <tuple>
#include <type_traits>

#include "ddl/core/parameters.hpp"
#include "ddl/core/pass.hpp"
#include "ddl/core/random.hpp"

namespace ddl {

/// What a part is for in a block.
///
///     sublayer     c (d x N)      -> kt (d x N)      the direction
///     gate         c (d x N)      -> beta (1 x N)
///     value        c or x (d x N) -> v (m x N)
///     norm         x (d x N)      -> c (d x N)
///     compressor   X (d x (N m))  -> x (d x N)
enum class PartKind { sublayer, gate, value, norm, compressor };

/// A part that remembers earlier tokens of a sequence during inference.
template <class P>
concept Stateful = requires(const P& part, Index count) {
  typename P::State;
  { part.make_state(count, count) } -> std::same_as<typename P::State>;
};

/// The state of a part P that remembers nothing.
template <class P>
struct NoState {
  using Scalar = typename P::Scalar;
  static constexpr auto parameters() { return std::tuple(); }
};

namespace detail {

template <class P>
struct StateOf {
  using type = NoState<P>;
};
template <Stateful P>
struct StateOf<P> {
  using type = typename P::State;
};

}  // namespace detail

/// What `infer` of P remembers: P::State, or NoState.
template <class P>
using StateOf = typename detail::StateOf<P>::type;

/// A part whose state can take tokens back.
template <class P>
concept CanRollBack = Stateful<P> && requires(const P& part, StateOf<P>& state, Index count) {
  part.make_state(count, count, count);
  part.roll_back(state, count);
};

namespace detail {

/// The name of a member of P and of MemoryNames is ambiguous in WithMemoryNames<P>, so that a member of P is
/// found whatever its signature is. The members of a final class are not found.
struct MemoryNames {
  int make_state, infer, roll_back;
};
template <class P>
struct WithMemoryNames : P, MemoryNames {};
template <class P>
requires std::is_final_v<P>
struct WithMemoryNames<P> : MemoryNames {
};

template <class P>
concept NamesMemory = requires {
  typename P::State;
}
|| !requires { &WithMemoryNames<P>::make_state; }
|| !requires { &WithMemoryNames<P>::infer; };
template <class P>
concept NamesRollBack = !requires {
  &WithMemoryNames<P>::roll_back;
};

/// P has no memory, or all members of one. infer_part and roll_back would ignore half a memory in silence.
template <class P>
concept WholeMemory = (Stateful<P> || !NamesMemory<P>)&&(CanRollBack<P> || !NamesRollBack<P>);

}  // namespace detail

/// A part of a block, of any kind.
template <class P>
concept BlockPart = Part<P> && std::copyable<P> && std::default_initializable<P> && requires {
  typename P::Settings;
  typename P::template Tape<Dynamic>;
  { P::kind } -> std::convertible_to<PartKind>;
} && detail::WholeMemory<P>;

/// A part of the given kind that maps In x N to Out x N.
template <class P, PartKind Kind, int In = Dynamic, int Out = In>
concept MapPart =
    BlockPart<P> && P::kind ==
    Kind&& std::constructible_from<P, Index, Index, const typename P::Settings&, Random&>&& requires(
        const P& part, P& gradient, const Matrix<typename P::Scalar, In>& x,
        Matrix<typename P::Scalar, Out>& y, Matrix<typename P::Scalar, In>& dx,
        typename P::template Tape<Dynamic>& tape, const Pass& pass) {
  part.forward(x, y, tape, pass);
  part.backward(x, y, y, dx, tape, gradient, pass);
}
&&(!Stateful<P> ||
   requires(const P& part, const Matrix<typename P::Scalar, In>& x, Matrix<typename P::Scalar, Out>& y,
            StateOf<P>& state, typename P::template Tape<Dynamic>& tape,
            const Pass& pass) { part.infer(x, y, state, tape, pass); });

/// Computes the direction kt from the context c.
template <class P, int Rows = Dynamic>
concept Sublayer = MapPart<P, PartKind::sublayer, Rows, Rows>;
/// Computes the context c from what the block reads.
template <class P, int Rows = Dynamic>
concept Norm = MapPart<P, PartKind::norm, Rows, Rows>;

/// The state at the start of `sequences` sequences of at most `capacity` tokens each.
/// @param rollback  the most tokens that roll_back is to take back.
/// @throws std::invalid_argument if the part cannot take tokens back and `rollback` is not 0.
template <class P>
StateOf<P> make_state(const P& part, Index sequences, Index capacity, Index rollback = 0) {
  if constexpr (CanRollBack<P>) {
    return part.make_state(sequences, capacity, rollback);
  } else if constexpr (Stateful<P>) {
    if (rollback != 0)
      fail("ddl::make_state", "rollback", std::to_string(rollback),
           "0: a part of the model has no roll_back; copy the state instead");
    return part.make_state(sequences, capacity);
  } else {
    return {};
  }
}

/// Takes back the last `tokens` tokens of every sequence, at most the state's rollback.
template <class P>
void roll_back(const P& part, StateOf<P>& state, Index tokens) {
  if constexpr (CanRollBack<P>) part.roll_back(state, tokens);
}

/// infer of a part with memory, forward of one without.
template <class P, class X, class Y, class State, class Tape>
void infer_part(const P& part, const X& x, Y&& y, State& state, Tape& tape, const Pass& pass) {
  if constexpr (Stateful<P>)
    part.infer(x, y, state, tape, pass);
  else
    part.forward(x, y, tape, pass);
}
/// The same for a compressor, whose passes return x.
template <class P, class X, class State, class Tape>
auto infer_compressor(const P& part, const X& states, State& state, Tape& tape, const Pass& pass) {
  if constexpr (Stateful<P>)
    return part.infer(states, state, tape, pass);
  else
    return part.forward(states, tape, pass);
}

}  // namespace ddl
