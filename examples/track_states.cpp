// SPDX-License-Identifier: MIT
/// @file  Which token mixers can follow the state of a finite automaton? Each model reads random tokens and
/// is asked for the automaton's state after each of them. It is trained on short sequences and tested on long
/// ones, several models and seeds side by side.
///
/// One layer of the delta rule with betas in (0, 2) learns parity, with two edits a token S_3; with betas in
/// (0, 1) it learns neither.
/// @source Grazzi et al., Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues, 2025 (parity,
/// arithmetic); Siems et al., DeltaProduct, 2025 (several edits a token, groups of permutations).
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>

#include <CLI/CLI.hpp>

#include <ddl/core/thread_pool.hpp>
#include <ddl/model/delta_transformer.hpp>
#include <ddl/nn/delta_rule.hpp>
#include <ddl/train/fit.hpp>
#include <ddl/train/observers.hpp>
#include <ddl/train/schedule.hpp>

#include "automata.hpp"
#include "options.hpp"
#include "plots.hpp"
#include "state_batches.hpp"
#include "training.hpp"

namespace {

using automata::Automaton;
using automata::StateBatches;
using ddl::Index;

// ---- options

struct Options {
  std::string task = "parity", output;
  std::vector<std::string> mixers = {"delta_rule"}, betas = {"1", "2"}, residuals = {"additive"};
  std::vector<Index> edits = {1};
  Index layers = 1, width = 64, heads = 4, convolution = 4;
  Index length = 64, test_length = 512, test_sequences = 512, batch = 32, shards = 1, steps = 800, seeds = 3;
  Index threads = static_cast<Index>(std::max(1u, std::thread::hardware_concurrency()));
  double learning_rate = 3e-3, weight_decay = 0.01, time_limit = 0;

  void add_to(CLI::App& app) {
    using options::add;
    app.option_defaults()->always_capture_default();
    const auto add_names = [&](const char* name, auto& to, std::vector<std::string> known, const char* text) {
      app.add_option(name, to, text)->delimiter(',')->check(CLI::IsMember(std::move(known)));
    };
    app.add_option("--task", task, "the automaton")->check(CLI::IsMember(automata::names));
    add_names(
        "--mixer", mixers, {"delta_rule", "write_only", "attention"},
        "token mixers, separated by commas; write_only: X + beta k v^T, the delta rule without its read");
    add_names("--beta", betas, {"1", "2"}, "upper ends of the range of beta, from 0");
    app.add_option("--edits", CLI::callback_t([this](const CLI::results_t& given) {
                     edits.clear();
                     for (const auto& text : given)
                       edits.push_back(options::number("--edits", text, options::size));
                     return true;
                   }),
                   "edits a token")
        ->delimiter(',')
        ->expected(1, CLI::detail::expected_max_vector_size)
        ->type_name("INT")
        ->default_str("1");
    add_names("--residual", residuals, {"additive", "delta", "write_only"},
              "update rules of the residual connections, over depth");
    add(app, "--layers", layers, options::size, "layers: mixer and SwiGLU");
    add(app, "--width", width, options::size, "width of the model");
    add(app, "--heads", heads, options::size, "heads of the mixer");
    add(app, "--convolution", convolution, options::size_or_0,
        "kernel of the short convolutions before the delta rule; 0: none");
    add(app, "--length", length, options::size, "tokens of a sequence in training");
    add(app, "--test-length", test_length, options::size, "tokens of a sequence in the test");
    add(app, "--test-sequences", test_sequences, options::size, "sequences in the test");
    add(app, "--batch", batch, options::size, "sequences a step");
    add(app, "--shards", shards, options::size, "parts of a batch that threads compute side by side");
    add(app, "--steps", steps, options::size, "training steps");
    add(app, "--seeds", seeds, options::size, "runs of each model");
    add(app, "--threads", threads, options::threads, "threads: of several runs, or of the shards of one");
    add(app, "--time-limit", time_limit, options::non_negative, "seconds of training for each run; 0: none");
    add(app, "--learning-rate", learning_rate, options::positive, "peak of the schedule");
    add(app, "--weight-decay", weight_decay, options::non_negative, "AdamW's");
    app.add_option("--output", output, "write OUTPUT.json, and a table and a plot that begin with OUTPUT");
  }

