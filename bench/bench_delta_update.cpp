// SPDX-License-Identifier: MIT
/// @file  The delta update Y = X + beta k (v - X^T k)^T of N states of size d x m and its adjoint, beside a
/// plain copy.
///
/// Bytes are counted minimally: forward reads X and kt and writes Y; backward reads X, dY and kt and writes
/// dX and dkt. What is of size m or 1 a token is left out. `share_of_copy` is the time in which std::memcpy
/// on the same threads moves as many bytes, over ours; `scaling` is the time on one thread over that on all.
#include <ddl/op/delta_update.hpp>

#include "support.hpp"

namespace {

using bench::Index;

enum class Pass { forward, in_place, backward, forward_backward, reversible_backward };

template <class Scalar>
class Updater {
 public:
  Updater(Index N, Index d, Index m)
      : X_(bench::random_matrix<Scalar>(d, N * m, 1)),
        Y_(X_),
        dX_(bench::random_matrix<Scalar>(d, N * m, 2)) {
    inputs_.direction = bench::random_matrix<Scalar>(d, N, 4);
    inputs_.beta = bench::random_matrix<Scalar>(1, N, 5).array().tanh() + Scalar(1);
    inputs_.value = bench::random_matrix<Scalar>(m, N, 3);
    run(Pass::forward, ddl::Serial{});
  }

  double bytes(Pass pass) const {
    const double state = double(X_.size()) * sizeof(Scalar);
    const double direction = double(inputs_.direction.size()) * sizeof(Scalar);
    const double forward = 2 * state + direction, backward = 3 * state + 2 * direction;
    switch (pass) {
      case Pass::forward:
      case Pass::in_place:
        return forward;
      case Pass::backward:
        return backward;
      case Pass::forward_backward:
        return forward + backward;
      case Pass::reversible_backward:
        return backward + state;  // X as well is written
    }
    return 0;
  }

  /// dX_ holds dL/dY before a backward pass and dL/dX after it, which the next pass takes for dL/dY.
  template <ddl::Executor E>
  void run(Pass pass, const E& executor) {
    constexpr auto rule = ddl::UpdateRule::delta;
    if (pass == Pass::in_place)
      ddl::delta_update_forward(rule, Y_, inputs_, tape_, Y_, ddl::default_k_eps, executor);
    else if (pass == Pass::reversible_backward)
      ddl::delta_update_backward_reversible(rule, Y_, inputs_, tape_, dX_, gradient_, executor);
    if (pass == Pass::forward || pass == Pass::forward_backward)
      ddl::delta_update_forward(rule, X_, inputs_, tape_, Y_, ddl::default_k_eps, executor);
    if (pass == Pass::backward || pass == Pass::forward_backward)
      ddl::delta_update_backward(rule, X_, inputs_, tape_, dX_, gradient_, executor);
  }

 private:
  ddl::Matrix<Scalar> X_, Y_, dX_;
  ddl::EditInputs<Scalar> inputs_, gradient_;
  ddl::EditTape<Scalar> tape_;
};

/// Arguments: N, d, m, threads.
template <class Scalar>
void delta_update(benchmark::State& state, Pass pass) {
  const Index N = state.range(0), d = state.range(1), m = state.range(2), threads = state.range(3);
  Updater<Scalar> updater(N, d, m);
  const double bytes = updater.bytes(pass);
  bench::Copy copy(bytes);
  bench::with_threads(threads, [&](const auto& executor) {
    std::vector<bench::Contestant> baselines;
    baselines.emplace_back("copy_whole", [&] { copy.run(std::size_t(bytes), threads, executor); });
    baselines.emplace_back("copy_pieces", [&] { copy.run(2048, threads, executor); });
    if (threads > 1) baselines.emplace_back("scaling", [&] { updater.run(pass, ddl::Serial{}); });
    bench::paired(
        state, [&] { updater.run(pass, executor); }, std::move(baselines));
  });
  bench::take_faster(state, "share_of_copy", "copy_whole", "copy_pieces");
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes));
}

const std::vector<std::string> argument_names = {"N", "d", "m", "threads"};

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::pair<const char*, Pass>> passes = {
      {"forward", Pass::forward},
      {"forward_in_place", Pass::in_place},
      {"backward", Pass::backward},
      {"forward_backward", Pass::forward_backward},
      {"reversible_backward", Pass::reversible_backward}};
  for (const auto& [name, pass] : passes) {
    auto* single = bench::add(name, [pass = pass](auto& state) { delta_update<float>(state, pass); });
    single->ArgNames(argument_names);
    for (const auto& shape : bench::delta_update_shapes())
      for (const Index threads : bench::thread_counts())
        single->Args({shape[0], shape[1], shape[2], threads});
    for (const Index threads : bench::thread_counts())  // in cache, but worth sharing
      single->Args({1024, 256, 1, threads});
    auto* twice = bench::add(name + std::string("/double"),
                             [pass = pass](auto& state) { delta_update<double>(state, pass); });
    twice->ArgNames(argument_names);
    for (const Index threads : bench::thread_counts()) twice->Args({4096, 256, 4, threads});
  }
  // Tails and any number of channels, on states that fit a cache: about a mebibyte of them.
  auto* sweep = bench::add("sweep", [](auto& state) { delta_update<float>(state, Pass::forward_backward); });
  sweep->ArgNames(argument_names);
  for (const Index d : {17, 64, 100, 255, 768})
    for (const Index m : {1, 2, 3, 4, 6, 8, 16}) sweep->Args({(1 << 18) / (d * m), d, m, 1});
  return bench::run(argc, argv);
}
