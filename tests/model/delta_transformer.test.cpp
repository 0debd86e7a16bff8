// SPDX-License-Identifier: MIT
#include "ddl/model/delta_transformer.hpp"

#include <utility>
#include <vector>

#include "ddl/core/thread_pool.hpp"
#include "ddl/train/fit.hpp"
#include "ddl/train/loss.hpp"
#include "support/layer_suite.hpp"
#include "support/token_models.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

/// Each of them, one run of the test after the other.
Variant any_variant() { return GENERATE(from_range(all_variants)); }

/// Two layers, a vocabulary of 5, sizes that differ from one another. Large eps, so that differences are
/// smooth.
DeltaTransformerSettings<> tiny(Variant variant, Index width = small_width) {
  DeltaTransformerSettings<> settings = settings_of(variant);
  settings.vocabulary = 5;
  settings.context = 100;
  settings.layers = 2;
  settings.width = width;
  if (variant != Variant::vdim1) settings.value_channels = 3;
  settings.mixer.heads = 2;
  settings.mixer.head_dim = 4;
  settings.mlp.hidden = 6;
  settings.k_eps = settings.norm_eps = settings.mixer.norm_eps = 0.1;
  return settings;
}

template <class Scalar, bool>
struct Transformer : LayerBase<DeltaTransformer<Scalar>, Dynamic> {
  struct Tape {
    typename DeltaTransformer<Scalar>::Tape passes;
    std::vector<int> tokens;
  };
  static constexpr bool has_dx = false;
  DeltaTransformerSettings<> settings = tiny(Variant::tc_ec);
  Memory memory = Memory::training;

  static Index y_rows(Index) { return 5; }
  static GradientCheckSettings differences() { return {.step = 3e-4}; }
  auto make(Index width, Random& random) const {
    auto sized = settings;
    sized.width = width;
    return DeltaTransformer<Scalar>(sized, random);
  }
  void forward(const auto& part, const auto& x, auto& y, auto& tape, const ddl::Pass& pass) const {
    if (tape.tokens.empty()) {
      tape.tokens = tokens_of(x.cols());
      tape.passes = part.make_tape(memory);
    }
    y = part.forward({tape.tokens, pass.length()}, tape.passes, pass.executor);
  }
  static void backward(const auto& part, const auto&, const auto&, const auto& dy, auto&, auto& tape,
                       auto& gradient, const ddl::Pass& pass) {
    part.backward(dy, tape.passes, gradient, pass.executor);
  }
};

using InDouble = Transformer<double, false>;
using Model = DeltaTransformer<double>;

/// With parameters at random, all of them.
Model model_of(const DeltaTransformerSettings<>& settings) {
  Random random(7);
  Model model(settings, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p, 0.5); }, model);
  return model;
}

/// Batches of one text, over and over.
struct Repetition {
  std::vector<int> text = tokens_of(8, 1), targets = tokens_of(8, 2);

  void next() {}
  TokenBatch inputs() const { return {text, 4}; }
  Index samples() const { return 8; }
  template <Executor E>
  double loss(const Matrix<double>& prediction, Matrix<double>& dprediction, const E& executor) {
    return softmax_cross_entropy(prediction, targets, dprediction, executor);
  }
};

}  // namespace

TEST_CASE("the Transformer passes the suite", "[model][transformer][grad]") { check_layer<Transformer>(); }

TEST_CASE("a pass has the same bits on any number of threads", "[model][transformer][threads]") {
  const Variant variant = any_variant();
  CAPTURE(name_of(variant));
  const DeltaTransformer<float> model(tiny(variant, 48), 1);
  const std::vector<int> tokens = tokens_of(200);  // enough that products and convolutions are divided
  const TokenBatch batch{tokens, 100};
  const auto pass = [&](const auto& executor) {
    auto tape = model.make_tape();
    auto gradient = zeros_like(model);
    const Matrix<float> logits = model.forward(batch, tape, executor);
    model.backward(logits, tape, gradient, executor);
    return std::pair(logits, gradient);
  };
  const auto alone = pass(Serial{});
  for (const Index threads : {2, 3}) {
    CAPTURE(threads);
    const auto shared = pass(ThreadPool(threads));
    CHECK((shared.first == alone.first));
    for_each_parameter(
        [](const ParameterPath& path, const auto& a, const auto& b) {
          CAPTURE(path.str());
          CHECK((a == b));
        },
        shared.second, alone.second);
  }
}

