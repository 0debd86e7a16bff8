// SPDX-License-Identifier: MIT
#include "ddl/io/weights.hpp"

#include "ddl/model/delta_resnet.hpp"
#include "ddl/model/delta_transformer.hpp"
#include "ddl/nn/linear.hpp"
#include "ddl/nn/norm.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

namespace {

using Tensors = std::vector<std::pair<std::string, Matrix<double>>>;

template <class Model>
Tensors parameters_of(const Model& model) {
  Tensors all;
  for_each_parameter([&](const ParameterPath& path,
                         const auto& p) { all.emplace_back(path.str(), p.template cast<double>()); },
                     model);
  return all;
}

SafetensorsFile in_memory(const SafetensorsWriter& writer) {
  return SafetensorsFile(FileContents("w.safetensors", writer.bytes()));
}

/// The bytes of 1, 2, ..., as F32.
std::vector<std::byte> counting(int count) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * 4);
  for (int i = 0; i < count; ++i) detail::store_little(static_cast<float>(i + 1), bytes.data() + 4 * i);
  return bytes;
}

DeltaResNet<double> some_net(std::uint64_t seed, Index inputs = 7) {
  return DeltaResNet<double>({.inputs = inputs, .outputs = 5, .width = 6, .value_channels = 3, .depth = 2},
                             seed);
}

DeltaTransformer<float> some_transformer(Index layers = 2) {
  auto settings = settings_of(Variant::tc_ec);
  settings.vocabulary = 5;
  settings.context = 9;
  settings.layers = layers;
  settings.width = 4;
  settings.mixer.heads = 2;
  return DeltaTransformer<float>(settings, 3);
}

const std::vector<int> two_texts = {1, 4, 2, 0, 3, 3};

}  // namespace

TEST_CASE("weights of shape [out, in], row by row, are W", "[io][weights]") {
  SafetensorsWriter writer;
  writer.add("weight", "F32", {2, 3}, counting(6));
  writer.add("bias", "F32", {2}, counting(2));
  Random random(1);
  Linear<double> linear(3, 2, random);
  const LoadReport report = load_parameters(linear, in_memory(writer));
  CHECK(report.missing.empty());
  CHECK(report.unexpected.empty());
  CHECK(linear.weight == (Matrix<double>(2, 3) << 1, 2, 3, 4, 5, 6).finished());
  CHECK(linear.bias == Vector<double>::LinSpaced(2, 1, 2));
  Linear<float, 3, 2> fixed(3, 2, random);
  load_parameters(fixed, in_memory(writer));
  CHECK(fixed.weight.cast<double>() == linear.weight);
}

TEST_CASE("the weight of a depthwise convolution is a matrix", "[io][weights]") {
  SafetensorsWriter writer;
  writer.add("weight", "F32", {2, 1, 3}, counting(6));
  Random random(1);
  Linear<float> linear(3, 2, random, 1, false);
  load_parameters(linear, in_memory(writer));
  CHECK(linear.weight == (Matrix<float>(2, 3) << 1, 2, 3, 4, 5, 6).finished());
}

TEST_CASE("one error lists all that does not fit, and the model stays as it was", "[io][weights]") {
  const TemporaryFolder folder;
  const std::string path = folder / "w.safetensors";
  SafetensorsWriter writer;
  const auto source = some_net(1);
  for_each_parameter(
      [&](const ParameterPath& place, const auto& p) {
        const std::string name = place.str();
        if (name == "head.weight")
          writer.add(name, p.transpose().eval());
        else if (name == "head.bias")
          writer.add(name, p, false);
        else if (name == "norm.weight")
          writer.add(name, "C64", {6}, std::vector<std::byte>(48));
        else if (name != "layers.1.gate.out.bias")
          writer.add(name, p, place.is_vector());
      },
      source);
  writer.add("more", Vector<float>::Zero(1));
  writer.save(path);
  auto net = some_net(2);
  const auto before = parameters_of(net);
  const std::string message = error_of([&] { load_parameters(net, SafetensorsFile(path)); });
  CHECK(message == path + R"(: does not fit the model
  missing: tensor "layers.1.gate.out.bias", expected shape [1]
  unreadable: tensor "norm.weight" has dtype "C64"
  misshapen: tensor "head.weight" has shape [6, 5], expected [5, 6]
  misshapen: tensor "head.bias" has shape [5, 1], expected [5]
  unexpected: tensor "more")");
  CHECK(parameters_of(net) == before);
  // Missing and unexpected ones are let pass if that is asked for; wrong shapes are not.
  const std::string lenient = error_of([&] { load_parameters(net, SafetensorsFile(path), {}, Strict::no); });
  CHECK_THAT(lenient, ContainsSubstring("misshapen") && ContainsSubstring("unreadable"));
  CHECK_THAT(lenient, !ContainsSubstring("missing") && !ContainsSubstring("unexpected"));
  CHECK(parameters_of(net) == before);
}

