// SPDX-License-Identifier: MIT
/// @file  The delta update beside its two controls, write-only (X + beta k v^T) and additive (X + F(X)), at
/// equal parameters, seeds, data order and steps (the additive one's hidden layers are widened to the
/// parameters of the others), over several seeds.
#include <ddl/train/observers.hpp>

#if __has_include(<malloc.h>)
#include <malloc.h>
#endif

#include "classification.hpp"
#include "plots.hpp"

namespace {

using namespace classification;

struct Run {
  ddl::Evaluation test;
  double train_loss = 0, seconds = 0;
  std::vector<std::pair<Index, double>> curve;  ///< (step, test loss)
};

struct Residual {
  ddl::UpdateRule kind;
  Index parameters = 0;
  double flops = 0;  ///< of a training step: products, and the update
  double bytes = 0;  ///< of the tape, for each sample and layer; 0 where it cannot be measured
  std::vector<Run> runs = {};

  template <class F>
  std::vector<double> each(const F& figure) const {
    std::vector<double> values;
    for (const Run& run : runs) values.push_back(figure(run));
    return values;
  }
};

/// A matrix W takes 2 flops a weight and sample forward, 2 for dW and 2 for dx (which the embedding leaves
/// out).
double flops_of_step(const Net& net, Index batch) {
  double weights = 0;
  for_each_parameter([&](const ddl::ParameterPath& path,
                         const auto& p) { weights += path.is_vector() ? 0 : double(p.size()); },
                     net);
  const double products = 6 * weights - 2 * double(net.embedding.weight.size());
  // Sums of products over a state, forward and backward: read, write; g, dX, and two for dkt.
  const ddl::UpdateRule kind = net.layers.empty() ? ddl::UpdateRule::additive : net.layers.front().update;
  const double sums = kind == ddl::UpdateRule::delta ? 6 : kind == ddl::UpdateRule::write_only ? 3 : 1;
  return double(batch) * (products + 2 * sums * double(net.width() * net.value_channels() * net.depth()));
}

/// What the heap holds, in bytes; 0 where the C library does not tell.
double heap_bytes() {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
  const auto info = mallinfo2();
  return double(info.uordblks) + double(info.hblkhd);
#else
  return 0;
#endif
}

/// What a tape holds for each sample and layer: what a copy of it allocates.
double bytes_of(const Net::Tape<>& tape, Index depth) {
  const double before = heap_bytes();
  const Net::Tape<> copy = tape;
  return (heap_bytes() - before) / double(copy.logits.cols() * std::max(depth, Index(1)));
}

Run train(Trainer& trainer, const Problem& problem, const ddl::ThreadPool& pool, const std::string& title,
          double& tape_bytes) {
  Run result;
  ddl::ProgressBar bar({.title = title});
  const Index every = std::max(Index(1), trainer.fit.steps / 20);
  const auto measure = [&](const auto& context) {
    if (context.report.step == 1) tape_bytes = bytes_of(context.tape, context.run.model.depth());
    if (context.report.step % every == 0)
      result.curve.emplace_back(context.report.step,
                                evaluate(context.run.model, problem.test.view(), pool).loss);
  };
  result.seconds = fit_on(pool, trainer.run, trainer.batches, trainer.fit, bar, measure).last.seconds;
  result.test = evaluate(trainer.run.model, problem.test.view(), pool);
  result.train_loss = evaluate(trainer.run.model, problem.train.view(), pool).loss;
  return result;
}

/// Student's t at 97.5 %, by degrees of freedom.
double quantile_of_t(std::size_t freedom) {
  constexpr std::array quantiles{12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23};
  return quantiles[std::min(freedom, quantiles.size()) - 1];
}

void print_table(const std::vector<Residual>& all, int seeds) {
  std::printf("\n%d seeds, mean +- standard deviation\n\n%-34s", seeds, "");
  for (const auto& residual : all) std::printf(" %-20s", name_of(residual.kind));
  const auto row = [&](const char* label, const char* format, const auto& figure) {
    std::printf("\n%-34s", label);
    for (const auto& residual : all) {
      const Summary s = summarise(residual.each(figure));
      char text[64];
      std::snprintf(text, sizeof(text), format, s.mean, s.deviation);
      std::printf(" %-20s", text);
    }
  };
  row("test correct (%)", "%.2f +- %.2f", [](const Run& r) { return 100 * r.test.accuracy; });
  row("test loss", "%.4f +- %.4f", [](const Run& r) { return r.test.loss; });
  row("training loss", "%.4f +- %.4f", [](const Run& r) { return r.train_loss; });
  row("time with 20 evaluations (s)", "%.1f +- %.1f", [](const Run& r) { return r.seconds; });
  const auto number = [&](const char* label, const char* format, const auto& figure) {
    std::printf("\n%-34s", label);
    for (const auto& residual : all) {
      char text[64];
      std::snprintf(text, sizeof(text), format, figure(residual));
      std::printf(" %-20s", text);
    }
  };
  number("parameters", "%.0f", [](const Residual& r) { return double(r.parameters); });
  number("Mflop a step", "%.1f", [](const Residual& r) { return r.flops / 1e6; });
  if (all.front().bytes > 0)
    number("tape, bytes a sample and layer", "%.0f", [](const Residual& r) { return r.bytes; });
  std::printf("\n\nPaired over seeds (delta minus control; mean +- standard error)\n");
  for (std::size_t i = 1; i < all.size(); ++i) {
    std::vector<double> differences;
    for (std::size_t s = 0; s < all[0].runs.size(); ++s)
      differences.push_back(100 * (all[0].runs[s].test.accuracy - all[i].runs[s].test.accuracy));
    const Summary d = summarise(differences);
    const double error = d.deviation / std::sqrt(double(differences.size()));
    std::printf(
        "  test correct, against %-10s  %+.2f +- %.2f points: %s\n", name_of(all[i].kind), d.mean, error,
        differences.size() < 2                                             ? "one seed resolves nothing"
        : std::abs(d.mean) > quantile_of_t(differences.size() - 1) * error ? "resolved (95 %)"
                                                                           : "not resolved at these seeds");
  }
}

void write_results(const std::string& output, const Options& options, const std::vector<Residual>& all) {
  nlohmann::json document = {{"settings", options.json()}, {"residuals", nlohmann::json::array()}};
  plots::Table metrics("variant,seed,metric"), curves("run,seed,step,value");
  for (const auto& residual : all) {
    nlohmann::json runs = nlohmann::json::array();
    for (std::size_t seed = 0; seed < residual.runs.size(); ++seed) {
      const Run& run = residual.runs[seed];
      runs.push_back({{"seed", seed},
                      {"test_accuracy", run.test.accuracy},
                      {"test_loss", run.test.loss},
                      {"train_loss", run.train_loss},
                      {"seconds", run.seconds}});
      metrics.add(name_of(residual.kind), seed, 100 * run.test.accuracy);
      for (const auto& [step, loss] : run.curve) curves.add(name_of(residual.kind), seed, step, loss);
    }
    document["residuals"].push_back({{"residual", name_of(residual.kind)},
                                     {"parameters", residual.parameters},
                                     {"flops_per_step", residual.flops},
                                     {"tape_bytes_per_sample_and_layer", residual.bytes},
                                     {"runs", runs}});
  }
  training::write_json(output + ".json", document);
  metrics.save(output + "-correct.csv");
  curves.save(output + "-loss.csv");
  std::printf("\nresults: %s.json\n", output.c_str());
  plots::draw("residuals.gp", output + "-correct.csv", output + "-correct",
              "ylabel='test samples classified rightly (%)'");
  plots::draw("training.gp", output + "-loss.csv", output + "-loss", "ylabel='test loss (nats per sample)'");
}

}  // namespace

