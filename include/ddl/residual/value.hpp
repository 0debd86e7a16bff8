// SPDX-License-Identifier: MIT
/// @file  Values: the target v in R^m that a block writes along k.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: v = W c in the paper,
/// scale * sigmoid(W x + b) of the compressed state in the authors' code.
#pragma once

#include <tuple>

#include "ddl/nn/activation.hpp"
#include "ddl/nn/linear.hpp"

namespace ddl {

/// What a value reads: the normalised context c, or the compressed state x before the norm.
enum class ValueSource { context, compressed };

struct LinearValueSettings {
  ValueSource source = ValueSource::context;
  double sigmoid_scale = 0;  ///< above 0: v = sigmoid_scale * sigmoid(W . + b), as in the authors' code (4)
};

/// v = W z + b, or scale * sigmoid(W z + b), with z the source.   z: d x N, v: m x N.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct LinearValue {
  using Scalar = Scalar_;
  using Settings = LinearValueSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  using Output = ConstBatchRef<Scalar, Cols>;

  Linear<Scalar, Rows, Cols> projection;
  ValueSource source = ValueSource::context;
  Scalar sigmoid_scale = 0;

  static constexpr auto parameters() { return std::tuple(field("projection", &LinearValue::projection)); }
  ValueSource reads() const noexcept { return source; }

  LinearValue() = default;
  /// @throws std::invalid_argument if sigmoid_scale is negative or not finite.
  LinearValue(const Settings& settings, Index width, Index value_channels, Random& random)
      : projection(width, value_channels, random),
        source(settings.source),
        sigmoid_scale(static_cast<Scalar>(settings.sigmoid_scale)) {
    check_range("ddl::LinearValue", "sigmoid_scale", settings.sigmoid_scale, settings.sigmoid_scale >= 0,
                "a number above 0, or 0 for a linear value");
  }

  template <Executor E = Serial>
  void forward(const Input& z, BatchRef<Scalar, Cols> v, const E& executor = {}) const {
    projection.forward(z, v, executor);
    if (sigmoid_scale > 0) {
      activate(Activation::sigmoid, v, v, executor);
      v *= sigmoid_scale;
    }
  }
  /// dz += the value's share; `slope` holds dL/dv on entry and is used up.
  template <Executor E = Serial>
  void backward(const Input& z, const Output& v, BatchRef<Scalar, Cols> slope, BatchRef<Scalar, Rows> dz,
                LinearValue& gradient, const E& executor = {}) const {
    if (sigmoid_scale > 0) slope.array() *= v.array() * (Scalar(1) - v.array() / sigmoid_scale);
    projection.backward_parameters(z, slope, gradient.projection, executor);
    projection.add_backward_input(slope, dz, executor);
  }
};

struct ConstantValueSettings {
  double value = 0;
};

/// v = (value, .., value): nothing learned.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct ConstantValue {
  using Scalar = Scalar_;
  using Settings = ConstantValueSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  using Output = ConstBatchRef<Scalar, Cols>;

  Scalar value = 0;

  static constexpr auto parameters() { return std::tuple(); }
  ValueSource reads() const noexcept { return ValueSource::context; }

  ConstantValue() = default;
  ConstantValue(const Settings& settings, Index, Index, Random&)
      : value(static_cast<Scalar>(settings.value)) {
    check_finite("ddl::ConstantValue", "value", settings.value);
  }

  template <Executor E = Serial>
  void forward(const Input&, BatchRef<Scalar, Cols> v, const E& = {}) const {
    v.setConstant(value);
  }
  template <Executor E = Serial>
  void backward(const Input&, const Output&, BatchRef<Scalar, Cols>, BatchRef<Scalar, Rows>, ConstantValue&,
                const E& = {}) const {}
};

}  // namespace ddl
