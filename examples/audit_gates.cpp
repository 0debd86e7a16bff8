// SPDX-License-Identifier: MIT
/// @file  What a trained net does with its gates: reads a checkpoint of train_classifier or train_lm and,
/// over what it was not trained on, prints for each layer where beta lies, whether the edit brings the
/// readout closer to its target, how directions of successive layers stand to each other, and how many
/// dimensions were written to; and the spectrum of the frozen shortcut. Of a language model whose mixer is
/// the delta rule over time, also where the betas of each layer and head lie.
#include <algorithm>
#include <optional>
#include <stdexcept>
#include <variant>

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
    if (a.samples == 0) {
      std::printf("%5zu   of %ld samples, none is finite\n", l + 1, long(a.not_finite));
      continue;
    }
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

/// The betas of the delta rule over time, of one layer, head and edit of a token.
struct HeadAudit {
  Index layer, head, edit;
  ddl::Distribution beta{0, 2, 40};
  Index above_one = 0;

  double share_above_one() const { return double(above_one) / double(std::max(Index(1), beta.count)); }
};

/// Adds the betas of a forward pass, if the model's mixer has any.
void add_betas(const language::Model& model, const language::Model::Tape& tape,
               std::vector<HeadAudit>& audits) {
  using Mixer = ddl::DeltaRule<float>;
  auto audit = audits.begin();
  for (std::size_t l = 0; l < model.layers.size(); ++l) {
    const auto* mixer = std::get_if<Mixer>(&model.layers[l].mixer.sublayer.part);
    if (!mixer) return;
    const auto& beta = std::get<Mixer::Tape<>>(tape.activations[l].mixer.sublayer.of).inputs.beta;
    for (Index row = 0; row < beta.rows(); ++row) {
      if (audit == audits.end())
        audit = audits.insert(audit, {Index(l), row % mixer->value_heads, row / mixer->value_heads});
      for (const float value : beta.row(row)) {
        if (!ddl::is_finite(value)) continue;
        audit->beta.add(value);
        audit->above_one += value > 1;
      }
      ++audit;
    }
  }
}

