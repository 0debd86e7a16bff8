// SPDX-License-Identifier: MIT
/// @file  The multilayer perceptron: the default sublayer of a block.
#pragma once

#include <tuple>
#include <vector>

#include "ddl/nn/activation.hpp"
#include "ddl/nn/linear.hpp"

namespace ddl {

struct MlpSettings {
  Index hidden = 0;  ///< the width of the hidden layers; 0: four times the outputs
  Index layers = 2;  ///< linear layers, at least 2; all but the last are followed by the activation
  Activation activation = Activation::gelu;
};

/// y = W_n f( .. f(W_1 x + b_1) .. ) + b_n.   x: in x N, y: out x N, hidden layers h x N.
template <class Scalar_, int In = Dynamic, int Hidden = Dynamic, int Out = In>
struct Mlp {
  using Scalar = Scalar_;
  using Settings = MlpSettings;
  using Input = ConstBatchRef<Scalar, In>;
  using Output = ConstBatchRef<Scalar, Out>;

  /// Every hidden layer before and after its activation. The backward pass turns `after` into the gradient
  /// there.
  template <int Tokens = Dynamic>
  struct Cache {
    struct Layer {
      Matrix<Scalar, Hidden, Tokens> before, after;
    };
    Layer first;
    std::vector<Layer> middle;
  };

  Linear<Scalar, In, Hidden> first;
  std::vector<Linear<Scalar>> middle;  ///< empty unless there are more than two layers
  Linear<Scalar, Hidden, Out> last;
  Activation activation = Activation::gelu;

  static constexpr auto parameters() {
    return std::tuple(field("first", &Mlp::first), field("middle", &Mlp::middle), field("last", &Mlp::last));
  }

  Mlp() = default;
  /// @throws std::invalid_argument if a size does not fit or there are fewer than two layers.
  Mlp(Index in, Index out, const MlpSettings& settings, Random& random) : activation(settings.activation) {
    if (settings.layers < 2) fail("ddl::Mlp", "layers", std::to_string(settings.layers), "at least 2");
    if (settings.hidden < 0)
      fail("ddl::Mlp", "hidden", std::to_string(settings.hidden),
           "at least 1, or 0 for four times the outputs");
    const Index hidden = settings.hidden > 0 ? settings.hidden : Hidden != Dynamic ? Hidden : 4 * out;
    first = {in, hidden, random};
    for (Index i = 2; i < settings.layers; ++i) middle.emplace_back(hidden, hidden, random);
    last = {hidden, out, random};
  }

  /// What a cache keeps, in scalars per sample.
  Index cache_scalars() const { return 2 * first.outputs() * (1 + static_cast<Index>(middle.size())); }

  template <int Tokens, Executor E = Serial>
  void forward(const Input& x, BatchRef<Scalar, Out> y, Cache<Tokens>& cache, const E& executor = {}) const {
    cache.middle.resize(middle.size());
    step(first, x, cache.first, executor);
    const auto* below = &cache.first;
    for (std::size_t i = 0; i < middle.size(); below = &cache.middle[i], ++i)
      step(middle[i], below->after, cache.middle[i], executor);
    last.forward(below->after, y, executor);
  }

  template <int Tokens, Executor E = Serial>
  void backward(const Input& x, Cache<Tokens>& cache, const Output& dy, BatchRef<Scalar, In> dx,
                Mlp& gradient, const E& executor = {}) const {
    auto* layer = middle.empty() ? &cache.first : &cache.middle.back();
    last.backward_parameters(layer->after, dy, gradient.last, executor);
    last.backward_input(dy, layer->after, executor);
    activate_backward(activation, layer->before, layer->after, layer->after, executor);
    for (std::size_t i = middle.size(); i-- > 0;) {
      auto* below = i == 0 ? &cache.first : &cache.middle[i - 1];
      middle[i].backward_parameters(below->after, layer->after, gradient.middle[i], executor);
      middle[i].backward_input(layer->after, below->after, executor);
      activate_backward(activation, below->before, below->after, below->after, executor);
      layer = below;
    }
    first.backward_parameters(x, layer->after, gradient.first, executor);
    first.backward_input(layer->after, dx, executor);
  }

 private:
  template <class L, class X, class Layer, class E>
  void step(const L& linear, const X& x, Layer& layer, const E& executor) const {
    layer.before.resize(linear.outputs(), x.cols());
    layer.after.resize(linear.outputs(), x.cols());
    linear.forward(x, layer.before, executor);
    activate(activation, layer.before, layer.after, executor);
  }
};

}  // namespace ddl
