// SPDX-License-Identifier: MIT
/// @file  What a trained net does with its gates: reads a checkpoint of train_classifier or train_lm and, over what it was
/// not trained on, prints for each layer where beta lies, whether the edit brings the readout closer to its target, how
/// directions of successive layers stand to each other, and how many dimensions were written to; and the spectrum of the
/// frozen shortcut.
#include <algorithm>

#include <ddl/analysis/gate_audit.hpp>

#include "classification.hpp"
#include "language.hpp"
#include "plots.hpp"

namespace {

using classification::Index;
using classification::Net;
using classification::Problem;

void print_layers(const std::vector<ddl::LayerAudit>& layers) {
  std::printf(
      "layer   beta: mean    5 %%   50 %%   95 %%   identity projection reflection   |k^T X - v|   after  "
      "reduced   "
      "|cos| to last k   rank of writes\n");
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const auto& a = layers[l];
    const auto percent = [&](ddl::Regime regime) { return 100 * a.share(a.regimes[std::size_t(regime)]); };
    std::printf("%5zu   %10.3f %6.2f %6.2f %6.2f %8.0f %% %8.0f %% %8.0f %%   %11.3f %7.3f  %5.0f %%", l + 1,
                a.beta.mean, a.beta.quantile(0.05), a.beta.quantile(0.5), a.beta.quantile(0.95),
                percent(ddl::Regime::identity), percent(ddl::Regime::projection),
                percent(ddl::Regime::reflection), a.before.mean, a.after.mean, 100 * a.share(a.reduced));
    if (a.cosine.count > 0)
      std::printf("   %15.3f", a.cosine.mean);
    else
      std::printf("   %15s", "-");
    std::printf("   %14.1f\n", a.effective_rank);
    if (a.not_finite > 0) std::printf("        %ld samples were not finite\n", long(a.not_finite));
  }
}

void print_shortcuts(const std::vector<ddl::ShortcutSpectrum>& shortcuts) {
  std::printf(
      "\nThe frozen shortcut A_L .. A_1 of single samples (all other singular values and eigenvalues are "
      "1)\n");
  for (const auto& shortcut : shortcuts) {
    const auto& values = shortcut.spectrum.singular_values;
    if (values.size() == 0) continue;
    std::printf(
        "  sample %-6ld singular values %.3g to %.3g, %ld beside them exactly 1; eigenvalues' moduli %.3g to "
        "%.3g\n",
        long(shortcut.sample), values.minCoeff(), values.maxCoeff(), long(shortcut.spectrum.ones),
        shortcut.spectrum.eigenvalues.cwiseAbs().minCoeff(),
        shortcut.spectrum.eigenvalues.cwiseAbs().maxCoeff());
  }
}

nlohmann::json json_of(const ddl::LayerAudit& a) {
  const auto moments = [](const ddl::Distribution& d) {
    return nlohmann::json{{"count", d.count}, {"mean", d.mean}, {"deviation", d.deviation()}};
  };
  nlohmann::json beta = moments(a.beta), cosine = moments(a.cosine);
  beta["histogram_0_to_2"] = a.beta.counts;
  cosine["histogram_0_to_1"] = a.cosine.counts;
  return {{"samples", a.samples},
          {"not_finite", a.not_finite},
          {"beta", beta},
          {"identity_projection_reflection_expansion", a.regimes},
          {"discrepancy_before", moments(a.before)},
          {"discrepancy_after", moments(a.after)},
          {"reduced", a.reduced},
          {"cosine_to_last_direction", cosine},
          {"effective_rank_of_writes", a.effective_rank},
          {"stable_rank_of_writes", a.stable_rank}};
}

void write_results(const std::string& output, const ddl::GateAudit& audit) {
  plots::Table gates("layer,low,high,share,median"), spectrum("sample,kind,index,real,imaginary");
  plots::Table discrepancy("layer,before,before_deviation,after,after_deviation,reduced");
  nlohmann::json document = {{"layers", nlohmann::json::array()}};
  const auto layers = audit.layers();
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const auto& a = layers[l];
    document["layers"].push_back(json_of(a));
    const double width = 2.0 / double(a.beta.counts.size());
    for (std::size_t i = 0; i < a.beta.counts.size(); ++i)
      gates.add(l + 1, double(i) * width, double(i + 1) * width, a.share(a.beta.counts[i]),
                a.beta.quantile(0.5));
    discrepancy.add(l + 1, a.before.mean, a.before.deviation(), a.after.mean, a.after.deviation(),
                    a.share(a.reduced));
  }
  for (const auto& shortcut : audit.shortcuts()) {
    Index index = 0;
    for (const double value : shortcut.spectrum.singular_values)
      spectrum.add(shortcut.sample, "singular", ++index, value, 0);
    for (const auto& value : shortcut.spectrum.eigenvalues)
      spectrum.add(shortcut.sample, "eigen", ++index, value.real(), value.imag());
  }
  classification::write_json(output + ".json", document);
  gates.save(output + "-gates.csv");
  discrepancy.save(output + "-discrepancy.csv");
  spectrum.save(output + "-spectrum.csv");
  std::printf("\nresults: %s.json\n", output.c_str());
  for (const std::string plot : {"gates", "discrepancy", "spectrum"})
    plots::draw(plot + ".gp", output + "-" + plot + ".csv", output + "-" + plot);
}

