// SPDX-License-Identifier: MIT
/// @file  A whole training project in one file: data of one's own, a sublayer of one's own, validation, early
/// stopping, checkpoints, resumption, controls with matched parameters, and an audit of the gates.
/// docs/training.md explains it.
///
///     training_guide [FOLDER]
///
/// Checkpoints and weights go to FOLDER, and a second run with the same folder resumes the first. Without
/// FOLDER they go to a temporary folder that is removed at the end.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <tuple>

#include <ddl/analysis/gate_audit.hpp>
#include <ddl/ddl.hpp>
#include <ddl/io/checkpoint.hpp>

#include "program.hpp"

namespace {

using ddl::Index;

// ---- 1. Data

/// Points on a 3 x 3 checkerboard with noise, labelled by the colour of their field.
ddl::Dataset<float> checkerboard(Index count, std::uint64_t seed) {
  ddl::Random random(seed);
  ddl::Dataset<float> data;
  data.inputs.resize(2, count);  // features x samples
  for (Index n = 0; n < count; ++n) {
    const double x = random.uniform(0, 3), y = random.uniform(0, 3);
    data.inputs.col(n) << static_cast<float>(x + 0.05 * random.normal()),
        static_cast<float>(y + 0.05 * random.normal());
    data.labels.push_back((static_cast<int>(x) + static_cast<int>(y)) % 2);
  }
  data.class_names = {"black", "white"};
  return data;
}

/// Three views of one data set, and the standardisation of the first.
struct Problem {
  ddl::Dataset<float> data = checkerboard(2000, 1);
  ddl::Standardisation<float> scale;
  Index train_count = data.size() * 7 / 10, validation_count = data.size() * 3 / 20;

  Problem() {
    ddl::Random random(2);
    data.shuffle(random);
    scale = ddl::Standardisation<float>(train().inputs);  // of the training samples alone
    scale.apply(data.inputs);
  }
  ddl::DatasetView<float> train() const { return data.view().range(0, train_count); }
  ddl::DatasetView<float> validation() const { return data.view().range(train_count, validation_count); }
  ddl::DatasetView<float> test() const { return data.split(train_count + validation_count).second; }
};

// ---- 2. A sublayer

struct BilinearSettings {
  Index hidden = 24;
};

/// kt = W ((L c + l) * (R c + r)) + w, where * multiplies entry by entry.   c, kt: d x N.
template <class Scalar_>
struct Bilinear {
  using Scalar = Scalar_;
  using Settings = BilinearSettings;
  static constexpr ddl::PartKind kind = ddl::PartKind::sublayer;

  /// What backward needs of forward. Tokens is N, or ddl::Dynamic.
  template <int Tokens = ddl::Dynamic>
  struct Tape {
    ddl::Matrix<Scalar, ddl::Dynamic, Tokens> left, right, product;  ///< hidden x N
  };

  ddl::Linear<Scalar> left, right, out;

  static constexpr auto parameters() {
    return std::tuple(ddl::parameter("left", &Bilinear::left), ddl::parameter("right", &Bilinear::right),
                      ddl::parameter("out", &Bilinear::out));
  }

  Bilinear() = default;
  Bilinear(Index inputs, Index outputs, const Settings& settings, ddl::Random& random)
      : left(inputs, settings.hidden, random),
        right(inputs, settings.hidden, random),
        out(settings.hidden, outputs, random) {}

  template <int Tokens>
  void forward(const ddl::ConstBatchRef<Scalar>& c, ddl::BatchRef<Scalar> kt, Tape<Tokens>& tape,
               const ddl::Pass& pass) const {
    tape.left.resize(left.outputs(), c.cols());
    tape.right.resize(right.outputs(), c.cols());
    left.forward(c, tape.left, pass);
    right.forward(c, tape.right, pass);
    tape.product = tape.left.cwiseProduct(tape.right);
    out.forward(tape.product, kt, pass);
  }

