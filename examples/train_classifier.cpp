// SPDX-License-Identifier: MIT
/// @file  Trains a DeltaResNet to classify: images (IDX, such as MNIST), a table (CSV), or three spirals if no data are
/// given. Stops and goes on by checkpoints.
#include <ddl/io/json_lines.hpp>
#include <ddl/train/observers.hpp>

#include "classification.hpp"

namespace {

using namespace classification;

struct Result {
  int seed;
  ddl::Evaluation train, test;
  double seconds;
  std::vector<double> mean_beta;
};

/// Means over the test data, by layer.
std::vector<double> gates_of(const Net& net, const Problem& problem, const ddl::ThreadPool& pool) {
  if (net.blocks.empty() || !net.blocks.front().gate) return {};
  std::vector<double> means(static_cast<std::size_t>(net.depth()));
  evaluate(net, problem.test.view(), pool, ddl::Memory::rewind_recompute, [&](const auto& cache) {
    for (std::size_t l = 0; l < means.size(); ++l)
      means[l] += static_cast<double>(cache.edits[l].beta.sum()) / static_cast<double>(problem.test.size());
  });
  return means;
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  std::string residual = "delta", json, checkpoint;
  Index checkpoint_every = 500, keep = 3;
  bool resume = false;
  double time_limit = 0;
  CLI::App app("Trains a DeltaResNet to classify.");
  options.add_to(app);
  app.add_option("--residual", residual, "how a block changes its state")
      ->check(CLI::IsMember({"delta", "write_only", "additive"}));
  app.add_option("--checkpoint", checkpoint, "a folder for checkpoints, one below it for each seed");
  app.add_option("--checkpoint-every", checkpoint_every, "steps")->check(CLI::PositiveNumber);
  app.add_option("--keep", keep, "checkpoints kept for each seed")->check(CLI::PositiveNumber);
  app.add_flag("--resume", resume, "go on from the newest checkpoints")->needs("--checkpoint");
  app.add_option("--time-limit", time_limit, "seconds for each seed; 0: none")->check(CLI::NonNegativeNumber);
  app.add_option("--json", json,
                 "append a line of JSON to this file for every 10 steps, and for each seed's result");
  CLI11_PARSE(app, argc, argv);

  const Problem problem = load(options.data, options.label, options.train_count);
  const ddl::ThreadPool pool(options.threads);
  std::printf("%s: %ld samples to learn from, %ld to test on, %ld inputs, %ld classes; %ld threads\n",
              problem.name.c_str(), long(problem.train.size()), long(problem.test.size()),
              long(problem.train.inputs.rows()), long(problem.train.class_count()), long(options.threads));

  std::optional<ddl::JsonLines> lines;
  if (!json.empty()) {
    lines.emplace(json, 10);
    lines->write({{"event", "begin"},
                  {"problem", problem.name},
                  {"residual", residual},
                  {"settings", options.json()}});
  }
  std::vector<Result> results;
  for (int seed = 0; seed < options.seeds; ++seed) {
    Trainer trainer(options, problem, residual_named(residual), seed);
    if (seed == 0)
      std::printf(
          "%s residual, width %ld, value channels %ld, depth %ld: %ld parameters, %ld steps of %ld "
          "samples\n\n",
          residual.c_str(), long(options.width), long(options.value_channels), long(options.depth),
          long(parameter_count(trainer.run.model)), long(trainer.fit.steps), long(options.batch));
    const std::string folder = checkpoint + "/seed-" + std::to_string(seed);
    if (resume) {
      const auto saved = ddl::checkpoints_in(folder);
      if (saved.empty()) {
        std::printf("%s: holds no checkpoint, training from the beginning\n", folder.c_str());
      } else {
        const ddl::Checkpoint newest(saved.back());
        if (newest.settings() != trainer.settings)
          throw ddl::FileError(saved.back(), "was trained with other settings, " + newest.settings().dump() +
                                                 ", expected " + trainer.settings.dump());
        newest.restore(trainer.run, trainer.batches);
        std::printf("seed %d goes on from step %ld\n", seed, long(trainer.run.step));
      }
    }
    ddl::ProgressBar bar({.title = "seed " + std::to_string(seed) + " "});
    std::optional<ddl::Checkpoints> checkpoints;
    if (!checkpoint.empty()) checkpoints.emplace(folder, checkpoint_every, keep, trainer.settings);
    std::optional<ddl::TimeLimit> limit;
    if (time_limit > 0) limit = {time_limit};
    const auto fitted =
        fit_on(pool, trainer.run, trainer.batches, trainer.fit, bar, checkpoints, lines, limit);

    const Net& net = trainer.run.model;
    const Result result{seed, evaluate(net, problem.train.view(), pool),
                        evaluate(net, problem.test.view(), pool), fitted.last.seconds,
                        gates_of(net, problem, pool)};
    std::printf(
        "seed %d  %s after %ld steps, %.1f s: correct %.2f %% of the test, %.2f %% of the training samples\n",
        seed, fitted.ending == ddl::Ending::finished ? "done" : "stopped", long(trainer.run.step),
        result.seconds, 100 * result.test.correct, 100 * result.train.correct);
    std::fflush(stdout);
    results.push_back(result);
    if (lines)
      lines->write({{"event", "result"},
                    {"seed", seed},
                    {"test_correct", result.test.correct},
                    {"test_loss", result.test.loss},
                    {"train_correct", result.train.correct},
                    {"train_loss", result.train.loss},
                    {"steps", trainer.run.step},
                    {"seconds", result.seconds},
                    {"mean_beta", result.mean_beta}});
  }

  std::vector<double> correct;
  for (const auto& r : results) correct.push_back(100 * r.test.correct);
  const Summary all = summarise(correct);
  std::printf("\ntest samples classified rightly: %.2f +- %.2f %% (mean +- standard deviation, %d seeds)\n",
              all.mean, all.deviation, options.seeds);
  if (!results.front().mean_beta.empty()) {
    std::printf("mean gate by layer, seed 0:");
    for (const double beta : results.front().mean_beta) std::printf(" %.2f", beta);
    std::printf("\n");
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "train_classifier: %s\n", error.what());
  return 1;
}
