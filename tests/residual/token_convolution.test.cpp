// SPDX-License-Identifier: MIT
#include "ddl/residual/token_convolution.hpp"

#include "ddl/residual/block.hpp"
#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

template <int Channels>
struct Convolution {
  template <class Scalar, bool Fixed>
  struct Layer : LayerBase<TokenConvolution<Scalar, size<Fixed>(small_width), size<Fixed>(Channels)>,
                           size<Fixed>(small_width)> {
    using Cache = typename Layer::Part::template Cache<size<Fixed>(small_samples)>;
    Index kernel;

    static Index x_cols(Index samples) { return samples * Channels; }
    static bool adds() { return true; }
    auto make(Index width, Random& random) const {
      return typename Layer::Part({kernel}, width, Channels, random);
    }
    void forward(const auto& part, const auto& x, auto& y, auto& cache, const Order& order) const {
      cache.length = y.cols() % 2 == 0 ? y.cols() / 2 : 0;
      y = part.forward(x, cache, order);
      if (part.output(x, cache) != y) FAIL("output is not what forward returned");
    }
    void backward(const auto& part, const auto& x, const auto&, auto& cache, const auto& dy, auto& dx,
                  auto& gradient, const Order& order) const {
      part.backward(x, cache, dy, dx, gradient, order);
    }
  };
};

/// On states of 5 x 3, weights at random.
TokenConvolution<double> convolution_of(Index kernel) {
  Random random(1);
  TokenConvolution<double> convolution({kernel}, 5, 3, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p); }, convolution);
  return convolution;
}

Matrix<double> states(Index tokens) {
  Random random(2);
  Matrix<double> X(5, 3 * tokens);
  fill(random, X);
  return X;
}

Matrix<double> compressed(const TokenConvolution<double>& convolution, const Matrix<double>& X,
                          Index length = 0) {
  TokenConvolution<double>::Cache<> cache;
  cache.length = length;
  return convolution.forward(X, cache);
}

static_assert(CompressorPart<TokenConvolution<float>> && CompressorPart<TokenConvolution<double, 8, 2>, 8>);

}  // namespace

TEST_CASE("the token convolution passes the suite", "[residual][token_convolution][grad]") {
  SECTION("one channel") { check_layer<Convolution<1>::Layer>(Index(2)); }
  SECTION("a kernel of 1") { check_layer<Convolution<3>::Layer>(Index(1)); }
  SECTION("a kernel of 2") { check_layer<Convolution<3>::Layer>(Index(2)); }
  SECTION("a kernel wider than the sequence") { check_layer<Convolution<2>::Layer>(Index(4)); }
}

TEST_CASE("the token convolution is a convolution of every channel, then a weighted sum of channels",
          "[residual][token_convolution]") {
  const Index K = GENERATE(Index(1), Index(2), Index(4));
  const Index length = GENERATE(Index(1), Index(3), Index(6));
  CAPTURE(K, length);
  const TokenConvolution<double> convolution = convolution_of(K);
  const Matrix<double> X = states(6);
  Matrix<double> expected = Matrix<double>::Zero(5, 6);
  for (Index n = 0; n < 6; ++n)
    for (Index j = 0; j < 3; ++j)
      for (Index t = 0; t < K; ++t)
        if (const Index source = n - (K - 1) + t; source >= n / length * length)
          expected.col(n) +=
              convolution.read[j] *
              detail::tap_of(convolution.weight, 3, t).row(j).transpose().cwiseProduct(X.col(3 * source + j));
  CHECK(error(compressed(convolution, X, length), expected) <= identity_tolerance<double>);
}

TEST_CASE("the token convolution starts at the mean over the channels", "[residual][token_convolution]") {
  Random random(1);
  const Matrix<double> X = states(6);
  const ChannelCompressor<double> mean({Compression::mean}, 5, 3, random);
  ChannelCompressor<double>::Cache<> cache;
  CHECK(error(compressed({{}, 5, 3, random}, X), mean.forward(X, cache)) <= identity_tolerance<double>);
}

