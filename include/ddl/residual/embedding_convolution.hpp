// SPDX-License-Identifier: MIT
/// @file  From a token's vector of size d to its first state of d x m: by repetition, or by a convolution over
/// tokens (EC).
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the expansion of the embedding.
#pragma once

#include <optional>
#include <tuple>

#include "ddl/residual/token_convolution.hpp"

namespace ddl {

struct EmbeddingConvolutionSettings {
  Index kernel = 4;  ///< tokens; 0: every channel is the vector itself, without parameters
};

/// X_ij(n) = sum over t of w_(i m + j, t) x_i(n - (K - 1) + t),  x = 0 before a sequence;  or X_ij = x_i.
///
///   x: d x N    X: d x (N m)    w: (d m) x K (PyTorch's shape), the newest token last
///
/// The convolution starts at the repetition.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct EmbeddingConvolution {
  using Scalar = Scalar_;
  using Settings = EmbeddingConvolutionSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  using History = TokenHistory<Scalar, Rows>;

  struct Cache {
    Index length = 0;                         ///< tokens per sequence; 0: the whole batch is one sequence
    Matrix<Scalar, Rows, Dynamic> mix, dmix;  ///< d x (m K): w_(. m + j, t)
    std::optional<History> history;           ///< if there is one, forward takes the next token of a sequence
  };

  Matrix<Scalar, times(Rows, Cols), Dynamic> weight;
  Index width = 0;
  Index value_channels = 1;

  static constexpr auto parameters() { return std::tuple(field("weight", &EmbeddingConvolution::weight)); }

  EmbeddingConvolution() = default;
  /// @throws std::invalid_argument if a size is below 1 or differs from the fixed one, or the kernel is below
  /// 0.
  EmbeddingConvolution(const Settings& settings, Index width_, Index channels, Random&)
      : width(width_), value_channels(channels) {
    constexpr const char* where = "ddl::EmbeddingConvolution";
    check_positive(where, "width", width);
    check_positive(where, "value_channels", channels);
    check_fixed(where, "width", width, Rows);
    check_fixed(where, "value_channels", channels, Cols);
    if (settings.kernel < 0)
      fail(where, "kernel", std::to_string(settings.kernel), "at least 1, or 0 for repetition");
    weight.setZero(width * channels, settings.kernel);
    if (settings.kernel > 0) weight.rightCols(1).setOnes();
  }

  /// @throws std::invalid_argument if a shape does not fit or cache.length does not divide N.
  template <Executor E = Serial>
  void forward(const Input& x, BatchRef<Scalar, Rows> X, Cache& cache, const E& executor = {}) const {
    constexpr const char* where = "ddl::EmbeddingConvolution::forward";
    const Index m = value_channels, T = sequence_length(where, cache.length, x.cols());
    check_shape(where, "x", x, width, x.cols());
    check_shape(where, "X", X, width, x.cols() * m);
    if (cache.history) return step(x, X, *cache.history);
    detail::fold_taps(weight, m, cache.mix);
    for_ranges(executor, x.cols(), columns_per_piece(width * m), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n)
        for (Index j = 0; j < m; ++j) {
          auto channel = column(X, n * m + j);
          if (repeats()) {
            channel = column(x, n);
            continue;
          }
          channel.setZero();
          for (Index back = 0; back < taps(n % T); ++back)
            channel += column(x, n - back) * column(cache.mix, tap(back, j));
        }
    });
  }

  template <Executor E = Serial>
  void backward(const Input& x, Cache& cache, const Input& dX, BatchRef<Scalar, Rows> dx,
                EmbeddingConvolution& gradient, const E& executor = {}) const {
    constexpr const char* where = "ddl::EmbeddingConvolution::backward";
    const Index m = value_channels, T = sequence_length(where, cache.length, x.cols());
    check_shape(where, "dx", dx, width, x.cols());
    check_shape(where, "dX", dX, width, x.cols() * m);
    if (repeats())
      return for_ranges(executor, x.cols(), columns_per_piece(width * m), [&](Index begin, Index end) {
        for (Index n = begin; n < end; ++n) {
          auto slope = column(dx, n);
          slope = column(dX, n * m);
          for (Index j = 1; j < m; ++j) slope += column(dX, n * m + j);
        }
      });
    detail::sum_over_tokens(
        x.cols(), width, cache.mix.cols(), cache.dmix, executor, [&](Index begin, Index end, auto& sum) {
          for (Index n = begin; n < end; ++n) {
            auto slope = column(dx, n);
            slope.setZero();
            for (Index j = 0; j < m; ++j) {
              for (Index back = 0; back < taps(n % T); ++back)
                column(sum, tap(back, j)) += column(dX, n * m + j) * column(x, n - back);
              for (Index ahead = 0; ahead < taps(T - 1 - n % T); ++ahead)
                slope += column(dX, (n + ahead) * m + j) * column(cache.mix, tap(ahead, j));
            }
          }
        });
    for (Index t = 0; t < kernel(); ++t)
      detail::tap_of(gradient.weight, m, t) += cache.dmix.middleCols(t * m, m).transpose();
  }

  /// For a sequence that begins.
  History make_history() const { return {Matrix<Scalar, Rows, Dynamic>::Zero(width, kernel())}; }

  /// X (d x m) for one more token of a sequence, x: d x 1.
  /// @throws std::invalid_argument if a shape does not fit.
  void step(const Input& x, BatchRef<Scalar, Rows> X, History& history) const {
    constexpr const char* where = "ddl::EmbeddingConvolution::step";
    check_shape(where, "x", x, width, 1);
    check_shape(where, "X", X, width, value_channels);
    check_shape(where, "the history", history.columns, width, kernel());
    if (!repeats()) history.push(x);
    for (Index j = 0; j < value_channels; ++j) {
      auto channel = column(X, j);
      if (repeats()) {
        channel = column(x, 0);
        continue;
      }
      channel.setZero();
      for (Index t = 0; t < kernel(); ++t)
        X.col(j) +=
            detail::tap_of(weight, value_channels, t).row(j).transpose().cwiseProduct(history.columns.col(t));
    }
  }

 private:
  Index kernel() const noexcept { return weight.cols(); }
  bool repeats() const noexcept { return weight.size() == 0; }
  /// The taps that token `position` of a sequence has tokens for.
  Index taps(Index position) const noexcept { return (std::min)(kernel(), position + 1); }
  /// The column of the tap `back` tokens ago.
  Index tap(Index back, Index channel) const noexcept {
    return (kernel() - 1 - back) * value_channels + channel;
  }
};

}  // namespace ddl