TEST_CASE("what is missing or left over is reported if it is let pass", "[io][weights]") {
  SafetensorsWriter writer;
  writer.add("bias", "F32", {2}, counting(2));
  writer.add("more", "F32", {2}, counting(2));
  Random random(1);
  Linear<float> linear(3, 2, random);
  const Matrix<float> weight = linear.weight;
  const LoadReport report = load_parameters(linear, in_memory(writer), {}, Strict::no);
  CHECK(report.missing == std::vector<std::string>{"weight"});
  CHECK(report.unexpected == std::vector<std::string>{"more"});
  CHECK(linear.bias == Vector<float>::LinSpaced(2, 1, 2));
  CHECK(linear.weight == weight);
}

TEST_CASE("a matrix wants a matrix and a vector a vector", "[io][weights]") {
  Random random(1);
  Linear<float> linear(4, 1, random, 1, false);
  RmsNorm<float> norm(4, 1e-5);
  const auto message = [](auto& model, TensorShape shape) {
    SafetensorsWriter writer;
    writer.add("weight", "F32", std::move(shape), counting(4));
    return error_of([&] { load_parameters(model, in_memory(writer)); });
  };
  CHECK(message(linear, {1, 4}) == "no error");
  CHECK(message(linear, {1, 1, 4}) == "no error");
  for (const TensorShape& shape : {TensorShape{4}, {4, 1}, {2, 2}, {4, 1, 1}, {1, 4, 1}, {1, 1, 1, 4}})
    CHECK_THAT(message(linear, shape), ContainsSubstring("expected [1, 4]"));
  CHECK(message(norm, {4}) == "no error");
  for (const TensorShape& shape : {TensorShape{4, 1}, {1, 4}, {2, 2}, {4, 1, 1}})
    CHECK_THAT(message(norm, shape), ContainsSubstring("expected [4]"));
}

TEST_CASE("names are mapped, and two parameters may share a tensor", "[io][weights]") {
  SafetensorsWriter writer;
  writer.metadata = {{"lm_head.weight", "wte.weight"}, {"other", "none"}};
  writer.add("wte.weight", "F32", {2, 3}, counting(6));
  Random random(1);
  Linear<float> linear(3, 2, random, 1, false);
  const auto map = [](const std::string& name) { return [name](std::string_view) { return name; }; };
  load_parameters(linear, in_memory(writer), map("wte.weight"));
  CHECK(linear.weight(0, 2) == 3);
  linear.weight.setZero();
  load_parameters(linear, in_memory(writer), map("lm_head.weight"));  // as the metadata say
  CHECK(linear.weight(0, 2) == 3);
  for (const std::string name : {"other", "none"})
    CHECK_THAT(error_of([&] { load_parameters(linear, in_memory(writer), map(name)); }),
               ContainsSubstring(R"(missing: tensor "none" for weight, expected shape [2, 3])"));
  Mlp<float> twins;
  twins.first = twins.last = linear;
  twins.first.weight.setZero();
  load_parameters(twins, in_memory(writer), map("wte.weight"));
  CHECK(twins.first.weight == linear.weight);

  const TemporaryFolder folder;
  CHECK_THROWS_AS(save_parameters(twins, folder / "w", {}, map("wte.weight")), std::invalid_argument);
  save_parameters(linear, folder / "w", {{"a", "b"}}, map("wte.weight"));
  const SafetensorsFile file(folder / "w");
  CHECK(file.names() == std::vector<std::string>{"wte.weight"});
  CHECK(file.metadata() == Metadata{{"a", "b"}});
}

TEST_CASE("a net that is saved and loaded is the same net", "[io][weights]") {
  const TemporaryFolder folder;
  const auto net = some_net(1);
  auto other = some_net(2);
  REQUIRE(parameters_of(net) != parameters_of(other));
  save_parameters(net, folder / "double");
  load_parameters(other, SafetensorsFile(folder / "double", Strict::yes));
  CHECK(parameters_of(net) == parameters_of(other));
  save_parameters(other, folder / "again");
  CHECK(read_file(folder / "double") == read_file(folder / "again"));

  // Through a narrower scalar: what is there is what a cast gives.
  DeltaResNet<float> narrow({.inputs = 7, .outputs = 5, .width = 6, .value_channels = 3, .depth = 2}, 3);
  load_parameters(narrow, SafetensorsFile(folder / "double"));
  save_parameters(narrow, folder / "float");
  load_parameters(other, SafetensorsFile(folder / "float"));
  CHECK(parameters_of(other) == parameters_of(narrow));
  CHECK(parameters_of(net)[0].second.cast<float>().cast<double>() == parameters_of(narrow)[0].second);

  auto wider = some_net(2, 8);
  CHECK_THAT(error_of([&] { load_parameters(wider, SafetensorsFile(folder / "double")); }),
             ContainsSubstring(R"("embedding.weight" has shape [18, 7], expected [18, 8])"));
}

