// SPDX-License-Identifier: MIT
/// @file  The multilayer perceptron: the default sublayer of a block.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "ddl/nn/activation.hpp"
#include "ddl/nn/linear.hpp"
#include "ddl/nn/part.hpp"

namespace ddl {

/// Settings of an Mlp.
struct MlpSettings {
  std::optional<Index> hidden = {};  ///< width of the hidden layers; four times the outputs by default
  Index layers = 2;  ///< linear layers, at least 2; all but the last are followed by the activation
  Activation activation = Activation::gelu;  ///< f
};

/// The perceptron y = W_n f( .. f(W_1 x + b_1) .. ) + b_n.   x: in x N, y: out x N, hidden layers h x N.
template <class Scalar_, int In = Dynamic, int Hidden = Dynamic, int Out = In>
struct Mlp {
  using Scalar = Scalar_;
  using Settings = MlpSettings;
  using Input = ConstBatchRef<Scalar, In>;
  using Output = ConstBatchRef<Scalar, Out>;

  static constexpr PartKind kind = PartKind::sublayer;

  /// Every hidden layer before and after its activation. backward overwrites `after` with the gradient there.
  template <int Tokens = Dynamic>
  struct Tape {
    /// W x + b and f of it.
    struct Layer {
      Matrix<Scalar, Hidden, Tokens> before, after;  ///< h x N
    };
    Layer first;                ///< the only one with two linear layers
    std::vector<Layer> middle;  ///< the others
  };

  Linear<Scalar, In, Hidden> first;          ///< W_1 and b_1
  std::vector<Linear<Scalar>> middle;        ///< empty unless there are more than two layers
  Linear<Scalar, Hidden, Out> last;          ///< W_n and b_n
  Activation activation = Activation::gelu;  ///< f

  static constexpr auto parameters() {
    return std::tuple(parameter("first", &Mlp::first), parameter("middle", &Mlp::middle),
                      parameter("last", &Mlp::last));
  }

  Mlp() = default;
  /// @throws std::invalid_argument if a size does not fit or there are fewer than two layers.
  Mlp(Index in, Index out, const MlpSettings& settings, Random& random) : activation(settings.activation) {
    if (settings.layers < 2) fail("ddl::Mlp", "layers", std::to_string(settings.layers), "at least 2");
    const Index hidden = settings.hidden.value_or(Hidden != Dynamic ? Hidden : 4 * out);
    check_positive("ddl::Mlp", "hidden", hidden);
    first = {in, hidden, random};
    for (Index i = 2; i < settings.layers; ++i) middle.emplace_back(hidden, hidden, random);
    last = {hidden, out, random};
  }

  /// y from x.
  /// @throws std::invalid_argument if a shape does not fit.
  template <int Tokens>
  void forward(const Input& x, BatchRef<Scalar, Out> y, Tape<Tokens>& tape, const Pass& pass = {}) const {
    tape.middle.resize(middle.size());
    step(first, x, tape.first, pass);
    const auto* below = &tape.first;
    for (std::size_t i = 0; i < middle.size(); below = &tape.middle[i], ++i)
      step(middle[i], below->after, tape.middle[i], pass);
    last.forward(below->after, y, pass);
  }

  /// Adds to dx and to the gradient's parameters.
  template <int Tokens>
  void backward(const Input& x, const Output&, const Output& dy, BatchRef<Scalar, In> dx, Tape<Tokens>& tape,
                Mlp& gradient, const Pass& pass = {}) const {
    auto* layer = middle.empty() ? &tape.first : &tape.middle.back();
    last.backward_parameters(layer->after, dy, gradient.last, pass);
    last.input_gradient(dy, layer->after, pass);
    activate_backward(activation, layer->before, layer->after, layer->after, pass.executor);
    for (std::size_t i = middle.size(); i-- > 0;) {
      auto* below = i == 0 ? &tape.first : &tape.middle[i - 1];
      middle[i].backward_parameters(below->after, layer->after, gradient.middle[i], pass);
      middle[i].input_gradient(layer->after, below->after, pass);
      activate_backward(activation, below->before, below->after, below->after, pass.executor);
      layer = below;
    }
    first.backward(x, layer->after, dx, gradient.first, pass);
  }

 private:
  template <class L, class X, class Layer>
  void step(const L& linear, const X& x, Layer& layer, const Pass& pass) const {
    layer.before.resize(linear.outputs(), x.cols());
    layer.after.resize(linear.outputs(), x.cols());
    linear.forward(x, layer.before, pass);
    activate(activation, layer.before, layer.after, pass.executor);
  }
};

}  // namespace ddl
