// SPDX-License-Identifier: MIT
/// @file  libFuzzer: files of reference numbers, examples/reference.hpp. The input is the variant and the
/// config, a line each, either empty for what fits the tensors, and after a zero byte changes to the tensors,
/// four bytes each. The file is refused by a FileError, or its errors are computed.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../examples/reference.hpp"

namespace {

using namespace ddl;

void require(bool holds) {
  if (!holds) std::abort();
}

struct Stored {
  std::string dtype;
  TensorShape shape;
  std::vector<std::byte> bytes;

  std::size_t element() const { return dtype == "I32" ? 4 : 8; }
  void resize(std::uint64_t count) { bytes.resize(static_cast<std::size_t>(count) * element()); }
};

/// Of a small model; what a reference would have computed is zero.
struct File {
  Metadata metadata;
  std::map<std::string, Stored> tensors;

  File() {
    DeltaTransformerSettings<> settings = settings_of(Variant::tc_ec);
    settings.vocabulary = 5;
    settings.context = 16;
    settings.layers = 1;
    settings.width = 3;
    settings.value_channels = 2;
    settings.mixer.heads = 1;
    settings.mixer.head_dim = 2;
    const DeltaTransformer<double> model(settings, 3);
    metadata = transformer_metadata(settings);
    const auto zeros = [&](const std::string& name, const std::string& dtype, TensorShape shape) {
      Stored& tensor = tensors[name] = {dtype, std::move(shape), {}};
      std::uint64_t count = 1;
      for (const auto size : tensor.shape) count *= size;
      tensor.resize(count);
    };
    for_each_parameter(
        [&](const ParameterPath& place, const auto& p) {
          const std::string name = transformer_name(settings, place.str());
          SafetensorsWriter writer;
          writer.add("a", p, place.is_vector());
          const SafetensorsFile written(FileContents("a", writer.bytes()));
          const auto bytes = written.bytes("a");
          tensors["param." + name] = {"F64", written.tensor("a").shape, {bytes.begin(), bytes.end()}};
          zeros("grad." + name, "F64", written.tensor("a").shape);
        },
        model);
    zeros("idx", "I32", {1, 6});
    zeros("targets", "I32", {1, 6});
    zeros("greedy", "I32", {1, 13});
    zeros("logits", "F64", {1, 6, 5});
    zeros("loss", "F64", {1});
    for (const std::string name : {"hidden.0", "hidden.1"}) zeros(name, "F64", {1, 6, 3});
  }
};

/// Removes a tensor, renames it, resizes one dimension, adds or removes one, or sets a byte.
void change(File& file, std::span<const std::uint8_t> how) {
  if (file.tensors.empty()) return;
  const auto at = std::next(file.tensors.begin(), static_cast<std::ptrdiff_t>(how[1] % file.tensors.size()));
  Stored& tensor = at->second;
  switch (how[0] % 6) {
    case 0:
      file.tensors.erase(at);
      return;
    case 1:
      file.tensors[at->first + static_cast<char>('0' + how[2] % 10)] = tensor;
      return;
    case 2:
      if (!tensor.shape.empty()) tensor.shape[how[2] % tensor.shape.size()] = how[3];
      break;
    case 3:
      tensor.shape.push_back(how[3]);
      break;
    case 4:
      if (!tensor.shape.empty()) tensor.shape.pop_back();
      break;
    default:
      if (!tensor.bytes.empty()) tensor.bytes[how[2] % tensor.bytes.size()] = std::byte{how[3]};
      return;
  }
  std::uint64_t count = 1;
  for (const auto size : tensor.shape) count *= size;
  if (count > 10'000) tensor.shape = {0}, count = 0;
  tensor.resize(count);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const File original;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view text = input.substr(0, input.find('\0'));
  std::span<const std::uint8_t> changes(data + text.size(), size - text.size());
  if (!changes.empty()) changes = changes.subspan(1);
  File file = original;
  const auto line = (std::min)(text.find('\n'), text.size());
  const std::string variant(text.substr(0, line));
  const std::string config(text.substr((std::min)(line + 1, text.size())));
  if (!variant.empty()) file.metadata["variant"] = variant;
  if (!config.empty()) file.metadata["config"] = config;
  for (; changes.size() >= 4; changes = changes.subspan(4)) change(file, changes.first(4));
  SafetensorsWriter writer;
  writer.metadata = file.metadata;
  std::vector<std::byte> bytes;
  try {
    for (const auto& [name, tensor] : file.tensors)
      writer.add(name, tensor.dtype, tensor.shape, tensor.bytes);
    bytes = writer.bytes();
  } catch (const std::invalid_argument&) {  // no UTF-8
    return 0;
  }
  try {
    const SafetensorsFile written(FileContents("fuzz", bytes));
    const reference::Errors errors = reference::Reference<float>(written).errors();
    require(errors.tokens >= 0);
  } catch (const FileError& error) {
    require(std::string_view(error.what()).starts_with("fuzz: "));
  }
  return 0;
}
