// SPDX-License-Identifier: MIT
/// @file  The compressor that convolves over a state's value channels (CC).
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the channel-mix compressor.
#pragma once

#include "ddl/residual/token_convolution.hpp"

namespace ddl {

struct ChannelConvolutionSettings {
  Index kernel = 0;  ///< value channels; 0: all of them
};

/// x_i = sum over j of read_j sum over t of w_it X_i(j + t - l),  l = (K - 1) / 2 rounded down,  X = 0 beside its
/// m channels: as the authors' code has it.
///
///   X: d x (N m)    x: d x N    w: d x K    read: m
///
/// All of it is linear and no token sees another, so that one effective weight of d x m does the work. It starts
/// at the mean over the channels.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct ChannelConvolution {
  using Scalar = Scalar_;
  using Settings = ChannelConvolutionSettings;
  using Input = ConstBatchRef<Scalar, Rows>;

  template <int Tokens = Dynamic>
  struct Cache {
    Matrix<Scalar, Rows, Tokens> x;
    Matrix<Scalar, Rows, Cols> mix;      ///< the effective weight
    Matrix<Scalar, Rows, Dynamic> dmix;  ///< its gradient, and room to sum it up
  };

  Matrix<Scalar, Rows, Dynamic> weight;
  Vector<Scalar, Cols> read;

  static constexpr auto parameters() {
    return std::tuple(field("weight", &ChannelConvolution::weight),
                      vector_field("read", &ChannelConvolution::read));
  }

  ChannelConvolution() = default;
  /// @throws std::invalid_argument if the kernel is below 0 or wider than the value channels.
  ChannelConvolution(const Settings& settings, Index width, Index channels, Random&) {
    if (settings.kernel < 0 || settings.kernel > channels)
      fail("ddl::ChannelConvolution", "kernel", std::to_string(settings.kernel),
           "1 to the " + std::to_string(channels) + " value channels, or 0 for all of them");
    weight.setZero(width, settings.kernel > 0 ? settings.kernel : channels);
    weight.col(left()).setOnes();
    read.setConstant(channels, Scalar(1) / Scalar(channels));
  }

  /// What a cache keeps, in scalars per sample.
  Index cache_scalars() const { return weight.rows(); }

  /// @return x, a view of the cache.
  template <int Tokens, Executor E = Serial>
  Input forward(const Input& X, Cache<Tokens>& cache, const E& executor = {}) const {
    const Index m = read.size();
    cache.x.resize(X.rows(), X.cols() / m);
    cache.mix.setZero(X.rows(), m);
    for_taps([&](Index j, Index t, Index c) { column(cache.mix, c) += column(weight, t) * read[j]; });
    detail::mix_windows(X, cache.mix, m, 1, cache.x, executor);
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
                ChannelConvolution& gradient, const E& executor = {}) const {
    const Index m = read.size();
    detail::mix_windows_backward(X, cache.mix, m, 1, dx, dX, cache.dmix, executor);
    for_taps([&](Index j, Index t, Index c) {
      column(gradient.weight, t) += column(cache.dmix, c) * read[j];
      gradient.read[j] += (column(cache.dmix, c) * column(weight, t)).sum();
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
