// SPDX-License-Identifier: MIT
/// @file  The compressor that reads a state together with those of the tokens before it (TC).
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the token-convolution compressor.
#pragma once

#include <algorithm>
#include <tuple>

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

/// dX_c' += w_c * dx_n,  dw_c += X_c' * dx_n.
template <class S, class W, class X, class DS, class DW, Executor E>
void mix_windows_backward(const S& states, const W& w, Index channels, Index T, const X& dx, DS& dstates,
                          DW& dw, const E& executor) {
  for_ranges(executor, states.rows(), 64, [&](Index begin, Index end) {
    const Index rows = end - begin;
    for (Index n = 0; n < dx.cols(); ++n) {
      const Index offset = (n + 1) * channels - w.cols();
      const auto slope = column(dx, n, begin, rows);
      for (Index c = missing_columns(w.cols(), channels, n, T); c < w.cols(); ++c) {
        column(dw, c, begin, rows) += slope * column(states, offset + c, begin, rows);
        column(dstates, offset + c, begin, rows) += slope * column(w, c, begin, rows);
      }
    }
  });
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

/// x_i(n) = sum over j of read_j sum over t of w_(i, t m + j) X_ij(n - (K - 1) + t),  X = 0 before a sequence.
///
///   X: d x (N m)    x: d x N    w: d x (m K), the newest token last    read: m
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
    Matrix<Scalar, Rows, Dynamic> mix, dmix;  ///< read_j w_(., t m + j)
  };

  Matrix<Scalar, Rows, Dynamic> weight;
  Vector<Scalar, Cols> read;

  static constexpr auto parameters() {
    return std::tuple(field("weight", &TokenConvolution::weight),
                      vector_field("read", &TokenConvolution::read));
  }

  TokenConvolution() = default;
  /// @throws std::invalid_argument if the kernel is not at least 1.
  TokenConvolution(const Settings& settings, Index width, Index channels, Random&) {
    check_positive("ddl::TokenConvolution", "kernel", settings.kernel);
    weight.setZero(width, channels * settings.kernel);
    weight.rightCols(channels).setOnes();
    read.setConstant(channels, Scalar(1) / Scalar(channels));
  }

  Index value_channels() const noexcept { return read.size(); }

  /// What a cache keeps, in scalars per sample.
  Index cache_scalars() const { return weight.rows(); }

  /// @return x, a view of the cache. @throws std::invalid_argument if cache.length does not divide N.
  template <int Tokens, Executor E = Serial>
  Input forward(const Input& X, Cache<Tokens>& cache, const E& executor = {}) const {
    const Index m = value_channels(), N = X.cols() / m;
    const Index T = sequence_length("ddl::TokenConvolution", cache.length, N);
    cache.x.resize(X.rows(), N);
    cache.mix.resizeLike(weight);
    for (Index c = 0; c < weight.cols(); ++c) column(cache.mix, c) = column(weight, c) * read[c % m];
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
    cache.dmix.setZero(weight.rows(), weight.cols());
    detail::mix_windows_backward(X, cache.mix, m, T, dx, dX, cache.dmix, executor);
    for (Index c = 0; c < weight.cols(); ++c) {
      column(gradient.weight, c) += column(cache.dmix, c) * read[c % m];
      gradient.read[c % m] += (column(cache.dmix, c) * column(weight, c)).sum();
    }
  }

  /// For a sequence that begins.
  History make_history() const { return {Matrix<Scalar, Rows, Dynamic>::Zero(weight.rows(), weight.cols())}; }

  /// x (d x 1) for one more token of a sequence, X: d x m.
  /// @throws std::invalid_argument if a shape does not fit.
  void step(const Input& X, BatchRef<Scalar, Rows> x, History& history) const {
    constexpr const char* where = "ddl::TokenConvolution::step";
    const Index m = value_channels();
    check_shape(where, "X", X, weight.rows(), m);
    check_shape(where, "x", x, weight.rows(), 1);
    check_shape(where, "the history", history.columns, weight.rows(), weight.cols());
    history.push(X);
    x.setZero();
    for (Index c = 0; c < weight.cols(); ++c)
      column(x, 0) += read[c % m] * column(weight, c) * column(history.columns, c);
  }
};

}  // namespace ddl
