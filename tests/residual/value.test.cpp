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
  using Tape = typename ValueLayer::Part::template Tape<size<Fixed>(small_samples)>;
  std::optional<double> sigmoid_scale;

  static constexpr bool has_pieces = false;  // too little work to share
  static Index y_rows(Index) { return channels; }
  auto make(Index width, Random& random) const {
    return typename ValueLayer::Part(width, channels, {.sigmoid_scale = sigmoid_scale}, random);
  }
};

}  // namespace

TEST_CASE("linear and scaled sigmoid values pass the suite", "[residual][value][grad]") {
  const std::optional<double> sigmoid_scale = GENERATE(std::optional<double>(), std::optional(4.0));
  CAPTURE(sigmoid_scale.has_value());
  check_layer<ValueLayer>(sigmoid_scale);
}

TEST_CASE("a value is W z + b, or scale sigmoid(W z + b)", "[residual][value]") {
  Random random(5);
  Matrix<double> z(4, 5), v(3, 5);
  fill(random, z);
  LinearValue<double> value(4, 3, {.sigmoid_scale = 4}, random);
  fill(random, value.projection.bias);
  LinearValue<double>::Tape<> tape;
  value.forward(z, v, tape);
  const Matrix<double> linear = (value.projection.weight * z).colwise() + value.projection.bias;
  CHECK(error(v, (4 / (1 + (-linear.array()).exp())).matrix()) <= identity_tolerance<double>);
  value.sigmoid_scale.reset();
  value.forward(z, v, tape);
  CHECK(error(v, linear) <= identity_tolerance<double>);
}

TEST_CASE("a constant value reads nothing and learns nothing", "[residual][value]") {
  Random random(5);
  const ConstantValue<double> value(4, 3, {.value = 0.75}, random);
  ConstantValue<double> gradient = value;
  CHECK(parameter_count(value) == 0);
  Matrix<double> z(4, 5), v(3, 5), dv(3, 5), dz(4, 5);
  fill(random, z);
  fill(random, dv);
  fill(random, dz);
  const Matrix<double> before = dz;
  ConstantValue<double>::Tape<> tape;
  value.forward(z, v, tape);
  value.backward(z, v, dv, dz, tape, gradient);
  CHECK(v == Matrix<double>::Constant(3, 5, 0.75));
  CHECK(dz == before);
}

TEST_CASE("values read the context unless told to read the compressed state", "[residual][value]") {
  Random random(5);
  CHECK(LinearValue<double>(4, 3, {}, random).reads() == ValueSource::context);
  CHECK(LinearValue<double>(4, 3, {.source = ValueSource::compressed}, random).reads() ==
        ValueSource::compressed);
}

TEST_CASE("values refuse settings out of range", "[residual][value][errors]") {
  Random random(5);
  const auto linear = [&](double scale) { LinearValue<float>(4, 3, {.sigmoid_scale = scale}, random); };
  const std::string expected = ", expected a number above 0";
  CHECK_THROWS_WITH(linear(0), "ddl::LinearValue: sigmoid_scale is 0" + expected);
  CHECK_THROWS_WITH(linear(-1), "ddl::LinearValue: sigmoid_scale is -1" + expected);
  CHECK_THROWS_WITH(linear(not_a_number), "ddl::LinearValue: sigmoid_scale is nan" + expected);
  CHECK_THROWS_WITH(ConstantValue<float>(4, 3, {.value = not_a_number}, random),
                    "ddl::ConstantValue: value is nan, expected a finite number");
  CHECK_THROWS_AS(linear(infinity), std::invalid_argument);
}
