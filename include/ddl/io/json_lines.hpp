// SPDX-License-Identifier: MIT
/// @file  A log of a training run: one JSON object a line.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "ddl/io/file.hpp"
#include "ddl/train/fit.hpp"

namespace ddl {

/// Appends {"step", "loss", "correct", "gradient_norm", "learning_rate", "seconds", "skipped"} after every `every`
/// steps, and whatever else is given to write(). Numbers that are not finite become null. Each line is
/// flushed before the next step.
class JsonLines {
 public:
  /// @throws FileError if the file cannot be opened for appending, std::invalid_argument if `every` is below 1.
  explicit JsonLines(const std::string& path, Index every = 1) : name_(path), every_(every) {
    check_positive("ddl::JsonLines", "every", every);
    const auto native = detail::path_of(path);
    file_.reset(detail::system::open_to_append(native));
    if (!file_) detail::fail_errno(path, "cannot open for appending");
  }

  void write(const nlohmann::json& line) {
    const std::string text = line.dump() + "\n";
    if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0)
      detail::fail_errno(name_, "cannot write");
  }

  template <class Seen>
  void operator()(const Seen& seen) {
    const StepReport& now = seen.report;
    if (now.step % every_ != 0) return;
    write({{"step", now.step},
           {"loss", now.loss},
           {"correct", now.correct},
           {"gradient_norm", now.gradient_norm},
           {"learning_rate", now.learning_rate},
           {"seconds", now.seconds},
           {"skipped", now.skipped}});
  }

 private:
  std::string name_;
  Index every_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, &std::fclose};
};

}  // namespace ddl
