// SPDX-License-Identifier: MIT
#include "ddl/analysis/gate_audit.hpp"

#include <limits>
#include <numeric>
#include <vector>

#include "ddl/model/delta_resnet.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/op_data.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

namespace {

using Net = DeltaResNet<double>;
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

/// A net with all its parameters drawn at random, gates included, which start as constants.
template <class N = Net>
N random_net(UpdateRule rule, std::uint64_t seed, Index depth = 3) {
  typename N::Settings settings{.inputs = 5, .outputs = 2, .width = 6, .value_channels = 2, .depth = depth};
  settings.block.update = rule;
  settings.block.k_eps = 0.3;  // |k| is well below 1
  N net(settings, seed);
  Random random(seed + 100);
  for_each_parameter([&](const ParameterPath&, auto& p) { random.fill_normal(p, 0.6); }, net);
  return net;
}

/// The edits of a stack, made by hand.
struct HandMade {
  struct Edit {
    EditInputs<double> inputs;
    EditTape<double> tape;
  };
  std::vector<Edit> edits;

  HandMade() = default;
  /// Along the first axis with beta 1; the values are 1 and the reads 0.
  HandMade(std::size_t depth, Index d, Index m, Index N) : edits(depth) {
    for (auto& [inputs, tape] : edits) {
      inputs.resize(d, m, N);
      inputs.direction.setZero();
      inputs.direction.row(0).setOnes();
      inputs.beta.setOnes();
      inputs.value.setOnes();
      tape.inverse_norm.setOnes(1, N);
      tape.read.setZero(m, N);
    }
  }
  /// Samples begin .. begin + count - 1.
  HandMade slice(Index begin, Index count) const {
    HandMade part = *this;
    for (auto& [inputs, tape] : part.edits)
      for (auto* matrix : {&inputs.direction, &inputs.value, &tape.read})
        *matrix = matrix->middleCols(begin, count).eval();
    for (auto& [inputs, tape] : part.edits)
      for (auto* row : {&inputs.beta, &tape.inverse_norm}) *row = row->middleCols(begin, count).eval();
    return part;
  }
};

/// The edits of a net on random inputs.
HandMade taken_from(const Net& net, Index N, std::uint64_t seed) {
  Random random(seed);
  auto tape = net.make_tape();
  net.forward(random_matrix<Matrix<double>>(random, net.inputs(), N), tape);
  HandMade taken;
  net.for_each_edit(tape, [&](const auto&, const auto& edit) {
    taken.edits.push_back({edit.inputs, edit.tape});
  });
  return taken;
}

LayerAudit audit_of(const HandMade& made, UpdateRule rule = UpdateRule::delta, std::size_t layer = 0) {
  GateAudit audit(rule, static_cast<Index>(made.edits.size()), made.edits[0].inputs.direction.rows());
  audit.add_edits(made.edits);
  return audit.layers()[layer];
}

/// Every figure against its definition on all the values at once.
void check_distribution(const Distribution& given, std::vector<double> values, bool bins) {
  REQUIRE(given.count == static_cast<Index>(values.size()));
  const double n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double x : values) squares += (x - mean) * (x - mean);
  CHECK(std::abs(given.mean - mean) <= derivative_tolerance<double>);
  CHECK(std::abs(given.deviation() - std::sqrt(squares / (n - 1))) <= derivative_tolerance<double>);
  std::sort(values.begin(), values.end());
  CHECK(std::abs(given.smallest - values.front()) <= derivative_tolerance<double>);
  CHECK(std::abs(given.largest - values.back()) <= derivative_tolerance<double>);
  CHECK(given.counts.empty() == !bins);
  if (!bins) return;
  const double width = (given.high - given.low) / static_cast<double>(given.counts.size());
  for (std::size_t i = 0; i < given.counts.size(); ++i) {
    const double left = given.low + width * static_cast<double>(i);
    CHECK(given.counts[i] ==
          std::ranges::count_if(values, [&](double x) { return x >= left && x < left + width; }));
  }
  for (const double share : {0.05, 0.25, 0.5, 0.95}) {
    const auto at = static_cast<std::size_t>(share * n);
    // Between two values there is nothing to interpolate from but their bins.
    CHECK(given.quantile(share) >= values[at > 0 ? at - 1 : 0] - width);
    CHECK(given.quantile(share) <= values[at] + width);
  }
  CHECK(given.quantile(0) == given.smallest);
  CHECK(given.quantile(1) == given.largest);
}

