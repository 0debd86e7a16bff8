// SPDX-License-Identifier: MIT
#include "ddl/nn/delta_rule.hpp"

#include "ddl/core/thread_pool.hpp"
#include "support/layer_suite.hpp"
#include "support/ragged.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

static_assert(Sublayer<DeltaRule<float>> && Stateful<DeltaRule<double>> && !Norm<DeltaRule<float>>);

const DeltaRuleSettings delta_net = {.heads = 2, .head_dim = 3, .value_dim = 4};
const DeltaRuleSettings negative = {
    .heads = 2, .head_dim = 3, .negative_eigenvalues = true, .output_gate = true};
const DeltaRuleSettings write_only = {.heads = 2, .head_dim = 3, .update = UpdateRule::write_only};
const DeltaRuleSettings gated = {
    .heads = 2, .head_dim = 3, .value_dim = 4, .decay = true, .output_gate = true};
const DeltaRuleSettings delta_product = {.heads = 2,
                                         .value_heads = 4,
                                         .head_dim = 3,
                                         .edits = 3,
                                         .negative_eigenvalues = true,
                                         .decay = true,
                                         .convolution = {}};

template <class Scalar, bool>
struct DeltaRuleLayer : LayerBase<DeltaRule<Scalar>, Dynamic> {
  using Tape = typename DeltaRuleLayer::Part::template Tape<>;
  DeltaRuleSettings settings = delta_net;

  static Index y_rows(Index width) { return width + 1; }
  static GradientCheckSettings differences() { return {.step = 2e-4}; }
  auto make(Index width, Random& random) const {
    auto sized = settings;
    sized.norm_eps = 0.1;
    return DeltaRule<Scalar>(width, width + 1, sized, random);
  }
};

DeltaRule<double> mixer_of(const DeltaRuleSettings& settings) {
  Random random(3);
  DeltaRule<double> mixer(5, 5, settings, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p, 0.5); }, mixer);
  return mixer;
}

Matrix<double> tokens(Index count) {
  Random random(4);
  Matrix<double> c(5, count);
  fill(random, c);
  return c;
}

using Numbers = Vector<double>;

Numbers silu(const Numbers& x) { return x.array() / (1 + (-x.array()).exp()); }
double logistic(double x) { return 1 / (1 + std::exp(-x)); }

/// One sequence in plain steps, as the doc comment has it.
Matrix<double> dense(const DeltaRule<double>& mixer, const DeltaRuleSettings& settings,
                     const Matrix<double>& c) {
  const auto convolved = [&](const Linear<double>& linear, const ShortConvolution<double>& convolution,
                             Index t) {
    if (convolution.weight.size() == 0) return silu(linear.weight * c.col(t));
    Numbers sum = Numbers::Zero(linear.outputs());
    const Index K = convolution.weight.cols();
    for (Index back = 0; back < K && back <= t; ++back)
      sum += convolution.weight.col(K - 1 - back).cwiseProduct(linear.weight * c.col(t - back));
    return silu(sum);
  };
  const auto unit = [](const Numbers& x) -> Numbers { return x / std::sqrt(x.squaredNorm() + 1e-6); };
  const Index d = mixer.head_dim, m = mixer.value_dim, H = mixer.heads, HV = mixer.value_heads;
  Matrix<double> y(c.rows(), c.cols());
  std::vector<Matrix<double>> X(static_cast<std::size_t>(HV), Matrix<double>::Zero(d, m));
  for (Index t = 0; t < c.cols(); ++t) {
    const Numbers q = convolved(mixer.q_proj, mixer.q_conv1d, t),
                  k = convolved(mixer.k_proj, mixer.k_conv1d, t),
                  v = convolved(mixer.v_proj, mixer.v_conv1d, t), b = mixer.b_proj.weight * c.col(t);
    Numbers out(HV * m);
    for (Index h = 0; h < HV; ++h) {
      const Index hk = h / (HV / H);
      Matrix<double>& state = X[static_cast<std::size_t>(h)];
      if (settings.decay) {
        const double a = mixer.a_proj.weight.row(h).dot(c.col(t)) + mixer.dt_bias[h];
        state *= std::exp(-std::exp(mixer.A_log[h]) * std::log1p(std::exp(a)));
      }
      for (Index i = 0; i < mixer.edits; ++i) {
        const Numbers key = unit(k.segment((i * H + hk) * d, d)), value = v.segment((i * HV + h) * m, m);
        const double beta = (settings.negative_eigenvalues ? 2 : 1) * logistic(b[i * HV + h]);
        const Numbers read = state.transpose() * key;
        state += beta * key * (settings.update == UpdateRule::delta ? value - read : value).transpose();
      }
      Numbers o = state.transpose() * unit(q.segment(hk * d, d)) / std::sqrt(static_cast<double>(d));
      o = mixer.o_norm.weight.cwiseProduct(
          o / std::sqrt(o.squaredNorm() / static_cast<double>(m) + mixer.o_norm.eps));
      if (settings.output_gate) o = o.cwiseProduct(silu(mixer.g_proj.weight.middleRows(h * m, m) * c.col(t)));
      out.segment(h * m, m) = o;
    }
    y.col(t) = mixer.o_proj.weight * out;
  }
  return y;
}

}  // namespace

