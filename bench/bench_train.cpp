// SPDX-License-Identifier: MIT
/// @file  A training step of a DeltaResNet (64 inputs, m = 4, depth 8, 10 outputs): forward, cross-entropy,
/// backward, clipping, AdamW.
///
/// step     `share_of_gemms` is the time of the step's matrix products alone over that of the step, where the
/// products
///          are taken by the faster of ddl::product and Eigen's own noalias() product. `scaling` is the time
///          on one thread over that on all.
/// shards   the same as fit computes it, for a batch cut into shards. `one_shard` is the time of a batch that
/// is not cut,
///          on the same threads, over ours; `scaling` as above.
/// memory   the four ways to keep what backward needs: bytes of tape per token and layer, as measured on the
/// heap;
///          `residual_stream`, the share of them that states and edits take where nothing else is kept,
///          against stored states; `relative_speed`, the time with everything stored over this one's.
#include <ddl/data/supervised.hpp>
#include <ddl/train/sharded_step.hpp>

#include "training.hpp"

namespace {

using bench::Index;
using Matrix = ddl::Matrix<float>;

// --- the products alone
// -------------------------------------------------------------------------------------------

/// A matrix product that is split over the threads by columns of C, and otherwise Eigen's.
struct ByEigen {
  template <class A, class B, class E>
  static void product(const A& a, const B& b, Matrix& c, Index threads, const E& executor, bool add) {
    executor.for_each(threads, [&](Index i) {
      const Index begin = c.cols() * i / threads, cols = c.cols() * (i + 1) / threads - begin;
      auto part = c.middleCols(begin, cols);
      if (add)
        part.noalias() += a * b.middleCols(begin, cols);
      else
        part.noalias() = a * b.middleCols(begin, cols);
    });
  }
};

struct ByDdl {
  template <class A, class B, class E>
  static void product(const A& a, const B& b, Matrix& c, Index, const E& executor, bool add) {
    if (add)
      ddl::add_product(a, b, c, executor);
    else
      ddl::product(a, b, c, executor);
  }
};

/// The three products of a linear layer in a training step, on matrices of its own.
struct LinearProducts {
  LinearProducts(Index in, Index out, Index batch)
      : W(bench::random_matrix<float>(out, in, 1)),
        dW(W),
        x(bench::random_matrix<float>(in, batch, 2)),
        dx(x),
        y(bench::random_matrix<float>(out, batch, 3)),
        dy(y) {}

  Matrix W, dW, x, dx, y, dy;
};

/// All products of a training step, in its order: forward from the first layer, backward from the last.
class Products {
 public:
  Products(const bench::Net& net, Index batch) {
    const Index d = net.width(), m = net.value_channels(), hidden = 4 * d;
    layers_.emplace_back(net.inputs(), d * m, batch);
    for (Index l = 0; l < net.depth(); ++l) {
      layers_.emplace_back(d, hidden, batch);
      layers_.emplace_back(hidden, d, batch);
      layers_.emplace_back(d, 1, batch);  // the gate
      layers_.emplace_back(d, m, batch);  // the value
    }
    layers_.emplace_back(d, net.outputs(), batch);
  }

  template <class By, class E>
  void run(Index threads, const E& executor) {
    for (auto& layer : layers_) By::product(layer.W, layer.x, layer.y, threads, executor, false);
    for (std::size_t l = layers_.size(); l-- > 0;) {
      auto& layer = layers_[l];
      By::product(layer.dy, layer.x.transpose(), layer.dW, threads, executor, true);
      if (l > 0)  // nobody wants the gradient of the inputs
        By::product(layer.W.transpose(), layer.dy, layer.dx, threads, executor, false);
    }
  }

 private:
  std::vector<LinearProducts> layers_;
};

/// Arguments: width, batch, threads.
void step(benchmark::State& state) {
  const Index width = state.range(0), batch = state.range(1), threads = state.range(2);
  bench::Training training(width, batch);
  Products products(training.net, batch);
  bench::with_threads(threads, [&](const auto& executor) {
    std::vector<bench::Contestant> baselines;
    baselines.emplace_back("gemms_ddl", [&] { products.run<ByDdl>(threads, executor); });
    baselines.emplace_back("gemms_eigen", [&] { products.run<ByEigen>(threads, executor); });
    if (threads > 1) baselines.emplace_back("scaling", [&] { training.step(); });
    bench::paired(
        state, [&] { training.step(executor); }, std::move(baselines));
  });
  bench::take_faster(state, "share_of_gemms", "gemms_ddl", "gemms_eigen");
}

/// A step on the batch of a `bench::Training`, which fit would cut into shards.
class ShardedTraining {
 public:
  ShardedTraining(bench::Training& training, Index shards)
      : training_(training),
        data_{{}, training.labels, {}},
        batches_((data_.inputs = training.x, data_.view()),
                 {.batch_size = training.x.cols(), .shards = shards}),
        step_(training.net, shards, ddl::Memory::training, nullptr) {
    batches_.next();
  }

