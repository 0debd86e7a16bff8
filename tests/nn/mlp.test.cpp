// SPDX-License-Identifier: MIT
#include "ddl/nn/mlp.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

template <class Scalar, bool Fixed>
struct MlpLayer
    : LayerBase<
          Mlp<Scalar, size<Fixed>(small_width), size<Fixed>(small_width + 2), size<Fixed>(small_width + 1)>,
          size<Fixed>(small_width), size<Fixed>(small_width + 1)> {
  using Tape = typename MlpLayer::Part::template Tape<size<Fixed>(small_samples)>;
  Index layers;
  Activation activation = Activation::gelu;

  static Index y_rows(Index width) { return width + 1; }
  auto make(Index width, Random& random) const {
    return typename MlpLayer::Part(width, width + 1, {width + 2, layers, activation}, random);
  }
};

}  // namespace

TEST_CASE("a perceptron of 2, 3 and 5 layers passes the suite", "[nn][mlp][grad]") {
  const Index layers = GENERATE(2, 3, 5);
  CAPTURE(layers);
  check_layer<MlpLayer>(layers);
}

TEST_CASE("a perceptron's gradients hold for every smooth activation", "[nn][mlp][grad]") {
  const Activation activation = GENERATE(Activation::silu, Activation::tanh, Activation::sigmoid);
  INFO(name_of(activation));
  check_differences(MlpLayer<double, false>{{}, 3, activation});
}

TEST_CASE("a perceptron is its layers one after the other, all but the last activated", "[nn][mlp]") {
  Random random(4);
  const Mlp<double> mlp(3, 2, {.hidden = 5, .layers = 3, .activation = Activation::tanh}, random);
  Matrix<double> x(3, 4), y(2, 4);
  fill(random, x);
  Mlp<double>::Tape<> tape;
  mlp.forward(x, y, tape);
  const Matrix<double> first = (mlp.first.weight * x).array().tanh();
  const Matrix<double> second = (mlp.middle.at(0).weight * first).array().tanh();
  CHECK(error(y, (mlp.last.weight * second).eval()) <= identity_tolerance<double>);
}

TEST_CASE("hidden layers are four times the outputs wide unless said, or as wide as is fixed", "[nn][mlp]") {
  Random random(4);
  CHECK(Mlp<double>(3, 2, {}, random).first.outputs() == 8);
  CHECK(Mlp<double>(3, 2, {.hidden = 5}, random).first.outputs() == 5);
  CHECK(Mlp<double, 3, 6>(3, 3, {}, random).first.outputs() == 6);
  CHECK(parameter_count(Mlp<double>(3, 2, {.hidden = 5, .layers = 4}, random)) == 20 + 30 + 30 + 12);
}

TEST_CASE("a perceptron has at least two layers and a hidden width that fits", "[nn][mlp][errors]") {
  Random random(4);
  using Fixed = Mlp<double, 3, 6>;
  CHECK_THROWS_WITH(Mlp<double>(3, 2, {.layers = 1}, random), "ddl::Mlp: layers is 1, expected at least 2");
  CHECK_THROWS_WITH(Mlp<double>(3, 2, {.hidden = -1}, random), "ddl::Mlp: hidden is -1, expected at least 1");
  CHECK_THROWS_WITH(Mlp<double>(3, 2, {.hidden = 0}, random), "ddl::Mlp: hidden is 0, expected at least 1");
  CHECK_THROWS_WITH(Fixed(3, 3, {.hidden = 5}, random), "ddl::Linear: out is 5, expected 6 (fixed)");
  CHECK_THROWS_AS(Mlp<double>(0, 2, {}, random), std::invalid_argument);
}