void check_equal(const Distribution& a, const Distribution& b, double tolerance) {
  CHECK(a.counts == b.counts);
  CHECK(a.count == b.count);
  CHECK(std::abs(a.mean - b.mean) <= tolerance);
  CHECK(std::abs(a.squares - b.squares) <= tolerance * static_cast<double>(b.count));
  CHECK(a.smallest == b.smallest);
  CHECK(a.largest == b.largest);
}

void check_equal(const LayerAudit& a, const LayerAudit& b, double tolerance) {
  CHECK(a.samples == b.samples);
  CHECK(a.not_finite == b.not_finite);
  CHECK(a.regimes == b.regimes);
  CHECK(a.reduced == b.reduced);
  check_equal(a.beta, b.beta, tolerance);
  check_equal(a.before, b.before, tolerance);
  check_equal(a.after, b.after, tolerance);
  check_equal(a.cosine, b.cosine, tolerance);
  CHECK(std::abs(a.effective_rank - b.effective_rank) <= undo_tolerance);
  CHECK(std::abs(a.stable_rank - b.stable_rank) <= undo_tolerance);
}

}  // namespace

TEST_CASE("an audit is what its definitions say, computed from the states", "[analysis][gate_audit]") {
  const UpdateRule rule = GENERATE(UpdateRule::delta, UpdateRule::write_only);
  CAPTURE(name_of(rule));
  constexpr Index N = 50, m = 2;
  const Net net = random_net(rule, 1);
  Random random(2);
  auto tape = net.make_tape();
  net.forward(random_matrix<Matrix<double>>(random, 5, N), tape);
  GateAudit audit(net, {.bins = 16});
  audit.add(net, tape);
  const auto layers = audit.layers();
  REQUIRE(layers.size() == 3);
  CHECK(audit.samples() == N);

  Matrix<double> previous;
  Index reduced_in_all = 0;
  for (std::size_t l = 0; l < 3; ++l) {
    const LayerAudit& layer = layers[l];
    const Matrix<double>&X = tape.states[l], &Y = tape.states[l + 1], &kt = tape.edits[l].inputs.direction;
    Matrix<double> k = kt;
    std::vector<double> betas, before, after, cosines;
    std::array<Index, 4> regimes{};
    Index reduced = 0;
    for (Index n = 0; n < N; ++n) {
      k.col(n) /= std::sqrt(kt.col(n).squaredNorm() + net.layers[l].k_eps * net.layers[l].k_eps);
      const Vector<double> v = tape.edits[l].inputs.value.col(n);
      betas.push_back(tape.edits[l].inputs.beta(n));
      before.push_back((X.middleCols(n * m, m).transpose() * k.col(n) - v).norm());
      after.push_back((Y.middleCols(n * m, m).transpose() * k.col(n) - v).norm());
      reduced += after.back() < before.back();
      ++regimes[static_cast<std::size_t>(regime_of(betas.back() * k.col(n).squaredNorm()))];
      if (l > 0) cosines.push_back(std::abs(k.col(n).normalized().dot(previous.col(n).normalized())));
    }
    CHECK(layer.samples == N);
    CHECK(layer.not_finite == 0);
    CHECK(layer.beta.deviation() > 0.1);  // the gates differ
    check_distribution(layer.beta, betas, true);
    CHECK(layer.regimes == regimes);
    CHECK(layer.share(regimes[1]) == static_cast<double>(regimes[1]) / N);
    check_distribution(layer.before, before, false);
    check_distribution(layer.after, after, false);
    CHECK(layer.ratio() == layer.after.mean / layer.before.mean);
    CHECK(layer.reduced == reduced);
    reduced_in_all += reduced;
    if (l > 0)
      check_distribution(layer.cosine, cosines, true);
    else
      CHECK(layer.cosine.count == 0);
    const auto written = singular_values(Y - X);  // side by side, all that the layer wrote
    CHECK(std::abs(layer.effective_rank - effective_rank(written)) <= gradient_tolerance);
    CHECK(std::abs(layer.stable_rank - stable_rank(written)) <= gradient_tolerance);
    CHECK(layer.effective_rank > 1.5);
    previous = k;
  }
  // The delta rule reduces by construction, plain writes need not.
  CHECK((reduced_in_all == 3 * N) == (rule == UpdateRule::delta));
}

