// SPDX-License-Identifier: MIT
/// @file  libFuzzer: checkpoints. The input is the metadata's `run`, `data` and `settings`, a line each, and
/// after a zero byte changes to the file, three bytes each: two for the place, one for the value. The file is
/// refused by a FileError, and the run stays as it was, or it is restored and saved again to the same.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../tests/support/toy_data.hpp"
#include "ddl/io/checkpoint.hpp"
#include "ddl/model/delta_resnet.hpp"

namespace {

using namespace ddl;
using Net = DeltaResNet<float>;

void require(bool holds) {
  if (!holds) std::abort();
}

Net net() { return Net({.inputs = 2, .outputs = 1, .width = 2, .value_channels = 2, .depth = 1}, 3); }

std::vector<std::byte> file_of(const TrainingRun<Net>& run, std::string_view text, bool checksums) {
  SafetensorsWriter writer;
  writer.checksums = checksums;
  writer.metadata = {{"format", "ddl checkpoint"},
                     {"version", std::to_string(detail::checkpoint_version)},
                     {"scalar", "F32"}};
  for (const char* key : {"run", "data", "settings"}) {
    const auto end = (std::min)(text.find('\n'), text.size());
    writer.metadata[key] = std::string(text.substr(0, end));
    text.remove_prefix((std::min)(end + 1, text.size()));
  }
  for_each_parameter(
      [&](const ParameterPath& place, const auto& p) { writer.add(place.str(), p, place.is_vector()); }, run);
  return writer.bytes();
}

bool same(const TrainingRun<Net>& a, const TrainingRun<Net>& b) {
  bool equal = a.step == b.step && a.optimizer.steps == b.optimizer.steps;
  for_each_parameter([&](const ParameterPath&, const auto& p, const auto& q) { equal = equal && p == q; }, a,
                     b);
  return equal;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const TrainingRun<Net> before{net()};
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view text = input.substr(0, input.find('\0'));
  std::span<const std::uint8_t> changes(data + text.size(), size - text.size());
  if (!changes.empty()) changes = changes.subspan(1);
  std::vector<std::byte> bytes;
  try {
    bytes = file_of(before, text, true);
  } catch (const std::invalid_argument&) {  // no UTF-8
    return 0;
  }
  bool changed = false;
  for (; changes.size() >= 3; changes = changes.subspan(3)) {
    std::byte& byte = bytes[(changes[0] + 256u * changes[1]) % bytes.size()];
    changed = changed || byte != std::byte{changes[2]};
    byte = std::byte{changes[2]};
  }
  TrainingRun<Net> run = before;
  test::ToyData<float> position;
  try {
    const Checkpoint checkpoint(SafetensorsFile(FileContents("fuzz", bytes)));
    checkpoint.restore(run, position);
    require(run.step >= 0 && run.optimizer.steps >= 0);
    for_each_parameter([](const ParameterPath&, const auto& p, const auto& q) { require(p == q); }, run,
                       before);
    position.next();  // ends
    Net alone = net();
    checkpoint.restore_model(alone);
  } catch (const FileError& error) {
    require(std::string_view(error.what()).starts_with("fuzz: "));
    require(same(run, before));
  }
  return 0;
}
