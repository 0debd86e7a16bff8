// SPDX-License-Identifier: MIT
#include "ddl/residual/embedding_convolution.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

constexpr int channels = 3;

template <class Scalar, bool Fixed>
struct ExpansionLayer
    : LayerBase<EmbeddingConvolution<Scalar, size<Fixed>(small_width), size<Fixed>(channels)>,
                size<Fixed>(small_width)> {
  using Cache = typename ExpansionLayer::Part::Cache;
  Index kernel;

  static Index y_cols(Index samples) { return samples * channels; }
  auto make(Index width, Random& random) const {
    return typename ExpansionLayer::Part({kernel}, width, channels, random);
  }
};

using Expansion = EmbeddingConvolution<double>;

/// From a width of 5, weights at random.
Expansion expansion_of(Index kernel) {
  Random random(1);
  Expansion expansion({kernel}, 5, channels, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p); }, expansion);
  return expansion;
}

Matrix<double> drawn(Index cols) {
  Random random(2);
  Matrix<double> x(5, cols);
  fill(random, x);
  return x;
}

Matrix<double> expanded(const Expansion& expansion, const Matrix<double>& x, Index length = 0) {
  Matrix<double> X(5, x.cols() * channels);
  Expansion::Cache cache;
  cache.length = length;
  expansion.forward(x, X, cache);
  return X;
}

}  // namespace

TEST_CASE("the expansion passes the suite", "[residual][embedding_convolution][grad]") {
  const Index kernel = GENERATE(Index(0), Index(1), Index(2), Index(4));
  CAPTURE(kernel);
  check_layer<ExpansionLayer>(kernel);
}

TEST_CASE("the expansion is a convolution over tokens for every channel",
          "[residual][embedding_convolution]") {
  const Index K = GENERATE(Index(1), Index(2), Index(4));
  const Index length = GENERATE(Index(1), Index(3), Index(6));
  CAPTURE(K, length);
  const Expansion expansion = expansion_of(K);
  const Matrix<double> x = drawn(6);
  Matrix<double> expected = Matrix<double>::Zero(5, 6 * channels);
  for (Index n = 0; n < 6; ++n)
    for (Index j = 0; j < channels; ++j)
      for (Index t = 0; t < K; ++t)
        if (const Index source = n - (K - 1) + t; source >= n / length * length)
          expected.col(n * channels + j) +=
              detail::tap_of(expansion.weight, channels, t).row(j).transpose().cwiseProduct(x.col(source));
  CHECK(error(expanded(expansion, x, length), expected) <= identity_tolerance<double>);
}

TEST_CASE("the expansion starts at the repetition, and is it without a kernel",
          "[residual][embedding_convolution]") {
  const Index kernel = GENERATE(Index(0), Index(1), Index(4));
  Random random(1);
  const Expansion expansion({kernel}, 5, channels, random);
  const Matrix<double> x = drawn(4), X = expanded(expansion, x);
  for (Index n = 0; n < X.cols(); ++n) CHECK(X.col(n) == x.col(n / channels));
  CHECK(parameter_count(expansion) == 5 * channels * kernel);
}

TEST_CASE("the gradients of a batch are those of its sequences", "[residual][embedding_convolution][grad]") {
  const Index sequences = GENERATE(Index(2), Index(1510));  // the second: ranges of tokens end within sequences
  CAPTURE(sequences);
  const Expansion expansion = expansion_of(4);
  const Index tokens = 3 * sequences;
  const Matrix<double> x = drawn(tokens), dX = drawn(tokens * channels);
  Matrix<double> dx[2] = {drawn(tokens), drawn(tokens)};
  Expansion gradient[2] = {zeros_like(expansion), zeros_like(expansion)};
  Expansion::Cache cache;
  cache.length = 3;
  Matrix<double> X(5, tokens * channels);
  expansion.forward(x, X, cache);
  expansion.backward(x, cache, dX, dx[0], gradient[0]);
  for (Index b = 0; b < sequences; ++b)
    expansion.backward(x.middleCols(3 * b, 3), cache, dX.middleCols(9 * b, 9), dx[1].middleCols(3 * b, 3),
                       gradient[1]);
  CHECK(dx[0] == dx[1]);
  CHECK(error(gradient[0].weight, gradient[1].weight) <= identity_tolerance<double>);
}

TEST_CASE("decoding a token at a time is the expansion of all", "[residual][embedding_convolution]") {
  const Index kernel = GENERATE(Index(0), Index(1), Index(2), Index(4));
  const Expansion expansion = expansion_of(kernel);
  const Matrix<double> x = drawn(6);
  Matrix<double> X(5, 6 * channels);
  auto history = expansion.make_history();
  CHECK(allocations_in([&] {
          for (Index n = 0; n < 6; ++n)
            expansion.step(x.col(n), X.middleCols(n * channels, channels), history);
        }) == 0);
  CHECK(error(X, expanded(expansion, x)) <= identity_tolerance<double>);
}

TEST_CASE("the expansion refuses what does not fit", "[residual][embedding_convolution][errors]") {
  Random random(1);
  CHECK_THROWS_WITH(Expansion({-1}, 5, 3, random),
                    "ddl::EmbeddingConvolution: kernel is -1, expected at least 1, or 0 for repetition");
  CHECK_THROWS_WITH(Expansion({}, 0, 3, random),
                    "ddl::EmbeddingConvolution: width is 0, expected at least 1");
  CHECK_THROWS_WITH(Expansion({}, 5, 0, random),
                    "ddl::EmbeddingConvolution: value_channels is 0, expected at least 1");
  const Expansion expansion = expansion_of(2);
  CHECK_THROWS_WITH(
      expanded(expansion, drawn(6), 4),
      "ddl::EmbeddingConvolution::forward: the length of a sequence is 4, expected a divisor of "
      "the batch's 6 tokens, or 0 for one sequence");
  Matrix<double> X(5, 6);
  Expansion::Cache cache;
  CHECK_THROWS_WITH(expansion.forward(drawn(6), X, cache),
                    "ddl::EmbeddingConvolution::forward: X is 5 x 6, expected 5 x 18");
}
