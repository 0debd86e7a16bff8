// SPDX-License-Identifier: MIT
/// @file  What readers of other programs' models share: settings out of a JSON config, tensors by other
/// names, and the comparison of every shape with the file's before a model is made.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "ddl/io/weights.hpp"

namespace ddl::detail {

/// How a reader takes a setting that is null.
enum class Null { is_a_value, is_the_default };

/// Takes settings out of a JSON object one by one, so that in the end those that nobody knows are left.
class ConfigReader {
 public:
  ConfigReader(const char* where_, nlohmann::json config, Null null = Null::is_a_value)
      : where(where_), left_(std::move(config)), null_(null) {
    if (!left_.is_object()) fail(where, "the config", json_text(left_), "a JSON object");
  }

  /// A size: so large at most that the product of two is a 64-bit number.
  Index number(const char* key, Index otherwise, Index least = 1, Index most = largest) {
    return json_integer(where, key, take(key, otherwise), least, most);
  }
  double number(const char* key, double otherwise) { return json_number(where, key, take(key, otherwise)); }
  bool flag(const char* key, bool otherwise) { return json_flag(where, key, take(key, otherwise)); }
  nlohmann::json take(const char* key, nlohmann::json otherwise) {
    const auto found = left_.find(key);
    if (found == left_.end()) return otherwise;
    nlohmann::json value = std::move(*found);
    left_.erase(found);
    return value.is_null() && null_ == Null::is_the_default ? otherwise : value;
  }
  /// A setting of which one value is provided for.
  void only(const char* key, const nlohmann::json& expected) {
    const nlohmann::json value = take(key, expected);
    if (value != expected) fail(where, key, json_text(value), json_text(expected));
  }
  void finish() const {
    if (!left_.empty())
      fail(where, "the config", json_text(left_), "nothing besides the settings that are known");
  }

  static constexpr Index largest = (std::numeric_limits<std::int32_t>::max)();
  const char* const where;

 private:
  nlohmann::json left_;
  Null null_;
};

/// The settings of type S: `settings` themselves, or the alternative that a variant holds; null if it holds
/// another.
template <class S, class Settings>
const S* chosen(const Settings& settings) {
  if constexpr (std::is_same_v<S, Settings>)
    return &settings;
  else
    return std::get_if<S>(&settings);
}

/// `name` with the first of the beginnings that it has replaced, ours by theirs.
inline std::string renamed(std::string_view name,
                           std::span<const std::pair<std::string, std::string>> beginnings) {
  for (const auto& [ours, theirs] : beginnings)
    if (name.starts_with(ours)) return theirs + std::string(name.substr(ours.size()));
  return std::string(name);
}

/// "param." if a tensor's name begins so, as in files of reference numbers.
template <TensorSource Source>
std::string parameter_prefix(const Source& file) {
  const auto names = file.names();
  const auto is_parameter = [](const auto& name) { return name.starts_with("param."); };
  return std::any_of(names.begin(), names.end(), is_parameter) ? "param." : "";
}

/// Compares every shape that the settings ask for with the file's, so that a model takes no more memory than
/// its file justifies. for_each_tensor(layer, f) calls f(name, shape) for each tensor of a layer, or if
/// `layer` is below 0 for those outside of the layers.
/// @throws FileError that lists what does not fit, up to the first layer where anything does not.
template <TensorSource Source, class F>
void check_tensors(const Source& file, Index layers, const std::string& prefix, const F& for_each_tensor) {
  std::string problems;
  for (Index layer = -1; layer < layers && problems.empty(); ++layer)
    for_each_tensor(layer, [&](const std::string& theirs, const TensorShape& wanted) {
      const std::string name = prefix + theirs;
      problems += fit_problem(file, stored_tensor(file, name), name, wanted, true);
    });
  if (!problems.empty()) throw FileError(file.file(), "does not fit its own config" + problems);
}

/// Fills a language model from the tensors PREFIX + map(name), or leaves it as it was. A tied head,
/// lm_head.weight, may be there if it is the embedding.
/// @throws FileError if a tensor is missing or misshapen, or one with the prefix belongs to nothing and is
/// not unused(name).
template <class Model, TensorSource Source, class Map, class Unused>
void load_by_names(Model& model, const Source& file, const std::string& prefix, const Map& map,
                   const Unused& unused) {
  Model read = model;
  const LoadReport report = load_parameters(
      read, file, [&](std::string_view name) { return prefix + map(name); }, Strict::no);
  std::string problems;
  for (const std::string& name : report.missing)
    problems += "\n  missing: tensor " + in_quotes(prefix + map(name));
  for (const std::string& name : report.unexpected)
    if (name.starts_with(prefix) && !unused(std::string_view(name).substr(prefix.size())))
      problems += "\n  unexpected: tensor " + in_quotes(name);
  if (!problems.empty()) throw FileError(file.file(), "does not fit the model" + problems);
  const std::string head = prefix + "lm_head.weight";
  if (model.settings.tie_embeddings && file.contains(head) &&
      file.template read_matrix<typename Model::Scalar>(head) != read.embedding.weight)
    throw FileError(file.file(), "tensor " + in_quotes(head) +
                                     " is not the embedding's weight, expected the same: they are tied");
  model = std::move(read);
}

/// Writes every parameter under map(name), whole or not at all: the weight of a convolution,
/// is_convolution(map(name)), in the shape of PyTorch's Conv1d, channels x 1 x K. @throws FileError
template <class Model, class Map, class IsConvolution>
void save_by_names(const Model& model, const std::string& path, const Metadata& metadata, const Map& map,
                   const IsConvolution& is_convolution) {
  using Scalar = typename Model::Scalar;
  SafetensorsWriter writer;
  writer.metadata = metadata;
  for_each_parameter(
      [&](const ParameterPath& place, const auto& p) {
        const std::string name = map(place.str());
        if (!is_convolution(name)) return writer.add(name, p, place.is_vector());
        std::vector<std::byte> bytes(static_cast<std::size_t>(p.size()) * sizeof(Scalar));
        for (Index i = 0; i < p.size(); ++i)
          store_little<Scalar>(p(i / p.cols(), i % p.cols()),
                               bytes.data() + static_cast<std::size_t>(i) * sizeof(Scalar));
        TensorShape shape = shape_of(p, false);
        shape.insert(shape.begin() + 1, 1);
        writer.add(name, dtype_of<Scalar>(), shape, std::move(bytes));
      },
      model);
  writer.save(path);
}

}  // namespace ddl::detail
