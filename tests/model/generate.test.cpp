// SPDX-License-Identifier: MIT
#include "ddl/model/generate.hpp"

#include <algorithm>
#include <functional>
#include <span>
#include <stdexcept>
#include <vector>

#include "ddl/model/delta_transformer.hpp"
#include "support/catch.hpp"

using namespace ddl;

namespace {

using Model = DeltaTransformer<double>;

constexpr Index context = 16;
const std::vector<int> prompt = {1, 4, 2};

Model some_model() {
  DeltaTransformerSettings<> settings = settings_of(Variant::tc_ec);
  settings.vocabulary = 7;
  settings.context = context;
  settings.layers = 2;
  settings.width = 6;
  settings.value_channels = 3;
  settings.mixer.heads = 2;
  settings.mixer.head_dim = 4;
  settings.mlp.hidden = 5;
  Model model(settings, 3);
  Random random(8);
  for_each_parameter([&](const ParameterPath&, auto& p) { random.fill_normal(p, 0.7); }, model);
  return model;
}

/// The most likely next tokens, each from a forward pass over the whole text before it.
std::vector<int> by_forward(const Model& model, std::vector<int> text, Index count) {
  auto tape = model.make_tape(Memory::inference);
  std::vector<int> drawn;
  for (Index i = 0; i < count; ++i) {
    Index best = 0;
    const auto& logits = model.forward({text}, tape);
    logits.col(logits.cols() - 1).maxCoeff(&best);
    text.push_back(static_cast<int>(best));
    drawn.push_back(text.back());
  }
  return drawn;
}

/// generate with the most likely tokens, from a fresh state.
struct Greedy {
  Sampler sampler{{.temperature = 0}};
  Random random{1};
  std::vector<int> drawn;

  Index operator()(const Model& model, std::span<const int> text, Model::State& state, Index count) {
    return generate(model, text, state, sampler, random, count, [&](int token) { drawn.push_back(token); });
  }
};

}  // namespace

TEST_CASE("greedy text is what repeated forward passes give", "[model][generate]") {
  const Model model = some_model();
  auto state = model.make_state();
  Greedy greedy;
  CHECK(greedy(model, prompt, state, 8) == 8);
  const auto expected = by_forward(model, prompt, 8);
  CHECK(greedy.drawn == expected);
  CHECK(std::adjacent_find(expected.begin(), expected.end(), std::not_equal_to<>()) != expected.end());
  CHECK(state.position == 3 + 7);  // the last token is not fed back
}

TEST_CASE("a text goes on from its last token", "[model][generate]") {
  const Model model = some_model();
  auto state = model.make_state();
  Greedy greedy;
  greedy(model, prompt, state, 3);
  CHECK(greedy(model, std::vector<int>{greedy.drawn.back()}, state, 4) == 4);
  CHECK(greedy.drawn == by_forward(model, prompt, 7));
}

TEST_CASE("on_token stops the text by false", "[model][generate]") {
  const Model model = some_model();
  auto state = model.make_state();
  Sampler sampler({.temperature = 0});
  Random random(1);
  std::vector<int> drawn;
  const Index count = generate(model, prompt, state, sampler, random, 8, [&](int token) {
    drawn.push_back(token);
    return drawn.size() < 3;
  });
  CHECK(count == 3);
  CHECK(drawn == by_forward(model, prompt, 3));
  CHECK(state.position == 3 + 2);
}

TEST_CASE("a text ends where the state is full", "[model][generate]") {
  const Model model = some_model();
  Greedy greedy;
  auto state = model.make_state();
  // Drawn from the prompt and from every token after it, the last of which fills the context.
  CHECK(greedy(model, prompt, state, 100) == context - 3 + 1);
  CHECK(state.position == context);

  auto small = model.make_state(1, 3);
  Greedy again;
  CHECK(again(model, prompt, small, 100) == 1);
  CHECK(again.drawn == by_forward(model, prompt, 1));
}

TEST_CASE("a count of 0 reads the prompt alone", "[model][generate]") {
  const Model model = some_model();
  auto state = model.make_state();
  Greedy greedy;
  CHECK(greedy(model, prompt, state, 0) == 0);
  CHECK(greedy.drawn.empty());
  CHECK(state.position == 3);
}

TEST_CASE("generate refuses what it cannot continue, and the state stays as it was",
          "[model][generate][errors]") {
  const Model model = some_model();
  auto state = model.make_state(1, 4);
  Greedy greedy;
  CHECK_THROWS_WITH(greedy(model, {}, state, 1),
                    "ddl::generate: the prompt is empty, expected at least one token");
  CHECK_THROWS_WITH(greedy(model, prompt, state, -1), "ddl::generate: count is -1, expected at least 0");
  CHECK_THROWS_AS(greedy(model, std::vector<int>{1, 7}, state, 1), std::invalid_argument);
  CHECK_THROWS_WITH(
      greedy(model, std::vector<int>(5, 1), state, 1),
      "ddl::DeltaTransformer::infer: a sequence is 5 tokens long, expected at most the capacity, 4");
  auto two = model.make_state(2);
  CHECK_THROWS_WITH(greedy(model, prompt, two, 1), "ddl::generate: the state's sequences is 2, expected 1");
  CHECK(greedy.drawn.empty());
  CHECK(state.position == 0);
  greedy(model, prompt, state, 1);
  CHECK(greedy.drawn == by_forward(model, prompt, 1));
}
