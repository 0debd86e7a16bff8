// SPDX-License-Identifier: MIT
/// @file  Checkpoints: the state of a training run in one safetensors file, from which it goes on bit for
/// bit.
///
/// The tensors are the run's parameters by name: model.*, and the optimizer's moments, such as
/// optimizer.first_moment.*. All numbers are in the metadata, as JSON: `run` (step, the optimizer's numbers),
/// `data` (the position in the data, their order and their hash), `settings` (the caller's own). Real numbers
/// in JSON are written so that they read back exactly.
///
///     ddl::Checkpoints checkpoints(folder, {.every = 500, .resume = true}, settings);   // locks the folder
///     checkpoints.resume(run, data);                                                    // false: there was none
///     ddl::fit(run, data, {.steps = 2000}, checkpoints);                                // saves every 500 steps
#pragma once

#include <algorithm>
#include <charconv>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "ddl/io/file.hpp"
#include "ddl/io/json.hpp"
#include "ddl/io/weights.hpp"
#include "ddl/train/fit.hpp"

namespace ddl {

/// Data whose position is a few integers: state() returns them, and restore(state) goes there or throws
/// std::invalid_argument if they do not fit these data.
template <class D>
concept Resumable = requires(D& data, const D& kept, std::span<const std::uint64_t> state) {
  { kept.state() } -> std::convertible_to<std::vector<std::uint64_t>>;
  data.restore(state);
};

namespace detail {

inline constexpr std::string_view checkpoint_format = "ddl checkpoint";
inline constexpr int checkpoint_version = 2;

/// checkpoint-STEP.safetensors, the step in 9 digits or more.
inline std::string checkpoint_name(Index step) {
  std::string digits = std::to_string(step);
  digits.insert(0, digits.size() < 9 ? 9 - digits.size() : 0, '0');
  return "checkpoint-" + digits + ".safetensors";
}
/// The step of exactly such a name; empty for every other name.
inline std::optional<Index> checkpoint_step(std::string_view name) {
  constexpr std::string_view begin = "checkpoint-";
  if (!name.starts_with(begin)) return std::nullopt;
  Index step = 0;
  const std::string_view digits = name.substr(begin.size());
  if (std::from_chars(digits.data(), digits.data() + digits.size(), step).ec != std::errc())
    return std::nullopt;
  return step >= 0 && name == checkpoint_name(step) ? std::optional(step) : std::nullopt;
}
/// Whether the name is of a temporary that FileWriter makes for a checkpoint.
inline bool is_checkpoint_temporary(std::string_view name) {
  const auto end = name.rfind(".tmp");
  if (end == std::string_view::npos || !checkpoint_step(name.substr(0, end))) return false;
  const std::string_view digits = name.substr(end + 4);
  return !digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos;
}

/// Throws std::invalid_argument naming the first setting that JSON cannot hold.
inline void check_settings_text(const char* where, const nlohmann::json& settings) {
  for (const auto& [key, value] : settings.items()) try {
      nlohmann::json({{key, value}}).dump();
    } catch (const nlohmann::json::exception&) {
      fail(where, "the setting " + in_quotes(key), json_text(value), "text in UTF-8");
    }
}

}  // namespace detail

/// The settings that differ, with both values: "width is 8, expected 16; seed is missing, expected 3". Empty
/// if none does. Those in `may_differ` are left out.
inline std::string settings_difference(const nlohmann::json& given, const nlohmann::json& expected,
                                       std::span<const std::string> may_differ = {}) {
  std::string problems;
  const auto text = [](const nlohmann::json& object, const std::string& key) {
    return object.contains(key) ? detail::json_text(object.at(key)) : "missing";
  };
  if (!given.is_object() || !expected.is_object())
    return given == expected
               ? ""
               : "they are " + detail::json_text(given) + ", expected " + detail::json_text(expected);
  nlohmann::json keys = given;
  keys.update(expected);
  for (const auto& [key, unused] : keys.items()) {
    if (std::find(may_differ.begin(), may_differ.end(), key) != may_differ.end()) continue;
    if (given.contains(key) && expected.contains(key) && given.at(key) == expected.at(key)) continue;
    problems += (problems.empty() ? "" : "; ") + key + " is " + text(given, key) + ", expected " +
                text(expected, key);
  }
  return problems;
}

/// Writes the run and the position in its data, whole or not at all. `settings` is what the caller needs to
/// build the model again. @throws FileError
template <class Run, Resumable Data>
void save_checkpoint(const std::string& path, const Run& run, const Data& data,
                     const nlohmann::json& settings = nlohmann::json::object()) {
  using Optimizer = typename Run::Optimizer;
  nlohmann::json optimizer = {{"kind", std::string(Optimizer::kind)}};
  Optimizer::visit_numbers(run.optimizer,
                           [&](const char* name, const auto& number) { optimizer[name] = number; });
  const std::vector<std::uint64_t> position = data.state();
  save_parameters(run, path,
                  {{"format", std::string(detail::checkpoint_format)},
                   {"version", std::to_string(detail::checkpoint_version)},
                   {"scalar", std::string(detail::dtype_of<typename Run::Scalar>())},
                   {"run", nlohmann::json({{"step", run.step}, {"optimizer", optimizer}}).dump()},
                   {"data", nlohmann::json(position).dump()},
                   {"settings", settings.dump()}});
}

/// An open checkpoint; restore() loads it.
class Checkpoint {
 public:
  /// Opens a checkpoint and compares its checksums.
  /// @throws FileError if the file is no checkpoint, one of another version, or damaged.
  explicit Checkpoint(const std::string& path) : Checkpoint(SafetensorsFile(path)) {}
  /// The same of a file that is open already, or embedded in the program.
  explicit Checkpoint(SafetensorsFile file) : file_(std::move(file)) {
    expect("format", detail::checkpoint_format);
    expect("version", std::to_string(detail::checkpoint_version));
    if (!file_.has_checksums())
      throw FileError(file_.file(), "has no checksums, expected those of a checkpoint");
    numbers_ = json("run");
    data_ = json("data");
    settings_ = json("settings");
  }

