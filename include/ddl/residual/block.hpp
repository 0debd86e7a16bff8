// SPDX-License-Identifier: MIT
/// @file  The Delta residual block: four parts and a rewrite.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the residual block.
#pragma once

#include <concepts>
#include <optional>
#include <tuple>

#include "ddl/nn/mlp.hpp"
#include "ddl/nn/norm.hpp"
#include "ddl/op/rewrite.hpp"
#include "ddl/residual/compressor.hpp"
#include "ddl/residual/gate.hpp"
#include "ddl/residual/value.hpp"

namespace ddl {

/// A part that a block can hold: constructed from its Settings, lists its parameters.
template <class P>
concept BlockPart = requires {
  typename P::Scalar;
  typename P::Settings;
  P::parameters();
}
&&std::copyable<P>&& std::default_initializable<P>;

/// A sublayer proposes the direction kt (d x N) from the context c (d x N):
///
///     Sublayer(Index in, Index out, const Settings&, Random&);
///     void forward(c, kt, Cache<Tokens>&, executor) const;
///     void backward(c, Cache<Tokens>&, dkt, dc, Sublayer& gradient, executor) const;
///
/// backward assigns dc, adds to the gradient's parameters, and may use the cache up.
template <class S, int Rows = Dynamic>
concept Sublayer = BlockPart<S> &&
    std::constructible_from<S, Index, Index, const typename S::Settings&, Random&> &&
    requires(const S& part, S& gradient, const Matrix<typename S::Scalar, Rows, Dynamic>& in,
             Matrix<typename S::Scalar, Rows, Dynamic>& out, typename S::template Cache<Dynamic>& cache,
             const Serial& executor) {
  part.forward(in, out, cache, executor);
  part.backward(in, cache, in, out, gradient, executor);
};

/// A gate gives beta (1 x N) from the context: forward(c, beta, cache, executor), and
/// backward(c, beta, cache, slope, dc, gradient, executor), where slope holds dL/dbeta and dc is added to.
template <class G, int Rows = Dynamic>
concept GatePart = BlockPart<G> && std::constructible_from<G, const typename G::Settings&, Index, Random&> &&
    requires(const G& part, G& gradient, const Matrix<typename G::Scalar, Rows, Dynamic>& in,
             Matrix<typename G::Scalar, Rows, Dynamic>& out, Matrix<typename G::Scalar, 1, Dynamic>& beta,
             typename G::template Cache<Dynamic>& cache, const Serial& executor) {
  part.forward(in, beta, cache, executor);
  part.backward(in, beta, cache, beta, out, gradient, executor);
};

/// A value gives v (m x N) from z, which reads() names: forward(z, v, executor), and
/// backward(z, v, slope, dz, gradient, executor), where slope holds dL/dv and dz is added to.
template <class V, int Rows = Dynamic, int Cols = Dynamic>
concept ValuePart = BlockPart<V> &&
    std::constructible_from<V, const typename V::Settings&, Index, Index, Random&> &&
    requires(const V& part, V& gradient, const Matrix<typename V::Scalar, Rows, Dynamic>& in,
             Matrix<typename V::Scalar, Rows, Dynamic>& out, Matrix<typename V::Scalar, Cols, Dynamic>& v,
             const Serial& executor) {
  { part.reads() } -> std::same_as<ValueSource>;
  part.forward(in, v, executor);
  part.backward(in, v, v, out, gradient, executor);
};

/// A compressor reads x (d x N) off the states (d x N m): forward(X, cache, executor) returns a view of x,
/// output(X, cache) returns it again, and backward(X, cache, dx, dX, gradient, executor) adds to dX.
template <class C, int Rows = Dynamic>
concept CompressorPart = BlockPart<C> &&
    std::constructible_from<C, const typename C::Settings&, Index, Index, Random&> &&
    requires(const C& part, C& gradient, const Matrix<typename C::Scalar, Rows, Dynamic>& in,
             Matrix<typename C::Scalar, Rows, Dynamic>& out, typename C::template Cache<Dynamic>& cache,
             const Serial& executor) {
  { part.forward(in, cache, executor) } -> std::convertible_to<ConstBatchRef<typename C::Scalar, Rows>>;
  { part.output(in, cache) } -> std::convertible_to<ConstBatchRef<typename C::Scalar, Rows>>;
  part.backward(in, cache, in, out, gradient, executor);
};

template <class Sublayer, class Gate, class Value, class Compressor>
struct BlockSettings {
  typename Sublayer::Settings sublayer = {};
  typename Gate::Settings gate = {};
  typename Value::Settings value = {};
  typename Compressor::Settings compressor = {};
  bool shares_compressor = false;  ///< in a stack: reads by the compressor of the block before it
  Rewrite rewrite = Rewrite::delta;
  double k_eps = default_k_eps;
  double norm_eps = 1e-5;
};

/// One layer of a Deep Delta network, on N states X of d x m at once:
///
///     x = compress(X),  c = norm(x),  kt = sublayer(c),  beta = gate(c),  v = value(c or x)
///     Y = X + beta k (v - X^T k)^T,   k = kt / sqrt(|kt|^2 + k_eps^2)
///
///   X, Y, dX   d x (N m)
///
/// Sizes are fixed at compile time (then, one sample at a time, nothing here touches the heap) or Dynamic. A block
/// is a value: copying it copies its weights, and its gradient is another block. forward is const and safe to share
/// between threads.
///
/// In the additive control, Y = X + kt 1^T, there is no gate and no value, nor are their parameters. A block that
/// shares the compressor of another has none of its own, and is given that one.
template <class Scalar_, int Width = Dynamic, int ValueChannels = Dynamic,
          Sublayer<Width> SublayerPart = Mlp<Scalar_, Width, times(4, Width)>,
          GatePart<Width> Gate = LinearGate<Scalar_, Width>,
          ValuePart<Width, ValueChannels> Value = LinearValue<Scalar_, Width, ValueChannels>,
          CompressorPart<Width> Compressor = ChannelCompressor<Scalar_, Width, ValueChannels>,
          class Norm = RmsNorm<Scalar_, Width>>
struct DeltaResidualBlock {
  static_assert(std::is_floating_point_v<Scalar_>,
                "ddl::DeltaResidualBlock computes in float, double or long double");
  using Scalar = Scalar_;
  using Settings = BlockSettings<SublayerPart, Gate, Value, Compressor>;
  using Input = ConstBatchRef<Scalar, Width>;
  using State = BatchRef<Scalar, Width>;

