// SPDX-License-Identifier: MIT
/// @file  SGD with momentum, AdamW, and clipping by the global norm. None of them knows any layer: each is a
/// walk over the parameters, with moments that are values of the model's own type.
#pragma once

#include <cmath>
#include <concepts>
#include <limits>
#include <string_view>
#include <tuple>

#include "ddl/core/eigen_internals.hpp"
#include "ddl/core/parameters.hpp"
#include "ddl/core/pass.hpp"

namespace ddl {

namespace detail {

/// Calls f.operator()<Lane>(i) for packs that cover a parameter of `size` entries: see
/// core/eigen_internals.hpp.
template <class Scalar, class F>
void for_packs(const ExecutorRef& executor, Index size, const F& f) {
  for_ranges(executor, size, Index(1) << 14, [&](Index begin, Index end) {
    sweep<Scalar>(end - begin, [=]<class Lane>(Index i) { f.template operator()<Lane>(begin + i); });
  });
}

}  // namespace detail

/// What fit needs of an optimizer. It is a part whose parameters are its moments, so that a checkpoint saves
/// them.
///
///     using Settings = ...                   made from (model, settings); `settings.learning_rate` may change between steps
///     step(model, gradient, executor)        one update
///
/// For checkpoints also:
///
///     static constexpr std::string_view kind         its name
///     static void visit_numbers(self, visit)         calls visit(name, number) for each number to save: double or Index
///     check()                                        throws std::invalid_argument if one of them is out of range
template <class O, class Model>
concept Optimizer = Part<O> &&
    requires(O& optimizer, Model& model, const Model& gradient, const typename O::Settings& settings) {
  O(gradient, settings);
  { optimizer.settings.learning_rate } -> std::convertible_to<double>;
  optimizer.step(model, gradient, Serial{});
};

/// Whether every parameter is finite.
template <class Model>
bool all_parameters_finite(const Model& model) {
  bool finite = true;
  for_each_parameter([&](const ParameterPath&, const auto& p) { finite = finite && all_finite(p); }, model);
  return finite;
}

/// The Euclidean norm over all parameters, summed in double.
template <class Model, Executor E = Serial>
double global_norm(const Model& model, const E& executor = {}) {
  double sum = 0;
  for_each_parameter(
      [&](const ParameterPath&, const auto& p) {
        using Array = Eigen::Array<typename std::remove_cvref_t<decltype(p)>::Scalar, Dynamic, 1>;
        sum += sum_ranges(executor, p.size(), 1, [&](Index begin, Index end) {
          return Eigen::Map<const Array>(p.data() + begin, end - begin)
              .template cast<double>()
              .square()
              .sum();
        });
      },
      model);
  return std::sqrt(sum);
}

/// Scales the gradient by max_norm / (norm + 1e-6) where that is below 1, as PyTorch does. A gradient whose
/// norm is not finite is left as it is, for the caller to see.
/// @return the norm before. @throws std::invalid_argument unless max_norm is a number above 0.
template <class Model, Executor E = Serial>
double clip_global_norm(Model& gradient, double max_norm, const E& executor = {}) {
  check_range("ddl::clip_global_norm", "max_norm", max_norm, max_norm > 0, "a number above 0");
  const double norm = global_norm(gradient, executor);
  const double scale = max_norm / (norm + 1e-6);
  if (is_finite(norm) && scale < 1)
    for_each_parameter(
        [&](const ParameterPath&, auto& p) {
          using Scalar = typename std::remove_cvref_t<decltype(p)>::Scalar;
          detail::for_packs<Scalar>(
              executor, p.size(), [to = p.data(), factor = static_cast<Scalar>(scale)]<class Lane>(Index i) {
                Lane::store(to + i, Lane::multiply(Lane::load(to + i), Lane::broadcast(factor)));
              });
        },
        gradient);
  return norm;
}

/// Settings of Sgd.
struct SgdSettings {
  double learning_rate = 1e-2;  ///< may change between steps
  double momentum = 0;          ///< the share of the velocity that is kept, in [0, 1)
  double weight_decay = 0;      ///< decoupled, and not on vectors (biases, norms)
};

/// SGD with momentum: velocity = momentum velocity + gradient;  p -= learning_rate (velocity + weight_decay
/// p).
///
/// The state of an optimizer is walked like a model's parameters: that is how a checkpoint saves it.
template <class Model>
struct Sgd {
  using Scalar = typename Model::Scalar;
  using Settings = SgdSettings;
  static constexpr std::string_view kind = "SGD";  ///< the name in checkpoints

