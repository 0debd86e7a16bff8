// SPDX-License-Identifier: MIT
/// @file  The one suite that every forward/backward pair passes.
///
/// A test describes its pair as a layer: a template over the scalar and over fixed or dynamic sizes, derived
/// from LayerBase, with three functions,
///
///     Part make(Index width, Random&) const;
///     void forward(const Part&, const X& x, Y& y, Tape&, const ddl::Pass&) const;
///     void backward(const Part&, const X& x, const Y& y, const Y& dy, X& dx, Tape&, Part& gradient,
///                   const ddl::Pass&) const;
///
/// and runs it by check_layer<TheLayer>(settings of the layer...). A part with the passes of nn/part.hpp
/// needs only make.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "ddl/core/batch.hpp"
#include "ddl/core/parameters.hpp"
#include "ddl/core/pass.hpp"
#include "ddl/core/random.hpp"
#include "ddl/train/gradient_check.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

namespace ddl::test {

/// The small sizes, which the fixed layers have: no multiple of a packet, so that tails are run.
inline constexpr int small_width = 7, small_samples = 3;
/// Sizes of which no computation is a single piece.
inline constexpr Index large_width = 300, large_samples = 200;

inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// `value` where sizes are fixed.
template <bool Fixed>
constexpr int size(int value) noexcept {
  return Fixed ? value : Dynamic;
}

/// Runs its pieces forwards or backwards, and remembers the largest number of them.
struct Order {
  bool reversed = false;
  mutable Index most_pieces = 0;

  template <class F>
  void for_each(Index pieces, F&& f) const {
    most_pieces = (std::max)(most_pieces, pieces);
    for (Index i = 0; i < pieces; ++i) f(reversed ? pieces - 1 - i : i);
  }
};

/// Normal numbers that float holds exactly: every scalar is given the same data.
template <class Derived>
void fill(Random& random, Eigen::DenseBase<Derived>& x, double deviation = 1) {
  Matrix<float> draw(x.rows(), x.cols());
  random.fill_normal(draw, deviation);
  x.derived() = draw.template cast<typename Derived::Scalar>();
}

/// Two sequences, or one if the number of tokens is odd.
inline ddl::Pass pass_over(Index tokens, const Order& order) {
  return {order, tokens % 2 == 0 ? tokens / 2 : tokens};
}

/// What a layer need not say: `In` and `Out` are the rows of x and y at compile time.
template <class Part_, int In, int Out = In>
struct LayerBase {
  using Part = Part_;
  using Scalar = typename Part::Scalar;
  using X = Matrix<Scalar, In>;
  using Y = Matrix<Scalar, Out>;
  struct Tape {};

  static constexpr bool has_dx = true;
  static constexpr bool has_pieces = true;
  static Index x_rows(Index width) { return width; }
  static Index y_rows(Index width) { return width; }
  static Index x_cols(Index samples) { return samples; }
  static Index y_cols(Index samples) { return samples; }
  /// Whether backward adds to dx.
  static bool adds() { return true; }
  static GradientCheckSettings differences() { return {}; }
  /// Changes the random weights and inputs where the layer wants others.
  static void adjust(Part&, X&) {}
  static void forward(const auto& part, const auto& x, auto& y, auto& tape, const ddl::Pass& pass) {
    part.forward(x, y, tape, pass);
  }
  static void backward(const auto& part, const auto& x, const auto& y, auto& dy, auto& dx, auto& tape,
                       auto& gradient, const ddl::Pass& pass) {
    part.backward(x, y, dy, dx, tape, gradient, pass);
  }
};

/// Everything that one forward and one backward pass needs, with random numbers in it.
template <class Layer>
struct Trial {
  using Part = typename Layer::Part;
  using Tensors = std::vector<std::pair<std::string, Matrix<double>>>;

  Layer layer;
  Part part, gradient;
  typename Layer::X x, dx;
  typename Layer::Y y, dy, used_dy;
  typename Layer::Tape tape;
  Index samples;
  Order order;

