// SPDX-License-Identifier: MIT
/// @file  Trains a DDL Transformer, or one of its controls, to predict the next byte or character of a text.
/// Its tokens are mixed by attention or by the delta rule over time. On several machines: mpirun -n 4
/// train_lm --shards 4 ...
#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <thread>

#include <CLI/CLI.hpp>

#include <ddl/io/json_lines.hpp>
#include <ddl/train/observers.hpp>
#include <ddl/train/schedule.hpp>

#include "language.hpp"
#include "options.hpp"
#include "ranks.hpp"

namespace {

using namespace language;

struct Options {
  std::string text, tokens = "bytes", variant = "cc_ec", mixer = "attention", json, checkpoint, resume,
                    memory = "training";
  Index layers = 4, width = 128, heads = 4, context = 128, batch = 8, steps = 1000, validate = 100,
        windows = 64, edits = 0, head_dim = 0, shards = 0;
  Index threads = static_cast<Index>(std::max(1u, std::thread::hardware_concurrency()));
  Index checkpoint_every = 200, keep = 2, sample = 300;
  double learning_rate = 2e-3, weight_decay = 0.1, split = 0.1;
  std::uint64_t seed = 0;
  bool negative_eigenvalues = false, resumes = false;

  /// What weights, gradient, moments, and what a step keeps take, about; of the variants with 4 value
  /// channels.
  double bytes() const {
    const double d = double(width), blocks = 2 * double(layers),
                 tokens_a_step = double(batch) * double(context);
    return 4 *
           (4 * (blocks * 6 * d * d + 2 * 256 * d) + tokens_a_step * (blocks * 16 * d + 256) +
            double(layers) * double(heads) * tokens_a_step * double(context)) *
           double((std::max)(Index(1), edits));
  }
};

CLI::Option* add_options(CLI::App& app, Options& o) {
  using options::add;
  app.option_defaults()->always_capture_default();
  options::add_text(app, "--text", o.text, "a text file; without it, this project's documents and headers");
  app.add_option("--tokens", o.tokens, "what a token is")->check(CLI::IsMember({"bytes", "characters"}));
  app.add_option("--variant", o.variant, "the model")->check(CLI::IsMember(variants));
  app.add_option("--memory", o.memory, "what a training step keeps")
      ->check(CLI::IsMember({"training", "recompute", "reversible", "reversible_recompute"}));
  add(app, "--layers", o.layers, options::size, "layers: attention and SwiGLU");
  add(app, "--width", o.width, options::size, "width d of the state");
  app.add_option("--mixer", o.mixer, "what mixes the tokens")->check(CLI::IsMember(mixers));
  add(app, "--heads", o.heads, options::size, "heads of the mixer");
  add(app, "--head-dim", o.head_dim, options::size_or_0, "size of a head; 0: the width divided by the heads");
  add(app, "--edits", o.edits, options::size_or_0,
      "edits a token, of the mixers other than attention; 0: 2 in gated_delta_product, else 1");
  app.add_flag("--negative-eigenvalues", o.negative_eigenvalues,
               "betas in (0, 2) in place of (0, 1), of the mixers other than attention");
  add(app, "--context", o.context, options::size, "tokens in a sequence");
  add(app, "--batch", o.batch, options::size, "sequences a step");
  add(app, "--shards", o.shards, options::size_or_0,
      "parts of a batch that threads compute side by side; 0: at most 16, of 256 tokens or more");
  add(app, "--steps", o.steps, options::size, "training steps");
  add(app, "--validate", o.validate, options::size, "steps between validations");
  add(app, "--windows", o.windows, options::size,
      "at most so many sequences of the text's end in a validation");
  add(app, "--threads", o.threads, options::threads, "threads");
  add(app, "--checkpoint-every", o.checkpoint_every, options::size, "steps");
  add(app, "--keep", o.keep, options::size, "checkpoints kept");
  add(app, "--sample", o.sample, options::size_or_0, "tokens of a sample at the end");
  add(app, "--learning-rate", o.learning_rate, options::positive, "peak of the schedule");
  add(app, "--weight-decay", o.weight_decay, options::non_negative, "AdamW's");
  add(app, "--split", o.split, {0.001, 0.5}, "share of the text, its end, to validate on");
  add(app, "--seed", o.seed, {}, "of the weights and the batches");
  auto* const folder = app.add_option("--checkpoint", o.checkpoint, "a folder for checkpoints");
  app.add_option("--json", o.json,
                 "append a line of JSON for every 10 steps and every validation to this file");
  return app.add_option("--resume", o.resume, "go on from the newest checkpoint, or from this one")
      ->expected(0, 1)
      ->needs(folder);
}

/// f(), where memory may run out for these options.
template <class F>
auto within_memory(const Options& o, const F& f) {
  static const std::vector<options::Size<Options>> sizes = {
      {"--layers", &Options::layers}, {"--width", &Options::width},     {"--heads", &Options::heads},
      {"--edits", &Options::edits},   {"--context", &Options::context}, {"--batch", &Options::batch}};
  return options::within_memory(
      o, sizes, [](const Options& given) { return given.bytes(); }, f);
}

ddl::Memory memory_of(const std::string& name) {
  return name == "recompute"              ? ddl::Memory::recompute
         : name == "reversible"           ? ddl::Memory::reversible
         : name == "reversible_recompute" ? ddl::Memory::reversible_recompute
                                          : ddl::Memory::training;
}

/// Of several ranks, the first one logs, validates, and reads and writes checkpoints.
int train(int argc, char** argv, ddl::Communicator* ranks) {
  const bool is_first = !ranks || ranks->rank() == 0;
  Options o;
  if (ranks) o.threads = 1;
  CLI::App app("Trains a DDL Transformer on a text.");
  const auto* const resume = add_options(app, o);
  CLI11_PARSE(app, argc, argv);
  o.resumes = resume->count() > 0;
  if (o.edits == 0) o.edits = o.mixer == "gated_delta_product" ? 2 : 1;
  if (o.shards == 0) {  // a power of two, which ranks can share
    const Index most = std::clamp(o.batch * o.context / 256, Index(1), (std::min)(o.batch, Index(16)));
    o.shards = static_cast<Index>(std::bit_floor(static_cast<std::uint64_t>(most)));
  }

  const std::string text = read_text(o.text);
  const Coder coder = o.tokens == "characters" ? Coder(text, text_name(o.text)) : Coder();
  const Split split(coder, text, text_name(o.text), o.split, o.context);
  const auto train = split.train(), held_out = split.held_out();
  const double bytes_per_token =
      static_cast<double>(coder.decode({held_out.begin(), held_out.end()}).size()) /
      static_cast<double>(held_out.size());

  const nlohmann::json settings = {{"variant", o.variant},
                                   {"mixer", o.mixer},
                                   {"head_dim", o.head_dim},
                                   {"edits", o.edits},
                                   {"negative_eigenvalues", o.negative_eigenvalues},
                                   {"text", o.text},
                                   {"text_hash", text_hash(text)},
                                   {"split", o.split},
                                   {"vocabulary", coder.size()},
                                   {"context", o.context},
                                   {"layers", o.layers},
                                   {"width", o.width},
                                   {"heads", o.heads},
                                   {"batch", o.batch},
                                   {"shards", o.shards},
                                   {"steps", o.steps},
                                   {"seed", o.seed},
                                   {"learning_rate", o.learning_rate},
                                   {"weight_decay", o.weight_decay},
                                   {"characters", coder.characters()}};
  const ddl::ThreadPool pool(o.threads);
  std::optional<ddl::Checkpoints> checkpoints;
  if (is_first && !o.checkpoint.empty())
    checkpoints.emplace(o.checkpoint,
                        ddl::CheckpointSettings{.every = o.checkpoint_every,
                                                .keep = o.keep,
                                                .resume = o.resumes,
                                                .may_differ = {"text", "steps"}},
                        settings);
  auto run = within_memory(o, [&] {
    return ddl::TrainingRun<Model>(Model(model_settings(settings), o.seed),
                                   {.beta1 = 0.9, .beta2 = 0.95, .weight_decay = o.weight_decay});
  });
  ddl::LanguageBatches<float> batches(
      train, {.sequences = o.batch, .length = o.context, .seed = o.seed + 1, .shards = o.shards});
  std::printf("%zu tokens to learn from, %zu to validate on, vocabulary %ld\n", train.size(), held_out.size(),
              long(coder.size()));
  std::printf(
      "%s, %s: %ld layers of width %ld, %ld heads, m = %ld, %ld parameters; %ld steps of %ld x %ld tokens; "
      "%s%ld threads\n\n",
      o.variant.c_str(), o.mixer.c_str(), long(o.layers), long(o.width), long(o.heads),
      long(run.model.value_channels()), long(parameter_count(run.model)), long(o.steps), long(o.batch),
      long(o.context), (ranks ? std::to_string(ranks->size()) + " ranks of " : "").c_str(), long(o.threads));
  if (o.resumes && checkpoints && training::resume(*checkpoints, run, batches, o.resume)) {
    std::printf("goes on from step %ld\n", long(run.step));
    const ddl::Checkpoint newest(ddl::checkpoints_in(o.checkpoint).back());
    training::check_steps("--steps", o.steps, run.step, training::setting<Index>(newest.settings(), "steps"));
  }

  std::optional<ddl::JsonLines> lines;
  if (is_first && !o.json.empty()) {
    lines.emplace(o.json, 10);
    lines->write({{"event", "begin"}, {"settings", settings}});
  }
  std::optional<ddl::ProgressBar> bar;
  if (is_first) bar.emplace(ddl::ProgressBarSettings{.unit = "tokens"});
  const auto validate = [&](const auto& context) {
    const Index step = context.report.step;
    if (!is_first || (step % o.validate != 0 && step != o.steps)) return;
    const double loss = text_loss(context.run.model, held_out, o.context, o.windows, pool);
    const double bits = loss / std::log(2.0) / bytes_per_token;
    std::printf(
        "%sstep %5ld  training loss %.4f  validation loss %.4f  perplexity %.3f  bits per byte %.4f\n",
        ddl::is_terminal(stderr) ? "\n" : "", long(step), context.report.loss, loss, std::exp(loss), bits);
    std::fflush(stdout);
    if (lines)
      lines->write({{"event", "validation"},
                    {"step", step},
                    {"loss", loss},
                    {"perplexity", std::exp(loss)},
                    {"bits_per_byte", bits}});
  };
  const ddl::WarmupCosine schedule({.peak = o.learning_rate,
                                    .floor = 0.1 * o.learning_rate,
                                    .warmup = std::min(o.steps, o.steps / 20 + 1),
                                    .steps = o.steps});
  const Index begun = run.step;
  const program::StopOnSignal stop;
  const ddl::FitSettings fit{.steps = o.steps,
                             .learning_rate = schedule,
                             .max_norm = 1,
                             .memory = memory_of(o.memory),
                             .ranks = ranks};
  const auto result = within_memory(
      o, [&] { return fit_on(pool, run, batches, fit, bar, checkpoints, lines, validate, stop); });
  if (result.stop_reason == ddl::StopReason::observer) {  // a signal came, to this rank or to another
    if (is_first)
      std::fprintf(stderr, "stopped by a signal after step %ld%s\n", long(run.step),
                   checkpoints ? ", which is saved; --resume goes on from it" : "");
    return 1;
  }
  if (!is_first) return 0;
  const double seconds = result.last.seconds;
  std::printf("\n%.1f s, %.0f tokens/s with validation\n", seconds,
              static_cast<double>((run.step - begun) * o.batch * o.context) / std::max(seconds, 1e-9));
  if (o.sample > 0) {
    const std::string prompt =
        coder.decode({held_out.begin(), held_out.begin() + std::min<std::ptrdiff_t>(32, o.context)});
    std::printf(
        "\n--- a sample (temperature 0.8), after the beginning of what it has not learned from ---\n");
    continue_text(run.model, coder, prompt, o.sample, {.temperature = 0.8, .top_p = 0.95}, o.seed, pool,
                  print_text);
    std::putchar('\n');
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return program::run("train_lm", [&] {
    return program::run_ranks("train_lm", [&](ddl::Communicator* ranks) { return train(argc, argv, ranks); });
  });
}
