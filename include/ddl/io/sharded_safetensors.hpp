// SPDX-License-Identifier: MIT
/// @file  A model's weights in several safetensors files (shards) of one folder, read as one set of tensors.
/// @source huggingface.co/docs/huggingface_hub/package_reference/serialization: shards and their index.
///
///     model.safetensors.index.json         {"metadata": {"total_size": bytes of all tensors},
///                                           "weight_map": {name of a tensor: name of its shard's file, ...}}
///     model-00001-of-00002.safetensors     some of the tensors
///     model-00002-of-00002.safetensors     the others
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include "ddl/io/json.hpp"
#include "ddl/io/safetensors.hpp"

namespace ddl {

namespace detail {

/// The file of weights at `path`, in it if it is a folder. @throws FileError if there is none in the folder.
inline std::string weights_at(const std::string& path) {
  const auto native = path_of(path);
  std::error_code unknown;
  if (!std::filesystem::is_directory(native, unknown)) return path;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"})
    if (std::filesystem::exists(native / name, unknown)) return name_of(native / name);
  throw FileError(path,
                  "is a folder, expected \"model.safetensors\" or \"model.safetensors.index.json\" in it");
}

/// Whether this is the name of a shard, and no path or anything else that leads out of the folder.
inline bool is_shard_name(std::string_view name) {
  using namespace std::string_view_literals;
  return name.ends_with(".safetensors") && name.find_first_of("/\\:\0"sv) == std::string_view::npos;
}

}  // namespace detail

/// All tensors of one or more safetensors files. It is a TensorSource: load_parameters takes it as it takes a
/// SafetensorsFile. Copies share the bytes. The index and every shard are checked on construction.
///
///     const ddl::ShardedSafetensors weights("folder", ddl::Strict::no, ddl::Access::map);
///     ddl::load_parameters(model, weights);
class ShardedSafetensors {
 public:
  /// `path` is an index (its name ends in ".json"), a safetensors file, which is then the only shard, or a
  /// folder that holds "model.safetensors" or, without it, "model.safetensors.index.json". The index may be
  /// 32 MiB long.
  /// @throws FileError if the index or a shard breaks a rule of its format, a shard's name is not that of a
  /// .safetensors file in the index's folder, a tensor is not in the one shard that the index names or is in
  /// another one, too, or "total_size", if it is there, is not the number of bytes of all tensors.
  explicit ShardedSafetensors(const std::string& path, Strict strict = Strict::no,
                              Access access = Access::read)
      : file_(detail::weights_at(path)) {
    if (!file_.ends_with(".json")) {
      const auto only = std::make_shared<const SafetensorsFile>(file_, strict, access);
      metadata_ = only->metadata();
      for (const std::string& name : only->names()) shards_.emplace(name, only);
      return;
    }
    const nlohmann::json index = detail::read_json_object(file_, std::size_t{32} << 20);
    const auto shard_names = read_weight_map(index);
    const auto folder = detail::path_of(file_).parent_path();
    Shards shards;
    for (const auto& [tensor, name] : shard_names) {
      Shard& shard = shards[name];
      if (!shard)
        shard = std::make_shared<const SafetensorsFile>(detail::name_of(folder / detail::path_of(name)),
                                                        strict, access);
      shards_.emplace(tensor, shard);
    }
    check_tensors(shards);
    read_metadata(index, shards);
  }

  /// The path of the index, or of the only file.
  const std::string& file() const noexcept { return file_; }
  /// The entries of the index that are text, and of all shards. Entries of one key are the same everywhere.
  const Metadata& metadata() const noexcept { return metadata_; }
  /// In ascending order.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    names.reserve(shards_.size());
    for (const auto& [name, shard] : shards_) names.push_back(name);
    return names;
  }
  /// Whether there is such a tensor.
  bool contains(std::string_view name) const { return shards_.contains(name); }

  /// The file that holds a tensor. @throws FileError if there is no such tensor; so do the functions below.
  const SafetensorsFile& shard(std::string_view name) const {
    const auto found = shards_.find(name);
    if (found == shards_.end()) detail::fail_tensor(file_, name, "is not in the file");
    return *found->second;
  }
  /// TensorInfo's `begin` and `end` are offsets in the tensor's shard.
  const TensorInfo& tensor(std::string_view name) const { return shard(name).tensor(name); }