TEST_CASE("spectra of chosen samples, wherever their batch ends", "[analysis][gate_audit]") {
  const UpdateRule rule = GENERATE(UpdateRule::delta, UpdateRule::write_only);
  const HandMade made = taken_from(random_net(rule, 3), 12, 4);
  GateAudit audit(rule, 3, 6, {.shortcuts = {7, 0, 3, 99}});
  for (const Index begin : {0, 4, 8}) audit.add_edits(made.slice(begin, 4).edits);
  REQUIRE(audit.shortcuts().size() == 3);  // sample 99 did not come
  const std::vector<Index> expected = {0, 3, 7};
  for (std::size_t i = 0; i < 3; ++i) {
    const auto& [sample, spectrum] = audit.shortcuts()[i];
    CAPTURE(name_of(rule), sample);
    CHECK(std::ranges::count(expected, sample) == 1);
    Matrix<double> dense = Matrix<double>::Identity(6, 6);
    if (rule == UpdateRule::delta)
      for (const auto& [inputs, tape] : made.edits) {
        const Vector<double> k = tape.inverse_norm(sample) * inputs.direction.col(sample);
        dense = (dense - inputs.beta(sample) * k * k.transpose() * dense).eval();
      }
    Vector<double> all = Vector<double>::Ones(6);
    all.head(spectrum.singular_values.size()) = spectrum.singular_values;
    CHECK(spectrum.singular_values.size() + spectrum.ones == 6);
    std::sort(all.begin(), all.end(), std::greater<>());
    CHECK(error(all, singular_values(dense)) <= identity_tolerance<double>);
  }
  CHECK(audit.shortcuts()[0].sample == 0);
  CHECK(audit.shortcuts()[2].sample == 7);
}

TEST_CASE("edits whose audit is known", "[analysis][gate_audit]") {
  HandMade made(1, 4, 2, 3);
  auto& edit = made.edits[0].inputs;
  edit.value << 3, 6, 0, 4, 8, 0;  // |r| = 5, 10, 0

  edit.beta.setConstant(1);  // exact overwrite
  auto layer = audit_of(made);
  CHECK(layer.before.mean == Catch::Approx(5));
  CHECK(layer.after.largest == 0);
  CHECK(layer.ratio() == 0);
  CHECK(layer.reduced == 2);  // where there was nothing to reduce, nothing was
  CHECK(layer.regimes == std::array<Index, 4>{0, 3, 0, 0});
  CHECK(layer.effective_rank == Catch::Approx(1));
  CHECK(layer.beta.deviation() == 0);
  CHECK(layer.beta.quantile(0.5) == 1);

  edit.beta.setConstant(2);  // reflection
  layer = audit_of(made);
  CHECK(layer.after.mean == layer.before.mean);
  CHECK(layer.reduced == 0);
  CHECK(layer.regimes == std::array<Index, 4>{0, 0, 3, 0});
  CHECK(layer.beta.counts.back() == 3);

  edit.beta << 0, 0.5, 2.5;  // one that keeps, one that halves, one that is no gate
  layer = audit_of(made);
  CHECK(layer.after.mean == Catch::Approx((5 + 5 + 0) / 3.0));
  CHECK(layer.reduced == 1);
  CHECK(layer.regimes == std::array<Index, 4>{1, 1, 0, 1});
  CHECK(layer.beta.largest == 2.5);
  CHECK(layer.beta.counts.front() == 1);
  CHECK(layer.beta.counts.back() == 1);

  // Nothing written, or nowhere to write.
  edit.beta.setZero();
  CHECK(audit_of(made).effective_rank == 0);
  edit.beta.setOnes();
  edit.direction.setZero();
  layer = audit_of(made);
  CHECK(layer.effective_rank == 0);
  CHECK(layer.stable_rank == 0);
  CHECK(layer.after.mean == layer.before.mean);
  CHECK(layer.regimes == std::array<Index, 4>{3, 0, 0, 0});
}

