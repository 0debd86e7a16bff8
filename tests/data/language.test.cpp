// SPDX-License-Identifier: MIT
#include "ddl/data/language.hpp"

#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

using Model = DeltaTransformer<double>;

Model small_model() {
  DeltaTransformerSettings<> settings = settings_of(Variant::cc_ec);
  settings.vocabulary = 7;
  settings.context = 12;
  settings.layers = 1;
  settings.width = 8;
  settings.mixer.heads = 2;
  return Model(settings, 1);
}

/// A text that a model can learn: every token says which one follows.
std::vector<int> circle(Index size) {
  std::vector<int> text;
  for (Index n = 0; n < size; ++n) text.push_back(static_cast<int>(n * 3 % 7));
  return text;
}

}  // namespace

TEST_CASE("a Transformer learns a text by fit", "[data][language]") {
  const auto text = circle(500);
  LanguageBatches<double> batches(text, {.sequences = 4, .length = 12, .seed = 2});
  TrainingRun<Model> run(small_model(), {.learning_rate = 1e-2});
  const double before = text_loss(run.model, text, 12, 5);
  CHECK(std::abs(before - std::log(7.0)) < 0.5);
  StepReport last;
  for (const Memory memory : {Memory::training, Memory::reversible_recompute})
    fit(run, batches, {.steps = run.step + 60, .memory = memory},
        [&](const auto& seen) { last = seen.report; });
  CHECK(last.samples == 48);
  CHECK(last.accuracy > 0.9);
  CHECK(text_loss(run.model, text, 12, 5) < 0.3);
}

TEST_CASE("the loss of a text is the mean over windows side by side", "[data][language]") {
  const auto text = circle(25);
  const Model model = small_model();
  auto tape = model.make_tape();
  const auto of = [&](Index start) {
    const std::span<const int> all(text);
    const auto& logits = model.forward({all.subspan(static_cast<std::size_t>(start), 12), 12}, tape);
    Matrix<double> dlogits(7, 12);
    return softmax_cross_entropy(logits, all.subspan(static_cast<std::size_t>(start) + 1, 12), dlogits);
  };
  CHECK(std::abs(text_loss(model, text, 12, 100) - (of(0) + of(12)) / 2) <= identity_tolerance<double>);
  CHECK(std::abs(text_loss(model, text, 12, 1) - of(0)) <= identity_tolerance<double>);
  CHECK_THROWS_WITH(text_loss(model, text, 25, 1),
                    "ddl::text_loss: length is 25, expected less than 25, the number of tokens in the text");
  CHECK_THROWS_AS(text_loss(model, text, 12, 0), std::invalid_argument);
}

TEST_CASE("batches of a text go on where their state was taken", "[data][language]") {
  const auto text = circle(200);
  const LanguageBatchSettings settings{.sequences = 3, .length = 10, .seed = 5};
  LanguageBatches<double> one(text, settings), other(text, settings);
  for (int i = 0; i < 5; ++i) one.next();
  other.restore(one.state());
  one.next();
  other.next();
  CHECK(std::ranges::equal(one.inputs().tokens, other.inputs().tokens));
  CHECK(one.inputs().length == 10);
  CHECK(one.samples() == 30);
  LanguageBatches<double> shorter(text, {.sequences = 3, .length = 9});
  CHECK_THROWS_WITH(shorter.restore(one.state()), "ddl::LanguageBatches::restore: length is 9, expected 10");
  auto edited = text;
  edited[7] += 1;
  LanguageBatches<double> of_another_text(edited, settings);
  CHECK_THROWS_WITH(of_another_text.restore(one.state()),
                    Catch::Matchers::StartsWith("ddl::LanguageBatches::restore: the text's hash is "));
  CHECK_THROWS_AS(LanguageBatches<double>(text, {.sequences = 0}), std::invalid_argument);
  CHECK_THROWS_AS(LanguageBatches<double>(text, {.length = 200}), std::invalid_argument);
}
