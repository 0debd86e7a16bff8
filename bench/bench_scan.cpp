// SPDX-License-Identifier: MIT
/// @file  The delta rule over time: its recurrent and its chunked kernel, forward, and forward and backward.
///
/// per_token_head is the time for one token and head. The counters `recurrent` and `chunked` are the times
/// of either kernel over that of the one that the library chooses. `arithmetic_limit` is the share of the
/// time that the processor's multiply-adds alone would take, measured on registers in the same run: 6 d m
/// floating-point operations forward, 14 d m backward. `scaling` is the time on one thread over that on all.
/// `decode` is the time of one token in a whole layer.
#include <ddl/nn/delta_rule.hpp>

#include "scan.hpp"

namespace {

using bench::Index;
using bench::Pass, bench::Scan;
using ddl::ScanKernel;

/// `flops` floating-point operations on registers, in twelve sums that do not wait for each other.
template <class Scalar>
void multiply_add(double flops) {
  using Lane = ddl::detail::WideLane<Scalar>;
  typename Lane::Pack sums[12];
  Scalar start(1);
  for (auto& sum : sums) {
    benchmark::DoNotOptimize(start);  // the compiler must not know that they are equal
    sum = Lane::broadcast(start);
  }
  const auto factor = Lane::broadcast(Scalar(0.5)), term = Lane::broadcast(Scalar(0.25));
  const Index rounds = Index(flops / double(2 * 12 * Lane::size));
  for (Index i = 0; i < rounds; ++i)
    for (auto& sum : sums) sum = Lane::add_product(term, factor, sum);
  Scalar total(0);
  for (const auto& sum : sums) total += Lane::sum(sum);
  benchmark::DoNotOptimize(total);
}

/// Arguments: d = m, tokens of a sequence, sequences, heads, whether there is decay, threads.
template <class Scalar>
void scan(benchmark::State& state, Pass pass) {
  const Index d = state.range(0), T = state.range(1), sequences = state.range(2), heads = state.range(3),
              threads = state.range(5);
  Scan<Scalar> subject(d, d, T, sequences, heads, state.range(4) != 0);
  bench::with_threads(threads, [&](const auto& executor) {
    std::vector<bench::Contestant> baselines;
    baselines.emplace_back("arithmetic_limit", [&] {
      const Index shares = 4 * threads;
      executor.for_each(shares, [&](Index) { multiply_add<Scalar>(subject.flops(pass) / double(shares)); });
    });
    baselines.emplace_back("recurrent", [&] { subject.run(pass, ScanKernel::recurrent, executor); });
    baselines.emplace_back("chunked", [&] { subject.run(pass, ScanKernel::chunked, executor); });
    if (threads > 1)
      baselines.emplace_back("scaling", [&] { subject.run(pass, ScanKernel::automatic, ddl::Serial{}); });
    bench::paired(
        state, [&] { subject.run(pass, ScanKernel::automatic, executor); }, std::move(baselines));
  });
  state.counters["per_token_head"] =
      benchmark::Counter(double(subject.tokens_and_heads()),
                         benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

/// One token of a layer with d = m, `heads` heads and a width of their product, after 100,000 tokens. The
/// counter `after_10_tokens` is the time after 10 tokens over it.
void decode(benchmark::State& state) {
  using Mixer = ddl::DeltaRule<float>;
  const Index d = state.range(0), heads = state.range(1), width = d * heads, run = 1000;
  ddl::Random random(1);
  const Mixer mixer(width, width, {.heads = heads, .head_dim = d, .negative_eigenvalues = true}, random);
  const ddl::Matrix<float> c = bench::random_matrix<float>(width, run, 2);
  ddl::Matrix<float> y(width, run);
  Mixer::Tape<> tape;
  const auto after = [&](Index tokens) {
    Mixer::State memory = mixer.make_state(1, tokens);
    for (Index n = 0; n < tokens; n += run) {
      const Index count = (std::min)(run, tokens - n);
      mixer.infer(c.leftCols(count), y.leftCols(count), memory, tape, {ddl::Serial{}, count, n});
    }
    return memory;
  };
  const Mixer::State early = after(10), late = after(100'000);
  Mixer::State memory = late;
  const auto seconds = [&](const Mixer::State& from) {
    memory = from;
    constexpr Index tokens = 16;
    const auto start = bench::Clock::now();
    for (Index n = 0; n < tokens; ++n) mixer.infer(c.col(n), y.col(n), memory, tape);
    return bench::seconds_since(start) / double(tokens);
  };
  for (auto _ : state) {
    double best = 1e9, best_early = 1e9;
    for (int turn = 0; turn < 400; ++turn) {
      best = (std::min)(best, seconds(late));
      best_early = (std::min)(best_early, seconds(early));
    }
    state.SetIterationTime(best);
    state.counters["after_10_tokens"] = best_early / best;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::pair<const char*, Pass> passes[] = {
      {"infer", Pass::infer}, {"forward", Pass::forward}, {"forward_backward", Pass::forward_backward}};
  for (const auto& [name, pass] : passes) {
    auto* single = bench::add(name, [pass = pass](auto& state) { scan<float>(state, pass); });
    single->ArgNames({"d", "T", "sequences", "heads", "decay", "threads"});
    for (const Index d : {32, 64, 128, 256})
      for (const Index decay : {0, 1}) single->Args({d, 512, 1, 2, decay, 1});
    for (const Index d : {64, 128})
      for (const Index decay : {0, 1}) single->Args({d, 512, 1, 8, decay, 1});
    const Index all = bench::hardware_threads();
    for (const Index sequences : {1, 8})  // one sequence is divided by heads and value channels alone
      if (all > 1) single->Args({64, 512, sequences, 4, 0, all});
    if (pass == Pass::infer)  // one token at a time
      for (const Index d : {64, 128})
        for (const Index heads : {1, 8, 16})
          for (const Index decay : {0, 1}) single->Args({d, 1, 1, heads, decay, 1});
  }
  auto* decoding = bench::add("decode", decode)->ArgNames({"d", "heads"});
  for (const Index d : {64, 128})
    for (const Index heads : {1, 8}) decoding->Args({d, heads});
  return bench::run(argc, argv);
}
