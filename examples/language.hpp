// SPDX-License-Identifier: MIT
/// @file  What the programs on language share: texts, vocabularies, models by name, and decoding.
#pragma once

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <ddl/core/thread_pool.hpp>
#include <ddl/data/language.hpp>
#include <ddl/io/checkpoint.hpp>
#include <ddl/io/file.hpp>
#include <ddl/io/text.hpp>
#include <ddl/model/generate.hpp>
#include <ddl/model/language_model.hpp>

#include "training.hpp"

namespace language {

using ddl::Index;
using Model = ddl::LanguageModel<float>;

/// Between text and tokens: bytes, or the characters that a text has.
class Coder {
 public:
  /// By bytes.
  Coder() = default;
  /// By the characters of this text, which errors name.
  explicit Coder(const std::string& characters, const std::string& name)
      : vocabulary_(std::in_place, characters, name) {}

  Index size() const { return vocabulary_ ? vocabulary_->size() : 256; }
  std::string characters() const { return vocabulary_ ? vocabulary_->characters() : ""; }
  /// @throws ddl::FileError, with the text's name, if a character is not one of these.
  std::vector<int> encode(const std::string& text, const std::string& name) const {
    return vocabulary_ ? vocabulary_->encode(text, name) : ddl::byte_tokens(text);
  }
  std::string decode(const std::vector<int>& tokens) const {
    return vocabulary_ ? vocabulary_->decode(tokens) : ddl::text_of_bytes(tokens);
  }

 private:
  std::optional<ddl::Vocabulary> vocabulary_;
};

/// That of a checkpoint of train_lm.
inline Coder coder_of(const nlohmann::json& settings) {
  const auto characters = training::setting<std::string>(settings, "characters");
  return characters.empty() ? Coder() : Coder(characters, "the checkpoint's characters");
}

/// What errors call the text of read_text(path).
inline std::string text_name(const std::string& path) { return path.empty() ? "the embedded text" : path; }

/// The file, or without one this project's own README, documents and headers.
inline std::string read_text(const std::string& path) {
  if (!path.empty()) return std::string(ddl::FileContents(path).text());
  std::vector<std::string> files = {DDL_SOURCE "/README.md"};
  for (const std::string folder : {"/docs", "/include"})
    for (const auto& entry : std::filesystem::recursive_directory_iterator(DDL_SOURCE + folder))
      if (const auto kind = entry.path().extension(); kind == ".md" || kind == ".hpp")
        files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  std::string text;
  for (const auto& file : files) text += ddl::FileContents(file).text();
  return text;
}

inline const std::vector<std::string> variants = {"additive", "vdim1",           "tc", "tc_ec", "cc",
                                                  "cc_ec",    "cc_ec_write_only"};

inline const std::vector<std::string> mixers = {"attention", "delta_net", "gated_delta_net",
                                                "gated_delta_product"};

/// A token mixer by its name and sizes.
inline Model::Settings::Mixer mixer_settings(const nlohmann::json& settings) {
  const auto name = training::setting<std::string>(settings, "mixer");
  const auto heads = training::setting<Index>(settings, "heads");
  std::optional<Index> head_dim;
  if (const auto given = training::setting<Index>(settings, "head_dim"); given > 0) head_dim = given;
  if (name == "attention") return ddl::AttentionSettings{.heads = heads, .head_dim = head_dim};
  const bool gated = name != "delta_net";
  return ddl::DeltaRuleSettings{
      .heads = heads,
      .head_dim = head_dim,
      .edits = training::setting<Index>(settings, "edits"),
      .negative_eigenvalues = training::setting<bool>(settings, "negative_eigenvalues"),
      .decay = gated,
      .output_gate = gated};
}

/// A model by the names of its variant and mixer, and its sizes.
inline Model::Settings model_settings(const nlohmann::json& settings) {
  const std::string name = training::setting<std::string>(settings, "variant");
  const auto named = [](ddl::Variant variant) { return ddl::settings_of<Model::Settings::Mixer>(variant); };
  Model::Settings model;
  for (const auto variant : ddl::all_variants)
    if (name == name_of(variant)) model = named(variant);
  if (name == "additive") model.update = ddl::UpdateRule::additive;
  if (name == "cc_ec_write_only") {
    model = named(ddl::Variant::cc_ec);
    model.update = ddl::UpdateRule::write_only;
  }
  model.vocabulary = training::setting<Index>(settings, "vocabulary");
  model.context = training::setting<Index>(settings, "context");
  model.layers = training::setting<Index>(settings, "layers");
  model.width = training::setting<Index>(settings, "width");
  model.mixer = mixer_settings(settings);
  return model;
}

/// A hash of a text, for settings.
inline std::string text_hash(const std::string& text) {
  return training::hash_text(ddl::xxh64(std::as_bytes(std::span(text.data(), text.size()))));
}

/// A text's tokens: its beginning to learn from, its end to validate on.
struct Split {
  std::vector<int> tokens;
  std::size_t train_size;

  /// @throws std::invalid_argument if a model cannot be validated on what is left, and as Coder::encode does.
  Split(const Coder& coder, const std::string& text, const std::string& name, double held_out_share,
        Index context)
      : tokens(coder.encode(text, name)),
        train_size(static_cast<std::size_t>(static_cast<double>(tokens.size()) * (1 - held_out_share))) {
    if (held_out().size() <= static_cast<std::size_t>(context))
      throw std::invalid_argument("the text's end has " + std::to_string(held_out().size()) +
                                  " tokens to validate on, expected more than the context of " +
                                  std::to_string(context));
  }
  std::span<const int> train() const { return std::span(tokens).first(train_size); }
  std::span<const int> held_out() const { return std::span(tokens).subspan(train_size); }
};

/// Shows text at once.
inline void print_text(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

/// Calls write(text) with the prompt, then with each of `count` tokens as soon as it is drawn. Where the
/// context of the model is full, it begins anew with the newer half.
template <class Write>
void continue_text(const Model& model, const Coder& coder, const std::string& prompt, Index count,
                   const ddl::SamplingSettings& settings, std::uint64_t seed, const ddl::ThreadPool& pool,
                   const Write& write) {
  std::vector<int> tokens = coder.encode(prompt, "the prompt");
  if (tokens.empty()) throw std::invalid_argument("the prompt is empty, expected at least one token");
  write(prompt);
  ddl::Sampler sampler(settings);
  ddl::Random random(seed);
  const auto context = static_cast<std::size_t>(model.settings.context);
  auto state = model.make_state();
  std::size_t seen = std::min(tokens.size(), context);
  while (count > 0) {
    const std::vector<int> fed(tokens.end() - static_cast<std::ptrdiff_t>(seen), tokens.end());
    count -= ddl::generate(
        model, fed, state, sampler, random, count,
        [&](int token) {
          tokens.push_back(token);
          write(coder.decode({token}));
        },
        pool);
    state.reset();
    seen = (context + 1) / 2;
  }
}

}  // namespace language