TEST_CASE("the Transformer's gradients hold for every variant", "[model][transformer][grad]") {
  const Variant variant = any_variant();
  INFO(name_of(variant));
  check_differences(InDouble{{}, tiny(variant)});
}

TEST_CASE("the Transformer's gradients hold for every part", "[model][transformer][grad]") {
  const auto check = [](auto change) {
    auto settings = tiny(Variant::tc);
    change(settings);
    check_differences(InDouble{{}, settings});
  };
  SECTION("the paper's gate and value") {
    check([](auto& s) {
      s.gate = TanhGateSettings{.hidden = 3};
      s.value = LinearValueSettings{.source = ValueSource::context};
    });
  }
  SECTION("a constant value") {
    check([](auto& s) { s.value = ConstantValueSettings{2}; });
  }
  SECTION("the two controls") {
    check([](auto& s) { s.update = UpdateRule::write_only; });
    check([](auto& s) { s.update = UpdateRule::additive; });
  }
  SECTION("other compressors") {
    check([](auto& s) { s.compressor = CompressorSettings{Compression::mean}; });
    check([](auto& s) { s.compressor = CompressorSettings{Compression::channel_mix}; });
    check([](auto& s) { s.compressor = ChannelConvolutionSettings{2}; });
  }
  SECTION("half of each head rotated, without a norm of queries and keys") {
    check([](auto& s) {
      s.mixer.rope_ratio = 0.5;
      s.mixer.rope_base = 100;
      s.mixer.qk_norm = false;
    });
  }
}

TEST_CASE("gradients are the same whatever the tape keeps", "[model][transformer][grad]") {
  const Variant variant = any_variant();
  const Memory memory = GENERATE(Memory::recompute, Memory::reversible, Memory::reversible_recompute);
  CAPTURE(name_of(variant), static_cast<int>(memory));
  const auto expected = Trial(InDouble{{}, tiny(variant)}, small_width, 8).run();
  check_close(Trial(InDouble{{}, tiny(variant), memory}, small_width, 8).run(), expected, gradient_tolerance);
  check_allocations(InDouble{{}, tiny(variant), memory}, 40, 50);
}

TEST_CASE("a tape for inference gives the same logits, and has no backward pass", "[model][transformer]") {
  const Model model = model_of(tiny(Variant::cc_ec));
  Model gradient = zeros_like(model);
  const auto tokens = tokens_of(12);
  auto training = model.make_tape(), inference = model.make_tape(Memory::inference);
  const Matrix<double> logits = model.forward({tokens, 4}, training);
  CHECK(model.forward({tokens, 4}, inference) == logits);
  CHECK(inference.states.size() == 1);
  CHECK(inference.activations.size() == 1);
  CHECK_THROWS_WITH(model.backward(logits, inference, gradient),
                    "ddl::DeltaTransformer::backward: the tape is without a forward pass, or one that "
                    "backward has used up, expected that of a forward pass of this model");
}

TEST_CASE("inference continues sequences as the pass over all of them", "[model][transformer][infer]") {
  const Variant variant = any_variant();
  const UpdateRule update = GENERATE(UpdateRule::delta, UpdateRule::additive);
  const Index sequences = GENERATE(Index(1), Index(3));
  CAPTURE(name_of(variant), name_of(update), sequences);
  auto settings = tiny(variant);
  settings.update = update;
  const Model model = model_of(settings);
  check_continues_sequences(model, sequences);
}

TEST_CASE("a copy of a state is a fork, and reset begins anew", "[model][transformer][infer]") {
  const Model model = model_of(tiny(Variant::tc_ec));
  const std::vector<int> one = {1, 4, 2, 0, 3}, other = {1, 4, 2, 3, 3};
  const auto last_of = [&](const std::vector<int>& tokens) {
    auto tape = model.make_tape();
    return Matrix<double>(model.forward({tokens}, tape).rightCols(1));
  };
  auto first = model.make_state();
  for (int token : {1, 4, 2}) model.infer(token, first);
  auto second = first;
  model.infer(0, first);
  model.infer(3, second);
  CHECK(relative_error(model.infer(3, first), last_of(one)) <= 1e-12);
  CHECK(relative_error(model.infer(3, second), last_of(other)) <= 1e-12);
  first.reset();
  CHECK(first.position == 0);
  CHECK(relative_error(model.infer(other, first).rightCols(1).eval(), last_of(other)) <= 1e-12);
}

