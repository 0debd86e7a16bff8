// SPDX-License-Identifier: MIT
/// @file  The compressor: from a state of d x m to the vector of size d that a block's other parts read.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the compressor of the expanded state.
#pragma once

#include <tuple>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"
#include "ddl/core/parameters.hpp"
#include "ddl/core/random.hpp"

namespace ddl {

/// identity      x = X, for m = 1
/// mean          x = X 1 / m
/// channel_mix   x_i = sum_j w_ij X_ij, learned, starting at the mean
/// automatic     identity for m = 1, channel_mix otherwise
enum class Compression { automatic, identity, mean, channel_mix };

struct CompressorSettings {
  Compression kind = Compression::automatic;
};

/// X: d x (N m) -> x: d x N.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct ChannelCompressor {
  using Scalar = Scalar_;
  using Settings = CompressorSettings;
  using Input = ConstBatchRef<Scalar, Rows>;

  /// The compressed vectors; empty for the identity, which reads the state itself.
  template <int Tokens = Dynamic>
  struct Cache {
    Matrix<Scalar, Rows, Tokens> x;
  };

  OptionalMatrix<Scalar, Rows, Cols> weight;  ///< d x m, channel_mix only
  Compression kind = Compression::identity;
  Index width = 0;
  Index value_channels = 1;

  static constexpr auto parameters() { return std::tuple(field("weight", &ChannelCompressor::weight)); }

  ChannelCompressor() = default;
  /// @throws std::invalid_argument if the identity is asked for with more than one value channel.
  ChannelCompressor(const Settings& settings, Index width_, Index channels, Random&)
      : kind(settings.kind), width(width_), value_channels(channels) {
    if (kind == Compression::automatic)
      kind = channels == 1 ? Compression::identity : Compression::channel_mix;
    if (kind == Compression::identity && channels != 1)
      fail("ddl::ChannelCompressor", "value_channels", std::to_string(channels),
           "1, for an identity compressor");
    if (kind == Compression::channel_mix) weight.setConstant(width, channels, Scalar(1) / Scalar(channels));
  }

  /// What a cache keeps, in scalars per sample.
  Index cache_scalars() const { return kind == Compression::identity ? 0 : width; }

  /// @return x: the state itself for the identity, a view of the cache otherwise.
  template <int Tokens, Executor E = Serial>
  Input forward(const Input& X, Cache<Tokens>& cache, const E& executor = {}) const {
    if (kind == Compression::identity) return X;
    const Index N = X.cols() / value_channels;
    cache.x.resize(X.rows(), N);
    for_ranges(executor, N, columns_per_piece(X.rows() * value_channels), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n) {
        auto x = column(cache.x, n);
        x.setZero();
        for (Index j = 0; j < value_channels; ++j) {
          const auto channel = column(X, n * value_channels + j);
          if (kind == Compression::mean)
            x += channel * (Scalar(1) / Scalar(value_channels));
          else
            x += channel * column(weight, j);
        }
      }
    });
    return cache.x;
  }
  /// What forward returned.
  template <int Tokens>
  Input output(const Input& X, const Cache<Tokens>& cache) const {
    if (kind == Compression::identity) return X;
    return cache.x;
  }

  /// dX += the compressor's share, dw_j += sum over samples of X_j * dx.
  template <int Tokens, Executor E = Serial>
  void backward(const Input& X, const Cache<Tokens>&, const Input& dx, BatchRef<Scalar, Rows> dX,
                ChannelCompressor& gradient, const E& executor = {}) const {
    const Index N = dx.cols();
    for_ranges(executor, X.rows(), 64, [&](Index begin, Index end) {
      const Index rows = end - begin;
      for (Index n = 0; n < N; ++n) {
        const auto slope = column(dx, n, begin, rows);
        for (Index j = 0; j < value_channels; ++j) {
          const Index channel = n * value_channels + j;
          if (kind == Compression::channel_mix) {
            column(gradient.weight, j, begin, rows) += slope * column(X, channel, begin, rows);
            column(dX, channel, begin, rows) += slope * column(weight, j, begin, rows);
          } else {
            column(dX, channel, begin, rows) += slope * (Scalar(1) / Scalar(value_channels));
          }
        }
      }
    });
  }
};

}  // namespace ddl
