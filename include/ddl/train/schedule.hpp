// SPDX-License-Identifier: MIT
/// @file  Learning-rate schedules: functions from the step, counted from 0, to the rate.
///
/// A schedule of one's own is any such function; fit refuses a rate that is negative or not finite.
#pragma once

#include <algorithm>
#include <cmath>

#include "ddl/core/check.hpp"

namespace ddl {

/// The same rate at every step.
struct ConstantSchedule {
  double learning_rate = 1e-3;                                       ///< at every step
  double operator()(Index) const noexcept { return learning_rate; }  ///< the rate
};

/// Settings of WarmupCosine.
struct WarmupCosineSettings {
  double peak = 1e-3;  ///< the highest rate
  double floor = 0;    ///< the rate once all steps are done
  Index warmup = 0;    ///< steps of linear rise; the first step has peak / warmup
  Index steps = 1;     ///< the steps of the whole run
};

/// A linear rise to the peak, then half a cosine down to the floor.
class WarmupCosine {
 public:
  /// @throws std::invalid_argument if a setting is out of range.
  explicit WarmupCosine(const WarmupCosineSettings& settings) : settings_(settings) {
    constexpr const char* where = "ddl::WarmupCosine";
    check_range(where, "peak", settings.peak, settings.peak >= 0, "a number of at least 0");
    check_range(where, "floor", settings.floor, settings.floor >= 0 && settings.floor <= settings.peak,
                "0 to the peak");
    check_positive(where, "steps", settings.steps);
    if (settings.warmup < 0 || settings.warmup > settings.steps)
      fail(where, "warmup", std::to_string(settings.warmup),
           "0 to " + std::to_string(settings.steps) + " steps");
  }

  /// As given to the constructor.
  const WarmupCosineSettings& settings() const noexcept { return settings_; }

  /// The rate of a step.
  /// @throws std::invalid_argument if step is negative.
  double operator()(Index step) const {
    if (step < 0) fail("ddl::WarmupCosine", "step", std::to_string(step), "at least 0");
    const auto [peak, floor, warmup, steps] = settings_;
    if (step >= steps) return floor;
    if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
    const double done =
        static_cast<double>(step - warmup) / static_cast<double>((std::max)(Index(1), steps - warmup));
    return floor + (peak - floor) * 0.5 * (1 + std::cos(3.14159265358979323846 * (std::min)(1.0, done)));
  }

 private:
  WarmupCosineSettings settings_;
};

}  // namespace ddl