  /// What the tapes of all threads take, about.
  double bytes() const {
    const double d = double(width), n = double(*std::max_element(edits.begin(), edits.end()));
    const double tokens = std::max(double(batch) * double(length), double(test_length));
    return 4 * double(threads) * (double(layers) * (tokens * (40 + 14 * n) + 60 * d) * d);
  }
  nlohmann::json json() const {
    return {{"task", task},
            {"layers", layers},
            {"width", width},
            {"heads", heads},
            {"convolution", convolution},
            {"length", length},
            {"test_length", test_length},
            {"test_sequences", test_sequences},
            {"batch", batch},
            {"shards", shards},
            {"steps", steps},
            {"seeds", seeds},
            {"time_limit", time_limit},
            {"learning_rate", learning_rate},
            {"weight_decay", weight_decay}};
  }
};

// ---- models and runs

/// The betas of one head and edit, or of all, over tokens of a batch.
struct Betas {
  double mean = 0, low = 0, high = 0, above_1 = 0;  ///< low, high: the 5 % and 95 % quantiles

  explicit Betas(std::vector<float> all) {
    std::sort(all.begin(), all.end());
    const auto quantile = [&](double q) { return double(all[std::size_t(q * double(all.size() - 1))]); };
    low = quantile(0.05);
    high = quantile(0.95);
    for (const float beta : all) {
      mean += beta / double(all.size());
      above_1 += (beta > 1) / double(all.size());
    }
  }
  nlohmann::json json() const { return {{"mean", mean}, {"low", low}, {"high", high}, {"above_1", above_1}}; }
};

struct Run {
  std::vector<double> accuracy = {};  ///< in the test, after 1, 2, .. tokens
  double loss = 0, seconds = 0;       ///< of the last step; of training
  Index parameters = 0, steps = 0;
  std::optional<Betas> betas = {};
  nlohmann::json heads = nlohmann::json::array();  ///< betas of each layer, edit and head
};

struct Model {
  std::string mixer, residual;
  int beta;
  Index edits;
  std::vector<std::optional<Run>> runs = {};  ///< of each seed; empty where a signal ended it

