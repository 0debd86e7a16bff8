// SPDX-License-Identifier: MIT
#include "ddl/io/transformer_weights.hpp"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "ddl/model/sampling.hpp"
#include "ddl/train/loss.hpp"
#include "ddl/train/optimizer.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/tolerance.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

using Model = DeltaTransformer<double>;
using nlohmann::json;

const std::vector<std::string> code_files = {"dev_vdim1_code", "dev_tc_code", "dev_tc_ec_code", "dev_cc_code",
                                             "dev_cc_ec_code"};
const std::vector<std::string> paper_files = {"dev_vdim1_paper", "dev_tc_paper", "dev_tc_ec_paper",
                                              "dev_cc_paper", "dev_cc_ec_paper"};

SafetensorsFile golden(const std::string& name) {
  return SafetensorsFile(data_path("golden/" + name + ".safetensors"));
}

/// The model, the tokens and the targets of a file of reference numbers, and one pass.
struct Reference {
  SafetensorsFile file;
  Model model = read_transformer<double>(file);
  Model gradient = zeros_like(model);
  Model::Tape tape = model.make_tape();
  std::vector<int> tokens = integers("idx"), targets = integers("targets");
  Matrix<double> dlogits = {};

  std::vector<int> integers(const char* name) const {
    std::vector<int> numbers;
    file.for_each_element<int>(name, [&](int number) { numbers.push_back(number); });
    return numbers;
  }
  TokenBatch batch() const { return {tokens, static_cast<Index>(file.tensor("idx").shape[1])}; }

  /// @return the loss.
  double run() {
    set_zero(gradient);
    dlogits = model.forward(batch(), tape);
    const double loss = softmax_cross_entropy(tape.logits, targets, dlogits);
    model.backward(dlogits, tape, gradient);
    return loss;
  }
};

/// A small model of every variant's kind, parameters at random.
Model small_model(Variant variant) {
  DeltaTransformerSettings<> settings = settings_of(variant);
  settings.vocabulary = 7;
  settings.context = 16;
  settings.layers = 2;
  settings.width = 6;
  if (variant != Variant::vdim1) settings.value_channels = 3;
  settings.mixer.heads = 2;
  settings.mixer.head_dim = 8;
  Random random(3);
  Model model(settings, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { random.fill_normal(p, 1); }, model);
  return model;
}

Matrix<double> logits_of(const Model& model) {
  const std::vector<int> tokens = {1, 6, 2, 2, 0, 5};
  auto tape = model.make_tape();
  return model.forward({tokens, 3}, tape);
}

/// The file at `path` with its tensors and metadata changed by f(name -> tensor, metadata).
template <class F>
void rewrite(const std::string& path, const F& f) {
  std::map<std::string, Matrix<double>> tensors;
  Metadata metadata;
  {
    const SafetensorsFile file(path);
    metadata = file.metadata();
    for (const std::string& name : file.names()) {
      const auto elements = file.read<double>(name);
      const auto& shape = file.tensor(name).shape;
      const auto rows = static_cast<Index>(shape.front());
      tensors[name] = elements.reshaped(elements.size() / rows, rows).transpose();
    }
  }
  f(tensors, metadata);
  SafetensorsWriter writer;
  writer.metadata = metadata;
  for (const auto& [name, matrix] : tensors) writer.add(name, matrix, matrix.cols() == 1);
  writer.save(path);
}

}  // namespace

TEST_CASE("the reference's logits, loss, gradients and greedy tokens come out", "[io][transformer][golden]") {
  const auto name = GENERATE(from_range(code_files), from_range(paper_files));
  INFO(name);
  Reference reference{golden(name)};
  const auto& file = reference.file;
  CHECK(std::abs(reference.run() - file.read<double>("loss")[0]) <= 1e-12);
  CHECK(relative_error(reference.tape.logits.reshaped().matrix(), file.read<double>("logits")) <= 1e-12);
  CHECK(relative_error(reference.tape.embedded.reshaped().matrix(), file.read<double>("hidden.0")) == 0);
  Model expected = zeros_like(reference.model);
  load_transformer(expected, file, "grad.");
  for_each_parameter(
      [](const ParameterPath& path, const auto& p, const auto& q) {
        INFO(path.str());
        CHECK(relative_error(p, q) <= 1e-11);
      },
      reference.gradient, expected);

  const std::vector<int> greedy = reference.integers("greedy");
  std::vector<int> tokens(greedy.begin(), greedy.begin() + 5);
  auto state = reference.model.make_state();
  Sampler sampler({.temperature = 0});
  Random random;
  for (std::size_t i = 0; i + 1 < greedy.size(); ++i) {
    const int next = sampler(reference.model.infer(tokens[i], state).col(0), random);
    if (i + 1 == tokens.size()) tokens.push_back(next);
  }
  CHECK(tokens == greedy);
}

