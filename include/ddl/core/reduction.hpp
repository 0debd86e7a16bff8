// SPDX-License-Identifier: MIT
/// @file  Sums over the tokens of a batch, in an order that does not depend on the number of threads.
#pragma once

#include <algorithm>

#include "ddl/core/batch.hpp"
#include "ddl/core/executor.hpp"

namespace ddl::detail {

/// Calls f(begin, end, sum) for ranges of N tokens, each with a sum of its own, rows x cols and initially
/// zero; then adds the sums, in the order of the ranges, into the first `cols` columns of `sums`.
template <class Sums, Executor E, class F>
void sum_over_tokens(Index N, Index rows, Index cols, Sums& sums, const E& executor, const F& f) {
  constexpr Index most = 16;
  const Index grain = (std::max)(columns_per_piece(rows * cols), pieces_of(N, most));
  const Index ranges = pieces_of(N, grain);
  sums.resize(rows, cols * (std::max)(Index(1), ranges));
  sums.leftCols(cols).setZero();
  for_ranges(executor, N, grain, [&](Index begin, Index end) {
    auto sum = sums.middleCols(begin / grain * cols, cols);
    sum.setZero();
    f(begin, end, sum);
  });
  for_ranges(executor, cols, columns_per_piece(rows * ranges), [&](Index begin, Index end) {
    for (Index c = begin; c < end; ++c)
      for (Index range = 1; range < ranges; ++range) column(sums, c) += column(sums, range * cols + c);
  });
}

}  // namespace ddl::detail
