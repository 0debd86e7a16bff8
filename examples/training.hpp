// SPDX-License-Identifier: MIT
/// @file  What the programs share on checkpoints and results.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

#include <ddl/io/checkpoint.hpp>

#include "program.hpp"

namespace training {

/// One of a checkpoint's settings. @throws std::runtime_error if it is missing, or of another kind.
template <class T>
T setting(const nlohmann::json& settings, const char* name) {
  try {
    return settings.at(name).get<T>();
  } catch (const nlohmann::json::exception&) {
    throw std::runtime_error("the checkpoint's setting \"" + std::string(name) + "\" is " +
                             (settings.contains(name) ? settings.at(name).dump() : "missing") +
                             ", expected that of a program of this kind");
  }
}

/// A hash of data as text, for settings.
inline std::string hash_text(std::uint64_t hash) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

/// `file` if it is in the folder, else empty: the newest.
inline std::string if_in_folder(const std::string& file, const std::string& folder) {
  std::error_code ignored;
  return !file.empty() &&
                 std::filesystem::equivalent(std::filesystem::path(file).parent_path(), folder, ignored)
             ? file
             : "";
}

/// Restores the newest checkpoint of the folder, or `file`, one of its checkpoints. @return false if there is
/// none.
/// @throws ddl::FileError; of a damaged checkpoint, it says how to go on from the one before it that is
/// whole.
template <class Run, class Data>
bool resume(ddl::Checkpoints& checkpoints, Run& run, Data& data, const std::string& file) {
  try {
    return checkpoints.resume(run, data, file);
  } catch (const ddl::DamagedCheckpoint& error) {
    throw std::runtime_error(std::string(error.what()) + "; go on from that by --resume " + error.whole());
  }
}

/// What is said of a run that goes on with another number of steps than was planned. @throws
/// std::runtime_error if it has made more.
inline void check_steps(const char* option, ddl::Index steps, ddl::Index made, ddl::Index planned) {
  if (steps < made)
    throw std::runtime_error(std::string(option) + " asks for " + std::to_string(steps) + " steps, and " +
                             std::to_string(made) + " are made");
  if (steps != planned)
    std::printf(
        "planned for %ld steps, now for %ld: from here on, the learning rate is that of a schedule of %ld "
        "steps, which "
        "the steps made have not followed\n",
        long(planned), long(steps), long(steps));
}

/// Throws ddl::FileError if a file of this name cannot be written.
inline void check_writable(const std::string& path) { ddl::FileWriter{path}; }

inline void write_json(const std::string& path, const nlohmann::json& document) {
  ddl::replace_file(path, document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace training
