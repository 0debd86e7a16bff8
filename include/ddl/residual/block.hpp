// SPDX-License-Identifier: MIT
/// @file  The Delta residual block: four parts and a delta update.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the residual block.
#pragma once

#include <optional>
#include <tuple>
#include <utility>

#include "ddl/nn/mlp.hpp"
#include "ddl/nn/norm.hpp"
#include "ddl/op/delta_update.hpp"
#include "ddl/residual/compressor.hpp"
#include "ddl/residual/gate.hpp"
#include "ddl/residual/tape_use.hpp"
#include "ddl/residual/value.hpp"

namespace ddl {

/// Settings of a DeltaConnection or a DeltaResidualBlock: those of its parts, and its own.
template <class Sublayer, class Gate, class Value, class Compressor, class Norm>
struct BlockSettings {
  typename Sublayer::Settings sublayer = {};      ///< of the direction
  typename Gate::Settings gate = {};              ///< of beta
  typename Value::Settings value = {};            ///< of v
  typename Compressor::Settings compressor = {};  ///< of the part that reads the state
  typename Norm::Settings norm = {};              ///< of the context
  UpdateRule update = UpdateRule::delta;          ///< which edit it makes
  double k_eps = default_k_eps;                   ///< inside the root of the direction's normalisation
};

/// Scratch memory of backward, shared by any number of connections.
template <class Scalar, int Width, int ValueChannels, int Tokens>
struct DeltaWorkspace {
  EditInputs<Scalar, Width, ValueChannels, Tokens> gradient;  ///< of the edits' inputs
  Matrix<Scalar, Width, Tokens> dcontext, dcompressed;        ///< of c and of x
};

/// The residual connection around a sublayer, for N states X of d x m at once, given the compressor by which
/// it reads:
///
///     x = compress(X),  c = norm(x),  kt = sublayer(c),  beta = gate(c),  v = value(c or x)
///     Y = X + beta k (v - X^T k)^T,   k = kt / sqrt(|kt|^2 + k_eps^2)
///
///     X, Y, dX   d x (N m)
///
/// Several connections of a layer may share a compressor; DeltaResidualBlock is one connection with its own.
/// Under the additive rule, Y = X + kt 1^T, there is no gate and no value.
template <class Scalar_, int Width, int ValueChannels, Sublayer<Width> SublayerPart, GatePart<Width> Gate,
          ValuePart<Width, ValueChannels> Value, CompressorPart<Width> Compressor_, Norm<Width> NormPart>
struct DeltaConnection {
  static_assert(std::is_floating_point_v<Scalar_>, "ddl: blocks compute in float, double or long double");
  using Scalar = Scalar_;
  using Compressor = Compressor_;  ///< the part that reads the state
  using Settings = BlockSettings<SublayerPart, Gate, Value, Compressor, NormPart>;
  using Input = ConstBatchRef<Scalar, Width>;
  using BatchState = BatchRef<Scalar, Width>;  ///< states that a pass writes to
  static constexpr int width_at_compile_time = Width, channels_at_compile_time = ValueChannels;  ///< d and m

  /// The edits of a pass: what a reversible stack keeps of each layer.
  template <int Tokens = Dynamic>
  struct Edit {
    EditInputs<Scalar, Width, ValueChannels, Tokens> inputs;  ///< kt, beta and v
    EditTape<Scalar, Width, ValueChannels, Tokens> tape;      ///< of the delta update
  };
  /// The tapes of the parts: what can be computed again from the states.
  template <int Tokens = Dynamic>
  struct Activations {
    typename Compressor::template Tape<Tokens> compressor;
    typename NormPart::template Tape<Tokens> norm;
    Matrix<Scalar, Width, Tokens> context;  ///< c
    typename SublayerPart::template Tape<Tokens> sublayer;
    typename Gate::template Tape<Tokens> gate;
    typename Value::template Tape<Tokens> value;
  };
  /// Scratch memory of backward.
  template <int Tokens = Dynamic>
  using Workspace = DeltaWorkspace<Scalar, Width, ValueChannels, Tokens>;
  /// What `infer` remembers of earlier tokens.
  struct State {
    using Scalar = Scalar_;
    StateOf<Compressor> compressor;
    StateOf<SublayerPart> sublayer;
    static constexpr auto parameters() {
      return std::tuple(parameter("compressor", &State::compressor), parameter("sublayer", &State::sublayer));
    }
  };

