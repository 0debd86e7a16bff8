// SPDX-License-Identifier: MIT
/// @file  Ours beside libtorch (eager), on the same numbers and threads. Every benchmark first compares
/// outputs and gradients; if they differ by more than 1e-4, relative to libtorch's, the program says so and
/// exits with 1.
///
/// `speedup` is libtorch's time over ours, each by its best burst.
///
///   delta_update            given X, kt, v and beta: Y. On libtorch's side the state is (N, d, m), as in the authors'
///                           models.
///   delta_update_backward   the same, and from dL/dY the gradients of X, kt, v and beta. Ours leaves dL/dX in the place
///                           of dL/dY and writes the rest into buffers kept between calls; libtorch allocates its
///                           results, and its gradients are taken by autograd::grad, which does not add them to others.
///   step                    forward, cross-entropy, backward and AdamW of the same DeltaResNet, libtorch's gradients set
///                           to none before, as PyTorch does by default.
///   inference               forward of one sample, ours with sizes fixed at compile time, libtorch's without gradients.
///
/// Beside other work set OMP_WAIT_POLICY=passive: libtorch's OpenMP threads else spin for cores that they do
/// not get, and its times are a hundred times what they should be.
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <map>

#include "training.hpp"

namespace {

using bench::Index;
using torch::Tensor;
using Matrix = ddl::Matrix<float>;

void set_torch_threads(Index threads) {
  torch::set_num_threads(static_cast<int>(threads));
  bench::set_blas_threads(threads);
  bench::warm_up_seconds = threads > 1 ? 0.02 : 0;  // those of OpenMP and OpenBLAS spin on after their work
}

// --- from ours to libtorch's, and the comparison
// ------------------------------------------------------------------

/// rows x cols of ours, column-major, as (cols, rows) of libtorch's: a batch as (N, features).
template <class Derived>
Tensor batch(const Eigen::DenseBase<Derived>& x) {
  return torch::from_blob(const_cast<float*>(x.derived().data()), {x.cols(), x.rows()}).clone();
}
/// States d x (N m) as (N, d, m).
Tensor states(const Matrix& X, Index m) {
  return batch(X).view({X.cols() / m, m, X.rows()}).transpose(1, 2).contiguous();
}

void compare(const std::string& what, const Tensor& ours, const Tensor& theirs) {
  const double error = ((ours - theirs).norm() / theirs.norm()).item<double>();
  if (error <= 1e-4) return;
  std::fprintf(stderr, "%s: ours and libtorch's differ by %g, relative to libtorch's\n", what.c_str(), error);
  std::exit(1);
}

// --- the delta update
// --------------------------------------------------------------------------------------------------

Tensor normalised(const Tensor& kt) {
  return kt * torch::rsqrt(kt.square().sum(-1, true) + ddl::default_k_eps * ddl::default_k_eps);
}

/// X: (N, d, m)   kt: (N, d)   v: (N, m)   beta: (N, 1). Reads and writes by batched matrix products.
Tensor update_by_matmul(const Tensor& X, const Tensor& kt, const Tensor& v, const Tensor& beta) {
  const Tensor k = normalised(kt);
  const Tensor read = torch::bmm(k.unsqueeze(1), X).squeeze(1);
  return torch::baddbmm(X, k.unsqueeze(2), (beta * (v - read)).unsqueeze(1));
}
/// The same by products entry by entry.
Tensor update_by_broadcast(const Tensor& X, const Tensor& kt, const Tensor& v, const Tensor& beta) {
  const Tensor k = normalised(kt).unsqueeze(2);
  const Tensor read = (k * X).sum(1);
  return torch::addcmul(X, k, (beta * (v - read)).unsqueeze(1));
}

/// Arguments: N, d, m, threads.
void delta_update(benchmark::State& state, bool with_backward) {
  const Index N = state.range(0), d = state.range(1), m = state.range(2), threads = state.range(3);
  set_torch_threads(threads);
  const Matrix X = bench::random_matrix<float>(d, N * m, 1), G = bench::random_matrix<float>(d, N * m, 2);
  Matrix Y(d, N * m), dX = G;
  ddl::EditInputs<float> edit, gradient;
  ddl::EditTape<float> tape;
  edit.direction = bench::random_matrix<float>(d, N, 4);
  edit.beta = bench::random_matrix<float>(1, N, 5).array().tanh() + 1;
  edit.value = bench::random_matrix<float>(m, N, 3);

  const std::vector<Tensor> inputs = {states(X, m), batch(edit.direction), batch(edit.value),
                                      batch(edit.beta)};
  const Tensor torch_G = states(G, m);
  for (const Tensor& input : inputs) input.requires_grad_(with_backward);

  const auto theirs = [&](const auto& torch_update) {
    const torch::AutoGradMode mode(with_backward);
    std::vector<Tensor> results = {torch_update(inputs[0], inputs[1], inputs[2], inputs[3])};
    if (with_backward)
      for (auto& each : torch::autograd::grad(results, inputs, {torch_G})) results.push_back(std::move(each));
    return results;
  };
  bench::with_threads(threads, [&](const auto& executor) {
    const auto ours = [&] {
      ddl::delta_update_forward(ddl::UpdateRule::delta, X, edit, tape, Y, ddl::default_k_eps, executor);
      if (with_backward)
        ddl::delta_update_backward(ddl::UpdateRule::delta, X, edit, tape, dX, gradient, executor);
    };
    ours();
    for (const auto& expected : {theirs(update_by_matmul), theirs(update_by_broadcast)}) {
      compare("Y", states(Y, m), expected[0]);
      if (!with_backward) continue;
      compare("dL/dX", states(dX, m), expected[1]);
      compare("dL/dkt", batch(gradient.direction), expected[2]);
      compare("dL/dv", batch(gradient.value), expected[3]);
      compare("dL/dbeta", batch(gradient.beta), expected[4]);
    }
    std::vector<bench::Contestant> baselines;
    baselines.emplace_back("by_matmul", [&] { theirs(update_by_matmul); });
    baselines.emplace_back("by_broadcast", [&] { theirs(update_by_broadcast); });
    bench::paired(state, ours, std::move(baselines));
    bench::take_faster(state, "speedup", "by_matmul", "by_broadcast");
  });
}

// --- the DeltaResNet
// ----------------------------------------------------------------------------------------------

/// Modules and parameters are named as ours are, with _ for every other dot, which libtorch keeps for itself.
struct TorchBlock : torch::nn::Module {
  TorchBlock(Index d, Index m)
      : compressor(register_parameter("compressor_weight", torch::empty({d, m}))),
        norm(register_parameter("norm_weight", torch::empty({d}))),
        first(register_module("sublayer_first", torch::nn::Linear(d, 4 * d))),
        last(register_module("sublayer_last", torch::nn::Linear(4 * d, d))),
        gate(register_module("gate_out", torch::nn::Linear(d, 1))),
        value(register_module("value_projection", torch::nn::Linear(d, m))) {}