  template <int Tokens = Dynamic>
  using States = Matrix<Scalar, Width, times(ValueChannels, Tokens)>;

  /// The part of a forward pass that a rewound stack keeps for every layer.
  template <int Tokens = Dynamic>
  using Edits = Edit<Scalar, Width, ValueChannels, Tokens>;

  /// The part that can be computed again from the state.
  template <int Tokens = Dynamic>
  struct Activations {
    typename Compressor::template Cache<Tokens> compressor;
    typename Norm::template Cache<Tokens> norm;
    Matrix<Scalar, Width, Tokens> context;
    typename SublayerPart::template Cache<Tokens> sublayer;
    typename Gate::template Cache<Tokens> gate;
    Matrix<Scalar, ValueChannels, Tokens> value;
  };

  template <int Tokens = Dynamic>
  struct Cache {
    Edits<Tokens> edit;
    Activations<Tokens> activations;
  };

  /// What a backward pass needs room for, one for any number of blocks.
  template <int Tokens = Dynamic>
  struct Workspace {
    EditGradient<Scalar, Width, ValueChannels, Tokens> edit;
    Matrix<Scalar, Width, Tokens> context, compressed;
  };

  std::optional<Compressor> compressor;
  Norm norm;
  SublayerPart sublayer;
  std::optional<Gate> gate;
  std::optional<Value> value;
  Rewrite rewrite = Rewrite::delta;
  double k_eps = default_k_eps;
  Index width = 0;
  Index value_channels = 1;

  static constexpr auto parameters() {
    using Block = DeltaResidualBlock;
    return std::tuple(field("compressor", &Block::compressor), field("norm", &Block::norm),
                      field("sublayer", &Block::sublayer), field("gate", &Block::gate),
                      field("value", &Block::value));
  }

  DeltaResidualBlock() = default;
  /// @throws std::invalid_argument if a size is below 1 or differs from the fixed one, or a setting is out of
  /// range.
  DeltaResidualBlock(Index width_, Index channels, const Settings& settings, Random& random)
      : norm(checked(width_, channels, settings), settings.norm_eps),
        sublayer(width_, width_, settings.sublayer, random),
        rewrite(settings.rewrite),
        k_eps(settings.k_eps),
        width(width_),
        value_channels(channels) {
    if (!settings.shares_compressor) compressor.emplace(settings.compressor, width, channels, random);
    if (rewrite == Rewrite::additive) return;
    gate.emplace(settings.gate, width, random);
    value.emplace(settings.value, width, channels, random);
  }

  /// What a cache keeps of this block, in scalars per sample: the edit, and the activations (kt excepted,
  /// which is part of the edit). For parts that tell what they keep by a member function cache_scalars().
  Index edit_scalars() const { return width + 2 * value_channels + 2; }
  Index activation_scalars() const { return activation_scalars(own("activation_scalars")); }
  Index activation_scalars(const Compressor& reader) const {
    return reader.cache_scalars() + norm.cache_scalars() + width + sublayer.cache_scalars() +
           (gate ? gate->cache_scalars() : 0) + value_channels;
  }

