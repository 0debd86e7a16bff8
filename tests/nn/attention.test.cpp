// SPDX-License-Identifier: MIT
#include "ddl/nn/attention.hpp"

#include "ddl/core/thread_pool.hpp"
#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

template <class Scalar, bool Fixed>
struct AttentionLayer
    : LayerBase<CausalSelfAttention<Scalar, size<Fixed>(small_width), size<Fixed>(small_width + 1)>,
                size<Fixed>(small_width), size<Fixed>(small_width + 1)> {
  using Cache = typename AttentionLayer::Part::template Cache<size<Fixed>(small_samples)>;
  bool qk_norm = true;
  double rope_ratio = 1;

  static Index y_rows(Index width) { return width + 1; }
  auto make(Index width, Random& random) const {
    return typename AttentionLayer::Part(width, width + 1,
                                         {.heads = 2,
                                          .head_dim = 6,
                                          .rope_base = 100,
                                          .rope_ratio = rope_ratio,
                                          .qk_norm = qk_norm,
                                          .norm_eps = 0.1},
                                         random);
  }
};

using Attention = CausalSelfAttention<double>;

/// 3 heads of 4 on a width of 5, weights at random.
Attention attention_of(const AttentionSettings& settings, double gain = 0.5) {
  Random random(3);
  Attention attention(5, 5, settings, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p, gain); }, attention);
  return attention;
}

Matrix<double> tokens(Index count) {
  Random random(4);
  Matrix<double> c(5, count);
  fill(random, c);
  return c;
}

Matrix<double> attended(const Attention& attention, const Matrix<double>& c, Index length = 0) {
  Attention::Cache<> cache;
  cache.length = length;
  Matrix<double> y(5, c.cols());
  attention.forward(c, y, cache);
  return y;
}

/// One head's query or key at position p, in plain steps.
Vector<double> placed(const Attention& a, const RmsNorm<double>& norm, Vector<double> x, Index p) {
  const Index half = a.rotated / 2;
  for (Index i = 0; i < half; ++i) {
    const double angle =
        static_cast<double>(p) * std::pow(a.rope_base, -static_cast<double>(i) / static_cast<double>(half));
    const auto turned = std::complex(x[i], x[i + half]) * std::polar(1.0, angle);
    x[i] = turned.real();
    x[i + half] = turned.imag();
  }
  if (norm.weight.size() == 0) return x;
  return norm.weight.cwiseProduct(x / std::sqrt(x.squaredNorm() / static_cast<double>(x.size()) + norm.eps));
}

/// One sequence, with all the scores of a query at once.
Matrix<double> dense(const Attention& a, const Matrix<double>& c) {
  const Index d = a.head_dim;
  const Matrix<double> Q = a.c_q.weight * c, K = a.c_k.weight * c, V = a.c_v.weight * c;
  Matrix<double> output(Q.rows(), c.cols());
  for (Index h = 0; h < a.heads; ++h)
    for (Index t = 0; t < c.cols(); ++t) {
      const Vector<double> q = placed(a, a.q_rms, Q.block(h * d, t, d, 1), t);
      Vector<double> scores(t + 1);
      for (Index s = 0; s <= t; ++s)
        scores[s] = q.dot(placed(a, a.k_rms, K.block(h * d, s, d, 1), s)) / std::sqrt(static_cast<double>(d));
      const Vector<double> p = (scores.array() - scores.maxCoeff()).exp();
      output.block(h * d, t, d, 1) = V.block(h * d, 0, d, t + 1) * p / p.sum();
    }
  return a.c_proj.weight * output;
}

const AttentionSettings plain = {.heads = 3, .head_dim = 4};
const AttentionSettings half_rotated = {.heads = 3, .head_dim = 4, .rope_base = 50, .rope_ratio = 0.5};
const AttentionSettings unnormalised = {.heads = 3, .head_dim = 4, .qk_norm = false};
const AttentionSettings bare = {.heads = 3, .head_dim = 5, .rope_ratio = 0, .qk_norm = false};

}  // namespace

TEST_CASE("attention passes the suite", "[nn][attention][grad]") {
  SECTION("rotated and normalised") { check_layer<AttentionLayer>(true, 1.0); }
  SECTION("half rotated") { check_layer<AttentionLayer>(true, 0.7); }
  SECTION("not normalised") { check_layer<AttentionLayer>(false, 1.0); }
}