TEST_CASE("a write-only edit that happens to fit, and one that does not", "[analysis][gate_audit]") {
  HandMade made(1, 4, 1, 2);
  made.edits[0].inputs.value << 3, 3;
  made.edits[0].tape.read << 0, 3;
  const auto layer = audit_of(made, UpdateRule::write_only);
  CHECK(layer.before.mean == 1.5);
  CHECK(layer.after.mean == 1.5);
  CHECK(layer.before.smallest == 0);
  CHECK(layer.reduced == 1);
}

TEST_CASE("angles and ranks of directions", "[analysis][gate_audit]") {
  HandMade made(2, 4, 1, 4);
  auto& first = made.edits[0].inputs.direction;
  auto& second = made.edits[1].inputs.direction;
  first = 3 * Matrix<double>::Identity(4, 4);  // four axes
  made.edits[0].tape.inverse_norm.setConstant(1.0 / 3);
  second.setZero();
  second.col(0) << -7, 0, 0, 0;  // the same line
  second.col(1) << 0, 0, 5, 0;   // at a right angle
  second.col(2) << 0, 0, 3, 3;   // at 45 degrees; the last has no direction
  const auto layer = audit_of(made, UpdateRule::delta, 1);
  CHECK(layer.cosine.count == 3);
  CHECK(layer.cosine.largest == 1);
  CHECK(layer.cosine.smallest == 0);
  CHECK(layer.cosine.mean == Catch::Approx((1 + std::sqrt(0.5)) / 3));
  CHECK(layer.cosine.counts.back() == 1);
  const auto axes = audit_of(made);
  CHECK(axes.effective_rank == Catch::Approx(4));
  CHECK(axes.stable_rank == Catch::Approx(4));
  // Writes of other sizes are other singular values: beta |r| = 4, 2, 1, 1.
  made.edits[0].inputs.beta << 1, 1, 0.5, 1;
  made.edits[0].inputs.value << 4, -2, 2, 1;
  CHECK(audit_of(made).effective_rank == Catch::Approx(std::exp2(1.75)));
  CHECK(audit_of(made).stable_rank == Catch::Approx(22.0 / 16));
}

TEST_CASE("one batch of 64 is four of 16, added or merged", "[analysis][gate_audit]") {
  const UpdateRule rule = GENERATE(UpdateRule::delta, UpdateRule::write_only);
  HandMade made = taken_from(random_net(rule, 5), 64, 6);
  made.edits[1].inputs.beta[40] = not_a_number;
  const GateAudit::Settings settings{.shortcuts = {2, 20}};
  GateAudit whole(rule, 3, 6, settings), parts(rule, 3, 6, settings), merged(rule, 3, 6);
  whole.add_edits(made.edits);
  for (const Index begin : {0, 16, 32, 48}) {
    parts.add_edits(made.slice(begin, 16).edits);
    GateAudit one(rule, 3, 6, {.shortcuts = {begin == 0 ? Index(2) : begin == 16 ? Index(4) : Index(99)}});
    one.add_edits(made.slice(begin, 16).edits);
    merged.merge(one);
  }
  CHECK(whole.layers()[1].not_finite == 1);
  CHECK(parts.samples() == 64);
  CHECK(merged.samples() == 64);
  for (std::size_t l = 0; l < 3; ++l) {
    check_equal(parts.layers()[l], whole.layers()[l], 0);
    check_equal(merged.layers()[l], whole.layers()[l], derivative_tolerance<double>);
  }
  REQUIRE(whole.shortcuts().size() == 2);
  REQUIRE(merged.shortcuts().size() == 2);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(merged.shortcuts()[i].sample == whole.shortcuts()[i].sample);
    CHECK(merged.shortcuts()[i].spectrum.singular_values == whole.shortcuts()[i].spectrum.singular_values);
    CHECK(parts.shortcuts()[i].spectrum.singular_values == whole.shortcuts()[i].spectrum.singular_values);
  }
}

