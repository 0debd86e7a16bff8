// SPDX-License-Identifier: MIT
/// @file  The compressor that reads a state together with those of the tokens before it (TC).
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the token-convolution compressor.
#pragma once

#include <algorithm>
#include <optional>
#include <tuple>
#include <type_traits>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"
#include "ddl/core/parameters.hpp"
#include "ddl/core/random.hpp"
#include "ddl/nn/sequence.hpp"

namespace ddl {
namespace detail {

/// The columns of a kernel that find no state, for token n of sequences of T: the first ones.
inline Index missing_columns(Index columns, Index channels, Index n, Index T) {
  return (std::max)(Index(0), columns - (n % T + 1) * channels);
}

/// x_n = sum over c of w_c * X_c', where c' runs over the columns of the states of token n and of the tokens
/// before it in its sequence of T: the last column of w is for the last of token n's state.
template <class S, class W, class X, Executor E>
void mix_windows(const S& states, const W& w, Index channels, Index T, X& x, const E& executor) {
  for_ranges(executor, x.cols(), columns_per_piece(x.rows() * channels), [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n) {
      const Index offset = (n + 1) * channels - w.cols();
      auto sum = column(x, n);
      sum.setZero();
      for (Index c = missing_columns(w.cols(), channels, n, T); c < w.cols(); ++c)
        sum += column(states, offset + c) * column(w, c);
    }
  });
}

/// f(begin, end, sum) for ranges of N tokens, each with a sum of its own, rows x cols and zero at first; then adds
/// them up, in the order of the ranges, into the first cols columns of `sums`.
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

/// dX_c' += w_c * dx_n,  dw_c = sum over n of X_c' * dx_n, in the first columns of `dw`. The states' gradient is
/// gathered from the tokens that saw them, so that ranges of tokens write nothing that is another's.
template <class S, class W, class X, class DS, class DW, Executor E>
void mix_windows_backward(const S& states, const W& w, Index channels, Index T, const X& dx, DS& dstates,
                          DW& dw, const E& executor) {
  const Index kernel = w.cols() / channels;
  sum_over_tokens(dx.cols(), w.rows(), w.cols(), dw, executor, [&](Index begin, Index end, auto& sum) {
    for (Index n = begin; n < end; ++n) {
      const Index offset = (n + 1) * channels - w.cols();
      for (Index c = missing_columns(w.cols(), channels, n, T); c < w.cols(); ++c)
        column(sum, c) += column(states, offset + c) * column(dx, n);
      const Index seen_by = (std::min)(kernel, T - n % T);
      for (Index ahead = 0; ahead < seen_by; ++ahead)
        for (Index j = 0; j < channels; ++j)
          column(dstates, n * channels + j) +=
              column(w, (kernel - 1 - ahead) * channels + j) * column(dx, n + ahead);
    }
  });
}

/// Tap t of a convolution's weight of (d m) x K, which has PyTorch's shape: m x d.
template <class W>
auto tap_of(W& weight, Index channels, Index t) {
  using Tap = Matrix<typename W::Scalar>;
  return Eigen::Map<std::conditional_t<std::is_const_v<W>, const Tap, Tap>>(
      weight.data() + t * weight.rows(), channels, weight.rows() / channels);
}

/// mix_(., t m + j) = w_(. m + j, t): as d x (m K), the columns stand as those of the states do.
template <class W, class Mix>
void fold_taps(const W& weight, Index channels, Mix& mix) {
  mix.resize(weight.rows() / channels, weight.cols() * channels);
  for (Index t = 0; t < weight.cols(); ++t)
    mix.middleCols(t * channels, channels) = tap_of(weight, channels, t).transpose();
}

}  // namespace detail

/// What a convolution over tokens remembers while one sequence is decoded: the columns of the last tokens, as
/// many as its kernel is wide, the newest last; zero before the first.
template <class Scalar, int Rows = Dynamic>
struct TokenHistory {
  Matrix<Scalar, Rows, Dynamic> columns;

  void push(const ConstBatchRef<Scalar, Rows>& newest) {
    std::copy(columns.data() + newest.size(), columns.data() + columns.size(), columns.data());
    columns.rightCols(newest.cols()) = newest;
  }
};

struct TokenConvolutionSettings {
  Index kernel = 4;  ///< tokens
};