  std::string name() const {
    std::string text = mixer;
    if (mixer != "attention")
      text += " beta<" + std::to_string(beta) + (edits > 1 ? " n=" + std::to_string(edits) : "");
    return residual == "additive" ? text : text + " over " + residual;
  }
  template <class F>
  std::vector<double> each(const F& figure) const {
    std::vector<double> values;
    for (const auto& run : runs)
      if (run) values.push_back(figure(*run));
    return values;
  }
};

/// Every combination of the options' mixers, betas, edits and residuals. Attention has neither betas nor
/// edits.
std::vector<Model> models_of(const Options& o) {
  std::vector<Model> models;
  for (const auto& residual : o.residuals)
    for (const auto& mixer : o.mixers)
      for (const Index edits : o.edits)
        for (const auto& beta : o.betas) {
          if (mixer == "attention" && (edits != o.edits.front() || beta != o.betas.front())) continue;
          models.push_back({mixer, residual, beta == "2" ? 2 : 1, edits});
          models.back().runs.resize(std::size_t(o.seeds));
        }
  return models;
}

ddl::DeltaRuleSettings mixer_settings(const Options& o, const Model& model, ddl::DeltaRuleSettings) {
  ddl::DeltaRuleSettings mixer{
      .heads = o.heads, .edits = model.edits, .negative_eigenvalues = model.beta == 2, .convolution = {}};
  if (o.convolution > 0) mixer.convolution = o.convolution;
  if (model.mixer == "write_only") mixer.update = ddl::UpdateRule::write_only;
  return mixer;
}
ddl::AttentionSettings mixer_settings(const Options& o, const Model&, ddl::AttentionSettings) {
  return {.heads = o.heads};
}

/// The share of random sequences whose state is right after 1, 2, .. tokens. The sequences are the same in
/// every test.
template <class Net>
std::vector<double> test(const Net& net, const Automaton& automaton, const Options& o) {
  const Index together = std::min(o.test_sequences, std::max(Index(1), o.batch * o.length / o.test_length));
  const Index batches = (o.test_sequences + together - 1) / together;
  std::vector<double> correct(std::size_t(o.test_length), 0);
  StateBatches data(automaton, together, o.test_length, ~std::uint64_t{0});
  auto tape = net.make_tape(ddl::Memory::inference);
  for (Index b = 0; b < batches; ++b) {
    data.next();
    const auto& logits = net.forward(data.inputs(), tape);
    for (Index n = 0; n < data.samples(); ++n) {
      Index best;
      logits.col(n).maxCoeff(&best);
      correct[std::size_t(n % o.test_length)] += best == data.labels()[std::size_t(n)];
    }
  }
  for (double& share : correct) share /= double(batches * together);
  return correct;
}

/// The betas on a batch of training length.
template <class Net>
void record_betas(const Net& net, const Automaton& automaton, const Options& o, Run& run) {
  StateBatches data(automaton, o.batch, o.length, ~std::uint64_t{1});
  auto tape = net.make_tape();
  data.next();
  net.forward(data.inputs(), tape);
  std::vector<float> all;
  for (std::size_t layer = 0; layer < tape.activations.size(); ++layer) {
    const auto& beta = tape.activations[layer].mixer.sublayer.inputs.beta;  // (edits heads) x N
    for (Index row = 0; row < beta.rows(); ++row) {
      std::vector<float> of_head;
      for (Index n = 0; n < beta.cols(); ++n) of_head.push_back(beta(row, n));
      all.insert(all.end(), of_head.begin(), of_head.end());
      auto figures = Betas(std::move(of_head)).json();
      figures.update({{"layer", layer}, {"edit", row / o.heads}, {"head", row % o.heads}});
      run.heads.push_back(std::move(figures));
    }
  }
  run.betas.emplace(std::move(all));
}

template <class Mixer, class... Observers>
Run train_with(const Options& o, const Model& model, const Automaton& automaton, std::uint64_t seed,
               const ddl::ThreadPool& pool, Observers&&... observers) {
  using Net = ddl::DeltaTransformer<float, Mixer>;
  typename Net::Settings settings;
  settings.vocabulary = automaton.tokens + automaton.states;
  settings.context = std::max(o.length, o.test_length);
  settings.layers = o.layers;
  settings.width = o.width;
  settings.mixer = mixer_settings(o, model, typename Mixer::Settings());
  settings.update = model.residual == "additive" ? ddl::UpdateRule::additive
                    : model.residual == "delta"  ? ddl::UpdateRule::delta
                                                 : ddl::UpdateRule::write_only;
  ddl::TrainingRun<Net> run(Net(settings, seed), {.weight_decay = o.weight_decay});
  StateBatches batches(automaton, o.batch, o.length, seed, o.shards);
  const ddl::WarmupCosine schedule(
      {.peak = o.learning_rate, .warmup = std::min(o.steps, o.steps / 20 + 1), .steps = o.steps});
  const auto last =
      fit_on(pool, run, batches, {.steps = o.steps, .learning_rate = schedule}, observers...).last;
  Run result{.accuracy = test(run.model, automaton, o),
             .loss = last.loss,
             .seconds = last.seconds,
             .parameters = parameter_count(run.model),
             .steps = run.step};
  if constexpr (std::is_same_v<Mixer, ddl::DeltaRule<float>>) record_betas(run.model, automaton, o, result);
  return result;
}

template <class... Observers>
Run train(const Options& o, const Model& model, const Automaton& automaton, std::uint64_t seed,
          const ddl::ThreadPool& pool, Observers&&... observers) {
  if (model.mixer == "attention")
    return train_with<ddl::CausalSelfAttention<float>>(o, model, automaton, seed, pool, observers...);
  return train_with<ddl::DeltaRule<float>>(o, model, automaton, seed, pool, observers...);
}

// ---- what is shown

/// The lengths of the table: that of training, then twice as long each.
std::vector<Index> lengths_of(const Options& o) {
  std::vector<Index> lengths;
  for (Index length = std::min(o.length, o.test_length); length <= o.test_length; length *= 2)
    lengths.push_back(length);
  return lengths;
}

/// Progress of all runs, on a terminal: a line that is redrawn. Each run that has finished gets a line of its
/// own.
class Progress {
 public:
  explicit Progress(Index steps) : steps_(steps) {}

