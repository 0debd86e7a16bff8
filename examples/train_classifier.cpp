// SPDX-License-Identifier: MIT
/// @file  Trains a DeltaResNet to classify: images (IDX, such as MNIST), a table (CSV), or three spirals if
/// no data are given. Stops and goes on by checkpoints.
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
  if (net.layers.empty() || !net.layers.front().gate) return {};
  std::vector<double> means(static_cast<std::size_t>(net.depth()));
  evaluate(net, problem.test.view(), pool, ddl::Memory::reversible_recompute, [&](const auto& tape) {
    auto mean = means.begin();
    net.for_each_edit(tape, [&](const auto&, const auto& edit) {
      *mean++ += static_cast<double>(edit.inputs.beta.sum()) / static_cast<double>(problem.test.size());
    });
  });
  return means;
}

}  // namespace

int main(int argc, char** argv) {
  return program::run("train_classifier", [&] {
    Options options;
    std::string residual = "delta", json, checkpoint, resume_file;
    Index checkpoint_every = 500, keep = 3;
    double time_limit = 0;
    CLI::App app("Trains a DeltaResNet to classify.");
    options.add_to(app);
    app.add_option("--residual", residual, "how a block changes its state")
        ->check(CLI::IsMember({"delta", "write_only", "additive"}));
    auto* const folders =
        app.add_option("--checkpoint", checkpoint, "a folder for checkpoints, one below it for each seed");
    options::add(app, "--checkpoint-every", checkpoint_every, options::size, "steps");
    options::add(app, "--keep", keep, options::size, "checkpoints kept for each seed");
    const auto* const resume =
        app.add_option("--resume", resume_file, "go on from the newest checkpoints, or from this one")
            ->expected(0, 1)
            ->needs(folders);
    options::add(app, "--time-limit", time_limit, options::non_negative, "seconds for each seed; 0: none");
    app.add_option("--json", json,
                   "append a line of JSON to this file for every 10 steps, and for each seed's result");
    CLI11_PARSE(app, argc, argv);

    const Problem problem = load(options.data, options.label, options.train_count);
    const ddl::ThreadPool pool(options.threads);
    std::printf("%s: %ld samples to learn from, %ld to test on, %ld inputs, %ld classes; %ld threads\n",
                problem.name.c_str(), long(problem.train.size()), long(problem.test.size()),
                long(problem.train.inputs.rows()), long(problem.train.class_count()), long(options.threads));
    const auto within_memory = [&](const auto& f) {
      return options.within_memory(problem.train.inputs.rows(), f);
    };

    std::vector<std::string> seed_folders;
    std::vector<ddl::Checkpoints> checkpoints;  // all before the first step, which is when they may fail
    if (!checkpoint.empty()) {
      auto settings = within_memory([&] { return settings_of(options, problem, residual_named(residual)); });
      for (int seed = 0; seed < options.seeds; ++seed) {
        seed_folders.push_back(checkpoint + "/seed-" + std::to_string(seed));
        settings["seed"] = seed;
        checkpoints.emplace_back(seed_folders.back(),
                                 ddl::CheckpointSettings{.every = checkpoint_every,
                                                         .keep = keep,
                                                         .resume = resume->count() > 0,
                                                         .may_differ = may_differ},
                                 settings);
      }
      const auto has_file = [&](const auto& folder) {
        return !training::if_in_folder(resume_file, folder).empty();
      };
      if (!resume_file.empty() && std::none_of(seed_folders.begin(), seed_folders.end(), has_file))
        throw std::runtime_error("--resume " + resume_file + " is in none of the folders of --checkpoint " +
                                 checkpoint);
    }
    std::optional<ddl::JsonLines> lines;
    if (!json.empty()) {
      lines.emplace(json, 10);
      lines->write({{"event", "begin"},
                    {"problem", problem.name},
                    {"residual", residual},
                    {"settings", options.json()}});
    }

    const program::StopOnSignal stop;
    std::vector<Result> results;
    for (int seed = 0; seed < options.seeds; ++seed) {
      auto trainer = within_memory([&] { return Trainer(options, problem, residual_named(residual), seed); });
      if (seed == 0)
        std::printf(
            "%s residual, width %ld, value channels %ld, depth %ld: %ld parameters, %ld steps of %ld "
            "samples\n\n",
            residual.c_str(), long(options.width), long(options.value_channels), long(options.depth),
            long(parameter_count(trainer.run.model)), long(trainer.fit.steps), long(options.batch));
      ddl::Checkpoints* const saver = checkpoints.empty() ? nullptr : &checkpoints[std::size_t(seed)];
      if (saver && resume->count() > 0) {
        const std::string& folder = seed_folders[std::size_t(seed)];
        if (training::resume(*saver, trainer.run, trainer.batches,
                             training::if_in_folder(resume_file, folder))) {
          std::printf("seed %d goes on from step %ld\n", seed, long(trainer.run.step));
          const ddl::Checkpoint newest(ddl::checkpoints_in(folder).back());
          training::check_steps("--epochs", trainer.fit.steps, trainer.run.step,
                                training::setting<Index>(newest.settings(), "epochs") *
                                    trainer.batches.sampler().batches_per_epoch());
        } else {
          std::printf("%s: holds no checkpoint, training from the beginning\n", folder.c_str());
        }
      }
      ddl::ProgressBar bar({.title = "seed " + std::to_string(seed) + " "});
      std::optional<ddl::TimeLimit> limit;
      if (time_limit > 0) limit = {time_limit};
      const auto fitted = within_memory([&] {
        return saver
                   ? fit_on(pool, trainer.run, trainer.batches, trainer.fit, bar, *saver, lines, limit, stop)
                   : fit_on(pool, trainer.run, trainer.batches, trainer.fit, bar, lines, limit, stop);
      });
      if (stop.caught()) {
        std::fprintf(stderr, "stopped by a signal after step %ld%s\n", long(trainer.run.step),
                     saver ? ", which is saved; --resume goes on from it" : "");
        return 1;
      }

      const Net& net = trainer.run.model;
      const Result result{seed, evaluate(net, problem.train.view(), pool),
                          evaluate(net, problem.test.view(), pool), fitted.last.seconds,
                          gates_of(net, problem, pool)};
      std::printf(
          "seed %d  %s after %ld steps, %.1f s: correct %.2f %% of the test, %.2f %% of the training "
          "samples\n",
          seed, fitted.stop_reason == ddl::StopReason::finished ? "done" : "stopped", long(trainer.run.step),
          result.seconds, 100 * result.test.accuracy, 100 * result.train.accuracy);
      std::fflush(stdout);
      results.push_back(result);
      if (lines)
        lines->write({{"event", "result"},
                      {"seed", seed},
                      {"test_accuracy", result.test.accuracy},
                      {"test_loss", result.test.loss},
                      {"train_accuracy", result.train.accuracy},
                      {"train_loss", result.train.loss},
                      {"steps", trainer.run.step},
                      {"seconds", result.seconds},
                      {"mean_beta", result.mean_beta}});
    }

    std::vector<double> correct;
    for (const auto& r : results) correct.push_back(100 * r.test.accuracy);
    const Summary all = summarise(correct);
    std::printf("\ntest samples classified rightly: %.2f +- %.2f %% (mean +- standard deviation, %d seeds)\n",
                all.mean, all.deviation, options.seeds);
    if (!results.front().mean_beta.empty()) {
      std::printf("mean gate by layer, seed 0:");
      for (const double beta : results.front().mean_beta) std::printf(" %.2f", beta);
      std::printf("\n");
    }
    return 0;
  });
}
