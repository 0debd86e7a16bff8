// SPDX-License-Identifier: MIT
/// @file  Observers of a training run: progress, time limit, validation with early stopping, gates. Those
/// that write files are in io. An observer of one's own is any function of a StepContext (train/fit.hpp).
#pragma once

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
#include "ddl/train/progress_line.hpp"

namespace ddl {

/// Settings of a ProgressBar.
struct ProgressBarSettings {
  std::string title = {};          ///< in front of the bar
  std::string unit = "samples";    ///< what a sample is called
  std::FILE* stream = stderr;      ///< where the line is drawn
  std::optional<bool> shows = {};  ///< empty: where the stream is a terminal
};

/// A line with a bar (ProgressLine): the steps made, a running mean of loss and accuracy, samples/s, the time
/// left. Prints nothing if the stream is not a terminal, unless `shows` is true. The line is ended by finish,
/// or by the destructor if fit throws.
class ProgressBar {
 public:
  /// Draws nothing before the first step.
  explicit ProgressBar(ProgressBarSettings settings = {})
      : settings_(std::move(settings)),
        shows_(settings_.shows.value_or(is_terminal(settings_.stream))),
        line_(settings_.stream) {}

  /// Takes up the figures of a step and redraws the line, ten times a second at most.
  template <class Context>
  void operator()(const Context& context) {
    const StepReport& now = context.report;
    samples_ += now.samples;
    if (first_ < 0) first_ = now.step - 1;
    const auto blend = [&](double& mean, double value) {
      if (is_finite(value)) mean = is_finite(mean) ? 0.98 * mean + 0.02 * value : value;
    };
    blend(loss_, now.loss);
    blend(accuracy_, now.accuracy);
    const double share = static_cast<double>(now.step) / static_cast<double>(now.steps);
    if (shows_ && line_.due(share)) line_.draw(settings_.title, share, figures(now));
  }
  /// Ends the line.
  template <class Context>
  void finish(const Context&) {
    line_.end();
    samples_ = 0;
    first_ = -1;
    loss_ = accuracy_ = std::numeric_limits<double>::quiet_NaN();
  }

 private:
  std::string figures(const StepReport& now) const {
    const auto made = static_cast<double>(now.step - first_);
    const auto left = static_cast<long>(now.seconds / made * static_cast<double>(now.steps - now.step));
    char loss[48], accuracy[48] = "", speed[48], time[48];
    std::snprintf(loss, sizeof loss, "  loss %.4f", loss_);
    if (is_finite(accuracy_)) std::snprintf(accuracy, sizeof accuracy, "  accuracy %.2f %%", 100 * accuracy_);
    std::snprintf(speed, sizeof speed, "  %.0f ", static_cast<double>(samples_) / now.seconds);
    std::snprintf(time, sizeof time, "/s  %ld:%02ld left", left / 60, left % 60);
    return std::string(loss) + accuracy + speed + settings_.unit + time;
  }

  ProgressBarSettings settings_;
  bool shows_;
  ProgressLine line_;
  Index samples_ = 0, first_ = -1;
  double loss_ = std::numeric_limits<double>::quiet_NaN(), accuracy_ = loss_;
};

/// Ends the run after so many seconds.
struct TimeLimit {
  double seconds;  ///< since fit began

  /// False once the time is up.
  template <class Context>
  bool operator()(const Context& context) const {
    return context.report.seconds < seconds;
  }
};

/// Early stopping. Calls measure(model), a loss over data that are not learned from, every `every` steps and
/// after the last, and ends the run when `patience` measurements in a row were not better than the best. A
/// measurement that is not finite is not better. The run keeps its last model; best_model() is the best.
/// Checkpoints do not hold the best model: save it beside them, and give it to restore() when the run is
/// resumed (examples/training_guide.cpp).
template <class Model>
class Validation {
 public:
  using Measure = std::function<double(const Model&)>;  ///< a loss

  /// @throws std::invalid_argument if `every` or `patience` is below 1.
  Validation(Index every, Index patience, Measure measure)
      : every_(every), patience_(patience), measure_(std::move(measure)) {
    check_positive("ddl::Validation", "every", every);
    check_positive("ddl::Validation", "patience", patience);
  }

  double best() const noexcept { return best_; }           ///< the lowest loss, infinite before the first one
  Index best_step() const noexcept { return best_step_; }  ///< the step of the lowest loss
  /// The model at best_step(); empty if no measurement was finite.
  const std::optional<Model>& best_model() const noexcept { return model_; }
  /// (step, loss) of every measurement.
  const std::vector<std::pair<Index, double>>& history() const noexcept { return history_; }

  /// For a run that is resumed after step `now`: the best model so far, its loss and its step. The
  /// measurements that were made since then count for the patience.
  /// @throws std::invalid_argument if the loss is not finite.
  void restore(Model best, double loss, Index step, Index now) {
    check_finite("ddl::Validation::restore", "loss", loss);
    model_ = std::move(best);
    best_ = loss;
    best_step_ = step;
    waited_ = (std::max)(Index(0), (now - step) / every_);
  }

  /// Measures if it is time to. False once the patience is used up.
  template <class Context>
  bool operator()(const Context& context) {
    if (context.report.step % every_ == 0) measure(context.run);
    return waited_ < patience_;
  }
  /// Measures the last step, if that was not done.
  template <class Context>
  void finish(const Context& context) {
    if (history_.empty() || history_.back().first != context.run.step) measure(context.run);
  }

 private:
  template <class Run>
  void measure(const Run& run) {
    const double loss = measure_(run.model);
    history_.emplace_back(run.step, loss);
    ++waited_;
    if (!is_finite(loss) || !(loss < best_)) return;
    waited_ = 0;
    best_ = loss;
    best_step_ = run.step;
    model_ = run.model;
  }

  Index every_, patience_;
  Measure measure_;
  double best_ = std::numeric_limits<double>::infinity();
  Index best_step_ = 0, waited_ = 0;
  std::optional<Model> model_;
  std::vector<std::pair<Index, double>> history_;
};

/// Records the mean gate of every block every `every` steps, over the first shard that has samples
/// (StepContext::tape). The additive control has no gates, and a rank may have no samples of a batch: nothing
/// is recorded.
class GateRecorder {
 public:
  /// The gates of one step.
  struct Entry {
    Index step;                     ///< after which they were recorded
    std::vector<double> mean_beta;  ///< of each block
  };

  /// @throws std::invalid_argument if `every` is below 1.
  explicit GateRecorder(Index every) : every_(every) { check_positive("ddl::GateRecorder", "every", every); }

  const std::vector<Entry>& entries() const noexcept { return entries_; }  ///< in the order of the steps

  /// Records if it is time to.
  template <class Context>
  void operator()(const Context& context) {
    if (context.report.step % every_ != 0) return;
    Entry entry{context.report.step, {}};
    context.run.model.for_each_edit(context.tape, [&](const auto& block, const auto& edit) {
      if (block.gate && edit.inputs.beta.size() > 0)
        entry.mean_beta.push_back(static_cast<double>(edit.inputs.beta.mean()));
    });
    if (!entry.mean_beta.empty()) entries_.push_back(std::move(entry));
  }

 private:
  Index every_;
  std::vector<Entry> entries_;
};

}  // namespace ddl
