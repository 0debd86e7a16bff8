// SPDX-License-Identifier: MIT
/// @file  The training loop, and what watches it.
#pragma once

#include <chrono>
#include <concepts>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "ddl/residual/stack.hpp"
#include "ddl/train/optimizer.hpp"

namespace ddl {

/// Everything that a step of training changes, besides the position in the data. A value, walked like a model.
template <class Model_>
struct TrainingRun {
  using Model = Model_;
  using Scalar = typename Model::Scalar;

  Model model;
  AdamW<Model> optimizer;
  Index step = 0;  ///< steps made, those that were skipped included

  static constexpr auto parameters() {
    return std::tuple(parameter("model", &TrainingRun::model), parameter("optimizer", &TrainingRun::optimizer));
  }

  /// @throws std::invalid_argument if a setting is out of range.
  explicit TrainingRun(Model model_, const AdamWSettings& settings = {})
      : model(std::move(model_)), optimizer(model, settings) {}
};

/// If the loss or the gradient's norm is not finite: raise throws, skip goes on with the next batch, stop ends the run. None
/// of them touches the parameters.
enum class NonFinite { raise, skip, stop };

struct FitSettings {
  Index steps = 1000;                               ///< of the whole run, those before a resumption included
  std::function<double(Index)> learning_rate = {};  ///< a schedule; empty: the optimizer's own rate
  double max_norm = 1;                              ///< of the gradient; 0: no clipping
  NonFinite non_finite = NonFinite::raise;
  Memory memory = Memory::training;  ///< what a step keeps for its way back
};

/// What one step showed.
struct StepReport {
  Index step = 0;   ///< steps made, this one included
  Index steps = 0;  ///< of the whole run
  Index samples = 0;
  double loss = 0;     ///< mean over the batch, before the step
  double correct = 0;  ///< share of the samples predicted rightly; NaN where the data do not tell
  double gradient_norm = 0;
  double learning_rate = 0;
  double seconds = 0;    ///< since fit began
  bool skipped = false;  ///< loss or gradient were not finite
};

/// What an observer is called with after each step.
template <class Model, class Data, class Tape>
struct Observation {
  const StepReport& report;
  TrainingRun<Model>& run;
  const Data& data;
  const Tape& tape;  ///< of the step's passes
};

/// An observer may return this to end the run; one that returns nothing lets it go on.
enum class Flow { go_on, stop };

enum class Ending { finished, stopped, not_finite };

struct FitResult {
  Ending ending = Ending::finished;
  Index skipped = 0;
  StepReport last;
};

/// Batches to learn from:
///
///     next()                                 goes to the next batch
///     inputs()                               what the model's forward and backward take
///     samples()                              in this batch
///     loss(prediction, slope, executor)      the mean loss, and dL/dprediction into slope
///     correct(prediction)                    optional: the number predicted rightly, NaN if there is no such thing
template <class D, class Model>
concept TrainingData = requires(D& data, const Matrix<typename Model::Scalar>& prediction,
                                Matrix<typename Model::Scalar>& slope) {
  data.next();
  data.inputs();
  { data.samples() } -> std::convertible_to<Index>;
  { data.loss(prediction, slope, Serial{}) } -> std::convertible_to<double>;
};

namespace detail {

template <class Observer, class Seen>
Flow observe(Observer& observer, const Seen& seen) {
  if constexpr (is_std_optional<Observer>) {
    return observer ? observe(*observer, seen) : Flow::go_on;
  } else if constexpr (std::is_void_v<decltype(observer(seen))>) {
    observer(seen);
    return Flow::go_on;
  } else {
    return observer(seen);
  }
}

template <class Observer, class Seen>
void finish(Observer& observer, const Seen& seen) {
  if constexpr (is_std_optional<Observer>) {
    if (observer) finish(*observer, seen);
  } else if constexpr (requires { observer.finish(seen); }) {
    observer.finish(seen);
  }
}

}  // namespace detail

/// Trains until settings.steps are made, an observer stops it, or NonFinite::stop does. After each step every observer
/// is called with an Observation; at the end, those that have a function finish(observation) by that. An observer may be
/// a std::optional, and absent.
///
/// Nothing is printed, and no thread is started: see train/observers.hpp for observers that print, stop and record.
/// @throws std::runtime_error where NonFinite::raise says so, std::invalid_argument if a setting is out of range, and
/// whatever model, data and observers throw.
template <Executor E, class Model, TrainingData<Model> Data, class... Observers>
FitResult fit_on(const E& executor, TrainingRun<Model>& run, Data& data, const FitSettings& settings,
                 Observers&&... observers) {
  if (settings.steps < 0) fail("ddl::fit", "steps", std::to_string(settings.steps), "at least 0");
  check_range("ddl::fit", "max_norm", settings.max_norm, settings.max_norm >= 0, "a number of at least 0");
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  auto tape = run.model.make_tape(settings.memory);
  auto gradient = zeros_like(run.model);
  Matrix<typename Model::Scalar> slope;
  FitResult result;
  StepReport& report = result.last;
  report.step = run.step;
  report.steps = settings.steps;
  [[maybe_unused]] const Observation<Model, Data, decltype(tape)> seen{report, run, data, tape};
  for (bool go_on = true; go_on && run.step < settings.steps;) {
    data.next();
    const auto& prediction = run.model.forward(data.inputs(), tape, executor);
    slope.resize(prediction.rows(), prediction.cols());
    report.samples = data.samples();
    report.loss = data.loss(prediction, slope, executor);
    report.correct = std::numeric_limits<double>::quiet_NaN();
    if constexpr (requires { data.correct(prediction); })
      report.correct = static_cast<double>(data.correct(prediction)) / static_cast<double>(report.samples);
    set_zero(gradient);
    run.model.backward(slope, tape, gradient, executor);
    report.gradient_norm = settings.max_norm > 0 ? clip_global_norm(gradient, settings.max_norm, executor)
                                                 : global_norm(gradient, executor);
    report.skipped = !is_finite(report.loss) || !is_finite(report.gradient_norm);
    if (report.skipped && settings.non_finite == NonFinite::raise)
      throw std::runtime_error("ddl::fit: at step " + std::to_string(run.step + 1) + " the loss is " +
                               number_text(report.loss) + " and the gradient's norm " +
                               number_text(report.gradient_norm));
    if (report.skipped && settings.non_finite == NonFinite::stop) {
      result.ending = Ending::not_finite;
      break;
    }
    if (settings.learning_rate) run.optimizer.settings.learning_rate = settings.learning_rate(run.step);
    report.learning_rate = run.optimizer.settings.learning_rate;
    if (!report.skipped) run.optimizer.step(run.model, gradient, executor);
    result.skipped += report.skipped;
    report.step = ++run.step;
    report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    ((go_on = detail::observe(observers, seen) == Flow::go_on && go_on), ...);
    if (!go_on) result.ending = Ending::stopped;
  }
  (detail::finish(observers, seen), ...);
  return result;
}

/// The same on the calling thread alone.
template <class Model, TrainingData<Model> Data, class... Observers>
FitResult fit(TrainingRun<Model>& run, Data& data, const FitSettings& settings, Observers&&... observers) {
  return fit_on(Serial{}, run, data, settings, observers...);
}

}  // namespace ddl
