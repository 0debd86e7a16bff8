// SPDX-License-Identifier: MIT
#include "../../examples/reference.hpp"

#include <functional>
#include <nlohmann/json.hpp>

#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

namespace {

struct Stored {
  std::string dtype;
  TensorShape shape;
  std::vector<std::byte> bytes;

  /// With a shape of its own, and its bytes cut to fit, or filled up with zeros.
  void reshape(const TensorShape& wanted) {
    std::size_t count = 1, now = 1;
    for (const auto size : wanted) count *= static_cast<std::size_t>(size);
    for (const auto size : shape) now *= static_cast<std::size_t>(size);
    bytes.resize(bytes.size() / now * count);
    shape = wanted;
  }
};
using Stores = std::map<std::string, Stored>;

SafetensorsFile golden() { return SafetensorsFile(data_path("golden/dev_cc_ec_paper.safetensors")); }

SafetensorsFile golden_time(const std::string& name) {
  return SafetensorsFile(data_path("golden_time/dev_" + name + ".safetensors"));
}

/// The file with its tensors changed by f.
SafetensorsFile changed(const std::function<void(Stores&, Metadata&)>& f,
                        const SafetensorsFile& file = golden()) {
  Stores tensors;
  Metadata metadata = file.metadata();
  for (const std::string& name : file.names()) {
    const auto bytes = file.bytes(name);
    tensors[name] = {file.tensor(name).dtype, file.tensor(name).shape, {bytes.begin(), bytes.end()}};
  }
  f(tensors, metadata);
  SafetensorsWriter writer;
  writer.metadata = metadata;
  for (const auto& [name, tensor] : tensors) writer.add(name, tensor.dtype, tensor.shape, tensor.bytes);
  return SafetensorsFile(FileContents("bad", writer.bytes()));
}

/// What is wrong with the file, or "fails" if its numbers are, or "passes".
std::string verdict(const SafetensorsFile& file) {
  reference::Errors errors;
  const std::string message = error_of([&] { errors = reference::Reference<double>(file).errors(); });
  if (message != "no error") return message;
  for (const double error :
       {errors.logits, errors.hidden.value_or(0), errors.loss, errors.gradients, errors.tokens})
    if (!(error <= 1e-10)) return "fails";
  return "passes";
}

std::string reshaped(const std::string& name, const TensorShape& shape) {
  return verdict(changed([&](Stores& tensors, Metadata&) { tensors.at(name).reshape(shape); }));
}

template <class T>
std::string with_number(const std::string& name, std::size_t at, T value) {
  return verdict(changed([&](Stores& tensors, Metadata&) {
    REQUIRE(tensors.at(name).bytes.size() >= (at + 1) * sizeof(T));
    detail::store_little(value, tensors.at(name).bytes.data() + at * sizeof(T));
  }));
}

}  // namespace

TEST_CASE("a file of reference numbers passes", "[examples][reference]") {
  CHECK(verdict(golden()) == "passes");
  CHECK(verdict(changed([](Stores&, Metadata&) {})) == "passes");
  CHECK(reshaped("loss", {}) == "passes");
}

TEST_CASE("files of the models over time pass", "[examples][reference]") {
  for (const std::string name : {"delta_net", "delta_net_neg_gate", "delta_product", "gated_delta_net",
                                 "gated_delta_net_neg", "gated_delta_product"}) {
    CAPTURE(name);
    CHECK(verdict(golden_time(name)) == "passes");
    CHECK_FALSE(reference::is_rounded(golden_time(name)));
  }
}

TEST_CASE("a file of a model over time may be without prefix and targets, and in float",
          "[examples][reference]") {
  const SafetensorsFile file = golden_time("gated_delta_product");
  const auto without_prefix = changed(
      [](Stores& tensors, Metadata&) {
        Stores renamed;
        for (auto& [name, tensor] : tensors)
          renamed[name.starts_with("param.") ? name.substr(6) : name] = std::move(tensor);
        tensors = std::move(renamed);
      },
      file);
  CHECK(verdict(without_prefix) == "passes");

  const auto without_targets = changed([](Stores& tensors, Metadata&) { tensors.erase("targets"); }, file);
  const auto with_next_tokens = changed(
      [](Stores& tensors, Metadata&) {
        const Stored& idx = tensors.at("idx");
        Stored& targets = tensors.at("targets");
        const std::size_t length = idx.shape[1], count = idx.shape[0] * length;
        for (std::size_t n = 0; n < count; ++n) {
          std::byte* const target = targets.bytes.data() + 4 * n;
          if ((n + 1) % length == 0)
            detail::store_little(-1, target);
          else
            std::copy_n(idx.bytes.data() + 4 * (n + 1), 4, target);
        }
      },
      file);
  const auto given = reference::Reference<double>(with_next_tokens).errors(),
             derived = reference::Reference<double>(without_targets).errors();
  CHECK(derived.loss == given.loss);
  CHECK(derived.gradients == given.gradients);

  const auto in_float = changed(
      [&](Stores& tensors, Metadata&) {
        for (auto& [name, tensor] : tensors) {
          if (tensor.dtype != "F64") continue;
          const Vector<float> numbers = file.read<float>(name);
          tensor.dtype = "F32";
          tensor.bytes.resize(4 * static_cast<std::size_t>(numbers.size()));
          for (Index i = 0; i < numbers.size(); ++i)
            detail::store_little(numbers[i], tensor.bytes.data() + 4 * static_cast<std::size_t>(i));
        }
      },
      file);
  CHECK(reference::is_rounded(in_float));
  const auto errors = reference::Reference<double>(in_float).errors();
  CHECK(errors.logits <= 2e-5);
  CHECK(errors.gradients <= 1e-4);
  CHECK(errors.tokens == 0);
}

