// SPDX-License-Identifier: MIT
/// @file  DeltaResNet: an embedding, a stack of Delta residual blocks, a readout and a head.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417.
#pragma once

#include <tuple>
#include <vector>

#include "ddl/residual/stack.hpp"

namespace ddl {

template <class BlockSettings, int Width = Dynamic, int ValueChannels = Dynamic>
struct DeltaResNetSettings {
  Index inputs = 0;
  Index outputs = 0;
  Index width = Width == Dynamic ? 64 : Width;                          ///< d
  Index value_channels = ValueChannels == Dynamic ? 1 : ValueChannels;  ///< m
  Index depth = 8;  ///< blocks; 0 leaves the embedding and the head
  BlockSettings block = {};
};

/// logits = head(norm(readout(X_depth))),  X_{l+1} = block_l(X_l),  X_0 = embedding(x) as d x m.
///
///   x: inputs x N    logits: outputs x N    X: d x (N m)
///
/// A net is a value: its gradient is another net (zeros_like). Passes are const; one net serves many threads,
/// each with its own cache.
template <class Scalar_, int Width = Dynamic, int ValueChannels = Dynamic,
          class Block_ = DeltaResidualBlock<Scalar_, Width, ValueChannels>>
struct DeltaResNet {
  using Scalar = Scalar_;
  using Block = Block_;
  using Settings = DeltaResNetSettings<typename Block::Settings, Width, ValueChannels>;
  using Input = ConstBatchRef<Scalar, Dynamic>;
  using Compressor = typename decltype(Block::compressor)::value_type;

  /// Every buffer of a pass over N samples, made by make_cache and sized by the first pass.
  template <int Tokens = Dynamic>
  struct Cache : StackCache<Block, Tokens> {
    typename Compressor::template Cache<Tokens> readout;
    typename RmsNorm<Scalar, Width>::template Cache<Tokens> norm;
    Matrix<Scalar, Width, Tokens> features;  ///< what the head reads
    Matrix<Scalar, Dynamic, Tokens> logits;
    Matrix<Scalar, Width, Tokens> feature_gradient;
  };

  Linear<Scalar, Dynamic, times(Width, ValueChannels)> embedding;
  std::vector<Block> blocks;
  Compressor readout;
  RmsNorm<Scalar, Width> norm;
  Linear<Scalar, Width, Dynamic> head;

  static constexpr auto parameters() {
    return std::tuple(field("embedding", &DeltaResNet::embedding), field("blocks", &DeltaResNet::blocks),
                      field("readout", &DeltaResNet::readout), field("norm", &DeltaResNet::norm),
                      field("head", &DeltaResNet::head));
  }

  DeltaResNet() = default;
  /// @throws std::invalid_argument if a size or a setting is out of range.
  explicit DeltaResNet(const Settings& settings, std::uint64_t seed = 0)
      : DeltaResNet(settings, Random(seed)) {}
  DeltaResNet(const Settings& settings, Random random) {
    constexpr const char* where = "ddl::DeltaResNet";
    const Index d = settings.width, m = settings.value_channels;
    check_positive(where, "inputs", settings.inputs);
    check_positive(where, "outputs", settings.outputs);
    check_positive(where, "width", d);
    check_positive(where, "value_channels", m);
    if (settings.depth < 0) fail(where, "depth", std::to_string(settings.depth), "at least 0");
    check_fixed(where, "width", d, Width);
    check_fixed(where, "value_channels", m, ValueChannels);
    embedding = {settings.inputs, d * m, random};
    blocks.reserve(static_cast<std::size_t>(settings.depth));
    for (Index i = 0; i < settings.depth; ++i) blocks.emplace_back(d, m, settings.block, random);
    readout = {settings.block.compressor, d, m, random};
    norm = RmsNorm<Scalar, Width>(d, settings.block.norm_eps);
    head = {d, settings.outputs, random};
  }

  Index inputs() const noexcept { return embedding.inputs(); }
  Index outputs() const noexcept { return head.outputs(); }
  Index width() const noexcept { return norm.weight.size(); }
  Index value_channels() const noexcept { return embedding.outputs() / width(); }
  Index depth() const noexcept { return static_cast<Index>(blocks.size()); }

  /// What one more layer adds to a cache, in bytes per sample.
  Index bytes_per_sample_and_layer(Memory memory) const {
    if (blocks.empty() || memory == Memory::inference) return 0;
    const Index state = stores_states(memory) ? width() * value_channels() : 0;
    const Index activations = stores_activations(memory) ? blocks.front().activation_scalars() : 0;
    return (state + blocks.front().edit_scalars() + activations) * static_cast<Index>(sizeof(Scalar));
  }