TEST_CASE("the delta rule over time passes the checks of a part", "[nn][delta_rule][grad]") {
  const auto settings = GENERATE(delta_net, negative, write_only, gated, delta_product);
  CAPTURE(settings.edits, settings.decay, settings.output_gate);
  const DeltaRuleLayer<double, false> layer{{}, settings};
  check_differences(layer);
  check_accumulation(layer);
  check_copies(layer);
  check_order(DeltaRuleLayer<float, false>{{}, settings});
  check_allocations(DeltaRuleLayer<float, false>{{}, settings}, 30, 40);
}

TEST_CASE("the delta rule over time is its definition, for every sequence", "[nn][delta_rule]") {
  const auto settings = GENERATE(delta_net, negative, write_only, gated, delta_product);
  const Index length = GENERATE(Index(1), Index(5), Index(70));
  CAPTURE(settings.edits, settings.decay, settings.output_gate, length);
  const auto mixer = mixer_of(settings);
  const Matrix<double> c = tokens(2 * length);
  Matrix<double> y(5, 2 * length);
  DeltaRule<double>::Tape<> tape;
  mixer.forward(c, y, tape, {Serial{}, length});
  for (const Index begin : {Index(0), length})
    CHECK(error(y.middleCols(begin, length), dense(mixer, settings, c.middleCols(begin, length))) <= 1e-12);
}

TEST_CASE("the delta rule over time continues sequences in a state of constant size",
          "[nn][delta_rule][infer]") {
  const auto settings = GENERATE(delta_net, negative, write_only, gated, delta_product);
  CAPTURE(settings.edits, settings.decay, settings.output_gate);
  const auto mixer = mixer_of(settings);
  constexpr Index length = 40;
  const Matrix<double> c = tokens(2 * length);
  Matrix<double> expected(5, 2 * length);
  DeltaRule<double>::Tape<> tape;
  mixer.forward(c, expected, tape, {Serial{}, length});
  auto state = mixer.make_state(2, 1);
  Index begin = 0;
  for (const Index count : {Index(1), Index(2), Index(30), Index(1), Index(6)}) {
    Matrix<double> run(5, 2 * count), y(5, 2 * count);
    for (Index s = 0; s < 2; ++s) run.middleCols(s * count, count) = c.middleCols(s * length + begin, count);
    mixer.infer(run, y, state, tape, {Serial{}, count, begin});
    for (Index s = 0; s < 2; ++s)
      CHECK(relative_error(y.middleCols(s * count, count).eval(),
                           expected.middleCols(s * length + begin, count).eval()) <= 1e-12);
    begin += count;
  }
}

