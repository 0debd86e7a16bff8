// SPDX-License-Identifier: MIT
#include "ddl/nn/short_convolution.hpp"

#include "support/layer_suite.hpp"
#include "support/ragged.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

template <class Scalar, bool>
struct ConvolutionLayer : LayerBase<ShortConvolution<Scalar>, Dynamic> {
  using Tape = typename ConvolutionLayer::Part::Tape;
  std::optional<Index> kernel = 4;

  static bool adds() { return false; }
  auto make(Index width, Random& random) const { return ShortConvolution<Scalar>(width, kernel, random); }
  static void backward(const auto& part, const auto& x, const auto&, auto dy, auto& dx, auto& tape,
                       auto& gradient, const ddl::Pass& pass) {
    part.backward(x, dy, dx, tape, gradient, pass);
  }
};

Matrix<double> random_columns(Index rows, Index cols) {
  Random random(4);
  Matrix<double> x(rows, cols);
  fill(random, x);
  return x;
}

}  // namespace

TEST_CASE("the short convolution's gradients hold, with and without a kernel",
          "[nn][short_convolution][grad]") {
  const std::optional<Index> kernel =
      GENERATE(std::optional<Index>(), std::optional<Index>(1), std::optional<Index>(4));
  CAPTURE(kernel.value_or(0));
  const ConvolutionLayer<double, false> layer{{}, kernel};
  check_differences(layer);
  check_accumulation(layer);
  check_order(ConvolutionLayer<float, false>{{}, kernel});
}

TEST_CASE("the short convolution is a causal sum for each channel, then SiLU", "[nn][short_convolution]") {
  Random random(3);
  const ShortConvolution<double> part(5, 3, random);
  const Matrix<double> x = random_columns(5, 14);
  Matrix<double> y(5, 14);
  ShortConvolution<double>::Tape tape;
  part.forward(x, y, tape, {Serial{}, 7});
  for (Index n = 0; n < 14; ++n)
    for (Index c = 0; c < 5; ++c) {
      double a = 0;
      for (Index back = 0; back < 3 && back <= n % 7; ++back) a += part.weight(c, 2 - back) * x(c, n - back);
      CHECK(std::abs(y(c, n) - a / (1 + std::exp(-a))) <= identity_tolerance<double>);
    }
}

TEST_CASE("the short convolution continues sequences", "[nn][short_convolution]") {
  const std::optional<Index> kernel =
      GENERATE(std::optional<Index>(), std::optional<Index>(1), std::optional<Index>(4));
  CAPTURE(kernel.value_or(0));
  Random random(3);
  const ShortConvolution<double> part(5, kernel, random);
  const Matrix<double> x = random_columns(5, 22);
  Matrix<double> expected(5, 22);
  ShortConvolution<double>::Tape tape;
  part.forward(x, expected, tape, {Serial{}, 11});
  auto state = part.make_state(2, 5);
  for (const auto& [begin, count] : {std::pair(0, 2), {2, 1}, {3, 6}, {9, 2}}) {
    Matrix<double> run(5, 2 * count), y(5, 2 * count);
    for (Index s = 0; s < 2; ++s) run.middleCols(s * count, count) = x.middleCols(s * 11 + begin, count);
    part.infer(run, y, state, tape, {Serial{}, count, begin});
    for (Index s = 0; s < 2; ++s)
      CHECK(error(y.middleCols(s * count, count), expected.middleCols(s * 11 + begin, count)) <=
            identity_tolerance<double>);
  }
}

TEST_CASE("the short convolution takes sequences of different lengths", "[nn][short_convolution][grad]") {
  const std::optional<Index> kernel = GENERATE(std::optional<Index>(1), std::optional<Index>(4));
  CAPTURE(*kernel);
  check_ragged(ConvolutionLayer<double, false>{{}, kernel});
  Random random(3);
  const ShortConvolution<double> part(5, kernel, random);
  const Matrix<double> x = random_columns(5, 22);
  Matrix<double> expected(5, 22), y(5, 22);
  ShortConvolution<double>::Tape tape;
  const std::vector<Index> offsets = {0, 12, 22}, first = {0, 2, 9}, second = {0, 10, 13};
  part.forward(x, expected, tape, {Serial{}, offsets});
  auto state = part.make_state(2, 5);
  Matrix<double> run(5, 9), run2(5, 13), y1(5, 9), y2(5, 13);
  run << x.leftCols(2), x.middleCols(12, 7);
  run2 << x.middleCols(2, 10), x.rightCols(3);
  part.infer(run, y1, state, tape, {Serial{}, first});
  part.infer(run2, y2, state, tape, {Serial{}, second});
  y << y1.leftCols(2), y2.leftCols(10), y1.rightCols(7), y2.rightCols(3);
  CHECK(error(y, expected) <= identity_tolerance<double>);
}
