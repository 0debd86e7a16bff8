// SPDX-License-Identifier: MIT
#include "ddl/train/shards.hpp"

#include "ddl/core/thread_pool.hpp"
#include "ddl/data/language.hpp"
#include "ddl/data/supervised.hpp"
#include "ddl/train/observers.hpp"
#include "support/catch.hpp"
#include "support/executors.hpp"
#include "support/thread_ranks.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

namespace {

using Net = DeltaResNet<float>;
using NetRun = TrainingRun<Net>;

Net net() { return Net({.inputs = 3, .outputs = 4, .width = 12, .value_channels = 2, .depth = 2}, 5); }

/// 50 samples of 4 classes, every fifth of them ignored.
Dataset<float> samples() {
  Dataset<float> data;
  data.inputs.resize(3, 50);
  Random random(1);
  random.fill_normal(data.inputs, 1);
  for (int n = 0; n < 50; ++n) data.labels.push_back(n % 5 == 0 ? ignored_label : n % 4);
  return data;
}

std::vector<float> parameters_of(const auto& model) {
  std::vector<float> all;
  for_each_parameter(
      [&](const ParameterPath&, const auto& p) { all.insert(all.end(), p.data(), p.data() + p.size()); },
      model);
  return all;
}

/// The parameters after 7 steps with a short batch among them, and the loss of the last step.
template <class E = Serial>
std::pair<std::vector<float>, double> trained(Index shards, const E& executor = {},
                                              Communicator* ranks = nullptr) {
  const auto data = samples();
  NetRun run(net());
  SupervisedBatches<float> batches(data.view(), {.batch_size = 16, .shards = shards});
  const auto result = fit_on(executor, run, batches, {.steps = 7, .ranks = ranks});
  return {parameters_of(run.model), result.last.loss};
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::abs(double(a[i]) - double(b[i])));
  return largest;
}

}  // namespace

TEST_CASE("gradients are added in the order of a binary tree, on any executor", "[train][shards]") {
  const Index shards = GENERATE(1, 2, 3, 5, 8);
  const auto model = net();
  const ThreadPool pool(3);
  ShardGradients<Net> serial(model, shards), threaded(model, shards);
  std::vector<std::vector<float>> expected;
  Random random(2);
  for (Index s = 0; s < shards; ++s) {
    for_each_parameter([&](const ParameterPath&, auto& p) { random.fill_normal(p, 1); }, serial[s]);
    threaded[s] = serial[s];
    expected.push_back(parameters_of(serial[s]));
  }
  for (std::size_t stride = 1; stride < expected.size(); stride *= 2)
    for (std::size_t i = 0; i + stride < expected.size(); i += 2 * stride)
      for (std::size_t j = 0; j < expected[i].size(); ++j) expected[i][j] += expected[i + stride][j];
  CHECK(parameters_of(serial.sum()) == expected.front());
  CHECK(parameters_of(threaded.sum(pool)) == expected.front());
}

TEST_CASE("no thread is woken for a step of a small net", "[train][shards]") {
  const Net small({.inputs = 64, .outputs = 10, .width = 32, .value_channels = 4, .depth = 2}, 5);
  Dataset<float> data;
  data.inputs.setRandom(64, 64);
  data.labels.assign(64, 3);
  SupervisedBatches<float> batches(data.view(), {.batch_size = 64});
  NetRun run(small);
  int loops = 0;
  fit_on(Counting{loops}, run, batches, {.steps = 1});
  CHECK(loops == 0);
}

TEST_CASE("a step begins with gradients of zero, after a sum and after a step that was not added up",
          "[train][shards]") {
  const auto model = net();
  const auto all_zero = [](Net& gradient) {
    return std::ranges::all_of(parameters_of(gradient), [](float p) { return p == 0; });
  };
  ShardGradients<Net> gradients(model, 3);
  const bool summed = GENERATE(false, true);
  for (Index s = 0; s < 3; ++s)
    for_each_parameter([](const ParameterPath&, auto& p) { p.setOnes(); }, gradients.zeroed(s));
  if (summed) CHECK(!all_zero(gradients.sum()));
  for (Index s = 0; s < 3; ++s) CHECK(all_zero(gradients.zeroed(s)));
}

