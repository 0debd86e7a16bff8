// SPDX-License-Identifier: MIT
/// @file  Trains a DDL Transformer, or one of its controls, to predict the next byte or character of a text.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <thread>

#include <CLI/CLI.hpp>

#include <ddl/io/json_lines.hpp>
#include <ddl/train/observers.hpp>
#include <ddl/train/schedule.hpp>

#include "language.hpp"

namespace {

using namespace language;

struct Options {
  std::string text, tokens = "bytes", variant = "cc_ec", json, checkpoint, memory = "training";
  Index layers = 4, width = 128, heads = 4, context = 128, batch = 8, steps = 1000, validate = 100,
        windows = 64;
  Index threads = static_cast<Index>(std::max(1u, std::thread::hardware_concurrency()));
  Index checkpoint_every = 200, keep = 2, sample = 300;
  double learning_rate = 2e-3, weight_decay = 0.1, split = 0.1;
  std::uint64_t seed = 0;
  bool resume = false;
};

void add_options(CLI::App& app, Options& o) {
  app.option_defaults()->always_capture_default();
  app.add_option("--text", o.text, "a text file; without it, this project's documents and headers");
  app.add_option("--tokens", o.tokens, "what a token is")->check(CLI::IsMember({"bytes", "characters"}));
  app.add_option("--variant", o.variant, "the model")->check(CLI::IsMember(variants));
  app.add_option("--memory", o.memory, "what a training step keeps")
      ->check(CLI::IsMember({"training", "recompute", "rewind", "rewind_recompute"}));
  const auto size = [&](const char* name, Index& value, const char* what) {
    app.add_option(name, value, what)->check(CLI::PositiveNumber);
  };
  size("--layers", o.layers, "layers: attention and SwiGLU");
  size("--width", o.width, "width d of the state");
  size("--heads", o.heads, "heads of the attention");
  size("--context", o.context, "tokens in a sequence");
  size("--batch", o.batch, "sequences a step");
  size("--steps", o.steps, "training steps");
  size("--validate", o.validate, "steps between validations");
  size("--windows", o.windows, "at most so many sequences of the text's end in a validation");
  size("--threads", o.threads, "threads");
  size("--checkpoint-every", o.checkpoint_every, "steps");
  size("--keep", o.keep, "checkpoints kept");
  app.add_option("--sample", o.sample, "tokens of a sample at the end")->check(CLI::NonNegativeNumber);
  app.add_option("--learning-rate", o.learning_rate, "peak of the schedule")->check(CLI::PositiveNumber);
  app.add_option("--weight-decay", o.weight_decay, "AdamW's")->check(CLI::NonNegativeNumber);
  app.add_option("--split", o.split, "share of the text, its end, to validate on")
      ->check(CLI::Range(0.001, 0.5));
  app.add_option("--seed", o.seed, "of the weights and the batches");
  app.add_option("--checkpoint", o.checkpoint, "a folder for checkpoints");
  app.add_flag("--resume", o.resume, "go on from the newest checkpoint")->needs("--checkpoint");
  app.add_option("--json", o.json,
                 "append a line of JSON for every 10 steps and every validation to this file");
}

ddl::Memory memory_of(const std::string& name) {
  return name == "recompute"          ? ddl::Memory::recompute
         : name == "rewind"           ? ddl::Memory::rewind
         : name == "rewind_recompute" ? ddl::Memory::rewind_recompute
                                      : ddl::Memory::training;
}

}  // namespace