TEST_CASE("attention in blocks is the softmax over all keys so far", "[nn][attention]") {
  const Index length = GENERATE(Index(1), Index(2), Index(63), Index(64), Index(65), Index(150));
  const auto settings = GENERATE(plain, half_rotated, unnormalised, bare);
  CAPTURE(length, settings.rope_ratio, settings.qk_norm);
  const Attention attention = attention_of(settings);
  const Matrix<double> c = tokens(2 * length), y = attended(attention, c, length);
  CHECK(error(y.leftCols(length).eval(), dense(attention, c.leftCols(length))) <=
        sequence_tolerance<double>(length));
  CHECK(error(y.rightCols(length).eval(), dense(attention, c.rightCols(length))) <=
        sequence_tolerance<double>(length));
}

TEST_CASE("scores far beyond what exp can take leave the softmax exact", "[nn][attention]") {
  const Attention attention = attention_of(unnormalised, 8);
  Matrix<double> c = tokens(150);
  for (Index n = 0; n < c.cols(); ++n) c.col(n) *= 0.1 * static_cast<double>(n);  // the largest come last
  const Matrix<double> y = attended(attention, c);
  CHECK(all_finite(y));
  CHECK(relative_error(y, dense(attention, c)) <= undo_tolerance);
}

TEST_CASE("gradients hold across blocks and sequences", "[nn][attention][grad]") {
  const auto settings = GENERATE(plain, half_rotated, unnormalised, bare);
  CAPTURE(settings.rope_ratio, settings.qk_norm);
  const Index length = 150;
  Attention attention = attention_of(settings);
  Matrix<double> c = tokens(2 * length), dc(5, 2 * length), dy(5, 2 * length);
  Random random(5);
  fill(random, dy);
  Attention gradient = zeros_like(attention);
  Attention::Cache<> cache;
  cache.length = length;
  Matrix<double> y(5, 2 * length);
  attention.forward(c, y, cache);
  attention.backward(c, cache, dy, dc, gradient);

  // Along one random direction in each tensor: a gradient entry by entry would take too long.
  const auto check_along = [&](auto& variable, const auto& slope) {
    const Matrix<double> kept = variable;
    Matrix<double> direction(kept.rows(), kept.cols());
    fill(random, direction);
    Matrix<double> at = Matrix<double>::Zero(1, 1);
    const Matrix<double> given = Matrix<double>::Constant(1, 1, slope.cwiseProduct(direction).sum());
    const GradientReport report = ddl::check_gradients(at, given, [&] {
      variable = kept + at(0) * direction;
      return attended(attention, c, length).cwiseProduct(dy).sum();
    });
    variable = kept;
    INFO(report.message());
    CHECK(report.passes(gradient_tolerance));
  };
  check_along(c, dc);
  for_each_parameter(
      [&](const ParameterPath& path, auto& p, const auto& g) {
        INFO(path.str());
        check_along(p, g);
      },
      attention, gradient);
}

TEST_CASE("no token sees a later one, nor another sequence", "[nn][attention]") {
  const Attention attention = attention_of(plain);
  const Index length = 100, changed = 70;
  Matrix<double> c = tokens(2 * length);
  const Matrix<double> before = attended(attention, c, length);
  c.col(changed) *= 2;
  const Matrix<double> after = attended(attention, c, length);
  for (Index n = 0; n < 2 * length; ++n) {
    CAPTURE(n);
    CHECK((before.col(n) == after.col(n)) == (n < changed || n >= length));
  }
}

TEST_CASE("decoding a token at a time is the full pass", "[nn][attention]") {
  const auto settings = GENERATE(plain, half_rotated, unnormalised, bare);
  CAPTURE(settings.rope_ratio, settings.qk_norm);
  const Index length = 70;
  const Attention attention = attention_of(settings);
  const Matrix<double> c = tokens(length), expected = attended(attention, c);
  Matrix<double> y(5, length);
  auto kept = attention.make_key_values(length);
  for (int run = 0; run < 2; ++run) {
    kept.count = 0;
    y.setZero();
    CHECK(allocations_in([&] {
            for (Index n = 0; n < length; ++n) attention.step(c.col(n), y.col(n), kept);
          }) == 0);
    CHECK(error(y, expected) <= sequence_tolerance<double>(length));
  }
}

