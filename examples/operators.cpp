// SPDX-License-Identifier: MIT
/// @file  Operators, products, their gradients, and the scan over time, each compared with its definition.
/// docs/operators.md explains it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include <ddl/ddl.hpp>

namespace {

using Eigen::MatrixXd, Eigen::VectorXd;

bool right = true;

void report(const char* what, double error) {
  std::printf("%-58s %.1e\n", what, error);
  right = right && error <= 1e-8;
}

void operators() {
  const VectorXd k = VectorXd::Random(5), v = VectorXd::Random(3);
  const MatrixXd X = MatrixXd::Random(5, 3), M = X.transpose();
  const ddl::DeltaOperator A(k, 1.5), B(VectorXd::Random(5).eval(), 0.5);
  const VectorXd u = k.normalized();
  report("A X = X - beta u u^T X", (MatrixXd(A * X) - (X - 1.5 * u * u.transpose() * X)).norm());

  const MatrixXd left = (A.transpose() * M.transpose()).transpose();
  report("M A = (A^T M^T)^T", (left - M * A.dense()).norm());

  ddl::DeltaProduct<double> P(5);
  P.push(A);
  P.push(B);
  report("push(A), push(B): P = B A", (P.dense() - B.dense() * A.dense()).norm());
  ddl::DeltaProduct<double> W(5);
  W.push(A, v);
  report("push(A, v): A X + beta u v^T",
         (MatrixXd(W * X) - (A.dense() * X + 1.5 * u * v.transpose())).norm());
}

/// Y = H_n .. H_1 X with reflections H_i, an orthogonal layer. The loss is sum(G * Y).
void orthogonal_layer() {
  constexpr int d = 5, n = 3;
  MatrixXd K = MatrixXd::Random(d, n);
  const MatrixXd X = MatrixXd::Random(d, 4), G = MatrixXd::Random(d, 4);
  const auto product = [&] {
    ddl::DeltaProduct<double> P(d);
    for (int i = 0; i < n; ++i) P.push(ddl::DeltaOperator(K.col(i), 2.0));
    return P;
  };
  const auto P = product();
  ddl::DeltaProduct<double>::Tape tape;
  ddl::DeltaProduct<double>::Gradient gradient;
  MatrixXd Y(d, 4), dX = G;
  P.apply(X, Y, tape);
  P.backward(X, tape, dX, gradient);  // dX: dL/dY becomes dL/dX
  MatrixXd dK(d, n);
  for (int i = 0; i < n; ++i) {
    const VectorXd u = K.col(i).normalized(), du = gradient.directions.col(i);
    dK.col(i) = (du - u * u.dot(du)) / K.col(i).norm();
  }
  const auto loss = [&] { return (product() * X).cwiseProduct(G).sum(); };
  double error = 0;
  for (double& entry : K.reshaped()) {
    const double before = entry, step = 1e-5;
    entry = before + step;
    const double above = loss();
    entry = before - step;
    const double below = loss();
    entry = before;
    error = std::max(error, std::abs((above - below) / (2 * step) - dK.data()[&entry - K.data()]));
  }
  report("dL/dK of an orthogonal layer, central differences", error);
  report("the length of its columns", (Y.colwise().norm() - X.colwise().norm()).norm());
}

/// The delta rule over time on two sequences of 4 and 3 tokens, with 3 heads.
void scan() {
  constexpr int heads = 3, d = 4, m = 2, tokens = 7, sequences = 2;
  const std::array<ddl::Index, 3> offsets{0, 4, tokens};
  ddl::DeltaScanInputs<double> inputs{.query = MatrixXd::Random(heads * d, tokens),
                                      .key = MatrixXd::Random(heads * d, tokens),
                                      .value = MatrixXd::Random(heads * m, tokens),
                                      .beta = MatrixXd::Constant(heads, tokens, 0.7),
                                      .log_decay = {}};
  for (auto key : inputs.key.reshaped(d, heads * tokens).colwise()) key.normalize();
  MatrixXd state = MatrixXd::Zero(m, sequences * heads * d), output(heads * m, tokens);
  ddl::DeltaScanTape<double> tape;
  ddl::delta_scan_forward({.key_heads = heads, .output_scale = 1}, offsets, inputs, state, output, tape);

  MatrixXd expected(heads * m, tokens);
  for (std::size_t s = 0; s < sequences; ++s)
    for (int h = 0; h < heads; ++h) {
      MatrixXd X = MatrixXd::Zero(d, m);
      for (ddl::Index t = offsets[s]; t < offsets[s + 1]; ++t) {
        const VectorXd k = inputs.key.col(t).segment(h * d, d), v = inputs.value.col(t).segment(h * m, m);
        X += inputs.beta(h, t) * k * (v - X.transpose() * k).transpose();
        expected.col(t).segment(h * m, m) = X.transpose() * inputs.query.col(t).segment(h * d, d);
      }
    }
  report("delta_scan_forward and a loop", (output - expected).norm());
}

}  // namespace

int main() {
  operators();
  orthogonal_layer();
  scan();
  return right ? 0 : 1;
}
