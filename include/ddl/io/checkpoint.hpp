// SPDX-License-Identifier: MIT
/// @file  Checkpoints: a run of training in one safetensors file, from which it goes on bit for bit.
///
/// Tensors are the run's parameters by name, model.* and optimizer.first_moment.*, optimizer.second_moment.*; all
/// numbers stand in the metadata, as JSON: `run` (step, the optimizer's own numbers), `data` (the position in the data
/// and their order), `settings` (the caller's own). Real numbers in JSON are written so that they are read back exactly.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "ddl/io/weights.hpp"
#include "ddl/train/fit.hpp"

namespace ddl {

/// Data whose position is a few integers: state() gives them, and restore(state) goes there or throws
/// std::invalid_argument if they do not fit these data.
template <class D>
concept Resumable = requires(D& data, const D& kept, std::span<const std::uint64_t> state) {
  { kept.state() } -> std::convertible_to<std::vector<std::uint64_t>>;
  data.restore(state);
};

namespace detail {
inline constexpr std::string_view checkpoint_format = "ddl checkpoint";
inline constexpr int checkpoint_version = 1;
}  // namespace detail

/// Writes the run and the position in its data, whole or not at all. `settings` is what the caller needs to build the
/// model again. @throws FileError
template <class Model, Resumable Data>
void save_checkpoint(const std::string& path, const TrainingRun<Model>& run, const Data& data,
                     const nlohmann::json& settings = nlohmann::json::object()) {
  const auto& adam = run.optimizer.settings;
  const nlohmann::json numbers = {{"step", run.step},
                                  {"optimizer",
                                   {{"kind", "AdamW"},
                                    {"steps", run.optimizer.steps},
                                    {"learning_rate", adam.learning_rate},
                                    {"beta1", adam.beta1},
                                    {"beta2", adam.beta2},
                                    {"eps", adam.eps},
                                    {"weight_decay", adam.weight_decay}}}};
  const std::vector<std::uint64_t> position = data.state();
  save_parameters(run, path,
                  {{"format", std::string(detail::checkpoint_format)},
                   {"version", std::to_string(detail::checkpoint_version)},
                   {"scalar", std::string(detail::dtype_of<typename Model::Scalar>())},
                   {"run", numbers.dump()},
                   {"data", nlohmann::json(position).dump()},
                   {"settings", settings.dump()}});
}

/// A checkpoint that is open: what it is of, and the way back to it.
class Checkpoint {
 public:
  /// @throws FileError if the file is no checkpoint, one of another version, or damaged.
  explicit Checkpoint(const std::string& path) : Checkpoint(SafetensorsFile(path)) {}
  explicit Checkpoint(SafetensorsFile file) : file_(std::move(file)) {
    expect("format", detail::checkpoint_format);
    expect("version", std::to_string(detail::checkpoint_version));
    if (!file_.has_checksums())
      throw FileError(file_.file(), "has no checksums, expected those of a checkpoint");
    numbers_ = json("run");
    data_ = json("data");
    settings_ = json("settings");
  }

  const SafetensorsFile& file() const noexcept { return file_; }
  const nlohmann::json& settings() const noexcept { return settings_; }

  /// Makes `run` and `data` what they were when the checkpoint was saved. They keep what they had if anything is wrong.
  /// @throws FileError if the run is of another shape or scalar, the position is not one in these data, or a number is missing.
  template <class Model, Resumable Data>
  void restore(TrainingRun<Model>& run, Data& data) const {
    expect_scalar<Model>();
    TrainingRun<Model> restored = run;
    load_parameters(restored, file_);
    checked([&] {
      const auto& adam = numbers_.at("optimizer");
      if (adam.at("kind") != "AdamW") throw std::invalid_argument("the optimizer is not AdamW");
      restored.step = numbers_.at("step").get<Index>();
      restored.optimizer.steps = adam.at("steps").get<Index>();
      restored.optimizer.settings = {.learning_rate = adam.at("learning_rate").get<double>(),
                                     .beta1 = adam.at("beta1").get<double>(),
                                     .beta2 = adam.at("beta2").get<double>(),
                                     .eps = adam.at("eps").get<double>(),
                                     .weight_decay = adam.at("weight_decay").get<double>()};
      const auto position = data_.get<std::vector<std::uint64_t>>();
      data.restore(position);
    });
    run = std::move(restored);
  }