TEST_CASE("every tensor of a file over time must be there, and no other", "[examples][reference]") {
  const SafetensorsFile file = golden_time("delta_net");
  for (const std::string& name : file.names()) {
    if (name == "targets") continue;
    CAPTURE(name);
    CHECK_THAT(verdict(changed([&](Stores& tensors, Metadata&) { tensors.erase(name); }, file)),
               ContainsSubstring("tensor \"" + name + "\""));
  }
  CHECK(verdict(changed([](Stores& tensors, Metadata&) { tensors["hidden.0"] = tensors["logits"]; }, file)) ==
        "bad: tensor \"hidden.0\" is not read by anything");
}

TEST_CASE("every tensor of a reference file must have its shape", "[examples][reference]") {
  const auto refused = [](const std::string& name, const TensorShape& shape, const std::string& expected) {
    CAPTURE(name, detail::tensor_shape_text(shape));
    CHECK(reshaped(name, shape) == "bad: tensor \"" + name + "\": has shape " +
                                       detail::tensor_shape_text(shape) + ", expected " + expected);
  };
  for (const TensorShape& shape :
       {TensorShape{0}, {13}, {1, 0}, {1, 5}, {1, 12}, {1, 14}, {2, 13}, {13, 1}, {}})
    refused("greedy", shape, "[1, 13]");
  for (const TensorShape& shape :
       {TensorShape{0}, {2, 11}, {22, 29}, {2, 29, 11}, {11, 2, 29}, {2, 10, 29}, {}})
    refused("logits", shape, "[2, 11, 29]");
  for (const std::string name : {"hidden.0", "hidden.1", "hidden.2"})
    for (const TensorShape& shape :
         {TensorShape{0}, {2, 11}, {22, 16}, {11, 2, 16}, {2, 16, 11}, {2, 11, 15}})
      refused(name, shape, "[2, 11, 16]");
  for (const TensorShape& shape : {TensorShape{0}, {22}, {11, 2}, {2, 10}, {2, 11, 1}, {}})
    refused("targets", shape, "[2, 11]");
  for (const TensorShape& shape : {TensorShape{0}, {2}, {1, 1}}) refused("loss", shape, "[1]");
  for (const TensorShape& shape : {TensorShape{0}, {22}, {0, 11}, {2, 0}, {2, 4}, {2, 11, 1}})
    refused("idx", shape, "[B, T], T at least 5");
}

TEST_CASE("every tensor of a reference file must be there, and no other", "[examples][reference]") {
  for (const std::string& name : golden().names()) {
    CAPTURE(name);
    const std::string message = verdict(changed([&](Stores& tensors, Metadata&) { tensors.erase(name); }));
    CHECK_THAT(message, ContainsSubstring("tensor \"" + name + "\""));
  }
  CHECK(verdict(changed([](Stores& tensors, Metadata&) { tensors["hidden.3"] = tensors["hidden.2"]; })) ==
        "bad: tensor \"hidden.3\" is not read by anything");
}

TEST_CASE("every number of a reference file counts", "[examples][reference]") {
  const SafetensorsFile file = golden();
  for (const std::string& name : file.names()) {
    if (name.starts_with("param.") || file.tensor(name).dtype != "F64") continue;
    CAPTURE(name);
    const auto count = static_cast<std::size_t>(file.read<double>(name).size());
    CHECK(with_number(name, count - 1, 1.0 + file.read<double>(name)(static_cast<Index>(count - 1))) ==
          "fails");
    CHECK(with_number(name, 0, std::nan("")) == "fails");
  }
  for (std::size_t i = 0; i < 13; ++i)
    CHECK(with_number("greedy", i, static_cast<int>(28 - i % 2)) != "passes");
}

TEST_CASE("tokens and settings out of range are told of the file", "[examples][reference]") {
  for (const int token : {-1, 29, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()})
    CHECK(with_number("idx", 3, token).starts_with("bad: "));
  for (const int target : {-2, 29, std::numeric_limits<int>::max()})
    CHECK(with_number("targets", 3, target).starts_with("bad: "));
  const auto with = [](const std::string& key, const nlohmann::json& value) {
    return verdict(changed([&](Stores&, Metadata& metadata) {
      auto config = nlohmann::json::parse(metadata.at("config"));
      config[key] = value;
      metadata.at("config") = config.dump();
    }));
  };
  for (const int context : {1, 10, 12}) CHECK(with("block_size", context).starts_with("bad: "));
  CHECK(with("block_size", 2'000'000'000) == "passes");  // takes no memory
  CHECK(with("rope_ratio", 2).starts_with("bad: "));
  CHECK(with("rope_base", 0).starts_with("bad: "));
}
