// SPDX-License-Identifier: MIT
/// @file  The training loop.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/residual/stack.hpp"
#include "ddl/train/optimizer.hpp"

namespace ddl {

/// The state of a training run, besides the position in the data. A value, walked like a model.
///
///     TrainingRun run(net, {.weight_decay = 0.1});                            AdamW
///     TrainingRun<Net, Sgd<Net>> run(net, {.learning_rate = 0.1});            or another Optimizer
template <class Model_, Optimizer<Model_> Optimizer_ = AdamW<Model_>>
struct TrainingRun {
  using Model = Model_;
  using Optimizer = Optimizer_;
  using Scalar = typename Model::Scalar;

  Model model;
  Optimizer optimizer;
  Index step = 0;  ///< steps made, skipped ones included

  static constexpr auto parameters() {
    return std::tuple(parameter("model", &TrainingRun::model), parameter("optimizer", &TrainingRun::optimizer));
  }

  /// @throws std::invalid_argument if a setting is out of range.
  explicit TrainingRun(Model model_, const typename Optimizer::Settings& settings = {})
      : model(std::move(model_)), optimizer(model, settings) {}
};

/// What fit does with a step whose loss or gradient is not finite, or whose gradient is so large after clipping that its
/// square overflows in the model's Scalar. raise throws, skip goes on with the next batch, stop ends the run. The
/// parameters stay as they are.
///
/// fit also looks at the parameters after its last update. If one of them is not finite, raise throws, and skip and stop
/// end with StopReason::not_finite.
enum class NonFinite { raise, skip, stop };

struct FitSettings {
  Index steps = 1000;                               ///< of the whole run, those before a resumption included
  std::function<double(Index)> learning_rate = {};  ///< a schedule; empty: the optimizer's own rate
  double max_norm = 1;                              ///< of the gradient; 0: no clipping
  NonFinite non_finite = NonFinite::raise;
  Memory memory = Memory::training;  ///< what a step keeps for backward
};

/// The figures of one step.
struct StepReport {
  Index step = 0;   ///< steps made, this one included
  Index steps = 0;  ///< of the whole run
  Index samples = 0;
  double loss = 0;      ///< mean over the batch, before the step
  double accuracy = 0;  ///< share of the samples predicted correctly; NaN if the data have no such number
  double gradient_norm = 0;
  double learning_rate = 0;
  double seconds = 0;    ///< since fit began
  bool skipped = false;  ///< by NonFinite
};

/// The argument of an observer.
template <class Run, class Data, class Tape>
struct StepContext {
  const StepReport& report;
  Run& run;
  const Data& data;
  const Tape& tape;  ///< of the step's passes
};

/// Why fit returned: all steps are made, an observer returned false, or NonFinite ended the run. A run that skipped
/// all of its steps is not_finite, too.
enum class StopReason { finished, observer, not_finite };

struct FitResult {
  StopReason stop_reason = StopReason::finished;
  Index skipped = 0;  ///< steps
  StepReport last;
};

/// Batches to learn from:
///
///     next()                                 goes to the next batch
///     inputs()                               what the model's forward takes
///     samples()                              in this batch
///     loss(prediction, grad, executor)       the mean loss, and dL/dprediction into grad
///     correct(prediction)                    optional: the number predicted correctly, NaN if there is no such number
template <class D, class Model>
concept TrainingData = requires(D& data, const Matrix<typename Model::Scalar>& prediction,
                                Matrix<typename Model::Scalar>& grad) {
  data.next();
  data.inputs();
  { data.samples() } -> std::convertible_to<Index>;
  { data.loss(prediction, grad, Serial{}) } -> std::convertible_to<double>;
};

namespace detail {

/// @return false if the observer ends the run.
template <class Observer, class Context>
bool observe(Observer& observer, const Context& context) {
  if constexpr (is_std_optional<Observer>) {
    return !observer || observe(*observer, context);
  } else if constexpr (std::is_void_v<decltype(observer(context))>) {
    observer(context);
    return true;
  } else {
    static_assert(std::is_same_v<decltype(observer(context)), bool>,
                  "ddl: an observer returns nothing, or a bool: false ends the run");
    return observer(context);
  }
}

template <class Observer, class Context>
void begin(Observer& observer, const Context& context) {
  if constexpr (is_std_optional<Observer>) {
    if (observer) begin(*observer, context);
  } else if constexpr (requires { observer.begin(context); }) {
    observer.begin(context);
  }
}

template <class Observer, class Context>
void finish(Observer& observer, const Context& context) {
  if constexpr (is_std_optional<Observer>) {
    if (observer) finish(*observer, context);
  } else if constexpr (requires { observer.finish(context); }) {
    observer.finish(context);
  }
}

/// The buffers of a step. Each size of batch has its own, so that no step allocates once every size has been seen. Data
/// with more than `most` sizes make old buffers change size.
template <class Model>
class StepBuffers {
 public:
  using Tape = decltype(std::declval<const Model&>().make_tape(Memory::training));
  struct Buffers {
    Index samples;
    Tape tape;
    Matrix<typename Model::Scalar> grad;  ///< dL/dprediction
  };