  SgdSettings settings;  ///< may change between steps
  Model velocity;        ///< one for each parameter

  static constexpr auto parameters() { return std::tuple(parameter("velocity", &Sgd::velocity)); }

  /// @throws std::invalid_argument if a setting is out of range.
  explicit Sgd(const Model& model, const SgdSettings& settings_ = {})
      : settings(settings_), velocity(zeros_like(model)) {
    check();
  }

  /// See Optimizer.
  template <class Self, class F>
  static void visit_numbers(Self& self, const F& visit) {
    visit("learning_rate", self.settings.learning_rate);
    visit("momentum", self.settings.momentum);
    visit("weight_decay", self.settings.weight_decay);
  }
  /// Checks all numbers.
  /// @throws std::invalid_argument if a setting is out of range.
  void check() const {
    constexpr const char* where = "ddl::Sgd";
    check_range(where, "learning_rate", settings.learning_rate, settings.learning_rate >= 0,
                "a number of at least 0");
    check_range(where, "momentum", settings.momentum, settings.momentum >= 0 && settings.momentum < 1,
                "in [0, 1)");
    check_range(where, "weight_decay", settings.weight_decay, settings.weight_decay >= 0,
                "a number of at least 0");
  }

  /// One update of the model.
  template <Executor E = Serial>
  void step(Model& model, const Model& gradient, const E& executor = {}) {
    for_each_parameter(
        [&](const ParameterPath& path, auto& p, const auto& g, auto& v) {
          const auto momentum = static_cast<Scalar>(settings.momentum);
          const auto rate = static_cast<Scalar>(settings.learning_rate);
          const auto kept =
              static_cast<Scalar>(path.is_vector() ? 1 : 1 - settings.learning_rate * settings.weight_decay);
          detail::for_packs<Scalar>(
              executor, p.size(), [=, ps = p.data(), gs = g.data(), vs = v.data()]<class Lane>(Index i) {
                const auto times = [](Scalar factor, const auto& x) {
                  return Lane::multiply(Lane::broadcast(factor), x);
                };
                const auto step = Lane::add(times(momentum, Lane::load(vs + i)), Lane::load(gs + i));
                Lane::store(vs + i, step);
                Lane::store(ps + i, Lane::subtract(times(kept, Lane::load(ps + i)), times(rate, step)));
              });
        },
        model, gradient, velocity);
  }
};

/// Settings of AdamW.
struct AdamWSettings {
  double learning_rate = 1e-3;  ///< may change between steps
  double beta1 = 0.9;           ///< b1
  double beta2 = 0.999;         ///< b2
  double eps = 1e-8;            ///< keeps the division from 0
  double weight_decay = 1e-2;   ///< decoupled, and not on vectors (biases, norms)
};

/// AdamW (Loshchilov and Hutter 2019), with PyTorch's order of operations:
///
///     p *= 1 - rate decay,  m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
///     p -= rate / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
///
/// A schedule sets settings.learning_rate before each step.
///
/// g is the gradient's entry clamped to +-largest_gradient() (9.2e18 in float). Without that g^2 may
/// overflow, v would be infinite from then on, and the parameter would never move again. NaN and infinity are
/// not clamped.
template <class Model>
struct AdamW {
  using Scalar = typename Model::Scalar;
  using Settings = AdamWSettings;
  static constexpr std::string_view kind = "AdamW";  ///< the name in checkpoints

  AdamWSettings settings;             ///< may change between steps
  Model first_moment, second_moment;  ///< m and v
  Index steps = 0;                    ///< t, the updates made

  static constexpr auto parameters() {
    return std::tuple(parameter("first_moment", &AdamW::first_moment),
                      parameter("second_moment", &AdamW::second_moment));
  }

