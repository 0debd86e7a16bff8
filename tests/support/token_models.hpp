// SPDX-License-Identifier: MIT
/// @file  Tests of models of tokens that are the same whatever their mixer is.
#pragma once

#include <vector>

#include "support/allocations.hpp"
#include "support/layer_suite.hpp"

namespace ddl::test {

/// Tokens of a vocabulary of 5.
inline std::vector<int> tokens_of(Index count, int seed = 3) {
  std::vector<int> tokens(static_cast<std::size_t>(count));
  for (std::size_t n = 0; n < tokens.size(); ++n) tokens[n] = static_cast<int>(n * n + std::size_t(seed)) % 5;
  return tokens;
}

/// infer over runs of tokens gives the logits of the pass over whole sequences, and allocates nothing once a
/// number of tokens has been seen.
void check_continues_sequences(const auto& model, Index sequences) {
  constexpr Index length = 90;  // more than a block of attention, or a chunk
  const auto tokens = tokens_of(sequences * length);
  auto tape = model.make_tape();
  const Matrix<double> expected = model.forward({tokens, length}, tape);
  Matrix<double> logits = Matrix<double>::Zero(5, expected.cols());
  auto state = model.make_state(sequences, length);
  std::vector<int> run;
  const auto infer = [&](Index count) {
    const Index begin = state.position;
    run.clear();
    for (Index s = 0; s < sequences; ++s)
      run.insert(run.end(), tokens.begin() + s * length + begin, tokens.begin() + s * length + begin + count);
    const Matrix<double>& next = model.infer(run, state);
    for (Index s = 0; s < sequences; ++s)
      logits.middleCols(s * length + begin, count) = next.middleCols(s * count, count);
  };
  SECTION("a prompt at once, then token by token, which allocates nothing after the first") {
    infer(7);
    infer(1);
    CHECK(allocations_in([&] {
            while (state.position < length) infer(1);
          }) == 0);
  }
  SECTION("runs of tokens around the sizes of kernels and blocks") {
    for (const Index count : {1, 2, 3, 4, 5, 64, 11}) infer(count);
    CHECK(state.position == length);
  }
  CHECK(relative_error(logits, expected) <= 1e-12);
}

}  // namespace ddl::test