  NormPart norm;                          ///< computes c
  SublayerPart sublayer;                  ///< computes kt
  std::optional<Gate> gate;               ///< computes beta; none under the additive rule
  std::optional<Value> value;             ///< computes v; none under the additive rule
  UpdateRule update = UpdateRule::delta;  ///< which edit it makes
  double k_eps = default_k_eps;           ///< inside the root of the direction's normalisation
  Moving<Index> width;                    ///< 0 without weights
  Index value_channels = 1;               ///< m

  static constexpr auto parameters() {
    using C = DeltaConnection;
    return std::tuple(parameter("norm", &C::norm), parameter("sublayer", &C::sublayer),
                      parameter("gate", &C::gate), parameter("value", &C::value));
  }

  DeltaConnection() = default;
  /// @throws std::invalid_argument if a size is below 1 or differs from the fixed one, or a setting is out of
  /// range.
  DeltaConnection(Index width_, Index channels, const Settings& settings, Random& random)
      : norm(checked(width_, channels, settings), width_, settings.norm, random),
        sublayer(width_, width_, settings.sublayer, random),
        update(settings.update),
        k_eps(settings.k_eps),
        width(width_),
        value_channels(channels) {
    if (update == UpdateRule::additive) return;
    gate.emplace(width, Index(1), settings.gate, random);
    value.emplace(width, channels, settings.value, random);
  }

  /// Y may be X.
  template <int Tokens>
  void forward(const Compressor& compressor, const Input& X, BatchState Y, Edit<Tokens>& edit,
               Activations<Tokens>& activations, const Pass& pass = {}) const {
    run_parts(compressor, X, edit, activations, pass);
    delta_update_forward(update, X, edit.inputs, edit.tape, Y, k_eps, pass.executor);
  }
  /// forward for the tokens after those in the state; Y may be X.
  template <int Tokens>
  void infer(const Compressor& compressor, const Input& X, BatchState Y, State& state, Edit<Tokens>& edit,
             Activations<Tokens>& activations, const Pass& pass = {}) const {
    prepare(X, edit, activations);
    const Input x = infer_compressor(compressor, X, state.compressor, activations.compressor, pass);
    norm.forward(x, activations.context, activations.norm, pass);
    infer_part(sublayer, activations.context, edit.inputs.direction, state.sublayer, activations.sublayer,
               pass);
    gate_and_value(x, edit, activations, pass);
    delta_update_forward(update, X, edit.inputs, edit.tape, Y, k_eps, pass.executor);
  }

  /// At the start of sequences. @throws std::invalid_argument as ddl::make_state does.
  State make_state(const Compressor& compressor, Index sequences, Index capacity, Index rollback = 0) const {
    return {ddl::make_state(compressor, sequences, capacity, rollback),
            ddl::make_state(sublayer, sequences, capacity, rollback)};
  }
  /// Takes back the last tokens of every sequence.
  void roll_back(const Compressor& compressor, State& state, Index tokens) const {
    ddl::roll_back(compressor, state.compressor, tokens);
    ddl::roll_back(sublayer, state.sublayer, tokens);
  }

  /// The inputs of the edits from X.
  template <int Tokens>
  void run_parts(const Compressor& compressor, const Input& X, Edit<Tokens>& edit,
                 Activations<Tokens>& activations, const Pass& pass = {}) const {
    prepare(X, edit, activations);
    const Input x = compressor.forward(X, activations.compressor, pass);
    norm.forward(x, activations.context, activations.norm, pass);
    sublayer.forward(activations.context, edit.inputs.direction, activations.sublayer, pass);
    gate_and_value(x, edit, activations, pass);
  }

