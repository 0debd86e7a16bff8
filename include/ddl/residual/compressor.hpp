// SPDX-License-Identifier: MIT
/// @file  The compressor: from a state of d x m to the vector of size d that a block's other parts read.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the compressor of the expanded state.
#pragma once

#include <tuple>

#include "ddl/nn/part.hpp"

namespace ddl {

/// A compressor reads x (d x N) from the states X (d x (N m)). Unlike other parts it returns x, which may be
/// a view of X:
///
///     Compressor(Index width, Index value_channels, const Settings&, Random&);
///     ConstBatchRef<Scalar> forward(X, Tape&, const Pass&) const;
///     ConstBatchRef<Scalar> output(X, const Tape&) const;        what forward returned
///     void backward(X, dx, dX, Tape&, Compressor& gradient, const Pass&) const;     adds to dX
///     ConstBatchRef<Scalar> infer(X, State&, Tape&, const Pass&) const;             if it has a State
template <class C, int Rows = Dynamic>
concept CompressorPart =
    BlockPart<C> &&(C::kind == PartKind::compressor) &&
    std::constructible_from<C, Index, Index, const typename C::Settings&, Random&>&& requires(
        const C& part, C& gradient, const Matrix<typename C::Scalar, Rows>& in,
        Matrix<typename C::Scalar, Rows>& out, typename C::template Tape<Dynamic>& tape, const Pass& pass) {
  { part.forward(in, tape, pass) } -> std::convertible_to<ConstBatchRef<typename C::Scalar, Rows>>;
  { part.output(in, tape) } -> std::convertible_to<ConstBatchRef<typename C::Scalar, Rows>>;
  part.backward(in, in, out, tape, gradient, pass);
}
&&(!Stateful<C> || requires(const C& part, const Matrix<typename C::Scalar, Rows>& in, StateOf<C>& state,
                            typename C::template Tape<Dynamic>& tape, const Pass& pass) {
  { part.infer(in, state, tape, pass) } -> std::convertible_to<ConstBatchRef<typename C::Scalar, Rows>>;
});

/// How a ChannelCompressor makes one vector of m.
///
///     identity      x = X, for m = 1
///     mean          x = X 1 / m
///     channel_mix   x_i = sum_j w_ij X_ij, learned, starting at the mean
///     automatic     identity for m = 1, channel_mix otherwise
enum class Compression { automatic, identity, mean, channel_mix };

/// Settings of a ChannelCompressor.
struct CompressorSettings {
  Compression compression = Compression::automatic;  ///< how the channels become one vector
};

/// A weighted sum of the value channels, see Compression.   X: d x (N m), x: d x N.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct ChannelCompressor {
  using Scalar = Scalar_;
  using Settings = CompressorSettings;
  using Input = ConstBatchRef<Scalar, Rows>;

  static constexpr PartKind kind = PartKind::compressor;

  /// The compressed vectors; empty for the identity, which returns the state itself.
  template <int Tokens = Dynamic>
  struct Tape {
    Matrix<Scalar, Rows, Tokens> x;  ///< d x N
  };

  OptionalMatrix<Scalar, Rows, Cols> weight;        ///< d x m, channel_mix only
  Compression compression = Compression::identity;  ///< never automatic
  Index width = 0;                                  ///< d
  Index value_channels = 1;                         ///< m

  static constexpr auto parameters() { return std::tuple(parameter("weight", &ChannelCompressor::weight)); }

  ChannelCompressor() = default;
  /// @throws std::invalid_argument if the identity is asked for with more than one value channel.
  ChannelCompressor(Index width_, Index channels, const Settings& settings, Random&)
      : compression(settings.compression), width(width_), value_channels(channels) {
    if (compression == Compression::automatic)
      compression = channels == 1 ? Compression::identity : Compression::channel_mix;
    if (compression == Compression::identity && channels != 1)
      fail("ddl::ChannelCompressor", "value_channels", std::to_string(channels),
           "1, for an identity compressor");
    if (compression == Compression::channel_mix)
      weight.setConstant(width, channels, Scalar(1) / Scalar(channels));
  }

  /// x from X.
  /// @return x: the state itself for the identity, a view of the tape otherwise.
  template <int Tokens>
  Input forward(const Input& X, Tape<Tokens>& tape, const Pass& pass = {}) const {
    if (compression == Compression::identity) return X;
    const Index N = X.cols() / value_channels;
    tape.x.resize(X.rows(), N);
    for_ranges(pass.executor, N, columns_per_piece(X.rows() * value_channels), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n) {
        auto x = column(tape.x, n);
        x.setZero();
        for (Index j = 0; j < value_channels; ++j) {
          const auto channel = column(X, n * value_channels + j);
          if (compression == Compression::mean)
            x += channel * (Scalar(1) / Scalar(value_channels));
          else
            x += channel * column(weight, j);
        }
      }
    });
    return tape.x;
  }
  /// What forward returned.
  template <int Tokens>
  Input output(const Input& X, const Tape<Tokens>& tape) const {
    if (compression == Compression::identity) return X;
    return tape.x;
  }

  /// dX_j += w_j * dx, dw_j += sum over samples of X_j * dx.
  template <int Tokens>
  void backward(const Input& X, const Input& dx, BatchRef<Scalar, Rows> dX, const Tape<Tokens>&,
                ChannelCompressor& gradient, const Pass& pass = {}) const {
    const Index N = dx.cols();
    for_ranges(pass.executor, X.rows(), rows_per_piece(X.cols()), [&](Index begin, Index end) {
      const Index rows = end - begin;
      for (Index n = 0; n < N; ++n) {
        const auto grad = column(dx, n, begin, rows);
        for (Index j = 0; j < value_channels; ++j) {
          const Index channel = n * value_channels + j;
          if (compression == Compression::channel_mix) {
            column(gradient.weight, j, begin, rows) += grad * column(X, channel, begin, rows);
            column(dX, channel, begin, rows) += grad * column(weight, j, begin, rows);
          } else {
            column(dX, channel, begin, rows) += grad * (Scalar(1) / Scalar(value_channels));
          }
        }
      }
    });
  }
};

}  // namespace ddl
