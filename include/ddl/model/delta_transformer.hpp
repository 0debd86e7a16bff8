// SPDX-License-Identifier: MIT
/// @file  The DDL Transformer: a decoder-only language model of Delta residual blocks.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the Transformer instantiation. Where the
/// paper and the authors' code differ there is a setting.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "ddl/nn/attention.hpp"
#include "ddl/nn/embedding.hpp"
#include "ddl/nn/swiglu.hpp"
#include "ddl/residual/channel_convolution_compressor.hpp"
#include "ddl/residual/stack.hpp"
#include "ddl/residual/state_expansion.hpp"
#include "ddl/residual/token_convolution_compressor.hpp"
#include "ddl/residual/variant_part.hpp"

namespace ddl {

/// The paper's models. vdim1: m = 1. tc, cc: the compressor convolves over tokens, or over value channels.
/// The first state repeats the embedding in every channel, or with _ec is a convolution over tokens.
enum class Variant { vdim1, tc, tc_ec, cc, cc_ec };
/// In the order of the enumeration.
inline constexpr std::array all_variants = {Variant::vdim1, Variant::tc, Variant::tc_ec, Variant::cc,
                                            Variant::cc_ec};

/// Its name in this enumeration.
constexpr const char* name_of(Variant variant) noexcept {
  constexpr const char* names[] = {"vdim1", "tc", "tc_ec", "cc", "cc_ec"};
  return names[static_cast<int>(variant)];
}

/// Settings of a DeltaTransformer. By default m = 1; settings_of(Variant) gives the paper's models.
template <class MixerSettings = AttentionSettings>
struct DeltaTransformerSettings {
  using Mixer = MixerSettings;                                   ///< settings of the token mixer
  Index vocabulary = 256;                                        ///< the number of tokens there are
  Index context = 1024;                                          ///< tokens of the longest sequence
  Index layers = 12;                                             ///< a mixer and an MLP each
  Index width = 768;                                             ///< d
  Index value_channels = 1;                                      ///< m
  MixerSettings mixer = {};                                      ///< of every layer
  SwiGluSettings mlp = {};                                       ///< of every layer
  std::variant<LinearGateSettings, TanhGateSettings> gate = {};  ///< of every block
  /// Of every block.
  std::variant<LinearValueSettings, ConstantValueSettings> value =
      LinearValueSettings{.source = ValueSource::compressed, .sigmoid_scale = 4};
  /// By which a layer reads its state.
  std::variant<CompressorSettings, TokenConvolutionSettings, ChannelConvolutionSettings> compressor = {};
  StateExpansionSettings expansion = {};  ///< of the embedding
  UpdateRule update = UpdateRule::delta;  ///< of every block
  double k_eps = default_k_eps;           ///< inside the root of the directions' normalisation
  double norm_eps = 1e-5;                 ///< of all norms but a mixer's own
  bool tie_embeddings = true;  ///< the output matrix is the embedding; otherwise a parameter `head`
};

/// A variant with the defaults of the authors' code. The paper's sizes (Table 6) are 12 layers of width 768
/// with 6 heads and 24 layers of width 1024 with 8 heads, with a vocabulary of 50304.
template <class MixerSettings = AttentionSettings>
DeltaTransformerSettings<MixerSettings> settings_of(Variant variant) {
  DeltaTransformerSettings<MixerSettings> settings;
  if (variant == Variant::vdim1) return settings;
  settings.value_channels = 4;
  if (variant == Variant::tc || variant == Variant::tc_ec)
    settings.compressor = TokenConvolutionSettings{};
  else
    settings.compressor = ChannelConvolutionSettings{};
  if (variant == Variant::tc_ec || variant == Variant::cc_ec) settings.expansion.kernel = 4;
  return settings;
}

/// A layer of a Transformer: a token mixer and an MLP, each in a connection of its own, that read by one
/// compressor.
template <class Scalar_, Sublayer Mixer, Sublayer Mlp, GatePart Gate, ValuePart Value,
          CompressorPart Compressor_>
struct TransformerLayer {
  using Scalar = Scalar_;
  using Compressor = Compressor_;  ///< by which a layer reads its state
  /// A block around a sublayer.
  template <class SublayerPart>
  using Connection =
      DeltaConnection<Scalar, Dynamic, Dynamic, SublayerPart, Gate, Value, Compressor, RmsNorm<Scalar>>;
  static constexpr int width_at_compile_time = Dynamic, channels_at_compile_time = Dynamic;  ///< d and m
  static constexpr std::size_t block_count = 2;  ///< the mixer and the MLP

