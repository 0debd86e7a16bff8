// SPDX-License-Identifier: MIT
/// @file  Who runs the pieces of a computation.
///
/// The library starts no thread. Whatever can be split takes an executor and hands it pieces whose bounds
/// never depend on the number of threads, and whose results do not depend on their order: one thread and
/// eight give the same bits.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>

#include "ddl/core/scalar.hpp"

namespace ddl {

/// An executor calls f(0) .. f(pieces - 1), each once, in any order, on any threads, and returns when all
/// have returned. Where pieces throw, for_each throws what the lowest of them threw, after all pieces that
/// began have ended. All pieces below that one have run; those above it may have been left out. A piece may
/// call for_each.
template <class E>
concept Executor = requires(const E& executor, Index pieces, void (*f)(Index)) {
  executor.for_each(pieces, f);
};

/// Runs the pieces on the calling thread in ascending order; the first that throws is the last that runs.
struct Serial {
  /// f(0) .. f(pieces - 1).
  template <class F>
  void for_each(Index pieces, F&& f) const {
    for (Index i = 0; i < pieces; ++i) f(i);
  }
};

/// How many pieces of at most `piece` cover [0, total).
constexpr Index pieces_of(Index total, Index piece) noexcept { return (total + piece - 1) / piece; }

/// The scalars that a loop visits in one piece. To wake a thread takes at least the time in which they are
/// visited.
inline constexpr Index scalars_per_piece = 1 << 14;

/// The number of columns of height `rows` that make a piece.
constexpr Index columns_per_piece(Index rows) noexcept {
  return rows < scalars_per_piece ? scalars_per_piece / (rows < 1 ? 1 : rows) : 1;
}
/// The number of rows of length `cols` that make a piece of a column-major matrix: some cache lines at least.
constexpr Index rows_per_piece(Index cols) noexcept { return (std::max)(Index(64), columns_per_piece(cols)); }

/// Calls f(begin, end) for consecutive ranges of at most `grain` that cover [0, total).
template <Executor E, class F>
void for_ranges(const E& executor, Index total, Index grain, F&& f) {
  executor.for_each(pieces_of(total, grain),
                    [&](Index piece) { f(piece * grain, (std::min)(total, (piece + 1) * grain)); });
}

/// The sum of f(begin, end) over consecutive ranges that cover [0, total), added up in their order. There are
/// at most 64 ranges, so that the partial sums need no heap. Too short a loop is left to the calling thread.
/// @param scalars  how many f visits for each of the `total`.
template <Executor E, class F>
double sum_ranges(const E& executor, Index total, Index scalars, const F& f) {
  std::array<double, 64> partial{};
  const Index grain = (std::max)(Index(256), (total + 63) / 64);
  const auto add = [&](Index begin, Index end) {
    partial[static_cast<std::size_t>(begin / grain)] = f(begin, end);
  };
  if (total * scalars < 2 * scalars_per_piece)
    for_ranges(Serial{}, total, grain, add);
  else
    for_ranges(executor, total, grain, add);
  double sum = 0;
  for (const double part : partial) sum += part;
  return sum;
}

}  // namespace ddl