TEST_CASE("what is not finite is counted, and spoils nothing else", "[analysis][gate_audit]") {
  const UpdateRule rule = GENERATE(UpdateRule::delta, UpdateRule::write_only);
  CAPTURE(name_of(rule));
  const HandMade good = taken_from(random_net(rule, 7), 9, 8);
  HandMade without = good.slice(0, 8);
  GateAudit expected(rule, 3, 6);
  expected.add_edits(without.edits);
  for (const double bad : {not_a_number, infinity, -infinity, 1e200})
    for (int place = 0; place < 5; ++place) {
      CAPTURE(bad, place);
      HandMade made = good;
      auto& [inputs, tape] = made.edits[1];
      if (place == 0) inputs.direction(2, 8) = bad;
      if (place == 1) tape.inverse_norm[8] = bad;
      if (place == 2) inputs.value(1, 8) = bad;
      if (place == 3 && is_finite(bad)) continue;  // a huge gate is one
      if (place == 3) inputs.beta[8] = bad;
      if (place == 4) tape.read(1, 8) = bad;
      GateAudit audit(rule, 3, 6, {.shortcuts = {8}});
      audit.add_edits(made.edits);
      const auto given = audit.layers()[1], next = audit.layers()[2];
      CHECK(given.not_finite == 1);
      CHECK(given.samples == 8);
      CHECK(next.not_finite == 0);
      CHECK(next.samples == 9);
      CHECK(next.cosine.count == 8);
      auto same = given;
      same.not_finite = 0;
      check_equal(same, expected.layers()[1], 0);
    }
}

TEST_CASE("a sample without a finite map has no spectrum", "[analysis][gate_audit]") {
  HandMade made(2, 3, 1, 2);
  made.edits[1].inputs.direction(0, 0) = not_a_number;
  GateAudit audit(UpdateRule::delta, 2, 3, {.shortcuts = {0, 1}});
  audit.add_edits(made.edits);
  REQUIRE(audit.shortcuts().size() == 1);
  CHECK(audit.shortcuts()[0].sample == 1);
}

TEST_CASE("an audit without a finite sample has no ranks", "[analysis][gate_audit]") {
  HandMade made(1, 3, 1, 2);
  made.edits[0].inputs.beta.setConstant(not_a_number);
  const auto layer = audit_of(made);
  CHECK(layer.samples == 0);
  CHECK(layer.not_finite == 2);
  CHECK(std::isnan(layer.effective_rank));
  CHECK(std::isnan(layer.stable_rank));
}

TEST_CASE("a sum that overflows shows as a rank that is no number", "[analysis][gate_audit]") {
  HandMade made(1, 3, 1, 2);
  made.edits[0].inputs.value.setConstant(1e154);  // its square is finite, twice that is not
  const auto layer = audit_of(made);
  CHECK(std::isnan(layer.effective_rank));
  CHECK(std::isnan(layer.stable_rank));
}