  /// Settings of both blocks.
  struct Settings {
    typename Connection<Mixer>::Settings mixer;  ///< of the first block
    typename Connection<Mlp>::Settings mlp;      ///< of the second block
  };
  /// Of both blocks what a reversible stack keeps.
  template <int Tokens = Dynamic>
  struct Edits {
    typename Connection<Mixer>::template Edit<Tokens> mixer;  ///< of the first block
    typename Connection<Mlp>::template Edit<Tokens> mlp;      ///< of the second block
  };
  /// Of both blocks what can be computed again from the states.
  template <int Tokens = Dynamic>
  struct Activations {
    typename Connection<Mixer>::template Activations<Tokens> mixer;  ///< of the first block
    typename Connection<Mlp>::template Activations<Tokens> mlp;      ///< of the second block
  };
  /// Of both blocks what inference remembers of earlier tokens.
  struct State {
    using Scalar = Scalar_;
    typename Connection<Mixer>::State mixer;  ///< of the first block
    typename Connection<Mlp>::State mlp;      ///< of the second block
    static constexpr auto parameters() {
      return std::tuple(parameter("mixer", &State::mixer), parameter("mlp", &State::mlp));
    }
  };
  /// Scratch memory of backward.
  template <int Tokens = Dynamic>
  using Workspace = DeltaWorkspace<Scalar, Dynamic, Dynamic, Tokens>;

  Compressor compressor;    ///< by which both blocks read
  Connection<Mixer> mixer;  ///< the first block
  Connection<Mlp> mlp;      ///< the second block

  static constexpr auto parameters() {
    using L = TransformerLayer;
    return std::tuple(parameter("compressor", &L::compressor), parameter("mixer", &L::mixer),
                      parameter("mlp", &L::mlp));
  }

  TransformerLayer() = default;
  /// @throws std::invalid_argument if a size or a setting is out of range.
  TransformerLayer(Index width, Index channels, const Settings& settings, Random& random)
      : compressor(width, channels, settings.mixer.compressor, random),
        mixer(width, channels, settings.mixer, random),
        mlp(width, channels, settings.mlp, random) {}

  /// See DeltaStack.
  template <class F, class... Values>
  static void for_each_block(F&& f, Values&... values) {
    f(values.mixer...);
    f(values.mlp...);
  }
  /// See DeltaStack.
  template <class F, class... Values>
  static void for_each_block_reversed(F&& f, Values&... values) {
    f(values.mlp...);
    f(values.mixer...);
  }
  /// At the start of sequences.
  State make_state(Index sequences, Index capacity, Index rollback = 0) const {
    return {mixer.make_state(compressor, sequences, capacity, rollback),
            mlp.make_state(compressor, sequences, capacity, rollback)};
  }
};

/// Sequences of tokens, one after the other: of one length, or each of its own, see Pass.
struct TokenBatch {
  std::span<const int> tokens;          ///< of all sequences
  std::optional<Index> length = {};     ///< all tokens are one sequence by default
  std::span<const Index> offsets = {};  ///< in place of a length: the first tokens of the sequences, and N

