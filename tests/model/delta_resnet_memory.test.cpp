// SPDX-License-Identifier: MIT
/// @file  What a training step costs in memory, and that threads and memory modes change no gradient.
#include <thread>

#include "ddl/core/thread_pool.hpp"
#include "ddl/model/delta_resnet.hpp"
#include "ddl/train/loss.hpp"
#include "ddl/train/optimizer.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace ddl;

namespace {

template <class Scalar>
struct Problem {
  DeltaResNet<Scalar> net;
  Matrix<Scalar> x, slope;
  std::vector<int> labels;

  Problem(Index depth, Index samples, Rewrite rewrite = Rewrite::delta)
      : net({.inputs = 6,
             .outputs = 5,
             .width = 24,
             .value_channels = 3,
             .depth = depth,
             .block = {.rewrite = rewrite}},
            3),
        x(6, samples),
        slope(5, samples) {
    Random random(4);
    random.fill_normal(x, 1);
    for (Index n = 0; n < samples; ++n) labels.push_back(static_cast<int>(random.below(5)));
    // Gates all over (0, 2), not only where they start.
    for (auto& block : net.blocks)
      if (block.gate) random.fill_normal(block.gate->out.weight, 1);
  }

  template <Executor E = Serial>
  DeltaResNet<Scalar> gradient(typename DeltaResNet<Scalar>::template Cache<>& cache,
                               const E& executor = {}) {
    auto result = zeros_like(net);
    softmax_cross_entropy(net.forward(x, cache, executor), labels, slope, executor);
    net.backward(x, slope, cache, result, executor);
    return result;
  }
};

/// The relative distance of two models, over all parameters.
template <class Model>
double distance(const Model& a, const Model& b) {
  double difference = 0, size = 0;
  for_each_parameter(
      [&](const ParameterPath&, const auto& p, const auto& q) {
        difference += static_cast<double>((p - q).squaredNorm());
        size += static_cast<double>(q.squaredNorm());
      },
      a, b);
  return std::sqrt(difference / size);
}

template <class Model>
bool identical(const Model& a, const Model& b) {
  bool same = true;
  for_each_parameter([&](const ParameterPath&, const auto& p, const auto& q) { same = same && p == q; }, a,
                     b);
  return same;
}

constexpr Memory training_modes[] = {Memory::training, Memory::recompute, Memory::rewind,
                                     Memory::rewind_recompute};

}  // namespace

TEMPLATE_TEST_CASE("every memory mode gives the same gradients", "[model][memory]", float, double) {
  const auto rewrite = GENERATE(Rewrite::delta, Rewrite::write_only, Rewrite::additive);
  Problem<TestType> problem(64, 7, rewrite);
  auto stored = problem.net.make_cache(7);
  const auto expected = problem.gradient(stored);
  REQUIRE(global_norm(expected) > 0);
  for (const Memory memory : training_modes) {
    auto cache = problem.net.make_cache(7, memory);
    const double off = distance(problem.gradient(cache), expected);
    CAPTURE(name_of(rewrite), static_cast<int>(memory), off);
    CHECK(off <= (std::is_same_v<TestType, float> ? test::float_tolerance : 1e-12));
  }
}

TEST_CASE("a cache holds what bytes_per_sample_and_layer says", "[model][memory]") {
  if (!test::counts_malloc) {
    SUCCEED("malloc is not ours to count under this sanitizer");
    return;
  }
  for (const Memory memory : training_modes) {
    const auto held = [&](Index depth) {
      Problem<float> problem(depth, 256);
      const long before = test::bytes_in_use;
      auto cache = problem.net.make_cache(256, memory);
      problem.gradient(cache);
      return test::bytes_in_use - before;
    };
    const Problem<float> problem(1, 1);
    held(1);  // what threads keep
    const long per_layer = (held(9) - held(5)) / 4;
    const long expected = 256 * problem.net.bytes_per_sample_and_layer(memory);
    CAPTURE(static_cast<int>(memory), per_layer, expected);
    // Beyond the numbers there are the layers' structs and the allocator's rounding.
    CHECK(per_layer >= expected);
    CHECK(per_layer <= expected + 4096);
  }
}

TEST_CASE("rewinding cuts the residual stream to at most 0.35 at m = 4", "[model][memory]") {
  const DeltaResNet<float> net({.inputs = 1, .outputs = 1, .width = 256, .value_channels = 4, .depth = 1}, 0);
  const auto stream = [&](Memory memory) {
    const Index activations = stores_activations(memory) ? net.blocks[0].activation_scalars() : 0;
    return static_cast<double>(net.bytes_per_sample_and_layer(memory)) -
           static_cast<double>(activations) * sizeof(float);
  };
  // What stored states need: the state; what rewinding needs: the edit alone.
  CHECK(stream(Memory::rewind) / (256 * 4 * sizeof(float)) <= 0.35);
  CHECK(stream(Memory::rewind) / stream(Memory::training) <= 0.35);
}

TEST_CASE("one and many threads give the same bits", "[model][threads]") {
  const auto trained = [](const auto& executor) {
    Problem<float> problem(3, 300);
    auto cache = problem.net.make_cache(300);
    AdamW optimizer(problem.net, {.learning_rate = 1e-2});
    for (int step = 0; step < 20; ++step) {
      auto gradient = problem.gradient(cache, executor);
      clip_global_norm(gradient, 1.0, executor);
      optimizer.step(problem.net, gradient, executor);
    }
    return std::pair(problem.net, Matrix<float>(problem.net.forward(problem.x, cache, executor)));
  };
  const auto serial = trained(Serial{});
  const Index threads = GENERATE(1, 2, 3, 8);
  const auto pooled = trained(ThreadPool(threads));
  CHECK(identical(pooled.first, serial.first));
  CHECK(pooled.second == serial.second);
}

TEST_CASE("one net serves many threads, each with its own cache", "[model][threads]") {
  const Problem<float> problem(4, 32);
  auto cache = problem.net.make_cache(32, Memory::inference);
  const Matrix<float> expected = problem.net.forward(problem.x, cache);
  std::vector<Matrix<float>> results(4);
  {
    std::vector<std::jthread> threads;
    for (auto& result : results)
      threads.emplace_back([&] {
        auto own = problem.net.make_cache(32, Memory::inference);
        for (int i = 0; i < 20; ++i) result = problem.net.forward(problem.x, own);
      });
  }
  for (const auto& result : results) CHECK(result == expected);
}

TEST_CASE("inference of one sample neither throws nor allocates, from the first call on", "[model][memory]") {
  const Problem<float> problem(4, 1);
  using Net = DeltaResNet<float>;
  static_assert(noexcept(
      std::declval<const Net&>().infer(std::declval<const Net::Input&>(), std::declval<Net::Cache<>&>())));
  auto cache = problem.net.make_cache(1, Memory::inference);
  CHECK(test::allocations_in([&] { problem.net.infer(problem.x, cache); }) == 0);

  const DeltaResNet<float, 16, 4> fixed(
      {.inputs = 6, .outputs = 5, .width = 16, .value_channels = 4, .depth = 3}, 1);
  auto one = fixed.make_cache<1>(1, Memory::inference);
  CHECK(test::allocations_in([&] { fixed.infer(problem.x, one); }) == 0);
}