TEST_CASE("the gradients of a batch are those of its sequences", "[residual][token_convolution][grad]") {
  const TokenConvolution<double> convolution = convolution_of(4);
  const Matrix<double> X = states(6), dx = states(2);
  Matrix<double> dX[2] = {Matrix<double>::Zero(5, 18), Matrix<double>::Zero(5, 18)};
  TokenConvolution<double> gradient[2] = {zeros_like(convolution), zeros_like(convolution)};
  TokenConvolution<double>::Cache<> cache;
  cache.length = 3;
  convolution.forward(X, cache);
  convolution.backward(X, cache, dx, dX[0], gradient[0]);
  for (Index b = 0; b < 2; ++b) {
    convolution.forward(X.middleCols(9 * b, 9), cache);
    convolution.backward(X.middleCols(9 * b, 9), cache, dx.middleCols(3 * b, 3), dX[1].middleCols(9 * b, 9),
                         gradient[1]);
  }
  CHECK(dX[0] == dX[1]);
  CHECK_FALSE(dX[0].isZero(0));
  for_each_parameter([](const ParameterPath&, const auto& a,
                        const auto& b) { CHECK(error(a, b) <= identity_tolerance<double>); },
                     gradient[0], gradient[1]);
}

TEST_CASE("features do not meet, however many there are", "[residual][token_convolution][grad]") {
  Random random(1);
  TokenConvolution<double> wide({2}, 100, 3, random);
  fill(random, wide.weight);
  TokenConvolution<double> narrow = wide, gradient = zeros_like(wide);
  narrow.weight = Matrix<double>(wide.weight.bottomRows(90));
  TokenConvolution<double> last = zeros_like(narrow);
  Matrix<double> X(100, 12), dx(100, 4), dX = Matrix<double>::Zero(100, 12),
                                         dlast = Matrix<double>::Zero(30, 12);
  fill(random, X);
  fill(random, dx);
  TokenConvolution<double>::Cache<> cache;
  wide.forward(X, cache);
  wide.backward(X, cache, dx, dX, gradient);
  narrow.forward(X.bottomRows(30), cache);
  narrow.backward(X.bottomRows(30), cache, dx.bottomRows(30), dlast, last);
  CHECK(dX.bottomRows(30) == dlast);
  CHECK(gradient.weight.bottomRows(90) == last.weight);
  CHECK_FALSE(dlast.isZero(0));
  CHECK_FALSE(last.weight.isZero(0));
}

TEST_CASE("decoding a token at a time is the token convolution of all", "[residual][token_convolution]") {
  const Index kernel = GENERATE(Index(1), Index(2), Index(4));
  const TokenConvolution<double> convolution = convolution_of(kernel);
  const Matrix<double> X = states(6);
  Matrix<double> x(5, 6);
  auto history = convolution.make_history();
  CHECK(allocations_in([&] {
          for (Index n = 0; n < 6; ++n) convolution.step(X.middleCols(3 * n, 3), x.col(n), history);
        }) == 0);
  CHECK(error(x, compressed(convolution, X)) <= identity_tolerance<double>);
}

TEST_CASE("the token convolution refuses what does not fit", "[residual][token_convolution][errors]") {
  Random random(1);
  CHECK_THROWS_WITH(TokenConvolution<double>({0}, 5, 3, random),
                    "ddl::TokenConvolution: kernel is 0, expected at least 1");
  const TokenConvolution<double> convolution = convolution_of(2);
  CHECK_THROWS_WITH(compressed(convolution, states(6), 4),
                    "ddl::TokenConvolution: the length of a sequence is 4, expected a divisor of the batch's "
                    "6 tokens, or 0 for one sequence");
  const Matrix<double> X = states(2);
  Matrix<double> x(5, 1);
  auto history = convolution.make_history();
  CHECK_THROWS_WITH(convolution.step(X, x, history),
                    "ddl::TokenConvolution::step: X is 5 x 6, expected 5 x 3");
  history = convolution_of(3).make_history();
  CHECK_THROWS_WITH(convolution.step(X.leftCols(3), x, history),
                    "ddl::TokenConvolution::step: the history is 5 x 9, expected 5 x 6");
}
