// SPDX-License-Identifier: MIT
/// @file  The settings of a model in Hugging Face's form: a JSON object, in a safetensors file or beside it.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "ddl/io/json.hpp"
#include "ddl/io/safetensors.hpp"
#include "ddl/io/sharded_safetensors.hpp"

namespace ddl {

/// The JSON object in the metadata's entry "config" or, without this entry, in the file "config.json" in the
/// folder of `source`. The object may be nested 128 levels deep, and the file 1 MiB long.
/// @throws FileError if neither is there, or one is not a JSON object.
template <TensorSource Source>
nlohmann::json read_model_config(const Source& source) {
  const auto entry = source.metadata().find("config");
  if (entry == source.metadata().end()) {
    const auto path = detail::path_of(source.file()).parent_path() / "config.json";
    return detail::read_json_object(detail::name_of(path), std::size_t{1} << 20);
  }
  return detail::parse_json_object(entry->second, source.file(), "metadata config ");
}

/// The same of the weights at `path`, which is a file, an index or a folder as in ShardedSafetensors.
inline nlohmann::json read_model_config(const std::string& path) {
  return read_model_config(ShardedSafetensors(path, Strict::no, Access::map));
}

}  // namespace ddl
