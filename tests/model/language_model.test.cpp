// SPDX-License-Identifier: MIT
#include "ddl/model/language_model.hpp"

#include <string>
#include <utility>
#include <vector>

#include "ddl/core/thread_pool.hpp"
#include "support/layer_suite.hpp"
#include "support/token_models.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

namespace {

using Model = LanguageModel<double>;

const std::vector<std::string> mixers = {"attention", "delta_net", "gated_delta_net", "gated_delta_product"};

/// Sizes that differ from one another, and large eps so that differences are smooth.
LanguageModelSettings::Mixer mixer_settings(const std::string& mixer) {
  if (mixer == "attention") return AttentionSettings{.heads = 2, .head_dim = 4, .norm_eps = 0.1};
  const bool gated = mixer != "delta_net";
  return DeltaRuleSettings{.heads = 2,
                           .value_heads = gated ? 4 : 2,
                           .head_dim = 3,
                           .value_dim = 2,
                           .edits = mixer == "gated_delta_product" ? 2 : 1,
                           .negative_eigenvalues = gated,
                           .decay = gated,
                           .output_gate = gated,
                           .convolution = 3,
                           .norm_eps = 0.1};
}

LanguageModelSettings tiny(const std::string& mixer, Variant variant = Variant::vdim1) {
  auto settings = settings_of<LanguageModelSettings::Mixer>(variant);
  settings.vocabulary = 5;
  settings.context = 100;
  settings.layers = 2;
  settings.width = small_width;
  if (variant != Variant::vdim1) settings.value_channels = 3;
  settings.mixer = mixer_settings(mixer);
  settings.mlp.hidden = 6;
  settings.k_eps = settings.norm_eps = 0.1;
  return settings;
}

/// A model of flash-linear-attention: plain residuals, one value channel.
LanguageModelSettings plain(const std::string& mixer, bool tied = false) {
  auto settings = tiny(mixer);
  settings.update = UpdateRule::additive;
  settings.tie_embeddings = tied;
  return settings;
}

struct Layer : LayerBase<Model, Dynamic> {
  struct Tape {
    Model::Tape passes;
    std::vector<int> tokens;
  };
  static constexpr bool has_dx = false;
  LanguageModelSettings settings;

  explicit Layer(const LanguageModelSettings& settings_) : settings(settings_) {}
  static Index y_rows(Index) { return 5; }
  /// The gradients under a plain residual are larger and less smooth: truncation sets the step there,
  /// rounding elsewhere.
  GradientCheckSettings differences() const {
    return {.step = settings.update == UpdateRule::additive ? 1e-4 : 3e-4};
  }
  auto make(Index width, Random& random) const {
    auto sized = settings;
    sized.width = width;
    return Model(sized, random);
  }
  static void forward(const Model& model, const auto& x, auto& y, Tape& tape, const ddl::Pass& pass) {
    if (tape.tokens.empty()) {
      tape.tokens = tokens_of(x.cols());
      tape.passes = model.make_tape();
    }
    y = model.forward({tape.tokens, pass.length()}, tape.passes, pass.executor);
  }
  static void backward(const Model& model, const auto&, const auto&, const auto& dy, auto&, Tape& tape,
                       Model& gradient, const ddl::Pass& pass) {
    model.backward(dy, tape.passes, gradient, pass.executor);
  }
};

/// With parameters at random, all of them.
Model model_of(const LanguageModelSettings& settings) {
  Random random(7);
  Model model(settings, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p, 0.5); }, model);
  return model;
}

template <class M>
std::string names_of(const M& model) {
  std::string names;
  for_each_parameter([&](const ParameterPath& path, const auto&) { names += path.str() + "\n"; }, model);
  return names;
}

}  // namespace

TEST_CASE("gradients hold for every mixer under every residual", "[model][language_model][grad]") {
  const std::string mixer = GENERATE(from_range(mixers));
  CAPTURE(mixer);
  SECTION("plain, the head its own") { check_differences(Layer{plain(mixer)}); }
  SECTION("plain, the head tied") { check_differences(Layer{plain(mixer, true)}); }
  SECTION("the paper's, over depth") { check_differences(Layer{tiny(mixer, Variant::tc_ec)}); }
}

TEST_CASE("inference continues sequences with every mixer", "[model][language_model][infer]") {
  const std::string mixer = GENERATE(from_range(mixers));
  const bool over_depth = GENERATE(false, true);
  const Index sequences = GENERATE(Index(1), Index(3));
  CAPTURE(mixer, over_depth, sequences);
  const Model model = model_of(over_depth ? tiny(mixer, Variant::tc_ec) : plain(mixer));
  check_continues_sequences(model, sequences);
}