  // These are SafetensorsFile's.
  /// See SafetensorsFile::bytes.
  std::span<const std::byte> bytes(std::string_view name) const { return shard(name).bytes(name); }
  /// See SafetensorsFile::read.
  template <class Scalar>
  Vector<Scalar> read(std::string_view name) const {
    return shard(name).read<Scalar>(name);
  }
  /// See SafetensorsFile::read_matrix.
  template <class Scalar>
  Matrix<Scalar> read_matrix(std::string_view name) const {
    return shard(name).read_matrix<Scalar>(name);
  }
  /// See SafetensorsFile::read_into.
  template <class Derived>
  void read_into(std::string_view name, Eigen::DenseBase<Derived>& matrix) const {
    shard(name).read_into(name, matrix);
  }

 private:
  using Shard = std::shared_ptr<const SafetensorsFile>;
  using Shards = std::map<std::string, Shard>;  ///< by the file's name

  /// The name of each tensor's shard.
  std::map<std::string, std::string> read_weight_map(const nlohmann::json& index) const {
    const auto weight_map = index.find("weight_map");
    if (weight_map == index.end() || !weight_map->is_object())
      throw FileError(file_, "weight_map is " +
                                 (weight_map == index.end() ? "missing" : detail::json_text(*weight_map)) +
                                 ", expected a JSON object");
    std::map<std::string, std::string> shard_names;
    for (const auto& [tensor, name] : weight_map->items()) {
      if (!name.is_string() || !detail::is_shard_name(name.get<std::string>()))
        detail::fail_tensor(file_, tensor,
                            "is said to be in " + detail::json_text(name) +
                                ", expected the name of a .safetensors file in the same folder");
      shard_names.emplace(tensor, name.get<std::string>());
    }
    return shard_names;
  }

  /// Every tensor is in the shard that the index names, and in no other.
  void check_tensors(const Shards& shards) const {
    for (const auto& [tensor, shard] : shards_)
      if (!shard->contains(tensor))
        detail::fail_tensor(file_, tensor, "is not in " + detail::in_quotes(shard->file()) + ", its shard");
    for (const auto& [name, shard] : shards)
      for (const std::string& tensor : shard->names()) {
        const auto named = shards_.find(tensor);
        if (named == shards_.end())
          detail::fail_tensor(file_, tensor,
                              "is in " + detail::in_quotes(shard->file()) + " and not in the index");
        if (named->second != shard)
          detail::fail_tensor(file_, tensor,
                              "is in " + detail::in_quotes(shard->file()) + " and in " +
                                  detail::in_quotes(named->second->file()) + ", expected one of them");
      }
  }

  void read_metadata(const nlohmann::json& index, const Shards& shards) {
    const nlohmann::json entries = index.value("metadata", nlohmann::json::object());
    if (!entries.is_object())
      throw FileError(file_, "metadata is " + detail::json_text(entries) + ", expected a JSON object");
    std::uint64_t total = 0;
    for (const auto& [tensor, shard] : shards_) total += shard->bytes(tensor).size();
    if (const auto stated = entries.find("total_size"); stated != entries.end() && *stated != total)
      throw FileError(file_, "metadata total_size is " + detail::json_text(*stated) + ", expected " +
                                 std::to_string(total) + ", the bytes of all tensors");

    const auto add = [&](const std::string& file, const std::string& key, const std::string& value) {
      const auto [entry, is_new] = metadata_.emplace(key, value);
      if (entry->second != value)
        throw FileError(file, "metadata " + detail::in_quotes(key) + " is " + detail::in_quotes(value) +
                                  ", expected " + detail::in_quotes(entry->second) +
                                  " as in another file of " + detail::in_quotes(file_));
    };
    for (const auto& [key, value] : entries.items())
      if (value.is_string()) add(file_, key, value.get<std::string>());
    for (const auto& [name, shard] : shards)
      for (const auto& [key, value] : shard->metadata()) add(shard->file(), key, value);
  }

  std::string file_;
  Metadata metadata_;
  std::map<std::string, Shard, std::less<>> shards_;  ///< by the tensor's name
};

}  // namespace ddl
