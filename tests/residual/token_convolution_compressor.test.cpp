// SPDX-License-Identifier: MIT
#include "ddl/residual/token_convolution.hpp"

#include "ddl/residual/block.hpp"
#include "support/compressor_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

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
  SECTION("one channel") { check_compressor<TokenConvolution, 1>({2}); }
  SECTION("a kernel of 1") { check_compressor<TokenConvolution, 3>({1}); }
  SECTION("a kernel of 2") { check_compressor<TokenConvolution, 3>({2}); }
  SECTION("a kernel wider than the sequence") { check_compressor<TokenConvolution, 2>({4}); }
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
  const Index sequences = GENERATE(Index(2), Index(1510));  // the second: ranges of tokens end within sequences
  CAPTURE(sequences);
  const TokenConvolution<double> convolution = convolution_of(4);
  const Matrix<double> X = states(3 * sequences), dx = states(sequences);
  Matrix<double> dX[2] = {Matrix<double>::Zero(5, X.cols()), Matrix<double>::Zero(5, X.cols())};
  TokenConvolution<double> gradient[2] = {zeros_like(convolution), zeros_like(convolution)};
  TokenConvolution<double>::Cache<> cache;
  cache.length = 3;
  convolution.forward(X, cache);
  convolution.backward(X, cache, dx, dX[0], gradient[0]);
  for (Index b = 0; b < sequences; ++b) {
    convolution.forward(X.middleCols(9 * b, 9), cache);
    convolution.backward(X.middleCols(9 * b, 9), cache, dx.middleCols(3 * b, 3), dX[1].middleCols(9 * b, 9),
                         gradient[1]);
  }
  CHECK(dX[0] == dX[1]);
  CHECK_FALSE(dX[0].isZero(0));
  for_each_parameter([](const ParameterPath&, const auto& a,
                        const auto& b) { CHECK(error(a, b) <= slope_tolerance<double>); },
                     gradient[0], gradient[1]);
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