struct Options {
  std::string model, data, output;
  Index shortcuts = 5, windows = 64;
  Index threads = classification::Options().threads;
};

/// `count` samples spread evenly over `samples`.
ddl::GateAuditSettings spread(Index count, Index samples) {
  ddl::GateAuditSettings settings;
  for (Index i = 0; i < count; ++i) settings.shortcuts.push_back(i * samples / count);
  return settings;
}

ddl::GateAudit audit_classifier(const ddl::Checkpoint& checkpoint, const Options& o) {
  const auto& settings = checkpoint.settings();
  Net net(classification::net_settings(settings));
  checkpoint.restore_model(net);
  const Problem problem =
      classification::load(o.data.empty() ? settings.at("data").get<std::string>() : o.data,
                           settings.at("label").get<std::string>(), settings.at("train").get<Index>());
  ddl::GateAudit audit(net, spread(o.shortcuts, problem.test.size()));
  const ddl::ThreadPool pool(o.threads);
  const auto result = evaluate(net, problem.test.view(), pool, ddl::Memory::training,
                               [&](const auto& cache) { audit.add(cache, pool); });
  std::printf("%s, %s residual, on %ld test samples of %s: %.2f %% correct\n\n", o.model.c_str(),
              settings.at("residual").get<std::string>().c_str(), long(audit.samples()), problem.name.c_str(),
              100 * result.correct);
  return audit;
}

/// A sample is a token; layers alternate attention and SwiGLU.
ddl::GateAudit audit_transformer(const ddl::Checkpoint& checkpoint, const Options& o) {
  const auto& settings = checkpoint.settings();
  const auto coder = language::coder_of(settings);
  language::Model model(language::model_settings(settings));
  checkpoint.restore_model(model);
  const Index context = model.settings.context;
  const language::Split split(
      coder, language::read_text(o.data.empty() ? settings.at("text").get<std::string>() : o.data),
      settings.at("split").get<double>(), context);
  const Index most = static_cast<Index>(split.held_out().size() - 1) / context;
  ddl::GateAudit audit(model, spread(o.shortcuts, std::min(o.windows, most) * context));
  const ddl::ThreadPool pool(o.threads);
  const double loss = text_loss(model, split.held_out(), context, o.windows, pool, ddl::Memory::training,
                                [&](const auto& cache) { audit.add(cache, pool); });
  std::printf("%s, %s, on %ld tokens: loss %.4f\n\n", o.model.c_str(),
              settings.at("variant").get<std::string>().c_str(), long(audit.samples()), loss);
  return audit;
}

}  // namespace

int main(int argc, char** argv) try {
  Options o;
  CLI::App app("Audits the gates of a net that train_classifier or train_lm has trained.");
  app.option_defaults()->always_capture_default();
  app.add_option("MODEL", o.model, "a checkpoint, or a folder of checkpoints")->required();
  app.add_option(
      "--data,DATA", o.data,
      "as train_classifier's --data, or train_lm's --text; without it, what the net was trained on");
  app.add_option("--shortcuts", o.shortcuts, "samples whose end-to-end spectrum is taken")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--windows", o.windows, "at most so many sequences of a text's end")
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", o.threads, "threads")->check(CLI::PositiveNumber);
  app.add_option("--output", o.output, "write OUTPUT.json, and tables and plots that begin with OUTPUT");
  CLI11_PARSE(app, argc, argv);

  if (const auto found = ddl::checkpoints_in(o.model); !found.empty()) o.model = found.back();
  const ddl::Checkpoint checkpoint(o.model);
  const bool is_transformer = checkpoint.settings().contains("variant");
  const auto audit = is_transformer ? audit_transformer(checkpoint, o) : audit_classifier(checkpoint, o);
  print_layers(audit.layers());
  print_shortcuts(audit.shortcuts());
  if (!o.output.empty()) write_results(o.output, audit);
} catch (const std::exception& error) {
  std::fprintf(stderr, "audit_gates: %s\n", error.what());
  return 1;
}
