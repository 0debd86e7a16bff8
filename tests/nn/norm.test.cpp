// SPDX-License-Identifier: MIT
#include "ddl/nn/norm.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

template <template <class, int> class Norm, class Scalar, bool Fixed>
struct NormLayer : LayerBase<Norm<Scalar, size<Fixed>(small_width)>, size<Fixed>(small_width)> {
  using Tape = typename NormLayer::Part::template Tape<size<Fixed>(small_samples)>;

  auto make(Index width, Random& random) const {
    typename NormLayer::Part::Settings settings;
    if constexpr (requires { settings.eps; }) settings.eps = 0.5;
    return typename NormLayer::Part(width, width, settings, random);
  }
};

template <class Scalar, bool Fixed>
struct RmsNormLayer : NormLayer<RmsNorm, Scalar, Fixed> {};
template <class Scalar, bool Fixed>
struct NoNormLayer : NormLayer<NoNorm, Scalar, Fixed> {
  static constexpr bool has_pieces = false;
};

}  // namespace

TEST_CASE("RMSNorm passes the suite", "[nn][norm][grad]") { check_layer<RmsNormLayer>(); }

TEST_CASE("no norm passes the suite", "[nn][norm][grad]") { check_layer<NoNormLayer>(); }

TEST_CASE("RMSNorm scales every column to a mean square of 1 before its weight, which starts at 1",
          "[nn][norm]") {
  Random random(2);
  Matrix<double> x(50, 4), y(50, 4);
  fill(random, x, 3);
  x.col(3).setZero();
  RmsNorm<double> norm(50, 1e-12);
  RmsNorm<double>::Tape<> tape;
  norm.forward(x, y, tape);
  for (Index n = 0; n < 3; ++n) CHECK(y.col(n).squaredNorm() / 50 == Catch::Approx(1).epsilon(1e-10));
  CHECK(y.col(3).isZero(0));
  const Matrix<double> unweighted = y;
  norm.weight.setLinSpaced(-1, 2);
  norm.forward(x, y, tape);
  CHECK(error(y, (norm.weight.asDiagonal() * unweighted).eval()) <= identity_tolerance<double>);
}

TEST_CASE("RMSNorm in float is that in double for inputs of any size", "[nn][norm]") {
  Random random(3);
  const std::vector<float> sizes = {0, 1e-30f, 1e-20f, 1, 1e10f, 1e19f, 1e25f, 1e37f};
  const Index d = 50, N = static_cast<Index>(sizes.size());
  Matrix<double> x(d, N), dy(d, N), y(d, N), dx(d, N);
  fill(random, x, 1);
  fill(random, dy, 1);
  for (Index n = 0; n < N; ++n) x.col(n) *= sizes[static_cast<std::size_t>(n)];
  for (const double eps : {1e-5, 1e-30}) {
    const RmsNorm<double> twice(d, eps);
    const RmsNorm<float> single(d, eps);
    RmsNorm<double> gradient = zeros_like(twice);
    RmsNorm<float> single_gradient = zeros_like(single);
    RmsNorm<double>::Tape<> tape;
    RmsNorm<float>::Tape<> single_tape;
    const Matrix<float> single_x = x.cast<float>(), single_dy = dy.cast<float>();
    Matrix<float> single_y(d, N), single_dx = Matrix<float>::Zero(d, N);
    dx.setZero();
    twice.forward(single_x.cast<double>(), y, tape);
    single.forward(single_x, single_y, single_tape);
    CHECK(error(single_y.cast<double>(), y) <= float_tolerance);
    twice.backward(single_x.cast<double>(), y, single_dy.cast<double>(), dx, tape, gradient);
    single.backward(single_x, single_y, single_dy, single_dx, single_tape, single_gradient);
    CHECK(error(single_gradient.weight.cast<double>(), gradient.weight) <= float_tolerance);
    for (Index n = 0; n < N; ++n) {
      CAPTURE(eps, sizes[static_cast<std::size_t>(n)]);
      if (dx.col(n).norm() > 1e-35)  // else it is below the normal numbers
        CHECK(relative_error(single_dx.col(n).cast<double>(), dx.col(n)) <= float_tolerance);
    }
  }
}

TEST_CASE("the gradient of every weight of a wide RMSNorm is a sum over the tokens", "[nn][norm][grad]") {
  const Index d = large_width, N = large_samples;
  Random random(4);
  RmsNorm<double> norm(d, 0.1), gradient = zeros_like(norm);
  Matrix<double> x(d, N), dy(d, N), y(d, N), dx = Matrix<double>::Zero(d, N);
  fill(random, x);
  fill(random, dy);
  fill(random, norm.weight);
  RmsNorm<double>::Tape<> tape;
  norm.forward(x, y, tape);
  norm.backward(x, y, dy, dx, tape, gradient);
  // dw = sum of dy * y / w, dx by its formula without blocks
  const Vector<double> dweight = dy.cwiseProduct(y).rowwise().sum().cwiseQuotient(norm.weight);
  CHECK(error(gradient.weight, dweight) <= sequence_tolerance<double>(N));
  for (Index n = 0; n < N; ++n) {
    const double s = 1 / std::sqrt(x.col(n).squaredNorm() / double(d) + 0.1);
    const Vector<double> h = norm.weight.cwiseProduct(dy.col(n));
    CHECK(error(dx.col(n), (s * h - s * s * s / double(d) * h.dot(x.col(n)) * x.col(n)).eval()) <=
          identity_tolerance<double>);
  }
}

TEST_CASE("norms map an empty batch to an empty batch", "[nn][norm]") {
  const RmsNorm<double> norm(3);
  RmsNorm<double> gradient = zeros_like(norm);
  RmsNorm<double>::Tape<> tape;
  const Matrix<double> x(3, 0);
  Matrix<double> y(3, 0);
  norm.forward(x, y, tape);
  norm.backward(x, y, x, y, tape, gradient);
  CHECK(gradient.weight.isZero(0));
}

TEST_CASE("RMSNorm refuses a width below 1 and an eps that is not above 0", "[nn][norm][errors]") {
  using Fixed = RmsNorm<double, 3>;
  CHECK_THROWS_WITH(RmsNorm<double>(0), "ddl::RmsNorm: width is 0, expected at least 1");
  CHECK_THROWS_WITH(Fixed(4), "ddl::RmsNorm: width is 4, expected 3 (fixed)");
  CHECK_THROWS_WITH(RmsNorm<double>(3, 0), "ddl::RmsNorm: eps is 0, expected a number above 0");
  CHECK_THROWS_WITH(RmsNorm<double>(3, not_a_number), "ddl::RmsNorm: eps is nan, expected a number above 0");
  CHECK_THROWS_AS(RmsNorm<double>(3, -1), std::invalid_argument);
  Random random(1);
  CHECK_THROWS_WITH((RmsNorm<double>(3, 3, {.eps = 0}, random)),
                    "ddl::RmsNorm: eps is 0, expected a number above 0");
}

TEST_CASE("RMSNorm refuses a batch of another width by name", "[nn][norm][errors]") {
  const RmsNorm<double> norm(3);
  RmsNorm<double>::Tape<> tape;
  Matrix<double> x(3, 5), y(3, 5), tall(4, 5);
  CHECK_THROWS_WITH(norm.forward(tall, y, tape), "ddl::RmsNorm::forward: x is 4 x 5, expected 3 x 5");
  CHECK_THROWS_WITH(norm.forward(x, tall, tape), "ddl::RmsNorm::forward: y is 4 x 5, expected 3 x 5");
}
