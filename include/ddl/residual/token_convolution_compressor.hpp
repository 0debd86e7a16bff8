// SPDX-License-Identifier: MIT
/// @file  The compressor that reads a state together with those of the tokens before it (TC).
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the token-convolution compressor.
#pragma once

#include <tuple>

#include "ddl/nn/token_windows.hpp"
#include "ddl/residual/compressor.hpp"

namespace ddl {

/// Settings of a TokenConvolutionCompressor.
struct TokenConvolutionSettings {
  Index kernel = 4;  ///< tokens
};

/// The compressor x_i(n) = sum over j of read_j sum over t of w_(i m + j, t) X_ij(n - (K - 1) + t),  X = 0
/// before a sequence.
///
///     X: d x (N m)    x: d x N    w: (d m) x K (PyTorch's shape), the newest token last    read: m
///
/// One pass over the state, with w and read folded into one weight. It starts at the mean over the newest
/// token's channels.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct TokenConvolutionCompressor {
  using Scalar = Scalar_;
  using Settings = TokenConvolutionSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  using State = ConvolutionState<Scalar, Rows>;  ///< the last states of each sequence
  static constexpr PartKind kind = PartKind::compressor;

  /// What backward needs of forward, and scratch memory.
  template <int Tokens = Dynamic>
  struct Tape {
    Matrix<Scalar, Rows, Tokens> x;           ///< d x N
    Matrix<Scalar, Rows, Dynamic> mix, dmix;  ///< d x (m K): read_j w_(. m + j, t)
    Matrix<Scalar, Rows, Dynamic> windows;    ///< scratch memory of infer
  };

  Matrix<Scalar, times(Rows, Cols), Dynamic> weight;  ///< w
  Vector<Scalar, Cols> read;                          ///< one number for each channel

  static constexpr auto parameters() {
    return std::tuple(parameter("weight", &TokenConvolutionCompressor::weight),
                      vector_parameter("read", &TokenConvolutionCompressor::read));
  }

  TokenConvolutionCompressor() = default;
  /// @throws std::invalid_argument if the kernel is not at least 1.
  TokenConvolutionCompressor(Index width, Index channels, const Settings& settings, Random&) {
    check_positive("ddl::TokenConvolutionCompressor", "kernel", settings.kernel);
    weight.setZero(width * channels, settings.kernel);
    weight.rightCols(1).setOnes();
    read.setConstant(channels, Scalar(1) / Scalar(channels));
  }

  Index value_channels() const noexcept { return read.size(); }         ///< m
  Index width() const noexcept { return weight.rows() / read.size(); }  ///< d

  /// x from X.
  /// @return x, a view of the tape. @throws std::invalid_argument if the sequences do not fill the batch.
  template <int Tokens>
  Input forward(const Input& X, Tape<Tokens>& tape, const Pass& pass = {}) const {
    const Index N = checked("ddl::TokenConvolutionCompressor", X, pass);
    return mix(X, {pass}, N, tape);
  }
  /// What forward returned.
  template <int Tokens>
  Input output(const Input&, const Tape<Tokens>& tape) const {
    return tape.x;
  }

  /// Adds to dX and to the gradient's parameters.
  template <int Tokens>
  void backward(const Input& X, const Input& dx, BatchRef<Scalar, Rows> dX, Tape<Tokens>& tape,
                TokenConvolutionCompressor& gradient, const Pass& pass = {}) const {
    const Index m = value_channels();
    detail::mix_windows_backward(X, tape.mix, m, pass, dx, dX, tape.dmix);
    for (Index t = 0; t < weight.cols(); ++t) {
      const auto grad = tape.dmix.middleCols(t * m, m).transpose();
      detail::tap_of(gradient.weight, m, t) += read.asDiagonal() * grad;
      gradient.read += grad.cwiseProduct(detail::tap_of(weight, m, t)).rowwise().sum();
    }
  }

  /// At the start of sequences.
  State make_state(Index sequences, Index, Index rollback = 0) const {
    const Index held = weight.cols() - 1 + rollback;
    return {Matrix<Scalar, Rows, Dynamic>::Zero(width(), held * value_channels() * sequences), rollback};
  }
  /// Takes back the last tokens of every sequence.
  void roll_back(State& state, Index tokens) const {
    detail::roll_back_windows(state, weight.cols(), value_channels(), tokens);
  }
  /// forward for the tokens after those in the state.
  /// @throws std::invalid_argument if the state is of another size.
  template <int Tokens>
  Input infer(const Input& X, State& state, Tape<Tokens>& tape, const Pass& pass = {}) const {
    constexpr const char* where = "ddl::TokenConvolutionCompressor::infer";
    const Index N = checked(where, X, pass);
    const detail::Windows layout{pass, weight.cols() - 1 + state.rollback};
    detail::extend_windows(where, X, value_channels(), layout, state, tape.windows);
    return mix(tape.windows, layout, N, tape);
  }

 private:
  /// The number of tokens.
  Index checked(const char* where, const Input& X, const Pass& pass) const {
    const Index N = X.cols() / value_channels();
    check_shape(where, "X", X, width(), N * value_channels());
    pass.sequences(where, N);
    return N;
  }
  template <int Tokens>
  Input mix(const Input& windows, const detail::Windows& layout, Index N, Tape<Tokens>& tape) const {
    const Index m = value_channels();
    tape.x.resize(windows.rows(), N);
    detail::fold_taps(weight, m, tape.mix);
    for (Index c = 0; c < tape.mix.cols(); ++c) column(tape.mix, c) *= read[c % m];
    detail::mix_windows(windows, tape.mix, m, layout, tape.x);
    return tape.x;
  }
};

}  // namespace ddl