TEST_CASE("ten steps of AdamW go as PyTorch's", "[io][transformer][golden]") {
  const auto name = GENERATE(from_range(code_files));
  INFO(name);
  const json curves = json::parse(read_file(data_path("golden/adamw_curves.json")));
  const json &settings = curves.at("settings"), &curve = curves.at(name + ".safetensors");
  Reference reference{golden(name)};
  AdamW optimizer(reference.model, {.learning_rate = settings.at("learning_rate"),
                                    .beta1 = settings.at("beta1"),
                                    .beta2 = settings.at("beta2"),
                                    .eps = settings.at("eps"),
                                    .weight_decay = settings.at("weight_decay")});
  REQUIRE(curve.at("losses").size() == 10);
  for (std::size_t step = 0; step < 10; ++step) {
    CAPTURE(step);
    CHECK(std::abs(reference.run() - curve.at("losses")[step].get<double>()) <= 1e-10);
    const double norm = clip_global_norm(reference.gradient, settings.at("clip_global_norm"));
    CHECK(std::abs(norm - curve.at("grad_norms")[step].get<double>()) <= 1e-10);
    optimizer.step(reference.model, reference.gradient);
  }
  std::size_t compared = 0;
  for_each_parameter(
      [&](const ParameterPath& path, const auto& p) {
        const std::string theirs = transformer_name(reference.model.settings, path.str());
        INFO(theirs);
        CHECK(std::abs(p.norm() - curve.at("after").at(theirs).get<double>()) <= 1e-10);
        ++compared;
      },
      reference.model);
  CHECK(compared == curve.at("after").size());
}

TEST_CASE("a model that is written is read again, settings and all", "[io][transformer]") {
  const auto variant = GENERATE(from_range(all_variants));
  INFO(name_of(variant));
  Model model = small_model(variant);
  const TemporaryFolder folder;
  const std::string path = folder / "model";
  save_transformer(model, path);
  CHECK(logits_of(read_transformer<double>(SafetensorsFile(path))) == logits_of(model));

  // Settings that are nobody's default.
  auto settings = model.settings;
  settings.gate = TanhGateSettings{.hidden = 5};
  settings.value = LinearValueSettings{ValueSource::compressed, 2.5};
  settings.k_eps = 0.25;
  settings.mixer.rope_base = 50;
  settings.mixer.rope_ratio = 0.5;
  settings.mixer.qk_norm = false;
  settings.update = UpdateRule::write_only;
  if (auto* over_tokens = std::get_if<TokenConvolutionSettings>(&settings.compressor))
    over_tokens->kernel = 2;
  if (auto* over_channels = std::get_if<ChannelConvolutionSettings>(&settings.compressor))
    over_channels->kernel = 2;
  if (settings.expansion.kernel) settings.expansion.kernel = 3;
  model = Model(settings, 5);
  save_transformer(model, path);
  CHECK(logits_of(read_transformer<double>(SafetensorsFile(path))) == logits_of(model));
  settings.value = ConstantValueSettings{1.5};
  model = Model(settings, 5);
  save_transformer(model, path);
  CHECK(logits_of(read_transformer<double>(SafetensorsFile(path))) == logits_of(model));
}

TEST_CASE("what is written has the names and shapes of the reference", "[io][transformer]") {
  const auto name = GENERATE(from_range(code_files), from_range(paper_files));
  INFO(name);
  const TemporaryFolder folder;
  const SafetensorsFile reference = golden(name);
  save_transformer(read_transformer<double>(reference), folder / "model");
  const SafetensorsFile written(folder / "model");
  CHECK(written.metadata().at("variant") == reference.metadata().at("variant"));
  std::vector<std::string> expected;
  for (const std::string& tensor : reference.names())
    if (tensor.starts_with("param.")) expected.push_back(tensor.substr(6));
  CHECK(written.names() == expected);
  for (const std::string& tensor : expected) {
    INFO(tensor);
    CHECK(written.tensor(tensor).shape == reference.tensor("param." + tensor).shape);
    CHECK(written.read<double>(tensor) == reference.read<double>("param." + tensor));
  }
}