  template <ddl::Executor E>
  void run(const E& executor) {
    auto& gradient = step_.compute(training_.net, batches_, total_, executor);
    ddl::clip_global_norm(gradient, 1, executor);
    training_.optimizer.step(training_.net, gradient, executor);
  }

 private:
  bench::Training& training_;
  ddl::Dataset<float> data_;
  ddl::SupervisedBatches<float> batches_;
  ddl::detail::ShardedStep<bench::Net> step_;
  ddl::detail::ShardedStep<bench::Net>::Result total_;
};

/// Arguments: width, batch, threads, shards.
void shards(benchmark::State& state) {
  const Index width = state.range(0), batch = state.range(1), threads = state.range(2);
  bench::Training training(width, batch);
  ShardedTraining cut(training, state.range(3)), whole(training, 1);
  bench::with_threads(threads, [&](const auto& executor) {
    std::vector<bench::Contestant> baselines;
    baselines.emplace_back("one_shard", [&] { whole.run(executor); });
    if (threads > 1) baselines.emplace_back("scaling", [&] { cut.run(ddl::Serial{}); });
    bench::paired(
        state, [&] { cut.run(executor); }, std::move(baselines));
  });
}

// --- memory
// -------------------------------------------------------------------------------------------------------

/// What a tape of `depth` layers takes after a step.
double tape_bytes(Index width, Index batch, ddl::Memory memory, Index depth) {
  bench::Training training(width, batch, memory, depth);
  training.tape = {};
  const double before = bench::heap_bytes();
  training.tape = training.net.make_tape(memory);
  training.differentiate();
  return bench::heap_bytes() - before;
}

double bytes_per_token_and_layer(Index width, Index batch, ddl::Memory memory) {
  return (tape_bytes(width, batch, memory, 8) - tape_bytes(width, batch, memory, 4)) / double(4 * batch);
}

/// Arguments: width, batch; on all threads.
void memory(benchmark::State& state, ddl::Memory mode) {
  using ddl::Memory;
  const Index width = state.range(0), batch = state.range(1);
  bench::Training stored(width, batch), training(width, batch, mode);
  stored.step();  // the buffers that matrix products keep must not be counted
  bench::with_threads(bench::hardware_threads(), [&](const auto& executor) {
    bench::paired(state, [&] { training.step(executor); },
                  {bench::Contestant("relative_speed", [&] { stored.step(executor); })});
  });
  state.counters["bytes"] = bytes_per_token_and_layer(width, batch, mode);
  state.counters["residual_stream"] =
      bytes_per_token_and_layer(width, batch,
                                ddl::stores_states(mode) ? Memory::recompute : Memory::reversible_recompute) /
      bytes_per_token_and_layer(width, batch, Memory::recompute);
}

}  // namespace

int main(int argc, char** argv) {
  using ddl::Memory;
  auto* steps = bench::add("step", step)->ArgNames({"width", "batch", "threads"});
  auto* cut = bench::add("shards", shards)->ArgNames({"width", "batch", "threads", "shards"});
  for (const Index threads : bench::powers_of_two_threads()) {
    steps->Args({256, 1024, threads})->Args({32, 64, threads});
    cut->Args({256, 1024, threads, 16})->Args({32, 64, threads, 4});
  }
  for (const auto& [name, mode] : {std::pair{"training", Memory::training},
                                   {"recompute", Memory::recompute},
                                   {"reversible", Memory::reversible},
                                   {"reversible_recompute", Memory::reversible_recompute}})
    bench::add(std::string("memory/") + name, [mode = mode](auto& state) { memory(state, mode); })
        ->ArgNames({"width", "batch"})
        ->Args({256, 1024})
        ->Args({32, 64});
  return bench::run(argc, argv);
}
