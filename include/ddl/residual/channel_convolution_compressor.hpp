// SPDX-License-Identifier: MIT
/// @file  The compressor that convolves over a state's value channels (CC).
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the channel-mix compressor.
#pragma once

#include <optional>
#include <tuple>

#include "ddl/nn/token_windows.hpp"
#include "ddl/residual/compressor.hpp"

namespace ddl {

/// Settings of a ChannelConvolutionCompressor.
struct ChannelConvolutionSettings {
  std::optional<Index> kernel = {};  ///< value channels; all of them by default
};

/// The compressor x_i = sum over j of read_j sum over t of w_it X_i(j + t - l),  l = (K - 1) / 2 rounded
/// down,  X = 0 beside its m channels: as the authors' code has it.
///
///     X: d x (N m)    x: d x N    w: d x K    read: m
///
/// All of it is linear and no token sees another, so that one effective weight of d x m does the work. It
/// starts at the mean over the channels.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct ChannelConvolutionCompressor {
  using Scalar = Scalar_;
  using Settings = ChannelConvolutionSettings;
  using Input = ConstBatchRef<Scalar, Rows>;

  static constexpr PartKind kind = PartKind::compressor;

  /// What backward needs of forward.
  template <int Tokens = Dynamic>
  struct Tape {
    Matrix<Scalar, Rows, Tokens> x;      ///< d x N
    Matrix<Scalar, Rows, Cols> mix;      ///< the effective weight
    Matrix<Scalar, Rows, Dynamic> dmix;  ///< its gradient, and room to sum it up
  };

  Matrix<Scalar, Rows, Dynamic> weight;  ///< w
  Vector<Scalar, Cols> read;             ///< one number for each channel

  static constexpr auto parameters() {
    return std::tuple(parameter("weight", &ChannelConvolutionCompressor::weight),
                      vector_parameter("read", &ChannelConvolutionCompressor::read));
  }

  ChannelConvolutionCompressor() = default;
  /// @throws std::invalid_argument if the kernel is not 1 to the number of value channels.
  ChannelConvolutionCompressor(Index width, Index channels, const Settings& settings, Random&) {
    const Index kernel = settings.kernel.value_or(channels);
    if (kernel < 1 || kernel > channels)
      fail("ddl::ChannelConvolutionCompressor", "kernel", std::to_string(kernel),
           "1 to the " + std::to_string(channels) + " value channels");
    weight.setZero(width, kernel);
    weight.col(left()).setOnes();
    read.setConstant(channels, Scalar(1) / Scalar(channels));
  }

  /// x from X.
  /// @return x, a view of the tape.
  template <int Tokens>
  Input forward(const Input& X, Tape<Tokens>& tape, const Pass& pass = {}) const {
    const Index m = read.size();
    tape.x.resize(X.rows(), X.cols() / m);
    tape.mix.setZero(X.rows(), m);
    for_taps([&](Index j, Index t, Index c) { column(tape.mix, c) += column(weight, t) * read[j]; });
    detail::mix_windows(X, tape.mix, m, {Pass(pass.executor)}, tape.x);  // every column on its own
    return tape.x;
  }
  /// What forward returned.
  template <int Tokens>
  Input output(const Input&, const Tape<Tokens>& tape) const {
    return tape.x;
  }

  /// Adds to dX and to the gradient's parameters.
  template <int Tokens>
  void backward(const Input& X, const Input& dx, BatchRef<Scalar, Rows> dX, Tape<Tokens>& tape,
                ChannelConvolutionCompressor& gradient, const Pass& pass = {}) const {
    const Index m = read.size();
    detail::mix_windows_backward(X, tape.mix, m, Pass(pass.executor), dx, dX, tape.dmix);
    for_taps([&](Index j, Index t, Index c) {
      column(gradient.weight, t) += column(tape.dmix, c) * read[j];
      gradient.read[j] += (column(tape.dmix, c) * column(weight, t)).sum();
    });
  }

 private:
  Index left() const { return (weight.cols() - 1) / 2; }

  /// Calls f(j, t, c) for every output j and tap t that reads a channel c there is.
  template <class F>
  void for_taps(const F& f) const {
    for (Index j = 0; j < read.size(); ++j)
      for (Index t = 0; t < weight.cols(); ++t)
        if (const Index c = j + t - left(); c >= 0 && c < read.size()) f(j, t, c);
  }
};

}  // namespace ddl