namespace {

/// The logits of one sequence, of its tokens from the `first` on, as the pass over all of it gives them.
Matrix<double> logits_of(const Model& model, const std::vector<int>& sequence, std::size_t first) {
  auto tape = model.make_tape();
  return model.forward({sequence}, tape).rightCols(static_cast<Index>(sequence.size() - first));
}

std::vector<int> joined(const std::vector<std::vector<int>>& runs) {
  std::vector<int> all;
  for (const auto& run : runs) all.insert(all.end(), run.begin(), run.end());
  return all;
}

}  // namespace

TEST_CASE("a draft of which a model takes tokens back leaves no trace of them",
          "[model][language_model][infer]") {
  const std::string mixer = GENERATE("attention", "delta_net", "delta_product");
  const bool over_depth = GENERATE(false, true), at_once = GENERATE(false, true);
  CAPTURE(mixer, over_depth, at_once);
  auto settings = over_depth ? tiny("attention", Variant::tc_ec) : plain("attention");
  if (mixer != "attention")
    settings.mixer = DeltaRuleSettings{.heads = 2,
                                       .value_heads = 4,
                                       .head_dim = 3,
                                       .value_dim = 2,
                                       .edits = mixer == "delta_net" ? 1 : 2,
                                       .negative_eigenvalues = mixer == "delta_product",
                                       .convolution = 3,
                                       .norm_eps = 0.1};
  const Model model = model_of(settings);
  constexpr Index sequences = 2;
  std::vector<std::vector<int>> accepted(sequences);
  auto state = model.make_state(sequences, 80, 6);
  // As many tokens of each sequence; the last logits of each are those of a pass over all tokens that were
  // accepted.
  const auto infer = [&](Index count, int seed) {
    std::vector<std::vector<int>> runs;
    for (std::size_t s = 0; s < accepted.size(); ++s) {
      runs.push_back(tokens_of(count, seed + static_cast<int>(s)));
      accepted[s] = joined({accepted[s], runs[s]});
    }
    if (at_once) {
      model.infer(joined(runs), state);
    } else {
      for (std::size_t n = 0; n < std::size_t(count); ++n)
        model.infer(std::vector{runs[0][n], runs[1][n]}, state);
    }
    const Index of_each = state.logits.cols() / sequences;
    for (Index s = 0; s < sequences; ++s) {
      const auto& sequence = accepted[std::size_t(s)];
      const Matrix<double> last = state.logits.middleCols(s * of_each, of_each);
      CHECK(relative_error(last, logits_of(model, sequence, sequence.size() - std::size_t(of_each))) <=
            1e-12);
    }
  };
  const auto roll_back = [&](Index count) {
    model.roll_back(state, count);
    for (auto& sequence : accepted) sequence.resize(sequence.size() - std::size_t(count));
    CHECK(state.position == static_cast<Index>(accepted[0].size()));
  };
  infer(1, 1);
  roll_back(1);  // back to the start
  infer(9, 2);
  infer(4, 3);
  roll_back(3);
  infer(4, 5);
  roll_back(0);
  roll_back(2);
  roll_back(3);  // past the run before
  CHECK(state.recent == 1);
  infer(7, 7);
  CHECK(state.recent == 6);
  roll_back(6);
  infer(2, 8);
  CHECK_THROWS_WITH(
      model.roll_back(state, 3),
      "ddl::DeltaTransformer::roll_back: tokens is 3, expected from 0 to the 2 that a state with a "
      "rollback of 6 can take back now");
  infer(1, 9);
  auto fork = state;
  state.reset();
  CHECK_THROWS_WITH(model.roll_back(state, 1), ContainsSubstring("from 0 to the 0 that a state"));
  model.roll_back(fork, 3);
  CHECK(fork.position == static_cast<Index>(accepted[0].size()) - 3);
}

TEST_CASE("what a model cannot take back is refused", "[model][language_model][infer][errors]") {
  const Model model = model_of(plain("delta_net")), other = model_of(plain("attention"));
  auto state = model.make_state();
  model.infer(1, state);
  CHECK_THROWS_WITH(model.roll_back(state, 1),
                    ContainsSubstring("tokens is 1, expected from 0 to the 0 that a state "
                                      "with a rollback of 0 can take back now"));
  CHECK_THROWS_WITH(model.roll_back(state, -1), ContainsSubstring("tokens is -1, expected from 0"));
  CHECK_THROWS_WITH(other.roll_back(state, 0),
                    ContainsSubstring("ddl::DeltaTransformer::roll_back: the state is "));
  CHECK_THROWS_WITH(model.make_state(1, {}, -1),
                    "ddl::DeltaTransformer::make_state: rollback is -1, expected at least 0");
  CHECK_THROWS_WITH(model_of(plain("gated_delta_net")).make_state(1, {}, 2),
                    ContainsSubstring("rollback is 2, expected 0 with decay"));
}

