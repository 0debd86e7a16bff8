// SPDX-License-Identifier: MIT
/// @file  What a training step costs in memory, and that threads and memory modes change no gradient.
#include <array>
#include <cmath>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

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
  Matrix<Scalar> x, dlogits;
  std::vector<int> labels;

  Problem(Index depth, Index samples, UpdateRule update = UpdateRule::delta)
      : net({.inputs = 6,
             .outputs = 5,
             .width = 24,
             .value_channels = 3,
             .depth = depth,
             .block = {.update = update}},
            3),
        x(6, samples),
        dlogits(5, samples) {
    Random random(4);
    random.fill_normal(x, 1);
    for (Index n = 0; n < samples; ++n) labels.push_back(static_cast<int>(random.below(5)));
    // Gates all over (0, 2), not only where they start.
    for (auto& layer : net.layers)
      if (layer.gate) random.fill_normal(layer.gate->out.weight, 1);
  }

  template <Executor E = Serial>
  DeltaResNet<Scalar> gradient(typename DeltaResNet<Scalar>::template Tape<>& tape, const E& executor = {}) {
    auto result = zeros_like(net);
    softmax_cross_entropy(net.forward(x, tape, executor), labels, dlogits, executor);
    net.backward(dlogits, tape, result, executor);
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

constexpr std::array training_modes = {Memory::training, Memory::recompute, Memory::reversible,
                                       Memory::reversible_recompute};

/// Scalars per sample and layer: what stack.hpp's Memory says of the states and the edits, and the tapes of
/// the default parts: x and c (d each), the norm's inverse root (1), and the MLP's hidden layer (4 d) before
/// and after its activation.
constexpr long state_scalars(long d, long m) { return d * m; }
constexpr long edit_scalars(long d, long m) { return d + 2 * m + 2; }
constexpr long activation_scalars(long d) { return 2 * d + 1 + 2 * 4 * d; }

/// The bytes that a tape of a net of one more layer holds after a step.
long bytes_per_layer(Memory memory, Index samples) {
  const auto held = [&](Index depth) {
    Problem<float> problem(depth, samples);
    const long before = test::bytes_in_use;
    auto tape = problem.net.make_tape(memory);
    problem.gradient(tape);
    return test::bytes_in_use - before;
  };
  held(1);  // what threads keep
  return (held(9) - held(5)) / 4;
}

}  // namespace

TEMPLATE_TEST_CASE("every memory mode gives the same gradients", "[model][memory]", float, double) {
  const auto update = GENERATE(UpdateRule::delta, UpdateRule::write_only, UpdateRule::additive);
  Problem<TestType> problem(64, 7, update);
  auto stored = problem.net.make_tape();
  const auto expected = problem.gradient(stored);
  REQUIRE(global_norm(expected) > 0);
  for (const Memory memory : training_modes) {
    auto tape = problem.net.make_tape(memory);
    const double off = distance(problem.gradient(tape), expected);
    CAPTURE(name_of(update), static_cast<int>(memory), off);
    CHECK(off <= (std::is_same_v<TestType, float> ? test::float_tolerance : 1e-12));
  }
}

TEST_CASE("a tape holds of every layer what Memory says", "[model][memory]") {
  if (!test::counts_malloc) {
    SUCCEED("malloc is not ours to count under this sanitizer");
    return;
  }
  constexpr long samples = 256, d = 24, m = 3;
  const Memory memory = GENERATE(from_range(training_modes));
  const long scalars = edit_scalars(d, m) + (stores_states(memory) ? state_scalars(d, m) : 0) +
                       (stores_activations(memory) ? activation_scalars(d) : 0);
  const long per_layer = bytes_per_layer(memory, samples), expected = samples * scalars * long(sizeof(float));
  CAPTURE(static_cast<int>(memory), per_layer, expected);
  // Beyond the numbers there are the layers' structs and the allocator's rounding.
  CHECK(per_layer >= expected);
  CHECK(per_layer <= expected + 4096);
}

TEST_CASE("a tape for inference holds the same for any number of layers", "[model][memory]") {
  if (!test::counts_malloc) {
    SUCCEED("malloc is not ours to count under this sanitizer");
    return;
  }
  const auto held = [](Index depth) {
    const Problem<float> problem(depth, 256);
    const long before = test::bytes_in_use;
    auto tape = problem.net.make_tape(Memory::inference);
    problem.net.forward(problem.x, tape);
    return test::bytes_in_use - before;
  };
  held(1);  // what threads keep
  const long two = held(2), nine = held(9);
  CAPTURE(two, nine);
  CHECK(std::abs(nine - two) <= 256);  // the allocator's rounding; the edits of a layer are 32 KiB
}

TEST_CASE("one and many threads give the same bits", "[model][threads]") {
  const auto trained = [](const auto& executor) {
    Problem<float> problem(3, 300);
    auto tape = problem.net.make_tape();
    AdamW optimizer(problem.net, {.learning_rate = 1e-2});
    for (int step = 0; step < 20; ++step) {
      auto gradient = problem.gradient(tape, executor);
      clip_global_norm(gradient, 1.0, executor);
      optimizer.step(problem.net, gradient, executor);
    }
    return std::pair(problem.net, Matrix<float>(problem.net.forward(problem.x, tape, executor)));
  };
  const auto serial = trained(Serial{});
  const Index threads = GENERATE(1, 2, 3, 8);
  const auto pooled = trained(ThreadPool(threads));
  CHECK(identical(pooled.first, serial.first));
  CHECK(pooled.second == serial.second);
}

TEST_CASE("one net serves many threads, each with its own tape", "[model][threads]") {
  const Problem<float> problem(4, 32);
  auto tape = problem.net.make_tape(Memory::inference);
  const Matrix<float> expected = problem.net.forward(problem.x, tape);
  std::vector<Matrix<float>> results(4);
  {
    std::vector<std::thread> threads;
    for (auto& result : results)
      threads.emplace_back([&] {
        auto own = problem.net.make_tape(Memory::inference);
        for (int i = 0; i < 20; ++i) result = problem.net.forward(problem.x, own);
      });
    for (std::thread& thread : threads) thread.join();
  }
  for (const auto& result : results) CHECK(result == expected);
}