  /// The model alone, to use it. @throws FileError; the model keeps what it had.
  template <class Model>
  void restore_model(Model& model) const {
    expect_scalar<Model>();
    Model restored = model;
    const LoadReport report = load_parameters(
        restored, file_, [](std::string_view name) { return "model." + std::string(name); }, Strict::no);
    if (!report.missing.empty())
      throw FileError(file_.file(), "has no tensor " + detail::in_quotes("model." + report.missing.front()));
    model = std::move(restored);
  }

 private:
  const std::string& entry(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    if (found == file_.metadata().end())
      throw FileError(file_.file(), "is no checkpoint: its metadata lack " + key);
    return found->second;
  }
  nlohmann::json json(const std::string& key) const {
    const auto value = nlohmann::json::parse(entry(key), nullptr, false);
    if (value.is_discarded()) throw FileError(file_.file(), "metadata " + key + " is not JSON");
    return value;
  }
  void expect(const std::string& key, std::string_view wanted) const {
    if (entry(key) != wanted)
      throw FileError(file_.file(), "metadata " + key + " is " + detail::in_quotes(entry(key)) +
                                        ", expected " + detail::in_quotes(wanted));
  }
  template <class Model>
  void expect_scalar() const {
    expect("scalar", detail::dtype_of<typename Model::Scalar>());
  }
  template <class F>
  void checked(const F& f) const {
    try {
      f();
    } catch (const nlohmann::json::exception& error) {
      throw FileError(file_.file(), std::string("metadata: ") + error.what());
    } catch (const std::invalid_argument& error) {
      throw FileError(file_.file(), error.what());
    }
  }

  SafetensorsFile file_;
  nlohmann::json numbers_, data_, settings_;
};

/// The names of the checkpoints in a folder, oldest first; none if there is no such folder, or it is a file.
/// @throws FileError if the folder cannot be read.
inline std::vector<std::string> checkpoints_in(const std::string& folder) {
  std::vector<std::string> found;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with("checkpoint-") && name.ends_with(".safetensors"))
      found.push_back(entry->path().string());
  }
  if (error && error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory)
    throw FileError(folder, "cannot read this folder: " + error.message());
  std::sort(found.begin(), found.end());
  return found;
}

/// An observer that saves checkpoint-<step>.safetensors in a folder every so many steps and at the end, and keeps the
/// newest few. A step that was skipped for a loss that is not finite is not saved, unless it is the last; if fit
/// throws, nothing more is saved.
class Checkpoints {
 public:
  /// Makes the folder, and removes what a killed process may have left half-written in it.
  /// @throws std::invalid_argument if `every` or `keep` is below 1, FileError if the folder cannot be made.
  Checkpoints(std::string folder, Index every, Index keep = 3,
              nlohmann::json settings = nlohmann::json::object())
      : folder_(std::move(folder)), every_(every), keep_(keep), settings_(std::move(settings)) {
    check_positive("ddl::Checkpoints", "every", every);
    check_positive("ddl::Checkpoints", "keep", keep);
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    if (error) throw FileError(folder_, "cannot make this folder: " + error.message());
    for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("checkpoint-") && name.find(".safetensors.tmp") != std::string::npos)
        std::filesystem::remove(entry.path(), error);
    }
  }

  template <class Seen>
  void operator()(const Seen& seen) {
    if (seen.report.step % every_ == 0 && !seen.report.skipped) save(seen);
  }
  template <class Seen>
  void finish(const Seen& seen) {
    if (saved_ != seen.run.step) save(seen);
  }

 private:
  template <class Seen>
  void save(const Seen& seen) {
    std::string digits = std::to_string(seen.run.step);
    digits.insert(0, digits.size() < 9 ? 9 - digits.size() : 0, '0');
    const std::string path =
        (std::filesystem::path(folder_) / ("checkpoint-" + digits + ".safetensors")).string();
    save_checkpoint(path, seen.run, seen.data, settings_);
    saved_ = seen.run.step;
    auto all = checkpoints_in(folder_);
    all.erase(std::upper_bound(all.begin(), all.end(), path), all.end());  // later steps are of another run
    const auto count = static_cast<Index>(all.size());
    for (Index i = 0; i < count - keep_; ++i) std::remove(all[static_cast<std::size_t>(i)].c_str());
  }

  std::string folder_;
  Index every_, keep_;
  nlohmann::json settings_;
  Index saved_ = -1;
};

}  // namespace ddl