TEST_CASE("the head may be in the file if it is the embedding", "[io][transformer]") {
  const Model model = small_model(Variant::tc);
  const TemporaryFolder folder;
  const std::string path = folder / "model";
  save_transformer(model, path);
  rewrite(path, [](auto& tensors, auto&) { tensors["lm_head.weight"] = tensors["transformer.wte.weight"]; });
  CHECK(logits_of(read_transformer<double>(SafetensorsFile(path))) == logits_of(model));
  rewrite(path, [](auto& tensors, auto&) { tensors["lm_head.weight"](1, 1) += 1; });
  CHECK_THAT(error_of([&] { read_transformer<double>(SafetensorsFile(path)); }),
             Catch::Matchers::ContainsSubstring("tensor \"lm_head.weight\" is not the embedding's weight"));
}

TEST_CASE("under a constant value the file's value projections are not used", "[io][transformer]") {
  const TemporaryFolder folder;
  const std::string path = folder / "model";
  const auto make_constant = [](auto&, auto& metadata) {
    json config = json::parse(metadata.at("config"));
    config["ddl_v_constant"] = true;
    config["ddl_v_constant_value"] = 0.5;
    metadata.at("config") = config.dump();
  };
  Model model = small_model(Variant::cc);
  save_transformer(model, path);
  rewrite(path, make_constant);
  ConstantValue<double> half;
  half.value = 0.5;
  for (auto& layer : model.layers) layer.mixer.value->part = layer.mlp.value->part = half;
  CHECK(logits_of(read_transformer<double>(SafetensorsFile(path))) == logits_of(model));
}

TEST_CASE("what a file lacks or has too much is said", "[io][transformer][errors]") {
  const TemporaryFolder folder;
  const std::string path = folder / "model";
  save_transformer(small_model(Variant::tc_ec), path);
  const auto message = [&](auto change) {
    save_transformer(small_model(Variant::tc_ec), path);
    rewrite(path, change);
    return error_of([&] { read_transformer<double>(SafetensorsFile(path)); });
  };
  const auto with = [&](const char* key, const json& value) {
    return message([&](auto&, auto& metadata) {
      json config = json::parse(metadata.at("config"));
      config[key] = value;
      metadata.at("config") = config.dump();
    });
  };
  using Catch::Matchers::ContainsSubstring;
  CHECK(message([](auto&, auto&) {}) == "no error");
  CHECK_THAT(message([](auto& tensors, auto&) { tensors.erase("ln_f.weight"); }),
             ContainsSubstring("does not fit its own config\n  missing: tensor \"ln_f.weight\""));
  CHECK_THAT(message([](auto& tensors, auto&) { tensors["ln_g.weight"] = tensors["ln_f.weight"]; }),
             ContainsSubstring("unexpected: tensor \"ln_g.weight\""));
  CHECK_THAT(message([](auto& tensors, auto&) { tensors["ln_f.weight"] = Matrix<double>::Ones(5, 1); }),
             ContainsSubstring("misshapen: tensor \"ln_f.weight\""));
  CHECK_THAT(message([](auto&, auto& metadata) { metadata.erase("variant"); }),
             ContainsSubstring("the metadata have no variant"));
  CHECK_THAT(message([](auto&, auto& metadata) { metadata.at("variant") = "cd"; }),
             ContainsSubstring("the variant is cd, expected vdim1, tc, tc_ec, cc or cc_ec"));
  CHECK_THAT(message([](auto&, auto& metadata) { metadata.at("config") = "{"; }),
             ContainsSubstring("metadata config is not JSON"));
  CHECK_THAT(message([](auto&, auto& metadata) { metadata.at("config") = "[]"; }),
             ContainsSubstring("the config is [], expected a JSON object"));
  CHECK_THAT(with("ddl_new_setting", 1), ContainsSubstring("{\"ddl_new_setting\":1}"));
  CHECK_THAT(with("hidden_size", "wide"), ContainsSubstring("hidden_size is \"wide\", expected an integer"));
  CHECK_THAT(with("hidden_size", 6.5), ContainsSubstring("hidden_size is 6.5, expected an integer"));
  CHECK_THAT(with("ddl_k_eps", true), ContainsSubstring("ddl_k_eps is true, expected a number"));
  CHECK_THAT(with("ddl_v_sigmoid", 1), ContainsSubstring("ddl_v_sigmoid is 1, expected true or false"));
  CHECK_THAT(with("ddl_v_sigmoid_scale", 0),
             ContainsSubstring("ddl_v_sigmoid_scale is 0, expected a number"));
  CHECK_THAT(with("use_output_gate", true), ContainsSubstring("use_output_gate is true, expected false"));
  CHECK_THAT(with("ddl_rewrite", "over"), ContainsSubstring("ddl_rewrite is \"over\", expected delta"));
  CHECK_THAT(with("num_attention_heads", 0),
             ContainsSubstring("num_attention_heads is 0, expected an integer of 1 to 2147483647"));
  CHECK(with("dropout", 0.0) == "no error");
  CHECK(with("ddl_beta_init", 0.5) == "no error");
}