  const SafetensorsFile& file() const noexcept { return file_; }         ///< the file itself
  const nlohmann::json& settings() const noexcept { return settings_; }  ///< the caller's own, as saved

  /// Makes `run` and `data` what they were when the checkpoint was saved. They keep what they had if anything
  /// is wrong.
  /// @throws FileError if a tensor is damaged, the run is of another shape, scalar or optimizer, a number is
  /// missing or out of range, or the position is not one in these data.
  template <class Run, Resumable Data>
  void restore(Run& run, Data& data) const {
    expect_scalar<typename Run::Scalar>();
    Run restored = run;
    try {
      restore_numbers(restored);
    } catch (const std::invalid_argument& error) {
      throw FileError(file_.file(), error.what());
    }
    load_parameters(restored, file_);
    try {
      data.restore(position());
    } catch (const std::invalid_argument& error) {
      throw FileError(file_.file(), error.what());
    }
    run = std::move(restored);
  }

  /// The model alone, to use it. @throws FileError; the model keeps what it had.
  template <class Model>
  void restore_model(Model& model) const {
    expect_scalar<typename Model::Scalar>();
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
    try {
      return detail::parse_json(entry(key));
    } catch (const std::invalid_argument& error) {
      throw FileError(file_.file(), "metadata " + key + " " + error.what());
    }
  }
  void expect(const std::string& key, std::string_view wanted) const {
    if (entry(key) != wanted)
      throw FileError(file_.file(), "metadata " + key + " is " + detail::in_quotes(entry(key)) +
                                        ", expected " + detail::in_quotes(wanted));
  }
  template <class Scalar>
  void expect_scalar() const {
    expect("scalar", detail::dtype_of<Scalar>());
  }

  template <class Run>
  void restore_numbers(Run& run) const {
    using Optimizer = typename Run::Optimizer;
    const std::string where = "metadata run";
    run.step = detail::json_integer(where, "step", detail::json_at(where, numbers_, "step"));
    const auto& numbers = detail::json_at(where, numbers_, "optimizer");
    if (const auto& kind = detail::json_at(where, numbers, "kind"); kind != Optimizer::kind)
      fail(where, "the kind of optimizer", detail::json_text(kind), detail::in_quotes(Optimizer::kind));
    Optimizer::visit_numbers(run.optimizer, [&](const char* name, auto& number) {
      const auto& value = detail::json_at(where, numbers, name);
      if constexpr (std::is_integral_v<std::remove_reference_t<decltype(number)>>)
        number = detail::json_integer(where, name, value);
      else
        number = detail::json_number(where, name, value);
    });
    run.optimizer.check();
  }
  std::vector<std::uint64_t> position() const {
    std::vector<std::uint64_t> words;
    if (!data_.is_array()) fail("metadata data", "the value", detail::json_text(data_), "a list");
    for (const auto& word : data_) {
      if (!word.is_number_unsigned())
        fail("metadata data", "an entry", detail::json_text(word), "an integer of at least 0");
      words.push_back(word.get<std::uint64_t>());
    }
    return words;
  }