TEST_CASE("shards with ignored labels and of unequal sizes add up to the gradient of the whole batch",
          "[train][shards][grad]") {
  const auto data = samples();
  const DeltaResNet<double> model({.inputs = 3, .outputs = 4, .width = 6, .depth = 2}, 5);
  const Matrix<double> x = data.inputs.cast<double>();
  auto tape = model.make_tape();
  auto whole = zeros_like(model);
  Matrix<double> grad(4, 50);
  const double loss = softmax_cross_entropy(model.forward(x, tape), data.labels, grad);
  model.backward(grad, tape, whole);

  const Index shards = GENERATE(2, 3, 7);
  ShardGradients<DeltaResNet<double>> gradients(model, shards);
  LossSum total;
  for (Index s = 0; s < shards; ++s) {
    const Index begin = 50 * s / shards, count = 50 * (s + 1) / shards - begin;
    const std::span labels =
        std::span(data.labels).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    const auto& prediction = model.forward(x.middleCols(begin, count), tape);
    grad.resize(4, count);
    total += softmax_cross_entropy_sum(prediction, labels, 40, grad);
    model.backward(grad, tape, gradients.zeroed(s));
  }
  CHECK(total.count == 40);
  CHECK(total.mean() == Catch::Approx(loss).epsilon(1e-14));
  double difference = 0, largest = 0;
  for_each_parameter(
      [&](const ParameterPath&, const auto& a, const auto& b) {
        difference = std::max(difference, (a - b).cwiseAbs().maxCoeff());
        largest = std::max(largest, a.cwiseAbs().maxCoeff());
      },
      whole, gradients.sum());
  CHECK(difference <= 1e-14 * largest);
}

TEST_CASE("the number of shards changes a run by rounding alone, the number of threads not at all",
          "[train][shards]") {
  const auto [one, loss] = trained(1);
  const Index shards = GENERATE(2, 3, 4, 16);  // 16: the short batch leaves shards empty
  const auto [parameters, sharded_loss] = trained(shards);
  CHECK(parameters != one);
  CHECK(largest_difference(parameters, one) < 1e-3);  // AdamW moves by 7e-3 in 7 steps
  CHECK(sharded_loss == Catch::Approx(loss).epsilon(1e-4));
  for (const Index threads : {2, 3, 8, 16}) {
    const ThreadPool pool(threads);
    CHECK(trained(shards, pool) == std::pair(parameters, sharded_loss));
  }
}

TEST_CASE("an observer sees the tape of a shard that has samples, and of the step",
          "[train][shards][ranks][observers]") {
  const Index ranks = GENERATE(1, 2, 4, 8);
  const auto data = samples();
  const auto view = data.view();
  ThreadRanks(ranks).run([&](Communicator& communicator) {
    NetRun run(net());
    // Batches of 32 and of 3 samples. The 3 are in the shards 5, 10 and 15.
    SupervisedBatches<float> batches(view.range(0, 35), {.batch_size = 32, .shards = 16});
    GateRecorder recorder(1);
    Index columns = 0;
    fit(run, batches, {.steps = 2, .ranks = &communicator}, recorder,
        [&](const auto& context) { columns = context.tape.features.cols(); });
    const Index own = 16 / ranks, first = communicator.rank() * own;
    Index samples_here = 0;
    for (Index s = first; s < first + own; ++s) samples_here += batches.shard(s).samples();
    const bool some = samples_here > 0;
    if (columns != (some ? 1 : 0) || recorder.entries().size() != (some ? 2u : 1u))
      throw std::logic_error("rank " + std::to_string(communicator.rank()) + " sees another tape");
  });
  SUCCEED();
}

TEST_CASE("fewer samples than shards from the first step on", "[train][shards][observers]") {
  const auto data = samples();
  NetRun run(net());
  SupervisedBatches<float> batches(data.view().range(1, 3), {.batch_size = 16, .shards = 16});
  GateRecorder recorder(1);
  fit(run, batches, {.steps = 2}, recorder);
  REQUIRE(recorder.entries().size() == 2);
  for (const double beta : recorder.entries()[0].mean_beta) CHECK((beta > 0 && beta < 2));
}

TEST_CASE("the accuracy of a step is the share of the samples that count", "[train][shards][ranks]") {
  const auto data = samples();  // 10 of 50 do not
  const double expected = evaluate(net(), data.view()).accuracy;
  const auto [shards, ranks] = GENERATE(std::pair(1, 1), std::pair(3, 1), std::pair(4, 2));
  ThreadRanks(ranks).run([&, shards = shards](Communicator& communicator) {
    NetRun run(net());
    SupervisedBatches<float> batches(data.view(), {.batch_size = 50, .shards = shards});
    const auto result = fit(run, batches, {.steps = 1, .ranks = &communicator});
    if (result.last.accuracy != expected) throw std::logic_error(std::to_string(result.last.accuracy));
  });
  CHECK(expected > 0);
}