TEST_CASE("every number of a config has its range", "[io][transformer][errors]") {
  const auto message = [](const json& config) {
    try {
      transformer_settings("tc_ec", config);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  for (const std::string key :
       {"vocab_size", "num_hidden_layers", "hidden_size", "block_size", "num_attention_heads", "head_dim",
        "ddl_value_channels", "ddl_state_shortconv_kernel_size", "input_embed_shortconv_kernel_size"}) {
    CHECK(message({{key, 5}}) == "no error");
    for (const json& bad : {json(-5), json(1.5), json(1e30), json("5"), json(nullptr), json(json::array({5})),
                            json(std::uint64_t{1} << 63), json(std::int64_t{1} << 31), json(true)}) {
      CAPTURE(bad.dump());
      CHECK_THAT(message({{key, bad}}),
                 Catch::Matchers::ContainsSubstring(key + " is " + bad.dump() + ", expected an integer of "));
    }
  }
}

TEST_CASE("settings of another variant are ignored", "[io][transformer]") {
  const json others = {
      {"ddl_v_dim1_constant", true}, {"ddl_v_dim1_constant_value", 3}, {"ddl_beta_hidden_size", 0}};
  for (const std::string variant : {"tc", "tc_ec", "cc", "cc_ec"}) {
    CHECK(std::holds_alternative<LinearValueSettings>(transformer_settings(variant, others).value));
    if (variant.starts_with("cc")) continue;
    CHECK_NOTHROW(transformer_settings(variant, {{"ddl_state_dv_shortconv_causal", true}}));
  }
  CHECK_NOTHROW(transformer_settings("tc", {{"input_embed_shortconv_kernel_size", 3}}));
  CHECK_THROWS_AS(transformer_settings("cc", {{"ddl_state_dv_shortconv_causal", true}}),
                  std::invalid_argument);
  const auto single = transformer_settings("vdim1", {{"ddl_v_constant", true},
                                                     {"ddl_v_constant_value", 3},
                                                     {"ddl_value_channels", 4},
                                                     {"ddl_state_shortconv_kernel_size", 2},
                                                     {"input_embed_shortconv_kernel_size", 2}});
  CHECK(std::holds_alternative<LinearValueSettings>(single.value));
  CHECK(single.value_channels == 1);
  const auto constant =
      transformer_settings("tc", {{"ddl_v_constant", true}, {"ddl_v_sigmoid_scale", -1}}).value;
  CHECK(std::get<ConstantValueSettings>(constant).value == 2);
}

TEST_CASE("the tensors that settings ask for are those of the model", "[io][transformer]") {
  const auto variant = GENERATE(from_range(all_variants));
  const auto update = GENERATE(UpdateRule::delta, UpdateRule::write_only, UpdateRule::additive);
  const int kind = GENERATE(0, 1, 2);
  CAPTURE(name_of(variant), name_of(update), kind);
  auto settings = small_model(variant).settings;
  settings.update = update;
  if (kind == 1) settings.gate = TanhGateSettings{.hidden = 5};
  if (kind == 1) settings.mixer.qk_norm = false;
  if (kind == 2) settings.value = ConstantValueSettings{0.5};
  const TemporaryFolder folder;
  save_transformer(Model(settings, 1), folder / "model");
  const SafetensorsFile file(folder / "model");
  const auto read = transformer_settings(file);
  std::set<std::string> expected, given;
  for (const std::string& name : file.names()) expected.insert(name);
  for (Index layer = -1; layer < read.layers; ++layer)
    detail::for_each_transformer_tensor(read, layer, [&](const std::string& name, const TensorShape& shape) {
      CAPTURE(name);
      CHECK(given.insert(name).second);
      REQUIRE(file.contains(name));
      CHECK(detail::shape_fits(file.tensor(name).shape, shape));
    });
  CHECK(given == expected);
}

TEST_CASE("sizes in a config are compared with the tensors before any memory is taken",
          "[io][transformer][errors]") {
  const auto variant = GENERATE(from_range(all_variants));
  const TemporaryFolder folder;
  const std::string path = folder / "model";
  auto settings = small_model(variant).settings;
  settings.gate = TanhGateSettings{.hidden = 5};
  for (const std::string key : {"vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads",
                                "head_dim", "ddl_beta_hidden_size", "ddl_value_channels",
                                "ddl_state_shortconv_kernel_size", "input_embed_shortconv_kernel_size"}) {
    for (const Index size : {Index(1) << 20, (Index(1) << 31) - 1}) {
      save_transformer(Model(settings, 1), path);
      bool has = false;
      rewrite(path, [&](auto&, auto& metadata) {
        json config = json::parse(metadata.at("config"));
        has =
            config.contains(key) || (key == "ddl_state_shortconv_kernel_size" &&
                                     std::holds_alternative<ChannelConvolutionSettings>(settings.compressor));
        config[key] = size;
        metadata.at("config") = config.dump();
      });
      const SafetensorsFile file(path);
      CAPTURE(name_of(variant), key, size);
      std::string message;
      const HeapUse use = heap_use_of([&] { message = error_of([&] { read_transformer<float>(file); }); });
      if (!has) {
        CHECK(message == "no error");
        continue;
      }
      CHECK_THAT(message, Catch::Matchers::ContainsSubstring("does not fit its own config\n  mis"));
      CHECK(message.size() < 10'000);
      CHECK(use.peak < 1'000'000);
    }
  }
}

TEST_CASE("a config that is nested deeply, or has a key twice, is refused", "[io][transformer][errors]") {
  const TemporaryFolder folder;
  const std::string path = folder / "model";
  const auto message = [&](const std::string& config) {
    save_transformer(small_model(Variant::tc_ec), path);
    rewrite(path, [&](auto&, auto& metadata) { metadata.at("config") = config; });
    return error_of([&] { read_transformer<double>(SafetensorsFile(path)); });
  };
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  using Catch::Matchers::ContainsSubstring;
  CHECK_THAT(message(deep), ContainsSubstring("metadata config is nested deeper than 128 levels"));
  CHECK_THAT(message(R"({"dropout":)" + deep + "}"),
             ContainsSubstring("metadata config is nested deeper than 128 levels"));
  CHECK_THAT(message(R"({"head_dim":1,"head_dim":2})"),
             ContainsSubstring("metadata config has the key \"head_dim\" twice"));
  CHECK_THAT(message(R"({"head_dim":})"),
             ContainsSubstring("metadata config is not JSON: unexpected \"}\" at byte 12"));
}

TEST_CASE("a model that the authors' code cannot have is not written", "[io][transformer][errors]") {
  const auto check = [](auto change) {
    auto settings = small_model(Variant::tc).settings;
    change(settings);
    CHECK_THROWS_WITH(transformer_metadata(settings),
                      Catch::Matchers::ContainsSubstring("is none of the authors' models, expected"));
  };
  check([](auto& s) { s.compressor = CompressorSettings{}; });
  check([](auto& s) { s.value = LinearValueSettings{}; });
  check([](auto& s) { s.norm_eps = 1e-6; });
  check([](auto& s) { s.mlp.hidden = 3; });
  CHECK_THROWS_WITH(transformer_metadata(DeltaTransformerSettings<>{.mixer = {.heads = 0}}),
                    "ddl::transformer_metadata: heads is 0, expected at least 1");
}