void print_betas(const std::vector<HeadAudit>& audits) {
  std::printf(
      "The delta rule over time\n"
      "layer  head  edit   beta: mean    5 %%   50 %%   95 %%   above 1\n");
  for (const HeadAudit& a : audits)
    std::printf("%5ld %5ld %5ld   %10.3f %6.2f %6.2f %6.2f   %5.1f %%\n", long(a.layer + 1), long(a.head + 1),
                long(a.edit + 1), a.beta.mean, a.beta.quantile(0.05), a.beta.quantile(0.5),
                a.beta.quantile(0.95), 100 * a.share_above_one());
  std::putchar('\n');
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
    const auto of = [&](double figure) { return d.count > 0 ? nlohmann::json(figure) : nlohmann::json(); };
    return nlohmann::json{{"count", d.count}, {"mean", of(d.mean)}, {"deviation", of(d.deviation())}};
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

nlohmann::json json_of(const std::vector<HeadAudit>& audits) {
  nlohmann::json heads = nlohmann::json::array();
  for (const HeadAudit& a : audits)
    heads.push_back({{"layer", a.layer + 1},
                     {"head", a.head + 1},
                     {"edit", a.edit + 1},
                     {"count", a.beta.count},
                     {"mean", a.beta.mean},
                     {"deviation", a.beta.deviation()},
                     {"above_one", a.share_above_one()},
                     {"histogram_0_to_2", a.beta.counts}});
  return heads;
}

/// What a net's gates do, those of its residuals and of its mixer. Either may be missing.
struct Audit {
  std::optional<ddl::GateAudit> residuals;
  std::vector<HeadAudit> mixer;
};

void write_results(const std::string& output, const Audit& audits) {
  if (!audits.residuals) {
    training::write_json(output + ".json", {{"mixer", json_of(audits.mixer)}});
    std::printf("\nresults: %s.json\n", output.c_str());
    return;
  }
  const ddl::GateAudit& audit = *audits.residuals;
  plots::Table gates("layer,low,high,share,median"), spectrum("sample,kind,index,real,imaginary");
  plots::Table discrepancy("layer,before,before_deviation,after,after_deviation,reduced");
  nlohmann::json document = {{"layers", nlohmann::json::array()}, {"mixer", json_of(audits.mixer)}};
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
  training::write_json(output + ".json", document);
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

/// Throws unless the data that a net was trained on are still the same: else nobody could tell what it has
/// not seen.
void check_same_data(const std::string& hash, const nlohmann::json& settings, const char* setting,
                     const std::string& data) {
  const auto trained = training::setting<std::string>(settings, setting);
  if (hash != trained)
    throw std::runtime_error((data.empty() ? "the embedded data have" : data + ": has") +
                             " changed since the net was trained: its hash is " + hash + ", expected " +
                             trained + "; --data audits on other data");
}

Audit audit_classifier(const ddl::Checkpoint& checkpoint, const Net& net, const Options& o) {
  const auto& settings = checkpoint.settings();
  const auto trained_on = training::setting<std::string>(settings, "data");
  Problem problem = classification::load(
      o.data.empty() ? trained_on : o.data, training::setting<std::string>(settings, "label"),
      training::setting<Index>(settings, "train"), classification::scale_of(settings));
  if (o.data.empty())
    check_same_data(training::hash_text(content_hash(problem.train.view())), settings, "data_hash",
                    trained_on);
  classification::number_classes(problem.test,
                                 training::setting<std::vector<std::string>>(settings, "class_names"));
  ddl::GateAudit audit(net, spread(o.shortcuts, problem.test.size()));
  const ddl::ThreadPool pool(o.threads);
  const auto result = evaluate(net, problem.test.view(), pool, ddl::Memory::training,
                               [&](const auto& tape) { audit.add(net, tape, pool); });
  std::printf("%s, %s residual, on %ld test samples of %s: %.2f %% correct\n\n", o.model.c_str(),
              training::setting<std::string>(settings, "residual").c_str(), long(audit.samples()),
              problem.name.c_str(), 100 * result.accuracy);
  return {std::move(audit), {}};
}

/// A sample is a token; blocks alternate the mixer and SwiGLU.
Audit audit_transformer(const ddl::Checkpoint& checkpoint, const language::Model& model, const Options& o) {
  const auto& settings = checkpoint.settings();
  const auto coder = language::coder_of(settings);
  const Index context = model.settings.context;
  const auto trained_on = training::setting<std::string>(settings, "text");
  const std::string source = o.data.empty() ? trained_on : o.data;
  const auto text = language::read_text(source);
  if (o.data.empty()) check_same_data(language::text_hash(text), settings, "text_hash", trained_on);
  const language::Split split(coder, text, language::text_name(source),
                              training::setting<double>(settings, "split"), context);
  const Index most = static_cast<Index>(split.held_out().size() - 1) / context;
  const bool has_betas = std::holds_alternative<ddl::DeltaRuleSettings>(model.settings.mixer);
  Audit audit;
  if (model.settings.update != ddl::UpdateRule::additive || !has_betas)
    audit.residuals.emplace(model, spread(o.shortcuts, std::min(o.windows, most) * context));
  const ddl::ThreadPool pool(o.threads);
  const double loss = text_loss(model, split.held_out(), context, o.windows, pool, ddl::Memory::training,
                                [&](const auto& tape) {
                                  if (audit.residuals) audit.residuals->add(model, tape, pool);
                                  add_betas(model, tape, audit.mixer);
                                });
  std::printf("%s, %s, %s, on %ld tokens: loss %.4f\n\n", o.model.c_str(),
              training::setting<std::string>(settings, "variant").c_str(),
              training::setting<std::string>(settings, "mixer").c_str(),
              long(std::min(o.windows, most) * context), loss);
  return audit;
}

template <class Model>
Model restored(Model model, const ddl::Checkpoint& checkpoint) {
  checkpoint.restore_model(model);
  return model;
}

}  // namespace

int main(int argc, char** argv) {
  return program::run("audit_gates", [&] {
    Options o;
    CLI::App app("Audits the gates of a net that train_classifier or train_lm has trained.");
    app.option_defaults()->always_capture_default();
    app.add_option("MODEL", o.model, "a checkpoint, or a folder of checkpoints")->required();
    app.add_option(
        "--data,DATA", o.data,
        "as train_classifier's --data, or train_lm's --text; without it, what the net was trained on");
    options::add(app, "--shortcuts", o.shortcuts, options::size_or_0,
                 "samples whose end-to-end spectrum is taken");
    options::add(app, "--windows", o.windows, options::size, "at most so many sequences of a text's end");
    options::add(app, "--threads", o.threads, options::threads, "threads");
    app.add_option("--output", o.output, "write OUTPUT.json, and tables and plots that begin with OUTPUT");
    CLI11_PARSE(app, argc, argv);
    if (!o.output.empty()) training::check_writable(o.output + ".json");

    struct Loaded {
      ddl::Checkpoint checkpoint;
      std::variant<Net, language::Model> model;
    };
    const auto loaded = ddl::load_checkpoint(o.model, [](const ddl::Checkpoint& checkpoint) -> Loaded {
      const auto& settings = checkpoint.settings();
      if (settings.contains("variant"))
        return {checkpoint, restored(language::Model(language::model_settings(settings)), checkpoint)};
      return {checkpoint, restored(Net(classification::net_settings(settings)), checkpoint)};
    });
    o.model = loaded.checkpoint.file().file();
    const auto* const net = std::get_if<Net>(&loaded.model);
    const auto audit = net ? audit_classifier(loaded.checkpoint, *net, o)
                           : audit_transformer(loaded.checkpoint, std::get<language::Model>(loaded.model), o);
    if (!audit.mixer.empty()) print_betas(audit.mixer);
    if (audit.residuals) {
      print_layers(audit.residuals->layers());
      print_shortcuts(audit.residuals->shortcuts());
    }
    if (!o.output.empty()) write_results(o.output, audit);
    return 0;
  });
}