  /// Adds to dc and to `gradient`.
  template <int Tokens>
  void backward(const ddl::ConstBatchRef<Scalar>& c, const ddl::ConstBatchRef<Scalar>& /*kt*/,
                const ddl::ConstBatchRef<Scalar>& dkt, ddl::BatchRef<Scalar> dc, Tape<Tokens>& tape,
                Bilinear& gradient, const ddl::Pass& pass) const {
    out.backward_parameters(tape.product, dkt, gradient.out, pass);
    out.input_gradient(dkt, tape.product, pass);  // the product is not needed any more
    tape.left.swap(tape.right);
    tape.left.array() *= tape.product.array();  // dL/d(L c + l) = dproduct * (R c + r)
    tape.right.array() *= tape.product.array();
    left.backward(c, tape.left, dc, gradient.left, pass);
    right.backward(c, tape.right, dc, gradient.right, pass);
  }
};
static_assert(ddl::Sublayer<Bilinear<float>>);

template <class Scalar>
using BilinearNet =
    ddl::DeltaResNet<Scalar, ddl::Dynamic, ddl::Dynamic,
                     ddl::DeltaResidualBlock<Scalar, ddl::Dynamic, ddl::Dynamic, Bilinear<Scalar>>>;
using Net = BilinearNet<float>;

/// The largest relative error of the gradients of a small net in double precision.
ddl::GradientReport check_own_part() {
  BilinearNet<double> net({.inputs = 3,
                           .outputs = 2,
                           .width = 4,
                           .value_channels = 2,
                           .depth = 2,
                           .block = {.sublayer = {.hidden = 5}}},
                          1);
  ddl::Random random(3);
  Eigen::MatrixXd x(3, 6), dlogits(2, 6);
  random.fill_normal(x, 1);
  const std::vector<int> labels{0, 1, 1, 0, 1, 0};
  auto tape = net.make_tape();
  auto gradient = ddl::zeros_like(net);
  const auto loss = [&] { return ddl::softmax_cross_entropy(net.forward(x, tape), labels, dlogits); };
  loss();
  net.backward(dlogits, tape, gradient);
  return ddl::check_gradients(net, gradient, loss);
}

// ---- 3. Controls with matched parameters

Net make_net(ddl::UpdateRule update, Index hidden, std::uint64_t seed) {
  return Net({.inputs = 2,
              .outputs = 2,
              .width = 16,
              .value_channels = 2,
              .depth = 3,
              .block = {.sublayer = {.hidden = hidden}, .update = update}},
             seed);
}

/// The hidden size at which a control has at least as many parameters as the delta net. The additive control
/// has neither gates nor values, so it needs a larger one.
Index matched_hidden(ddl::UpdateRule update, Index hidden) {
  const Index wanted = parameter_count(make_net(ddl::UpdateRule::delta, hidden, 0));
  while (parameter_count(make_net(update, hidden, 0)) < wanted) ++hidden;
  return hidden;
}

// ---- 4. Training

constexpr Index steps = 600;

ddl::FitSettings fit_settings() {
  return {.steps = steps, .learning_rate = ddl::WarmupCosine({.peak = 0.01, .warmup = 30, .steps = steps})};
}
ddl::BatchSettings batch_settings(std::uint64_t seed) { return {.batch_size = 50, .seed = seed}; }

struct Outcome {
  Net best;
  Index best_step = 0, steps = 0;
};

Outcome train(const Problem& problem, ddl::UpdateRule update, Index hidden, std::uint64_t seed,
              const std::string& folder) {
  ddl::TrainingRun run(make_net(update, hidden, seed), {.weight_decay = 0.01});
  ddl::SupervisedBatches<float> batches(problem.train(), batch_settings(seed));

  ddl::Checkpoints checkpoints(folder, {.every = 100, .keep = 2, .resume = true},
                               {{"update", name_of(update)}, {"hidden", hidden}, {"seed", seed}});
  ddl::Validation<Net> validation(/*every=*/50, /*patience=*/4, [&](const Net& net) {
    return ddl::evaluate(net, problem.validation()).loss;
  });
  const std::string best_file = folder + "/best.safetensors";
  auto save_best = [&, saved = Index(-1)]() mutable {
    if (!validation.best_model() || validation.best_step() == saved) return;
    saved = validation.best_step();
    ddl::save_parameters(
        *validation.best_model(), best_file,
        {{"loss", nlohmann::json(validation.best()).dump()}, {"step", std::to_string(saved)}});
  };
  if (checkpoints.resume(run, batches)) {
    std::printf("%s: resumed after step %ld\n", name_of(update), long(run.step));
    if (std::filesystem::exists(best_file)) {
      const ddl::SafetensorsFile file(best_file);
      Net best = run.model;
      ddl::load_parameters(best, file);
      validation.restore(std::move(best), std::stod(file.metadata().at("loss")),
                         std::stol(file.metadata().at("step")), run.step);
    }
  }
  ddl::ProgressBar bar({.title = std::string(name_of(update)) + " "});
  const auto keep_best = [&](const auto&) { save_best(); };
  ddl::fit(run, batches, fit_settings(), validation, keep_best, checkpoints, bar);
  save_best();  // fit measures once more after the last step
  return {validation.best_model().value_or(run.model), validation.best_step(), run.step};
}

/// Whether a run that is interrupted and resumed ends with the same bits as one that is not.
bool resumes_exactly(const Problem& problem, const std::string& folder) {
  const auto begin = [&] {
    return std::pair(ddl::TrainingRun(make_net(ddl::UpdateRule::delta, 8, 5)),
                     ddl::SupervisedBatches<float>(problem.train(), batch_settings(5)));
  };
  ddl::FitSettings settings = fit_settings();
  settings.steps = 80;

  auto [whole, whole_batches] = begin();
  ddl::fit(whole, whole_batches, settings);

  {
    auto [run, batches] = begin();
    ddl::Checkpoints checkpoints(folder, {.every = 20, .resume = true});
    checkpoints.resume(run, batches);
    const auto interrupt = [](const auto& context) { return context.report.step < 40; };
    ddl::fit(run, batches, settings, checkpoints, interrupt);
  }
  auto [run, batches] = begin();  // as in a new process
  ddl::Checkpoints checkpoints(folder, {.every = 20, .resume = true});
  checkpoints.resume(run, batches);
  ddl::fit(run, batches, settings, checkpoints);

  bool same = run.step == whole.step;
  ddl::for_each_parameter(
      [&](const ddl::ParameterPath&, const auto& p, const auto& expected) { same = same && p == expected; },
      run, whole);
  return same;
}

// ---- 5. Gates

void print_audit(const Net& net, const ddl::DatasetView<float>& data) {
  ddl::GateAudit audit(net);
  ddl::evaluate(net, data, ddl::Serial{}, ddl::Memory::reversible_recompute,
                [&](const auto& tape) { audit.add(net, tape); });
  std::printf("\nlayer  beta mean (5 %%, 95 %%)   |k^T X - v| before, after   effective rank\n");
  int number = 0;
  for (const ddl::LayerAudit& layer : audit.layers())
    std::printf("%5d  %.2f (%.2f, %.2f)         %.2f, %.2f                  %.1f\n", ++number,
                layer.beta.mean, layer.beta.quantile(0.05), layer.beta.quantile(0.95), layer.before.mean,
                layer.after.mean, layer.effective_rank);
}

// ---- 6. Weights

/// What is needed to use the net: it and the standardisation of its inputs.
struct Classifier {
  using Scalar = float;

