// SPDX-License-Identifier: MIT
/// @file  The DDL Transformer: a training step and inference, 4 layers, d = 256, 4 heads of 64, vocabulary 256; 4 sequences
/// of 256 tokens.
///
/// step     forward, cross-entropy, backward. `share_of_gemms` is the time of its matrix products alone, those of the
///          attention's blocks included, over that of the step; `additive` the time of the additive baseline's step over
///          this one's; `scaling` the time on one thread over that on all.
/// infer    one token after 128 others, one sequence, on one thread; `tokens_per_second`.
#include <ddl/model/delta_transformer.hpp>
#include <ddl/train/loss.hpp>

#include "support.hpp"

namespace {

using bench::Index;
using Model = ddl::DeltaTransformer<float>;
using Matrix = ddl::Matrix<float>;

constexpr Index length = 256, sequences = 4, tokens = length * sequences;

Model::Settings settings_of(const std::string& name) {
  Model::Settings settings;
  for (const auto variant : ddl::all_variants)
    if (name == name_of(variant)) settings = ddl::settings_of(variant);
  if (name == "additive") settings.update = ddl::UpdateRule::additive;
  settings.layers = 4;
  settings.width = 256;
  settings.mixer.heads = 4;
  settings.context = length;
  return settings;
}

struct Training {
  explicit Training(const std::string& name)
      : model(settings_of(name), 1), gradient(zeros_like(model)), tape(model.make_tape()) {
    ddl::Random random(2);
    for (Index n = 0; n < tokens; ++n) {
      text.push_back(static_cast<int>(random.below(256)));
      targets.push_back(static_cast<int>(random.below(256)));
    }
  }

  template <ddl::Executor E>
  void step(const E& executor) {
    const auto& logits = model.forward({text, length}, tape, executor);
    dlogits.resizeLike(logits);
    ddl::softmax_cross_entropy(logits, targets, dlogits, executor);
    ddl::set_zero(gradient);
    model.backward(dlogits, tape, gradient, executor);
  }

  Model model, gradient;
  Model::Tape tape;
  Matrix dlogits;
  std::vector<int> text, targets;
};

/// All matrix products of a step: three for each weight matrix; in the attention two forward and five backward for each
/// pair of blocks of 64 that is not in the future.
class Products {
 public:
  explicit Products(const Model& model) {
    ddl::for_each_parameter(
        [&](const ddl::ParameterPath& path, const auto& p) {
          if (!path.is_vector() && path.str().find("compress") == std::string::npos &&
              path.str().find("readout") == std::string::npos &&
              path.str().find("expansion") == std::string::npos)
            weights_.push_back(p);
        },
        model);
    for (const auto& w : weights_) {
      x_.push_back(bench::random_matrix<float>(w.cols(), tokens, 1));
      y_.push_back(bench::random_matrix<float>(w.rows(), tokens, 2));
    }
    dweights_ = weights_;
    dx_ = x_;
    constexpr Index blocks = length / 64;
    pairs_ = model.settings.layers * model.settings.mixer.heads * sequences * blocks * (blocks + 1) / 2;
  }

  template <ddl::Executor E>
  void run(const E& executor) {
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      ddl::product(weights_[i], x_[i], y_[i], executor);
      ddl::add_product(y_[i], x_[i].transpose(), dweights_[i], executor);
      ddl::product(weights_[i].transpose(), y_[i], dx_[i], executor);
    }
    executor.for_each(pairs_, [&](Index) {
      thread_local Matrix a = Matrix::Ones(64, 64), b = a, c = a;
      for (int i = 0; i < 3; ++i) ddl::product(a.transpose(), b, c, ddl::Serial{});
      for (int i = 0; i < 4; ++i) ddl::product(a, b, c, ddl::Serial{});
    });
  }

 private:
  std::vector<Matrix> weights_, dweights_, x_, dx_, y_;
  Index pairs_ = 0;
};

void step(benchmark::State& state, const std::string& name) {
  const Index threads = state.range(0);
  Training training(name), additive("additive");
  Products products(training.model);
  bench::with_threads(threads, [&](const auto& executor) {
    std::vector<bench::Contestant> baselines;
    baselines.emplace_back("share_of_gemms", [&] { products.run(executor); });
    baselines.emplace_back("additive", [&] { additive.step(executor); });
    if (threads > 1) baselines.emplace_back("scaling", [&] { training.step(ddl::Serial{}); });
    bench::paired(
        state, [&] { training.step(executor); }, std::move(baselines));
  });
}

void infer(benchmark::State& state, const std::string& name) {
  const Model model(settings_of(name), 1);
  auto sequence = model.make_state();
  std::vector<double> seconds;
  for (auto _ : state) {
    sequence.reset();
    for (int i = 0; i < 128; ++i) model.infer(i, sequence);
    seconds = bench::seconds_of_each(100, [&] { model.infer(7, sequence); });
    state.SetIterationTime(bench::quantile(seconds, 0.5));
  }
  state.counters["tokens_per_second"] = 1 / bench::quantile(seconds, 0.5);
  state.counters["p99_us"] = 1e6 * bench::quantile(seconds, 0.99);
}

}  // namespace

int main(int argc, char** argv) {
  for (const std::string name : {"additive", "vdim1", "tc", "cc", "cc_ec"}) {
    auto* steps = bench::add("step/" + name, [=](auto& state) { step(state, name); })->ArgName("threads");
    for (const Index threads : bench::thread_counts()) steps->Arg(threads);
    bench::add("infer/" + name, [=](auto& state) { infer(state, name); });
  }
  return bench::run(argc, argv);
}
