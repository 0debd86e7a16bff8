// SPDX-License-Identifier: MIT
#include "ddl/io/delta_net_weights.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ddl/io/sharded_safetensors.hpp"
#include "ddl/model/sampling.hpp"
#include "ddl/train/loss.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/tolerance.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

namespace {

using Model = DeltaTransformer<double, DeltaRule<double>>;
using Settings = Model::Settings;
using nlohmann::json;

const std::vector<std::string> golden_files = {"delta_net",           "delta_net_neg_gate",
                                               "delta_product",       "gated_delta_net",
                                               "gated_delta_net_neg", "gated_delta_product"};

SafetensorsFile golden(const std::string& name) {
  return SafetensorsFile(data_path("golden_time/dev_" + name + ".safetensors"));
}

/// Models of fla of sizes that differ from one another: ratios of heads, kernels, eps, heads of their own.
Settings of_kind(const std::string& kind) {
  Settings settings{.vocabulary = 7, .layers = 2, .width = 6};
  settings.context = 1000;
  settings.update = UpdateRule::additive;
  settings.mlp.hidden = 5;
  settings.norm_eps = 1e-3;
  settings.tie_embeddings = kind == "delta_net";
  settings.mixer = {.heads = 3, .head_dim = 4, .value_dim = 3, .convolution = 2, .norm_eps = 1e-3};
  if (kind == "delta_net") return settings;
  settings.mixer.value_heads = 6;
  settings.mixer.negative_eigenvalues = true;
  settings.mixer.output_gate = kind == "gated_deltanet";
  settings.mixer.decay = kind != "delta_product";
  settings.mixer.edits = kind == "gated_deltanet" ? 1 : 2;
  return settings;
}
const std::vector<std::string> kinds = {"delta_net", "gated_deltanet", "gated_deltaproduct", "delta_product"};

Model model_of(const Settings& settings) {
  Random random(3);
  Model model(settings, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { random.fill_normal(p, 1); }, model);
  return model;
}

Matrix<double> logits_of(const Model& model) {
  std::vector<int> tokens(140);  // more than a chunk
  for (std::size_t n = 0; n < tokens.size(); ++n) tokens[n] = static_cast<int>(n * n % 7);
  auto tape = model.make_tape();
  return model.forward({tokens, 70}, tape);
}

std::vector<int> integers(const SafetensorsFile& file, const char* name) {
  std::vector<int> numbers;
  file.for_each_element<int>(name, [&](int number) { numbers.push_back(number); });
  return numbers;
}

const json small_config = {{"model_type", "gated_deltaproduct"}, {"hidden_size", 12}, {"num_heads", 2}};

std::string refusal(const json& changes, json config = small_config) {
  config.merge_patch(changes);
  try {
    delta_net_settings(config);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("fla's models give its logits, loss, gradients and tokens", "[io][delta_net][golden]") {
  const std::string name = GENERATE(from_range(golden_files));
  CAPTURE(name);
  const SafetensorsFile file = golden(name);
  const auto model = read_delta_net<double>(file);
  const std::vector<int> tokens = integers(file, "idx"), greedy = integers(file, "greedy");
  auto tape = model.make_tape();
  const Matrix<double> logits =
      model.forward({tokens, static_cast<Index>(file.tensor("idx").shape[1])}, tape);
  CHECK((logits.reshaped() - file.read<double>("logits")).norm() <= 1e-11 * logits.norm());
  Matrix<double> dlogits = logits;
  const double loss = softmax_cross_entropy(logits, integers(file, "targets"), dlogits);
  const double expected_loss = file.read<double>("loss")[0];
  CHECK(std::abs(loss - expected_loss) <= 1e-11 * expected_loss);

  Model gradient = zeros_like(model), expected = zeros_like(model);
  model.backward(dlogits, tape, gradient);
  load_delta_net(expected, file, "grad.");
  for_each_parameter(
      [](const ParameterPath& path, const auto& p, const auto& q) {
        CAPTURE(path.str());
        CHECK(q.norm() > 0);
        CHECK((p - q).norm() <= 1e-10 * q.norm());
      },
      gradient, expected);

  auto state = model.make_state();
  Sampler sampler({.temperature = 0});
  Random random;
  std::vector<int> decoded(greedy.begin(), greedy.begin() + 5);
  const auto* next = &model.infer(decoded, state);
  while (decoded.size() < greedy.size()) {
    decoded.push_back(sampler(next->rightCols(1).col(0), random));
    next = &model.infer(decoded.back(), state);
  }
  CHECK(decoded == greedy);
}

namespace {

/// The gradients of a model's loss on the tokens of a reference file, in double.
template <class Scalar>
std::vector<Matrix<double>> gradients_of(const DeltaTransformer<Scalar, DeltaRule<Scalar>>& model,
                                         const SafetensorsFile& file) {
  const std::vector<int> tokens = integers(file, "idx");
  auto tape = model.make_tape();
  Matrix<Scalar> dlogits = model.forward({tokens, static_cast<Index>(file.tensor("idx").shape[1])}, tape);
  softmax_cross_entropy(tape.logits, integers(file, "targets"), dlogits);
  auto gradient = zeros_like(model);
  model.backward(dlogits, tape, gradient);
  std::vector<Matrix<double>> all;
  for_each_parameter([&](const ParameterPath&, const auto& g) { all.push_back(g.template cast<double>()); },
                     gradient);
  return all;
}

double largest_distance(const std::vector<Matrix<double>>& given,
                        const std::vector<Matrix<double>>& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < given.size(); ++i)
    largest = (std::max)(largest, relative_error(given[i], expected[i]));
  return largest;
}

}  // namespace

// The model sets how precise a gradient in float can be. Of delta_net_neg_gate, a relative change of the
// weights changes the gradient by 1300 times as much: o_norm divides by the norm of o, which is small for
// some tokens. With an eps of 1e-2 in the first layer's o_norm it is 100 times. Rounding the weights to float
// alone then moves the gradient by 3e-5.
TEST_CASE("in float, gradients are as precise as weights in float allow", "[io][delta_net][golden][grad]") {
  const std::string name = GENERATE(from_range(golden_files));
  CAPTURE(name);
  const SafetensorsFile file = golden(name);
  const auto in_float = read_delta_net<float>(file);
  auto rounded = read_delta_net<double>(file);
  for_each_parameter(
      [](const ParameterPath&, auto& p) { p = p.template cast<float>().template cast<double>().eval(); },
      rounded);
  const auto expected = gradients_of(rounded, file);
  double moved = 0;  // the most of five times in which every weight is moved by a rounding
  for (int i = 0; i < 5; ++i) {
    Random random(static_cast<std::uint64_t>(i));
    Model other = rounded;
    for_each_parameter(
        [&](const ParameterPath&, auto& p) {
          Matrix<double> draw(p.rows(), p.cols());
          random.fill_normal(draw, double(std::numeric_limits<float>::epsilon()) / 2);
          p += draw.cwiseProduct(p);
        },
        other);
    moved = (std::max)(moved, largest_distance(gradients_of(other, file), expected));
  }
  const double distance = largest_distance(gradients_of(in_float, file), expected);
  CAPTURE(moved, distance);
  CHECK(distance > 0);
  CHECK(distance <= 10 * moved);
}

TEST_CASE("a model of fla's is written as it is read", "[io][delta_net]") {
  const TemporaryFolder folder;
  const std::string path = folder / "model.safetensors";
  SECTION("a golden file: tensors, shapes and settings") {
    const std::string name = GENERATE(from_range(golden_files));
    CAPTURE(name);
    const SafetensorsFile file = golden(name);
    save_delta_net(read_delta_net<double>(file), path);
    const SafetensorsFile written(path);
    std::size_t count = 0;
    for (const std::string& tensor : file.names()) {
      if (!tensor.starts_with("param.")) continue;
      CAPTURE(tensor);
      ++count;
      const std::string plain = tensor.substr(6);
      REQUIRE(written.contains(plain));
      CHECK(written.tensor(plain).shape == file.tensor(tensor).shape);
      CHECK(written.read<double>(plain) == file.read<double>(tensor));
    }
    CHECK(written.names().size() == count);
    CHECK(written.metadata().at("format") == "pt");
    CHECK(written.metadata().at("model") == file.metadata().at("model"));
    CHECK(delta_net_config(delta_net_settings(written)) == delta_net_config(delta_net_settings(file)));
  }
  SECTION("other sizes, ratios of heads, kernels, eps, heads tied and not") {
    const std::string kind = GENERATE(from_range(kinds));
    CAPTURE(kind);
    const Model model = model_of(of_kind(kind));
    save_delta_net(model, path);
    const SafetensorsFile file(path);
    CHECK(logits_of(read_delta_net<double>(file)) == logits_of(model));
    CHECK(file.contains("lm_head.weight") == !model.settings.tie_embeddings);
    CHECK(json::parse(file.metadata().at("config")).at("model_type") ==
          (kind == "delta_product" ? "gated_deltaproduct" : kind));
  }
}

TEST_CASE("a ratio of sizes gives the size back", "[io][delta_net]") {
  auto settings = of_kind("gated_deltanet");
  for (Index from = 1; from <= 60; ++from)
    for (Index to = 1; to <= 60; ++to) {
      settings.mixer.head_dim = from;
      settings.mixer.value_dim = to;
      const json config = delta_net_config(settings);
      REQUIRE(delta_net_settings(config).mixer.value_dim == to);
      REQUIRE(static_cast<Index>(double(from) * config.at("expand_v").get<double>()) ==
              to);  // as Python does
    }
}

TEST_CASE("the settings of a file may stand in a config.json beside it", "[io][delta_net]") {
  const TemporaryFolder folder;
  const std::string path = folder / "model.safetensors";
  const Model model = model_of(of_kind("gated_deltaproduct"));
  save_delta_net(model, path);
  const SafetensorsFile whole(path);
  SafetensorsWriter writer;
  writer.metadata = {{"format", "pt"}};
  for (const std::string& name : whole.names()) {
    const auto bytes = whole.bytes(name);
    writer.add(name, whole.tensor(name).dtype, whole.tensor(name).shape, {bytes.begin(), bytes.end()});
  }
  writer.save(path);
  CHECK_THAT(error_of([&] { read_delta_net<double>(SafetensorsFile(path)); }),
             ContainsSubstring("config.json"));
  write_file(folder / "config.json", delta_net_config(model.settings).dump());
  CHECK(logits_of(read_delta_net<double>(SafetensorsFile(path))) == logits_of(model));
}

TEST_CASE("a model in shards is the model in one file", "[io][delta_net][shards]") {
  const std::string kind = GENERATE(from_range(kinds));
  CAPTURE(kind);
  const TemporaryFolder folder, sharded;
  const Model model = model_of(of_kind(kind));
  save_delta_net(model, folder / "model.safetensors");
  const SafetensorsFile whole(folder / "model.safetensors");
  // As Hugging Face's save_pretrained does: numbered files, an index, and the settings in a config.json.
  const auto names = whole.names();
  json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", json::object()}};
  std::size_t bytes_of_all = 0;
  for (std::size_t shard = 0; shard < 3; ++shard) {
    const std::string file = "model-0000" + std::to_string(shard + 1) + "-of-00003.safetensors";
    SafetensorsWriter writer;
    writer.metadata = {{"format", "pt"}};
    for (std::size_t i = shard; i < names.size(); i += 3) {  // a layer's tensors lie in all of them
      const auto bytes = whole.bytes(names[i]);
      writer.add(names[i], whole.tensor(names[i]).dtype, whole.tensor(names[i]).shape,
                 {bytes.begin(), bytes.end()});
      index["weight_map"][names[i]] = file;
      bytes_of_all += bytes.size();
    }
    writer.save(sharded / file);
  }
  index["metadata"]["total_size"] = bytes_of_all;
  const std::string index_path = sharded / "model.safetensors.index.json";
  write_file(index_path, index.dump());
  write_file(sharded / "config.json", delta_net_config(model.settings).dump());

  const Model expected = read_delta_net<double>(whole);
  const Access access = GENERATE(Access::read, Access::map);
  const Model given = read_delta_net<double>(ShardedSafetensors(sharded / ".", Strict::yes, access));
  CHECK(delta_net_config(given.settings) == delta_net_config(expected.settings));
  for_each_parameter(
      [](const ParameterPath& path, const auto& p, const auto& q) {
        CAPTURE(path.str());
        CHECK(p == q);
        CHECK(q.norm() > 0);
      },
      given, expected);
  CHECK(logits_of(given) == logits_of(model));
  // What is missing is missed in shards, too.
  const std::string left_out = "model.layers.1.attn.o_proj.weight", file = index["weight_map"][left_out];
  SafetensorsWriter writer;
  writer.metadata = {{"format", "pt"}};
  for (const auto& [name, in] : index["weight_map"].items())
    if (in == file && name != left_out) {
      const auto bytes = whole.bytes(name);
      writer.add(name, whole.tensor(name).dtype, whole.tensor(name).shape, {bytes.begin(), bytes.end()});
    }
  writer.save(sharded / file);
  index["weight_map"].erase(left_out);
  index["metadata"].erase("total_size");
  write_file(index_path, index.dump());
  CHECK_THAT(error_of([&] { read_delta_net<double>(ShardedSafetensors(index_path)); }),
             ContainsSubstring("missing: tensor \"" + left_out + "\""));
}

TEST_CASE("settings that a config does not name, or that are null, have fla's defaults", "[io][delta_net]") {
  const auto plain = delta_net_settings(json::object(), "delta_net");
  CHECK(plain.vocabulary == 32000);
  CHECK(plain.layers == 24);
  CHECK(plain.width == 2048);
  CHECK(plain.mlp.hidden == 5632);  // 256 ceil(floor(2048 * 4 * 2/3) / 256)
  CHECK(plain.norm_eps == 1e-6);
  CHECK(plain.mixer.norm_eps == 1e-6);
  CHECK_FALSE(plain.tie_embeddings);
  CHECK(plain.update == UpdateRule::additive);
  CHECK(plain.mixer.heads == 16);
  CHECK(plain.mixer.head_dim == 128);
  CHECK(plain.mixer.value_dim == 128);
  CHECK_FALSE(plain.mixer.output_gate);
  CHECK_FALSE(plain.mixer.decay);
  CHECK_FALSE(plain.mixer.negative_eigenvalues);

  const auto gated =
      delta_net_settings({{"num_v_heads", nullptr}, {"hidden_ratio", nullptr}}, "gated_deltanet");
  CHECK(gated.layers == 21);
  CHECK(gated.mixer.heads == 6);
  CHECK(gated.mixer.value_heads == 6);
  CHECK(gated.mixer.head_dim == 256);
  CHECK(gated.mixer.value_dim == 512);
  CHECK(gated.mixer.output_gate);
  CHECK(gated.mixer.decay);
  CHECK(gated.mlp.hidden == 5632);

  const auto product =
      delta_net_settings({{"model_type", "gated_deltaproduct"}, {"use_gate", false}}, "delta_net");
  CHECK(product.mixer.output_gate);
  CHECK_FALSE(product.mixer.decay);
  CHECK(product.mixer.edits == 1);
  CHECK_FALSE(delta_net_settings({{"use_output_gate", false}}, "gated_deltaproduct").mixer.output_gate);
  CHECK(delta_net_settings({{"hidden_size", 100}, {"hidden_ratio", 3}}, "gated_deltanet").mlp.hidden == 256);
  CHECK(delta_net_settings({{"hidden_size", 100}, {"intermediate_size", 7}}, "gated_deltanet").mlp.hidden ==
        7);
}

TEST_CASE("what changes a model and is not provided for is refused by name and value",
          "[io][delta_net][errors]") {
  CHECK(refusal(json::object()) == "accepted");
  for (const json& harmless : json::array({{{"eos_token_id", 2}},
                                           {{"torch_dtype", "bfloat16"}},
                                           {{"fuse_norm", false}},
                                           {{"attn", nullptr}},
                                           {{"attn_mode", "fused_recurrent"}},
                                           {{"max_position_embeddings", 2}},
                                           {{"transformers_version", "4.48.0"}},
                                           {{"architectures", {"GatedDeltaProductForCausalLM"}}},
                                           {{"conv_bias", false}},
                                           {{"use_gate", true}}}))
    CHECK(refusal(harmless) == "accepted");
  const std::string where = "ddl::delta_net_settings: ";
  const auto refused = [&](const json& changes, const std::string& message) {
    CHECK(refusal(changes) == where + message);
  };
  refused({{"use_short_conv", false}}, "use_short_conv is false, expected true");
  refused({{"conv_bias", true}}, "conv_bias is true, expected false");
  refused({{"attn", {{"layers", {1}}}}}, R"(attn is {"layers":[1]}, expected null)");
  refused({{"hidden_act", "relu"}}, "hidden_act is \"relu\", expected swish or silu");
  refused({{"model_type", "mamba"}},
          "model_type is \"mamba\", expected delta_net, gated_deltanet or gated_deltaproduct");
  refused({{"num_heads", "two"}}, "num_heads is \"two\", expected an integer of 1 to 65536");
  refused({{"head_dim", 5}, {"expand_v", 0.5}},
          "expand_v is 0.5, expected a number that makes head_dim times it whole");
  refused({{"expand_v", 0}}, "expand_v is 0, expected a number that makes the size 1 to 2147483647");
  refused({{"expand_v", 1e300}}, "expand_v is 1e+300, expected a number that makes the size 1 to 2147483647");
  const json plain = {{"model_type", "delta_net"}, {"hidden_size", 12}, {"num_heads", 2}};
  CHECK(refusal({{"qk_norm", "sum"}}, plain) == where + "qk_norm is \"sum\", expected \"l2\"");
  CHECK(refusal({{"qk_activation", "elu"}}, plain) == where + "qk_activation is \"elu\", expected \"silu\"");
  CHECK(refusal({{"use_beta", false}}, plain) == where + "use_beta is false, expected true");
  CHECK(refusal({{"num_heads", 5}}, plain) ==
        where + "expand_k is such that all heads have 12, expected a multiple of the 5 heads");
}

TEST_CASE("a file that does not fit its config is refused, and takes no memory", "[io][delta_net][errors]") {
  const TemporaryFolder folder;
  const std::string path = folder / "model.safetensors";
  save_delta_net(model_of(of_kind("gated_deltanet")), path);
  const SafetensorsFile whole(path);
  const auto message = [&](auto change) {
    SafetensorsWriter writer;
    writer.metadata = whole.metadata();
    std::erase_if(writer.metadata, [](const auto& entry) { return entry.first.starts_with("ddl."); });
    json config = json::parse(writer.metadata.at("config"));
    std::string left_out, added;
    change(config, left_out, added);
    writer.metadata["config"] = config.dump();
    for (const std::string& name : whole.names()) {
      const auto bytes = whole.bytes(name);
      if (name != left_out)
        writer.add(name, whole.tensor(name).dtype, whole.tensor(name).shape, {bytes.begin(), bytes.end()});
    }
    if (!added.empty()) writer.add(added, Matrix<double>::Ones(7, 6).eval());
    const SafetensorsFile file(FileContents("bad", writer.bytes()));
    std::string said;
    const HeapUse use = heap_use_of([&] { said = error_of([&] { read_delta_net<float>(file); }); });
    CHECK(use.peak < 1'000'000);
    return said;
  };
  const auto of_setting = [&](const char* key, const json& value) {
    return message([&](json& config, auto&, auto&) { config[key] = value; });
  };
  CHECK(message([](auto&, auto&, auto&) {}) == "no error");
  for (const char* key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "conv_size", "head_dim"})
    CHECK_THAT(of_setting(key, 2'147'483'647), ContainsSubstring("bad: does not fit its own config\n  "));
  for (const char* key : {"num_heads", "num_v_heads"})
    CHECK_THAT(of_setting(key, 65536), ContainsSubstring("bad: does not fit its own config\n  "));
  CHECK_THAT(of_setting("use_gate", false),
             ContainsSubstring("unexpected: tensor \"model.layers.0.attn.g_proj.weight\""));
  CHECK_THAT(of_setting("model_type", "delta_net"),
             ContainsSubstring("bad: ddl::delta_net_settings: expand_v is"));
  CHECK_THAT(of_setting("attn", {{"layers", {0}}}),
             ContainsSubstring("bad: ddl::delta_net_settings: attn is"));
  CHECK_THAT(message([](json&, auto& left_out, auto&) { left_out = "lm_head.weight"; }),
             ContainsSubstring("missing: tensor \"lm_head.weight\", expected shape [7, 6]"));
  CHECK_THAT(message([](json&, auto&, auto& added) { added = "model.layers.0.attn.q_conv1d.bias"; }),
             ContainsSubstring("unexpected: tensor \"model.layers.0.attn.q_conv1d.bias\""));
  CHECK_THAT(message([](json& config, auto&, auto&) { config["tie_word_embeddings"] = true; }),
             ContainsSubstring("tensor \"lm_head.weight\" is not the embedding's weight"));
}

TEST_CASE("a model that fla cannot have is not written", "[io][delta_net][errors]") {
  const auto check = [](auto change) {
    auto settings = of_kind("gated_deltanet");
    change(settings);
    CHECK_THROWS_WITH(delta_net_config(settings), ContainsSubstring("is none of fla's models, expected"));
  };
  check([](auto& s) { s.update = UpdateRule::delta; });
  check([](auto& s) { s.value_channels = 2; });
  check([](auto& s) { s.mixer.update = UpdateRule::write_only; });
  check([](auto& s) { s.mixer.convolution.reset(); });
  check([](auto& s) { s.mixer.norm_eps = 1e-5; });
  check([](auto& s) { s.expansion.kernel = 3; });
}
