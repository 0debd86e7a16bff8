// SPDX-License-Identifier: MIT
/// @file  A stack of layers and its end: what DeltaResNet and DeltaTransformer have in common.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/residual/block.hpp"

namespace ddl {

/// What a tape stores of every block between the forward and the backward pass, in scalars per token:
///
///     training               the state (d m), the edit (d + 2 m + 2) and the activations of the parts
///     recompute              the state and the edit; backward computes the activations again
///     reversible             the edit and the activations; backward recovers the states, X = Y - beta k r^T
///     reversible_recompute   the edit
///     inference              nothing: all blocks share the memory of one, and there is no backward pass
///
/// The first four give the same gradients up to rounding.
enum class Memory { training, recompute, reversible, reversible_recompute, inference };

/// Whether a tape has the state before every block.
constexpr bool stores_states(Memory memory) noexcept {
  return memory == Memory::training || memory == Memory::recompute;
}
/// Whether a tape has the activations of every layer's parts.
constexpr bool stores_activations(Memory memory) noexcept {
  return memory == Memory::training || memory == Memory::reversible;
}

/// Layers, a readout and a norm: features = norm(readout(X_L)),  X_{l+1} = layer_l(X_l).   X: d x (N m),
/// features: d x N.
///
/// A layer is a struct of blocks that read by one compressor, here DeltaResidualBlock and TransformerLayer.
/// It has
///
///     Compressor compressor;
///     static constexpr std::size_t block_count;
///     Edits<Tokens>, Activations<Tokens>, State          structs with one member for each block, or of the only block
///     static void for_each_block(f, layer, others...)    f(block, its members of the others...), in order;
///     static void for_each_block_reversed(..)            the last block first
template <class Layer_>
struct DeltaStack {
  using Layer = Layer_;  ///< a struct of blocks, see above
  using Scalar = typename Layer::Scalar;
  using Compressor = typename Layer::Compressor;  ///< the part that reads a state
  /// d at compile time, or Dynamic.
  static constexpr int Width = Layer::width_at_compile_time,
                       ValueChannels = Layer::channels_at_compile_time;  ///< m likewise

  /// Every buffer of a pass. A tape belongs to one model at a time; its buffers keep the size of the largest
  /// batch so far.
  template <int Tokens = Dynamic>
  struct Tape {
    using States = Matrix<Scalar, Width, times(ValueChannels, Tokens)>;  ///< d x (N m)

    Memory memory = Memory::training;  ///< what the tape stores
    std::vector<States> states;        ///< the input, then the output of every block; or one state
    std::vector<typename Layer::template Edits<Tokens>> edits;              ///< of every layer, or one
    std::vector<typename Layer::template Activations<Tokens>> activations;  ///< of every layer, or one
    typename Compressor::template Tape<Tokens> readout;
    typename RmsNorm<Scalar, Width>::template Tape<Tokens> norm;
    Matrix<Scalar, Width, Tokens> features;                ///< d x N
    States dstates;                                        ///< gradient of the state at hand
    Matrix<Scalar, Width, Tokens> dfeatures, dreadout;     ///< of the features, and of what the norm reads
    typename Layer::template Workspace<Tokens> workspace;  ///< scratch memory of backward
    TapeUse use;  ///< whether a forward pass waits for its backward pass
  };

  /// What inference remembers of S sequences that are being continued. A copy is a fork of the sequences.
  template <int Tokens = Dynamic>
  struct StackState {
    using Scalar = typename Layer::Scalar;

    std::vector<typename Layer::State> layers;  ///< of every layer
    StateOf<Compressor> readout;
    Index sequences = 1;        ///< S
    Index position = 0;         ///< tokens of the longest sequence so far
    std::vector<Index> behind;  ///< by how many tokens each sequence is shorter
    Index capacity = 0;         ///< the most tokens of a sequence
    Index rollback = 0;         ///< the most tokens that roll_back takes back
    Index recent = 0;           ///< the tokens of every sequence that it can take back now
    ModelSizes sizes;           ///< of the model
    Tape<Tokens> tape;          ///< scratch memory

    /// Begins new sequences. The matrices of the parts are not set.
    void restart() {
      position = recent = 0;
      std::fill(behind.begin(), behind.end(), Index(0));
    }
  };

  std::vector<Layer> layers;    ///< from the first to the last
  Compressor readout;           ///< from the last state to what the norm reads
  RmsNorm<Scalar, Width> norm;  ///< before the head

  Index width() const noexcept { return norm.weight.size(); }  ///< d

