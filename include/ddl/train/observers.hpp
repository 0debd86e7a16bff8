// SPDX-License-Identifier: MIT
/// @file  Observers of a training run: progress, time limit, validation with early stopping, gates. Those that write
/// files are in io. An observer of one's own is any function of an Observation.
#pragma once

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ddl/train/fit.hpp"

namespace ddl {

/// Whether somebody looks at the stream: false where the system does not tell.
inline bool is_terminal([[maybe_unused]] std::FILE* stream) {
#if __has_include(<unistd.h>)
  return isatty(fileno(stream)) != 0;
#else
  return false;
#endif
}

struct ProgressBarSettings {
  std::string title = {};
  std::string unit = "samples";  ///< what a sample is called
  std::FILE* stream = stderr;
  std::optional<bool> shows = {};  ///< empty: where the stream is a terminal
};

/// Redraws one line: steps, a running mean of loss and accuracy, samples/s, the time left. Says nothing where the
/// stream is not a terminal.
class ProgressBar {
 public:
  explicit ProgressBar(ProgressBarSettings settings = {})
      : settings_(std::move(settings)), shows_(settings_.shows.value_or(is_terminal(settings_.stream))) {}

  template <class Seen>
  void operator()(const Seen& seen) {
    const StepReport& now = seen.report;
    samples_ += now.samples;
    if (first_ < 0) first_ = now.step - 1;
    const auto blend = [&](double& mean, double value) {
      if (is_finite(value)) mean = is_finite(mean) ? 0.98 * mean + 0.02 * value : value;
    };
    blend(loss_, now.loss);
    blend(correct_, now.correct);
    if (shows_ && (now.seconds - drawn_ > 0.1 || now.step == now.steps)) draw(now);
  }
  template <class Seen>
  void finish(const Seen&) {
    if (shows_) std::fputc('\n', settings_.stream);
    *this = ProgressBar(settings_);
  }

 private:
  void draw(const StepReport& now) {
    drawn_ = now.seconds;
    const double share = static_cast<double>(now.step) / static_cast<double>(now.steps);
    const auto made = static_cast<double>(now.step - first_);
    const auto left = static_cast<long>(now.seconds / made * static_cast<double>(now.steps - now.step));
    std::string bar(24, '.');
    std::fill_n(bar.begin(), static_cast<int>(share * 24), '#');
    std::fprintf(settings_.stream, "\r%s[%s] %3.0f %%  loss %.4f", settings_.title.c_str(), bar.c_str(),
                 100 * share, loss_);
    if (is_finite(correct_)) std::fprintf(settings_.stream, "  correct %.2f %%", 100 * correct_);
    std::fprintf(settings_.stream, "  %.0f %s/s  %ld:%02ld left ",
                 static_cast<double>(samples_) / now.seconds, settings_.unit.c_str(), left / 60, left % 60);
    std::fflush(settings_.stream);
  }

  ProgressBarSettings settings_;
  bool shows_;
  Index samples_ = 0, first_ = -1;
  double loss_ = std::numeric_limits<double>::quiet_NaN(), correct_ = loss_, drawn_ = -1;
};

/// Ends the run after so many seconds.
struct TimeLimit {
  double seconds;

  template <class Seen>
  Flow operator()(const Seen& seen) const {
    return seen.report.seconds < seconds ? Flow::go_on : Flow::stop;
  }
};

/// Every `every` steps and at the end calls measure(model), a loss over data that are not learned from; ends the run
/// when `patience` measurements have brought nothing better, and gives the run its best model back
/// (so an observer that saves the run stands before this one). No checkpoint has its memory: a run that goes on waits anew. A measurement that is not finite is not better.
template <class Model>
class Validation {
 public:
  using Measure = std::function<double(const Model&)>;

  /// @throws std::invalid_argument if `every` or `patience` is below 1.
  Validation(Index every, Index patience, Measure measure)
      : every_(every), patience_(patience), measure_(std::move(measure)) {
    check_positive("ddl::Validation", "every", every);
    check_positive("ddl::Validation", "patience", patience);
  }

  double best() const noexcept { return best_; }
  Index best_step() const noexcept { return best_step_; }
  /// (step, loss) of every measurement.
  const std::vector<std::pair<Index, double>>& history() const noexcept { return history_; }

  template <class Seen>
  Flow operator()(const Seen& seen) {
    if (seen.report.step % every_ != 0) return Flow::go_on;
    measure(seen);
    return waited_ < patience_ ? Flow::go_on : Flow::stop;
  }
  template <class Seen>
  void finish(const Seen& seen) {
    if (history_.empty() || history_.back().first != seen.run.step) measure(seen);
    if (model_) seen.run.model = *model_;
  }

 private:
  template <class Seen>
  void measure(const Seen& seen) {
    const double loss = measure_(seen.run.model);
    history_.emplace_back(seen.run.step, loss);
    ++waited_;
    if (!is_finite(loss) || !(loss < best_)) return;
    waited_ = 0;
    best_ = loss;
    best_step_ = seen.run.step;
    model_ = seen.run.model;
  }

  Index every_, patience_;
  Measure measure_;
  double best_ = std::numeric_limits<double>::infinity();
  Index best_step_ = 0, waited_ = 0;
  std::optional<Model> model_;
  std::vector<std::pair<Index, double>> history_;
};

/// Keeps, every `every` steps, the mean gate of every layer over the batch; nothing of the additive control, which has
/// no gates.
class GateRecorder {
 public:
  struct Entry {
    Index step;
    std::vector<double> mean_beta;  ///< of each layer
  };

  /// @throws std::invalid_argument if `every` is below 1.
  explicit GateRecorder(Index every) : every_(every) { check_positive("ddl::GateRecorder", "every", every); }

  const std::vector<Entry>& entries() const noexcept { return entries_; }

  template <class Seen>
  void operator()(const Seen& seen) {
    if (seen.report.step % every_ != 0) return;
    Entry entry{seen.report.step, {}};
    seen.run.model.for_each_edit(seen.tape, [&](const auto& block, const auto& edit) {
      if (block.gate) entry.mean_beta.push_back(static_cast<double>(edit.inputs.beta.mean()));
    });
    if (!entry.mean_beta.empty()) entries_.push_back(std::move(entry));
  }

 private:
  Index every_;
  std::vector<Entry> entries_;
};

}  // namespace ddl
