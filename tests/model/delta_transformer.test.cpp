// SPDX-License-Identifier: MIT
#include "ddl/model/delta_transformer.hpp"

#include <utility>
#include <vector>

#include "ddl/core/thread_pool.hpp"
#include "ddl/train/fit.hpp"
#include "ddl/train/loss.hpp"
#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

/// Each of them, one run of the test after the other.
Variant any_variant() { return GENERATE(from_range(all_variants)); }

std::vector<int> tokens_of(Index count, int seed = 3) {
  std::vector<int> tokens(static_cast<std::size_t>(count));
  for (std::size_t n = 0; n < tokens.size(); ++n) tokens[n] = static_cast<int>(n * n + std::size_t(seed)) % 5;
  return tokens;
}

/// Two layers, a vocabulary of 5, sizes that differ from one another. Large eps, so that differences are smooth.
DeltaTransformerSettings tiny(Variant variant, Index width = small_width) {
  DeltaTransformerSettings settings = settings_of(variant);
  settings.vocabulary = 5;
  settings.context = 100;
  settings.layers = 2;
  settings.width = width;
  if (variant != Variant::vdim1) settings.value_channels = 3;
  settings.attention.heads = 2;
  settings.attention.head_dim = 4;
  settings.mlp.hidden = 6;
  settings.k_eps = settings.norm_eps = settings.attention.norm_eps = 0.1;
  return settings;
}

template <class Scalar, bool>
struct Transformer : LayerBase<DeltaTransformer<Scalar>, Dynamic> {
  struct Cache {
    typename DeltaTransformer<Scalar>::Cache passes;
    std::vector<int> tokens;
  };
  static constexpr bool has_dx = false;
  DeltaTransformerSettings settings = tiny(Variant::tc_ec);
  Memory memory = Memory::training;

  static Index y_rows(Index) { return 5; }
  static GradientCheckSettings differences() { return {.step = 3e-4}; }
  auto make(Index width, Random& random) const {
    auto sized = settings;
    sized.width = width;
    return DeltaTransformer<Scalar>(sized, random);
  }
  static TokenBatch batch_of(const auto& cache) {
    const auto count = static_cast<Index>(cache.tokens.size());
    return {cache.tokens, count % 2 == 0 ? count / 2 : 0};
  }
  void forward(const auto& part, const auto& x, auto& y, auto& cache, const Order& order) const {
    if (cache.tokens.empty()) {
      cache.tokens = tokens_of(x.cols());
      cache.passes = part.make_cache(x.cols(), memory);
    }
    y = part.forward(batch_of(cache), cache.passes, order);
  }
  void backward(const auto& part, const auto&, const auto&, auto& cache, const auto& dy, auto&,
                auto& gradient, const Order& order) const {
    part.backward(batch_of(cache), dy, cache.passes, gradient, order);
  }
};

using InDouble = Transformer<double, false>;
using Model = DeltaTransformer<double>;

/// With parameters at random, all of them.
Model model_of(const DeltaTransformerSettings& settings) {
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
  double loss(const Matrix<double>& prediction, Matrix<double>& slope, const E& executor) {
    return softmax_cross_entropy(prediction, targets, slope, executor);
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
    auto cache = model.make_cache();
    auto gradient = zeros_like(model);
    const Matrix<float> logits = model.forward(batch, cache, executor);
    model.backward(batch, logits, cache, gradient, executor);
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
    check([](auto& s) { s.rewrite = Rewrite::write_only; });
    check([](auto& s) { s.rewrite = Rewrite::additive; });
  }
  SECTION("other compressors") {
    check([](auto& s) { s.compressor = CompressorSettings{Compression::mean}; });
    check([](auto& s) { s.compressor = CompressorSettings{Compression::channel_mix}; });
    check([](auto& s) { s.compressor = ChannelConvolutionSettings{2}; });
  }
  SECTION("half of each head rotated, without a norm of queries and keys") {
    check([](auto& s) {
      s.attention.rope_ratio = 0.5;
      s.attention.rope_base = 100;
      s.attention.qk_norm = false;
    });
  }
}

TEST_CASE("gradients are the same whatever the cache keeps", "[model][transformer][grad]") {
  const Variant variant = any_variant();
  const Memory memory = GENERATE(Memory::recompute, Memory::rewind, Memory::rewind_recompute);
  CAPTURE(name_of(variant), static_cast<int>(memory));
  const auto expected = Pass(InDouble{{}, tiny(variant)}, small_width, 8).run();
  check_close(Pass(InDouble{{}, tiny(variant), memory}, small_width, 8).run(), expected, gradient_tolerance);
  check_allocations(InDouble{{}, tiny(variant), memory}, 40, 50);
}