  /// The pass over these sequences.
  /// @throws std::invalid_argument if there is a length and offsets.
  Pass pass(const ExecutorRef& executor) const {
    if (length && !offsets.empty())
      fail("ddl::TokenBatch", "the length", std::to_string(*length) + " beside offsets", "one of the two");
    if (!offsets.empty()) return {executor, offsets};
    return {executor, length.value_or((std::max)(Index(1), static_cast<Index>(tokens.size())))};
  }
};

/// A language model of Delta residual blocks: logits = H norm(readout(X_L)),  X_{l+1} = layer_l(X_l),
/// X_0 = expansion(rows of W).
///
///     tokens: N    logits: vocabulary x N    X: d x (N m)    W, H: vocabulary x d, the embedding and the head
///
/// H is W by default (tie_embeddings). `Mixer` is the token mixer of every layer: causal self-attention, or
/// any sublayer; LanguageModel (model/language_model.hpp) chooses it at run time. A variant of the paper is a
/// choice of parts. A model is a value: its gradient is another model (zeros_like).
///
///     ddl::DeltaTransformer<float> model({.vocabulary = 256, .layers = 4, .width = 256, .mixer = {.heads = 4}}, seed);
///     auto tape = model.make_tape();
///     auto gradient = ddl::zeros_like(model);
///     const auto& logits = model.forward({tokens, 64}, tape);       // sequences of 64 tokens
///     model.backward(dlogits, tape, gradient);
///
///     auto state = model.make_state();                              // inference
///     model.infer(prompt, state);                                   // a whole prompt at once,
///     model.infer(next_token, state);                               // then token by token
///
///     auto state = model.make_state(1, {}, 8);                      // speculative decoding: drafts of up to 8 tokens
///     model.infer(draft, state);                                    // of which the last 3 turn out wrong
///     model.roll_back(state, 3);
template <class Scalar_, Sublayer Mixer = CausalSelfAttention<Scalar_>>
struct DeltaTransformer
    : DeltaStack<TransformerLayer<Scalar_, Mixer, SwiGlu<Scalar_>,
                                  VariantPart<LinearGate<Scalar_>, TanhGate<Scalar_>>,
                                  VariantPart<LinearValue<Scalar_>, ConstantValue<Scalar_>>,
                                  VariantPart<ChannelCompressor<Scalar_>, TokenConvolutionCompressor<Scalar_>,
                                              ChannelConvolutionCompressor<Scalar_>>>> {
  using Scalar = Scalar_;
  using Stack = typename DeltaTransformer::DeltaStack;  ///< the layers, the readout and the norm
  using Layer = typename Stack::Layer;                  ///< a mixer and an MLP
  using Settings = DeltaTransformerSettings<typename Mixer::Settings>;

  /// Every buffer of a pass, from make_tape and sized by the first pass.
  struct Tape : Stack::template Tape<> {
    std::vector<int> tokens;  ///< of the pass
    typename StateExpansion<Scalar>::Tape expansion;
    Matrix<Scalar> embedded, dembedded;  ///< d x N
    Matrix<Scalar> logits;               ///< vocabulary x N
  };

  /// Sequences that are being continued, from make_state: what every layer remembers of them. A copy is a
  /// fork: other sequences with the same beginning.
  struct State : Stack::template StackState<> {
    StateOf<StateExpansion<Scalar>> expansion;
    typename StateExpansion<Scalar>::Tape expansion_tape;  ///< scratch memory, as what follows
    Matrix<Scalar> embedded, logits;                       ///< d x N and vocabulary x N

    static constexpr auto parameters() {
      return std::tuple(parameter("expansion", &State::expansion), parameter("layers", &State::layers),
                        parameter("readout", &State::readout));
    }
    /// Begins new sequences.
    void reset() {
      set_zero(*this);
      this->restart();
    }
  };

  TokenEmbedding<Scalar> embedding;  ///< W
  StateExpansion<Scalar> expansion;  ///< from an embedded token to its first state
  Linear<Scalar> head;               ///< empty if it is the embedding
  Settings settings;                 ///< what the model was made with
  using Stack::layers, Stack::norm, Stack::readout;

  static constexpr auto parameters() {
    using M = DeltaTransformer;
    return std::tuple(parameter("embedding", &M::embedding), parameter("expansion", &M::expansion),
                      parameter("layers", &Stack::layers), parameter("readout", &Stack::readout),
                      parameter("norm", &Stack::norm), parameter("head", &M::head));
  }

  DeltaTransformer() = default;
  /// A model with initial weights, which follow from the seed.
  /// @throws std::invalid_argument if a size or a setting is out of range.
  explicit DeltaTransformer(const Settings& settings_, std::uint64_t seed = 0)
      : DeltaTransformer(settings_, Random(seed)) {}
  /// The same from a generator in any state.
  DeltaTransformer(const Settings& settings_, Random random) : settings(settings_) {
    constexpr const char* where = "ddl::DeltaTransformer";
    const Index d = settings.width, m = settings.value_channels;
    check_positive(where, "context", settings.context);
    if (settings.layers < 0) fail(where, "layers", std::to_string(settings.layers), "at least 0");
    embedding = {settings.vocabulary, d, random};
    expansion = {d, m, settings.expansion, random};
    const auto connection = [&](auto& to, const auto& sublayer) {
      to = {.sublayer = sublayer,
            .gate = settings.gate,
            .value = settings.value,
            .compressor = settings.compressor,
            .norm = {.eps = settings.norm_eps},
            .update = settings.update,
            .k_eps = settings.k_eps};
    };
    typename Layer::Settings layer;
    connection(layer.mixer, settings.mixer);
    connection(layer.mlp, settings.mlp);
    layers.reserve(static_cast<std::size_t>(settings.layers));
    for (Index l = 0; l < settings.layers; ++l) layers.emplace_back(d, m, layer, random);
    // The scaling of residual branches by depth of GPT-2 (Radford et al. 2019), as in the authors' code.
    const Scalar factor = Scalar(1) / std::sqrt(static_cast<Scalar>(settings.layers));
    for (Layer& each : layers) {
      if constexpr (requires { each.mixer.sublayer.scale_output(factor); })
        each.mixer.sublayer.scale_output(factor);
      each.mlp.sublayer.scale_output(factor);
    }
    readout = {d, m, settings.compressor, random};
    norm = {d, d, {.eps = settings.norm_eps}, random};
    if (!settings.tie_embeddings) head = {d, settings.vocabulary, random, 1, false};
  }

  Index vocabulary() const noexcept { return embedding.vocabulary(); }  ///< the number of tokens there are
  Index width() const noexcept { return embedding.width(); }            ///< d
  Index value_channels() const noexcept { return expansion.value_channels; }  ///< m

  /// A tape for passes over any number of tokens. The first pass over a number of tokens allocates its
  /// buffers.
  /// @throws std::invalid_argument if the model is empty.
  Tape make_tape(Memory memory = Memory::training) const {
    TapeUse::check_model("ddl::DeltaTransformer::make_tape", sizes());
    Tape tape;
    Stack::make_tape(tape, memory, sizes());
    return tape;
  }

  /// The logits of N tokens.
  /// @return the logits, vocabulary x N, which live in the tape.
  /// @throws std::invalid_argument if a token is not in the vocabulary, a sequence is longer than the
  /// context, the sequences do not fill the batch, or the tape was made for another model.
  const Matrix<Scalar>& forward(const TokenBatch& batch, Tape& tape, const ExecutorRef& executor = {}) const {
    constexpr const char* where = "ddl::DeltaTransformer::forward";
    TapeUse::check_model(where, sizes());
    const Index N = static_cast<Index>(batch.tokens.size());
    const Pass pass = batch.pass(executor);
    if (pass.longest() > settings.context)
      fail(where, "a sequence", std::to_string(pass.longest()) + " tokens long",
           "at most the context, " + std::to_string(settings.context));
    pass.sequences(where, N);
    Stack::begin_forward(where, tape, sizes(), N);
    tape.embedded.resize(width(), N);
    embedding.forward(batch.tokens, tape.embedded, pass);
    tape.tokens.assign(batch.tokens.begin(), batch.tokens.end());
    expansion.forward(tape.embedded, tape.states.front(), tape.expansion, pass);
    Stack::forward_stack(tape, pass);
    tape.logits.resize(vocabulary(), N);
    product(head_weight(*this), tape.features, tape.logits, executor);
    if (tape.memory != Memory::inference) tape.use.end_forward(this, pass);
    return tape.logits;
  }

  /// Adds the gradients of all parameters to `gradient`, a tied embedding's from both its uses. Uses up the
  /// tape of the forward pass.
  /// @param dlogits  dL/dlogits, vocabulary x N.
  /// @throws std::invalid_argument if a shape does not fit, or the last pass with the tape was not a forward
  /// pass of this model.
  void backward(const ConstBatchRef<Scalar>& dlogits, Tape& tape, DeltaTransformer& gradient,
                const ExecutorRef& executor = {}) const {
    constexpr const char* where = "ddl::DeltaTransformer::backward";
    tape.use.check_backward(where, this, sizes());
    check_same_shapes(where, "the gradient", *this, gradient);
    check_shape(where, "dlogits", dlogits, vocabulary(), tape.logits.cols());
    const Pass pass = tape.use.begin_backward(executor);
    tape.dfeatures.resize(width(), dlogits.cols());
    add_product(dlogits, tape.features.transpose(), head_weight(gradient), executor);
    product(head_weight(*this).transpose(), dlogits, tape.dfeatures, executor);
    Stack::backward_stack(tape, gradient, pass);
    tape.dembedded.setZero(width(), dlogits.cols());
    expansion.backward(tape.embedded, tape.dstates, tape.dembedded, tape.expansion, gradient.expansion, pass);
    embedding.backward(tape.tokens, tape.dembedded, gradient.embedding, pass);
  }

  /// The state at the start of `sequences` sequences of at most `capacity` tokens each, the context by
  /// default.
  /// @param rollback  the most tokens that roll_back is to take back. A copy of a state goes back any number
  /// of tokens.
  /// @throws std::invalid_argument if the model is empty, `sequences` or `capacity` is below 1 or `rollback`
  /// below 0, the capacity is above the context, or a part cannot take tokens back, as the delta rule over
  /// time with decay.
  State make_state(Index sequences = 1, std::optional<Index> capacity = {}, Index rollback = 0) const {
    constexpr const char* where = "ddl::DeltaTransformer::make_state";
    TapeUse::check_model(where, sizes());
    check_positive(where, "sequences", sequences);
    if (capacity && (*capacity < 1 || *capacity > settings.context))
      fail(where, "capacity", std::to_string(*capacity),
           "1 to the context, " + std::to_string(settings.context));
    if (rollback < 0) fail(where, "rollback", std::to_string(rollback), "at least 0");
    State state;
    Stack::make_state(state, sequences, capacity.value_or(settings.context), rollback, sizes());
    state.expansion = ddl::make_state(expansion, sequences, state.capacity, rollback);
    return state;
  }

  /// Continues each sequence of the state by tokens.size() / sequences tokens, those of the first sequence
  /// first. Nothing is allocated if the state has seen this number of tokens before.
  /// @return the logits, vocabulary x N, which live in the state: the columns of a forward pass over the
  /// whole sequences that belong to these tokens.
  /// @throws std::invalid_argument if a token is not in the vocabulary, the capacity would be exceeded, or
  /// the state is that of another model; the state is left as it was.
  const Matrix<Scalar>& infer(std::span<const int> tokens, State& state,
                              const ExecutorRef& executor = {}) const {
    constexpr const char* where = "ddl::DeltaTransformer::infer";
    return infer_pass(tokens, state,
                      Stack::even_pass(where, state, static_cast<Index>(tokens.size()), executor));
  }
  /// The same for one token of one sequence.
  const Matrix<Scalar>& infer(int token, State& state, const ExecutorRef& executor = {}) const {
    return infer(std::span(&token, 1), state, executor);
  }
  /// The same for numbers of tokens that differ between the sequences, as prompts do. Each sequence has at
  /// least one:
  ///
  ///     auto state = model.make_state(3);
  ///     model.infer(ddl::TokenBatch{.tokens = prompts, .offsets = offsets}, state);      // offsets {0, 5, 7, 16}
  ///     model.infer(next_tokens, state);                                                 // one of each sequence
  ///
  /// @throws std::invalid_argument also if the batch does not hold as many sequences as the state.
  const Matrix<Scalar>& infer(const TokenBatch& batch, State& state, const ExecutorRef& executor = {}) const {
    return infer_pass(batch.tokens, state, batch.pass(executor));
  }

  /// Takes back the last `tokens` tokens of every sequence, as if infer had not seen them: what speculative
  /// decoding does with the tokens that it rejects. The state equals one that has not seen them up to
  /// rounding. A token that is taken back is no longer one of the `rollback` tokens that the state holds for
  /// this.
  /// @throws std::invalid_argument if `tokens` is above state.recent, or the state is that of another model;
  /// the state is left as it was.
  void roll_back(State& state, Index tokens) const {
    Stack::roll_back_stack("ddl::DeltaTransformer::roll_back", state, sizes(), tokens);
    ddl::roll_back(expansion, state.expansion, tokens);
  }

 private:
  const Matrix<Scalar>& infer_pass(std::span<const int> tokens, State& state, const Pass& given) const {
    const Index N = static_cast<Index>(tokens.size());
    const Pass pass = Stack::begin_infer("ddl::DeltaTransformer::infer", state, sizes(), N, given);
    state.embedded.resize(width(), N);
    embedding.forward(tokens, state.embedded, pass);
    expansion.infer(state.embedded, state.tape.states.front(), state.expansion, state.expansion_tape, pass);
    Stack::infer_stack(state, pass);
    state.logits.resize(vocabulary(), N);
    product(head_weight(*this), state.tape.features, state.logits, pass.executor);
    Stack::end_infer(state, pass);
    return state.logits;
  }
  template <class Model>
  static auto& head_weight(Model& model) {
    return model.head.weight.size() > 0 ? model.head.weight : model.embedding.weight;
  }
  ModelSizes sizes() const {
    return {vocabulary(),     vocabulary(), width(), value_channels(), static_cast<Index>(layers.size()),
            shape_hash(*this)};
  }
};

}  // namespace ddl