TEST_CASE("ranks and threads divide a batch without a changed bit", "[train][shards][ranks]") {
  const auto expected = trained(8);
  const auto [ranks, threads] = GENERATE(std::pair(1, 1), std::pair(2, 1), std::pair(4, 2), std::pair(8, 1));
  ThreadRanks(ranks).run([&, threads = threads](Communicator& communicator) {
    const ThreadPool pool(threads);
    const auto got = trained(8, pool, &communicator);
    if (got != expected) throw std::logic_error("rank " + std::to_string(communicator.rank()) + " differs");
  });
  SUCCEED();
}

TEST_CASE("a sum over ranks is that of a tree, whatever the number of values", "[core][ranks]") {
  const Index size = GENERATE(1, 2, 4, 8);
  const std::size_t count = GENERATE(0u, 1u, 2u, 7u, 64u, 101u);
  const auto values_of = [&](Index rank) {
    Matrix<float> values(static_cast<Index>(count), 1);
    Random random(static_cast<std::uint64_t>(rank));
    random.fill_normal(values, 1);
    return std::vector<float>(values.data(), values.data() + count);
  };
  std::vector<std::vector<float>> tree;
  for (Index rank = 0; rank < size; ++rank) tree.push_back(values_of(rank));
  for_each_tree_sum(size, [&](Index to, Index from) {
    for (std::size_t i = 0; i < count; ++i)
      tree[static_cast<std::size_t>(to)][i] += tree[static_cast<std::size_t>(from)][i];
  });
  ThreadRanks(size).run([&](Communicator& ranks) {
    auto values = values_of(ranks.rank());
    std::vector<float> buffer;
    sum_over_ranks(ranks, std::span(values), buffer);
    if (values != tree.front()) throw std::logic_error("another sum");
  });
  ThreadRanks(size).run([&](Communicator& ranks) {
    auto values = values_of(ranks.rank());
    broadcast(ranks, std::span(values));
    if (values != values_of(0)) throw std::logic_error("another broadcast");
  });
  SUCCEED();
}

TEST_CASE("every rank goes on with the run, and from the position in the data, of rank 0",
          "[train][shards][ranks]") {
  const auto data = samples();
  const auto begin = [&](Index steps) {
    std::pair run(NetRun(net(), {.weight_decay = 0.3}),
                  SupervisedBatches<float>(data.view(), {.batch_size = 16, .shards = 4}));
    fit(run.first, run.second, {.steps = steps});
    return run;
  };
  const auto expected = parameters_of(begin(9).first);
  ThreadRanks(4).run([&](Communicator& ranks) {
    NetRun run(Net({.inputs = 3, .outputs = 4, .width = 12, .value_channels = 2, .depth = 2}, 99));
    SupervisedBatches<float> batches(data.view(), {.batch_size = 16, .shards = 4});
    if (ranks.rank() == 0) {
      auto begun = begin(5);
      run = std::move(begun.first);
      batches.restore(begun.second.state());
    }
    fit(run, batches, {.steps = 9, .ranks = &ranks});
    if (parameters_of(run) != expected)
      throw std::logic_error("rank " + std::to_string(ranks.rank()) + " went another way");
  });
  SUCCEED();
}

TEST_CASE("a run on several ranks stops when an observer of any rank does", "[train][shards][ranks]") {
  const auto data = samples();
  ThreadRanks(4).run([&](Communicator& ranks) {
    NetRun run(net());
    SupervisedBatches<float> batches(data.view(), {.batch_size = 16, .shards = 4});
    const auto result = fit(run, batches, {.steps = 9, .ranks = &ranks}, [&](const auto& context) {
      return ranks.rank() != 2 || context.report.step < 3;
    });
    if (run.step != 3 || result.stop_reason != StopReason::observer)
      throw std::logic_error("rank " + std::to_string(ranks.rank()) + " went on");
  });
  SUCCEED();
}

TEST_CASE("a rank whose parameters became others is named with the step", "[train][shards][ranks]") {
  const auto data = samples();
  const auto [every, steps] = GENERATE(std::pair(2, 9), std::pair(100, 4));
  std::vector<std::string> errors(4);
  ThreadRanks(4).run([&, every = every, steps = steps](Communicator& ranks) {
    NetRun run(net());
    SupervisedBatches<float> batches(data.view(), {.batch_size = 16, .shards = 4});
    try {
      fit(run, batches, {.steps = steps, .ranks = &ranks, .check_ranks_every = every}, [&](auto& context) {
        auto& weight = context.run.model.head.weight(0, 0);
        if (ranks.rank() == 2 && context.report.step == 3) weight = std::nextafter(weight, 9.f);
      });
    } catch (const std::runtime_error& error) {
      errors[static_cast<std::size_t>(ranks.rank())] = error.what();
    }
  });
  for (const auto& error : errors)
    CHECK_THAT(error, ContainsSubstring("after step 4 the parameters of rank 2 differ from those of rank 0"));
}