TEST_CASE("a state is its matrices and its position", "[model][transformer][infer]") {
  const Variant variant = any_variant();
  CAPTURE(name_of(variant));
  const Model model = model_of(tiny(variant));
  auto state = model.make_state(2), restored = model.make_state(2);
  model.infer(tokens_of(10), state);
  for_each_parameter([](const ParameterPath&, auto& to, const auto& from) { to = from; }, restored, state);
  restored.position = state.position;
  const Matrix<double> expected = model.infer(tokens_of(4), state);
  CHECK(model.infer(tokens_of(4), restored) == expected);
}

TEST_CASE("sequences of different lengths are passes over each of them", "[model][transformer][grad]") {
  DeltaTransformerSettings<> settings = settings_of(Variant::tc_ec);
  settings.vocabulary = 11;
  settings.context = 6;
  settings.layers = 2;
  settings.width = 4;
  settings.mixer.heads = 2;
  settings.k_eps = settings.norm_eps = 0.1;
  const Model model = model_of(settings);
  const std::vector<int> tokens = tokens_of(11);
  const std::vector<Index> offsets = {0, 1, 7, 11};
  Matrix<double> dlogits(11, 11);
  Random random(6);
  fill(random, dlogits);
  Model gradient = zeros_like(model), expected_gradient = gradient;
  auto tape = model.make_tape();
  const Matrix<double> logits = model.forward({.tokens = tokens, .offsets = offsets}, tape);
  model.backward(dlogits, tape, gradient);
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    const Index begin = offsets[s], count = offsets[s + 1] - begin;
    auto own_tape = model.make_tape();
    const auto own =
        std::span(tokens).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    CHECK(relative_error(logits.middleCols(begin, count).eval(), model.forward({own}, own_tape)) <= 1e-12);
    model.backward(dlogits.middleCols(begin, count), own_tape, expected_gradient);
  }
  for_each_parameter(
      [](const ParameterPath& path, const auto& g, const auto& expected) {
        INFO(path.str());
        CHECK(relative_error(g, expected) <= 1e-12);
      },
      gradient, expected_gradient);

  const auto refused = [&](const TokenBatch& batch, const std::string& message) {
    CHECK_THROWS_WITH(model.forward(batch, tape), message);
  };
  const std::vector<Index> short_of = {0, 1, 7, 10}, too_long = {0, 1, 8, 11};
  refused(
      {.tokens = tokens, .offsets = short_of},
      "ddl::DeltaTransformer::forward: offsets is from 0 to 10, expected from 0 to the batch's 11 tokens");
  refused({.tokens = tokens, .offsets = too_long},
          "ddl::DeltaTransformer::forward: a sequence is 7 tokens long, expected at most the context, 6");
  refused({.tokens = tokens, .length = 1, .offsets = offsets},
          "ddl::TokenBatch: the length is 1 beside offsets, expected one of the two");
}

TEST_CASE("a tape keeps nothing of the passes before", "[model][transformer][grad]") {
  const Variant variant = any_variant();
  INFO(name_of(variant));
  const Model model = model_of(tiny(variant));
  const auto gradient_of = [&](const std::vector<int>& tokens, Index length, Model::Tape& tape) {
    Model gradient = zeros_like(model);
    const Matrix<double> logits = model.forward({tokens, length}, tape);
    model.backward(logits, tape, gradient);
    return gradient;
  };
  auto used = model.make_tape();
  gradient_of(tokens_of(12), 6, used);
  gradient_of(tokens_of(8), 4, used);
  auto unused = model.make_tape();
  const std::vector<int> others = {4, 4, 0, 3, 1, 2, 4, 0};  // as many as before
  const Model given = gradient_of(others, 2, used), expected = gradient_of(others, 2, unused);
  for_each_parameter(
      [](const ParameterPath& path, const auto& p, const auto& q) {
        INFO(path.str());
        CHECK(p == q);
      },
      given, expected);
}

