// SPDX-License-Identifier: MIT
/// @file  What convolutions over tokens have in common: windows over a sequence, and the folding of their
/// weights.
#pragma once

#include <algorithm>
#include <tuple>
#include <type_traits>

#include "ddl/core/reduction.hpp"
#include "ddl/nn/part.hpp"

namespace ddl {

/// The state of a causal convolution over tokens: the last K - 1 tokens of each of S sequences, `columns`
/// columns each, and as many before them as can be taken back.
///
///     history   d x ((K - 1 + rollback) columns S), the newest token of a sequence last; zero before the first
template <class Scalar_, int Rows = Dynamic>
struct ConvolutionState {
  using Scalar = Scalar_;
  Matrix<Scalar, Rows, Dynamic> history;  ///< see above
  Index rollback = 0;                     ///< the tokens of a sequence that can be taken back

  static constexpr auto parameters() { return std::tuple(parameter("history", &ConvolutionState::history)); }
};

namespace detail {

/// The windows of the sequences of a pass, with `past` tokens before the new ones of each, and the layout in
/// which forward passes read them. In a forward pass nothing comes before a sequence: past = 0, and the
/// windows are the batch itself.
struct Windows {
  const Pass& pass;
  Index past = 0;

  /// The number of tokens in the windows that come no later than token n of the batch.
  Index end(Index n) const noexcept { return (pass.sequence_of(n).sequence + 1) * past + n + 1; }
  /// How many of these are in the window of token n's own sequence.
  Index seen(Index n) const noexcept { return past + n - pass.sequence_of(n).begin + 1; }
};

/// windows = the history of each sequence, followed by its new tokens, of m columns each; moves the history
/// on.
template <class X, class State, class W>
void extend_windows(const char* where, const X& x, Index m, const Windows& layout, State& state, W& windows) {
  const Index S = layout.pass.sequences(where, x.cols() / m), before = layout.past * m;
  check_shape(where, "the history of the state", state.history, x.rows(), S * before);
  windows.resize(x.rows(), S * before + x.cols());
  for (Index s = 0; s < S; ++s) {
    const TokenRange tokens = layout.pass.sequence(s);
    const Index fresh = tokens.length() * m;
    auto window = windows.middleCols(s * before + tokens.begin * m, before + fresh);
    window.leftCols(before) = state.history.middleCols(s * before, before);
    window.rightCols(fresh) = x.middleCols(tokens.begin * m, fresh);
    state.history.middleCols(s * before, before) = window.rightCols(before);
  }
}

/// `history` holds the same number of tokens of each of S sequences, one column a token, the newest last.
/// Appends the new tokens of each sequence; the oldest are dropped.
template <class M, class X>
void append_newest(M& history, const X& x, const Pass& pass, Index S) {
  const Index room = history.cols() / S, rows = history.rows();
  for (Index s = 0; s < S; ++s) {
    const TokenRange tokens = pass.sequence(s);
    const Index fresh = (std::min)(room, tokens.length());
    auto* const begin = history.data() + s * room * rows;
    std::copy(begin + fresh * rows, begin + room * rows, begin);
    history.middleCols((s + 1) * room - fresh, fresh) = x.middleCols(tokens.end - fresh, fresh);
  }
}
/// Drops the newest `count` tokens of each sequence; columns of zeros take the place of the oldest.
template <class M>
void drop_newest(M& history, Index S, Index count) {
  const Index room = history.cols() / S, rows = history.rows();
  for (Index s = 0; s < S && room > 0; ++s) {
    auto* const begin = history.data() + s * room * rows;
    std::copy_backward(begin, begin + (room - count) * rows, begin + room * rows);
    std::fill_n(begin, count * rows, typename M::Scalar(0));
  }
}

/// Takes back the last tokens of every sequence of a convolution's state, of m columns each.
template <class State>
void roll_back_windows(State& state, Index kernel, Index m, Index tokens) {
  const Index held = (kernel - 1 + state.rollback) * m;
  if (state.history.size() > 0) drop_newest(state.history, state.history.cols() / held, tokens * m);
}

/// x_n = sum over c of w_c * X_c', where c' runs over the columns of the states of token n and of the tokens
/// before it in its sequence, m a token: the last column of w is for the last column of token n's state.
template <class S, class W, class X>
void mix_windows(const S& states, const W& w, Index m, const Windows& layout, X& x) {
  for_ranges(layout.pass.executor, x.cols(), columns_per_piece(x.rows() * m), [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n) {
      const Index offset = layout.end(n) * m - w.cols();
      auto sum = column(x, n);
      sum.setZero();
      for (Index c = (std::max)(Index(0), w.cols() - layout.seen(n) * m); c < w.cols(); ++c)
        sum += column(states, offset + c) * column(w, c);
    }
  });
}

/// dX_c' += w_c * dx_n,  dw_c = sum over n of X_c' * dx_n, in the first columns of `dw`. The gradient of a
/// state is gathered from the tokens that read it, so that ranges of tokens write to disjoint columns.
template <class S, class W, class X, class DS, class DW>
void mix_windows_backward(const S& states, const W& w, Index m, const Pass& pass, const X& dx, DS& dstates,
                          DW& dw) {
  const Index kernel = w.cols() / m;
  const Windows layout{pass};
  sum_over_tokens(dx.cols(), w.rows(), w.cols(), dw, pass.executor, [&](Index begin, Index end, auto& sum) {
    for (Index n = begin; n < end; ++n) {
      const Index offset = layout.end(n) * m - w.cols();
      for (Index c = (std::max)(Index(0), w.cols() - layout.seen(n) * m); c < w.cols(); ++c)
        column(sum, c) += column(states, offset + c) * column(dx, n);
      const Index readers = (std::min)(kernel, pass.sequence_of(n).end - n);
      for (Index ahead = 0; ahead < readers; ++ahead)
        for (Index j = 0; j < m; ++j)
          column(dstates, n * m + j) += column(w, (kernel - 1 - ahead) * m + j) * column(dx, n + ahead);
    }
  });
}

/// Tap t of a convolution's weight of (d m) x K, which has PyTorch's shape: m x d.
template <class W>
auto tap_of(W& weight, Index m, Index t) {
  using Tap = Matrix<typename W::Scalar>;
  return Eigen::Map<std::conditional_t<std::is_const_v<W>, const Tap, Tap>>(weight.data() + t * weight.rows(),
                                                                            m, weight.rows() / m);
}

/// mix_(., t m + j) = w_(. m + j, t): d x (m K), the columns in the order of those of the states.
template <class W, class Mix>
void fold_taps(const W& weight, Index m, Mix& mix) {
  mix.resize(weight.rows() / m, weight.cols() * m);
  for (Index t = 0; t < weight.cols(); ++t) mix.middleCols(t * m, m) = tap_of(weight, m, t).transpose();
}

}  // namespace detail
}  // namespace ddl
