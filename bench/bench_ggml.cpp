// SPDX-License-Identifier: MIT
/// @file  The delta rule over time beside ggml's operator GATED_DELTA_NET on its CPU backend, on the same
/// numbers, in float. It is built where CMake is told a checkout of github.com/ggml-org/ggml:
/// -DDDL_GGML_SOURCE=DIR.
///
/// Every benchmark first compares outputs and last states; if they differ by more than 1e-4, relative to
/// ggml's, the program says so and exits with 1. `ggml` is ggml's time over ours, per_token_head our time for
/// one token and head. Both start from states of zeros and return the last ones. Without decay ggml is given
/// a decay of 1, as it has no other way. `infer` keeps nothing for a backward pass, like ggml, which has
/// none; `forward` keeps what backward needs. ggml's time includes that of starting its graph, which matters
/// where there is one token.
#include <ggml-cpu.h>
#include <ggml.h>

#include <cstdio>
#include <cstdlib>

#include "scan.hpp"

namespace {

using bench::Index, bench::Pass;
using Matrix = ddl::Matrix<float>;

/// A graph of one GATED_DELTA_NET. A tensor of ggml lies in memory as our matrix does: channel, head, token.
class Graph {
 public:
  Graph(const bench::Scan<float>& scan, Index d, Index T, Index heads) : d_(d), T_(T), heads_(heads) {
    const auto& x = scan.inputs();
    ggml_init_params settings{};
    settings.mem_size = std::size_t(4 * 4 * heads * d * T + 3 * 4 * heads * d * d) + (std::size_t(1) << 20);
    context_ = ggml_init(settings);
    const Matrix no_decay = Matrix::Zero(heads, T);
    result_ = ggml_gated_delta_net(
        context_, tensor(x.query, d, heads, T), tensor(x.key, d, heads, T), tensor(x.value, d, heads, T),
        tensor(x.has_decay() ? x.log_decay : no_decay, 1, heads, T), tensor(x.beta, 1, heads, T),
        tensor(Matrix::Zero(d, d * heads), d, d, heads), /*K=*/1);
    graph_ = ggml_new_graph(context_);
    ggml_build_forward_expand(graph_, result_);
    plan_ = ggml_graph_plan(graph_, /*n_threads=*/1, nullptr);
    work_.resize(plan_.work_size);
    plan_.work_data = work_.data();
  }
  ~Graph() { ggml_free(context_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void run() {
    if (ggml_graph_compute(graph_, &plan_) != GGML_STATUS_SUCCESS) std::abort();
  }
  Eigen::Map<const Matrix> output() const { return {data(), d_ * heads_, T_}; }
  /// The state of head h, d x m.
  Eigen::Map<const Matrix> state(Index h) const { return {data() + d_ * heads_ * T_ + h * d_ * d_, d_, d_}; }

 private:
  ggml_tensor* tensor(const Matrix& values, Index rows, Index heads, Index tokens) {
    ggml_tensor* made = ggml_new_tensor_4d(context_, GGML_TYPE_F32, rows, heads, tokens, 1);
    std::copy_n(values.data(), values.size(), static_cast<float*>(made->data));
    return made;
  }
  const float* data() const { return static_cast<const float*>(result_->data); }

  Index d_, T_, heads_;
  ggml_context* context_;
  ggml_tensor* result_;
  ggml_cgraph* graph_;
  ggml_cplan plan_;
  std::vector<std::uint8_t> work_;
};

void compare(const char* what, const auto& ours, const auto& theirs) {
  const float error = (ours - theirs).norm() / theirs.norm();
  if (error <= 1e-4f) return;
  std::fprintf(stderr, "%s: ours and ggml's differ by %g, relative to ggml's\n", what, double(error));
  std::exit(1);
}

/// Arguments: d = m, tokens, heads, whether there is decay. On one thread.
void scan(benchmark::State& state, Pass pass) {
  const Index d = state.range(0), T = state.range(1), heads = state.range(2);
  bench::Scan<float> ours(d, d, T, 1, heads, state.range(3) != 0);
  Graph theirs(ours, d, T, heads);
  const auto run = [&] { ours.run(pass, ddl::ScanKernel::automatic, ddl::Serial{}); };
  run();
  theirs.run();
  compare("output", ours.output(), theirs.output());
  for (Index h = 0; h < heads; ++h)
    compare("state", ours.state().middleCols(h * d, d).transpose(), theirs.state(h));
  bench::paired(state, run, {bench::Contestant("ggml", [&] { theirs.run(); })});
  state.counters["per_token_head"] =
      benchmark::Counter(double(ours.tokens_and_heads()),
                         benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto& [name, pass] : {std::pair{"infer", Pass::infer}, {"forward", Pass::forward}}) {
    auto* scans = bench::add(name, [pass = pass](auto& state) { scan(state, pass); });
    scans->ArgNames({"d", "T", "heads", "decay"});
    for (const Index d : {64, 128})
      for (const Index decay : {0, 1}) {
        scans->Args({d, 512, 8, decay});
        if (pass == Pass::infer) scans->Args({d, 1, 8, decay});  // decoding
      }
  }
  return bench::run(argc, argv);
}
