// SPDX-License-Identifier: MIT
/// @file  The DDL Transformer: a decoder-only language model of Delta residual blocks, and its decoding.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the Transformer instantiation; what the paper and
/// the authors' code do differently is a setting.
#pragma once

#include <array>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "ddl/nn/attention.hpp"
#include "ddl/nn/embedding.hpp"
#include "ddl/nn/swiglu.hpp"
#include "ddl/residual/channel_convolution.hpp"
#include "ddl/residual/embedding_convolution.hpp"
#include "ddl/residual/one_of.hpp"
#include "ddl/residual/stack.hpp"
#include "ddl/residual/token_convolution.hpp"

namespace ddl {

/// The paper's models. vdim1: m = 1. tc, cc: the compressor convolves over tokens, or over value channels;
/// without _ec every channel of the first state is the embedding, with it a convolution over tokens.
enum class Variant { vdim1, tc, tc_ec, cc, cc_ec };
inline constexpr std::array all_variants = {Variant::vdim1, Variant::tc, Variant::tc_ec, Variant::cc,
                                            Variant::cc_ec};

constexpr const char* name_of(Variant variant) noexcept {
  constexpr const char* names[] = {"vdim1", "tc", "tc_ec", "cc", "cc_ec"};
  return names[static_cast<int>(variant)];
}

/// Settings are those of the parts. By default m = 1; settings_of(Variant) has the others.
struct DeltaTransformerSettings {
  Index vocabulary = 256;
  Index context = 1024;  ///< the longest sequence
  Index layers = 12;     ///< each is two blocks: attention, then SwiGLU
  Index width = 768;
  Index value_channels = 1;
  AttentionSettings attention = {};
  SwiGluSettings mlp = {};
  std::variant<LinearGateSettings, TanhGateSettings> gate = {};
  std::variant<LinearValueSettings, ConstantValueSettings> value =
      LinearValueSettings{.source = ValueSource::compressed, .sigmoid_scale = 4};
  std::variant<CompressorSettings, TokenConvolutionSettings, ChannelConvolutionSettings> compressor = {};
  EmbeddingConvolutionSettings expansion = {.kernel = 0};
  Rewrite rewrite = Rewrite::delta;
  double k_eps = default_k_eps;
  double norm_eps = 1e-5;
};

/// A variant with the defaults of the authors' code.
inline DeltaTransformerSettings settings_of(Variant variant) {
  DeltaTransformerSettings settings;
  if (variant == Variant::vdim1) return settings;
  settings.value_channels = 4;
  if (variant == Variant::tc || variant == Variant::tc_ec)
    settings.compressor = TokenConvolutionSettings{};
  else
    settings.compressor = ChannelConvolutionSettings{};
  if (variant == Variant::tc_ec || variant == Variant::cc_ec) settings.expansion.kernel = 4;
  return settings;
}

/// The paper's two sizes (Table 6): 12 layers of width 768 with 6 heads, 24 of width 1024 with 8.
inline DeltaTransformerSettings small_transformer(Variant variant, Index vocabulary = 50304) {
  DeltaTransformerSettings settings = settings_of(variant);
  settings.vocabulary = vocabulary;
  settings.attention.heads = 6;
  return settings;
}
inline DeltaTransformerSettings medium_transformer(Variant variant, Index vocabulary = 50304) {
  DeltaTransformerSettings settings = small_transformer(variant, vocabulary);
  settings.layers = 24;
  settings.width = 1024;
  settings.attention.heads = 8;
  return settings;
}

/// Sequences of `length` tokens, one after the other; 0: a single one.
struct TokenBatch {
  std::span<const int> tokens;
  Index length = 0;
};

/// logits = W norm(readout(X_2L)),  X_{l+1} = block_l(X_l),  X_0 = expansion(rows of W).
///
///   tokens: N    logits: vocabulary x N    X: d x (N m)    W: vocabulary x d, the embedding
///
/// Blocks alternate attention and SwiGLU; the second of a pair reads by the compressor of the first. A variant is a
/// choice of parts. A model is a value: its gradient is another model (zeros_like).
template <class Scalar_>
struct DeltaTransformer {
  using Scalar = Scalar_;
  using Settings = DeltaTransformerSettings;
  using Compressor = OneOf<ChannelCompressor<Scalar>, TokenConvolution<Scalar>, ChannelConvolution<Scalar>>;
  using Block =
      DeltaResidualBlock<Scalar, Dynamic, Dynamic, OneOf<CausalSelfAttention<Scalar>, SwiGlu<Scalar>>,
                         OneOf<LinearGate<Scalar>, TanhGate<Scalar>>,
                         OneOf<LinearValue<Scalar>, ConstantValue<Scalar>>, Compressor>;