int main(int argc, char** argv) try {
  Options o;
  CLI::App app("Trains a DDL Transformer on a text.");
  add_options(app, o);
  CLI11_PARSE(app, argc, argv);

  const std::string text = read_text(o.text);
  const Coder coder = o.tokens == "characters" ? Coder(text) : Coder();
  const Split split(coder, text, o.split, o.context);
  const auto train = split.train(), held_out = split.held_out();
  const double bytes_per_token =
      static_cast<double>(coder.decode({held_out.begin(), held_out.end()}).size()) /
      static_cast<double>(held_out.size());

  const nlohmann::json settings = {{"variant", o.variant},
                                   {"text", o.text},
                                   {"split", o.split},
                                   {"vocabulary", coder.size()},
                                   {"context", o.context},
                                   {"layers", o.layers},
                                   {"width", o.width},
                                   {"heads", o.heads},
                                   {"batch", o.batch},
                                   {"steps", o.steps},
                                   {"seed", o.seed},
                                   {"learning_rate", o.learning_rate},
                                   {"weight_decay", o.weight_decay},
                                   {"characters", coder.characters()}};
  const ddl::ThreadPool pool(o.threads);
  ddl::TrainingRun<Model> run(Model(model_settings(settings), o.seed),
                              {.beta1 = 0.9, .beta2 = 0.95, .weight_decay = o.weight_decay});
  ddl::LanguageBatches<float> batches(train, {.sequences = o.batch, .length = o.context, .seed = o.seed + 1});
  std::printf("%zu tokens to learn from, %zu to validate on, vocabulary %ld\n", train.size(), held_out.size(),
              long(coder.size()));
  std::printf(
      "%s: %ld layers of width %ld, %ld heads, m = %ld, %ld parameters; %ld steps of %ld x %ld tokens; %ld "
      "threads\n\n",
      o.variant.c_str(), long(o.layers), long(o.width), long(o.heads), long(run.model.value_channels()),
      long(parameter_count(run.model)), long(o.steps), long(o.batch), long(o.context), long(o.threads));
  if (const auto saved = ddl::checkpoints_in(o.checkpoint); o.resume && !saved.empty()) {
    const ddl::Checkpoint newest(saved.back());
    if (newest.settings() != settings)
      throw ddl::FileError(saved.back(), "was trained with other settings, " + newest.settings().dump() +
                                             ", expected " + settings.dump());
    newest.restore(run, batches);
    std::printf("goes on from step %ld\n", long(run.step));
  }

  std::optional<ddl::JsonLines> lines;
  if (!o.json.empty()) {
    lines.emplace(o.json, 10);
    lines->write({{"event", "begin"}, {"settings", settings}});
  }
  std::optional<ddl::Checkpoints> checkpoints;
  if (!o.checkpoint.empty()) checkpoints.emplace(o.checkpoint, o.checkpoint_every, o.keep, settings);
  ddl::ProgressBar bar({.unit = "tokens"});
  const auto validate = [&](const auto& seen) {
    const Index step = seen.report.step;
    if (step % o.validate != 0 && step != o.steps) return;
    const double loss = text_loss(seen.run.model, held_out, o.context, o.windows, pool);
    const double bits = loss / std::log(2.0) / bytes_per_token;
    std::printf(
        "%sstep %5ld  training loss %.4f  validation loss %.4f  perplexity %.3f  bits per byte %.4f\n",
        ddl::is_terminal(stderr) ? "\n" : "", long(step), seen.report.loss, loss, std::exp(loss), bits);
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
  const auto result =
      fit_on(pool, run, batches,
             {.steps = o.steps, .learning_rate = schedule, .max_norm = 1, .memory = memory_of(o.memory)}, bar,
             validate, checkpoints, lines);
  const double seconds = result.last.seconds;
  std::printf("\n%.1f s, %.0f tokens/s with validation\n", seconds,
              static_cast<double>((run.step - begun) * o.batch * o.context) / std::max(seconds, 1e-9));
  if (o.sample > 0) {
    const std::string prompt =
        coder.decode({held_out.begin(), held_out.begin() + std::min<std::ptrdiff_t>(32, o.context)});
    std::printf(
        "\n--- a sample (temperature 0.8), after the beginning of what it has not learned from ---\n%s\n",
        continue_text(run.model, coder, prompt, o.sample, {.temperature = 0.8, .top_p = 0.95}, o.seed, pool)
            .c_str());
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "train_lm: %s\n", error.what());
  return 1;
}