TEST_CASE("padding that the loss ignores changes nothing", "[model][transformer][grad]") {
  const Variant variant = any_variant();
  INFO(name_of(variant));
  const Model model = model_of(tiny(variant));
  const std::vector<int> shorter = {1, 3, 2}, longer = {4, 0, 0, 2, 1},
                         padded = {1, 3, 2, 4, 4, 4, 0, 0, 2, 1};
  const std::vector<int> to_shorter = {3, 2, 0}, to_longer = {0, 0, 2, 1, 1},
                         to_padded = {3, 2, 0, ignored_label, ignored_label, 0, 0, 2, 1, 1};
  auto tape = model.make_tape();
  Model together = zeros_like(model), apart = zeros_like(model);
  const auto add = [&](const TokenBatch& batch, const std::vector<int>& targets, double share,
                       Model& gradient) {
    Matrix<double> dlogits = model.forward(batch, tape);
    const double loss = softmax_cross_entropy(tape.logits, targets, dlogits);
    model.backward(dlogits * share, tape, gradient);
    return loss * share;
  };
  const double loss = add({padded, 5}, to_padded, 1, together);
  const double sum = add({shorter}, to_shorter, 3.0 / 8, apart) + add({longer}, to_longer, 5.0 / 8, apart);
  CHECK(std::abs(loss - sum) <= identity_tolerance<double>);
  for_each_parameter(
      [](const ParameterPath& path, const auto& p, const auto& q) {
        INFO(path.str());
        CHECK(error(p, q) <= derivative_tolerance<double>);
        CHECK_FALSE(q.isZero(0));
      },
      together, apart);
}

TEST_CASE("parameters are named by parts, whichever was chosen", "[model][transformer]") {
  auto settings = tiny(Variant::tc_ec);
  settings.layers = 1;
  const Model model(settings);
  std::string names;
  for_each_parameter([&](const ParameterPath& path, const auto&) { names += path.str() + "\n"; }, model);
  CHECK(names ==
        "embedding.weight\nexpansion.weight\n"
        "layers.0.compressor.weight\nlayers.0.compressor.read\nlayers.0.mixer.norm.weight\n"
        "layers.0.mixer.sublayer.c_q.weight\nlayers.0.mixer.sublayer.c_k.weight\n"
        "layers.0.mixer.sublayer.c_v.weight\nlayers.0.mixer.sublayer.c_proj.weight\n"
        "layers.0.mixer.sublayer.q_rms.weight\nlayers.0.mixer.sublayer.k_rms.weight\n"
        "layers.0.mixer.gate.out.weight\nlayers.0.mixer.gate.out.bias\n"
        "layers.0.mixer.value.projection.weight\nlayers.0.mixer.value.projection.bias\n"
        "layers.0.mlp.norm.weight\n"
        "layers.0.mlp.sublayer.c_fc1.weight\nlayers.0.mlp.sublayer.c_fc2.weight\n"
        "layers.0.mlp.sublayer.c_proj.weight\n"
        "layers.0.mlp.gate.out.weight\nlayers.0.mlp.gate.out.bias\n"
        "layers.0.mlp.value.projection.weight\nlayers.0.mlp.value.projection.bias\n"
        "readout.weight\nreadout.read\nnorm.weight\n");
}

TEST_CASE("output projections start smaller by the square root of the number of layers",
          "[model][transformer]") {
  auto settings = tiny(Variant::cc);
  settings.layers = 1;
  const Model one(settings, 1);
  settings.layers = 4;
  const Model four(settings, 1);
  for_each_parameter(
      [](const ParameterPath& path, const auto& p, const auto& q) {
        INFO(path.str());
        const bool projects = path.str().find("c_proj") != std::string::npos;
        CHECK(p == (projects ? 0.5 : 1.0) * q);
      },
      four.layers[0], one.layers[0]);
}

TEST_CASE("the settings of numbers reach every part", "[model][transformer]") {
  auto settings = tiny(Variant::tc);
  settings.norm_eps = 0.25;
  settings.mixer.norm_eps = 0.5;
  settings.k_eps = 0.75;
  const Model model(settings);
  CHECK(model.norm.eps == 0.25);
  for (const auto& layer : model.layers) {
    CHECK(layer.mixer.norm.eps == 0.25);
    CHECK(layer.mlp.norm.eps == 0.25);
    CHECK(layer.mixer.k_eps == 0.75);
    CHECK(layer.mlp.k_eps == 0.75);
    CHECK(layer.mixer.sublayer.q_rms.eps == 0.5);
    CHECK(layer.mixer.sublayer.k_rms.eps == 0.5);
  }
}

