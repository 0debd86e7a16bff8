// SPDX-License-Identifier: MIT
/// @file  DeltaResNet: an embedding, a stack of Delta residual blocks, a readout and a head.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417.
#pragma once

#include <cstdint>
#include <exception>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "ddl/residual/stack.hpp"

namespace ddl {

/// Settings of a DeltaResNet.
template <class BlockSettings, int Width = Dynamic, int ValueChannels = Dynamic>
struct DeltaResNetSettings {
  Index inputs = 0;                                                     ///< the size of x
  Index outputs = 0;                                                    ///< the number of logits
  Index width = Width == Dynamic ? 64 : Width;                          ///< d
  Index value_channels = ValueChannels == Dynamic ? 1 : ValueChannels;  ///< m
  Index depth = 8;           ///< layers; with 0 of them the net is the embedding and the head
  BlockSettings block = {};  ///< of every layer
};

/// A network of Delta residual blocks: logits = head(norm(readout(X_depth))),  X_{l+1} = layer_l(X_l),
/// X_0 = embedding(x) as d x m.
///
///     x: inputs x N    logits: outputs x N    X: d x (N m)
///
/// A net is a value: its gradient is another net (zeros_like). All passes are const; threads may share a net,
/// each with its own tape. One training step by hand:
///
///     ddl::DeltaResNet<float> net({.inputs = 784, .outputs = 10, .width = 64, .value_channels = 4}, seed);
///     auto tape = net.make_tape();
///     auto gradient = ddl::zeros_like(net);
///     const auto& logits = net.forward(x, tape);
///     double loss = ddl::softmax_cross_entropy(logits, labels, dlogits);
///     net.backward(dlogits, tape, gradient);
///     optimizer.step(net, gradient);
template <class Scalar_, int Width = Dynamic, int ValueChannels = Dynamic,
          class Block = DeltaResidualBlock<Scalar_, Width, ValueChannels>>
struct DeltaResNet : DeltaStack<Block> {
  using Scalar = Scalar_;
  using Stack = DeltaStack<Block>;  ///< the layers, the readout and the norm
  using Settings = DeltaResNetSettings<typename Block::Settings, Width, ValueChannels>;
  using Input = ConstBatchRef<Scalar>;

  /// Every buffer of a pass over N samples, from make_tape and sized by the first pass.
  template <int Tokens = Dynamic>
  struct Tape : Stack::template Tape<Tokens> {
    Matrix<Scalar, Dynamic, Tokens> inputs, logits;  ///< of the last pass
  };

  /// Sequences of samples that are being continued, from make_state. For a net whose parts look at one sample
  /// at a time, the default, it is scratch memory.
  template <int Tokens = Dynamic>
  struct State : Stack::template StackState<Tokens> {
    Matrix<Scalar, Dynamic, Tokens> inputs, logits;  ///< of the last pass

    static constexpr auto parameters() {
      return std::tuple(parameter("layers", &State::layers), parameter("readout", &State::readout));
    }
    /// Begins new sequences.
    void reset() {
      set_zero(*this);
      this->restart();
    }
  };

  Linear<Scalar, Dynamic, times(Width, ValueChannels)> embedding;  ///< x to X_0
  Linear<Scalar, Width, Dynamic> head;                             ///< features to logits
  using Stack::layers, Stack::norm, Stack::readout, Stack::width;  ///< parts of the Stack

  static constexpr auto parameters() {
    return std::tuple(parameter("embedding", &DeltaResNet::embedding), parameter("layers", &Stack::layers),
                      parameter("readout", &Stack::readout), parameter("norm", &Stack::norm),
                      parameter("head", &DeltaResNet::head));
  }

  DeltaResNet() = default;
  /// A net with initial weights, which follow from the seed.
  /// @throws std::invalid_argument if a size or a setting is out of range.
  explicit DeltaResNet(const Settings& settings, std::uint64_t seed = 0)
      : DeltaResNet(settings, Random(seed)) {}
  /// The same from a generator in any state.
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
    layers = std::vector<Block>(static_cast<std::size_t>(settings.depth));
    for (Block& layer : layers) layer = {d, m, settings.block, random};
    readout = {d, m, settings.block.compressor, random};
    norm = {d, d, settings.block.norm, random};
    head = {d, settings.outputs, random};
  }

  Index inputs() const noexcept { return embedding.inputs(); }  ///< the size of x
  Index outputs() const noexcept { return head.outputs(); }     ///< the number of logits
  Index value_channels() const noexcept { return width() > 0 ? embedding.outputs() / width() : 0; }  ///< m
  Index depth() const noexcept { return static_cast<Index>(layers.size()); }  ///< the number of layers

  /// A tape for passes over any number of samples. The first pass over a number of samples allocates its
  /// buffers.
  /// @throws std::invalid_argument if the net is empty.
  template <int Tokens = Dynamic>
  Tape<Tokens> make_tape(Memory memory = Memory::training) const {
    TapeUse::check_model("ddl::DeltaResNet::make_tape", sizes());
    Tape<Tokens> tape;
    Stack::make_tape(tape, memory, tape_sizes(memory));
    return tape;
  }