TEST_CASE("prompts of different lengths are continued side by side", "[model][language_model][infer]") {
  const std::string mixer = GENERATE(from_range(mixers));
  const bool over_depth = GENERATE(false, true);
  CAPTURE(mixer, over_depth);
  const Model model = model_of(over_depth ? tiny(mixer, Variant::tc_ec) : plain(mixer));
  std::vector<std::vector<int>> all(3);
  auto state = model.make_state(3, 90);
  const auto infer = [&](const std::vector<Index>& lengths, int seed) {
    std::vector<std::vector<int>> runs;
    std::vector<Index> offsets = {0};
    for (std::size_t s = 0; s < 3; ++s) {
      runs.push_back(tokens_of(lengths[s], seed + static_cast<int>(s)));
      all[s] = joined({all[s], runs[s]});
      offsets.push_back(offsets.back() + lengths[s]);
    }
    const std::vector<int> tokens = joined(runs);
    const bool even = lengths[0] == lengths[1] && lengths[1] == lengths[2];
    const Matrix<double> logits = even ? model.infer(tokens, state)
                                       : model.infer(TokenBatch{.tokens = tokens, .offsets = offsets}, state);
    for (std::size_t s = 0; s < 3; ++s) {
      CAPTURE(s, seed);
      const Matrix<double> own = logits.middleCols(offsets[s], lengths[s]);
      CHECK(relative_error(own, logits_of(model, all[s], all[s].size() - runs[s].size())) <= 1e-12);
      CHECK(state.position - state.behind[s] == static_cast<Index>(all[s].size()));
    }
  };
  for (int again = 0; again < 2; ++again) {
    infer({5, 1, 70}, 1);
    infer({1, 1, 1}, 2);
    infer({4, 9, 2}, 3);
    infer({3, 3, 3}, 4);
    CHECK(state.position == 76);
    CHECK(state.behind == std::vector<Index>{63, 62, 0});
    auto full = state;
    const std::vector<int> tokens = tokens_of(17);
    const std::vector<Index> fit = {0, 1, 3, 17}, too_long = {0, 1, 2, 17};
    CHECK_THROWS_WITH(
        model.infer(TokenBatch{.tokens = tokens, .offsets = too_long}, full),
        "ddl::DeltaTransformer::infer: a sequence is 91 tokens long, expected at most the capacity, 90");
    CHECK(full.position == 76);
    model.infer(TokenBatch{.tokens = tokens, .offsets = fit}, full);
    CHECK(full.position == 90);
    state.reset();
    all.assign(3, {});
  }
  const std::vector<int> tokens = tokens_of(6);
  const std::vector<Index> two = {0, 2, 6};
  CHECK_THROWS_WITH(
      model.infer(TokenBatch{.tokens = tokens, .offsets = two}, state),
      "ddl::DeltaTransformer::infer: the number of sequences is 2, expected that of the state, 3");
  CHECK_THROWS_WITH(model.infer(TokenBatch{.tokens = tokens}, state),
                    ContainsSubstring("the number of sequences is 1, expected that of the state, 3"));
  CHECK(state.position == 0);
}

TEST_CASE("tokens are taken back from sequences of different lengths", "[model][language_model][infer]") {
  const std::string mixer = GENERATE("attention", "delta_net");
  CAPTURE(mixer);
  const Model model = model_of(tiny(mixer, Variant::tc_ec));
  const std::vector<int> tokens = tokens_of(9);
  const std::vector<Index> offsets = {0, 2, 9};
  auto state = model.make_state(2, 20, 4), expected = model.make_state(2, 20);
  model.infer(TokenBatch{.tokens = tokens, .offsets = offsets}, state);
  model.infer(TokenBatch{.tokens = tokens, .offsets = offsets}, expected);
  CHECK(state.recent == 2);
  model.infer(std::vector{1, 2}, state);
  model.roll_back(state, 1);
  CHECK(relative_error(model.infer(std::vector{3, 4}, state), model.infer(std::vector{3, 4}, expected)) <=
        1e-12);
  CHECK(state.recent == 3);
}

