// SPDX-License-Identifier: MIT
#include "ddl/residual/state_expansion.hpp"

#include "support/layer_suite.hpp"
#include "support/ragged.hpp"
#include "support/sequences.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

constexpr int channels = 3;

template <class Scalar, bool Fixed>
struct ExpansionLayer : LayerBase<StateExpansion<Scalar, size<Fixed>(small_width), size<Fixed>(channels)>,
                                  size<Fixed>(small_width)> {
  using Tape = typename ExpansionLayer::Part::Tape;
  std::optional<Index> kernel;

  static Index y_cols(Index samples) { return samples * channels; }
  auto make(Index width, Random& random) const {
    return typename ExpansionLayer::Part(width, channels, {kernel}, random);
  }
  static void backward(const auto& part, const auto& x, const auto&, const auto& dy, auto& dx, auto& tape,
                       auto& gradient, const ddl::Pass& pass) {
    part.backward(x, dy, dx, tape, gradient, pass);
  }
};

using Expansion = StateExpansion<double>;
using Kernel = std::optional<Index>;

/// From a width of 5, weights at random.
Expansion expansion_of(std::optional<Index> kernel) {
  Random random(1);
  Expansion expansion(5, channels, {kernel}, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p); }, expansion);
  return expansion;
}

Matrix<double> drawn(Index cols) {
  Random random(2);
  Matrix<double> x(5, cols);
  fill(random, x);
  return x;
}

Matrix<double> expanded(const Expansion& expansion, const Matrix<double>& x, Index length) {
  Matrix<double> X(5, x.cols() * channels);
  Expansion::Tape tape;
  expansion.forward(x, X, tape, {Serial{}, length});
  return X;
}

}  // namespace

TEST_CASE("the expansion takes sequences of different lengths", "[residual][state_expansion][grad]") {
  check_ragged(ExpansionLayer<double, false>{{}, 4});
}

TEST_CASE("the expansion passes the suite", "[residual][state_expansion][grad]") {
  const Kernel kernel = GENERATE(Kernel(), Kernel(1), Kernel(2), Kernel(4));
  CAPTURE(kernel.value_or(0));
  check_layer<ExpansionLayer>(kernel);
}

TEST_CASE("the expansion is a convolution over tokens for every channel", "[residual][state_expansion]") {
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
          "[residual][state_expansion]") {
  const Kernel kernel = GENERATE(Kernel(), Kernel(1), Kernel(4));
  Random random(1);
  const Expansion expansion(5, channels, {kernel}, random);
  const Matrix<double> x = drawn(4), X = expanded(expansion, x, 4);
  for (Index n = 0; n < X.cols(); ++n) CHECK(X.col(n) == x.col(n / channels));
  CHECK(parameter_count(expansion) == 5 * channels * kernel.value_or(0));
}

TEST_CASE("the gradients of a batch are those of its sequences", "[residual][state_expansion][grad]") {
  const Index sequences =
      GENERATE(Index(2), Index(1510));  // the second: ranges of tokens end within sequences
  CAPTURE(sequences);
  const Expansion expansion = expansion_of(4);
  const Index tokens = 3 * sequences;
  const Matrix<double> x = drawn(tokens), dX = drawn(tokens * channels);
  Matrix<double> dx[2] = {drawn(tokens), drawn(tokens)};
  Expansion gradient[2] = {zeros_like(expansion), zeros_like(expansion)};
  Expansion::Tape tape;
  const ddl::Pass pass(Serial{}, 3);
  Matrix<double> X(5, tokens * channels);
  expansion.forward(x, X, tape, pass);
  expansion.backward(x, dX, dx[0], tape, gradient[0], pass);
  for (Index b = 0; b < sequences; ++b)
    expansion.backward(x.middleCols(3 * b, 3), dX.middleCols(9 * b, 9), dx[1].middleCols(3 * b, 3), tape,
                       gradient[1], pass);
  CHECK(dx[0] == dx[1]);
  CHECK(error(gradient[0].weight, gradient[1].weight) <= identity_tolerance<double>);
}

TEST_CASE("infer over chunks of sequences is the expansion of all of them",
          "[residual][state_expansion][infer]") {
  const Kernel kernel = GENERATE(Kernel(), Kernel(1), Kernel(2), Kernel(4));
  const Index sequences = GENERATE(Index(1), Index(2));
  // the first chunk, then chunks of the second size: shorter than a kernel, as long as it, and longer
  const auto [first, later] =
      GENERATE(table<Index, Index>({{1, 1}, {6, 1}, {1, 6}, {2, 3}, {3, 2}, {5, 4}, {9, 1}}));
  CAPTURE(kernel.value_or(0), sequences, first, later);
  const Index length = 10;
  const Expansion expansion = expansion_of(kernel);
  const Matrix<double> x = drawn(sequences * length), expected = expanded(expansion, x, length);
  Matrix<double> X(5, sequences * length * channels);
  auto state = expansion.make_state(sequences, length);
  CHECK(state.history.cols() == (kernel.value_or(1) - 1) * sequences);
  Expansion::Tape tape;
  for (Index p = 0, count = first; p < length; p += count, count = (std::min)(later, length - p)) {
    Matrix<double> chunk(5, sequences * count * channels);
    expansion.infer(chunk_of(x, 1, length, p, count), chunk, state, tape, {Serial{}, count, p});
    put_chunk(X, channels, length, p, count, chunk);
  }
  CHECK(error(X, expected) <= identity_tolerance<double>);
}

