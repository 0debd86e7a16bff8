// SPDX-License-Identifier: MIT
#include "ddl/nn/activation.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

/// An activation as a part: it has no parameters.
template <class Scalar_>
struct ActivationPart {
  using Scalar = Scalar_;
  static constexpr auto parameters() { return std::tuple(); }
};

template <class Scalar, bool Fixed>
struct ActivationLayer : LayerBase<ActivationPart<Scalar>, size<Fixed>(small_width)> {
  Activation kind;

  static bool adds() { return false; }
  auto make(Index, Random&) const { return ActivationPart<Scalar>{}; }
  /// ReLU has no derivative at 0.
  void adjust(auto&, auto& x) const {
    if (kind == Activation::relu) x.array() += x.array().sign() * Scalar(0.25);
  }
  void forward(const auto&, const auto& x, auto& y, auto&, const ddl::Pass& pass) const {
    activate(kind, x, y, pass.executor);
  }
  void backward(const auto&, const auto& x, const auto&, const auto& dy, auto& dx, auto&, auto&,
                const ddl::Pass& pass) const {
    activate_backward(kind, x, dy, dx, pass.executor);
  }
};

double closed_form(Activation kind, double x) {
  switch (kind) {
    case Activation::gelu:
      return x / 2 * std::erfc(-x / std::sqrt(2.0));
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::tanh:
      return std::tanh(x);
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-x));
  }
  return 0;
}

auto every_activation() {
  return GENERATE(Activation::gelu, Activation::silu, Activation::tanh, Activation::relu,
                  Activation::sigmoid);
}

}  // namespace

TEST_CASE("every activation passes the suite", "[nn][activation][grad]") {
  const Activation kind = every_activation();
  INFO(name_of(kind));
  check_layer<ActivationLayer>(kind);
}

TEMPLATE_TEST_CASE("every activation is its closed form, in columns of any length", "[nn][activation]", float,
                   double) {
  const Activation kind = every_activation();
  const Index rows = GENERATE(Index(1), Index(255), Index(256), Index(257), Index(1000));
  INFO(name_of(kind));
  Matrix<TestType> x(rows, 3), y(rows, 3);
  for (Index i = 0; i < x.size(); ++i) x(i) = TestType(-8) + TestType(16 * i) / TestType(x.size());
  activate(kind, x, y);
  const Matrix<double> expected =
      x.template cast<double>().unaryExpr([&](double t) { return closed_form(kind, t); });
  CHECK(error(y.template cast<double>(), expected) <= identity_tolerance<TestType>);
}

TEST_CASE("activations work in place", "[nn][activation]") {
  const Activation kind = every_activation();
  INFO(name_of(kind));
  Random random(5);
  Matrix<double> x(300, 4), y(300, 4), dy(300, 4), dx(300, 4);
  fill(random, x);
  fill(random, dy);
  activate(kind, x, y);
  activate_backward(kind, x, dy, dx);
  activate_backward(kind, x, dy, dy);
  CHECK(dy == dx);
  activate(kind, x, x);
  CHECK(x == y);
}

TEMPLATE_TEST_CASE("activations and their derivatives stay finite where exp overflows", "[nn][activation]",
                   float, double) {
  const Activation kind = every_activation();
  INFO(name_of(kind));
  const TestType huge = GENERATE(TestType(1e2), TestType(1e4), TestType(1e18));
  // Long enough for packets and for what is left over.
  const Vector<TestType> x = Vector<TestType>::Constant(19, huge), ones = Vector<TestType>::Ones(19);
  const bool is_bounded = kind == Activation::tanh || kind == Activation::sigmoid;
  const auto check = [&](double sign, double value, double derivative) {
    const Vector<TestType> at = TestType(sign) * x;
    Vector<TestType> y(19), dx(19);
    activate(kind, at, y);
    activate_backward(kind, at, ones, dx);
    CHECK(error(y, (TestType(value) * ones).eval()) <= identity_tolerance<TestType>);
    CHECK(error(dx, (TestType(derivative) * ones).eval()) <= identity_tolerance<TestType>);
  };
  check(1, is_bounded ? 1 : double(huge), is_bounded ? 0 : 1);
  check(-1, kind == Activation::tanh ? -1 : 0, 0);
}

TEST_CASE("the logistic function neither overflows nor loses its lower tail", "[nn][activation]") {
  CHECK(sigmoid(0.0) == 0.5);
  CHECK(sigmoid(1e4) == 1);
  CHECK(sigmoid(-1e4) == 0);
  CHECK(sigmoid(-30.0) == Catch::Approx(std::exp(-30.0)).epsilon(1e-12));
  CHECK(sigmoid(2.0) + sigmoid(-2.0) == Catch::Approx(1).epsilon(1e-15));
}

TEST_CASE("an activation refuses an output of another shape by name", "[nn][activation][errors]") {
  const Matrix<double> x(3, 5);
  Matrix<double> y(3, 5), other(3, 4);
  CHECK_THROWS_WITH(activate(Activation::relu, x, other), "ddl::activate: y is 3 x 4, expected 3 x 5");
  CHECK_THROWS_WITH(activate_backward(Activation::relu, x, other, y),
                    "ddl::activate_backward: dy is 3 x 4, expected 3 x 5");
  CHECK_THROWS_WITH(activate_backward(Activation::relu, x, y, other),
                    "ddl::activate_backward: dx is 3 x 4, expected 3 x 5");
}
