// SPDX-License-Identifier: MIT
#include "ddl/data/supervised.hpp"

#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

using Net = DeltaResNet<double>;

/// Points in the plane: the class says on which side of a line they lie, the target by how much.
Dataset<double> points(Index count) {
  Random random(3);
  Dataset<double> data;
  data.inputs.resize(2, count);
  random.fill_normal(data.inputs, 1);
  data.targets = data.inputs.row(0) - data.inputs.row(1);
  for (Index n = 0; n < count; ++n) data.labels.push_back(data.targets(n) > 0);
  return data;
}

Net net_with(Index outputs) {
  return Net({.inputs = 2, .outputs = outputs, .width = 6, .value_channels = 2, .depth = 2}, 1);
}

}  // namespace

TEST_CASE("classes are learned from a data set, and evaluated on another", "[data][supervised]") {
  const auto data = points(700);
  const auto [train, test] = data.split(400);
  SupervisedBatches<double> batches(train, {.batch_size = 32, .seed = 4});
  TrainingRun<Net> run(net_with(2), {.learning_rate = 1e-2});
  const auto before = evaluate(run.model, test);
  double correct = 0;
  fit(run, batches, {.steps = 60}, [&](const auto& seen) { correct = seen.report.accuracy; });
  const auto after = evaluate(run.model, test);
  CHECK(after.accuracy > 0.9);
  CHECK(after.accuracy > before.accuracy);
  CHECK(after.loss < before.loss);
  CHECK(correct > 0.8);
}

TEST_CASE("evaluation by parts is the loss over all samples", "[data][supervised]") {
  auto data = points(600);
  const Net classes = net_with(2), numbers = net_with(1);
  auto tape = classes.make_tape(), number_tape = numbers.make_tape();
  Matrix<double> grad(2, 600), number_grad(1, 600);
  const auto& logits = classes.forward(data.inputs, tape);
  Index passes = 0;
  const auto result = evaluate(classes, data.view(), Serial{}, Memory::reversible, [&](const auto& seen) {
    ++passes;
    CHECK(seen.edits.size() == 2);
  });
  CHECK(passes == 3);
  CHECK(std::abs(result.loss - softmax_cross_entropy(logits, data.labels, grad)) <=
        identity_tolerance<double>);
  CHECK(std::abs(result.accuracy - double(correct_predictions(logits, data.labels)) / 600) <=
        identity_tolerance<double>);

  data.labels.clear();
  const auto regression = evaluate(numbers, data.view());
  const double expected =
      mean_squared_error(numbers.forward(data.inputs, number_tape), data.targets, number_grad);
  CHECK(std::abs(regression.loss - expected) <= 10 * identity_tolerance<double>);
  CHECK(std::isnan(regression.accuracy));
}

TEST_CASE("targets are learned where there are no labels", "[data][supervised]") {
  auto data = points(200);
  data.labels.clear();
  SupervisedBatches<double> batches(data.view(), {.batch_size = 20});
  TrainingRun<Net> run(net_with(1), {.learning_rate = 1e-2});
  const double before = evaluate(run.model, data.view()).loss;
  double correct = 0;
  fit(run, batches, {.steps = 60}, [&](const auto& seen) { correct = seen.report.accuracy; });
  CHECK(evaluate(run.model, data.view()).loss < 0.3 * before);
  CHECK(std::isnan(correct));
}

TEST_CASE("batches go on where their state was taken", "[data][supervised]") {
  const auto data = points(50);
  const BatchSettings settings{.batch_size = 8, .seed = 9};
  SupervisedBatches<double> one(data.view(), settings), other(data.view(), settings);
  for (int i = 0; i < 10; ++i) one.next();
  other.restore(one.state());
  for (int i = 0; i < 10; ++i) {
    one.next();
    other.next();
    CHECK(one.samples() == other.samples());
    CHECK(one.inputs() == other.inputs());
  }
  SupervisedBatches<double> another_seed(data.view(), {.batch_size = 8, .seed = 10});
  CHECK_THROWS_WITH(another_seed.restore(one.state()),
                    "ddl::SupervisedBatches::restore: seed is 10, expected 9");
  auto other_data = data;
  other_data.inputs(1, 49) += 1e-9;
  SupervisedBatches<double> of_other_data(other_data.view(), settings);
  CHECK_THROWS_WITH(of_other_data.restore(one.state()),
                    Catch::Matchers::StartsWith("ddl::SupervisedBatches::restore: the data's hash is "));
  other_data = data;
  ++other_data.labels[3];
  CHECK(content_hash(other_data.view()) != content_hash(data.view()));
  using Values = DatasetView<double>::Values;
  const auto of_shape = [&](Index rows, Index cols) {
    return content_hash<double>({Values(data.inputs.data(), rows, cols), {}, Values(nullptr, 0, 0)});
  };
  CHECK(of_shape(2, 50) != of_shape(4, 25));
  CHECK_THROWS_AS(one.restore(std::vector<std::uint64_t>{1, 2}), std::invalid_argument);
  auto beyond = one.state();
  beyond[1] = 7;
  CHECK_THROWS_AS(one.restore(beyond), std::invalid_argument);
}

TEST_CASE("data with nothing to learn are refused", "[data][supervised]") {
  auto data = points(10);
  data.labels.clear();
  data.targets.resize(0, 0);
  CHECK_THROWS_WITH(SupervisedBatches<double>(data.view(), {}),
                    "ddl::SupervisedBatches: the data is without labels and targets, expected one of them");
}

TEST_CASE("ignored samples count neither for nor against, wherever they stand", "[data][supervised]") {
  auto data = points(600);
  for (std::size_t n = 0; n < 300; ++n) data.labels[n] = ignored_label;
  const Net net = net_with(2);
  const auto counted = data.view().range(300, 300);
  const auto all = evaluate(net, data.view()), some = evaluate(net, counted);
  CHECK(std::abs(all.loss - some.loss) <= identity_tolerance<double>);
  CHECK(std::abs(all.accuracy - some.accuracy) <= identity_tolerance<double>);
}
