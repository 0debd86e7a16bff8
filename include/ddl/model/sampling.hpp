// SPDX-License-Identifier: MIT
/// @file  The next token from a model's logits.
/// @source top-k: Fan, Lewis and Dauphin, Hierarchical Neural Story Generation, 2018; top-p: Holtzman et al.,
/// The Curious Case of Neural Text Degeneration, 2020.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <vector>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/random.hpp"

namespace ddl {

/// Settings of a Sampler.
struct SamplingSettings {
  double temperature = 1;           ///< of softmax(logits / temperature); 0: the most likely token, always
  std::optional<Index> top_k = {};  ///< sample from the k most likely tokens only
  double top_p = 1;  ///< from the fewest tokens that have this share of the probability that top_k left
};

/// Draws tokens. Of two tokens with the same logit the smaller counts as the likelier, so that a seed gives
/// one text. Nothing is allocated after the first draw.
class Sampler {
 public:
  /// @throws std::invalid_argument if a setting is out of range.
  explicit Sampler(const SamplingSettings& settings = {}) : settings_(settings) {
    constexpr const char* where = "ddl::Sampler";
    check_range(where, "temperature", settings.temperature, settings.temperature >= 0,
                "a number of at least 0");
    check_range(where, "top_p", settings.top_p, settings.top_p > 0 && settings.top_p <= 1,
                "a number above 0 and at most 1");
    if (settings.top_k) check_positive(where, "top_k", *settings.top_k);
  }

  const SamplingSettings& settings() const noexcept { return settings_; }  ///< as given to the constructor

  /// Draws a token from the logits of all tokens.
  /// @throws std::invalid_argument if there are no logits, one is NaN, or the largest is infinite.
  template <class Derived>
  int operator()(const Eigen::DenseBase<Derived>& logits, Random& random) {
    rank(logits);
    if (settings_.temperature == 0) return ranked_.front().token;
    double total = 0;
    const double largest = ranked_.front().weight;
    for (Choice& choice : ranked_) {
      choice.weight = std::exp((choice.weight - largest) / settings_.temperature);
      total += choice.weight;
    }
    if (settings_.top_p < 1) total = keep_share(settings_.top_p * total);
    double left = random.uniform() * total;
    for (const Choice& choice : ranked_) {
      left -= choice.weight;
      if (left < 0) return choice.token;
    }
    return ranked_.front().token;  // rounding left more than there is
  }

 private:
  struct Choice {
    double weight;  ///< the logit, then exp of it
    int token;
  };

  /// The tokens that top_k leaves, the likeliest first; those after it in order only if that matters.
  template <class Derived>
  void rank(const Eigen::DenseBase<Derived>& logits) {
    constexpr const char* where = "ddl::Sampler";
    check_positive(where, "the number of logits", logits.size());
    ranked_.clear();
    for (Index i = 0; i < logits.size(); ++i) {
      const auto logit = static_cast<double>(logits.derived().coeff(i));
      if (!is_finite(logit) && !(logit < 0)) fail(where, "a logit", number_text(logit), "a number");
      ranked_.push_back({logit, static_cast<int>(i)});
    }
    const auto likelier = [](const Choice& a, const Choice& b) {
      return a.weight > b.weight || (a.weight == b.weight && a.token < b.token);
    };
    const Index k = settings_.top_k.value_or(logits.size());
    const bool all = k >= logits.size();
    const auto sorted = settings_.temperature == 0 ? 1 : !all ? k : settings_.top_p < 1 ? logits.size() : 1;
    std::partial_sort(ranked_.begin(), ranked_.begin() + sorted, ranked_.end(), likelier);
    if (!all) ranked_.resize(static_cast<std::size_t>(k));
    if (!is_finite(ranked_.front().weight)) fail(where, "the largest logit", "-inf", "a finite number");
  }

  /// Drops the tokens after the first ones that weigh `share` together. @return what is left.
  double keep_share(double share) {
    double kept = 0;
    std::size_t count = 0;
    while (count < ranked_.size() && kept < share) kept += ranked_[count++].weight;
    ranked_.resize(count);
    return kept;
  }

  SamplingSettings settings_;
  std::vector<Choice> ranked_;
};

}  // namespace ddl