  SafetensorsFile file_;
  nlohmann::json numbers_, data_, settings_;
};

/// The files checkpoint-STEP.safetensors in a folder, by step; none if there is no such folder, or it is a
/// file. Other names are ignored. @throws FileError if the folder cannot be read.
inline std::vector<std::string> checkpoints_in(const std::string& folder) {
  std::vector<std::pair<Index, std::string>> found;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(detail::path_of(folder), error), end; !error && entry != end;
       entry.increment(error))
    if (const auto step = detail::checkpoint_step(detail::name_of(entry->path().filename())))
      found.emplace_back(*step, detail::name_of(entry->path()));
  if (error && error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory)
    throw FileError(folder, "cannot read this folder: " + error.message());
  std::sort(found.begin(), found.end());
  std::vector<std::string> names;
  for (auto& [step, name] : found) names.push_back(std::move(name));
  return names;
}

/// The newest checkpoint cannot be restored, and an older one can.
class DamagedCheckpoint : public FileError {
 public:
  /// @param whole  the newest checkpoint that can be restored.
  DamagedCheckpoint(const std::string& file, const std::string& problem, std::string whole)
      : FileError(file, problem + "; the newest whole checkpoint before it is " + whole),
        whole_(std::move(whole)) {}
  /// The newest one before it that is whole.
  const std::string& whole() const noexcept { return whole_; }

 private:
  std::string whole_;
};

namespace detail {

/// load(the last of these files). If that throws FileError, the file before it that check(checkpoint) accepts
/// is named.
template <class Load, class Check>
auto load_newest(const std::vector<std::string>& files, const Load& load, const Check& check) {
  try {
    return load(Checkpoint(files.back()));
  } catch (const FileError& error) {
    for (auto older = files.rbegin() + 1; older != files.rend(); ++older) {
      try {
        check(Checkpoint(*older));
      } catch (const FileError&) {
        continue;
      }
      const std::string problem = std::string(error.what()).substr(error.file().size() + 2);
      throw DamagedCheckpoint(error.file(), problem, *older);
    }
    throw;
  }
}

}  // namespace detail

/// load(checkpoint) for `path`: a checkpoint, or a folder, whose newest one is taken. @return what load
/// returns.
/// @throws FileError if the folder holds none, and what load throws. If load throws FileError for the newest,
/// and not for an older one, that is a DamagedCheckpoint: nothing older is loaded without being asked for.
template <class Load>
auto load_checkpoint(const std::string& path, const Load& load) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(detail::path_of(path), ignored)) return load(Checkpoint(path));
  const auto files = checkpoints_in(path);
  if (files.empty()) throw FileError(path, "holds no checkpoint, expected checkpoint-<step>.safetensors");
  return detail::load_newest(files, load, load);
}

/// Settings of Checkpoints.
struct CheckpointSettings {
  Index every = 500;    ///< steps from one checkpoint to the next
  Index keep = 3;       ///< newest ones that are kept
  bool resume = false;  ///< whether the folder may hold the checkpoints of an earlier run, which goes on
  std::vector<std::string> may_differ = {};  ///< the caller's settings that may have another value on resume
};