TEST_CASE("a copied state of the expansion is a fork, and a state at zero a new sequence",
          "[residual][state_expansion][infer]") {
  const Expansion expansion = expansion_of(4);
  const Matrix<double> x = drawn(6), other = 2 * x.rightCols(3);
  Matrix<double> forked(5, 6), X(5, 3 * channels), all(5, 6 * channels);
  forked << x.leftCols(3), other;
  Expansion::Tape tape;
  const ddl::Pass three(Serial{}, 3);
  auto state = expansion.make_state(1, 6);
  expansion.infer(x.leftCols(3), X, state, tape, three);
  auto fork = state;
  expansion.infer(other, X, fork, tape, three);
  CHECK(error(X, expanded(expansion, forked, 6).rightCols(9)) <= identity_tolerance<double>);
  expansion.infer(x.rightCols(3), X, state, tape, three);
  CHECK(error(X, expanded(expansion, x, 6).rightCols(9)) <= identity_tolerance<double>);
  set_zero(state);
  expansion.infer(x, all, state, tape, {Serial{}, 6});
  CHECK(error(all, expanded(expansion, x, 6)) <= identity_tolerance<double>);
}

TEST_CASE("infer of the expansion allocates nothing from the second token on",
          "[residual][state_expansion][infer]") {
  const Kernel kernel = GENERATE(Kernel(), Kernel(1), Kernel(2), Kernel(4));
  const Expansion expansion = expansion_of(kernel);
  const Matrix<double> x = drawn(6);
  Matrix<double> X(5, channels);
  auto state = expansion.make_state(1, 6);
  Expansion::Tape tape;
  expansion.infer(x.col(0), X, state, tape);
  CHECK(allocations_in([&] {
          for (Index n = 1; n < 6; ++n) expansion.infer(x.col(n), X, state, tape);
        }) == 0);
}

TEST_CASE("the expansion refuses what does not fit", "[residual][state_expansion][errors]") {
  Random random(1);
  CHECK_THROWS_WITH(Expansion(5, 3, {-1}, random), "ddl::StateExpansion: kernel is -1, expected at least 1");
  CHECK_THROWS_WITH(Expansion(5, 3, {0}, random), "ddl::StateExpansion: kernel is 0, expected at least 1");
  CHECK_THROWS_WITH(Expansion(0, 3, {}, random), "ddl::StateExpansion: width is 0, expected at least 1");
  CHECK_THROWS_WITH(Expansion(5, 0, {}, random),
                    "ddl::StateExpansion: value_channels is 0, expected at least 1");
  const Expansion expansion = expansion_of(2);
  CHECK_THROWS_WITH(expanded(expansion, drawn(6), 4),
                    "ddl::StateExpansion: the length of a sequence is 4, expected a divisor of "
                    "the batch's 6 tokens");
  Matrix<double> X(5, 6), fits(5, 18);
  Expansion::Tape tape;
  CHECK_THROWS_WITH(expansion.forward(drawn(6), X, tape), "ddl::StateExpansion: X is 5 x 6, expected 5 x 18");
  const auto refused = [&](Expansion::State state, const Matrix<double>& x, Matrix<double>& out, Index length,
                           const std::string& message) {
    state.history.setConstant(7);
    const Matrix<double> before = state.history;
    CHECK_THROWS_WITH(expansion.infer(x, out, state, tape, {Serial{}, length}),
                      "ddl::StateExpansion::infer: " + message);
    CHECK(state.history == before);
  };
  const Matrix<double> x = drawn(6);
  refused(expansion_of(3).make_state(1, 6), x, fits, 6, "the history of the state is 5 x 2, expected 5 x 1");
  refused(expansion.make_state(2, 6), x, fits, 6, "the history of the state is 5 x 2, expected 5 x 1");
  refused(expansion.make_state(1, 6), x, fits, 4,
          "the length of a sequence is 4, expected a divisor of the batch's 6 tokens");
  refused(expansion.make_state(1, 6), x.topRows(4), fits, 6, "x is 4 x 6, expected 5 x 6");
  refused(expansion.make_state(1, 6), x, X, 6, "X is 5 x 6, expected 5 x 18");
}