TEST_CASE("the delta rule over time takes sequences of different lengths", "[nn][delta_rule][grad]") {
  const auto settings = GENERATE(delta_net, negative, gated, delta_product);
  CAPTURE(settings.edits, settings.decay, settings.output_gate);
  check_ragged(DeltaRuleLayer<double, false>{{}, settings});
  const auto mixer = mixer_of(settings);
  const std::vector<Index> offsets = {0, 12, 22}, first = {0, 2, 9}, second = {0, 10, 13};
  const Matrix<double> c = tokens(22);
  Matrix<double> expected(5, 22), run(5, 9), run2(5, 13), y(5, 22), y1(5, 9), y2(5, 13);
  DeltaRule<double>::Tape<> tape;
  mixer.forward(c, expected, tape, {Serial{}, offsets});
  auto state = mixer.make_state(2, 1);
  run << c.leftCols(2), c.middleCols(12, 7);
  run2 << c.middleCols(2, 10), c.rightCols(3);
  mixer.infer(run, y1, state, tape, {Serial{}, first});
  mixer.infer(run2, y2, state, tape, {Serial{}, second});
  y << y1.leftCols(2), y2.leftCols(10), y1.rightCols(7), y2.rightCols(3);
  CHECK(relative_error(y, expected) <= 1e-12);
}

TEST_CASE("tokens that a mixer takes back leave no trace", "[nn][delta_rule][infer]") {
  DeltaRuleSettings product = delta_product;
  product.decay = false;
  DeltaRuleSettings product_and_convolution = product;
  product_and_convolution.convolution = 3;
  const auto settings = GENERATE_COPY(delta_net, negative, product, product_and_convolution);
  CAPTURE(settings.edits, settings.convolution.value_or(0));
  const auto mixer = mixer_of(settings);
  const Matrix<double> c = tokens(2 * 18), seen = c.leftCols(20), others = c.middleCols(20, 8),
                       next = c.rightCols(8);
  DeltaRule<double>::Tape<> tape;
  const auto infer = [&](auto& state, const Matrix<double>& x, Index first, Index count) {
    const Index length = x.cols() / 2;
    Matrix<double> run(5, 2 * count), y(5, 2 * count);
    for (Index s = 0; s < 2; ++s) run.middleCols(s * count, count) = x.middleCols(s * length + first, count);
    mixer.infer(run, y, state, tape, {Serial{}, count});
    return y;
  };
  auto expected = mixer.make_state(2, 0), state = mixer.make_state(2, 0, 5);
  infer(expected, seen, 0, 6);
  const bool at_once = GENERATE(false, true);
  if (at_once)
    infer(state, seen, 0, 10);
  else
    for (Index t = 0; t < 10; ++t) infer(state, seen, t, 1);
  mixer.roll_back(state, 4);
  for (int again = 0; again < 2; ++again) {  // the second time, two steps back make the four
    CHECK(relative_error(state.memory, expected.memory) <= 1e-12);
    auto fork = expected;
    CHECK(relative_error(infer(state, others, 0, 4), infer(fork, others, 0, 4)) <= 1e-12);
    CHECK(relative_error(infer(state, next, 0, 1), infer(fork, next, 0, 1)) <= 1e-12);
    CHECK(state.recent(0) == 5);
    mixer.roll_back(state, 2);
    mixer.roll_back(state, 3);
  }
  CHECK_THROWS_WITH(
      mixer.roll_back(state, 1),
      "ddl::DeltaRule::roll_back: tokens is 1, expected from 0 to the 0 tokens that the state can take back");
}

TEST_CASE("what cannot be taken back is refused", "[nn][delta_rule][infer][errors]") {
  const auto mixer = mixer_of(delta_net);
  DeltaRule<double>::Tape<> tape;
  Matrix<double> y(5, 3);
  auto state = mixer.make_state(1, 0, 4), without = mixer.make_state(1, 0);
  mixer.infer(tokens(3), y, state, tape, {Serial{}, 3});
  const auto before = state;
  for (const Index count : {-1, 4}) {
    CHECK_THROWS_WITH(mixer.roll_back(state, count),
                      "ddl::DeltaRule::roll_back: tokens is " + std::to_string(count) +
                          ", expected from 0 to the 3 tokens that the state can take back");
    CHECK(state.memory == before.memory);
    CHECK(state.k_conv1d.history == before.k_conv1d.history);
  }
  CHECK_THROWS_WITH(
      mixer.roll_back(without, 0),
      "ddl::DeltaRule::roll_back: the state is made without a rollback, expected one of make_state "
      "with a rollback above 0");
  CHECK_THROWS_WITH(mixer.make_state(1, 0, -1),
                    "ddl::DeltaRule::make_state: rollback is -1, expected at least 0");
  CHECK_THROWS_WITH(
      mixer_of(gated).make_state(1, 0, 2),
      "ddl::DeltaRule::make_state: rollback is 2, expected 0 with decay: a decayed state cannot "
      "be taken back without loss; copy the state instead");
  CHECK_THROWS_WITH(mixer_of(delta_product).make_state(0, 0),
                    "ddl::DeltaRule::make_state: sequences is 0, expected at least 1");
}

