// SPDX-License-Identifier: MIT
/// @file  Gates: beta = 2 sigmoid(logit) in (0, 2), from the context c.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the gate; linear in the authors' code, two
/// layers in the paper.
#pragma once

#include <cmath>
#include <optional>
#include <tuple>

#include "ddl/nn/activation.hpp"
#include "ddl/nn/linear.hpp"
#include "ddl/nn/part.hpp"

namespace ddl {

/// Computes beta from the context c.
template <class P, int Rows = Dynamic>
concept GatePart = MapPart<P, PartKind::gate, Rows, 1>;

namespace detail {

/// logit(beta0 / 2), the bias at which a gate starts. @throws std::invalid_argument outside (0, 2).
template <class Scalar>
Scalar gate_bias(double beta0) {
  check_range("ddl::Gate", "beta0", beta0, beta0 > 0 && beta0 < 2, "a number above 0 and below 2");
  return static_cast<Scalar>(std::log(beta0 / (2 - beta0)));
}

/// beta = 2 sigmoid(logit), in place.
template <class Beta>
void two_sigmoid(Eigen::MatrixBase<Beta>& beta) {
  using Scalar = typename Beta::Scalar;
  for (Index n = 0; n < beta.size(); ++n) beta.coeffRef(n) = Scalar(2) * sigmoid(beta.coeff(n));
}
/// dL/dlogit = dL/dbeta beta (1 - beta / 2), in place of dL/dbeta.
template <class Beta, class Grad>
void two_sigmoid_backward(const Eigen::MatrixBase<Beta>& beta, Eigen::MatrixBase<Grad>& dbeta) {
  using Scalar = typename Beta::Scalar;
  dbeta.array() *= beta.array() * (Scalar(1) - beta.array() * Scalar(0.5));
}

}  // namespace detail

/// Settings of a LinearGate.
struct LinearGateSettings {
  double beta0 = 1;  ///< initial beta, in (0, 2)
};

/// The gate beta = 2 sigmoid(w.c + b).
template <class Scalar_, int Rows = Dynamic>
struct LinearGate {
  using Scalar = Scalar_;
  using Settings = LinearGateSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  using Output = ConstBatchRef<Scalar, 1>;
  static constexpr PartKind kind = PartKind::gate;
  /// Backward needs beta alone.
  template <int Tokens = Dynamic>
  struct Tape {};

  Linear<Scalar, Rows, 1> out;  ///< w and b

  static constexpr auto parameters() { return std::tuple(parameter("out", &LinearGate::out)); }

  LinearGate() = default;
  /// Starts at beta0 for every input: zero weights.
  LinearGate(Index in, Index outputs, const Settings& settings, Random& random)
      : out(in, outputs, random, 0) {
    out.bias[0] = detail::gate_bias<Scalar>(settings.beta0);
  }

  /// Beta = 2 sigmoid(logit).
  template <int Tokens>
  void forward(const Input& c, BatchRef<Scalar, 1> beta, Tape<Tokens>&, const Pass& pass = {}) const {
    out.forward(c, beta, pass);
    detail::two_sigmoid(beta);
  }
  /// dbeta is overwritten with dL/dlogit.
  template <int Tokens>
  void backward(const Input& c, const Output& beta, BatchRef<Scalar, 1> dbeta, BatchRef<Scalar, Rows> dc,
                Tape<Tokens>&, LinearGate& gradient, const Pass& pass = {}) const {
    detail::two_sigmoid_backward(beta, dbeta);
    out.backward(c, dbeta, dc, gradient.out, pass);
  }
};

/// Settings of a TanhGate.
struct TanhGateSettings {
  double beta0 = 1;                  ///< initial beta, in (0, 2)
  std::optional<Index> hidden = {};  ///< a quarter of the width, at least 1, by default
};

/// The gate beta = 2 sigmoid(w2.tanh(W1 c) + b2).
template <class Scalar_, int Rows = Dynamic, int Hidden = Dynamic>
struct TanhGate {
  using Scalar = Scalar_;
  using Settings = TanhGateSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  using Output = ConstBatchRef<Scalar, 1>;
  static constexpr PartKind kind = PartKind::gate;
  /// What backward needs of forward.
  template <int Tokens = Dynamic>
  struct Tape {
    Matrix<Scalar, Hidden, Tokens> hidden;  ///< tanh(W1 c)
  };

  Linear<Scalar, Rows, Hidden> in;  ///< without bias, as in the authors' models
  Linear<Scalar, Hidden, 1> out;    ///< w2 and b2

  static constexpr auto parameters() {
    return std::tuple(parameter("in", &TanhGate::in), parameter("out", &TanhGate::out));
  }

  TanhGate() = default;
  /// Starts at beta0 for every input: w2 is zero. @throws std::invalid_argument if a setting is out of range.
  TanhGate(Index inputs, Index outputs, const Settings& settings, Random& random) {
    const Index hidden =
        settings.hidden.value_or(Hidden != Dynamic ? Hidden : (std::max)(Index(1), inputs / 4));
    check_positive("ddl::TanhGate", "hidden", hidden);
    in = {inputs, hidden, random, 1, false};
    out = {hidden, outputs, random, 0};
    out.bias[0] = detail::gate_bias<Scalar>(settings.beta0);
  }

  /// Beta = 2 sigmoid(logit).
  template <int Tokens>
  void forward(const Input& c, BatchRef<Scalar, 1> beta, Tape<Tokens>& tape, const Pass& pass = {}) const {
    tape.hidden.resize(in.outputs(), c.cols());
    in.forward(c, tape.hidden, pass);
    activate(Activation::tanh, tape.hidden, tape.hidden, pass.executor);
    out.forward(tape.hidden, beta, pass);
    detail::two_sigmoid(beta);
  }
  /// dbeta is overwritten with dL/dlogit.
  template <int Tokens>
  void backward(const Input& c, const Output& beta, BatchRef<Scalar, 1> dbeta, BatchRef<Scalar, Rows> dc,
                Tape<Tokens>& tape, TanhGate& gradient, const Pass& pass = {}) const {
    detail::two_sigmoid_backward(beta, dbeta);
    out.backward_parameters(tape.hidden, dbeta, gradient.out, pass);
    for_ranges(pass.executor, c.cols(), columns_per_piece(in.outputs()), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n)
        tape.hidden.col(n).array() =
            dbeta(n) * out.weight.transpose().array() * (Scalar(1) - tape.hidden.col(n).array().square());
    });
    in.backward(c, tape.hidden, dc, gradient.in, pass);
  }
};

}  // namespace ddl
