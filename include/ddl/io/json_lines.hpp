// SPDX-License-Identifier: MIT
/// @file  A log of a training run: one JSON object a line.
#pragma once

#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include <nlohmann/json.hpp>

#include "ddl/io/file.hpp"
#include "ddl/train/fit.hpp"

namespace ddl {

namespace detail {

/// Replaces numbers that are not finite by null. nlohmann_json does so as well, but asks std::isfinite, which
/// is always true under -ffast-math.
inline void null_non_finite(nlohmann::json& value) {
  if (value.is_number_float() && !is_finite(value.get<double>())) value = nullptr;
  if (value.is_structured())
    for (auto& part : value) null_non_finite(part);
}

}  // namespace detail

/// Appends {"step", "loss", "accuracy", "gradient_norm", "learning_rate", "seconds", "skipped"} after every
/// `every` steps, and whatever else is given to write(). Numbers that are not finite become null, and bytes
/// that are not UTF-8 become U+FFFD. Each line is flushed before the next step.
///
/// A line that cannot be written, on a full disk or into a closed pipe, does not end a run: a warning is
/// printed to stderr, and the log ends there. (A closed pipe sends SIGPIPE on POSIX, which a program that
/// logs into one ignores.)
class JsonLines {
 public:
  /// Opens the log, which is appended to.
  /// @throws FileError if the file cannot be opened for appending, std::invalid_argument if `every` is below
  /// 1.
  explicit JsonLines(const std::string& path, Index every = 1) : name_(path), every_(every) {
    check_positive("ddl::JsonLines", "every", every);
    const auto native = detail::path_of(path);
    file_.reset(detail::system::open_to_append(native));
    if (!file_) detail::fail_errno(path, "cannot open for appending");
  }

  /// False once a line could not be written.
  bool is_complete() const noexcept { return is_complete_; }

  /// Appends an object of the caller's own as a line.
  void write(nlohmann::json line) {
    if (!is_complete_) return;
    detail::null_non_finite(line);
    const std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    if (std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size() && std::fflush(file_.get()) == 0)
      return;
    is_complete_ = false;
    std::fprintf(stderr, "\nwarning: %s: cannot write: %s; the log ends here\n", name_.c_str(),
                 std::generic_category().message(errno).c_str());
  }

  /// Appends the figures of a step.
  template <class Context>
  void operator()(const Context& context) {
    const StepReport& now = context.report;
    if (now.step % every_ != 0) return;
    write({{"step", now.step},
           {"loss", now.loss},
           {"accuracy", now.accuracy},
           {"gradient_norm", now.gradient_norm},
           {"learning_rate", now.learning_rate},
           {"seconds", now.seconds},
           {"skipped", now.skipped}});
  }

 private:
  std::string name_;
  Index every_;
  bool is_complete_ = true;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, &std::fclose};
};

}  // namespace ddl