TEST_CASE("one thread and three give the same bits", "[nn][attention]") {
  const ThreadPool pool(3);
  const Attention attention = attention_of(plain);
  const Matrix<double> c = tokens(400);
  Matrix<double> y[2], dc[2];
  Attention gradient[2] = {zeros_like(attention), zeros_like(attention)};
  const auto run = [&](int i, const auto& executor) {
    Attention::Cache<> cache;
    cache.length = 200;
    y[i].resize(5, 400);
    dc[i].resize(5, 400);
    attention.forward(c, y[i], cache, executor);
    attention.backward(c, cache, y[i], dc[i], gradient[i], executor);
  };
  run(0, Serial{});
  run(1, pool);
  CHECK(y[0] == y[1]);
  CHECK(dc[0] == dc[1]);
  for_each_parameter([](const ParameterPath&, const auto& a, const auto& b) { CHECK(a == b); }, gradient[0],
                     gradient[1]);
}

TEST_CASE("memory grows with the length of a sequence, not with its square", "[nn][attention]") {
  const Attention attention = attention_of(plain);
  const auto bytes = [&](Index length) {
    const Matrix<double> c = tokens(length);
    Matrix<double> y(5, length), dc(5, length);
    Attention gradient = zeros_like(attention);
    const long before = bytes_in_use;
    Attention::Cache<> cache;
    attention.forward(c, y, cache);
    attention.backward(c, cache, y, dc, gradient);
    return bytes_in_use - before;
  };
  bytes(1024);  // what threads keep
  const long more = bytes(1024) - bytes(512);
  CHECK((more > 0 || !counts_malloc));
  CHECK(more <= 512 * (attention.cache_scalars() + attention.rotated) * Index(sizeof(double)) + 4096);
}

TEST_CASE("attention maps an empty batch to an empty batch", "[nn][attention]") {
  const Attention attention = attention_of(plain);
  Attention gradient = zeros_like(attention);
  Attention::Cache<> cache;
  const Matrix<double> c(5, 0);
  Matrix<double> y(5, 0);
  attention.forward(c, y, cache);
  attention.backward(c, cache, y, y, gradient);
  for_each_parameter([](const ParameterPath&, const auto& p) { CHECK(p.isZero(0)); }, gradient);
}

TEST_CASE("a head is the inputs divided by the heads unless said", "[nn][attention]") {
  Random random(1);
  const Attention attention(12, 12, {.heads = 3}, random);
  CHECK(attention.head_dim == 4);
  CHECK(parameter_count(attention) == 4 * 144 + 8);
  CHECK(parameter_count(attention_of(unnormalised)) == 4 * 60);
}

TEST_CASE("attention refuses settings and sequences that do not fit", "[nn][attention][errors]") {
  Random random(1);
  const auto made = [&](const AttentionSettings& settings) { Attention(12, 12, settings, random); };
  CHECK_THROWS_WITH(made({.heads = 0}), "ddl::CausalSelfAttention: heads is 0, expected at least 1");
  CHECK_THROWS_WITH(
      made({.heads = 5}),
      "ddl::CausalSelfAttention: heads is 5, expected a divisor of the 12 inputs, or a head_dim");
  CHECK_THROWS_WITH(made({.head_dim = -1}), "ddl::CausalSelfAttention: head_dim is -1, expected at least 1");
  CHECK_THROWS_WITH(made({.heads = 4}),
                    "ddl::CausalSelfAttention: head_dim is 3, expected an even number, or a rope_ratio of 0");
  CHECK_THROWS_WITH(made({.rope_base = 0}),
                    "ddl::CausalSelfAttention: rope_base is 0, expected a number above 0");
  CHECK_THROWS_WITH(made({.rope_ratio = -1}),
                    "ddl::CausalSelfAttention: rope_ratio is -1, expected a number from 0 to 1");
  CHECK_THROWS_WITH(made({.norm_eps = 0}), "ddl::RmsNorm: eps is 0, expected a number above 0");

  const Attention attention = attention_of(plain);
  CHECK_THROWS_WITH(attended(attention, tokens(6), 4),
                    "ddl::CausalSelfAttention: the length of a sequence is 4, expected a divisor of the "
                    "batch's 6 tokens, or 0 for one sequence");
  CHECK_THROWS_AS(attended(attention, tokens(6), -2), std::invalid_argument);
  CHECK_THROWS_AS(attention.make_key_values(0), std::invalid_argument);
  auto kept = attention.make_key_values(1);
  const Matrix<double> c = tokens(2);
  Matrix<double> y(5, 1);
  CHECK_THROWS_WITH(attention.step(c, y, kept), "ddl::CausalSelfAttention::step: c is 5 x 2, expected 5 x 1");
  attention.step(c.col(0), y, kept);
  CHECK_THROWS_WITH(attention.step(c.col(1), y, kept),
                    "ddl::CausalSelfAttention::step: the sequence is 2 tokens long, expected at most the "
                    "capacity, 1");
}