TEST_CASE("a cache for inference gives the same logits, and cannot be gone back through",
          "[model][transformer]") {
  const Model model = model_of(tiny(Variant::cc_ec));
  Model gradient = zeros_like(model);
  const auto tokens = tokens_of(12);
  auto training = model.make_cache(), inference = model.make_cache(12, Memory::inference);
  const Matrix<double> logits = model.forward({tokens, 4}, training);
  CHECK(model.forward({tokens, 4}, inference) == logits);
  CHECK(inference.states.size() == 1);
  CHECK(inference.activations.size() == 1);
  auto decoder = model.make_decoder();
  for (auto* cache : {&inference, &decoder.cache})
    CHECK_THROWS_WITH(
        model.backward({tokens, 4}, logits, *cache, gradient),
        "ddl::DeltaTransformer::backward: the cache is made for inference, expected one made for training");
}

TEST_CASE("decoding a token at a time is the pass over all, and allocates nothing after the first",
          "[model][transformer][decoding]") {
  const Variant variant = any_variant();
  const Rewrite rewrite = GENERATE(Rewrite::delta, Rewrite::additive);
  CAPTURE(name_of(variant), name_of(rewrite));
  auto settings = tiny(variant);
  settings.rewrite = rewrite;
  const Model model = model_of(settings);
  const auto tokens = tokens_of(90);  // more than a block of attention
  auto cache = model.make_cache();
  const Matrix<double> expected = model.forward({tokens}, cache);
  Matrix<double> logits(5, 90);
  auto decoder = model.make_decoder(90);
  logits.col(0) = model.decode(tokens[0], decoder);
  CHECK(allocations_in([&] {
          for (Index n = 1; n < 90; ++n) logits.col(n) = model.decode(tokens[std::size_t(n)], decoder);
        }) == 0);
  CHECK(relative_error(logits, expected) <= 1e-12);
  CHECK(decoder.count == 90);
}

TEST_CASE("a copy of a decoder goes on on its own", "[model][transformer][decoding]") {
  const Model model = model_of(tiny(Variant::tc_ec));
  const std::vector<int> one = {1, 4, 2, 0, 3}, other = {1, 4, 2, 3, 3};
  const auto last_of = [&](const std::vector<int>& tokens) {
    auto cache = model.make_cache();
    return Matrix<double>(model.forward({tokens}, cache).rightCols(1));
  };
  auto first = model.make_decoder();
  for (int token : {1, 4, 2}) model.decode(token, first);
  auto second = first;
  model.decode(0, first);
  model.decode(3, second);
  CHECK(relative_error(model.decode(3, first), last_of(one)) <= 1e-12);
  CHECK(relative_error(model.decode(3, second), last_of(other)) <= 1e-12);
}

TEST_CASE("padding that the loss ignores changes nothing", "[model][transformer][grad]") {
  const Variant variant = any_variant();
  INFO(name_of(variant));
  const Model model = model_of(tiny(variant));
  const std::vector<int> shorter = {1, 3, 2}, longer = {4, 0, 0, 2, 1},
                         padded = {1, 3, 2, 4, 4, 4, 0, 0, 2, 1};
  const std::vector<int> to_shorter = {3, 2, 0}, to_longer = {0, 0, 2, 1, 1},
                         to_padded = {3, 2, 0, ignored_label, ignored_label, 0, 0, 2, 1, 1};
  auto cache = model.make_cache();
  Model together = zeros_like(model), apart = zeros_like(model);
  const auto add = [&](const TokenBatch& batch, const std::vector<int>& targets, double share,
                       Model& gradient) {
    Matrix<double> slope = model.forward(batch, cache);
    const double loss = softmax_cross_entropy(cache.logits, targets, slope);
    model.backward(batch, slope * share, cache, gradient);
    return loss * share;
  };
  const double loss = add({padded, 5}, to_padded, 1, together);
  const double sum = add({shorter}, to_shorter, 3.0 / 8, apart) + add({longer}, to_longer, 5.0 / 8, apart);
  CHECK(std::abs(loss - sum) <= identity_tolerance<double>);
  for_each_parameter(
      [](const ParameterPath& path, const auto& p, const auto& q) {
        INFO(path.str());
        CHECK(error(p, q) <= slope_tolerance<double>);
        CHECK_FALSE(q.isZero(0));
      },
      together, apart);
}

TEST_CASE("the second block of a pair reads by the first one's compressor", "[model][transformer]") {
  const Model model(tiny(Variant::tc_ec));
  REQUIRE(model.blocks.size() == 4);
  for (std::size_t l = 0; l < 4; ++l) {
    CHECK(model.blocks[l].compressor.has_value() == (l % 2 == 0));
    CHECK(&compressor_of(model.blocks, l) == &*model.blocks[l / 2 * 2].compressor);
  }
}

