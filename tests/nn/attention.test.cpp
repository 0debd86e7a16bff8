// SPDX-License-Identifier: MIT
#include "ddl/nn/attention.hpp"

#include "ddl/core/thread_pool.hpp"
#include "support/layer_suite.hpp"
#include "support/ragged.hpp"
#include "support/sequences.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

template <class Scalar, bool Fixed>
struct AttentionLayer
    : LayerBase<CausalSelfAttention<Scalar, size<Fixed>(small_width), size<Fixed>(small_width + 1)>,
                size<Fixed>(small_width), size<Fixed>(small_width + 1)> {
  using Tape = typename AttentionLayer::Part::template Tape<size<Fixed>(small_samples)>;
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

Matrix<double> attended(const Attention& attention, const Matrix<double>& c, Index length) {
  Attention::Tape<> tape;
  Matrix<double> y(5, c.cols());
  attention.forward(c, y, tape, {Serial{}, length});
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
  const Matrix<double> y = attended(attention, c, 150);
  CHECK(all_finite(y));
  CHECK(relative_error(y, dense(attention, c)) <= undo_tolerance);
}

TEST_CASE("gradients hold across blocks and sequences", "[nn][attention][grad]") {
  const auto settings = GENERATE(plain, half_rotated, unnormalised, bare);
  CAPTURE(settings.rope_ratio, settings.qk_norm);
  const Index length = 150;
  Attention attention = attention_of(settings);
  Matrix<double> c = tokens(2 * length), dc = Matrix<double>::Zero(5, 2 * length), dy(5, 2 * length);
  Random random(5);
  fill(random, dy);
  Attention gradient = zeros_like(attention);
  Attention::Tape<> tape;
  const ddl::Pass pass(Serial{}, length);
  Matrix<double> y(5, 2 * length);
  attention.forward(c, y, tape, pass);
  attention.backward(c, y, dy, dc, tape, gradient, pass);

  // Along one random direction in each tensor: a gradient entry by entry would take too long.
  const auto check_along = [&](auto& variable, const auto& grad) {
    const Matrix<double> kept = variable;
    Matrix<double> direction(kept.rows(), kept.cols());
    fill(random, direction);
    Matrix<double> at = Matrix<double>::Zero(1, 1);
    const Matrix<double> given = Matrix<double>::Constant(1, 1, grad.cwiseProduct(direction).sum());
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

TEST_CASE("sequences of different lengths attend each on its own", "[nn][attention][grad]") {
  check_ragged(AttentionLayer<double, false>{});
  const std::vector<Index> offsets = {0, 1, 71, 74};
  const Attention attention = attention_of(plain);
  const Matrix<double> c = tokens(74);
  Matrix<double> expected(5, 74), y(5, 74), next(5, 3);
  Attention::Tape<> tape;
  attention.forward(c, expected, tape, {Serial{}, offsets});
  auto state = attention.make_state(3, 70);
  attention.infer(c, y, state, tape, {Serial{}, offsets});
  CHECK(error(y, expected) <= 1e-12);
  CHECK_THROWS_WITH(attention.infer(c, y, state, tape, {Serial{}, offsets, 1}),
                    "ddl::CausalSelfAttention::infer: a sequence is 71 tokens long, expected at most the "
                    "capacity of the state, 70");
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

TEST_CASE("infer over chunks of sequences is forward over all of them", "[nn][attention][infer]") {
  const auto settings = GENERATE(plain, half_rotated, unnormalised, bare);
  const Index sequences = GENERATE(Index(1), Index(2));
  // the first chunk, then chunks of the second size
  const auto [first, later] = GENERATE(table<Index, Index>(
      {{1, 1}, {150, 1}, {70, 1}, {63, 63}, {64, 64}, {65, 65}, {1, 64}, {64, 1}, {3, 147}}));
  const Index length = 150, capacity = length + GENERATE(Index(0), Index(13));
  CAPTURE(settings.rope_ratio, settings.qk_norm, sequences, first, later, capacity);
  const Attention attention = attention_of(settings);
  const Matrix<double> c = tokens(sequences * length), expected = attended(attention, c, length);
  Matrix<double> y(5, sequences * length);
  auto state = attention.make_state(sequences, capacity);
  Attention::Tape<> tape;
  for (int run = 0; run < 2; ++run) {  // the second one over what the first one left
    y.setZero();
    for (Index p = 0, count = first; p < length; p += count, count = (std::min)(later, length - p)) {
      Matrix<double> chunk(5, sequences * count);
      attention.infer(chunk_of(c, 1, length, p, count), chunk, state, tape, {Serial{}, count, p});
      put_chunk(y, 1, length, p, count, chunk);
    }
    CHECK(error(y, expected) <= 1e-12);
  }
}

TEST_CASE("a copied state of attention is a fork", "[nn][attention][infer]") {
  const Attention attention = attention_of(plain);
  const Index length = 80, prompt = 70;
  const Matrix<double> c = tokens(length);
  Matrix<double> other = c;
  other.rightCols(length - prompt) *= -1.5;
  const Matrix<double> expected = attended(attention, c, length),
                       expected_other = attended(attention, other, length);
  REQUIRE_FALSE(error(expected, expected_other) <= 0.1);
  Attention::Tape<> tape;
  Matrix<double> y(5, prompt), y_other(5, 1), y_next(5, 1);
  auto state = attention.make_state(1, length);
  attention.infer(c.leftCols(prompt), y, state, tape, {Serial{}, prompt});
  auto fork = state;
  for (Index p = prompt; p < length; ++p) {  // in turns
    attention.infer(other.col(p), y_other, fork, tape, {Serial{}, 1, p});
    attention.infer(c.col(p), y_next, state, tape, {Serial{}, 1, p});
    CHECK(error(y_other, expected_other.col(p)) <= 1e-12);
    CHECK(error(y_next, expected.col(p)) <= 1e-12);
  }
}

TEST_CASE("infer of attention allocates nothing from the second token on", "[nn][attention][infer]") {
  const auto settings = GENERATE(plain, half_rotated, unnormalised, bare);
  CAPTURE(settings.rope_ratio, settings.qk_norm);
  const Index length = 70;
  const Attention attention = attention_of(settings);
  const Matrix<double> c = tokens(length), expected = attended(attention, c, length);
  Matrix<double> y(5, length);
  auto state = attention.make_state(1, length);
  Attention::Tape<> tape;
  attention.infer(c.col(0), y.col(0), state, tape);
  CHECK(allocations_in([&] {
          for (Index p = 1; p < length; ++p)
            attention.infer(c.col(p), y.col(p), state, tape, {Serial{}, 1, p});
        }) == 0);
  CHECK(error(y, expected) <= 1e-12);
}

TEST_CASE("infer refuses what does not fit, and leaves the state", "[nn][attention][infer][errors]") {
  const Attention attention = attention_of(plain);
  const Matrix<double> c = tokens(6);
  Matrix<double> y(5, 6), one(5, 1), two(5, 2);
  Attention::Tape<> tape;
  auto state = attention.make_state(1, 6);
  attention.infer(c.leftCols(5), y.leftCols(5), state, tape, {Serial{}, 5});
  const auto refused = [&](const auto& in, Matrix<double>& out, const ddl::Pass& pass,
                           const std::string& message) {
    const auto before = state;
    CHECK_THROWS_WITH(attention.infer(in, out, state, tape, pass),
                      "ddl::CausalSelfAttention::infer: " + message);
    CHECK(state.key == before.key);
    CHECK(state.value == before.value);
  };
  const std::string capacity = "expected at most the capacity of the state, 6";
  refused(c.leftCols(2), two, {Serial{}, 2, 5}, "a sequence is 7 tokens long, " + capacity);
  refused(c.col(0), one, {Serial{}, 1, 6}, "a sequence is 7 tokens long, " + capacity);
  refused(c.col(0), one, {Serial{}, 1, -1}, "the position is -1, expected at least 0");
  refused(c.leftCols(5), y, {Serial{}, 2, 0},
          "the length of a sequence is 2, expected a divisor of the batch's 5 tokens");
  refused(c.topRows(4).col(0), one, {Serial{}, 1, 5}, "c is 4 x 1, expected 5 x 1");
  refused(c.col(5), y, {Serial{}, 1, 5}, "y is 5 x 6, expected 5 x 1");
  attention.infer(c.col(5), one, state, tape, {Serial{}, 1, 5});
  CHECK(error(one, attended(attention, c, 6).col(5)) <= 1e-12);
  refused(c.col(5), one, {Serial{}, 1, 6}, "a sequence is 7 tokens long, " + capacity);
  state.key.resize(11, 6);
  state.value.resize(11, 6);
  state.key.setZero();
  state.value.setZero();
  refused(c.col(5), one, {Serial{}, 1, 5}, "the keys of the state is 11 x 6, expected 12 x 6");
  CHECK_THROWS_WITH(attention.make_state(0, 6),
                    "ddl::CausalSelfAttention::make_state: sequences is 0, expected at least 1");
  CHECK_THROWS_WITH(attention.make_state(1, 0),
                    "ddl::CausalSelfAttention::make_state: capacity is 0, expected at least 1");
}

TEST_CASE("one thread and three give the same bits", "[nn][attention]") {
  const ThreadPool pool(3);
  const Attention attention = attention_of(plain);
  const Matrix<double> c = tokens(400);
  Matrix<double> y[2], dc[2];
  Attention gradient[2] = {zeros_like(attention), zeros_like(attention)};
  const auto run = [&](int i, const auto& executor) {
    Attention::Tape<> tape;
    const ddl::Pass pass(executor, 200);
    y[i].resize(5, 400);
    dc[i].setZero(5, 400);
    attention.forward(c, y[i], tape, pass);
    attention.backward(c, y[i], y[i], dc[i], tape, gradient[i], pass);
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
    Matrix<double> y(5, length), dc = Matrix<double>::Zero(5, length);
    Attention gradient = zeros_like(attention);
    const long before = bytes_in_use;
    Attention::Tape<> tape;
    const ddl::Pass pass(Serial{}, length);
    attention.forward(c, y, tape, pass);
    attention.backward(c, y, y, dc, tape, gradient, pass);
    return bytes_in_use - before;
  };
  bytes(1024);  // what threads keep
  const long more = bytes(1024) - bytes(512);
  CHECK((more > 0 || !counts_malloc));
  const Index inner = attention.heads * attention.head_dim;
  // five matrices of (heads head_dim) x N, four of heads x N, and the table
  const Index scalars = 5 * inner + 4 * attention.heads + attention.rotated;
  CHECK(more <= 512 * scalars * Index(sizeof(double)) + 4096);
}

TEST_CASE("attention maps an empty batch to an empty batch", "[nn][attention]") {
  const Attention attention = attention_of(plain);
  Attention gradient = zeros_like(attention);
  Attention::Tape<> tape;
  const Matrix<double> c(5, 0);
  Matrix<double> y(5, 0), dc(5, 0);
  attention.forward(c, y, tape);
  attention.backward(c, y, y, dc, tape, gradient);
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
                    "batch's 6 tokens");
  CHECK_THROWS_AS(attended(attention, tokens(6), 0), std::invalid_argument);
  CHECK_THROWS_AS(attended(attention, tokens(6), -2), std::invalid_argument);
  Attention::Tape<> tape;
  Matrix<double> y(5, 6);
  CHECK_THROWS_WITH(
      attention.forward(tokens(6), y, tape, {Serial{}, 6, 3}),
      "ddl::CausalSelfAttention::forward: the position is 3, expected 0: infer continues a sequence");
}