  /// The adjoint of run_parts: workspace.gradient holds the gradients of the inputs of the edits; adds to dX.
  template <int Tokens>
  void backward_parts(const Compressor& compressor, const Input& X, BatchState dX, const Edit<Tokens>& edit,
                      Activations<Tokens>& activations, Compressor& compressor_gradient,
                      DeltaConnection& gradient, Workspace<Tokens>& workspace, const Pass& pass = {}) const {
    const auto& inputs = edit.inputs;
    const auto& c = activations.context;
    auto &dc = workspace.dcontext, &dx = workspace.dcompressed;
    dc.setZero(width, c.cols());
    dx.setZero(width, c.cols());
    const Input x = compressor.output(X, activations.compressor);
    sublayer.backward(c, inputs.direction, workspace.gradient.direction, dc, activations.sublayer,
                      gradient.sublayer, pass);
    if (gate)
      gate->backward(c, inputs.beta, workspace.gradient.beta, dc, activations.gate, *gradient.gate, pass);
    if (value) {
      const bool from_context = value->reads() == ValueSource::context;
      value->backward(from_context ? Input(c) : x, inputs.value, workspace.gradient.value,
                      from_context ? dc : dx, activations.value, *gradient.value, pass);
    }
    norm.backward(x, c, dc, dx, activations.norm, gradient.norm, pass);
    compressor.backward(X, dx, dX, activations.compressor, compressor_gradient, pass);
  }

