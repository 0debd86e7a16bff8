// SPDX-License-Identifier: MIT
#include "ddl/nn/embedding.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

/// Its x is drawn from a normal distribution; the tokens are made of it.
template <class Scalar, bool Fixed>
struct EmbeddingLayer
    : LayerBase<TokenEmbedding<Scalar, size<Fixed>(small_width)>, 1, size<Fixed>(small_width)> {
  using Tape = std::vector<int>;
  static constexpr bool has_dx = false;

  static Index x_rows(Index) { return 1; }
  auto make(Index width, Random& random) const {
    return typename EmbeddingLayer::Part(width - 3, width, random);
  }
  void forward(const auto& part, const auto& x, auto& y, auto& tokens, const ddl::Pass& pass) const {
    tokens.resize(static_cast<std::size_t>(x.cols()));
    for (Index n = 0; n < x.cols(); ++n)
      tokens[static_cast<std::size_t>(n)] =
          static_cast<int>(static_cast<Index>(std::abs(x(n)) * 100) % part.vocabulary());
    part.forward(tokens, y, pass);
  }
  void backward(const auto& part, const auto&, const auto&, const auto& dy, auto&, auto& tokens,
                auto& gradient, const ddl::Pass& pass) const {
    part.backward(tokens, dy, gradient, pass);
  }
};

TokenEmbedding<double> small_embedding() {
  Random random(1);
  return {4, 3, random, 1};
}

}  // namespace

TEST_CASE("the token embedding passes the suite", "[nn][embedding][grad]") { check_layer<EmbeddingLayer>(); }

TEST_CASE("a token is its row, as often as it comes", "[nn][embedding]") {
  const TokenEmbedding<double> embedding = small_embedding();
  TokenEmbedding<double> gradient = zeros_like(embedding);
  const std::vector<int> tokens = {3, 0, 3};
  Matrix<double> x(3, 3), dx(3, 3);
  embedding.forward(tokens, x);
  CHECK(x.transpose() == embedding.weight({3, 0, 3}, Eigen::all));
  dx << 1, 10, 100, 2, 20, 200, 3, 30, 300;
  embedding.backward(tokens, dx, gradient);
  Matrix<double> expected(4, 3);
  expected << 10, 20, 30, 0, 0, 0, 0, 0, 0, 101, 202, 303;
  CHECK(gradient.weight == expected);
}

TEST_CASE("features do not meet, however many there are", "[nn][embedding][grad]") {
  Random random(1);
  const TokenEmbedding<double> wide(4, 100, random);
  TokenEmbedding<double> narrow(4, 30, random), gradient = zeros_like(wide), last = zeros_like(narrow);
  const std::vector<int> tokens = {3, 0, 3};
  Matrix<double> dx(100, 3);
  fill(random, dx);
  wide.backward(tokens, dx, gradient);
  narrow.backward(tokens, dx.bottomRows(30), last);
  CHECK(gradient.weight.rightCols(30) == last.weight);
  CHECK_FALSE(last.weight.isZero(0));
}

TEST_CASE("a token that is not in the vocabulary is named, and nothing is written",
          "[nn][embedding][errors]") {
  const TokenEmbedding<double> embedding = small_embedding();
  TokenEmbedding<double> gradient = zeros_like(embedding);
  Matrix<double> x = Matrix<double>::Ones(3, 2);
  CHECK_THROWS_WITH(embedding.forward(std::vector{1, 4}, x),
                    "ddl::TokenEmbedding::forward: token 1 is 4, expected 0 to 3");
  CHECK_THROWS_WITH(embedding.backward(std::vector{-1, 4}, x, gradient),
                    "ddl::TokenEmbedding::backward: token 0 is -1, expected 0 to 3");
  CHECK_THROWS_WITH(embedding.forward(std::vector{1, 2, 3}, x),
                    "ddl::TokenEmbedding::forward: x is 3 x 2, expected 3 x 3");
  CHECK(x == Matrix<double>::Ones(3, 2));
  CHECK(gradient.weight.isZero(0));
  Random random(1);
  CHECK_THROWS_WITH(TokenEmbedding<double>(0, 3, random),
                    "ddl::TokenEmbedding: vocabulary is 0, expected at least 1");
  CHECK_THROWS_WITH((TokenEmbedding<double, 4>(2, 3, random)),
                    "ddl::TokenEmbedding: width is 3, expected 4 (fixed)");
}
