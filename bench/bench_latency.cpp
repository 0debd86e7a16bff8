// SPDX-License-Identifier: MIT
/// @file  Inference of one sample: a DeltaResNet (64 inputs, m = 4, depth 8, 10 outputs) and a single block,
/// with sizes fixed at compile time and dynamic, on one thread.
///
/// Every call is timed by itself. The benchmark's time is the median; `p50_ns` and `p99.9_ns` say it again,
/// and `timer_ns` is what reading the clock costs, which is contained in both.
#include "training.hpp"

namespace {

using bench::Index;

template <class F>
void latency(benchmark::State& state, const F& f) {
  std::vector<double> seconds;
  for (auto _ : state) {
    state.PauseTiming();
    seconds = bench::seconds_of_each(10000, f);
    state.SetIterationTime(bench::quantile(seconds, 0.5));
    state.ResumeTiming();
  }
  const auto timer = bench::seconds_of_each(10000, [] {});
  state.counters["p50_ns"] = 1e9 * bench::quantile(seconds, 0.5);
  state.counters["p99.9_ns"] = 1e9 * bench::quantile(seconds, 0.999);
  state.counters["timer_ns"] = 1e9 * bench::quantile(timer, 0.5);
}

/// `Tokens` is 1 with fixed sizes, and Dynamic otherwise.
template <class Net, int Tokens>
void net_latency(benchmark::State& state, Index width) {
  const Net net(bench::net_settings<Net>(width), 1);
  const ddl::Vector<float> x = bench::random_matrix<float>(net.inputs(), 1, 2);
  auto sequence = net.template make_state<Tokens>();
  latency(state, [&] { net.infer(x, sequence); });
}

template <class Net, int Tokens>
void block_latency(benchmark::State& state, Index width) {
  const Net net(bench::net_settings<Net>(width, 1), 1);
  const typename Net::template Tape<Tokens>::States X =
      bench::random_matrix<float>(width, net.value_channels(), 2);
  typename Net::template Tape<Tokens>::States Y = X;
  const auto& block = net.layers.front();
  auto tape = block.template make_tape<Tokens>();
  latency(state, [&] { block.forward(X, Y, tape); });
}

template <int Width>
void add() {
  using Fixed = ddl::DeltaResNet<float, Width, 4>;
  using Dynamic = bench::Net;
  const std::string d = "/d:" + std::to_string(Width);
  bench::add("net/fixed" + d, [](auto& state) { net_latency<Fixed, 1>(state, Width); });
  bench::add("net/dynamic" + d, [](auto& state) { net_latency<Dynamic, ddl::Dynamic>(state, Width); });
  bench::add("block/fixed" + d, [](auto& state) { block_latency<Fixed, 1>(state, Width); });
  bench::add("block/dynamic" + d, [](auto& state) { block_latency<Dynamic, ddl::Dynamic>(state, Width); });
}

}  // namespace

int main(int argc, char** argv) {
  add<16>();
  add<32>();
  add<64>();
  add<128>();
  return bench::run(argc, argv);
}