  /// The logits of N samples.
  /// @param pass  who runs it; its length is 1 unless the samples are tokens of sequences and a part looks
  /// along them.
  /// @return the logits, outputs x N, which live in the tape.
  /// @throws std::invalid_argument if x has the wrong number of rows, or the tape was made for another net.
  template <int Tokens>
  const Matrix<Scalar, Dynamic, Tokens>& forward(const Input& x, Tape<Tokens>& tape,
                                                 const Pass& pass = {}) const {
    constexpr const char* where = "ddl::DeltaResNet::forward";
    TapeUse::check_model(where, sizes());
    check_shape(where, "x", x, inputs(), Tokens == Dynamic ? x.cols() : Tokens);
    pass.sequences(where, x.cols());
    Stack::begin_forward(where, tape, tape_sizes(tape.memory), x.cols());
    if (tape.memory != Memory::inference) tape.inputs = x;
    embedding.forward(x, flat(tape.states.front()), pass);
    Stack::forward_stack(tape, pass);
    tape.logits.resize(outputs(), x.cols());
    head.forward(tape.features, tape.logits, pass);
    if (tape.memory != Memory::inference) tape.use.end_forward(this, pass);
    return tape.logits;
  }

  /// Adds the gradients of all parameters to `gradient`. Uses up the tape of the forward pass.
  /// @param dlogits  dL/dlogits, outputs x N.
  /// @throws std::invalid_argument if a shape does not fit, or the last pass with the tape was not a forward
  /// pass of this net.
  template <int Tokens>
  void backward(const Input& dlogits, Tape<Tokens>& tape, DeltaResNet& gradient,
                const ExecutorRef& executor = {}) const {
    constexpr const char* where = "ddl::DeltaResNet::backward";
    tape.use.check_backward(where, this, tape_sizes(tape.memory));
    check_same_shapes(where, "the gradient", *this, gradient);
    check_shape(where, "dlogits", dlogits, outputs(), tape.logits.cols());
    const Pass pass = tape.use.begin_backward(executor);
    tape.dfeatures.resize(width(), dlogits.cols());
    head.backward_parameters(tape.features, dlogits, gradient.head, pass);
    head.input_gradient(dlogits, tape.dfeatures, pass);
    Stack::backward_stack(tape, gradient, pass);
    embedding.backward_parameters(tape.inputs, flat(tape.dstates), gradient.embedding, pass);
  }

  /// The state of `sequences` sequences; of independent samples, of as many as one call of infer takes.
  /// @param capacity  the most samples of a sequence, for parts that remember every one of them, as attention
  /// does.
  /// @throws std::invalid_argument if the net is empty or a number is below 1.
  template <int Tokens = 1>
  State<Tokens> make_state(Index sequences = Tokens == Dynamic ? 1 : Tokens, Index capacity = 1024) const {
    constexpr const char* where = "ddl::DeltaResNet::make_state";
    TapeUse::check_model(where, sizes());
    check_positive(where, "sequences", sequences);
    check_positive(where, "capacity", capacity);
    State<Tokens> state;
    Stack::make_state(state, sequences, capacity, 0, sizes());
    state.capacity = (std::numeric_limits<Index>::max)();  // of parts that do not remember every sample
    state.inputs.setZero(inputs(), Tokens == Dynamic ? sequences : Tokens);
    infer(state.inputs, state);
    state.reset();
    return state;
  }

  /// forward for real-time use: continues each sequence of the state by x.cols() / sequences samples. x may
  /// be any expression, with any strides; one sample may also be a row vector, 1 x inputs. It never throws: a
  /// shape that does not fit, or a state of another net, ends the program with the message of the exception.
  /// One sample at a time never allocates, nor does a number of samples that the state has seen before on the
  /// same thread.
  /// @return the logits, outputs x N, which live in the state.
  template <class Derived, int Tokens>
  const Matrix<Scalar, Dynamic, Tokens>& infer(const Eigen::MatrixBase<Derived>& x, State<Tokens>& state,
                                               const ExecutorRef& executor = {}) const noexcept {
    static_assert(std::is_same_v<typename Derived::Scalar, Scalar>, "ddl: x has the scalars of the net");
    if constexpr (Tokens == 1 && Derived::RowsAtCompileTime == 1 && Derived::ColsAtCompileTime != 1)
      return infer(x.transpose(), state, executor);
    constexpr const char* where = "ddl::DeltaResNet::infer";
    try {
      TapeUse::check_model(where, sizes());
      check_shape(where, "x", x, inputs(), Tokens == Dynamic ? x.cols() : Tokens);
      const Pass pass = Stack::begin_infer(where, state, sizes(), x.cols(),
                                           Stack::even_pass(where, state, x.cols(), executor));
      state.inputs = x;
      embedding.forward(state.inputs, flat(state.tape.states.front()), pass);
      Stack::infer_stack(state, pass);
      state.logits.resize(outputs(), x.cols());
      head.forward(state.tape.features, state.logits, pass);
      Stack::end_infer(state, pass);
      return state.logits;
    } catch (...) {
      std::terminate();  // while the exception is handled, so that its message is printed
    }
  }

 private:
  ModelSizes sizes() const { return {inputs(), outputs(), width(), value_channels(), depth()}; }
  /// A tape for inference serves all nets of the same sizes: it keeps nothing of their parts.
  ModelSizes tape_sizes(Memory memory) const {
    ModelSizes all = sizes();
    if (memory != Memory::inference) all.shapes = shape_hash(*this);
    return all;
  }

  /// The states of N samples as N columns of d m entries: the same memory.
  template <class States>
  auto flat(States& states) const {
    return Eigen::Map<Matrix<Scalar, times(Width, ValueChannels), Dynamic>>(
        states.data(), width() * value_channels(), states.cols() / value_channels());
  }
};

}  // namespace ddl