TEST_CASE("ranks that cannot divide the shards, and ranks with other data, are refused",
          "[train][shards][ranks]") {
  const auto with = [](Index ranks, Index shards) {
    ThreadRanks(ranks).run([&](Communicator& communicator) { trained(shards, Serial{}, &communicator); });
  };
  CHECK_THROWS_WITH(
      with(3, 8),
      "ddl::fit: the number of ranks is 3, expected a power of two of at most 8, the number of shards");
  CHECK_THROWS_WITH(
      with(4, 2),
      "ddl::fit: the number of ranks is 4, expected a power of two of at most 2, the number of shards");
  CHECK_THROWS_WITH(
      with(2, 6),
      "ddl::fit: the number of ranks is 2, expected 1, as the number of shards, 6, is not a power of two");
  const auto data = samples();
  const auto refused = [&](const std::string& what, const auto& change) {
    CHECK_THROWS_WITH(ThreadRanks(4).run([&](Communicator& ranks) {
      Net::Settings model = {.inputs = 3, .outputs = 4, .width = 12};
      BatchSettings batch = {.batch_size = 16, .shards = 4};
      FitSettings settings = {.steps = 1, .ranks = &ranks};
      if (ranks.rank() == 1) change(model, batch, settings);
      NetRun run(Net(model, 5));
      SupervisedBatches<float> batches(data.view(), batch);
      fit(run, batches, settings);
    }),
                      "ddl::fit: " + what + " of rank 1 differ from those of rank 0");
  };
  refused("the data", [](auto&, auto& batch, auto&) { batch.seed = 1; });
  refused("the model's sizes or the settings", [](auto& model, auto&, auto&) { model.width = 13; });
  refused("the model's sizes or the settings", [](auto&, auto&, auto& settings) { settings.steps = 2; });
  refused("the model's sizes or the settings",
          [](auto&, auto&, auto& settings) { settings.non_finite = NonFinite::skip; });
  refused("the model's sizes or the settings",
          [](auto&, auto&, auto& settings) { settings.memory = Memory::reversible; });
  refused("the model's sizes or the settings", [](auto&, auto&, auto& settings) { settings.max_norm = 0.5; });
}

TEST_CASE("a loss that is not finite is reported with its shard", "[train][shards]") {
  auto data = samples();
  data.inputs(0, 9) = std::numeric_limits<float>::quiet_NaN();
  const Index ranks = GENERATE(1, 2, 4);
  std::vector<std::string> errors(static_cast<std::size_t>(ranks));
  ThreadRanks(ranks).run([&](Communicator& communicator) {
    NetRun run(net());
    SupervisedBatches<float> batches(data.view(), {.batch_size = 16, .shuffle = false, .shards = 4});
    try {
      fit(run, batches, {.steps = 1, .ranks = &communicator});
    } catch (const std::runtime_error& error) {
      errors[static_cast<std::size_t>(communicator.rank())] = error.what();
    }
  });
  for (const auto& error : errors) CHECK_THAT(error, ContainsSubstring("the loss is nan (shard 2 of 4)"));
}

TEST_CASE("the number of shards belongs to the state of the data", "[train][shards]") {
  const auto data = samples();
  SupervisedBatches<float> two(data.view(), {.batch_size = 16, .shards = 2});
  SupervisedBatches<float> four(data.view(), {.batch_size = 16, .shards = 4});
  CHECK_THROWS_WITH(four.restore(two.state()), "ddl::SupervisedBatches::restore: shards is 4, expected 2");
  CHECK_THROWS_WITH(SupervisedBatches<float>(data.view(), {.batch_size = 16, .shards = 17}),
                    "ddl::BatchSampler: shards is 17, expected 1 to 16, the size of a batch");
  const std::vector<int> text(100, 1);
  CHECK_THROWS_WITH(LanguageBatches<float>(text, {.sequences = 4, .length = 8, .shards = 0}),
                    "ddl::LanguageBatches: shards is 0, expected 1 to 4, the size of a batch");
  LanguageBatches<float> thirds(text, {.sequences = 4, .length = 8, .shards = 3}),
      whole(text, {.sequences = 4, .length = 8});
  CHECK_THROWS_WITH(whole.restore(thirds.state()), "ddl::LanguageBatches::restore: shards is 1, expected 3");
  thirds.next();
  Index tokens = 0;
  for (Index s = 0; s < 3; ++s) tokens += thirds.shard(s).samples();
  CHECK(tokens == 32);
}
