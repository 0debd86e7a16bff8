// SPDX-License-Identifier: MIT
#include "ddl/train/optimizer.hpp"

#include "ddl/nn/linear.hpp"
#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

template <class Scalar = double>
Linear<Scalar> random_model(std::uint64_t seed, Index in = 3, Index out = 2) {
  Random random(seed);
  Linear<Scalar> model(in, out, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p); }, model);
  return model;
}

bool same_bits(const auto& a, const auto& b) { return a.weight == b.weight && a.bias == b.bias; }

/// AdamW on one number, as PyTorch's single-tensor loop writes it.
struct ScalarAdamW {
  double p, m = 0, v = 0;
  int t = 0;

  void step(double g, const AdamWSettings& s, double decay) {
    ++t;
    p *= 1 - s.learning_rate * decay;
    m += (g - m) * (1 - s.beta1);
    v = v * s.beta2 + (1 - s.beta2) * g * g;
    const double step_size = s.learning_rate / (1 - std::pow(s.beta1, t));
    const double denominator = std::sqrt(v) / std::sqrt(1 - std::pow(s.beta2, t)) + s.eps;
    p -= step_size * m / denominator;
  }
};

}  // namespace

TEST_CASE("two steps of SGD with momentum are their closed form", "[train][optimizer]") {
  const auto start = random_model(1), g1 = random_model(2), g2 = random_model(3);
  auto model = start;
  Sgd optimizer(model, {.learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.5});
  optimizer.step(model, g1);
  optimizer.step(model, g2);
  const auto expected = [](const auto& p, const auto& a, const auto& b, double kept) {
    return (kept * (kept * p - 0.1 * a) - 0.1 * (0.9 * a + b)).eval();
  };
  const double tolerance = identity_tolerance<double>;
  CHECK(error(model.weight, expected(start.weight, g1.weight, g2.weight, 1 - 0.1 * 0.5)) <= tolerance);
  CHECK(error(model.bias, expected(start.bias, g1.bias, g2.bias, 1)) <= tolerance);
}

TEST_CASE("ten steps of AdamW are PyTorch's, number by number", "[train][optimizer]") {
  auto model = random_model(1);
  AdamW optimizer(model,
                  {.learning_rate = 0.03, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-3, .weight_decay = 0.2});
  Matrix<ScalarAdamW> weight = model.weight.unaryExpr([](double p) { return ScalarAdamW{p}; });
  Matrix<ScalarAdamW> bias = model.bias.unaryExpr([](double p) { return ScalarAdamW{p}; });
  for (std::uint64_t step = 0; step < 10; ++step) {
    const auto gradient = random_model(100 + step);
    optimizer.settings.learning_rate *= 0.9;  // as a schedule would
    optimizer.step(model, gradient);
    for (Index i = 0; i < weight.size(); ++i) weight(i).step(gradient.weight(i), optimizer.settings, 0.2);
    for (Index i = 0; i < bias.size(); ++i) bias(i).step(gradient.bias(i), optimizer.settings, 0);
  }
  const auto value = [](const ScalarAdamW& x) { return x.p; };
  CHECK(optimizer.steps == 10);
  CHECK(error(model.weight, weight.unaryExpr(value)) <= identity_tolerance<double>);
  CHECK(error(model.bias, bias.unaryExpr(value)) <= identity_tolerance<double>);
}

TEST_CASE("decay shrinks matrices and leaves vectors alone", "[train][optimizer]") {
  const auto start = random_model(1), none = zeros_like(start);
  auto by_sgd = start, by_adamw = start;
  Sgd(start, {.learning_rate = 0.5, .weight_decay = 0.5}).step(by_sgd, none);
  AdamW(start, {.learning_rate = 0.5, .weight_decay = 0.5}).step(by_adamw, none);
  for (const auto& model : {by_sgd, by_adamw}) {
    CHECK(model.weight == 0.75 * start.weight);
    CHECK(model.bias == start.bias);
  }
}

TEST_CASE("a gradient above the norm is scaled to it and one below is left alone", "[train][optimizer]") {
  auto gradient = random_model(1);
  gradient.weight << 3, 0, 0, 0, 4, 0;
  gradient.bias << 0, 12;
  const auto before = gradient;
  CHECK(global_norm(gradient) == 13);
  CHECK(clip_global_norm(gradient, 13.5) == 13);
  CHECK(same_bits(gradient, before));
  CHECK(clip_global_norm(gradient, 6.5) == 13);
  const double scale = 6.5 / (13 + 1e-6);
  CHECK(error(gradient.weight, (scale * before.weight).eval()) <= identity_tolerance<double>);
  CHECK(error(gradient.bias, (scale * before.bias).eval()) <= identity_tolerance<double>);
}

TEST_CASE("the norm is summed in double, so that squares of floats do not overflow", "[train][optimizer]") {
  auto gradient = random_model<float>(1);
  gradient.weight.setConstant(1e30f);
  gradient.bias.setZero();
  CHECK(clip_global_norm(gradient, 1) ==
        Catch::Approx(std::sqrt(6.0) * 1e30).epsilon(identity_tolerance<float>));
  CHECK(global_norm(gradient) == Catch::Approx(1).epsilon(float_tolerance));
}

