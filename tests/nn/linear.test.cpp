// SPDX-License-Identifier: MIT
#include "ddl/nn/linear.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

template <class Scalar, bool Fixed>
struct LinearLayer : LayerBase<Linear<Scalar, size<Fixed>(small_width), size<Fixed>(small_width + 1)>,
                               size<Fixed>(small_width), size<Fixed>(small_width + 1)> {
  bool with_bias;
  bool assigns_dx;

  static Index y_rows(Index width) { return width + 1; }
  bool adds() const { return !assigns_dx; }
  auto make(Index width, Random& random) const {
    return typename LinearLayer::Part(width, width + 1, random, 1, with_bias);
  }
  void forward(const auto& part, const auto& x, auto& y, auto&, const ddl::Pass& pass) const {
    part.forward(x, y, pass);
  }
  void backward(const auto& part, const auto& x, const auto&, const auto& dy, auto& dx, auto&, auto& gradient,
                const ddl::Pass& pass) const {
    if (!assigns_dx) return part.backward(x, dy, dx, gradient, pass);
    part.backward_parameters(x, dy, gradient, pass);
    part.input_gradient(dy, dx, pass);
  }
};

}  // namespace

TEST_CASE("a linear layer passes the suite", "[nn][linear][grad]") {
  const bool with_bias = GENERATE(true, false), assigns_dx = GENERATE(false, true);
  CAPTURE(with_bias, assigns_dx);
  check_layer<LinearLayer>(with_bias, assigns_dx);
}

TEST_CASE("a linear layer is W x + b, from zero biases and weights of deviation gain / sqrt(in)",
          "[nn][linear]") {
  Random random(1);
  Linear<double> linear(400, 100, random, 3);
  CHECK(linear.inputs() == 400);
  CHECK(linear.outputs() == 100);
  CHECK(linear.bias.isZero(0));
  const double deviation = std::sqrt(linear.weight.squaredNorm() / static_cast<double>(linear.weight.size()));
  CHECK(deviation == Catch::Approx(3.0 / 20).epsilon(0.02));

  linear.bias.setLinSpaced(-1, 1);
  Matrix<double> x(400, 5), y(100, 5);
  fill(random, x);
  linear.forward(x, y);
  CHECK(relative_error(y, ((linear.weight * x).colwise() + linear.bias).eval()) <=
        identity_tolerance<double>);
}

TEST_CASE("the walk names a linear layer's weight and bias, and knows which is a vector", "[nn][linear]") {
  Random random(1);
  const Linear<float> with(3, 2, random), without(3, 2, random, 1, false);
  CHECK(parameter_count(with) == 8);
  CHECK(parameter_count(without) == 6);
  std::string names;
  for_each_parameter([&](const ParameterPath& path,
                         const auto&) { names += path.str() + (path.is_vector() ? " vector;" : ";"); },
                     with);
  CHECK(names == "weight;bias vector;");
}

TEST_CASE("a linear layer maps an empty batch to an empty batch", "[nn][linear]") {
  Random random(1);
  const Linear<double> linear(3, 2, random);
  Linear<double> gradient = zeros_like(linear);
  const Matrix<double> x(3, 0), dy(2, 0);
  Matrix<double> y(2, 0), dx(3, 0);
  linear.forward(x, y);
  linear.backward_parameters(x, dy, gradient);
  linear.input_gradient(dy, dx);
  linear.backward(x, dy, dx, gradient);
  CHECK(gradient.weight.isZero(0));
  CHECK(gradient.bias.isZero(0));
}

TEST_CASE("a linear layer's sizes are at least 1 and agree with the fixed ones", "[nn][linear][errors]") {
  Random random(1);
  using Fixed = Linear<double, 3, 2>;
  CHECK_THROWS_WITH(Linear<double>(0, 2, random), "ddl::Linear: in is 0, expected at least 1");
  CHECK_THROWS_WITH(Linear<double>(2, -1, random), "ddl::Linear: out is -1, expected at least 1");
  CHECK_THROWS_WITH(Fixed(4, 2, random), "ddl::Linear: in is 4, expected 3 (fixed)");
  CHECK_THROWS_WITH(Fixed(3, 1, random), "ddl::Linear: out is 1, expected 2 (fixed)");
  CHECK_THROWS_AS(Fixed(3, 1, random), std::invalid_argument);
}

TEST_CASE("a linear layer refuses a batch of another width by name", "[nn][linear][errors]") {
  Random random(1);
  const Linear<double> linear(3, 2, random);
  auto gradient = zeros_like(linear);
  Matrix<double> x(3, 5), y(2, 5), tall(4, 5), longer(2, 6);
  CHECK_THROWS_WITH(linear.forward(tall, y), "ddl::Linear::forward: x is 4 x 5, expected 3 x 5");
  CHECK_THROWS_WITH(linear.forward(x, longer), "ddl::Linear::forward: y is 2 x 6, expected 2 x 5");
  CHECK_THROWS_WITH(linear.backward_parameters(x, longer, gradient),
                    "ddl::Linear::backward: x is 3 x 5, expected 3 x 6");
  CHECK_THROWS_WITH(linear.backward_parameters(x, tall, gradient),
                    "ddl::Linear::backward: dy is 4 x 5, expected 2 x 5");
  CHECK(gradient.weight.isZero(0));
}
