// SPDX-License-Identifier: MIT
/// @file  Values: the target v in R^m that a block writes along k.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: v = W c in the paper,
/// scale * sigmoid(W x + b) of the compressed state in the authors' code.
#pragma once

#include <optional>
#include <tuple>

#include "ddl/nn/activation.hpp"
#include "ddl/nn/linear.hpp"
#include "ddl/nn/part.hpp"

namespace ddl {

/// What a value reads: the normalised context c, or the compressed state x before the norm.
enum class ValueSource { context, compressed };

/// A value also tells its source by a function reads().
template <class P, int Rows = Dynamic, int Cols = Dynamic>
concept ValuePart = MapPart<P, PartKind::value, Rows, Cols> && requires(const P& part) {
  { part.reads() } -> std::same_as<ValueSource>;
};

/// Settings of a LinearValue.
struct LinearValueSettings {
  ValueSource source = ValueSource::context;  ///< what it reads
  /// v = sigmoid_scale * sigmoid(W . + b), as in the authors' code (4).
  std::optional<double> sigmoid_scale = {};
};

/// The value v = W z + b, or scale * sigmoid(W z + b), with z the source.   z: d x N, v: m x N.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct LinearValue {
  using Scalar = Scalar_;
  using Settings = LinearValueSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  using Output = ConstBatchRef<Scalar, Cols>;

  static constexpr PartKind kind = PartKind::value;
  /// Backward needs v alone.
  template <int Tokens = Dynamic>
  struct Tape {};

  Linear<Scalar, Rows, Cols> projection;      ///< W and b
  ValueSource source = ValueSource::context;  ///< what it reads
  std::optional<Scalar> sigmoid_scale;        ///< the factor of the sigmoid, if there is one

  static constexpr auto parameters() { return std::tuple(parameter("projection", &LinearValue::projection)); }
  ValueSource reads() const noexcept { return source; }  ///< the source

  LinearValue() = default;
  /// @throws std::invalid_argument if sigmoid_scale is not above 0.
  LinearValue(Index in, Index out, const Settings& settings, Random& random)
      : projection(in, out, random), source(settings.source) {
    if (!settings.sigmoid_scale) return;
    check_range("ddl::LinearValue", "sigmoid_scale", *settings.sigmoid_scale, *settings.sigmoid_scale > 0,
                "a number above 0");
    sigmoid_scale = static_cast<Scalar>(*settings.sigmoid_scale);
  }

  /// V from z.
  template <int Tokens>
  void forward(const Input& z, BatchRef<Scalar, Cols> v, Tape<Tokens>&, const Pass& pass = {}) const {
    projection.forward(z, v, pass);
    if (sigmoid_scale) {
      activate(Activation::sigmoid, v, v, pass.executor);
      v *= *sigmoid_scale;
    }
  }
  /// dv is overwritten.
  template <int Tokens>
  void backward(const Input& z, const Output& v, BatchRef<Scalar, Cols> dv, BatchRef<Scalar, Rows> dz,
                Tape<Tokens>&, LinearValue& gradient, const Pass& pass = {}) const {
    if (sigmoid_scale) dv.array() *= v.array() * (Scalar(1) - v.array() / *sigmoid_scale);
    projection.backward(z, dv, dz, gradient.projection, pass);
  }
};

/// Settings of a ConstantValue.
struct ConstantValueSettings {
  double value = 0;  ///< of every entry of v
};

/// The value v = (value, .., value): nothing is learned.
template <class Scalar_, int Rows = Dynamic, int Cols = Dynamic>
struct ConstantValue {
  using Scalar = Scalar_;
  using Settings = ConstantValueSettings;
  using Input = ConstBatchRef<Scalar, Rows>;
  using Output = ConstBatchRef<Scalar, Cols>;

  static constexpr PartKind kind = PartKind::value;
  /// Backward needs nothing.
  template <int Tokens = Dynamic>
  struct Tape {};

  Scalar value = 0;  ///< of every entry of v

  static constexpr auto parameters() { return std::tuple(); }
  ValueSource reads() const noexcept { return ValueSource::context; }  ///< does not matter

  ConstantValue() = default;
  /// @throws std::invalid_argument if the value is not finite.
  ConstantValue(Index, Index, const Settings& settings, Random&)
      : value(static_cast<Scalar>(settings.value)) {
    check_finite("ddl::ConstantValue", "value", settings.value);
  }

  /// V = value.
  template <int Tokens>
  void forward(const Input&, BatchRef<Scalar, Cols> v, Tape<Tokens>&, const Pass& = {}) const {
    v.setConstant(value);
  }
  /// Nothing depends on z.
  template <int Tokens>
  void backward(const Input&, const Output&, const Output&, BatchRef<Scalar, Rows>, Tape<Tokens>&,
                ConstantValue&, const Pass& = {}) const {}
};

}  // namespace ddl
