// SPDX-License-Identifier: MIT
/// @file  Sequences of random tokens, and the states to which they move an automaton, as batches to learn from.
#pragma once

#include <cstdint>
#include <vector>

#include <ddl/core/random.hpp>
#include <ddl/model/delta_transformer.hpp>
#include <ddl/train/loss.hpp>

#include "automata.hpp"

namespace automata {

/// Random tokens as fit takes them. The label of a token is the automaton's state after it. States are words of their
/// own: state x is word tokens + x of the vocabulary.
class StateBatches {
 public:
  StateBatches(const Automaton& automaton, ddl::Index sequences, ddl::Index length, std::uint64_t seed)
      : automaton_(automaton), sequences_(sequences), length_(length), random_(seed) {}

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

  template <class Logits, ddl::Executor E>
  double loss(const Logits& logits, ddl::Matrix<float>& grad, const E& executor) const {
    return ddl::softmax_cross_entropy(logits, labels_, grad, executor);
  }
  template <class Logits>
  double correct(const Logits& logits) const {
    return static_cast<double>(ddl::correct_predictions(logits, labels_));
  }

 private:
  const Automaton& automaton_;
  ddl::Index sequences_, length_;
  ddl::Random random_;
  std::vector<int> tokens_, labels_;
};

}  // namespace automata