  /// Calls f(block) for every block, in order.
  template <class F>
  void for_each_block(F&& f) const {
    for (const Layer& layer : layers) Layer::for_each_block(f, layer);
  }
  /// Calls f(block, edit) for every block, in order, with the edits of the last pass: edit.inputs holds the
  /// directions, betas and values (EditInputs), edit.tape the inverse norms and reads (EditTape).
  /// @throws std::invalid_argument if the tape does not keep the edits of every block (Memory::inference).
  template <int Tokens, class F>
  void for_each_edit(const Tape<Tokens>& tape, F&& f) const {
    if (tape.memory == Memory::inference || tape.edits.size() != layers.size())
      fail("ddl::DeltaStack::for_each_edit", "the tape", "for inference or for another model",
           "one that keeps the edits of this model");
    for (std::size_t l = 0; l < layers.size(); ++l) Layer::for_each_block(f, layers[l], tape.edits[l]);
  }

 protected:
  /// Sizes the lists of the tape; the first pass sizes the matrices.
  template <int Tokens>
  void make_tape(Tape<Tokens>& tape, Memory memory, const ModelSizes& sizes) const {
    const std::size_t one = (std::min)(layers.size(), std::size_t{1});
    tape.memory = memory;
    tape.states.resize(stores_states(memory) ? layers.size() * Layer::block_count + 1 : 1);
    tape.edits.resize(memory == Memory::inference ? one : layers.size());
    tape.activations.resize(stores_activations(memory) ? layers.size() : one);
    tape.use.made_for(sizes);
  }

  /// Makes room for N tokens. @throws std::invalid_argument if the tape does not fit the model.
  template <int Tokens>
  void begin_forward(const char* where, Tape<Tokens>& tape, const ModelSizes& sizes, Index N) const {
    tape.use.begin_forward(where, sizes);
    if (tape.states.empty()) fail(where, "the tape", "empty (moved from)", "one from make_tape");
    for (auto& state : tape.states) state.resize(width(), N * sizes.value_channels);
    tape.features.resize(width(), N);
  }

  /// tape.states.front() -> tape.features
  template <int Tokens>
  void forward_stack(Tape<Tokens>& tape, const Pass& pass) const {
    std::size_t at = 0;
    for (std::size_t l = 0; l < layers.size(); ++l)
      Layer::for_each_block(
          [&](const auto& block, auto& edit, auto& activations) {
            const auto& X = tape.states[at];
            if (stores_states(tape.memory)) ++at;
            block.forward(layers[l].compressor, X, tape.states[at], edit, activations, pass);
          },
          layers[l], entry(tape.edits, l), entry(tape.activations, l));
    norm.forward(readout.forward(tape.states.back(), tape.readout, pass), tape.features, tape.norm, pass);
  }

  /// The same for the tokens after those in the state.
  template <int Tokens>
  void infer_stack(StackState<Tokens>& state, const Pass& pass) const {
    Tape<Tokens>& tape = state.tape;
    auto& X = tape.states.front();
    for (std::size_t l = 0; l < layers.size(); ++l)
      Layer::for_each_block(
          [&](const auto& block, auto& memory, auto& edit, auto& activations) {
            block.infer(layers[l].compressor, X, X, memory, edit, activations, pass);
          },
          layers[l], state.layers[l], tape.edits.front(), tape.activations.front());
    norm.forward(infer_compressor(readout, X, state.readout, tape.readout, pass), tape.features, tape.norm,
                 pass);
  }

  /// tape.dfeatures -> tape.dstates, the gradient of tape.states.front(); adds to the parameters of
  /// `gradient`.
  template <int Tokens>
  void backward_stack(Tape<Tokens>& tape, DeltaStack& gradient, const Pass& pass) const {
    const Index N = tape.features.cols();
    auto& dX = tape.dstates;
    dX.setZero(width(), tape.states.back().cols());
    tape.dreadout.setZero(width(), N);
    const auto& last = tape.states.back();
    norm.backward(readout.output(last, tape.readout), tape.features, tape.dfeatures, tape.dreadout, tape.norm,
                  gradient.norm, pass);
    readout.backward(last, tape.dreadout, dX, tape.readout, gradient.readout, pass);
    std::size_t at = tape.states.size() - 1;
    for (std::size_t l = layers.size(); l-- > 0;)
      Layer::for_each_block_reversed(
          [&](const auto& block, auto& block_gradient, auto& edit, auto& activations) {
            auto& dinputs = tape.workspace.gradient;
            if (stores_states(tape.memory)) --at;
            auto& X = tape.states[at];
            if (stores_states(tape.memory))
              delta_update_backward(block.update, X, edit.inputs, edit.tape, dX, dinputs, pass.executor);
            else
              delta_update_backward_reversible(block.update, X, edit.inputs, edit.tape, dX, dinputs,
                                               pass.executor);
            if (!stores_activations(tape.memory))
              block.run_parts(layers[l].compressor, X, edit, activations, pass);
            block.backward_parts(layers[l].compressor, X, dX, edit, activations,
                                 gradient.layers[l].compressor, block_gradient, tape.workspace, pass);
          },
          layers[l], gradient.layers[l], tape.edits[l], entry(tape.activations, l));
  }