/// An observer that saves checkpoint-STEP.safetensors in a folder every so many steps and after the last, and
/// keeps the newest few. A folder belongs to one run: it is locked while this object lives, and a run that
/// does not resume needs one without checkpoints. Files with other names stay untouched.
///
/// A skipped step is not saved, unless it is the last, nor is a model with a parameter that is not finite. If
/// fit throws, nothing more is saved.
class Checkpoints {
 public:
  /// Makes the folder, locks it, sees that it can be written to, and removes temporaries of a killed process.
  /// @throws std::invalid_argument if a number is below 1 or a setting is not UTF-8; FileError if the folder
  /// cannot be made, is in use, or holds checkpoints without CheckpointSettings::resume.
  explicit Checkpoints(std::string folder, CheckpointSettings options = {},
                       nlohmann::json settings = nlohmann::json::object())
      : folder_(std::move(folder)), options_(std::move(options)), settings_(std::move(settings)) {
    constexpr const char* where = "ddl::Checkpoints";
    check_positive(where, "every", options_.every);
    check_positive(where, "keep", options_.keep);
    detail::check_settings_text(where, settings_);
    const auto path = detail::path_of(folder_);
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) throw FileError(folder_, "cannot make this folder: " + error.message());
    lock_.emplace(file_named("lock"));
    for (const auto& entry : std::filesystem::directory_iterator(path, error))
      if (detail::is_checkpoint_temporary(detail::name_of(entry.path().filename())))
        std::filesystem::remove(entry.path(), error);
    const auto files = checkpoints_in(folder_);
    if (!options_.resume && !files.empty())
      throw FileError(folder_, "holds checkpoints of an earlier run, the newest is " + files.back() +
                                   "; expected another folder, or to resume that run");
    FileWriter{file_named(detail::checkpoint_name(0))};  // removes its temporary
  }

  /// Restores the newest checkpoint of the folder. With a file, one of the folder's checkpoints, restores
  /// that, and renames those of later steps to NAME.superseded0, NAME.superseded1.
  /// @return false if the folder holds no checkpoint; nothing is restored then.
  /// @throws FileError as Checkpoint::restore does, or if settings differ, naming them; DamagedCheckpoint if
  /// the newest cannot be restored and an older one can. Run and data keep what they had then.
  template <class Run, Resumable Data>
  bool resume(Run& run, Data& data, const std::string& file = {}) {
    auto files = checkpoints_in(folder_);
    if (!file.empty()) {
      const auto same = [&](const std::string& other) {
        std::error_code ignored;
        return std::filesystem::equivalent(detail::path_of(file), detail::path_of(other), ignored);
      };
      const auto found = std::find_if(files.begin(), files.end(), same);
      if (found == files.end()) throw FileError(file, "is not one of the checkpoints in " + folder_);
      load(Checkpoint(*found), run, data);
      for (auto later = found + 1; later != files.end(); ++later) set_aside(*later);
    } else if (files.empty()) {
      return false;
    } else {
      const auto check = [&](const Checkpoint& checkpoint) {
        Run scratch = run;
        const auto position = data.state();
        load(checkpoint, scratch, data);
        data.restore(position);
      };
      detail::load_newest(
          files, [&](const Checkpoint& newest) { load(newest, run, data); }, check);
    }
    saved_ = run.step;
    return true;
  }

  /// Refuses a run that would overwrite later checkpoints.
  /// @throws FileError if the folder holds a checkpoint of a later step than the run's.
  template <class Context>
  void begin(const Context& context) const {
    const auto files = checkpoints_in(folder_);
    if (files.empty()) return;
    const auto newest = detail::checkpoint_step(detail::name_of(detail::path_of(files.back()).filename()));
    if (*newest > context.run.step)
      throw FileError(files.back(), "is of a later step than this run, which begins after step " +
                                        std::to_string(context.run.step) + ", expected to resume it");
  }
  /// Saves if the step is one to save.
  template <class Context>
  void operator()(const Context& context) {
    if (context.report.step % options_.every == 0 && !context.report.skipped) save(context);
  }
  /// Saves the last step.
  template <class Context>
  void finish(const Context& context) {
    if (saved_ != context.run.step) save(context);
  }

 private:
  std::string file_named(const std::string& name) const {
    return detail::name_of(detail::path_of(folder_) / detail::path_of(name));
  }

  template <class Run, class Data>
  void load(const Checkpoint& checkpoint, Run& run, Data& data) const {
    const std::string problem = settings_difference(settings_, checkpoint.settings(), options_.may_differ);
    if (!problem.empty())
      throw FileError(checkpoint.file().file(), "was trained with other settings: " + problem);
    checkpoint.restore(run, data);
  }

  static void set_aside(const std::string& file) {
    for (int i = 0;; ++i) {
      const auto to = detail::path_of(file + ".superseded" + std::to_string(i));
      std::error_code error;
      if (std::filesystem::exists(to, error)) continue;
      std::filesystem::rename(detail::path_of(file), to, error);
      if (error) throw FileError(file, "cannot rename: " + error.message());
      return;
    }
  }

  template <class Context>
  void save(const Context& context) {
    if (!all_parameters_finite(context.run)) return;
    save_checkpoint(file_named(detail::checkpoint_name(context.run.step)), context.run, context.data,
                    settings_);
    saved_ = context.run.step;
    const auto all = checkpoints_in(folder_);
    const auto count = static_cast<Index>(all.size());
    for (Index i = 0; i < count - options_.keep; ++i) {
      std::error_code ignored;
      std::filesystem::remove(detail::path_of(all[static_cast<std::size_t>(i)]), ignored);
    }
  }

  std::string folder_;
  CheckpointSettings options_;
  nlohmann::json settings_;
  std::optional<FileLock> lock_;
  Index saved_ = -1;
};

}  // namespace ddl