  /// As an observer of every run.
  template <class Context>
  void operator()(const Context& context) {
    const std::lock_guard lock(mutex_);
    ++made_;
    const double share = double(made_) / double(steps_);
    if (!shows_ || !line_.due(share)) return;
    const double seconds = std::chrono::duration<double>(Clock::now() - begun_).count();
    char text[96];
    std::snprintf(text, sizeof text, "  %.0f steps/s  %.0f s left  loss %.4f", double(made_) / seconds,
                  seconds / share - seconds, context.report.loss);
    line_.draw("", share, text);
  }
  void finished(const Options& o, const Model& model, Index seed, const Run& run) {
    const std::lock_guard lock(mutex_);
    made_ += o.steps - run.steps;
    line_.erase();
    std::printf("%-30s seed %ld: loss %.4f after %ld steps, %.1f s; right after", model.name().c_str(),
                long(seed), run.loss, long(run.steps), run.seconds);
    for (const Index length : lengths_of(o))
      std::printf(" %ld: %.1f %%", long(length), 100 * run.accuracy[std::size_t(length - 1)]);
    std::printf("\n");
    std::fflush(stdout);
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::mutex mutex_;
  Index steps_, made_ = 0;
  Clock::time_point begun_ = Clock::now();
  ddl::ProgressLine line_{stderr};
  const bool shows_ = ddl::is_terminal(stderr);
};

void print_table(const Options& o, const std::vector<Model>& models, const Automaton& automaton) {
  std::printf(
      "\n%s, states right (%%): mean (lowest to highest) of %ld seeds; %.1f by guessing\n"
      "trained on %ld tokens; right after\n\n%-30s",
      o.task.c_str(), long(o.seeds), 100 * most_frequent(automaton), long(o.length), "");
  for (const Index length : lengths_of(o)) std::printf(" %-22ld", long(length));
  std::printf(" betas: 5 %%, 95 %%\n");
  for (const Model& model : models) {
    const auto row = [&](const auto& figure) {
      const auto values = model.each(figure);
      const auto [low, high] = std::minmax_element(values.begin(), values.end());
      const double mean = std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
      return std::array{mean, *low, *high};
    };
    if (model.each([](const Run&) { return 0.0; }).empty()) continue;
    std::printf("%-30s", model.name().c_str());
    for (const Index length : lengths_of(o)) {
      const auto [mean, low, high] =
          row([&](const Run& run) { return 100 * run.accuracy[std::size_t(length - 1)]; });
      char text[64];
      std::snprintf(text, sizeof text, "%.1f (%.1f to %.1f)", mean, low, high);
      std::printf(" %-22s", text);
    }
    if (model.mixer != "attention")
      std::printf(" %.2f, %.2f", row([](const Run& run) { return run.betas->low; })[0],
                  row([](const Run& run) { return run.betas->high; })[0]);
    std::printf("\n");
  }
}

void write_results(const Options& o, const std::vector<Model>& models, const Automaton& automaton) {
  nlohmann::json document = {{"settings", o.json()}, {"guessing", most_frequent(automaton)}};
  plots::Table table("model,seed,length,right");
  for (const Model& model : models) {
    nlohmann::json runs = nlohmann::json::array();
    std::string key = model.name();  // gnuplot takes names apart at spaces
    std::replace(key.begin(), key.end(), ' ', '_');
    Index parameters = 0;
    for (std::size_t seed = 0; seed < model.runs.size(); ++seed) {
      if (!model.runs[seed]) continue;
      const Run& run = *model.runs[seed];
      parameters = run.parameters;
      nlohmann::json figures = {{"seed", seed},
                                {"steps", run.steps},
                                {"loss", run.loss},
                                {"seconds", run.seconds},
                                {"accuracy", run.accuracy}};
      if (run.betas) figures.update({{"beta", run.betas->json()}, {"beta_by_head", run.heads}});
      runs.push_back(std::move(figures));
      for (std::size_t i = 0; i < run.accuracy.size(); ++i)
        table.add(key, seed, i + 1, 100 * run.accuracy[i]);
    }
    nlohmann::json entry = {{"model", model.name()},
                            {"mixer", model.mixer},
                            {"residual", model.residual},
                            {"parameters", parameters},
                            {"runs", std::move(runs)}};
    if (model.mixer != "attention") entry.update({{"largest_beta", model.beta}, {"edits", model.edits}});
    document["models"].push_back(std::move(entry));
  }
  training::write_json(o.output + ".json", document);
  table.save(o.output + ".csv");
  std::printf("\nresults: %s.json\n", o.output.c_str());
  plots::draw("lengths.gp", o.output + ".csv", o.output,
              "trained=" + std::to_string(o.length) +
                  "; guessing=" + ddl::number_text(100 * most_frequent(automaton)));
}

}  // namespace

int main(int argc, char** argv) {
  return program::run("track_states", [&] {
    Options o;
    CLI::App app(
        "Trains token mixers to follow the state of a finite automaton, and tests them on longer sequences.");
    o.add_to(app);
    CLI11_PARSE(app, argc, argv);
    if (o.shards > o.batch)
      throw std::runtime_error("--shards is " + std::to_string(o.shards) + ", expected at most " +
                               std::to_string(o.batch) + ", the sequences of a batch");
    if (!o.output.empty()) training::check_writable(o.output + ".json");

    const Automaton automaton = automata::named(o.task);
    auto models = models_of(o);
    const auto count = static_cast<Index>(models.size());
    std::printf(
        "%s: %d tokens, %d states; %ld models, %ld seeds, %ld steps of %ld x %ld tokens; %ld threads\n",
        o.task.c_str(), automaton.tokens, automaton.states, long(count), long(o.seeds), long(o.steps),
        long(o.batch), long(o.length), long(o.threads));
    std::fflush(stdout);
    const ddl::ThreadPool pool(o.threads);
    Progress progress(count * o.seeds * o.steps);
    const program::StopOnSignal stop;
    std::optional<ddl::TimeLimit> limit;
    if (o.time_limit > 0) limit = {o.time_limit};
    const std::vector<options::Size<Options>> sizes = {{"--layers", &Options::layers},
                                                       {"--width", &Options::width},
                                                       {"--batch", &Options::batch},
                                                       {"--length", &Options::length},
                                                       {"--test-length", &Options::test_length}};
    options::within_memory(
        o, sizes, [](const Options& given) { return given.bytes(); },
        [&] {
          pool.for_each(count * o.seeds, [&](Index i) {
            Model& model = models[std::size_t(i % count)];
            const Index seed = i / count;
            if (stop.caught()) return;
            Run run =
                train(o, model, automaton, static_cast<std::uint64_t>(seed), pool, progress, limit, stop);
            if (stop.caught()) return;
            progress.finished(o, model, seed, run);
            model.runs[std::size_t(seed)] = std::move(run);
          });
        });
    print_table(o, models, automaton);
    if (!o.output.empty()) write_results(o, models, automaton);
    if (stop.caught()) std::fprintf(stderr, "stopped by a signal: the table lacks the runs that it ended\n");
    return stop.caught() ? 1 : 0;
  });
}
