// SPDX-License-Identifier: MIT
#include "ddl/residual/token_convolution_compressor.hpp"

#include "ddl/residual/block.hpp"
#include "support/compressor_suite.hpp"
#include "support/ragged.hpp"
#include "support/sequences.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

using Convolution = TokenConvolutionCompressor<double>;

/// On states of 5 x 3, weights at random.
Convolution convolution_of(Index kernel) {
  Random random(1);
  Convolution convolution(5, 3, {kernel}, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p); }, convolution);
  return convolution;
}

Matrix<double> states(Index tokens) {
  Random random(2);
  Matrix<double> X(5, 3 * tokens);
  fill(random, X);
  return X;
}

Matrix<double> compressed(const TokenConvolutionCompressor<double>& convolution, const Matrix<double>& X,
                          Index length) {
  Convolution::Tape<> tape;
  return convolution.forward(X, tape, {Serial{}, length});
}

static_assert(CompressorPart<TokenConvolutionCompressor<float>> &&
              CompressorPart<TokenConvolutionCompressor<double, 8, 2>, 8>);

}  // namespace

TEST_CASE("the token convolution passes the suite", "[residual][token_convolution][grad]") {
  SECTION("one channel") { check_compressor<TokenConvolutionCompressor, 1>({2}); }
  SECTION("a kernel of 1") { check_compressor<TokenConvolutionCompressor, 3>({1}); }
  SECTION("a kernel of 2") { check_compressor<TokenConvolutionCompressor, 3>({2}); }
  SECTION("a kernel wider than the sequence") { check_compressor<TokenConvolutionCompressor, 2>({4}); }
}

TEST_CASE("the token convolution takes sequences of different lengths",
          "[residual][token_convolution][grad]") {
  check_ragged(CompressorOf<TokenConvolutionCompressor, 3>::Layer<double, false>{{}, {4}}, 3);
}

TEST_CASE("the token convolution is a convolution of every channel, then a weighted sum of channels",
          "[residual][token_convolution]") {
  const Index K = GENERATE(Index(1), Index(2), Index(4));
  const Index length = GENERATE(Index(1), Index(3), Index(6));
  CAPTURE(K, length);
  const TokenConvolutionCompressor<double> convolution = convolution_of(K);
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
  const ChannelCompressor<double> mean(5, 3, {Compression::mean}, random);
  ChannelCompressor<double>::Tape<> tape;
  CHECK(error(compressed({5, 3, {}, random}, X, 6), mean.forward(X, tape)) <= identity_tolerance<double>);
}

TEST_CASE("the gradients of a batch are those of its sequences", "[residual][token_convolution][grad]") {
  const Index sequences =
      GENERATE(Index(2), Index(1510));  // the second: ranges of tokens end within sequences
  CAPTURE(sequences);
  const TokenConvolutionCompressor<double> convolution = convolution_of(4);
  const Matrix<double> X = states(3 * sequences), dx = states(sequences);
  Matrix<double> dX[2] = {Matrix<double>::Zero(5, X.cols()), Matrix<double>::Zero(5, X.cols())};
  TokenConvolutionCompressor<double> gradient[2] = {zeros_like(convolution), zeros_like(convolution)};
  Convolution::Tape<> tape;
  const ddl::Pass pass(Serial{}, 3);
  convolution.forward(X, tape, pass);
  convolution.backward(X, dx, dX[0], tape, gradient[0], pass);
  for (Index b = 0; b < sequences; ++b) {
    convolution.forward(X.middleCols(9 * b, 9), tape, pass);
    convolution.backward(X.middleCols(9 * b, 9), dx.middleCols(3 * b, 3), dX[1].middleCols(9 * b, 9), tape,
                         gradient[1], pass);
  }
  CHECK(dX[0] == dX[1]);
  CHECK_FALSE(dX[0].isZero(0));
  for_each_parameter([](const ParameterPath&, const auto& a,
                        const auto& b) { CHECK(error(a, b) <= derivative_tolerance<double>); },
                     gradient[0], gradient[1]);
}

