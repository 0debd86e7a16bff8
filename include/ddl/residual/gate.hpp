// SPDX-License-Identifier: MIT
/// @file  Gates: beta = 2 sigmoid(logit) in (0, 2), from the context c.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the gate; linear in the authors' code, two layers
/// in the paper.
#pragma once

#include <cmath>
#include <tuple>

#include "ddl/nn/activation.hpp"
#include "ddl/nn/linear.hpp"

namespace ddl {

namespace detail {

/// logit(beta0 / 2), the bias at which a gate starts. @throws std::invalid_argument outside (0, 2).
template <class Scalar>
Scalar gate_bias(double beta0) {
  check_range("ddl::Gate", "beta0", beta0, beta0 > 0 && beta0 < 2, "a number above 0 and below 2");
  return static_cast<Scalar>(std::log(beta0 / (2 - beta0)));
}

/// In place of logits: beta = 2 sigmoid(logit).
template <class Beta>
void open_gate(Eigen::MatrixBase<Beta>& beta) {
  using Scalar = typename Beta::Scalar;
  for (Index n = 0; n < beta.size(); ++n) beta.coeffRef(n) = Scalar(2) * sigmoid(beta.coeff(n));
}
/// In place of dL/dbeta: dL/dlogit = dL/dbeta beta (1 - beta / 2).
template <class Beta, class Slope>
void close_gate(const Eigen::MatrixBase<Beta>& beta, Eigen::MatrixBase<Slope>& slope) {
  using Scalar = typename Beta::Scalar;
  slope.array() *= beta.array() * (Scalar(1) - beta.array() * Scalar(0.5));
}

}  // namespace detail

struct LinearGateSettings {
  double beta0 = 1;  ///< where every gate starts
};

/// logit = w.c + b.
template <class Scalar_, int Rows = Dynamic>
struct LinearGate {
  using Scalar = Scalar_;
  using Settings = LinearGateSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  template <int Tokens = Dynamic>
  struct Cache {};

  Linear<Scalar, Rows, 1> out;

  static constexpr auto parameters() { return std::tuple(field("out", &LinearGate::out)); }

  LinearGate() = default;
  /// Starts at beta0 for every input: zero weights.
  LinearGate(const Settings& settings, Index width, Random& random) : out(width, 1, random, 0) {
    out.bias[0] = detail::gate_bias<Scalar>(settings.beta0);
  }

  /// What a cache keeps, in scalars per sample.
  Index cache_scalars() const { return 0; }

  template <int Tokens, Executor E = Serial>
  void forward(const Input& c, BatchRef<Scalar, 1> beta, Cache<Tokens>&, const E& executor = {}) const {
    out.forward(c, beta, executor);
    detail::open_gate(beta);
  }
  /// dc += the gate's share; `slope` holds dL/dbeta on entry and dL/dlogit on return.
  template <int Tokens, Executor E = Serial>
  void backward(const Input& c, const ConstBatchRef<Scalar, 1>& beta, Cache<Tokens>&,
                BatchRef<Scalar, 1> slope, BatchRef<Scalar, Rows> dc, LinearGate& gradient,
                const E& executor = {}) const {
    detail::close_gate(beta, slope);
    out.backward_parameters(c, slope, gradient.out, executor);
    out.add_backward_input(slope, dc, executor);
  }
};

struct TanhGateSettings {
  double beta0 = 1;
  Index hidden = 0;  ///< 0: a quarter of the width, at least 1
};

/// logit = w2.tanh(W1 c) + b2.
template <class Scalar_, int Rows = Dynamic, int Hidden = Dynamic>
struct TanhGate {
  using Scalar = Scalar_;
  using Settings = TanhGateSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  template <int Tokens = Dynamic>
  struct Cache {
    Matrix<Scalar, Hidden, Tokens> hidden;  ///< after tanh
  };

  Linear<Scalar, Rows, Hidden> in;  ///< without bias, as in the authors' models
  Linear<Scalar, Hidden, 1> out;

  static constexpr auto parameters() {
    return std::tuple(field("in", &TanhGate::in), field("out", &TanhGate::out));
  }

  TanhGate() = default;
  TanhGate(const Settings& settings, Index width, Random& random) {
    if (settings.hidden < 0)
      fail("ddl::TanhGate", "hidden", std::to_string(settings.hidden),
           "at least 1, or 0 for a quarter of the width");
    const Index hidden = settings.hidden > 0 ? settings.hidden
                         : Hidden != Dynamic ? Hidden
                                             : (std::max)(Index(1), width / 4);
    in = {width, hidden, random, 1, false};
    out = {hidden, 1, random, 0};
    out.bias[0] = detail::gate_bias<Scalar>(settings.beta0);
  }

  /// What a cache keeps, in scalars per sample.
  Index cache_scalars() const { return in.outputs(); }

  template <int Tokens, Executor E = Serial>
  void forward(const Input& c, BatchRef<Scalar, 1> beta, Cache<Tokens>& cache, const E& executor = {}) const {
    cache.hidden.resize(in.outputs(), c.cols());
    in.forward(c, cache.hidden, executor);
    activate(Activation::tanh, cache.hidden, cache.hidden, executor);
    out.forward(cache.hidden, beta, executor);
    detail::open_gate(beta);
  }
  template <int Tokens, Executor E = Serial>
  void backward(const Input& c, const ConstBatchRef<Scalar, 1>& beta, Cache<Tokens>& cache,
                BatchRef<Scalar, 1> slope, BatchRef<Scalar, Rows> dc, TanhGate& gradient,
                const E& executor = {}) const {
    detail::close_gate(beta, slope);
    out.backward_parameters(cache.hidden, slope, gradient.out, executor);
    for_ranges(executor, c.cols(), columns_per_piece(in.outputs()), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n)
        cache.hidden.col(n).array() =
            slope(n) * out.weight.transpose().array() * (Scalar(1) - cache.hidden.col(n).array().square());
    });
    in.backward_parameters(c, cache.hidden, gradient.in, executor);
    in.add_backward_input(cache.hidden, dc, executor);
  }
};

}  // namespace ddl