TEST_CASE("clipping reports a norm that is not finite and leaves the gradient alone", "[train][optimizer]") {
  const auto before = random_model(1);
  for (const double bad : {not_a_number, infinity}) {
    auto gradient = before;
    gradient.bias[1] = bad;
    CHECK_FALSE(is_finite(clip_global_norm(gradient, 1e-3)));
    CHECK(gradient.weight == before.weight);
  }
}

TEST_CASE("one gradient whose square overflows does not stop a parameter for ever", "[train][optimizer]") {
  const float huge = GENERATE(1e20f, -1e20f, 3e38f);
  auto model = random_model<float>(1);
  const auto before = model;
  AdamW optimizer(model, {.beta2 = 0.9, .weight_decay = 0});
  auto gradient = zeros_like(model);
  gradient.weight.setConstant(huge);
  gradient.bias.setConstant(huge);
  optimizer.step(model, gradient);
  // The first step of AdamW is the rate in the direction of the gradient's sign.
  CHECK(error(model.weight, (before.weight.array() - std::copysign(1e-3f, huge)).matrix().eval()) <=
        float_tolerance);
  CHECK(all_parameters_finite(optimizer.second_moment));
  gradient.weight.setConstant(1);
  gradient.bias.setConstant(1);
  for (int step = 0; step < 1000; ++step) optimizer.step(model, gradient);
  const auto late = model;
  optimizer.step(model, gradient);
  CHECK(error((1e3f * (late.weight - model.weight)).eval(), Matrix<float>::Ones(2, 3)) <= 1e-3);
  CHECK(error((1e3f * (late.bias - model.bias)).eval(), Vector<float>::Ones(2)) <= 1e-3);
}

TEST_CASE("a gradient that is not finite is not hidden by an optimizer", "[train][optimizer]") {
  for (const double bad : {not_a_number, infinity, -infinity}) {
    auto by_sgd = random_model(1), by_adamw = by_sgd, gradient = by_sgd;
    gradient.weight(1, 2) = bad;
    Sgd(by_sgd).step(by_sgd, gradient);
    AdamW(by_adamw).step(by_adamw, gradient);
    for (const auto& model : {by_sgd, by_adamw}) {
      CHECK_FALSE(is_finite(model.weight(1, 2)));
      CHECK(all_finite(model.bias));
      CHECK_FALSE(all_parameters_finite(model));
    }
  }
  CHECK(all_parameters_finite(random_model(1)));
}

TEST_CASE("optimizers and clipping are bit-identical in any order of their pieces", "[train][optimizer]") {
  const auto run = [](const Order& order) {
    auto sgd_model = random_model<float>(1, 300, 200), adamw_model = sgd_model,
         gradient = random_model<float>(2, 300, 200);
    Sgd sgd(sgd_model, {.momentum = 0.9});
    AdamW adamw(adamw_model);
    const double norm = clip_global_norm(gradient, 1, order);
    for (int step = 0; step < 3; ++step) {
      sgd.step(sgd_model, gradient, order);
      adamw.step(adamw_model, gradient, order);
    }
    CHECK(order.most_pieces > 1);
    return std::tuple(norm, gradient.weight, sgd_model.weight, adamw_model.weight);
  };
  CHECK(run(Order{false}) == run(Order{true}));
}

TEST_CASE("optimizers refuse settings out of range and models of another shape",
          "[train][optimizer][errors]") {
  auto model = random_model(1);
  const std::string at_least_0 = ", expected a number of at least 0", unit = ", expected in [0, 1)";
  const auto sgd = [&](SgdSettings settings) { Sgd<Linear<double>>(model, settings); };
  const auto adamw = [&](AdamWSettings settings) { AdamW<Linear<double>>(model, settings); };
  CHECK_THROWS_WITH(sgd({.learning_rate = -1}), "ddl::Sgd: learning_rate is -1" + at_least_0);
  CHECK_THROWS_WITH(sgd({.learning_rate = infinity}), "ddl::Sgd: learning_rate is inf" + at_least_0);
  CHECK_THROWS_WITH(sgd({.momentum = 1}), "ddl::Sgd: momentum is 1" + unit);
  CHECK_THROWS_WITH(sgd({.weight_decay = not_a_number}), "ddl::Sgd: weight_decay is nan" + at_least_0);
  CHECK_THROWS_WITH(adamw({.learning_rate = not_a_number}), "ddl::AdamW: learning_rate is nan" + at_least_0);
  CHECK_THROWS_WITH(adamw({.beta1 = -0.5}), "ddl::AdamW: beta1 is -0.5" + unit);
  CHECK_THROWS_WITH(adamw({.beta2 = 1}), "ddl::AdamW: beta2 is 1" + unit);
  CHECK_THROWS_WITH(adamw({.eps = 0}), "ddl::AdamW: eps is 0, expected a number above 0");
  CHECK_THROWS_WITH(adamw({.weight_decay = -1}), "ddl::AdamW: weight_decay is -1" + at_least_0);
  CHECK_THROWS_WITH(clip_global_norm(model, 0),
                    "ddl::clip_global_norm: max_norm is 0, expected a number above 0");
  CHECK_THROWS_AS(sgd({.momentum = -1}), std::invalid_argument);
  CHECK_THROWS_AS(Sgd(model).step(model, random_model(1, 4, 2)), std::invalid_argument);
}
