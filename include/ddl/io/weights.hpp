// SPDX-License-Identifier: MIT
/// @file  A model's parameters, or the state of its inference, in a safetensors file, by name.
///
/// A parameter's name is for_each_parameter's, "layers.3.gate.out.weight"; a NameMap turns it into the name
/// in the file. Shapes are PyTorch's: a matrix W is [rows, cols] = [out, in], row-major in the file and
/// column-major here; a bias or a norm's weight is [size].
#pragma once

#include <algorithm>
#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/core/parameters.hpp"
#include "ddl/io/json.hpp"
#include "ddl/io/safetensors.hpp"

namespace ddl {

/// From a parameter's name to that in the file. An empty function leaves names as they are.
using NameMap = std::function<std::string(std::string_view)>;

/// What load_parameters left out: parameters that are not in the file, tensors that are in no parameter.
struct LoadReport {
  std::vector<std::string> missing, unexpected;  ///< the model's names, and the file's
};

namespace detail {

inline std::string stored_name(const NameMap& map, const std::string& name) { return map ? map(name) : name; }

/// Whether a tensor of this shape can be had for a parameter stored as `wanted`: the weight of a depthwise
/// convolution, (channels, 1, K) in PyTorch, is a channels x K matrix here.
inline bool shape_fits(const TensorShape& shape, const TensorShape& wanted) {
  return shape == wanted || (wanted.size() == 2 && shape == TensorShape{wanted[0], 1, wanted[1]});
}

/// `name`, or if the file has only its name in the metadata, the name of the tensor that it shares its data
/// with, as safetensors.torch.save_model writes it.
template <TensorSource Source>
std::string stored_tensor(const Source& file, const std::string& name) {
  const auto alias = file.metadata().find(name);
  return !file.contains(name) && alias != file.metadata().end() ? alias->second : name;
}

/// Why a parameter called `name` of shape `wanted` cannot be had from the tensor `source`, as a line of a
/// list; empty if it can, or if the tensor is missing and may be.
template <TensorSource Source>
std::string fit_problem(const Source& file, const std::string& source, const std::string& name,
                        const TensorShape& wanted, bool required) {
  const std::string tensor = "tensor " + in_quotes(source) + (source == name ? "" : " for " + name);
  if (!file.contains(source))
    return required ? "\n  missing: " + tensor + ", expected shape " + tensor_shape_text(wanted) : "";
  const TensorInfo& info = file.tensor(source);
  std::string problems;
  if (!shape_fits(info.shape, wanted))
    problems += "\n  misshapen: " + tensor + " has shape " + tensor_shape_text(info.shape) + ", expected " +
                tensor_shape_text(wanted);
  if (!with_element_of(info.dtype, [](auto) {}))
    problems += "\n  unreadable: " + tensor + " has dtype " + in_quotes(info.dtype);
  return problems;
}

}  // namespace detail

/// Reads every parameter of `model` from the file, converted to its scalar. Where a tensor is not in the file
/// but the metadata has its name, what stands there is the name of the tensor that it shares its data with.
///
/// Nothing of the model is touched unless everything fits: shapes and dtypes always, and with Strict::yes no
/// parameter is missing and no tensor of the file is left over.
/// @throws FileError that lists all that does not fit.
template <class Model, TensorSource Source>
LoadReport load_parameters(Model& model, const Source& file, const NameMap& map = {},
                           Strict strict = Strict::yes) {
  std::vector<std::string> sources;  // of each parameter, in the order of the walk
  LoadReport report;
  std::string problems;
  for_each_parameter(
      [&](const ParameterPath& path, const auto& p) {
        const std::string name = path.str();
        const std::string source = detail::stored_tensor(file, detail::stored_name(map, name));
        sources.push_back(source);
        if (!file.contains(source)) report.missing.push_back(name);
        problems += detail::fit_problem(file, source, name, detail::shape_of(p, path.is_vector()),
                                        strict == Strict::yes);
      },
      std::as_const(model));
  const std::set<std::string, std::less<>> used(sources.begin(), sources.end());
  for (const std::string& name : file.names()) {
    if (used.contains(name)) continue;
    report.unexpected.push_back(name);
    if (strict == Strict::yes) problems += "\n  unexpected: tensor " + detail::in_quotes(name);
  }
  if (!problems.empty()) throw FileError(file.file(), "does not fit the model" + problems);

  auto source = sources.begin();
  for_each_parameter(
      [&](const ParameterPath&, auto& p) {
        static_assert(!std::is_integral_v<typename std::remove_reference_t<decltype(p)>::Scalar>);
        if (file.contains(*source)) file.read_into(*source, p);
        ++source;
      },
      model);
  return report;
}

/// Writes every parameter of `model` to a safetensors file, whole or not at all. @throws FileError, or
/// std::invalid_argument if `map` gives two parameters one name.
template <class Model>
void save_parameters(const Model& model, const std::string& path, const Metadata& metadata = {},
                     const NameMap& map = {}) {
  SafetensorsWriter writer;
  writer.metadata = metadata;
  for_each_parameter(
      [&](const ParameterPath& place, const auto& p) {
        writer.add(detail::stored_name(map, place.str()), p, place.is_vector());
      },
      model);
  writer.save(path);
}

/// Writes the state of a model's inference (State, from make_state) to a safetensors file, whole or not at
/// all: what the layers remember, and in the metadata the number of sequences, the capacity and the
/// positions. @throws FileError
template <class State>
void save_state(const State& state, const std::string& path) {
  Metadata metadata = {{"format", "ddl state"},
                       {"sequences", std::to_string(state.sequences)},
                       {"capacity", std::to_string(state.capacity)},
                       {"position", std::to_string(state.position)}};
  for (std::size_t s = 0; s < state.behind.size(); ++s)
    if (state.behind[s] > 0) metadata["behind." + std::to_string(s)] = std::to_string(state.behind[s]);
  if (state.rollback > 0) metadata["recent"] = std::to_string(state.recent);
  save_parameters(state, path, metadata);
}

/// Reads a state that save_state wrote into one of the same model, number of sequences, capacity and
/// rollback. infer then goes on where the saved state was. The file does not hold the model's parameters.
/// @throws FileError if the file is no state or does not fit this one; the state stays as it was.
template <class State>
void load_state(State& state, const SafetensorsFile& file) {
  const auto number = [&](const std::string& key, Index least, Index most) {
    const auto found = file.metadata().find(key);
    const std::string text = found == file.metadata().end() ? "null" : found->second;
    try {
      return detail::json_integer("the metadata", key, detail::parse_json(text), least, most);
    } catch (const std::invalid_argument&) {
      throw FileError(file.file(),
                      "the metadata's " + key + " is " +
                          (found == file.metadata().end() ? "missing" : detail::in_quotes(text)) +
                          ", expected an integer of " + std::to_string(least) + " to " +
                          std::to_string(most));
    }
  };
  const auto format = file.metadata().find("format");
  if (format == file.metadata().end() || format->second != "ddl state")
    throw FileError(file.file(), "holds no state, expected the metadata's format to be \"ddl state\"");
  number("sequences", state.sequences, state.sequences);
  number("capacity", state.capacity, state.capacity);
  const Index position = number("position", 0, state.capacity);
  std::vector<Index> behind(state.behind.size());
  for (std::size_t s = 0; s < behind.size(); ++s)
    if (const std::string key = "behind." + std::to_string(s); file.metadata().contains(key))
      behind[s] = number(key, 0, position);
  const Index recent = state.rollback > 0 ? number("recent", 0, (std::min)(state.rollback, position)) : 0;
  load_parameters(state, file);
  state.position = position;
  state.behind = std::move(behind);
  state.recent = recent;
}

}  // namespace ddl