TEST_CASE("weights of the reference models are taken by name", "[io][weights][golden]") {
  const SafetensorsFile file(data_path("golden/dev_tc_ec_code.safetensors"));
  const std::string mlp = "param.transformer.h.0.mlp.c_fc1.", conv = "param.input_embed.conv.";
  Random random(1);
  Linear<float> first(16, 42, random, 1, false), taps(4, 64, random, 1, false);
  const auto under = [](const std::string& prefix) {
    return [prefix](std::string_view name) { return prefix + std::string(name); };
  };
  CHECK(load_parameters(first, file, under(mlp), Strict::no).missing.empty());
  const auto elements = file.read<double>(mlp + "weight");
  CHECK(first.weight(0, 1) == static_cast<float>(elements(1)));
  CHECK(first.weight(41, 2) == static_cast<float>(elements(41 * 16 + 2)));
  CHECK(load_parameters(taps, file, under(conv), Strict::no).missing.empty());
  CHECK(taps.weight(5, 3) == static_cast<float>(file.read<double>(conv + "weight")(5 * 4 + 3)));
}

TEST_CASE("a state that is saved and loaded goes on as the first one does", "[io][weights][state]") {
  const TemporaryFolder folder;
  const auto model = some_transformer();
  auto state = model.make_state(2);
  model.infer(two_texts, state);
  save_state(state, folder / "state");
  const std::vector<int> next = {2, 4};
  const Matrix<float> expected = model.infer(next, state);

  auto other = model.make_state(2);
  model.infer(std::vector<int>{0, 0}, other);
  load_state(other, SafetensorsFile(folder / "state", Strict::yes));
  CHECK(other.position == 3);
  CHECK(model.infer(next, other) == expected);
  CHECK(parameters_of(other) == parameters_of(state));

  // Positions of their own, and tokens that can be taken back.
  auto uneven = model.make_state(2, 9, 3), uneven_again = model.make_state(2, 9, 3);
  const std::vector<Index> offsets = {0, 1, 6};
  model.infer(TokenBatch{.tokens = two_texts, .offsets = offsets}, uneven);
  model.infer(next, uneven);
  save_state(uneven, folder / "uneven");
  load_state(uneven_again, SafetensorsFile(folder / "uneven", Strict::yes));
  CHECK(uneven_again.behind == std::vector<Index>{4, 0});
  CHECK(uneven_again.recent == 2);
  model.roll_back(uneven, 1);
  model.roll_back(uneven_again, 1);
  CHECK(model.infer(next, uneven_again) == model.infer(next, uneven));

  // A net whose parts remember nothing has a state of a position alone.
  const auto net = some_net(1);
  auto samples = net.make_state();
  net.infer(Vector<double>::Ones(7), samples);
  save_state(samples, folder / "samples");
  auto again = net.make_state();
  load_state(again, SafetensorsFile(folder / "samples"));
  CHECK(again.position == 1);
}

TEST_CASE("a state that does not fit is refused, and the state stays as it was",
          "[io][weights][state][errors]") {
  const TemporaryFolder folder;
  const auto model = some_transformer();
  auto state = model.make_state(2);
  model.infer(two_texts, state);
  save_state(state, folder / "state");
  const auto refused = [&](const auto& of, Index sequences, Index capacity) {
    auto into = of.make_state(sequences, capacity);
    of.infer(std::vector<int>(static_cast<std::size_t>(sequences), 1), into);
    const auto before = parameters_of(into);
    const std::string error = error_of([&] { load_state(into, SafetensorsFile(folder / "state")); });
    CHECK(into.position == 1);
    CHECK(parameters_of(into) == before);
    return error;
  };
  CHECK_THAT(refused(some_transformer(1), 2, 9), ContainsSubstring(R"(unexpected: tensor "layers.1.)"));
  CHECK_THAT(refused(some_transformer(3), 2, 9), ContainsSubstring(R"(missing: tensor "layers.2.)"));
  CHECK_THAT(refused(model, 1, 9),
             ContainsSubstring(R"(the metadata's sequences is "2", expected an integer of 1 to 1)"));
  CHECK_THAT(refused(model, 2, 8),
             ContainsSubstring(R"(the metadata's capacity is "9", expected an integer of 8 to 8)"));

  const auto with = [&](const char* key, const char* value) {
    const SafetensorsFile file(folder / "state");
    auto metadata = file.metadata();
    metadata[key] = value;
    save_parameters(state, folder / "changed", metadata);
    return error_of([&] { load_state(state, SafetensorsFile(folder / "changed")); });
  };
  CHECK_THAT(with("position", "10"),
             ContainsSubstring(R"(the metadata's position is "10", expected an integer of 0 to 9)"));
  CHECK_THAT(with("position", "-1"), ContainsSubstring("position"));
  CHECK_THAT(with("position", "x"), ContainsSubstring("position"));
  CHECK_THAT(with("behind.1", "4"),
             ContainsSubstring(R"(the metadata's behind.1 is "4", expected an integer of 0 to 3)"));
  CHECK_THAT(with("format", "x"), ContainsSubstring("holds no state"));
  save_parameters(model, folder / "model");
  CHECK_THAT(error_of([&] { load_state(state, SafetensorsFile(folder / "model")); }),
             ContainsSubstring("holds no state"));
  CHECK(state.position == 3);
}
