// SPDX-License-Identifier: MIT
#include "ddl/train/fit.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "ddl/train/observers.hpp"
#include "ddl/train/schedule.hpp"
#include "support/catch.hpp"
#include "support/toy_data.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

namespace {

using Net = DeltaResNet<double>;

/// The steps that fit makes, by hand.
Net trained_by_hand(Index steps, const WarmupCosine& schedule) {
  Net net = toy_net<double>();
  auto tape = net.make_tape();
  auto gradient = zeros_like(net);
  AdamW optimizer(net);
  ToyData<double> data;
  for (Index step = 0; step < steps; ++step) {
    data.next();
    Matrix<double> grad(1, 16);
    mean_squared_error(net.forward(data.x, tape), data.y, grad);
    set_zero(gradient);
    net.backward(grad, tape, gradient);
    clip_global_norm(gradient, 0.1);
    optimizer.settings.learning_rate = schedule(step);
    optimizer.step(net, gradient);
  }
  return net;
}

bool same(const Net& a, const Net& b) {
  bool equal = true;
  for_each_parameter([&](const ParameterPath&, const auto& p, const auto& q) { equal = equal && p == q; }, a,
                     b);
  return equal;
}

struct Watcher {
  std::vector<Index> began = {}, ended = {};
  void operator()(const auto&) {}
  void begin(const auto& context) { began.push_back(context.run.step); }
  void finish(const auto& context) { ended.push_back(context.run.step); }
};

/// A whole batch or a shard, whose loss is a LossSum or a mean.
template <class Loss>
struct Part {
  Matrix<double> inputs() { return {}; }
  Index samples() { return 0; }
  Loss loss(const Matrix<double>&, Matrix<double>&, const auto&) { return {}; }
};
template <class Loss>
struct Shards {
  void next() {}
  Index samples() { return 0; }
  Index shards() { return 1; }
  Part<Loss> shard(Index) { return {}; }
};
struct Whole : Part<double> {
  void next() {}
};
struct ShardsWithOwnLoss : Shards<LossSum> {
  Matrix<double> inputs() { return {}; }
  double loss(const Matrix<double>&, Matrix<double>&, const auto&) { return 0; }
};
struct WholeWithShardsOfMeans : Whole {
  Index shards() { return 1; }
  Part<double> shard(Index) { return {}; }
};

static_assert(TrainingData<Whole, Net>);
static_assert(TrainingData<Shards<LossSum>, Net>);
static_assert(!TrainingData<Shards<double>, Net>, "the gradient would be `shards` times too large");
static_assert(!TrainingData<ShardsWithOwnLoss, Net>, "either the shards or the loss would be ignored");
static_assert(!TrainingData<WholeWithShardsOfMeans, Net>, "the shards would be ignored");

}  // namespace

TEST_CASE("fit makes the steps that one would write by hand", "[train][fit]") {
  const WarmupCosine schedule({.peak = 1e-2, .warmup = 5, .steps = 40});
  TrainingRun<Net> run(toy_net<double>());
  ToyData<double> data;
  std::vector<StepReport> reports;
  const auto result = fit(run, data, {.steps = 40, .learning_rate = schedule, .max_norm = 0.1},
                          [&](const auto& context) { reports.push_back(context.report); });
  CHECK(same(run.model, trained_by_hand(40, schedule)));
  CHECK(result.stop_reason == StopReason::finished);
  REQUIRE(reports.size() == 40);
  CHECK(reports[0].step == 1);
  CHECK(reports[0].samples == 16);
  CHECK(reports[0].learning_rate == schedule(0));
  CHECK(std::isnan(reports[0].accuracy));
  CHECK(reports.back().loss < 0.7 * reports.front().loss);
  CHECK(result.last.loss == reports.back().loss);
}