  /// @throws std::invalid_argument if a setting is out of range.
  explicit AdamW(const Model& model, const AdamWSettings& settings_ = {})
      : settings(settings_), first_moment(zeros_like(model)), second_moment(first_moment) {
    check();
  }

  /// Half the square root of the largest number.
  static Scalar largest_gradient() {
    using std::sqrt;
    return sqrt((std::numeric_limits<Scalar>::max)()) / Scalar(2);
  }

  /// See Optimizer.
  template <class Self, class F>
  static void visit_numbers(Self& self, const F& visit) {
    visit("steps", self.steps);
    visit("learning_rate", self.settings.learning_rate);
    visit("beta1", self.settings.beta1);
    visit("beta2", self.settings.beta2);
    visit("eps", self.settings.eps);
    visit("weight_decay", self.settings.weight_decay);
  }
  /// Checks all numbers.
  /// @throws std::invalid_argument if a setting or the number of steps is out of range.
  void check() const {
    constexpr const char* where = "ddl::AdamW";
    check_range(where, "learning_rate", settings.learning_rate, settings.learning_rate >= 0,
                "a number of at least 0");
    check_range(where, "beta1", settings.beta1, settings.beta1 >= 0 && settings.beta1 < 1, "in [0, 1)");
    check_range(where, "beta2", settings.beta2, settings.beta2 >= 0 && settings.beta2 < 1, "in [0, 1)");
    check_range(where, "eps", settings.eps, settings.eps > 0, "a number above 0");
    check_range(where, "weight_decay", settings.weight_decay, settings.weight_decay >= 0,
                "a number of at least 0");
    if (steps < 0) fail(where, "steps", std::to_string(steps), "at least 0");
  }

  /// One update of the model.
  template <Executor E = Serial>
  void step(Model& model, const Model& gradient, const E& executor = {}) {
    const double next = static_cast<double>(steps + 1);
    const double correction1 = 1 - std::pow(settings.beta1, next);
    const double correction2 = 1 - std::pow(settings.beta2, next);
    for_each_parameter(
        [&](const ParameterPath& path, auto& p, const auto& g, auto& m, auto& v) {
          const auto b1 = static_cast<Scalar>(settings.beta1),
                     rest1 = static_cast<Scalar>(1 - settings.beta1);
          const auto b2 = static_cast<Scalar>(settings.beta2),
                     rest2 = static_cast<Scalar>(1 - settings.beta2);
          const auto rate = static_cast<Scalar>(settings.learning_rate / correction1);
          const auto unbias = static_cast<Scalar>(1 / std::sqrt(correction2));
          const auto eps = static_cast<Scalar>(settings.eps);
          const Scalar most = largest_gradient();
          const auto kept =
              static_cast<Scalar>(path.is_vector() ? 1 : 1 - settings.learning_rate * settings.weight_decay);
          detail::for_packs<Scalar>(
              executor, p.size(),
              [=, ps = p.data(), gs = g.data(), ms = m.data(), vs = v.data()]<class Lane>(Index i) {
                const auto times = [](Scalar factor, const auto& x) {
                  return Lane::multiply(Lane::broadcast(factor), x);
                };
                const auto grad = Lane::load(gs + i);
                const auto inside =
                    Lane::maximum(Lane::minimum(grad, Lane::broadcast(most)), Lane::broadcast(-most));
                const auto clamped = Lane::add(inside, times(0, grad));  // NaN and infinity give NaN
                const auto mean = Lane::add(times(b1, Lane::load(ms + i)), times(rest1, clamped));
                const auto square =
                    Lane::add(times(b2, Lane::load(vs + i)), times(rest2, Lane::multiply(clamped, clamped)));
                const auto root = Lane::add(times(unbias, Lane::sqrt(square)), Lane::broadcast(eps));
                Lane::store(ms + i, mean);
                Lane::store(vs + i, square);
                Lane::store(ps + i, Lane::subtract(times(kept, Lane::load(ps + i)),
                                                   Lane::divide(times(rate, mean), root)));
              });
        },
        model, gradient, first_moment, second_moment);
    ++steps;
  }
};

}  // namespace ddl