TEST_CASE("infer over chunks of sequences is forward over all of them",
          "[residual][token_convolution][infer]") {
  const Index kernel = GENERATE(Index(1), Index(2), Index(4)), sequences = GENERATE(Index(1), Index(2));
  // the first chunk, then chunks of the second size: shorter than a kernel, as long as it, and longer
  const auto [first, later] =
      GENERATE(table<Index, Index>({{1, 1}, {6, 1}, {1, 6}, {2, 3}, {3, 2}, {5, 4}, {9, 1}}));
  CAPTURE(kernel, sequences, first, later);
  const Index length = 10;
  const Convolution convolution = convolution_of(kernel);
  const Matrix<double> X = states(sequences * length), expected = compressed(convolution, X, length);
  Matrix<double> x(5, sequences * length);
  auto state = convolution.make_state(sequences, length);
  CHECK(state.history.cols() == (kernel - 1) * 3 * sequences);
  Convolution::Tape<> tape;
  for (Index p = 0, count = first; p < length; p += count, count = (std::min)(later, length - p)) {
    const Matrix<double> chunk = chunk_of(X, 3, length, p, count);
    put_chunk(x, 1, length, p, count, convolution.infer(chunk, state, tape, {Serial{}, count, p}));
  }
  CHECK(error(x, expected) <= identity_tolerance<double>);
}

TEST_CASE("a copied state of the token convolution is a fork, and a state at zero a new sequence",
          "[residual][token_convolution][infer]") {
  const Convolution convolution = convolution_of(4);
  const Matrix<double> X = states(6), other = 2 * X.rightCols(9);
  Matrix<double> forked(5, 18);
  forked << X.leftCols(9), other;
  Convolution::Tape<> tape;
  const ddl::Pass three(Serial{}, 3);
  auto state = convolution.make_state(1, 6);
  convolution.infer(X.leftCols(9), state, tape, three);
  auto fork = state;
  CHECK(error(convolution.infer(other, fork, tape, three), compressed(convolution, forked, 6).rightCols(3)) <=
        identity_tolerance<double>);
  CHECK(error(convolution.infer(X.rightCols(9), state, tape, three),
              compressed(convolution, X, 6).rightCols(3)) <= identity_tolerance<double>);
  set_zero(state);
  CHECK(error(convolution.infer(X, state, tape, {Serial{}, 6}), compressed(convolution, X, 6)) <=
        identity_tolerance<double>);
}

TEST_CASE("infer of the token convolution allocates nothing from the second token on",
          "[residual][token_convolution][infer]") {
  const Index kernel = GENERATE(Index(1), Index(2), Index(4));
  const Convolution convolution = convolution_of(kernel);
  const Matrix<double> X = states(6);
  auto state = convolution.make_state(1, 6);
  Convolution::Tape<> tape;
  convolution.infer(X.leftCols(3), state, tape);
  CHECK(allocations_in([&] {
          for (Index n = 1; n < 6; ++n) convolution.infer(X.middleCols(3 * n, 3), state, tape);
        }) == 0);
}

TEST_CASE("the token convolution refuses what does not fit", "[residual][token_convolution][errors]") {
  Random random(1);
  CHECK_THROWS_WITH(Convolution(5, 3, {0}, random),
                    "ddl::TokenConvolutionCompressor: kernel is 0, expected at least 1");
  const Convolution convolution = convolution_of(2);
  CHECK_THROWS_WITH(
      compressed(convolution, states(6), 4),
      "ddl::TokenConvolutionCompressor: the length of a sequence is 4, expected a divisor of the "
      "batch's 6 tokens");
  CHECK_THROWS_WITH(
      compressed(convolution, states(6), 0),
      "ddl::TokenConvolutionCompressor: the length of a sequence is 0, expected a divisor of the "
      "batch's 6 tokens");
  const Matrix<double> X = states(6);
  Convolution::Tape<> tape;
  const auto refused = [&](Convolution::State state, const auto& states, Index length,
                           const std::string& message) {
    state.history.setConstant(7);
    const Matrix<double> before = state.history;
    CHECK_THROWS_WITH(convolution.infer(states, state, tape, {Serial{}, length}),
                      "ddl::TokenConvolutionCompressor::infer: " + message);
    CHECK(state.history == before);
  };
  refused(convolution_of(3).make_state(1, 6), X, 6, "the history of the state is 5 x 6, expected 5 x 3");
  refused(convolution.make_state(2, 6), X, 6, "the history of the state is 5 x 6, expected 5 x 3");
  refused(convolution.make_state(1, 6), X, 4,
          "the length of a sequence is 4, expected a divisor of the batch's 6 tokens");
  refused(convolution.make_state(1, 6), X.topRows(4), 6, "X is 4 x 18, expected 5 x 18");
  refused(convolution.make_state(1, 6), X.leftCols(17), 5, "X is 5 x 17, expected 5 x 15");
  CHECK_THROWS_WITH(convolution.forward(X.leftCols(17), tape),
                    "ddl::TokenConvolutionCompressor: X is 5 x 17, expected 5 x 15");
}