TEST_CASE("a run that goes on makes the steps that are left", "[train][fit]") {
  const WarmupCosine schedule({.peak = 1e-2, .warmup = 5, .steps = 40});
  TrainingRun<Net> run(toy_net<double>());
  ToyData<double> data;
  FitSettings settings{.steps = 15, .learning_rate = schedule, .max_norm = 0.1};
  fit(run, data, settings);
  settings.steps = 40;
  fit(run, data, settings);
  CHECK(run.step == 40);
  CHECK(same(run.model, trained_by_hand(40, schedule)));
  CHECK(fit(run, data, settings).stop_reason == StopReason::finished);
  CHECK(run.step == 40);
}

TEST_CASE("a loss that is not finite changes no parameter, whatever is done about it", "[train][fit]") {
  const double poison =
      GENERATE(std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity());
  TrainingRun<Net> run(toy_net<double>());
  ToyData<double> data;
  data.poison = poison;
  const auto policy = [](NonFinite kind) { return FitSettings{.steps = 3, .non_finite = kind}; };
  CHECK_THROWS_WITH(fit(run, data, policy(NonFinite::raise)), ContainsSubstring("at step 1 the loss is "));
  CHECK(run.step == 0);
  CHECK(fit(run, data, policy(NonFinite::stop)).stop_reason == StopReason::not_finite);
  CHECK(run.step == 0);
  const auto skipped = fit(run, data, policy(NonFinite::skip));
  CHECK(skipped.stop_reason == StopReason::not_finite);  // nothing was learned
  CHECK(skipped.skipped == 3);
  CHECK(run.step == 3);
  CHECK(same(run.model, toy_net<double>()));
  CHECK(run.optimizer.steps == 0);
}

TEST_CASE("a gradient that is not finite is seen without clipping as well", "[train][fit]") {
  TrainingRun<Net> run(toy_net<double>());
  run.model.head.weight(0, 0) = std::numeric_limits<double>::quiet_NaN();
  ToyData<double> data;
  CHECK_THROWS_WITH(fit(run, data, {.steps = 1, .max_norm = 0}), ContainsSubstring("norm nan"));
}

TEST_CASE("a few batches whose loss is not finite are skipped, and the run is finished", "[train][fit]") {
  TrainingRun<Net> run(toy_net<double>());
  ToyData<double> data;
  const auto poison = [&](const auto& s) { data.poison = s.report.step == 2 ? std::nan("") : 0; };
  const auto result = fit(run, data, {.steps = 5, .non_finite = NonFinite::skip}, poison);
  CHECK(result.stop_reason == StopReason::finished);
  CHECK(result.skipped == 1);
  CHECK(run.optimizer.steps == 4);
}

TEST_CASE("parameters are looked at after the last update", "[train][fit]") {
  TrainingRun<Net> run(toy_net<double>());
  ToyData<double> data;
  const auto spoil = [](const auto& s) {
    if (s.report.step == 3) s.run.model.head.weight(0, 0) = std::numeric_limits<double>::infinity();
  };
  CHECK_THROWS_WITH(fit(run, data, {.steps = 3}, spoil),
                    "ddl::fit: after step 3 a parameter of the model is not finite");
  for (const auto kind : {NonFinite::skip, NonFinite::stop}) {
    TrainingRun<Net> other(toy_net<double>());
    CHECK(fit(other, data, {.steps = 3, .non_finite = kind}, spoil).stop_reason == StopReason::not_finite);
  }
}

TEST_CASE("a gradient whose square overflows counts as not finite, unless it is clipped", "[train][fit]") {
  struct Large : ToyData<float> {
    void next() {
      ToyData<float>::next();
      y *= 1e20f;
    }
  } data;
  TrainingRun run(toy_net<float>());
  CHECK_THROWS_WITH(fit(run, data, {.steps = 1, .max_norm = 0}), ContainsSubstring("does not overflow"));
  CHECK(fit(run, data, {.steps = 1, .max_norm = 0, .non_finite = NonFinite::stop}).stop_reason ==
        StopReason::not_finite);
  CHECK(run.step == 0);
  CHECK(fit(run, data, {.steps = 1}).last.gradient_norm > 1e19);
  CHECK(run.step == 1);
}

