// SPDX-License-Identifier: MIT
/// @file  The DDL Transformer: a training step and inference, 4 layers, d = 256, 4 heads of 64, vocabulary
/// 256; sequences of 256 tokens.
///
/// step     forward, cross-entropy, backward of 4 sequences. `share_of_gemms` is the time of its matrix
/// products alone,
///          those of the attention's blocks included, over that of the step; `additive` the time of the additive
///          baseline's step over this one's; `scaling` the time on one thread over that on all.
/// shards   the same as fit computes it, for batches of some sequences, cut into shards. `GFLOPS` is the rate
/// of the
///          matrix products within the step's time, and `of_peak` that rate over the rate of 256 x 256 x 256 products,
///          of which each thread computes its own. `AdamW_us` is the time of clipping and AdamW after the step, `MiB`
///          the memory of the shards' gradients and tapes.
/// infer    one token after 128 others, one sequence, on one thread; `tokens_per_second`.
#include <array>
#include <ddl/data/language.hpp>
#include <ddl/model/delta_transformer.hpp>
#include <ddl/train/loss.hpp>
#include <ddl/train/optimizer.hpp>
#include <ddl/train/sharded_step.hpp>
#include <set>

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

/// Calls f(weight) for every matrix that is multiplied by all tokens.
template <class F>
void for_each_weight(const Model& model, const F& f) {
  ddl::for_each_parameter(
      [&](const ddl::ParameterPath& path, const auto& p) {
        const std::string name = path.str();
        const auto within = [&](const char* part) { return name.find(part) != std::string::npos; };
        if (!path.is_vector() && !within("compress") && !within("readout") && !within("expansion")) f(p);
      },
      model);
}

/// The pairs of blocks of 64 tokens, not in the future, of all layers and heads. A step multiplies 7 times
/// for each.
Index attention_pairs(const Model& model, Index batch) {
  constexpr Index blocks = length / 64;
  return model.settings.layers * model.settings.mixer.heads * batch * blocks * (blocks + 1) / 2;
}

/// The floating-point operations of a step's matrix products: three products for each weight, and the
/// attention's.
double operations(const Model& model, Index batch) {
  double multiplications = double(attention_pairs(model, batch)) * 7 * 64 * 64 * 64;
  for_each_weight(model, [&](const auto& w) { multiplications += 3.0 * double(w.size() * batch * length); });
  return 2 * multiplications;
}

/// All matrix products of a step.
class Products {
 public:
  explicit Products(const Model& model) : pairs_(attention_pairs(model, sequences)) {
    for_each_weight(model, [&](const auto& w) { weights_.push_back(w); });
    for (const auto& w : weights_) {
      x_.push_back(bench::random_matrix<float>(w.cols(), tokens, 1));
      y_.push_back(bench::random_matrix<float>(w.rows(), tokens, 2));
    }
    dweights_ = weights_;
    dx_ = x_;
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

/// Operations a second of products of 256 x 256 matrices that are in the cache, one after the other on each
/// thread.
class Peak {
 public:
  explicit Peak(Index threads) : operands_(static_cast<std::size_t>(threads)) {
    for (auto& operands : operands_) operands.fill(bench::random_matrix<float>(size, size, 1));
  }

  template <ddl::Executor E>
  double measure(const E& executor) {
    constexpr int repeats = 32;
    double best = 0;
    for (int i = 0; i < 3; ++i) {
      const auto start = bench::Clock::now();
      executor.for_each(static_cast<Index>(operands_.size()), [&](Index thread) {
        auto& [a, b, c] = operands_[static_cast<std::size_t>(thread)];
        for (int j = 0; j < repeats; ++j) ddl::product(a, b, c, ddl::Serial{});
      });
      best = (std::max)(
          best, 2.0 * size * size * size * repeats * double(operands_.size()) / bench::seconds_since(start));
    }
    return best;
  }

 private:
  static constexpr Index size = 256;
  std::vector<std::array<Matrix, 3>> operands_;
};

/// Arguments: batch, threads, shards.
void sharded(benchmark::State& state, const std::string& name) {
  const Index batch = state.range(0), threads = state.range(1), shards = state.range(2);
  Model model(settings_of(name), 1);
  std::vector<int> text;
  ddl::Random random(2);
  for (Index n = 0; n < 4 * tokens; ++n) text.push_back(static_cast<int>(random.below(256)));
  ddl::LanguageBatches<float> batches(text, {.sequences = batch, .length = length, .shards = shards});
  ddl::AdamW<Model> optimizer(model, {.learning_rate = 0});
  const double before = bench::heap_bytes();
  ddl::detail::ShardedStep<Model> step(model, shards, ddl::Memory::training, nullptr);
  decltype(step)::Result total;
  Peak peak(threads);
  bench::with_threads(threads, [&](const auto& executor) {
    batches.next();
    step.compute(model, batches, total, executor);  // makes the tapes
    state.counters["MiB"] = (bench::heap_bytes() - before) / (1 << 20);
    double seconds = 1e9, update_seconds = 1e9, rate = peak.measure(executor);
    for (auto _ : state) {
      const auto start = bench::Clock::now();
      for (int i = 0; i < 2 || (i < 100 && bench::seconds_since(start) < 0.25); ++i) {
        batches.next();
        const auto begin = bench::Clock::now();
        Model& gradient = step.compute(model, batches, total, executor);
        seconds = (std::min)(seconds, bench::seconds_since(begin));
        const auto end = bench::Clock::now();
        ddl::clip_global_norm(gradient, 1, executor);
        optimizer.step(model, gradient, executor);
        update_seconds = (std::min)(update_seconds, bench::seconds_since(end));
      }
      state.SetIterationTime(seconds);
    }
    rate = (std::max)(rate, peak.measure(executor));
    const double reached = operations(model, batch) / seconds;
    state.counters["GFLOPS"] = reached / 1e9;
    state.counters["of_peak"] = reached / rate;
    state.counters["AdamW_us"] = 1e6 * update_seconds;
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
  for (const std::string name : {"vdim1", "cc_ec"}) {
    auto* cells = bench::add("shards/" + name, [=](auto& state) {
                    sharded(state, name);
                  })->ArgNames({"batch", "threads", "shards"});
    for (const Index batch : {1, 4, 16, 64})
      for (const Index threads : bench::powers_of_two_threads())
        if (batch <= (std::max)(Index(16), 4 * threads))
          for (const Index shards : std::set<Index>{1, (std::min)(batch, threads), batch})
            cells->Args({batch, threads, shards});
  }
  return bench::run(argc, argv);
}
