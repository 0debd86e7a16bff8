// SPDX-License-Identifier: MIT
/// @file  The training loop.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/core/bytes.hpp"
#include "ddl/core/communicator.hpp"
#include "ddl/train/optimizer.hpp"
#include "ddl/train/ranks.hpp"
#include "ddl/train/sharded_step.hpp"

namespace ddl {

/// The state of a training run, besides the position in the data. A value, walked like a model.
///
///     ddl::TrainingRun run(net, {.weight_decay = 0.1});                           // AdamW
///
///     ddl::TrainingRun<Net, ddl::Sgd<Net>> run(net, {.learning_rate = 0.1});      // or another Optimizer
template <class Model_, Optimizer<Model_> Optimizer_ = AdamW<Model_>>
struct TrainingRun {
  using Model = Model_;          ///< a class with make_tape, forward and backward, such as DeltaResNet
  using Optimizer = Optimizer_;  ///< see the concept of this name
  using Scalar = typename Model::Scalar;

  Model model;          ///< what is trained
  Optimizer optimizer;  ///< with its moments
  Index step = 0;       ///< steps made, skipped ones included

  static constexpr auto parameters() {
    return std::tuple(parameter("model", &TrainingRun::model),
                      parameter("optimizer", &TrainingRun::optimizer));
  }

  /// A run of a model, before its first step.
  /// @throws std::invalid_argument if a setting is out of range.
  explicit TrainingRun(Model model_, const typename Optimizer::Settings& settings = {})
      : model(std::move(model_)), optimizer(model, settings) {}
};

/// What fit does with a step whose loss or gradient is not finite, or whose gradient is so large after
/// clipping that its square overflows in the model's Scalar. raise throws, skip goes on with the next batch,
/// stop ends the run. The parameters stay as they are.
///
/// fit also looks at the parameters after its last update. If one of them is not finite, raise throws, and
/// skip and stop end with StopReason::not_finite.
enum class NonFinite { raise, skip, stop };

/// Settings of fit.
struct FitSettings {
  Index steps = 1000;                               ///< of the whole run, those before a resumption included
  std::function<double(Index)> learning_rate = {};  ///< a schedule; empty: the optimizer's own rate
  double max_norm = 1;                              ///< of the gradient; 0: no clipping
  NonFinite non_finite = NonFinite::raise;          ///< what to do with a step that is not finite
  Memory memory = Memory::training;                 ///< what a step keeps for backward
  Communicator* ranks = nullptr;  ///< processes that share the shards of each batch; null: this one alone
  /// Steps after which the ranks compare their parameters. They also do so after the last step.
  Index check_ranks_every = 100;
};

/// The figures of one step.
struct StepReport {
  Index step = 0;     ///< steps made, this one included
  Index steps = 0;    ///< of the whole run
  Index samples = 0;  ///< in the batch
  double loss = 0;    ///< mean over the batch, before the step
  /// Share of the samples predicted correctly, of those that the loss counts. NaN if there are none, or the
  /// data have no such number.
  double accuracy = 0;
  double gradient_norm = 0;  ///< before clipping
  double learning_rate = 0;  ///< of this step
  double seconds = 0;        ///< since fit began
  bool skipped = false;      ///< by NonFinite
};

/// The argument of an observer.
template <class Run, class Data, class Tape>
struct StepContext {
  const StepReport& report;  ///< the figures of the step
  Run& run;                  ///< after the step
  const Data& data;          ///< the batch of the step
  /// Of the step's passes, those of this process's first shard that has samples. Without any, and before the
  /// first step, its matrices are empty.
  const Tape& tape;
};

/// Why fit returned: all steps are made, an observer returned false, or NonFinite ended the run. A run that
/// skipped all of its steps is not_finite, too.
enum class StopReason { finished, observer, not_finite };

/// What fit returns.
struct FitResult {
  StopReason stop_reason = StopReason::finished;  ///< why fit returned
  Index skipped = 0;                              ///< steps
  StepReport last;                                ///< of the last step
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

}  // namespace detail

/// Trains until settings.steps are made, an observer returns false, or NonFinite::stop ends the run. An
/// observer is any function of a StepContext that returns nothing or bool, called after each step. Two
/// functions are optional: begin(context) is called before the first step, finish(context) after the last. An
/// observer may be a std::optional.
///
/// With FitSettings::ranks, every rank calls fit with a model and data of the same sizes. All of them begin
/// with the run and the position in the data of rank 0, and end with the same bits. The run ends when an
/// observer of any rank returns false.
///
/// Nothing is printed, and no thread is started: see train/observers.hpp for observers that print, stop and
/// record.
/// @throws std::runtime_error as NonFinite::raise says, std::invalid_argument if a setting or a rate of the
/// schedule is out of range, and whatever model, data and observers throw.
template <Executor E, class Run, TrainingData<typename Run::Model> Data, class... Observers>
FitResult fit_on(const E& executor, Run& run, Data& data, const FitSettings& settings,
                 Observers&&... observers) {
  using Model = typename Run::Model;
  using Scalar = typename Run::Scalar;
  constexpr const char* where = "ddl::fit";
  if (settings.steps < 0) fail(where, "steps", std::to_string(settings.steps), "at least 0");
  check_positive(where, "check_ranks_every", settings.check_ranks_every);
  check_range(where, "max_norm", settings.max_norm, settings.max_norm >= 0, "a number of at least 0");
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  Index shards = 1;
  if constexpr (detail::HasShards<Data>) shards = data.shards();
  detail::ShardedStep<Model> sharded(run.model, shards, settings.memory, settings.ranks);
  if (settings.ranks)
    detail::begin_together(*settings.ranks, run, data,
                           {shards, settings.steps, settings.check_ranks_every,
                            static_cast<Index>(settings.non_finite), static_cast<Index>(settings.memory),
                            static_cast<Index>(xxh64(std::as_bytes(std::span(&settings.max_norm, 1))))});
  FitResult result;
  StepReport& report = result.last;
  report.step = run.step;
  report.steps = settings.steps;
  [[maybe_unused]] const auto context = [&] {
    return StepContext<Run, Data, typename detail::StepBuffers<Model>::Tape>{report, run, data,
                                                                             sharded.tape()};
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
    typename detail::ShardedStep<Model>::Result total;
    Model& gradient = sharded.compute(run.model, data, total, executor);
    report.loss = total.loss.mean();
    report.accuracy = total.correct / total.counted;
    report.gradient_norm = settings.max_norm > 0 ? clip_global_norm(gradient, settings.max_norm, executor)
                                                 : global_norm(gradient, executor);
    const auto clipped = static_cast<Scalar>(
        settings.max_norm > 0 ? (std::min)(report.gradient_norm, settings.max_norm) : report.gradient_norm);
    report.skipped =
        !is_finite(report.loss) || !is_finite(report.gradient_norm) || !is_finite(Scalar(clipped * clipped));
    if (report.skipped && settings.non_finite == NonFinite::raise)
      throw std::runtime_error("ddl::fit: at step " + std::to_string(run.step + 1) + " the loss is " +
                               number_text(report.loss) + sharded.where_not_finite() +
                               " and the gradient's norm " + number_text(report.gradient_norm) +
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
    if (settings.ranks && (run.step % settings.check_ranks_every == 0 || run.step == settings.steps))
      detail::check_together(*settings.ranks, run);
    report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    ((go_on = detail::observe(observers, context()) && go_on), ...);
    if (settings.ranks) go_on = detail::all_true(*settings.ranks, go_on);
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