  /// Fills a new state, at the start of sequences.
  template <int Tokens>
  void make_state(StackState<Tokens>& state, Index sequences, Index capacity, Index rollback,
                  const ModelSizes& sizes) const {
    make_tape(state.tape, Memory::inference, sizes);
    state.layers.reserve(layers.size());
    for (const Layer& layer : layers) state.layers.push_back(layer.make_state(sequences, capacity, rollback));
    state.readout = ddl::make_state(readout, sequences, capacity, rollback);
    state.sequences = sequences;
    state.behind.assign(static_cast<std::size_t>(sequences), 0);
    state.capacity = capacity;
    state.rollback = rollback;
    state.sizes = sizes;
  }

  /// N more tokens, the same number of each sequence.
  /// @throws std::invalid_argument if N is no multiple of the number of sequences.
  template <int Tokens>
  static Pass even_pass(const char* where, const StackState<Tokens>& state, Index N,
                        const ExecutorRef& executor) {
    if (N % state.sequences != 0)
      fail(where, "the number of tokens", std::to_string(N),
           "a multiple of the " + std::to_string(state.sequences) + " sequences");
    return {executor, (std::max)(Index(1), N / state.sequences)};
  }
  /// Makes room for N more tokens. @return the pass with the positions of the state, on which end_infer
  /// moves.
  /// @throws std::invalid_argument if the state or the numbers of sequences and tokens do not fit.
  template <int Tokens>
  Pass begin_infer(const char* where, StackState<Tokens>& state, const ModelSizes& sizes, Index N,
                   Pass pass) const {
    check_state(where, state, sizes);
    const Index S = pass.sequences(where, N);
    if (N > 0 && S != state.sequences)
      fail(where, "the number of sequences", std::to_string(S),
           "that of the state, " + std::to_string(state.sequences));
    pass.position = state.position;
    pass.behind = state.behind;
    for (Index s = 0; s < S; ++s)
      if (const Index after = pass.before(s) + pass.sequence(s).length(); after > state.capacity)
        fail(where, "a sequence", std::to_string(after) + " tokens long",
             "at most the capacity, " + std::to_string(state.capacity));
    begin_forward(where, state.tape, sizes, N);
    return pass;
  }
  /// Moves the positions of the state on.
  template <int Tokens>
  void end_infer(StackState<Tokens>& state, const Pass& pass) const {
    if (state.tape.features.cols() == 0) return;
    const auto after = [&](Index s) { return pass.before(s) + pass.sequence(s).length(); };
    Index longest = 0, fewest = state.rollback;
    for (Index s = 0; s < state.sequences; ++s) {
      longest = (std::max)(longest, after(s));
      fewest = (std::min)(fewest, pass.sequence(s).length());
    }
    for (Index s = 0; s < state.sequences; ++s)
      state.behind[static_cast<std::size_t>(s)] = longest - after(s);
    state.position = longest;
    state.recent = (std::min)(state.rollback, state.recent + fewest);
  }

  /// Takes back the last tokens of every sequence.
  /// @throws std::invalid_argument if the state does not fit or cannot take back as many; it is left as it
  /// was.
  template <int Tokens>
  void roll_back_stack(const char* where, StackState<Tokens>& state, const ModelSizes& sizes,
                       Index tokens) const {
    check_state(where, state, sizes);
    if (tokens < 0 || tokens > state.recent)
      fail(where, "tokens", std::to_string(tokens),
           "from 0 to the " + std::to_string(state.recent) + " that a state with a rollback of " +
               std::to_string(state.rollback) + " can take back now");
    if (tokens == 0) return;
    for (std::size_t l = 0; l < layers.size(); ++l)
      Layer::for_each_block(
          [&](const auto& block, auto& memory) { block.roll_back(layers[l].compressor, memory, tokens); },
          layers[l], state.layers[l]);
    ddl::roll_back(readout, state.readout, tokens);
    state.position -= tokens;
    state.recent -= tokens;
  }

 private:
  template <int Tokens>
  void check_state(const char* where, const StackState<Tokens>& state, const ModelSizes& sizes) const {
    TapeUse::check_sizes(where, "the state", state.sizes, sizes);
    if (state.layers.size() != layers.size() || state.tape.states.empty())
      fail(where, "the state", "empty (moved from)", "one from make_state");
  }
  /// Layer l's entry, or the one that all layers share.
  template <class T>
  static T& entry(std::vector<T>& entries, std::size_t l) {
    return entries[entries.size() > 1 ? l : 0];
  }
};

}  // namespace ddl
