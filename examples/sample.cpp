// SPDX-License-Identifier: MIT
/// @file  Continues a text with a model that train_lm has trained.
#include <CLI/CLI.hpp>

#include "language.hpp"
#include "options.hpp"

int main(int argc, char** argv) {
  return program::run("sample", [&] {
    using namespace language;
    std::string model_path, prompt = "The ";
    Index count = 300, threads = 1, top_k = 0;
    std::uint64_t seed = 0;
    ddl::SamplingSettings settings{.temperature = 0.8, .top_p = 0.95};
    CLI::App app("Continues a text with a model that train_lm has trained.");
    app.option_defaults()->always_capture_default();
    app.add_option("MODEL", model_path, "a checkpoint, or a folder of checkpoints")->required();
    app.add_option("--prompt", prompt, "what the text begins with");
    options::add(app, "--tokens", count, options::size, "how many to add");
    options::add(app, "--temperature", settings.temperature, options::non_negative,
                 "0: the most likely token, always");
    options::add(app, "--top-k", top_k, options::size_or_0, "from the k most likely tokens; 0: from all");
    options::add(app, "--top-p", settings.top_p, {1e-6, 1}, "from the fewest tokens with this share");
    options::add(app, "--seed", seed, {}, "of the random stream");
    options::add(app, "--threads", threads, options::threads, "threads");
    CLI11_PARSE(app, argc, argv);

    if (top_k > 0) settings.top_k = top_k;
    const auto [model, coder] = ddl::load_checkpoint(model_path, [](const ddl::Checkpoint& checkpoint) {
      Model restored(model_settings(checkpoint.settings()));
      checkpoint.restore_model(restored);
      return std::pair(std::move(restored), coder_of(checkpoint.settings()));
    });
    const ddl::ThreadPool pool(threads);
    continue_text(model, coder, prompt, count, settings, seed, pool, print_text);
    std::putchar('\n');
    return 0;
  });
}