int main(int argc, char** argv) {
  return program::run("compare_residuals", [&] {
    Options options;
    options.seeds = 5;
    std::string output;
    CLI::App app("Compares the delta update with its write-only and additive controls.");
    options.add_to(app);
    app.add_option("--output", output, "write OUTPUT.json, and tables and plots that begin with OUTPUT");
    CLI11_PARSE(app, argc, argv);
    if (!output.empty()) training::check_writable(output + ".json");

    const Problem problem = load(options.data, options.label, options.train_count);
    const ddl::ThreadPool pool(options.threads);
    std::printf("%s: %ld samples to learn from, %ld to test on; %ld epochs, %d seeds of each residual\n",
                problem.name.c_str(), long(problem.train.size()), long(problem.test.size()),
                long(options.epochs), options.seeds);
    std::vector<Residual> all;
    for (const auto kind : residuals) all.push_back({.kind = kind});
    for (int seed = 0; seed < options.seeds; ++seed)
      for (auto& residual : all)
        options.within_memory(problem.train.inputs.rows(), [&] {
          Trainer trainer(options, problem, residual.kind, seed);
          const Net& net = trainer.run.model;
          residual.parameters = parameter_count(net);
          residual.flops = flops_of_step(net, options.batch);
          const std::string title = "seed " + std::to_string(seed) + " " + name_of(residual.kind);
          residual.runs.push_back(train(trainer, problem, pool, title + " ", residual.bytes));
          std::printf("%-20s correct %.2f %%, %.1f s\n", title.c_str(),
                      100 * residual.runs.back().test.accuracy, residual.runs.back().seconds);
          std::fflush(stdout);
        });
    print_table(all, options.seeds);
    if (!output.empty()) write_results(output, options, all);
    return 0;
  });
}