TEST_CASE("parameters are named by parts, whichever was chosen", "[model][transformer]") {
  auto settings = tiny(Variant::tc_ec);
  settings.layers = 1;
  const Model model(settings);
  std::string names;
  for_each_parameter([&](const ParameterPath& path, const auto&) { names += path.str() + "\n"; }, model);
  CHECK(names ==
        "embedding.weight\nexpansion.weight\n"
        "blocks.0.compressor.weight\nblocks.0.compressor.read\nblocks.0.norm.weight\n"
        "blocks.0.sublayer.c_q.weight\nblocks.0.sublayer.c_k.weight\nblocks.0.sublayer.c_v.weight\n"
        "blocks.0.sublayer.c_proj.weight\nblocks.0.sublayer.q_rms.weight\nblocks.0.sublayer.k_rms.weight\n"
        "blocks.0.gate.out.weight\nblocks.0.gate.out.bias\n"
        "blocks.0.value.projection.weight\nblocks.0.value.projection.bias\n"
        "blocks.1.norm.weight\n"
        "blocks.1.sublayer.c_fc1.weight\nblocks.1.sublayer.c_fc2.weight\nblocks.1.sublayer.c_proj.weight\n"
        "blocks.1.gate.out.weight\nblocks.1.gate.out.bias\n"
        "blocks.1.value.projection.weight\nblocks.1.value.projection.bias\n"
        "readout.weight\nreadout.read\nnorm.weight\n");
}

TEST_CASE("the two controls are a setting", "[model][transformer]") {
  auto settings = tiny(Variant::cc_ec);
  for (const Rewrite rewrite : {Rewrite::delta, Rewrite::write_only, Rewrite::additive}) {
    settings.rewrite = rewrite;
    for (const auto& block : Model(settings).blocks) {
      CHECK(block.rewrite == rewrite);
      CHECK(block.gate.has_value() == (rewrite != Rewrite::additive));
      CHECK(block.value.has_value() == (rewrite != Rewrite::additive));
    }
  }
}

TEST_CASE("the paper's two sizes", "[model][transformer]") {
  const auto small = small_transformer(Variant::cc_ec), medium = medium_transformer(Variant::vdim1);
  CHECK(
      (small.layers == 12 && small.width == 768 && small.attention.heads == 6 && small.value_channels == 4));
  CHECK((medium.layers == 24 && medium.width == 1024 && medium.attention.heads == 8 &&
         medium.value_channels == 1));
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
        "ddl::ChannelConvolution: kernel is 4, expected 1 to the 3 value channels, or 0 for all of them");
  CHECK(message([](auto& s) { s.attention.head_dim = 5; }) ==
        "ddl::CausalSelfAttention: head_dim is 5, expected an even number, or a rope_ratio of 0");

  auto settings = tiny(Variant::tc_ec);
  settings.context = 6;
  const Model model = model_of(settings);
  auto cache = model.make_cache();
  const auto tokens = tokens_of(14);
  CHECK_THROWS_WITH(
      model.forward({tokens}, cache),
      "ddl::DeltaTransformer::forward: a sequence is 14 tokens long, expected at most the context, 6");
  CHECK_THROWS_WITH(
      model.forward({tokens, 4}, cache),
      "ddl::DeltaTransformer::forward: the length of a sequence is 4, expected a divisor of the "
      "batch's 14 tokens, or 0 for one sequence");
  const std::vector<int> wrong = {1, 5};
  CHECK_THROWS_WITH(model.forward({wrong}, cache),
                    "ddl::TokenEmbedding::forward: token 1 is 5, expected 0 to 4");
  settings.layers = 1;
  auto other = Model(settings).make_cache();
  CHECK_THROWS_WITH(
      model.forward({wrong}, other),
      "ddl::DeltaTransformer::forward: the cache is for a net of 2 blocks, or another memory mode, "
      "expected one from make_cache of this net of 4");
  Model gradient = zeros_like(model);
  model.forward({tokens, 2}, cache);
  CHECK_THROWS_WITH(model.backward({tokens, 2}, Matrix<double>(5, 13), cache, gradient),
                    "ddl::DeltaTransformer::backward: dlogits is 5 x 13, expected 5 x 14");

  CHECK_THROWS_WITH(
      model.make_decoder(7),
      "ddl::DeltaTransformer::make_decoder: capacity is 7, expected 1 to the context, 6, or 0 for "
      "that");
  auto decoder = model.make_decoder(2);
  CHECK_THROWS_WITH(model.decode(-1, decoder),
                    "ddl::TokenEmbedding::forward: token 0 is -1, expected 0 to 4");
  model.decode(1, decoder);
  model.decode(1, decoder);
  CHECK_THROWS_WITH(
      model.decode(1, decoder),
      "ddl::DeltaTransformer::decode: the sequence is 3 tokens long, expected at most the capacity, 2");
  CHECK_THROWS_WITH(
      Model(settings).decode(1, decoder),
      "ddl::DeltaTransformer::decode: the decoder is for a model of 4 blocks, expected one from "
      "make_decoder of this model of 2");
}
