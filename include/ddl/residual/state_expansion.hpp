// SPDX-License-Identifier: MIT
/// @file  From a token's vector of size d to its first state of d x m: by repetition, or by a convolution
/// over tokens (EC).
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the expansion of the embedding.
#pragma once

#include <algorithm>
#include <optional>
#include <tuple>

#include "ddl/nn/token_windows.hpp"

namespace ddl {

/// Settings of a StateExpansion.
struct StateExpansionSettings {
  /// Tokens. By default every channel is the vector itself, without parameters.
  std::optional<Index> kernel = {};
};

/// The first state of a token: X_ij(n) = sum over t of w_(i m + j, t) x_i(n - (K - 1) + t),  x = 0 before a
/// sequence;  or X_ij = x_i.
///
///     x: d x N    X: d x (N m)    w: (d m) x K (PyTorch's shape), the newest token last
///
/// The initial convolution is the repetition.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct StateExpansion {
  using Scalar = Scalar_;
  using Settings = StateExpansionSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  using State = ConvolutionState<Scalar, Rows>;  ///< the last tokens of each sequence

  /// What backward needs of forward, and scratch memory.
  struct Tape {
    Matrix<Scalar, Rows, Dynamic> mix, dmix;  ///< d x (m K): w_(. m + j, t)
    Matrix<Scalar, Rows, Dynamic> windows;    ///< scratch memory of infer
  };

  Matrix<Scalar, times(Rows, Cols), Dynamic> weight;  ///< w; without columns for the repetition
  Index width = 0;                                    ///< d
  Index value_channels = 1;                           ///< m

  static constexpr auto parameters() { return std::tuple(parameter("weight", &StateExpansion::weight)); }

  StateExpansion() = default;
  /// @throws std::invalid_argument if a size or the kernel is below 1, or a size differs from the fixed one.
  StateExpansion(Index width_, Index channels, const Settings& settings, Random&)
      : width(width_), value_channels(channels) {
    constexpr const char* where = "ddl::StateExpansion";
    check_positive(where, "width", width);
    check_positive(where, "value_channels", channels);
    check_fixed(where, "width", width, Rows);
    check_fixed(where, "value_channels", channels, Cols);
    weight.resize(width * channels, 0);
    if (!settings.kernel) return;
    check_positive(where, "kernel", *settings.kernel);
    weight.setZero(width * channels, *settings.kernel);
    weight.rightCols(1).setOnes();
  }

  /// X from x.
  /// @throws std::invalid_argument if a shape does not fit or the sequences do not fill the batch.
  void forward(const Input& x, BatchRef<Scalar, Rows> X, Tape& tape, const Pass& pass = {}) const {
    check("ddl::StateExpansion", x, X, pass);
    convolve(x, {pass}, X, tape);
  }

  /// Adds to dx and to the gradient's parameters.
  void backward(const Input& x, const Input& dX, BatchRef<Scalar, Rows> dx, Tape& tape,
                StateExpansion& gradient, const Pass& pass = {}) const {
    constexpr const char* where = "ddl::StateExpansion::backward";
    const Index m = value_channels;
    check_shape(where, "dx", dx, width, x.cols());
    check_shape(where, "dX", dX, width, x.cols() * m);
    if (repeats())
      return for_ranges(pass.executor, x.cols(), columns_per_piece(width * m), [&](Index begin, Index end) {
        for (Index n = begin; n < end; ++n)
          for (Index j = 0; j < m; ++j) column(dx, n) += column(dX, n * m + j);
      });
    detail::sum_over_tokens(
        x.cols(), width, tape.mix.cols(), tape.dmix, pass.executor, [&](Index begin, Index end, auto& sum) {
          for (Index n = begin; n < end; ++n) {
            const TokenRange sequence = pass.sequence_of(n);
            for (Index j = 0; j < m; ++j) {
              for (Index back = 0; back < taps(n - sequence.begin); ++back)
                column(sum, tap(back, j)) += column(dX, n * m + j) * column(x, n - back);
              for (Index ahead = 0; ahead < taps(sequence.end - 1 - n); ++ahead)
                column(dx, n) += column(dX, (n + ahead) * m + j) * column(tape.mix, tap(ahead, j));
            }
          }
        });
    for (Index t = 0; t < kernel(); ++t)
      detail::tap_of(gradient.weight, m, t) += tape.dmix.middleCols(t * m, m).transpose();
  }

  /// At the start of sequences.
  State make_state(Index sequences, Index, Index rollback = 0) const {
    return {Matrix<Scalar, Rows, Dynamic>::Zero(width, past(rollback) * sequences), rollback};
  }
  /// Takes back the last tokens of every sequence.
  void roll_back(State& state, Index tokens) const { detail::roll_back_windows(state, kernel(), 1, tokens); }
  /// forward for the tokens after those in the state.
  /// @throws std::invalid_argument if a shape does not fit or the state is of another size.
  void infer(const Input& x, BatchRef<Scalar, Rows> X, State& state, Tape& tape,
             const Pass& pass = {}) const {
    constexpr const char* where = "ddl::StateExpansion::infer";
    check(where, x, X, pass);
    const detail::Windows layout{pass, past(state.rollback)};
    detail::extend_windows(where, x, 1, layout, state, tape.windows);
    convolve(tape.windows, layout, X, tape);
  }

 private:
  void check(const char* where, const Input& x, const BatchRef<Scalar, Rows>& X, const Pass& pass) const {
    check_shape(where, "x", x, width, x.cols());
    check_shape(where, "X", X, width, x.cols() * value_channels);
    pass.sequences(where, x.cols());
  }
  void convolve(const Input& windows, const detail::Windows& layout, BatchRef<Scalar, Rows>& X,
                Tape& tape) const {
    const Index m = value_channels, N = X.cols() / m;
    if (!repeats()) detail::fold_taps(weight, m, tape.mix);
    for_ranges(layout.pass.executor, N, columns_per_piece(width * m), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n)
        for (Index j = 0; j < m; ++j) {
          auto channel = column(X, n * m + j);
          const Index newest = layout.end(n) - 1;
          if (repeats()) {
            channel = column(windows, newest);
            continue;
          }
          channel.setZero();
          for (Index back = 0; back < (std::min)(kernel(), layout.seen(n)); ++back)
            channel += column(windows, newest - back) * column(tape.mix, tap(back, j));
        }
    });
  }

  Index kernel() const noexcept { return weight.cols(); }
  Index past(Index rollback) const noexcept { return repeats() ? 0 : kernel() - 1 + rollback; }
  bool repeats() const noexcept { return kernel() == 0; }
  /// The taps that token `position` of a sequence has tokens for.
  Index taps(Index position) const noexcept { return (std::min)(kernel(), position + 1); }
  /// The column of the tap `back` tokens ago.
  Index tap(Index back, Index channel) const noexcept {
    return (kernel() - 1 - back) * value_channels + channel;
  }
};

}  // namespace ddl