  Buffers& of(const Model& model, Index samples, Memory memory) {
    for (Buffers& buffers : all_)
      if (buffers.samples == samples) return buffers;
    if (all_.size() < most) {
      all_.reserve(most);  // so that none of them moves
      return all_.emplace_back(Buffers{samples, model.make_tape(memory), {}});
    }
    Buffers& oldest = all_[replaced_++ % most];
    oldest.samples = samples;
    return oldest;
  }

 private:
  static constexpr std::size_t most = 4;
  std::vector<Buffers> all_;
  std::size_t replaced_ = 0;
};

}  // namespace detail

/// Trains until settings.steps are made, an observer returns false, or NonFinite::stop ends the run. An observer is any
/// function of a StepContext that returns nothing or bool, called after each step. Two functions are optional:
/// begin(context) is called before the first step, finish(context) after the last. An observer may be a std::optional.
///
/// Nothing is printed, and no thread is started: see train/observers.hpp for observers that print, stop and record.
/// @throws std::runtime_error as NonFinite::raise says, std::invalid_argument if a setting or a rate of the schedule is
/// out of range, and whatever model, data and observers throw.
template <Executor E, class Run, TrainingData<typename Run::Model> Data, class... Observers>
FitResult fit_on(const E& executor, Run& run, Data& data, const FitSettings& settings,
                 Observers&&... observers) {
  using Model = typename Run::Model;
  using Scalar = typename Run::Scalar;
  constexpr const char* where = "ddl::fit";
  if (settings.steps < 0) fail(where, "steps", std::to_string(settings.steps), "at least 0");
  check_range(where, "max_norm", settings.max_norm, settings.max_norm >= 0, "a number of at least 0");
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  detail::StepBuffers<Model> all_buffers;
  auto* buffers = &all_buffers.of(run.model, 0, settings.memory);
  auto gradient = zeros_like(run.model);
  FitResult result;
  StepReport& report = result.last;
  report.step = run.step;
  report.steps = settings.steps;
  [[maybe_unused]] const auto context = [&] {
    return StepContext<Run, Data, typename detail::StepBuffers<Model>::Tape>{report, run, data,
                                                                             buffers->tape};
  };
  (detail::begin(observers, context()), ...);
  Index updates = 0;
  for (bool go_on = true; go_on && run.step < settings.steps;) {
    if (settings.learning_rate) {
      const double rate = settings.learning_rate(run.step);
      if (!is_finite(rate) || rate < 0)
        fail(where, "the learning rate of step " + std::to_string(run.step), number_text(rate),
             "a number of at least 0");
      run.optimizer.settings.learning_rate = rate;
    }
    report.learning_rate = run.optimizer.settings.learning_rate;
    data.next();
    report.samples = data.samples();
    buffers = &all_buffers.of(run.model, report.samples, settings.memory);
    auto& [samples, tape, grad] = *buffers;
    const auto& prediction = run.model.forward(data.inputs(), tape, executor);
    grad.resize(prediction.rows(), prediction.cols());
    report.loss = data.loss(prediction, grad, executor);
    report.accuracy = std::numeric_limits<double>::quiet_NaN();
    if constexpr (requires { data.correct(prediction); })
      report.accuracy = static_cast<double>(data.correct(prediction)) / static_cast<double>(report.samples);
    set_zero(gradient);
    run.model.backward(grad, tape, gradient, executor);
    report.gradient_norm = settings.max_norm > 0 ? clip_global_norm(gradient, settings.max_norm, executor)
                                                 : global_norm(gradient, executor);
    const auto clipped = static_cast<Scalar>(
        settings.max_norm > 0 ? (std::min)(report.gradient_norm, settings.max_norm) : report.gradient_norm);
    report.skipped =
        !is_finite(report.loss) || !is_finite(report.gradient_norm) || !is_finite(Scalar(clipped * clipped));
    if (report.skipped && settings.non_finite == NonFinite::raise)
      throw std::runtime_error("ddl::fit: at step " + std::to_string(run.step + 1) + " the loss is " +
                               number_text(report.loss) + " and the gradient's norm " +
                               number_text(report.gradient_norm) +
                               ", expected finite numbers, and a norm whose square does not overflow");
    if (report.skipped && settings.non_finite == NonFinite::stop) {
      result.stop_reason = StopReason::not_finite;
      break;
    }
    if (!report.skipped) {
      run.optimizer.step(run.model, gradient, executor);
      ++updates;
    }
    result.skipped += report.skipped;
    report.step = ++run.step;
    report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    ((go_on = detail::observe(observers, context()) && go_on), ...);
    if (!go_on) result.stop_reason = StopReason::observer;
  }
  const bool finite = all_parameters_finite(run.model);
  if (!finite && settings.non_finite == NonFinite::raise)
    throw std::runtime_error("ddl::fit: after step " + std::to_string(run.step) +
                             " a parameter of the model is not finite");
  if (!finite || (result.skipped > 0 && updates == 0)) result.stop_reason = StopReason::not_finite;
  (detail::finish(observers, context()), ...);
  return result;
}

/// The same on the calling thread alone.
template <class Run, TrainingData<typename Run::Model> Data, class... Observers>
FitResult fit(Run& run, Data& data, const FitSettings& settings, Observers&&... observers) {
  return fit_on(Serial{}, run, data, settings, observers...);
}

}  // namespace ddl