TEST_CASE("a schedule whose rate is not finite or negative is refused before the step",
          "[train][fit][errors]") {
  const double bad =
      GENERATE(std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -1e-3);
  TrainingRun<Net> run(toy_net<double>());
  ToyData<double> data;
  const auto before = data.state();
  const auto schedule = [&](Index step) { return step < 2 ? 1e-3 : bad; };
  CHECK_THROWS_WITH(
      fit(run, data, {.steps = 5, .learning_rate = schedule}),
      "ddl::fit: the learning rate of step 2 is " + number_text(bad) + ", expected a number of at least 0");
  CHECK(run.step == 2);
  CHECK(all_parameters_finite(run.model));
  fit(run, data, {.steps = 3});  // the third batch was not drawn
  ToyData<double> same_data;
  for (int i = 0; i < 3; ++i) same_data.next();
  CHECK(data.state() == same_data.state());
}

TEST_CASE("a run takes any optimizer", "[train][fit]") {
  const SgdSettings settings{.learning_rate = 0.05, .momentum = 0.9};
  TrainingRun<Net, Sgd<Net>> run(toy_net<double>(), settings);
  ToyData<double> data;
  const auto result = fit(run, data, {.steps = 30, .max_norm = 0});
  CHECK(result.last.learning_rate == 0.05);
  Net net = toy_net<double>();
  Sgd sgd(net, settings);
  ToyData<double> again;
  auto tape = net.make_tape();
  for (int step = 0; step < 30; ++step) {
    again.next();
    Matrix<double> grad(1, 16);
    auto gradient = zeros_like(net);
    mean_squared_error(net.forward(again.x, tape), again.y, grad);
    net.backward(grad, tape, gradient);
    sgd.step(net, gradient);
  }
  CHECK(same(run.model, net));
}

TEST_CASE("observers are told before the first step and after the last", "[train][fit][observers]") {
  TrainingRun<Net> run(toy_net<double>());
  ToyData<double> data;
  std::optional<Watcher> watcher(std::in_place), absent;
  fit(run, data, {.steps = 2}, watcher, absent);
  fit(run, data, {.steps = 5}, watcher);
  CHECK(watcher->began == std::vector<Index>{0, 2});
  CHECK(watcher->ended == std::vector<Index>{2, 5});
}

TEST_CASE("an observer ends a run, and all of them see its last step", "[train][fit][observers]") {
  TrainingRun<Net> run(toy_net<double>());
  ToyData<double> data;
  Index seen = 0;
  const auto stop_at_7 = [](const auto& s) { return s.report.step < 7; };
  const auto count = [&](const auto&) { ++seen; };
  CHECK(fit(run, data, {.steps = 100}, stop_at_7, count).stop_reason == StopReason::observer);
  CHECK(run.step == 7);
  CHECK(seen == 7);
  CHECK(fit(run, data, {.steps = 100}, TimeLimit{0}).last.step == 8);
}

TEST_CASE("validation stops when nothing gets better and has the best model; the run keeps its last",
          "[train][fit][observers]") {
  TrainingRun<Net> run(toy_net<double>());
  ToyData<double> data;
  std::vector<double> losses = {3, 1, std::numeric_limits<double>::quiet_NaN(), 2, 5, 0};
  std::vector<Net> models;
  Validation<Net> validation(2, 3, [&](const Net& model) {
    models.push_back(model);
    return losses[models.size() - 1];
  });
  CHECK(fit(run, data, {.steps = 100}, validation).stop_reason == StopReason::observer);
  CHECK(run.step == 10);
  CHECK(models.size() == 5);
  CHECK(validation.best() == 1);
  CHECK(validation.best_step() == 4);
  REQUIRE(validation.best_model());
  CHECK(same(*validation.best_model(), models[1]));
  CHECK(same(run.model, models[4]));
  CHECK_FALSE(same(models[1], models[4]));
  CHECK_THROWS_AS(Validation<Net>(0, 1, {}), std::invalid_argument);
  CHECK_THROWS_AS(Validation<Net>(1, 0, {}), std::invalid_argument);
}

