// SPDX-License-Identifier: MIT
/// @file  Continues a text with a model that train_lm has trained.
#include <CLI/CLI.hpp>

#include "language.hpp"

int main(int argc, char** argv) try {
  using namespace language;
  std::string model_path, prompt = "The ";
  Index count = 300, threads = 1;
  std::uint64_t seed = 0;
  ddl::SamplingSettings settings{.temperature = 0.8, .top_p = 0.95};
  CLI::App app("Continues a text with a model that train_lm has trained.");
  app.option_defaults()->always_capture_default();
  app.add_option("MODEL", model_path, "a checkpoint, or a folder of checkpoints")->required();
  app.add_option("--prompt", prompt, "what the text begins with");
  app.add_option("--tokens", count, "how many to add")->check(CLI::PositiveNumber);
  app.add_option("--temperature", settings.temperature, "0: the most likely token, always")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--top-k", settings.top_k, "from the k most likely tokens; 0: from all")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", settings.top_p, "from the fewest tokens with this share")
      ->check(CLI::Range(1e-6, 1.0));
  app.add_option("--seed", seed, "of the random stream");
  app.add_option("--threads", threads, "threads")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);

  if (const auto found = ddl::checkpoints_in(model_path); !found.empty()) model_path = found.back();
  const ddl::Checkpoint checkpoint(model_path);
  const Coder coder = coder_of(checkpoint.settings());
  Model model(model_settings(checkpoint.settings()));
  checkpoint.restore_model(model);
  const ddl::ThreadPool pool(threads);
  std::printf("%s\n", continue_text(model, coder, prompt, count, settings, seed, pool).c_str());
} catch (const std::exception& error) {
  std::fprintf(stderr, "sample: %s\n", error.what());
  return 1;
}
