// SPDX-License-Identifier: MIT
/// @file  SwiGLU: the gated perceptron of a Transformer's block.
/// @source Shazeer, GLU Variants Improve Transformer, 2020.
#pragma once

#include <optional>
#include <tuple>

#include "ddl/nn/activation.hpp"
#include "ddl/nn/linear.hpp"
#include "ddl/nn/part.hpp"

namespace ddl {

/// Settings of a SwiGlu.
struct SwiGluSettings {
  std::optional<Index> hidden = {};  ///< 8/3 of the inputs, rounded down, by default
};

/// The gated perceptron y = W_p (silu(W_1 x) * W_2 x).   x: in x N, y: out x N, hidden h x N.
template <class Scalar_, int In = Dynamic, int Hidden = Dynamic, int Out = In>
struct SwiGlu {
  using Scalar = Scalar_;
  using Settings = SwiGluSettings;
  using Input = ConstBatchRef<Scalar, In>;
  using Output = ConstBatchRef<Scalar, Out>;

  static constexpr PartKind kind = PartKind::sublayer;

  /// What backward needs of forward. It overwrites all three with their gradients.
  template <int Tokens = Dynamic>
  struct Tape {
    Matrix<Scalar, Hidden, Tokens> gate, linear;  ///< W_1 x and W_2 x
    Matrix<Scalar, Hidden, Tokens> hidden;        ///< what W_p reads
  };

  Linear<Scalar, In, Hidden> c_fc1, c_fc2;  ///< W_1 and W_2
  Linear<Scalar, Hidden, Out> c_proj;       ///< W_p

  static constexpr auto parameters() {
    return std::tuple(parameter("c_fc1", &SwiGlu::c_fc1), parameter("c_fc2", &SwiGlu::c_fc2),
                      parameter("c_proj", &SwiGlu::c_proj));
  }

  SwiGlu() = default;
  /// @throws std::invalid_argument if a size does not fit.
  SwiGlu(Index in, Index out, const SwiGluSettings& settings, Random& random) {
    const Index hidden = settings.hidden.value_or(Hidden != Dynamic ? Hidden : 8 * in / 3);
    check_positive("ddl::SwiGlu", "hidden", hidden);
    c_fc1 = {in, hidden, random, 1, false};
    c_fc2 = {in, hidden, random, 1, false};
    c_proj = {hidden, out, random, 1, false};
  }

  /// Multiplies the output by a factor, as models do that scale their initial weights by depth.
  void scale_output(Scalar factor) { c_proj.weight *= factor; }

  /// y from x.
  /// @throws std::invalid_argument if a shape does not fit.
  template <int Tokens>
  void forward(const Input& x, BatchRef<Scalar, Out> y, Tape<Tokens>& tape, const Pass& pass = {}) const {
    const Index hidden = c_fc1.outputs(), N = x.cols();
    tape.gate.resize(hidden, N);
    tape.linear.resize(hidden, N);
    tape.hidden.resize(hidden, N);
    c_fc1.forward(x, tape.gate, pass);
    c_fc2.forward(x, tape.linear, pass);
    const detail::View<const Scalar> gate(tape.gate), linear(tape.linear);
    const detail::View<Scalar> to(tape.hidden);
    detail::for_packs<Scalar>(pass.executor, hidden, N, [=]<class Lane>(Index n, Index i) {
      const auto g = Lane::load(gate.at(i, n)), silu = Lane::multiply(g, detail::lane_logistic<Lane>(g));
      Lane::store(to.at(i, n), Lane::multiply(silu, Lane::load(linear.at(i, n))));
    });
    c_proj.forward(tape.hidden, y, pass);
  }

  /// With g = W_1 x, u = W_2 x, s = sigmoid(g) and dh = W_p^T dy:
  ///
  ///     du = dh g s,   dg = dh u s (1 + g (1 - s)),   dx += W_1^T dg + W_2^T du
  template <int Tokens>
  void backward(const Input& x, const Output&, const Output& dy, BatchRef<Scalar, In> dx, Tape<Tokens>& tape,
                SwiGlu& gradient, const Pass& pass = {}) const {
    c_proj.backward_parameters(tape.hidden, dy, gradient.c_proj, pass);
    c_proj.input_gradient(dy, tape.hidden, pass);
    const detail::View<Scalar> gate(tape.gate), linear(tape.linear), dhidden(tape.hidden);
    detail::for_packs<Scalar>(pass.executor, c_fc1.outputs(), x.cols(), [=]<class Lane>(Index n, Index i) {
      const auto g = Lane::load(gate.at(i, n)), s = detail::lane_logistic<Lane>(g);
      const auto dhs = Lane::multiply(Lane::load(dhidden.at(i, n)), s);
      const auto dg = Lane::add(Lane::subtract_product(g, g, s), Lane::broadcast(1));
      Lane::store(gate.at(i, n), Lane::multiply(Lane::multiply(dhs, Lane::load(linear.at(i, n))), dg));
      Lane::store(linear.at(i, n), Lane::multiply(dhs, g));
    });
    c_fc1.backward(x, tape.gate, dx, gradient.c_fc1, pass);
    c_fc2.backward(x, tape.linear, dx, gradient.c_fc2, pass);
  }
};

}  // namespace ddl