/// x_i(n) = sum over j of read_j sum over t of w_(i m + j, t) X_ij(n - (K - 1) + t),  X = 0 before a sequence.
///
///   X: d x (N m)    x: d x N    w: (d m) x K (PyTorch's shape), the newest token last    read: m
///
/// One pass over the state, with w and read folded into one weight. It starts at the mean over the newest
/// token's channels.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct TokenConvolution {
  using Scalar = Scalar_;
  using Settings = TokenConvolutionSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  using History = TokenHistory<Scalar, Rows>;

  template <int Tokens = Dynamic>
  struct Cache {
    Index length = 0;  ///< tokens per sequence; 0: the whole batch is one sequence
    Matrix<Scalar, Rows, Tokens> x;
    Matrix<Scalar, Rows, Dynamic> mix, dmix;  ///< d x (m K): read_j w_(. m + j, t)
    std::optional<History> history;           ///< if there is one, forward takes the next token of a sequence
  };

  Matrix<Scalar, times(Rows, Cols), Dynamic> weight;
  Vector<Scalar, Cols> read;

  static constexpr auto parameters() {
    return std::tuple(field("weight", &TokenConvolution::weight),
                      vector_field("read", &TokenConvolution::read));
  }

  TokenConvolution() = default;
  /// @throws std::invalid_argument if the kernel is not at least 1.
  TokenConvolution(const Settings& settings, Index width, Index channels, Random&) {
    check_positive("ddl::TokenConvolution", "kernel", settings.kernel);
    weight.setZero(width * channels, settings.kernel);
    weight.rightCols(1).setOnes();
    read.setConstant(channels, Scalar(1) / Scalar(channels));
  }

  Index value_channels() const noexcept { return read.size(); }
  Index width() const noexcept { return weight.rows() / read.size(); }

  /// What a cache keeps, in scalars per sample.
  Index cache_scalars() const { return width(); }

  /// @return x, a view of the cache. @throws std::invalid_argument if cache.length does not divide N.
  template <int Tokens, Executor E = Serial>
  Input forward(const Input& X, Cache<Tokens>& cache, const E& executor = {}) const {
    const Index m = value_channels(), N = X.cols() / m;
    const Index T = sequence_length("ddl::TokenConvolution", cache.length, N);
    cache.x.resize(X.rows(), N);
    if (cache.history) {
      step(X, cache.x, *cache.history);
      return cache.x;
    }
    detail::fold_taps(weight, m, cache.mix);
    for (Index c = 0; c < cache.mix.cols(); ++c) column(cache.mix, c) *= read[c % m];
    detail::mix_windows(X, cache.mix, m, T, cache.x, executor);
    return cache.x;
  }
  /// What forward returned.
  template <int Tokens>
  Input output(const Input&, const Cache<Tokens>& cache) const {
    return cache.x;
  }

  /// dX += the compressor's share.
  template <int Tokens, Executor E = Serial>
  void backward(const Input& X, Cache<Tokens>& cache, const Input& dx, BatchRef<Scalar, Rows> dX,
                TokenConvolution& gradient, const E& executor = {}) const {
    const Index m = value_channels();
    const Index T = sequence_length("ddl::TokenConvolution", cache.length, dx.cols());
    detail::mix_windows_backward(X, cache.mix, m, T, dx, dX, cache.dmix, executor);
    for (Index t = 0; t < weight.cols(); ++t) {
      const auto slope = cache.dmix.middleCols(t * m, m).transpose();
      detail::tap_of(gradient.weight, m, t) += read.asDiagonal() * slope;
      gradient.read += slope.cwiseProduct(detail::tap_of(weight, m, t)).rowwise().sum();
    }
  }

  /// For a sequence that begins.
  History make_history() const { return {Matrix<Scalar, Rows, Dynamic>::Zero(width(), columns())}; }

  /// x (d x 1) for one more token of a sequence, X: d x m.
  /// @throws std::invalid_argument if a shape does not fit.
  void step(const Input& X, BatchRef<Scalar, Rows> x, History& history) const {
    constexpr const char* where = "ddl::TokenConvolution::step";
    const Index m = value_channels();
    check_shape(where, "X", X, width(), m);
    check_shape(where, "x", x, width(), 1);
    check_shape(where, "the history", history.columns, width(), columns());
    history.push(X);
    x.setZero();
    for (Index t = 0; t < weight.cols(); ++t) {
      const auto tap = detail::tap_of(weight, m, t);
      for (Index j = 0; j < m; ++j)
        x += read[j] * tap.row(j).transpose().cwiseProduct(history.columns.col(t * m + j));
    }
  }

 private:
  Index columns() const noexcept { return weight.cols() * read.size(); }
};

}  // namespace ddl
