// SPDX-License-Identifier: MIT
/// @file  Finite automata, whose states token mixers are to track: groups of permutations and arithmetic mod
/// 5.
/// @source Grazzi et al., Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues, 2025.
#pragma once

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace automata {

/// Token a moves state x to next[x * tokens + a]. A sequence begins in state 0.
struct Automaton {
  int states = 1, tokens = 1;
  std::vector<int> next = {0};

  int step(int state, int token) const {
    return next[static_cast<std::size_t>(state) * static_cast<std::size_t>(tokens) +
                static_cast<std::size_t>(token)];
  }
};

/// The automaton whose states and tokens are the permutations of `count` things, or the even ones alone: a
/// token is multiplied to the product of those before. Permutations are in lexicographic order, state 0 is
/// the identity.
inline Automaton permutations(int count, bool even_alone = false) {
  using Permutation = std::vector<int>;
  std::vector<Permutation> all;
  Permutation p(static_cast<std::size_t>(count));
  std::iota(p.begin(), p.end(), 0);
  do {
    int inversions = 0;
    for (std::size_t i = 0; i < p.size(); ++i)
      for (std::size_t j = i + 1; j < p.size(); ++j) inversions += p[i] > p[j];
    if (!even_alone || inversions % 2 == 0) all.push_back(p);
  } while (std::next_permutation(p.begin(), p.end()));
  Automaton result{static_cast<int>(all.size()), static_cast<int>(all.size()), {}};
  for (const Permutation& state : all)
    for (const Permutation& token : all) {
      for (std::size_t i = 0; i < p.size(); ++i) p[i] = token[static_cast<std::size_t>(state[i])];
      result.next.push_back(static_cast<int>(std::lower_bound(all.begin(), all.end(), p) - all.begin()));
    }
  return result;
}

/// The automaton that computes mod 5 from left to right, beginning with 0: tokens 0 .. 4 add that number, 5
/// .. 9 subtract 0 .. 4, and 10 .. 14 multiply by 0 .. 4.
inline Automaton arithmetic() {
  Automaton result{5, 15, {}};
  for (int x = 0; x < 5; ++x)
    for (int token = 0; token < 15; ++token) {
      const int number = token % 5;
      const int y = token < 5 ? x + number : token < 10 ? x - number + 5 : x * number;
      result.next.push_back(y % 5);
    }
  return result;
}

/// The probability of the most frequent state after many random tokens: what guessing gets right.
inline double most_frequent(const Automaton& automaton) {
  std::vector<double> now(static_cast<std::size_t>(automaton.states), 0.0);
  now[0] = 1;
  for (int step = 0; step < 100; ++step) {
    std::vector<double> then(now.size(), 0.0);
    for (int x = 0; x < automaton.states; ++x)
      for (int token = 0; token < automaton.tokens; ++token)
        then[static_cast<std::size_t>(automaton.step(x, token))] +=
            now[static_cast<std::size_t>(x)] / automaton.tokens;
    now = then;
  }
  return *std::max_element(now.begin(), now.end());
}

inline const std::vector<std::string> names = {"parity", "mod5", "S3", "S5", "A5"};

/// One of `names`. Parity is the group of the permutations of two things: token 1 swaps them.
/// @throws std::invalid_argument if the name is none of these.
inline Automaton named(const std::string& name) {
  if (name == "parity") return permutations(2);
  if (name == "mod5") return arithmetic();
  if (name == "S3") return permutations(3);
  if (name == "S5") return permutations(5);
  if (name == "A5") return permutations(5, true);
  throw std::invalid_argument("the task is " + name + ", expected parity, mod5, S3, S5 or A5");
}

}  // namespace automata