TEST_CASE("a step of DeltaNet keeps at most 1.5 times the memory of the scan's inputs, outputs and gradients",
          "[nn][delta_rule]") {
  constexpr Index heads = 2, head_dim = 64, width = heads * head_dim, T = 4096;
  Random random(5);
  const DeltaRule<float> mixer(width, width, {.heads = heads}, random);
  Matrix<float> c(width, T), y(width, T), dc = Matrix<float>::Zero(width, T);
  fill(random, c);
  auto gradient = zeros_like(mixer);
  const Pass pass(Serial{}, T);
  const auto bytes = [&] {
    const long before = bytes_in_use;
    DeltaRule<float>::Tape<> tape;
    mixer.forward(c, y, tape, pass);
    Matrix<float> dy = y;
    mixer.backward(c, y, dy, dc, tape, gradient, pass);
    return bytes_in_use - before - dy.size() * long(sizeof(float));
  };
  bytes();  // what threads keep
  const double tensors = 2.0 * double(sizeof(float)) * double(T * (4 * width + heads)),
               share = double(bytes()) / tensors;
  CAPTURE(share);
  CHECK((share > 1 || !counts_malloc));
  CHECK(share <= 1.5);
}

TEST_CASE("the delta rule over time has the same bits on any number of threads",
          "[nn][delta_rule][threads]") {
  Random random(5);
  const DeltaRule<float> mixer(
      32, 32, {.heads = 4, .negative_eigenvalues = true, .decay = true, .output_gate = true}, random);
  Matrix<float> c(32, 256);
  fill(random, c);
  const auto run = [&](const auto& executor) {
    DeltaRule<float>::Tape<> tape;
    auto gradient = zeros_like(mixer);
    Matrix<float> y(32, 256), dc = Matrix<float>::Zero(32, 256);
    const Pass pass(executor, 64);
    mixer.forward(c, y, tape, pass);
    mixer.backward(c, y, y, dc, tape, gradient, pass);
    return std::tuple(y, dc, gradient);
  };
  const auto [y, dc, gradient] = run(Serial{});
  const auto [y3, dc3, gradient3] = run(ThreadPool(3));
  CHECK(y == y3);
  CHECK(dc == dc3);
  for_each_parameter([](const ParameterPath&, const auto& a, const auto& b) { CHECK(a == b); }, gradient,
                     gradient3);
}

TEST_CASE("the delta rule over time refuses what does not fit", "[nn][delta_rule][errors]") {
  Random random(1);
  const auto message = [&](const DeltaRuleSettings& settings) {
    try {
      DeltaRule<float>(6, 6, settings, random);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  CHECK(message({.heads = 0}) == "ddl::DeltaRule: heads is 0, expected at least 1");
  CHECK(message({.heads = 4}) ==
        "ddl::DeltaRule: heads is 4, expected a divisor of the 6 inputs, or a head_dim");
  CHECK(message({.heads = 2, .value_heads = 3}) ==
        "ddl::DeltaRule: value_heads is 3, expected a multiple of the 2 heads");
  CHECK(message({.heads = 2, .update = UpdateRule::additive}) ==
        "ddl::DeltaRule: update is additive, expected delta or write_only");
  CHECK(message({.heads = 2, .edits = 0}) == "ddl::DeltaRule: edits is 0, expected at least 1");
  CHECK(message({.heads = 2, .convolution = 0}) == "ddl::ShortConvolution: kernel is 0, expected at least 1");
  CHECK(message({.heads = 2, .head_dim = 0}) == "ddl::DeltaRule: head_dim is 0, expected at least 1");
}
