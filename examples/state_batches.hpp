// SPDX-License-Identifier: MIT
/// @file  Sequences of random tokens, and the states to which they move an automaton, as batches to learn
/// from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ddl/core/random.hpp>
#include <ddl/data/language.hpp>

#include "automata.hpp"

namespace automata {

/// Random tokens as fit takes them. The label of a token is the automaton's state after it. States are words
/// of their own: state x is word tokens + x of the vocabulary.
class StateBatches {
 public:
  StateBatches(const Automaton& automaton, ddl::Index sequences, ddl::Index length, std::uint64_t seed,
               ddl::Index shards = 1)
      : automaton_(automaton), sequences_(sequences), length_(length), shards_(shards), random_(seed) {}

  void next() {
    tokens_.clear();
    labels_.clear();
    for (ddl::Index s = 0; s < sequences_; ++s) {
      int state = 0;
      for (ddl::Index t = 0; t < length_; ++t) {
        tokens_.push_back(static_cast<int>(random_.below(automaton_.tokens)));
        state = automaton_.step(state, tokens_.back());
        labels_.push_back(automaton_.tokens + state);
      }
    }
  }
  ddl::TokenBatch inputs() const { return {tokens_, length_}; }
  ddl::Index samples() const { return sequences_ * length_; }
  const std::vector<int>& labels() const { return labels_; }

  ddl::Index shards() const { return shards_; }
  ddl::LanguageShard<float> shard(ddl::Index s) const {
    const ddl::Index begin = sequences_ * s / shards_ * length_,
                     end = sequences_ * (s + 1) / shards_ * length_;
    const auto of_shard = [&](const std::vector<int>& all) {
      return std::span(all).subspan(std::size_t(begin), std::size_t(end - begin));
    };
    return {{of_shard(tokens_), length_}, of_shard(labels_), double(samples())};
  }

 private:
  const Automaton& automaton_;
  ddl::Index sequences_, length_, shards_;
  ddl::Random random_;
  std::vector<int> tokens_, labels_;
};

}  // namespace automata
