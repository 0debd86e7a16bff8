// SPDX-License-Identifier: MIT
#include "ddl/residual/value.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

constexpr int channels = 3;

template <class Scalar, bool Fixed>
struct ValueLayer : LayerBase<LinearValue<Scalar, size<Fixed>(small_width), size<Fixed>(channels)>,
                              size<Fixed>(small_width), size<Fixed>(channels)> {
  struct Cache {
    typename ValueLayer::Y slope;
  };
  double sigmoid_scale;

  static constexpr bool has_pieces = false;  // too little work to share
  static Index y_rows(Index) { return channels; }
  static bool adds() { return true; }
  auto make(Index width, Random& random) const {
    return typename ValueLayer::Part({.sigmoid_scale = sigmoid_scale}, width, channels, random);
  }
  void forward(const auto& part, const auto& x, auto& y, auto&, const Order& order) const {
    part.forward(x, y, order);
  }
  void backward(const auto& part, const auto& x, const auto& y, auto& cache, const auto& dy, auto& dx,
                auto& gradient, const Order& order) const {
    cache.slope = dy;  // used up
    part.backward(x, y, cache.slope, dx, gradient, order);
  }
};

}  // namespace

TEST_CASE("linear and scaled sigmoid values pass the suite", "[residual][value][grad]") {
  const double sigmoid_scale = GENERATE(0.0, 4.0);
  CAPTURE(sigmoid_scale);
  check_layer<ValueLayer>(sigmoid_scale);
}

TEST_CASE("a value is W z + b, or scale sigmoid(W z + b)", "[residual][value]") {
  Random random(5);
  Matrix<double> z(4, 5), v(3, 5);
  fill(random, z);
  LinearValue<double> value({.sigmoid_scale = 4}, 4, 3, random);
  fill(random, value.projection.bias);
  value.forward(z, v);
  const Matrix<double> linear = (value.projection.weight * z).colwise() + value.projection.bias;
  CHECK(error(v, (4 / (1 + (-linear.array()).exp())).matrix()) <= identity_tolerance<double>);
  value.sigmoid_scale = 0;
  value.forward(z, v);
  CHECK(error(v, linear) <= identity_tolerance<double>);
}

TEST_CASE("a constant value reads nothing and learns nothing", "[residual][value]") {
  Random random(5);
  const ConstantValue<double> value({.value = 0.75}, 4, 3, random);
  ConstantValue<double> gradient = value;
  CHECK(parameter_count(value) == 0);
  Matrix<double> z(4, 5), v(3, 5), slope(3, 5), dz(4, 5);
  fill(random, z);
  fill(random, slope);
  fill(random, dz);
  const Matrix<double> before = dz;
  value.forward(z, v);
  value.backward(z, v, slope, dz, gradient);
  CHECK(v == Matrix<double>::Constant(3, 5, 0.75));
  CHECK(dz == before);
}

TEST_CASE("values read the context unless told to read the compressed state", "[residual][value]") {
  Random random(5);
  CHECK(LinearValue<double>({}, 4, 3, random).reads() == ValueSource::context);
  CHECK(LinearValue<double>({.source = ValueSource::compressed}, 4, 3, random).reads() ==
        ValueSource::compressed);
}

TEST_CASE("values refuse settings out of range", "[residual][value][errors]") {
  Random random(5);
  const auto linear = [&](double scale) { LinearValue<float>({.sigmoid_scale = scale}, 4, 3, random); };
  const std::string expected = ", expected a number above 0, or 0 for a linear value";
  CHECK_THROWS_WITH(linear(-1), "ddl::LinearValue: sigmoid_scale is -1" + expected);
  CHECK_THROWS_WITH(linear(not_a_number), "ddl::LinearValue: sigmoid_scale is nan" + expected);
  CHECK_THROWS_WITH(ConstantValue<float>({.value = not_a_number}, 4, 3, random),
                    "ddl::ConstantValue: value is nan, expected a finite number");
  CHECK_THROWS_AS(linear(infinity), std::invalid_argument);
}
