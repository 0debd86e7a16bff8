// SPDX-License-Identifier: MIT
#include "ddl/residual/gate.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

template <class Gate, bool Fixed>
struct GateLayer : LayerBase<Gate, size<Fixed>(small_width), 1> {
  using Tape = typename Gate::template Tape<size<Fixed>(small_samples)>;

  static Index y_rows(Index) { return 1; }
  auto make(Index width, Random& random) const { return Gate(width, 1, {}, random); }
};

template <class Scalar, bool Fixed>
struct LinearGateLayer : GateLayer<LinearGate<Scalar, size<Fixed>(small_width)>, Fixed> {
  static constexpr bool has_pieces = false;  // too little work to share
};
template <class Scalar, bool Fixed>
struct TanhGateLayer : GateLayer<TanhGate<Scalar, size<Fixed>(small_width), Fixed ? 1 : Dynamic>, Fixed> {};

}  // namespace

TEST_CASE("the linear gate passes the suite", "[residual][gate][grad]") { check_layer<LinearGateLayer>(); }

TEST_CASE("the tanh gate passes the suite", "[residual][gate][grad]") { check_layer<TanhGateLayer>(); }

TEMPLATE_TEST_CASE("gates start at beta0 for every input", "[residual][gate]", LinearGate<double>,
                   TanhGate<double>, LinearGate<float>, TanhGate<float>) {
  const double beta0 = GENERATE(1e-6, 0.1, 1.0, 1.9, 2 - 1e-6);
  CAPTURE(beta0);
  using Scalar = typename TestType::Scalar;
  Random random(3);
  const TestType gate(9, 1, {.beta0 = beta0}, random);
  Matrix<Scalar> c(9, 4);
  Matrix<Scalar, 1> beta(1, 4);
  fill(random, c, 10);
  typename TestType::template Tape<> tape;
  gate.forward(c, beta, tape);
  CHECK(error(beta, Matrix<Scalar, 1>::Constant(1, 4, Scalar(beta0))) <= identity_tolerance<Scalar>);
}

TEMPLATE_TEST_CASE("gates stay within [0, 2] and their gradients finite for logits of any size",
                   "[residual][gate]", LinearGate<float>, TanhGate<float>) {
  Random random(3);
  TestType gate(2, 1, {}, random), gradient = zeros_like(gate);
  const float logit = GENERATE(-1e4f, -100.f, 100.f, 1e4f);
  gate.out.bias[0] = logit;
  const Matrix<float> c = Matrix<float>::Ones(2, 1);
  Matrix<float, 1> beta(1, 1), dbeta = Matrix<float, 1>::Ones(1, 1);
  Matrix<float> dc = Matrix<float>::Zero(2, 1);
  typename TestType::template Tape<> tape;
  gate.forward(c, beta, tape);
  gate.backward(c, beta, dbeta, dc, tape, gradient);
  CHECK(beta(0) == Catch::Approx(logit < 0 ? 0 : 2).margin(identity_tolerance<float>));
  CHECK(std::abs(dbeta(0)) <= identity_tolerance<float>);
  CHECK(all_finite(dc));
}

TEST_CASE("the tanh gate is w2.tanh(W1 c) + b2 with a hidden layer of a quarter of the width",
          "[residual][gate]") {
  Random random(3);
  CHECK(TanhGate<double>(9, 1, {}, random).in.outputs() == 2);
  CHECK(TanhGate<double>(3, 1, {}, random).in.outputs() == 1);
  CHECK(TanhGate<double>(3, 1, {.hidden = 5}, random).in.outputs() == 5);
  CHECK(TanhGate<double, 3, 4>(3, 1, {}, random).in.outputs() == 4);

  TanhGate<double> gate(3, 1, {.hidden = 5}, random);
  fill(random, gate.out.weight);
  Matrix<double> c(3, 4);
  Matrix<double, 1> beta(1, 4);
  fill(random, c);
  TanhGate<double>::Tape<> tape;
  gate.forward(c, beta, tape);
  const Matrix<double> hidden = (gate.in.weight * c).array().tanh();
  const Matrix<double> logit = (gate.out.weight * hidden).array() + gate.out.bias[0];
  CHECK(error(beta, (2 / (1 + (-logit.array()).exp())).matrix()) <= identity_tolerance<double>);
}

TEMPLATE_TEST_CASE("gates refuse a beta0 outside (0, 2)", "[residual][gate][errors]", LinearGate<double>,
                   TanhGate<float>) {
  Random random(3);
  const auto [beta0, text] = GENERATE(table<double, const char*>(
      {{0, "0"}, {2, "2"}, {-0.5, "-0.5"}, {3, "3"}, {not_a_number, "nan"}, {infinity, "inf"}}));
  const auto make = [&, beta = beta0] { TestType(4, 1, {.beta0 = beta}, random); };
  CHECK_THROWS_WITH(make(),
                    std::string("ddl::Gate: beta0 is ") + text + ", expected a number above 0 and below 2");
  CHECK_THROWS_AS(make(), std::invalid_argument);
}

TEST_CASE("the tanh gate refuses a hidden width below 1", "[residual][gate][errors]") {
  Random random(3);
  CHECK_THROWS_WITH(TanhGate<double>(4, 1, {.hidden = -1}, random),
                    "ddl::TanhGate: hidden is -1, expected at least 1");
  CHECK_THROWS_WITH(TanhGate<double>(4, 1, {.hidden = 0}, random),
                    "ddl::TanhGate: hidden is 0, expected at least 1");
}