  ddl::Standardisation<float> scale;
  Net net;

  static constexpr auto parameters() {
    return std::tuple(ddl::parameter("scale", &Classifier::scale), ddl::parameter("net", &Classifier::net));
  }
};

int guide(const std::string& folder) {
  const auto report = check_own_part();
  std::printf("gradients of the own sublayer: %s\n", report.message().c_str());
  if (!report.passes(1e-6)) return 1;

  const Problem problem;
  const bool exact = resumes_exactly(problem, folder + "/exact");
  std::printf("an interrupted and resumed run %s the bits of an uninterrupted one\n\n",
              exact ? "has" : "DOES NOT HAVE");
  if (!exact) return 1;

  constexpr Index hidden = 24;
  std::optional<Net> delta;
  for (const auto update : {ddl::UpdateRule::delta, ddl::UpdateRule::write_only, ddl::UpdateRule::additive}) {
    const Outcome outcome =
        train(problem, update, matched_hidden(update, hidden), 1, folder + "/" + name_of(update));
    const ddl::Evaluation test = ddl::evaluate(outcome.best, problem.test());
    std::printf("%-10s  %ld parameters, %ld steps, best at %ld: test loss %.3f, correct %.1f %%\n",
                name_of(update), long(parameter_count(outcome.best)), long(outcome.steps),
                long(outcome.best_step), test.loss, 100 * test.accuracy);
    if (update == ddl::UpdateRule::delta) delta = outcome.best;
  }
  print_audit(*delta, problem.test());

  const std::string file = folder + "/classifier.safetensors";
  ddl::save_parameters(Classifier{problem.scale, *delta}, file, {{"classes", "black, white"}});
  Classifier loaded{ddl::Standardisation<float>(2), make_net(ddl::UpdateRule::delta, hidden, 0)};
  ddl::load_parameters(loaded, ddl::SafetensorsFile(file));
  std::printf("\nweights: %s, test loss after loading %.3f\n", file.c_str(),
              ddl::evaluate(loaded.net, problem.test()).loss);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return program::run("training_guide", [&] {
    if (argc > 1) return guide(argv[1]);
    const auto folder = std::filesystem::temp_directory_path() /
                        ("ddl-training-guide-" + std::to_string(std::random_device()()));
    const int status = guide(folder.string());
    std::filesystem::remove_all(folder);
    return status;
  });
}