  Tensor forward(const Tensor& X) {
    const Tensor c = normalised(compressed(X, compressor), norm);
    const Tensor kt = last(torch::gelu(first(c)));
    return update_by_broadcast(X, kt, value(c), 2 * torch::sigmoid(gate(c)));
  }

  static Tensor compressed(const Tensor& X, const Tensor& weight) { return (X * weight).sum(-1); }
  static Tensor normalised(const Tensor& x, const Tensor& weight) {
    return x * torch::rsqrt(x.square().mean(-1, true) + 1e-5) * weight;
  }

  Tensor compressor, norm;
  torch::nn::Linear first, last, gate, value;
};

/// The same net with the same weights.
struct TorchNet : torch::nn::Module {
  template <class Net>
  explicit TorchNet(const Net& net)
      : d(net.width()),
        m(net.value_channels()),
        embedding(register_module("embedding", torch::nn::Linear(net.inputs(), d * m))),
        readout(register_parameter("readout_weight", torch::empty({d, m}))),
        norm(register_parameter("norm_weight", torch::empty({d}))),
        head(register_module("head", torch::nn::Linear(d, net.outputs()))) {
    for (Index l = 0; l < net.depth(); ++l)
      layers.push_back(register_module("layers_" + std::to_string(l), std::make_shared<TorchBlock>(d, m)));
    for (auto& parameter : named_parameters()) {
      std::string name = parameter.key();
      std::replace(name.begin(), name.end(), '.', '_');
      by_name.emplace(name, parameter.value());
    }
    const torch::NoGradGuard guard;
    for_each([](const std::string&, const Tensor& ours, Tensor& parameter) { parameter.copy_(ours); }, net);
  }

  Tensor forward(const Tensor& x) {
    Tensor X = embedding(x).view({-1, d, m});
    for (auto& layer : layers) X = layer->forward(X);
    return head(TorchBlock::normalised(TorchBlock::compressed(X, readout), norm));
  }