  Trial(const Layer& layer_, Index width, Index samples_) : layer(layer_), samples(samples_) {
    Random random(20260101);
    part = layer.make(width, random);
    x.resize(layer.x_rows(width), layer.x_cols(samples));
    y.resize(layer.y_rows(width), layer.y_cols(samples));
    // Outputs stay of order 1 whatever the width.
    const double deviation = 1 / std::sqrt(static_cast<double>(width));
    for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p, deviation); }, part);
    fill(random, x);
    layer.adjust(part, x);
    dy.resizeLike(y);
    fill(random, dy);
    dx.setZero(x.rows(), x.cols());
    gradient = zeros_like(part);
  }

  void forward() { layer.forward(std::as_const(part), x, y, tape, pass_over(samples, order)); }
  void backward() {
    used_dy = dy;  // backward may overwrite it
    layer.backward(std::as_const(part), x, y, used_dy, dx, tape, gradient, pass_over(samples, order));
  }
  Tensors run() {
    forward();
    backward();
    return results();
  }
  Tensors results() const {
    Tensors tensors = {{"y", y.template cast<double>()}, {"dx", dx.template cast<double>()}};
    for_each_parameter([&](const ParameterPath& path,
                           const auto& p) { tensors.emplace_back(path.str(), p.template cast<double>()); },
                       gradient);
    return tensors;
  }
};

template <class Tensors>
void check_close(const Tensors& given, const Tensors& expected, double tolerance) {
  REQUIRE(given.size() == expected.size());
  for (std::size_t i = 0; i < given.size(); ++i) {
    INFO(given[i].first);
    CHECK(error(given[i].second, expected[i].second) <= tolerance);
  }
}

template <class Layer>
void check_differences(const Layer& layer) {
  INFO("gradients against differences");
  Trial run(layer, small_width, small_samples);
  run.run();
  // Less the output at hand: the terms of the sum, and so its rounding, are as small as the differences.
  const auto base = run.y;
  const auto loss = [&] {
    run.forward();
    return (run.y - base).cwiseProduct(run.dy).sum();
  };
  const auto check = [&](auto& variable, const auto& gradient) {
    const GradientReport report = ddl::check_gradients(variable, gradient, loss, layer.differences());
    INFO(report.message());
    CHECK(report.passes(gradient_tolerance));
  };
  if (parameter_count(run.part) > 0) check(run.part, run.gradient);
  if (layer.has_dx) check(run.x, run.dx);
}

template <class Layer>
void check_accumulation(const Layer& layer) {
  INFO("what backward adds to");
  Trial run(layer, small_width, small_samples);
  const auto once = run.run();
  typename Layer::X before = run.x;
  run.dx = before;
  const auto twice = run.run();
  CHECK(twice[0].second == once[0].second);
  auto expected = once;
  if (layer.adds()) expected[1].second += before.template cast<double>();
  if (!layer.has_dx) expected[1].second = before.template cast<double>();
  for (std::size_t i = 2; i < once.size(); ++i) expected[i].second *= 2;
  check_close(twice, expected, identity_tolerance<typename Layer::Scalar>);
}

template <class Layer>
void check_order(const Layer& layer) {
  INFO("pieces in reverse order, on a large batch");
  Trial forwards(layer, large_width, large_samples), backwards(layer, large_width, large_samples);
  backwards.order.reversed = true;
  CHECK(forwards.run() == backwards.run());
  CHECK((forwards.order.most_pieces > 1) == layer.has_pieces);
}

template <class Layer>
void check_allocations(const Layer& layer, Index width, Index samples) {
  INFO("allocations of a second pass");
  Trial run(layer, width, samples);
  run.run();
  const long count = allocations_in([&] {
    run.forward();
    run.backward();
  });
  CHECK(count == 0);
}

template <class Layer>
void check_copies(const Layer& layer) {
  INFO("independence of copies");
  Trial run(layer, small_width, small_samples);
  const auto expected = run.run();
  const typename Layer::Part copy = run.part;
  set_zero(run.part);
  Trial other(layer, small_width, small_samples);
  other.part = copy;
  CHECK(other.run() == expected);
}

/// The whole suite. `settings` are the layer's members.
template <template <class, bool> class Layer, class... Settings>
void check_layer(const Settings&... settings) {
  const Layer<double, false> dynamic{{}, settings...};
  const Layer<double, true> fixed{{}, settings...};
  const Layer<float, false> in_float{{}, settings...};
  check_differences(dynamic);
  check_accumulation(dynamic);
  check_copies(dynamic);
  check_order(in_float);
  check_allocations(in_float, large_width, large_samples);
  check_allocations(fixed, small_width, small_samples);
  const auto expected = Trial(dynamic, small_width, small_samples).run();
  {
    INFO("fixed sizes against dynamic ones");
    check_close(Trial(fixed, small_width, small_samples).run(), expected, identity_tolerance<double>);
  }
  {
    INFO("float against double");
    check_close(Trial(in_float, small_width, small_samples).run(), expected, float_tolerance);
  }
}

}  // namespace ddl::test
