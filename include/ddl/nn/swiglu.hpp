// SPDX-License-Identifier: MIT
/// @file  SwiGLU: the gated perceptron of a Transformer's block.
/// @source Shazeer, GLU Variants Improve Transformer, 2020.
#pragma once

#include <tuple>

#include "ddl/nn/activation.hpp"
#include "ddl/nn/linear.hpp"

namespace ddl {

struct SwiGluSettings {
  Index hidden = 0;  ///< 0: 8/3 of the inputs, rounded down
};

/// y = W_p (silu(W_1 x) * W_2 x).   x: in x N, y: out x N, hidden h x N.
template <class Scalar_, int In = Dynamic, int Hidden = Dynamic, int Out = In>
struct SwiGlu {
  using Scalar = Scalar_;
  using Settings = SwiGluSettings;
  using Input = ConstBatchRef<Scalar, In>;
  using Output = ConstBatchRef<Scalar, Out>;

  /// The backward pass turns all three into their gradients.
  template <int Tokens = Dynamic>
  struct Cache {
    Matrix<Scalar, Hidden, Tokens> gate, linear;  ///< W_1 x and W_2 x
    Matrix<Scalar, Hidden, Tokens> hidden;
  };

  Linear<Scalar, In, Hidden> c_fc1, c_fc2;
  Linear<Scalar, Hidden, Out> c_proj;

  static constexpr auto parameters() {
    return std::tuple(field("c_fc1", &SwiGlu::c_fc1), field("c_fc2", &SwiGlu::c_fc2),
                      field("c_proj", &SwiGlu::c_proj));
  }

  SwiGlu() = default;
  /// @throws std::invalid_argument if a size does not fit.
  SwiGlu(Index in, Index out, const SwiGluSettings& settings, Random& random) {
    if (settings.hidden < 0)
      fail("ddl::SwiGlu", "hidden", std::to_string(settings.hidden),
           "at least 1, or 0 for 8/3 of the inputs");
    const Index hidden = settings.hidden > 0 ? settings.hidden : Hidden != Dynamic ? Hidden : 8 * in / 3;
    c_fc1 = {in, hidden, random, 1, false};
    c_fc2 = {in, hidden, random, 1, false};
    c_proj = {hidden, out, random, 1, false};
  }

  /// What a cache keeps, in scalars per sample.
  Index cache_scalars() const { return 3 * c_fc1.outputs(); }

  template <int Tokens, Executor E = Serial>
  void forward(const Input& x, BatchRef<Scalar, Out> y, Cache<Tokens>& cache, const E& executor = {}) const {
    const Index hidden = c_fc1.outputs(), N = x.cols();
    cache.gate.resize(hidden, N);
    cache.linear.resize(hidden, N);
    cache.hidden.resize(hidden, N);
    c_fc1.forward(x, cache.gate, executor);
    c_fc2.forward(x, cache.linear, executor);
    detail::for_blocks(executor, hidden, N, [&](Index n, Index i, Index rows) {
      const detail::Block<Scalar> g = column(cache.gate, n, i, rows);
      column(cache.hidden, n, i, rows) = g * detail::logistic(g) * column(cache.linear, n, i, rows);
    });
    c_proj.forward(cache.hidden, y, executor);
  }

  /// With g = W_1 x, u = W_2 x, s = sigmoid(g) and dh = W_p^T dy:
  ///
  ///     du = dh g s,   dg = dh u s (1 + g (1 - s)),   dx = W_1^T dg + W_2^T du
  template <int Tokens, Executor E = Serial>
  void backward(const Input& x, Cache<Tokens>& cache, const Output& dy, BatchRef<Scalar, In> dx,
                SwiGlu& gradient, const E& executor = {}) const {
    c_proj.backward_parameters(cache.hidden, dy, gradient.c_proj, executor);
    c_proj.backward_input(dy, cache.hidden, executor);
    detail::for_blocks(executor, c_fc1.outputs(), x.cols(), [&](Index n, Index i, Index rows) {
      const detail::Block<Scalar> g = column(cache.gate, n, i, rows), s = detail::logistic(g);
      const detail::Block<Scalar> dhs = column(cache.hidden, n, i, rows) * s;
      column(cache.gate, n, i, rows) = dhs * column(cache.linear, n, i, rows) * (g - g * s + Scalar(1));
      column(cache.linear, n, i, rows) = dhs * g;
    });
    c_fc1.backward_parameters(x, cache.gate, gradient.c_fc1, executor);
    c_fc2.backward_parameters(x, cache.linear, gradient.c_fc2, executor);
    c_fc1.backward_input(cache.gate, dx, executor);
    c_fc2.add_backward_input(cache.linear, dx, executor);
  }
};

}  // namespace ddl