 private:
  template <int Tokens>
  void prepare(const Input& X, Edit<Tokens>& edit, Activations<Tokens>& activations) const {
    const Index N = X.cols() / value_channels;
    edit.inputs.resize(width, value_channels, N);
    activations.context.resize(width, N);
  }
  template <int Tokens>
  void gate_and_value(const Input& x, Edit<Tokens>& edit, Activations<Tokens>& activations,
                      const Pass& pass) const {
    const auto& c = activations.context;
    if (gate) gate->forward(c, edit.inputs.beta, activations.gate, pass);
    if (value)
      value->forward(value->reads() == ValueSource::context ? Input(c) : x, edit.inputs.value,
                     activations.value, pass);
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

/// One layer of a Deep Delta network: a connection and the compressor by which it reads.
///
///     ddl::Random random(1);
///     ddl::DeltaResidualBlock<float, 64, 4> block(64, 4, {}, random);
///     auto tape = block.make_tape();
///     auto gradient = ddl::zeros_like(block);
///     block.forward(X, Y, tape);
///     block.backward(X, dY, tape, gradient);      // dY becomes dX
///
/// Sizes are fixed at compile time (then a pass over a fixed number of tokens never uses the heap) or
/// Dynamic. A block is a value: a copy has its own weights, and its gradient is another block (zeros_like).
/// All passes are const; threads may share a block, each with its own tape.
template <class Scalar_, int Width = Dynamic, int ValueChannels = Dynamic,
          Sublayer<Width> SublayerPart = Mlp<Scalar_, Width, times(4, Width)>,
          GatePart<Width> Gate = LinearGate<Scalar_, Width>,
          ValuePart<Width, ValueChannels> Value = LinearValue<Scalar_, Width, ValueChannels>,
          CompressorPart<Width> Compressor_ = ChannelCompressor<Scalar_, Width, ValueChannels>,
          Norm<Width> NormPart = RmsNorm<Scalar_, Width>>
struct DeltaResidualBlock
    : DeltaConnection<Scalar_, Width, ValueChannels, SublayerPart, Gate, Value, Compressor_, NormPart> {
  /// The block without its compressor.
  using Connection =
      DeltaConnection<Scalar_, Width, ValueChannels, SublayerPart, Gate, Value, Compressor_, NormPart>;
  using Scalar = Scalar_;
  using typename Connection::BatchState;  ///< of the connection
  using typename Connection::Compressor;  ///< of the connection
  using typename Connection::Input;
  using typename Connection::Settings;
  using typename Connection::State;

  /// What a pass keeps for its backward pass, from make_tape.
  template <int Tokens = Dynamic>
  struct Tape {
    typename Connection::template Edit<Tokens> edit;                ///< kt, beta, v and what the update saves
    typename Connection::template Activations<Tokens> activations;  ///< of the parts
    typename Connection::template Workspace<Tokens> workspace;      ///< scratch memory of backward
    TapeUse use;  ///< whether a forward pass waits for its backward pass
  };

  Compressor compressor;  ///< by which the block reads its state

  static constexpr auto parameters() {
    return std::tuple_cat(std::tuple(parameter("compressor", &DeltaResidualBlock::compressor)),
                          Connection::parameters());
  }

  DeltaResidualBlock() = default;
  /// @throws std::invalid_argument if a size is below 1 or differs from the fixed one, or a setting is out of
  /// range.
  DeltaResidualBlock(Index width_, Index channels, const Settings& settings, Random& random)
      : Connection(width_, channels, settings, random),
        compressor(width_, channels, settings.compressor, random) {}

  /// A tape for passes over any number of samples. @throws std::invalid_argument if the block is empty.
  template <int Tokens = Dynamic>
  Tape<Tokens> make_tape() const {
    TapeUse::check_model("ddl::DeltaResidualBlock::make_tape", sizes());
    Tape<Tokens> tape;
    tape.use.made_for(sizes());
    return tape;
  }

  /// Y = block(X); Y may be X.
  /// @throws std::invalid_argument if a shape does not fit or the tape is of a block of other sizes.
  template <int Tokens>
  void forward(const Input& X, BatchState Y, Tape<Tokens>& tape, const Pass& pass = {}) const {
    constexpr const char* where = "ddl::DeltaResidualBlock::forward";
    tape.use.begin_forward(where, sizes());
    check_states(where, X, Y, pass);
    Connection::forward(compressor, X, Y, tape.edit, tape.activations, pass);
    tape.use.end_forward(this, pass);
  }

  /// X holds the states that went in; dX holds dL/dY on entry and dL/dX on return; adds to the parameters of
  /// `gradient`. Uses up the tape.
  /// @throws std::invalid_argument if a shape does not fit, or the tape is not that of a forward pass of this
  /// block.
  template <int Tokens>
  void backward(const Input& X, BatchState dX, Tape<Tokens>& tape, DeltaResidualBlock& gradient,
                const ExecutorRef& executor = {}) const {
    constexpr const char* where = "ddl::DeltaResidualBlock::backward";
    tape.use.check_backward(where, this, sizes());
    check_same_shapes(where, "the gradient", *this, gradient);
    check_shape(where, "X", X, this->width, tape.edit.inputs.value.size());
    check_shape(where, "dX", dX, this->width, X.cols());
    const Pass pass = tape.use.begin_backward(executor);
    delta_update_backward(this->update, X, tape.edit.inputs, tape.edit.tape, dX, tape.workspace.gradient,
                          executor);
    Connection::backward_parts(compressor, X, dX, tape.edit, tape.activations, gradient.compressor, gradient,
                               tape.workspace, pass);
  }

  // A layer of one block: see residual/stack.hpp.
  static constexpr std::size_t block_count = 1;  ///< layers of several blocks have more
  template <int Tokens = Dynamic>
  using Edits = typename Connection::template Edit<Tokens>;  ///< what a reversible stack keeps of a layer
  /// f(block, values...).
  template <class F, class... Values>
  static void for_each_block(F&& f, const DeltaResidualBlock& block, Values&... values) {
    f(static_cast<const Connection&>(block), values...);
  }
  /// f(block, values...).
  template <class F, class... Values>
  static void for_each_block_reversed(F&& f, const DeltaResidualBlock& block, Values&... values) {
    f(static_cast<const Connection&>(block), values...);
  }
  /// At the start of sequences. @throws std::invalid_argument as ddl::make_state does.
  State make_state(Index sequences, Index capacity, Index rollback = 0) const {
    return Connection::make_state(compressor, sequences, capacity, rollback);
  }

 private:
  ModelSizes sizes() const { return {this->width, this->width, this->width, this->value_channels, 1}; }
  void check_states(const char* where, const Input& X, const BatchState& Y, const Pass& pass) const {
    const Index N = X.cols() / this->value_channels;
    check_shape(where, "X", X, this->width, N * this->value_channels);
    check_shape(where, "Y", Y, this->width, N * this->value_channels);
    pass.sequences(where, N);
  }
};

}  // namespace ddl