  /// Y = block(X); Y may be X. Only the cache's buffers are allocated, when the batch grows.
  /// @throws std::invalid_argument if a shape does not fit, or the block has no compressor and is given none.
  template <int Tokens, Executor E = Serial>
  void forward(const Input& X, State Y, Cache<Tokens>& cache, const E& executor = {}) const {
    forward(own("forward"), X, Y, cache.edit, cache.activations, executor);
  }
  template <int Tokens, Executor E = Serial>
  void forward(const Compressor& reader, const Input& X, State Y, Edits<Tokens>& edit,
               Activations<Tokens>& kept, const E& executor = {}) const {
    const Index cols = X.cols() / value_channels * value_channels;
    check_shape("ddl::DeltaResidualBlock::forward", "X", X, width, cols);
    check_shape("ddl::DeltaResidualBlock::forward", "Y", Y, width, cols);
    run_parts(reader, X, edit, kept, executor);
    rewrite_forward(rewrite, X, edit, kept.value, Y, k_eps, executor);
  }

  /// X holds the states that went in, dX holds dL/dY on entry and dL/dX on return, `gradient`'s parameters
  /// are added to. The cache is used up: another backward pass needs another forward pass.
  template <int Tokens, Executor E = Serial>
  void backward(const Input& X, Cache<Tokens>& cache, State dX, DeltaResidualBlock& gradient,
                Workspace<Tokens>& workspace, const E& executor = {}) const {
    const Compressor& reader = own("backward");
    rewrite_backward(rewrite, X, cache.edit, dX, workspace.edit, executor);
    backward_parts(reader, X, cache.edit, cache.activations, dX, *gradient.compressor, gradient, workspace,
                   executor);
  }

  /// The parts alone: c, kt, beta, v from X, which `reader` compresses.
  template <int Tokens, Executor E = Serial>
  void run_parts(const Compressor& reader, const Input& X, Edits<Tokens>& edit, Activations<Tokens>& kept,
                 const E& executor = {}) const {
    const Index N = X.cols() / value_channels;
    edit.resize(X.rows(), value_channels, N);
    kept.context.resize(X.rows(), N);
    kept.value.resize(value_channels, N);
    const Input x = reader.forward(X, kept.compressor, executor);
    norm.forward(x, kept.context, kept.norm, executor);
    sublayer.forward(kept.context, edit.direction, kept.sublayer, executor);
    if (gate) gate->forward(kept.context, edit.beta, kept.gate, executor);
    if (value)
      value->forward(value->reads() == ValueSource::context ? Input(kept.context) : x, kept.value, executor);
  }

  /// The adjoint of run_parts: workspace.edit holds the gradients of kt, beta, v; dX is added to.
  template <int Tokens, Executor E = Serial>
  void backward_parts(const Compressor& reader, const Input& X, const Edits<Tokens>& edit,
                      Activations<Tokens>& kept, State dX, Compressor& reader_gradient,
                      DeltaResidualBlock& gradient, Workspace<Tokens>& workspace,
                      const E& executor = {}) const {
    auto &dc = workspace.context, &dx = workspace.compressed;
    dc.resizeLike(kept.context);
    dx.resizeLike(kept.context);
    const Input x = reader.output(X, kept.compressor);
    sublayer.backward(kept.context, kept.sublayer, workspace.edit.direction, dc, gradient.sublayer, executor);
    if (gate)
      gate->backward(kept.context, edit.beta, kept.gate, workspace.edit.beta, dc, *gradient.gate, executor);
    if (value && value->reads() == ValueSource::context)
      value->backward(kept.context, kept.value, workspace.edit.value, dc, *gradient.value, executor);
    norm.backward(x, kept.norm, dc, dx, gradient.norm, executor);
    if (value && value->reads() == ValueSource::compressed)
      value->backward(x, kept.value, workspace.edit.value, dx, *gradient.value, executor);
    reader.backward(X, kept.compressor, dx, dX, reader_gradient, executor);
  }

 private:
  const Compressor& own(const char* function) const {
    if (!compressor)
      fail(std::string("ddl::DeltaResidualBlock::") + function, "the compressor",
           "that of the block before it", "one of its own, outside a stack");
    return *compressor;
  }
  static Index checked(Index width, Index channels, const Settings& settings) {
    constexpr const char* where = "ddl::DeltaResidualBlock";
    check_positive(where, "width", width);
    check_positive(where, "value_channels", channels);
    check_fixed(where, "width", width, Width);
    check_fixed(where, "value_channels", channels, ValueChannels);
    check_range(where, "k_eps", settings.k_eps, settings.k_eps >= 0, "a number of at least 0");
    return width;
  }
};

}  // namespace ddl