  /// A cache for passes over `samples` samples at once; passes over another number resize it. One for
  /// inference is complete; one for training takes its memory in the first step.
  template <int Tokens = Dynamic>
  Cache<Tokens> make_cache(Index samples = Tokens == Dynamic ? 0 : Tokens,
                           Memory memory = Memory::training) const {
    if (samples < 0) fail("ddl::DeltaResNet::make_cache", "samples", std::to_string(samples), "at least 0");
    check_fixed("ddl::DeltaResNet::make_cache", "samples", samples, Tokens);
    Cache<Tokens> cache;
    cache.hold(blocks.size(), memory);
    prepare(cache, samples);
    if (memory == Memory::inference) forward(Matrix<Scalar>::Zero(inputs(), samples), cache);
    return cache;
  }

  /// @return the logits, outputs x N, which live in the cache.
  /// @throws std::invalid_argument if x has the wrong number of rows or the cache was made for another net.
  template <int Tokens, Executor E = Serial>
  const Matrix<Scalar, Dynamic, Tokens>& forward(const Input& x, Cache<Tokens>& cache,
                                                 const E& executor = {}) const {
    check_shape("ddl::DeltaResNet::forward", "x", x, inputs(), x.cols());
    cache.check("ddl::DeltaResNet::forward", blocks.size());
    prepare(cache, x.cols());
    embedding.forward(x, flat(cache.states.front()), executor);
    stack_forward(blocks, cache, executor);
    norm.forward(readout.forward(cache.states.back(), cache.readout, executor), cache.features, cache.norm,
                 executor);
    head.forward(cache.features, cache.logits, executor);
    return cache.logits;
  }

  /// forward for real-time use: one sample never throws and never allocates. The cache comes from make_cache(samples,
  /// Memory::inference), x is column-major, inputs x samples: that is asserted, and without assertions another x or
  /// cache ends the program or allocates. More samples at once need one call on each thread to warm up.
  template <int Tokens>
  const Matrix<Scalar, Dynamic, Tokens>& infer(const Input& x, Cache<Tokens>& cache) const noexcept {
    eigen_assert(cache.memory == Memory::inference && x.rows() == inputs() &&
                 x.cols() == cache.logits.cols());
    return forward(x, cache);
  }

  /// Adds the gradients of all parameters to `gradient`. `dlogits`: dL/dlogits, outputs x N. The cache of the
  /// forward pass is used up. @throws std::invalid_argument if a shape does not fit or the cache is for
  /// inference.
  template <int Tokens, Executor E = Serial>
  void backward(const Input& x, const Input& dlogits, Cache<Tokens>& cache, DeltaResNet& gradient,
                const E& executor = {}) const {
    constexpr const char* where = "ddl::DeltaResNet::backward";
    check_shape(where, "x", x, inputs(), cache.logits.cols());
    check_shape(where, "dlogits", dlogits, outputs(), cache.logits.cols());
    cache.check_training(where, blocks.size());
    const Index N = x.cols();
    auto& dX = cache.state_gradient;
    dX.setZero(width(), N * value_channels());
    cache.feature_gradient.resize(width(), N);
    head.backward_parameters(cache.features, dlogits, gradient.head, executor);
    head.backward_input(dlogits, cache.feature_gradient, executor);
    norm.backward(readout.output(cache.states.back(), cache.readout), cache.norm, cache.feature_gradient,
                  cache.feature_gradient, gradient.norm, executor);
    readout.backward(cache.states.back(), cache.readout, cache.feature_gradient, dX, gradient.readout,
                     executor);
    stack_backward(blocks, cache, gradient.blocks, executor);
    embedding.backward_parameters(x, flat(dX), gradient.embedding, executor);
  }

 private:
  /// The states of N samples as N columns of d m entries: the same memory.
  template <class State>
  auto flat(State& state) const {
    return Eigen::Map<Matrix<Scalar, times(Width, ValueChannels), Dynamic>>(
        state.data(), width() * value_channels(), state.cols() / value_channels());
  }
  template <int Tokens>
  void prepare(Cache<Tokens>& cache, Index samples) const {
    for (auto& state : cache.states) state.resize(width(), samples * value_channels());
    cache.features.resize(width(), samples);
    cache.logits.resize(outputs(), samples);
  }
};

}  // namespace ddl