TEST_CASE("the two controls are a setting", "[model][transformer]") {
  auto settings = tiny(Variant::cc_ec);
  for (const UpdateRule update : {UpdateRule::delta, UpdateRule::write_only, UpdateRule::additive}) {
    settings.update = update;
    const auto check = [&](const auto& block) {
      CHECK(block.update == update);
      CHECK(block.gate.has_value() == (update != UpdateRule::additive));
      CHECK(block.value.has_value() == (update != UpdateRule::additive));
    };
    const Model model(settings);
    for (const auto& layer : model.layers) {
      check(layer.mixer);
      check(layer.mlp);
    }
  }
}

TEST_CASE("the Transformer trains by fit", "[model][transformer]") {
  TrainingRun run(Model(tiny(Variant::cc_ec), 1), {.learning_rate = 1e-2});
  Repetition data;
  const double first = fit(run, data, {.steps = 1}).last.loss;
  CHECK(first > 1);
  CHECK(fit(run, data, {.steps = 60}).last.loss < 0.5 * first);
}

TEST_CASE("the Transformer refuses what does not fit", "[model][transformer][errors]") {
  const auto message = [](auto change) {
    auto settings = tiny(Variant::cc);
    change(settings);
    try {
      Model model(settings);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  CHECK(message([](auto& s) { s.vocabulary = 0; }) ==
        "ddl::TokenEmbedding: vocabulary is 0, expected at least 1");
  CHECK(message([](auto& s) { s.context = 0; }) ==
        "ddl::DeltaTransformer: context is 0, expected at least 1");
  CHECK(message([](auto& s) { s.layers = -1; }) ==
        "ddl::DeltaTransformer: layers is -1, expected at least 0");
  CHECK(message([](auto& s) { s.compressor = ChannelConvolutionSettings{4}; }) ==
        "ddl::ChannelConvolutionCompressor: kernel is 4, expected 1 to the 3 value channels");
  CHECK(message([](auto& s) { s.mixer.head_dim = 5; }) ==
        "ddl::CausalSelfAttention: head_dim is 5, expected an even number, or a rope_ratio of 0");

  auto settings = tiny(Variant::tc_ec);
  settings.context = 6;
  const Model model = model_of(settings);
  auto tape = model.make_tape();
  const auto tokens = tokens_of(14);
  CHECK_THROWS_WITH(
      model.forward({tokens}, tape),
      "ddl::DeltaTransformer::forward: a sequence is 14 tokens long, expected at most the context, 6");
  CHECK_THROWS_WITH(
      model.forward({tokens, 4}, tape),
      "ddl::DeltaTransformer::forward: the length of a sequence is 4, expected a divisor of the "
      "batch's 14 tokens");
  const std::vector<int> wrong = {1, 5};
  CHECK_THROWS_WITH(model.forward({wrong}, tape),
                    "ddl::TokenEmbedding::forward: token 1 is 5, expected 0 to 4");
  Model gradient = zeros_like(model);
  model.forward({tokens, 2}, tape);
  CHECK_THROWS_WITH(model.backward(Matrix<double>(5, 13), tape, gradient),
                    "ddl::DeltaTransformer::backward: dlogits is 5 x 13, expected 5 x 14");

  CHECK_THROWS_WITH(model.make_state(1, 0),
                    "ddl::DeltaTransformer::make_state: capacity is 0, expected 1 to the context, 6");
  CHECK_THROWS_WITH(model.make_state(1, 7),
                    "ddl::DeltaTransformer::make_state: capacity is 7, expected 1 to the context, 6");
  auto state = model.make_state(1, 2);
  CHECK_THROWS_WITH(model.infer(-1, state), "ddl::TokenEmbedding::forward: token 0 is -1, expected 0 to 4");
  model.infer(1, state);
  model.infer(1, state);
  CHECK_THROWS_WITH(
      model.infer(1, state),
      "ddl::DeltaTransformer::infer: a sequence is 3 tokens long, expected at most the capacity, 2");
}