  /// Calls f(name, ours, libtorch's) for every parameter of `model`, a net of ours or its gradient.
  template <class F, class Net>
  void for_each(const F& f, const Net& model) {
    std::size_t count = 0;
    ddl::for_each_parameter(
        [&](const ddl::ParameterPath& path, const auto& p) {
          std::string name = path.str();
          std::replace(name.begin(), name.end(), '.', '_');
          Tensor& parameter = by_name.at(name);
          Tensor ours = batch(p).t().reshape(parameter.sizes());
          // Ours embeds into d x m by columns, libtorch's view is by rows.
          if (name.rfind("embedding", 0) == 0)
            ours = ours.view({m, d, -1}).transpose(0, 1).reshape(parameter.sizes());
          f(path.str(), ours, parameter);
          ++count;
        },
        model);
    if (count != by_name.size()) throw std::logic_error("libtorch's net has other parameters than ours");
  }

  Index d, m;
  std::map<std::string, Tensor> by_name;
  torch::nn::Linear embedding;
  std::vector<std::shared_ptr<TorchBlock>> layers;
  Tensor readout, norm;
  torch::nn::Linear head;
};

/// Arguments: width, batch, threads.
void step(benchmark::State& state) {
  const Index width = state.range(0), samples = state.range(1), threads = state.range(2);
  set_torch_threads(threads);
  bench::Training training(width, samples);
  TorchNet net(training.net);
  torch::optim::AdamW optimizer(net.parameters(), torch::optim::AdamWOptions(0));
  const Tensor x = batch(training.x);
  const Tensor labels = torch::from_blob(training.labels.data(), {samples}, torch::kInt).to(torch::kLong);

  const auto differentiate = [&] {
    for (auto& [name, parameter] : net.by_name) parameter.mutable_grad().reset();
    const Tensor logits = net.forward(x);
    torch::nn::functional::cross_entropy(logits, labels).backward();
    return logits;
  };
  bench::with_threads(threads, [&](const auto& executor) {
    training.differentiate(executor);
    compare("logits", batch(training.tape.logits), differentiate());
    net.for_each([](const std::string& name, const Tensor& ours,
                    const Tensor& parameter) { compare("gradient of " + name, ours, parameter.grad()); },
                 training.gradient);
    const auto ours = [&] {
      bench::set_blas_threads(1);  // if ours uses it at all, it does so inside of pieces
      training.differentiate(executor);
      training.optimizer.step(training.net, training.gradient, executor);
    };
    const auto theirs = [&] {
      bench::set_blas_threads(threads);
      differentiate();
      optimizer.step();
    };
    bench::paired(state, ours, {bench::Contestant("speedup", theirs)});
  });
}

/// `speedup_p50`: the same of the medians of calls timed one by one. Arguments: threads, of libtorch's only.
void inference(benchmark::State& state) {
  set_torch_threads(state.range(0));
  using Net = ddl::DeltaResNet<float, 64, 4>;
  const Net net(bench::net_settings<Net>(64), 1);
  TorchNet torch_net(net);
  const ddl::Vector<float> x = bench::random_matrix<float>(net.inputs(), 1, 2);
  const Tensor torch_x = batch(x);
  auto sequence = net.make_state();
  const torch::NoGradGuard guard;

  const auto ours = [&] { net.infer(x, sequence); };
  const auto theirs = [&] { return torch_net.forward(torch_x); };
  ours();
  compare("logits", batch(sequence.logits), theirs());
  bench::paired(state, ours, {bench::Contestant("speedup", theirs)});
  state.counters["speedup_p50"] = bench::quantile(bench::seconds_of_each(1000, theirs), 0.5) /
                                  bench::quantile(bench::seconds_of_each(1000, ours), 0.5);
}

}  // namespace

int main(int argc, char** argv) {
  const auto threads = bench::thread_counts();
  for (const bool with_backward : {false, true}) {
    auto* updates = bench::add(with_backward ? "delta_update_backward" : "delta_update",
                               [=](auto& state) { delta_update(state, with_backward); });
    updates->ArgNames({"N", "d", "m", "threads"});
    for (const auto& shape : bench::delta_update_shapes())
      for (const Index t : threads) updates->Args({shape[0], shape[1], shape[2], t});
  }
  auto* steps = bench::add("step", step)->ArgNames({"width", "batch", "threads"});
  auto* inferences = bench::add("inference/d:64/m:4", inference)->ArgName("threads");
  for (const Index t : threads) {
    steps->Args({256, 1024, t})->Args({32, 64, t});
    inferences->Arg(t);
  }
  return bench::run(argc, argv);
}