  /// Every buffer of a pass, made by make_cache and sized by the first pass.
  struct Cache : StackCache<Block> {
    typename EmbeddingConvolution<Scalar>::Cache expansion;
    typename Compressor::template Cache<> readout;
    typename RmsNorm<Scalar>::template Cache<> norm;
    Matrix<Scalar> embedded;  ///< d x N
    Matrix<Scalar> features;  ///< what the head reads, d x N
    Matrix<Scalar> logits;
    Matrix<Scalar> feature_gradient;
  };

  /// One sequence that is being decoded, of at most a number of tokens. A copy is another one with the same beginning.
  struct Decoder {
    Cache cache;  ///< in which each layer has what it remembers of the sequence
    Index count = 0;
    Index capacity = 0;
  };

  TokenEmbedding<Scalar> embedding;
  EmbeddingConvolution<Scalar> expansion;
  std::vector<Block> blocks;
  Compressor readout;
  RmsNorm<Scalar> norm;
  Settings settings;

  static constexpr auto parameters() {
    using M = DeltaTransformer;
    return std::tuple(field("embedding", &M::embedding), field("expansion", &M::expansion),
                      field("blocks", &M::blocks), field("readout", &M::readout), field("norm", &M::norm));
  }

  DeltaTransformer() = default;
  /// @throws std::invalid_argument if a size or a setting is out of range.
  explicit DeltaTransformer(const Settings& settings_, std::uint64_t seed = 0)
      : DeltaTransformer(settings_, Random(seed)) {}
  DeltaTransformer(const Settings& settings_, Random random) : settings(settings_) {
    constexpr const char* where = "ddl::DeltaTransformer";
    const Index d = settings.width, m = settings.value_channels;
    check_positive(where, "context", settings.context);
    if (settings.layers < 0) fail(where, "layers", std::to_string(settings.layers), "at least 0");
    embedding = {settings.vocabulary, d, random};
    expansion = {settings.expansion, d, m, random};
    typename Block::Settings block = {.sublayer = settings.attention,
                                      .gate = settings.gate,
                                      .value = settings.value,
                                      .compressor = settings.compressor,
                                      .rewrite = settings.rewrite,
                                      .k_eps = settings.k_eps,
                                      .norm_eps = settings.norm_eps};
    blocks.reserve(static_cast<std::size_t>(2 * settings.layers));
    for (Index layer = 0; layer < settings.layers; ++layer) {
      block.sublayer = settings.attention;
      block.shares_compressor = false;
      blocks.emplace_back(d, m, block, random);
      block.sublayer = settings.mlp;
      block.shares_compressor = true;
      blocks.emplace_back(d, m, block, random);
    }
    // As many additions to a state as there are layers shall not make it grow.
    const Scalar share = Scalar(1) / std::sqrt(static_cast<Scalar>(settings.layers));
    for (Block& each : blocks)
      std::visit([&](auto& sublayer) { sublayer.c_proj.weight *= share; }, each.sublayer.part);
    readout = {settings.compressor, d, m, random};
    norm = RmsNorm<Scalar>(d, settings.norm_eps);
  }

  Index vocabulary() const noexcept { return embedding.vocabulary(); }
  Index width() const noexcept { return embedding.width(); }
  Index value_channels() const noexcept { return expansion.value_channels; }

  /// A cache for passes over `tokens` tokens at once; passes over another number resize it.
  Cache make_cache(Index tokens = 0, Memory memory = Memory::training) const {
    if (tokens < 0) fail("ddl::DeltaTransformer::make_cache", "tokens", std::to_string(tokens), "at least 0");
    Cache cache;
    cache.hold(blocks.size(), memory);
    prepare(cache, tokens);
    return cache;
  }

  /// @return the logits, vocabulary x N, which live in the cache.
  /// @throws std::invalid_argument if a token is not in the vocabulary, a sequence is longer than the context, the
  /// sequences do not fill the batch, or the cache was made for another model.
  template <Executor E = Serial>
  const Matrix<Scalar>& forward(const TokenBatch& batch, Cache& cache, const E& executor = {}) const {
    constexpr const char* where = "ddl::DeltaTransformer::forward";
    const Index N = static_cast<Index>(batch.tokens.size()), T = sequence_length(where, batch.length, N);
    if (T > settings.context)
      fail(where, "a sequence", std::to_string(T) + " tokens long",
           "at most the context, " + std::to_string(settings.context));
    cache.check(where, blocks.size());
    cache.expansion.length = std::get<1>(cache.readout).length = T;
    for (auto& kept : cache.activations)
      std::get<0>(kept.sublayer).length = std::get<1>(kept.compressor).length = T;
    return run(batch.tokens, cache, executor);
  }

