// SPDX-License-Identifier: MIT
/// @file  Generation of text, token by token.
#pragma once

#include <concepts>
#include <span>

#include "ddl/core/pass.hpp"
#include "ddl/model/sampling.hpp"

namespace ddl {

/// Continues the sequence of `state` by the prompt and then by at most `count` sampled tokens. Calls
/// on_token(token) for each of them as soon as it is drawn; on_token may return false to stop. Ends early
/// where the capacity of the state is reached. Every drawn token but the last has been fed back: to go on,
/// give the last one as the next prompt.
///
///     auto state = model.make_state();
///     ddl::Sampler sampler({.temperature = 0.8});
///     ddl::Random random(1);
///     ddl::generate(model, prompt, state, sampler, random, 200, [](int token) { print(token); });
///
/// @return the number of tokens drawn. @throws std::invalid_argument if the prompt is empty, has a token that
/// is not in the vocabulary, or does not fit the capacity; the state is left as it was.
template <class Model, class OnToken>
Index generate(const Model& model, std::span<const int> prompt, typename Model::State& state,
               Sampler& sampler, Random& random, Index count, OnToken&& on_token,
               const ExecutorRef& executor = {}) {
  constexpr const char* where = "ddl::generate";
  if (prompt.empty()) fail(where, "the prompt", "empty", "at least one token");
  if (count < 0) fail(where, "count", std::to_string(count), "at least 0");
  if (state.sequences != 1) fail(where, "the state's sequences", std::to_string(state.sequences), "1");
  const auto* logits = &model.infer(prompt, state, executor);
  Index drawn = 0;
  while (drawn < count) {
    const int token = sampler(logits->col(logits->cols() - 1), random);
    ++drawn;
    if constexpr (std::same_as<decltype(on_token(token)), bool>) {
      if (!on_token(token)) break;
    } else {
      on_token(token);
    }
    if (drawn == count || state.position == state.capacity) break;
    logits = &model.infer(token, state, executor);
  }
  return drawn;
}

}  // namespace ddl
