// SPDX-License-Identifier: MIT
/// @file  libFuzzer: any bytes are either refused by a FileError or read, and then written and read back
/// alike.
#include "ddl/io/safetensors.hpp"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void use(const ddl::SafetensorsFile& file) {
  ddl::SafetensorsWriter writer;
  writer.metadata = file.metadata();
  bool known = true;
  for (const std::string& name : file.names()) {
    const ddl::TensorInfo& info = file.tensor(name);
    const auto bytes = file.bytes(name);
    // Integers that do not fit, dtypes that are no numbers and shapes that are no matrix are refused.
    const auto read = [&](auto scalar) {
      try {
        using Scalar = decltype(scalar);
        const auto elements = file.read<Scalar>(name);
        require(file.read_matrix<Scalar>(name).size() == elements.size());
      } catch (const ddl::FileError&) {
      }
    };
    read(float{});
    read(Eigen::half{});
    read(std::int8_t{});
    known = known && ddl::detail::find_dtype(info.dtype);
    if (known) writer.add(name, info.dtype, info.shape, {bytes.begin(), bytes.end()});
  }
  if (!known) return;
  const auto written = writer.bytes();
  const ddl::SafetensorsFile again(ddl::FileContents("again", written), ddl::Strict::yes);
  require(again.metadata() == file.metadata() && again.names() == file.names());
  for (const std::string& name : file.names()) {
    const auto a = file.bytes(name), b = again.bytes(name);
    require(std::equal(a.begin(), a.end(), b.begin(), b.end()));
    require(again.tensor(name).shape == file.tensor(name).shape);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const ddl::FileContents contents("fuzz", std::as_bytes(std::span(data, size)));
  for (const ddl::Strict strict : {ddl::Strict::no, ddl::Strict::yes}) {
    try {
      use(ddl::SafetensorsFile(contents, strict));
    } catch (const ddl::FileError& error) {
      require(std::string(error.what()).starts_with("fuzz: "));
    }
  }
  return 0;
}