TEMPLATE_TEST_CASE("any net and any tape that keeps its edits", "[analysis][gate_audit]", DeltaResNet<float>,
                   (DeltaResNet<float, 6, 2>), DeltaResNet<long double>) {
  const auto net = random_net<TestType>(UpdateRule::delta, 9);
  const auto reference = random_net(UpdateRule::delta, 9);
  Random random(10);
  const auto x = random_matrix<Matrix<double>>(random, 5, 20);
  auto expected_tape = reference.make_tape();
  reference.forward(x, expected_tape);
  GateAudit expected(reference);
  expected.add(reference, expected_tape);
  for (const Memory memory :
       {Memory::training, Memory::recompute, Memory::reversible, Memory::reversible_recompute}) {
    auto tape = net.make_tape(memory);
    net.forward(x.cast<typename TestType::Scalar>(), tape);
    GateAudit audit(net);
    audit.add(net, tape);
    for (std::size_t l = 0; l < 3; ++l) {
      const auto given = audit.layers()[l], wanted = expected.layers()[l];
      CHECK(std::abs(given.beta.mean - wanted.beta.mean) <= float_tolerance);
      CHECK(std::abs(given.after.mean - wanted.after.mean) <= float_tolerance);
      CHECK(std::abs(given.cosine.mean - wanted.cosine.mean) <= float_tolerance);
      CHECK(std::abs(given.effective_rank - wanted.effective_rank) <= 10 * float_tolerance);
    }
  }
}

TEST_CASE("a saturated gate of a float net is a reflection", "[analysis][gate_audit]") {
  auto net = random_net<DeltaResNet<float>>(UpdateRule::delta, 11, 1);
  net.layers[0].k_eps = 0;
  net.layers[0].gate->out.weight.setZero();
  net.layers[0].gate->out.bias.setConstant(100);
  Random random(12);
  auto tape = net.make_tape();
  net.forward(random_matrix<Matrix<float>>(random, 5, 100), tape);
  GateAudit audit(net);
  audit.add(net, tape);
  CHECK(audit.layers()[0].beta.smallest == 2);
  CHECK(audit.layers()[0].regimes == std::array<Index, 4>{0, 0, 100, 0});
}

TEST_CASE("quantiles and deviations of known values", "[analysis][gate_audit]") {
  Distribution values(0, 1, 10);
  CHECK(std::isnan(values.quantile(0.5)));
  CHECK(values.deviation() == 0);
  for (int i = 0; i < 1000; ++i) values.add((i + 0.5) / 1000);
  for (const double share : {0.1, 0.33, 0.5, 0.9}) CHECK(values.quantile(share) == Catch::Approx(share));
  CHECK(values.mean == Catch::Approx(0.5));
  Distribution apart(0, 1, 10);  // nothing in the middle
  for (const double x : {0.05, 0.95, -3.0, 4.0}) apart.add(x);
  CHECK(apart.counts.front() == 2);
  CHECK(apart.counts.back() == 2);
  CHECK(apart.smallest == -3);
  CHECK(apart.quantile(1) == 1);
  CHECK_THROWS_WITH(values.quantile(1.5), ContainsSubstring("share is 1.5, expected in [0, 1]"));
  CHECK_THROWS_WITH(values.quantile(not_a_number), ContainsSubstring("share is nan"));
  // Constants far from 0 have no spread.
  Distribution constant(0, 2, 40);
  for (int i = 0; i < 1000; ++i) constant.add(1.7);
  CHECK(constant.deviation() == 0);
  CHECK(constant.quantile(0.3) == 1.7);
}

