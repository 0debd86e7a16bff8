// SPDX-License-Identifier: MIT
/// @file  libFuzzer: the first byte picks a reader of data in ddl/io, which refuses the other bytes by a
/// std::runtime_error or reads them; what can be written again is read back alike.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <stdexcept>

#include "ddl/io/csv.hpp"
#include "ddl/io/idx.hpp"
#include "ddl/io/npy.hpp"
#include "ddl/io/text.hpp"

namespace {

using namespace ddl;

void require(bool holds) {
  if (!holds) std::abort();
}

void use_npy(std::string_view bytes) {
  const auto samples = parse_npy_samples<double>(bytes, "fuzz");
  const std::string written = npy_bytes(samples);
  const auto again = parse_npy<double>(written, "again");
  require(again.rows() == samples.rows() && again.cols() == samples.cols());
  require(npy_bytes(again) == written);  // NaN is not equal to itself
}

void use_csv(std::string_view bytes, const CsvSettings& settings) {
  const auto data = parse_csv<float>(bytes, "fuzz", settings);
  const auto view = data.view();
  require(view.size() > 0 && all_finite(view.inputs));
  require(data.class_count() == static_cast<Index>(data.class_names.size()));
}

void use_text(std::string_view bytes) {
  require(text_of_bytes(byte_tokens(bytes)) == bytes);
  const Vocabulary vocabulary(bytes, "fuzz");
  const auto tokens = vocabulary.encode(bytes);
  require(vocabulary.decode(tokens) == bytes);
  require(Vocabulary(vocabulary.characters()).encode(bytes) == tokens);
}

void read(unsigned reader, std::string_view bytes) {
  switch (reader) {
    case 0:
      return static_cast<void>(parse_idx_images<float>(bytes, "fuzz"));
    case 1:
      return static_cast<void>(parse_idx_labels(bytes, "fuzz"));
    case 2:
      return use_npy(bytes);
    case 3:
      return static_cast<void>(parse_npy_labels(bytes, "fuzz"));
    case 4:
      return use_csv(bytes, {});
    case 5:
      return use_csv(bytes, {.label = "a"});
    case 6:
      return use_csv(bytes, {.label = "a", .class_names = {"x", "1"}});
    default:
      return use_text(bytes);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  // A copy of its own, so that a read beyond the end is seen.
  const std::vector<char> bytes(data + 1, data + size);
  try {
    read(data[0] % 8u, {bytes.data(), bytes.size()});
  } catch (const std::runtime_error& error) {
    require(std::string_view(error.what()).starts_with("fuzz: "));
  }
  return 0;
}
