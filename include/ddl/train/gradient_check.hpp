// SPDX-License-Identifier: MIT
/// @file  A check of hand-written gradients against central differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "ddl/core/parameters.hpp"

namespace ddl {

/// Settings of check_gradients.
struct GradientCheckSettings {
  double step = 1e-3;  ///< of the differences, times max(1, |parameter|)
  /// Accept a tensor whose gradient is zero, given and numeric; it fails the check otherwise.
  bool allow_zero = false;
};

/// The outcome of check_gradients. `error` is the largest, over the parameters' tensors, of
/// max |given - numeric| / max(|given|, |numeric|), each maximum over the tensor; NaN counts as worst.
struct GradientReport {
  double error = 0;               ///< the largest, relative
  std::string name;               ///< the tensor of the worst entry, dotted; empty for a bare matrix
  Index row = 0, col = 0;         ///< the worst entry
  double given = 0, numeric = 0;  ///< of the worst entry
  Index compared = 0;             ///< entries
  std::string vacuous;            ///< the first tensor in which given and numeric gradients are all zero

  /// Whether all agree to the tolerance, and something was compared.
  bool passes(double tolerance) const { return compared > 0 && vacuous.empty() && error <= tolerance; }
  /// The outcome in words.
  std::string message() const {
    if (compared == 0) return "no gradient was compared";
    if (!vacuous.empty()) return "vacuous: the gradient of " + vacuous + " is zero, given and numeric";
    return "relative error " + number_text(error) + " at " + name + "(" + std::to_string(row) + ", " +
           std::to_string(col) + "): given " + number_text(given) + ", numeric " + number_text(numeric);
  }
};

/// Compares `gradient` with fourth-order central differences of `loss`, a function of no arguments that
/// evaluates the loss at the model's present parameters. The model is a model, a part or a bare matrix; it is
/// left as it was. Meant for double: in float, differences drown in rounding.
template <class Model, class Loss>
GradientReport check_gradients(Model& model, const Model& gradient, Loss&& loss,
                               const GradientCheckSettings& settings = {}) {
  GradientReport report;
  for_each_parameter(
      [&](const ParameterPath& path, auto& p, const auto& g) {
        using Scalar = typename std::remove_cvref_t<decltype(p)>::Scalar;
        double size = 0, worst = 0;
        GradientReport here;
        for (Index col = 0; col < p.cols(); ++col)
          for (Index row = 0; row < p.rows(); ++row) {
            const Scalar kept = p(row, col);
            const double h = settings.step * (std::max)(1.0, std::abs(static_cast<double>(kept)));
            const auto at = [&](double offset) {
              p(row, col) = static_cast<Scalar>(static_cast<double>(kept) + offset);
              return static_cast<double>(loss());
            };
            const double near_difference = at(h) - at(-h), far_difference = at(2 * h) - at(-2 * h);
            p(row, col) = kept;
            const double numeric = (8 * near_difference - far_difference) / (12 * h);
            const double given = static_cast<double>(g(row, col)), error = std::abs(given - numeric);
            size = (std::max)({size, std::abs(given), std::abs(numeric)});
            ++report.compared;
            if (!(error <= worst) || (here.given == 0 && here.numeric == 0)) {
              worst = is_finite(error) ? (std::max)(worst, error) : std::numeric_limits<double>::infinity();
              here.row = row, here.col = col, here.given = given, here.numeric = numeric;
            }
          }
        // Differences of a loss of order 1 cannot tell a gradient below this from zero.
        if (size < 1e-12 && !settings.allow_zero && report.vacuous.empty())
          report.vacuous = path.str().empty() ? "the matrix" : path.str();
        const double relative = !is_finite(worst) ? worst : worst / (std::max)(size, 1e-12);
        if (!(relative <= report.error) || report.name.empty()) {
          report.error = relative;
          report.name = path.str();
          report.row = here.row, report.col = here.col, report.given = here.given,
          report.numeric = here.numeric;
        }
      },
      model, gradient);
  return report;
}

}  // namespace ddl
