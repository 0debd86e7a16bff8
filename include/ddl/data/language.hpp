// SPDX-License-Identifier: MIT
/// @file  Learning to predict the next token of a text: batches as fit takes them, and evaluation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "ddl/data/supervised.hpp"
#include "ddl/data/token_windows.hpp"
#include "ddl/model/delta_transformer.hpp"
#include "ddl/train/fit.hpp"
#include "ddl/train/loss.hpp"

namespace ddl {

/// Settings of LanguageBatches.
struct LanguageBatchSettings {
  Index sequences = 8;     ///< in a batch
  Index length = 64;       ///< tokens in a sequence
  std::uint64_t seed = 0;  ///< of the windows that are drawn
  Index shards = 1;        ///< parts of a batch that fit computes side by side (train/shards.hpp)
};

/// Some of the sequences of a batch, whose target is the next token.
template <class Scalar>
struct LanguageShard {
  TokenBatch tokens;             ///< the inputs
  std::span<const int> targets;  ///< of each token the one after it
  double normalizer;             ///< the targets of the whole batch

  TokenBatch inputs() const noexcept { return tokens; }  ///< what the model's forward takes
  Index samples() const noexcept { return static_cast<Index>(targets.size()); }  ///< tokens

  /// The sum of the cross-entropies, and the gradient of the mean over the whole batch.
  template <class Prediction, Executor E>
  LossSum loss(const Prediction& logits, Matrix<Scalar>& grad, const E& executor) const {
    return softmax_cross_entropy_sum(logits, targets, normalizer, grad, executor);
  }
  /// The number of tokens predicted correctly.
  template <class Prediction>
  double correct(const Prediction& logits) const {
    return static_cast<double>(correct_predictions(logits, targets));
  }
};

/// Batches of windows from anywhere in a text, for fit. A sample is a token.
template <class Scalar>
class LanguageBatches {
 public:
  /// `text` must outlive this. @throws std::invalid_argument if a size is below 1 or the text is too short.
  LanguageBatches(std::span<const int> text, const LanguageBatchSettings& settings)
      : text_(text), settings_(settings), random_(settings.seed), content_(xxh64(std::as_bytes(text))) {
    check_positive("ddl::LanguageBatches", "sequences", settings.sequences);
    detail::check_shards("ddl::LanguageBatches", settings.shards, settings.sequences);
    detail::check_window("ddl::LanguageBatches", text, settings.length);
  }

  /// Draws the next batch.
  void next() { draw_windows(text_, settings_.length, settings_.sequences, random_, windows_); }
  /// The tokens of the batch.
  TokenBatch inputs() const noexcept { return {windows_.tokens, settings_.length}; }
  /// Tokens in the batch.
  Index samples() const noexcept { return static_cast<Index>(windows_.tokens.size()); }

  Index shards() const noexcept { return settings_.shards; }  ///< a setting
  /// Shard s of the batch, with whole sequences.
  LanguageShard<Scalar> shard(Index s) const {
    const auto begin = first_token(s), count = first_token(s + 1) - begin;
    return {{std::span(windows_.tokens).subspan(begin, count), settings_.length},
            std::span(windows_.targets).subspan(begin, count),
            static_cast<double>(windows_.targets.size())};
  }

  /// The random stream, the settings, and the text by its content.
  std::vector<std::uint64_t> state() const {
    std::vector<std::uint64_t> words(random_.state().begin(), random_.state().end());
    words.push_back(static_cast<std::uint64_t>(settings_.sequences));
    words.push_back(static_cast<std::uint64_t>(settings_.length));
    words.push_back(static_cast<std::uint64_t>(settings_.shards));
    words.push_back(content_);
    return words;
  }
  /// Goes back to a state.
  /// @throws std::invalid_argument if the state is of another text or of batches of another size, naming
  /// them.
  void restore(std::span<const std::uint64_t> words) {
    const auto own = state();
    detail::check_state("ddl::LanguageBatches::restore", words, own,
                        {"", "", "", "", "sequences", "length", "shards", "the text's hash"});
    Random::State stream{};
    std::copy_n(words.begin(), 4, stream.begin());
    random_ = Random(stream);
  }

 private:
  std::size_t first_token(Index s) const noexcept {
    return static_cast<std::size_t>(detail::shard_begin(settings_.sequences, settings_.shards, s) *
                                    settings_.length);
  }

  std::span<const int> text_;
  LanguageBatchSettings settings_;
  Random random_;
  std::uint64_t content_;
  TokenWindows windows_;
};

/// The mean loss (nats a token) of a model over windows of `length` tokens spread evenly over a text: `count`
/// of them, or as many as fit side by side. exp of it is the perplexity. `see(tape)` is called after each
/// pass: it may look at what the pass left behind, if `memory` keeps it.
/// @throws std::invalid_argument if the text has no more than `length` tokens, or count is below 1.
template <class Model, Executor E = Serial, class See = detail::SeeNothing>
double text_loss(const Model& model, std::span<const int> text, Index length, Index count,
                 const E& executor = {}, Memory memory = Memory::inference, See&& see = {}) {
  constexpr Index together = 8;
  check_positive("ddl::text_loss", "count", count);
  detail::check_window("ddl::text_loss", text, length);
  const Index room = static_cast<Index>(text.size()) - 1;
  count = (std::min)(count, room / length);
  auto tape = model.make_tape(memory);
  Matrix<typename Model::Scalar> grad;
  TokenWindows windows;
  double sum = 0;
  for (Index begin = 0; begin < count; begin += together) {
    windows.starts.clear();
    for (Index w = begin; w < (std::min)(count, begin + together); ++w)
      windows.starts.push_back(count > 1 ? w * (room - length) / (count - 1) : 0);
    cut_windows(text, length, windows);
    const auto& logits = model.forward({windows.tokens, length}, tape, executor);
    grad.resize(logits.rows(), logits.cols());
    sum += softmax_cross_entropy(logits, windows.targets, grad, executor) *
           static_cast<double>(windows.starts.size());
    see(tape);
  }
  return sum / static_cast<double>(count);
}

}  // namespace ddl