TEST_CASE("every mixer gives the same bits on any number of threads", "[model][language_model][threads]") {
  const std::string mixer = GENERATE(from_range(mixers));
  CAPTURE(mixer);
  auto settings = plain(mixer);
  settings.width = 48;
  const Model model(settings, 1);
  const std::vector<int> tokens = tokens_of(200);
  const auto pass = [&](const auto& executor) {
    auto tape = model.make_tape();
    auto gradient = zeros_like(model);
    const Matrix<double> logits = model.forward({tokens, 100}, tape, executor);
    model.backward(logits, tape, gradient, executor);
    return std::pair(logits, gradient);
  };
  const auto alone = pass(Serial{});
  for (const Index threads : {2, 3}) {
    CAPTURE(threads);
    const auto shared = pass(ThreadPool(threads));
    CHECK(shared.first == alone.first);
    for_each_parameter(
        [](const ParameterPath& path, const auto& a, const auto& b) {
          CAPTURE(path.str());
          CHECK(a == b);
          CHECK_FALSE(a.isZero(0));
        },
        shared.second, alone.second);
  }
}

TEST_CASE("a mixer that is chosen computes what it computes alone", "[model][language_model]") {
  DeltaTransformerSettings<> settings = settings_of(Variant::tc_ec);
  settings.vocabulary = 5;
  settings.layers = 2;
  settings.width = 8;
  settings.mixer = {.heads = 2};
  auto chosen_settings = settings_of<LanguageModelSettings::Mixer>(Variant::tc_ec);
  chosen_settings.vocabulary = 5;
  chosen_settings.layers = 2;
  chosen_settings.width = 8;
  chosen_settings.mixer = settings.mixer;
  const DeltaTransformer<double> alone(settings, 3);
  const Model chosen(chosen_settings, 3);
  CHECK(names_of(chosen) == names_of(alone));
  const auto tokens = tokens_of(12);
  auto tape = alone.make_tape();
  auto chosen_tape = chosen.make_tape();
  CHECK(chosen.forward({tokens}, chosen_tape) == alone.forward({tokens}, tape));
}

TEST_CASE("a plain model has no parameters but those of its mixer, MLP, norms and head",
          "[model][language_model]") {
  auto settings = plain("gated_delta_product");
  settings.layers = 1;
  const std::string tied =
      "embedding.weight\n"
      "layers.0.mixer.norm.weight\n"
      "layers.0.mixer.sublayer.q_proj.weight\nlayers.0.mixer.sublayer.k_proj.weight\n"
      "layers.0.mixer.sublayer.v_proj.weight\nlayers.0.mixer.sublayer.q_conv1d.weight\n"
      "layers.0.mixer.sublayer.k_conv1d.weight\nlayers.0.mixer.sublayer.v_conv1d.weight\n"
      "layers.0.mixer.sublayer.b_proj.weight\nlayers.0.mixer.sublayer.a_proj.weight\n"
      "layers.0.mixer.sublayer.A_log\nlayers.0.mixer.sublayer.dt_bias\n"
      "layers.0.mixer.sublayer.g_proj.weight\nlayers.0.mixer.sublayer.o_norm.weight\n"
      "layers.0.mixer.sublayer.o_proj.weight\n"
      "layers.0.mlp.norm.weight\n"
      "layers.0.mlp.sublayer.c_fc1.weight\nlayers.0.mlp.sublayer.c_fc2.weight\n"
      "layers.0.mlp.sublayer.c_proj.weight\n"
      "norm.weight\n";
  CHECK(names_of(Model(settings)) == tied + "head.weight\n");
  settings.tie_embeddings = true;
  CHECK(names_of(Model(settings)) == tied);
}

TEST_CASE("a LanguageModel refuses tapes, states and gradients of another mixer",
          "[model][language_model][errors]") {
  const Model attention = model_of(plain("attention")), delta = model_of(plain("delta_net"));
  const auto tokens = tokens_of(6);
  auto tape = attention.make_tape();
  CHECK_THROWS_AS(delta.forward({tokens}, tape), std::invalid_argument);
  auto state = attention.make_state();
  CHECK_THROWS_AS(delta.infer(1, state), std::invalid_argument);
  const Matrix<double> logits = attention.forward({tokens}, tape);
  Model gradient = zeros_like(delta);
  CHECK_THROWS_WITH(
      attention.backward(logits, tape, gradient),
      "ddl::DeltaTransformer::backward: the gradient's layers.0.mixer.sublayer is alternative 1, "
      "expected alternative 0");
  Model untied = zeros_like(attention);
  untied.head = {};
  CHECK_THROWS_WITH(attention.backward(logits, tape, untied),
                    "ddl::DeltaTransformer::backward: the gradient's head.weight is 0 x 0, expected 5 x " +
                        std::to_string(small_width));
}
