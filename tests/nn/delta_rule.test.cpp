// SPDX-License-Identifier: MIT
#include "ddl/nn/delta_rule.hpp"

#include "ddl/core/thread_pool.hpp"
#include "support/layer_suite.hpp"

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