  /// Adds the gradients of all parameters to `gradient`, the embedding's from both its uses. `dlogits`: dL/dlogits,
  /// vocabulary x N. The cache of the forward pass is used up.
  /// @throws std::invalid_argument if a shape does not fit or the cache is for inference.
  template <Executor E = Serial>
  void backward(const TokenBatch& batch, const ConstBatchRef<Scalar>& dlogits, Cache& cache,
                DeltaTransformer& gradient, const E& executor = {}) const {
    constexpr const char* where = "ddl::DeltaTransformer::backward";
    const Index N = static_cast<Index>(batch.tokens.size());
    cache.check_training(where, blocks.size());
    check_shape(where, "the forward pass's logits", cache.logits, vocabulary(), N);
    check_shape(where, "dlogits", dlogits, vocabulary(), N);
    auto &dX = cache.state_gradient, &dx = cache.feature_gradient;
    dX.setZero(width(), N * value_channels());
    dx.resize(width(), N);
    add_product(dlogits, cache.features.transpose(), gradient.embedding.weight, executor);
    product(embedding.weight.transpose(), dlogits, dx, executor);
    const auto& X = cache.states.back();
    norm.backward(readout.output(X, cache.readout), cache.norm, dx, dx, gradient.norm, executor);
    readout.backward(X, cache.readout, dx, dX, gradient.readout, executor);
    stack_backward(blocks, cache, gradient.blocks, executor);
    expansion.backward(cache.embedded, cache.expansion, dX, dx, gradient.expansion, executor);
    embedding.backward(batch.tokens, dx, gradient.embedding, executor);
  }

  /// For a sequence that begins, and has room for `capacity` tokens; 0: the context.
  /// @throws std::invalid_argument if the capacity is below 0 or above the context.
  Decoder make_decoder(Index capacity = 0) const {
    if (capacity < 0 || capacity > settings.context)
      fail("ddl::DeltaTransformer::make_decoder", "capacity", std::to_string(capacity),
           "1 to the context, " + std::to_string(settings.context) + ", or 0 for that");
    Decoder decoder;
    decoder.capacity = capacity > 0 ? capacity : settings.context;
    Cache& cache = decoder.cache;
    cache.hold(blocks.size(), Memory::inference);
    cache.activations.resize(blocks.size());
    for (std::size_t l = 0; l < blocks.size(); ++l) {
      auto& kept = cache.activations[l];
      if (const auto* attention = std::get_if<0>(&blocks[l].sublayer.part))
        std::get<0>(kept.sublayer).past = attention->make_key_values(decoder.capacity);
      remember(compressor_of(blocks, l), kept.compressor);
    }
    remember(readout, cache.readout);
    cache.expansion.history = expansion.make_history();
    return decoder;
  }

  /// Takes one more token. @return the logits of what comes after it, vocabulary x 1: the last column of forward on
  /// the whole sequence. Nothing is allocated after the first token.
  /// @throws std::invalid_argument if the token is not in the vocabulary or the capacity is used up.
  template <Executor E = Serial>
  const Matrix<Scalar>& decode(int token, Decoder& decoder, const E& executor = {}) const {
    constexpr const char* where = "ddl::DeltaTransformer::decode";
    if (decoder.cache.activations.size() != blocks.size())
      fail(where, "the decoder",
           "for a model of " + std::to_string(decoder.cache.activations.size()) + " blocks",
           "one from make_decoder of this model of " + std::to_string(blocks.size()));
    if (decoder.count >= decoder.capacity)
      fail(where, "the sequence", std::to_string(decoder.count + 1) + " tokens long",
           "at most the capacity, " + std::to_string(decoder.capacity));
    const Matrix<Scalar>& logits = run(std::span(&token, 1), decoder.cache, executor);
    ++decoder.count;
    return logits;
  }

 private:
  template <class E>
  const Matrix<Scalar>& run(std::span<const int> tokens, Cache& cache, const E& executor) const {
    prepare(cache, static_cast<Index>(tokens.size()));
    embedding.forward(tokens, cache.embedded, executor);
    expansion.forward(cache.embedded, cache.states.front(), cache.expansion, executor);
    stack_forward(blocks, cache, executor);
    norm.forward(readout.forward(cache.states.back(), cache.readout, executor), cache.features, cache.norm,
                 executor);
    product(embedding.weight, cache.features, cache.logits, executor);
    return cache.logits;
  }
  void prepare(Cache& cache, Index tokens) const {
    for (auto& state : cache.states) state.resize(width(), tokens * value_channels());
    cache.embedded.resize(width(), tokens);
    cache.features.resize(width(), tokens);
    cache.logits.resize(vocabulary(), tokens);
  }
  static void remember(const Compressor& compressor, typename Compressor::template Cache<>& cache) {
    if (const auto* convolution = std::get_if<1>(&compressor.part))
      std::get<1>(cache).history = convolution->make_history();
  }
};

}  // namespace ddl