TEST_CASE("what cannot be audited is refused, and nothing is added", "[analysis][gate_audit]") {
  CHECK_THROWS_WITH(
      GateAudit(random_net(UpdateRule::additive, 1)),
      ContainsSubstring("the update rule is additive, which has no gates, expected delta or write_only"));
  CHECK_THROWS_WITH(GateAudit(UpdateRule::delta, 1, 0), ContainsSubstring("width is 0"));
  CHECK_THROWS_WITH(GateAudit(UpdateRule::delta, -1, 2), ContainsSubstring("depth is -1"));
  CHECK_THROWS_WITH(GateAudit(UpdateRule::delta, 1, 2, {.bins = 0}), ContainsSubstring("bins is 0"));
  Net mixed = random_net(UpdateRule::delta, 1);
  mixed.layers[2].update = UpdateRule::write_only;
  CHECK_THROWS_WITH(GateAudit(mixed),
                    ContainsSubstring("the update rule of a block is write_only, expected delta"));

  const Net net = random_net(UpdateRule::delta, 1);
  GateAudit audit(net);
  CHECK_THROWS_WITH(audit.add(net, net.make_tape(Memory::inference)), ContainsSubstring("for inference"));
  CHECK_THROWS_WITH(audit.add_edits(std::vector<HandMade::Edit>(1)),
                    ContainsSubstring("the number of edits is 1, expected 3"));
  const HandMade good = taken_from(net, 4, 2);
  const auto refused = [&](const char* text, const auto& spoil) {
    HandMade made = good;
    spoil(made.edits[2]);
    CHECK_THROWS_WITH(audit.add_edits(made.edits), ContainsSubstring(text));
  };
  using Edit = HandMade::Edit;
  refused("direction is 5 x 4, expected 6 x 4", [](Edit& edit) { edit.inputs.direction.resize(5, 4); });
  refused("direction is 6 x 3, expected 6 x 4", [](Edit& edit) { edit.inputs.direction.resize(6, 3); });
  refused("v is 2 x 3, expected 2 x 4", [](Edit& edit) { edit.inputs.value.resize(2, 3); });
  refused("beta is 1 x 3, expected 1 x 4", [](Edit& edit) { edit.inputs.beta.resize(3); });
  refused("inverse_norm is 1 x 5, expected 1 x 4", [](Edit& edit) { edit.tape.inverse_norm.resize(5); });
  refused("read is 2 x 5, expected 2 x 4", [](Edit& edit) { edit.tape.read.resize(2, 5); });
  CHECK(audit.samples() == 0);
  CHECK(audit.layers()[0].samples == 0);

  const GateAudit of_writing(random_net(UpdateRule::write_only, 1));
  CHECK_THROWS_WITH(audit.merge(of_writing),
                    ContainsSubstring("the other audit is write_only, 3 layers of 6"));
  CHECK_THROWS_WITH(audit.merge(GateAudit(UpdateRule::delta, 2, 6)),
                    ContainsSubstring("expected delta, 3 layers"));
  CHECK_THROWS_WITH(audit.merge(GateAudit(UpdateRule::delta, 3, 6, {.bins = 39})),
                    ContainsSubstring("39 bins"));
}

TEST_CASE("a net without blocks and a batch without samples", "[analysis][gate_audit]") {
  const Net none = random_net(UpdateRule::delta, 1, 0);
  auto tape = none.make_tape();
  none.forward(Matrix<double>::Ones(5, 3), tape);
  GateAudit audit(none, {.shortcuts = {0}});
  audit.add(none, tape);
  CHECK(audit.layers().empty());

  GateAudit empty(UpdateRule::delta, 2, 4);
  empty.add_edits(HandMade(2, 4, 1, 0).edits);
  const LayerAudit layer = empty.layers()[1];
  CHECK(layer.samples == 0);
  CHECK(layer.share(layer.reduced) == 0);
  CHECK(layer.effective_rank == 0);
  CHECK(std::isnan(layer.ratio()));
}

TEST_CASE("a second batch of the same size allocates nothing", "[analysis][gate_audit]") {
  const UpdateRule rule = GENERATE(UpdateRule::delta, UpdateRule::write_only);
  HandMade made(3, 150, 2, 200);
  GateAudit audit(rule, 3, 150, {.shortcuts = {0}});
  audit.add_edits(made.edits);
  audit.add_edits(made.edits);
  CHECK(allocations_in([&] { audit.add_edits(made.edits); }) == 0);
}