TEST_CASE("a resumed validation keeps the better model and its patience", "[train][fit][observers]") {
  TrainingRun<Net> run(toy_net<double>());
  const Net best = run.model;
  ToyData<double> data;
  const auto measure = [](const Net&) { return 2.0; };
  fit(run, data, {.steps = 8});
  Validation<Net> validation(2, 3, measure);
  validation.restore(best, 1, 4, run.step);  // two measurements were worse, after steps 6 and 8
  CHECK(fit(run, data, {.steps = 100}, validation).stop_reason == StopReason::observer);
  CHECK(run.step == 10);
  CHECK(validation.best() == 1);
  CHECK(validation.best_step() == 4);
  CHECK(same(*validation.best_model(), best));

  Validation<Net> stopped(2, 3, measure);
  stopped.restore(best, 1, 4, run.step);  // the patience is used up
  fit(run, data, {.steps = 100}, stopped);
  CHECK(run.step == 11);
  CHECK(stopped.best() == 1);
  CHECK_THROWS_AS(stopped.restore(best, std::numeric_limits<double>::infinity(), 0, 0),
                  std::invalid_argument);
}

TEST_CASE("gates are recorded by layer", "[train][fit][observers]") {
  TrainingRun<Net> run(toy_net<double>(3));
  ToyData<double> data;
  GateRecorder gates(5);
  double beta = 0;
  fit(run, data, {.steps = 12}, gates, [&](const auto& context) {
    beta = context.report.step == 10 ? context.tape.edits[1].inputs.beta.mean() : beta;
  });
  REQUIRE(gates.entries().size() == 2);
  CHECK(gates.entries()[1].step == 10);
  REQUIRE(gates.entries()[1].mean_beta.size() == 3);
  CHECK(gates.entries()[1].mean_beta[1] == beta);
}

TEST_CASE("the additive control has no gates to record", "[train][fit][observers]") {
  TrainingRun<Net> run(Net({.inputs = 2, .outputs = 1, .block = {.update = UpdateRule::additive}}));
  ToyData<double> data;
  GateRecorder gates(1);
  fit(run, data, {.steps = 2}, gates);
  CHECK(gates.entries().empty());
}

TEST_CASE("a progress bar shows the loss, and only to somebody who looks", "[train][fit][observers]") {
  const auto printed = [](bool shows, Index throws_at = 0) {
    char* text = nullptr;
    std::size_t size = 0;
    std::FILE* const stream = open_memstream(&text, &size);
    TrainingRun<Net> run(toy_net<double>());
    ToyData<double> data;
    const auto stop = [&](const auto& s) {
      if (s.report.step == throws_at) throw std::runtime_error("no more");
    };
    try {
      fit(run, data, {.steps = 12}, ProgressBar({.title = "toy ", .stream = stream, .shows = shows}), stop);
    } catch (const std::runtime_error&) {
    }
    std::fclose(stream);
    const std::string all(text, size);
    std::free(text);
    return all;
  };
  CHECK(printed(false).empty());
  CHECK_THAT(printed(true), ContainsSubstring("toy [########################] 100 %  loss "));
  CHECK_THAT(printed(true), ContainsSubstring("samples/s  0:00 left\n"));
  CHECK_THAT(printed(true, 5), ContainsSubstring("toy [########................]  33 %  loss "));
}

TEST_CASE("settings of fit that make no sense are refused", "[train][fit][errors]") {
  TrainingRun<Net> run(toy_net<double>());
  ToyData<double> data;
  CHECK_THROWS_WITH(fit(run, data, {.steps = -1}), "ddl::fit: steps is -1, expected at least 0");
  CHECK_THROWS_WITH(fit(run, data, {.max_norm = -1}),
                    "ddl::fit: max_norm is -1, expected a number of at least 0");
}
