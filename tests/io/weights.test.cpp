// SPDX-License-Identifier: MIT
#include "ddl/io/weights.hpp"

#include "ddl/model/delta_resnet.hpp"
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
