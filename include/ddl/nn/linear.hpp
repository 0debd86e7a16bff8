// SPDX-License-Identifier: MIT
/// @file  The linear layer y = W x + b.
#pragma once

#include <cmath>
#include <tuple>

#include "ddl/core/check.hpp"
#include "ddl/core/parameters.hpp"
#include "ddl/core/pass.hpp"
#include "ddl/core/random.hpp"
#include "ddl/nn/product.hpp"

namespace ddl {

/// The linear layer y = W x + b over a batch: x in x N, y out x N, W out x in (PyTorch's shape), b out or
/// absent.
template <class Scalar_, int In = Dynamic, int Out = Dynamic>
struct Linear {
  using Scalar = Scalar_;
  using Input = ConstBatchRef<Scalar, In>;
  using Output = ConstBatchRef<Scalar, Out>;

  /// Of fixed size if that is at most what Eigen lets stand in an object; from the heap, once, otherwise.
  static constexpr bool fits = times(Out, In) != Dynamic &&
                               (EIGEN_STACK_ALLOCATION_LIMIT == 0 ||
                                std::size_t(times(Out, In)) * sizeof(Scalar) <= EIGEN_STACK_ALLOCATION_LIMIT);
  Matrix<Scalar, fits ? Out : Dynamic, fits ? In : Dynamic> weight;  ///< W
  OptionalVector<Scalar, Out> bias;                                  ///< b, or empty

  static constexpr auto parameters() {
    return std::tuple(parameter("weight", &Linear::weight), vector_parameter("bias", &Linear::bias));
  }

  Linear() = default;
  /// Weights drawn from a normal distribution of deviation gain / sqrt(in), bias zero.
  /// @throws std::invalid_argument if a size is below 1 or differs from the fixed one.
  Linear(Index in, Index out, Random& random, double gain = 1, bool with_bias = true) {
    check_positive("ddl::Linear", "in", in);
    check_positive("ddl::Linear", "out", out);
    check_fixed("ddl::Linear", "in", in, In);
    check_fixed("ddl::Linear", "out", out, Out);
    weight.resize(out, in);
    random.fill_normal(weight, gain / std::sqrt(static_cast<double>(in)));
    if (with_bias) bias.setZero(out);
  }

  Index inputs() const noexcept { return weight.cols(); }   ///< the size of x
  Index outputs() const noexcept { return weight.rows(); }  ///< the size of y

  /// y = W x + b.
  /// @throws std::invalid_argument if a shape does not fit.
  void forward(const Input& x, BatchRef<Scalar, Out> y, const Pass& pass = {}) const {
    check_shape("ddl::Linear::forward", "x", x, inputs(), x.cols());
    check_shape("ddl::Linear::forward", "y", y, outputs(), x.cols());
    if (bias.size() > 0)
      affine(weight, x, bias, y, pass.executor);
    else
      product(weight, x, y, pass.executor);
  }

  /// dx += W^T dy, dW += dy x^T, db += dy 1.
  void backward(const Input& x, const Output& dy, BatchRef<Scalar, In> dx, Linear& gradient,
                const Pass& pass = {}) const {
    backward_parameters(x, dy, gradient, pass);
    add_product(weight.transpose(), dy, dx, pass.executor);
  }
  /// dW += dy x^T, db += dy 1.
  void backward_parameters(const Input& x, const Output& dy, Linear& gradient, const Pass& pass = {}) const {
    check_shape("ddl::Linear::backward", "x", x, inputs(), dy.cols());
    check_shape("ddl::Linear::backward", "dy", dy, outputs(), dy.cols());
    add_product(dy, x.transpose(), gradient.weight, pass.executor);
    if (bias.size() > 0) add_row_sums(dy, gradient.bias, pass.executor);
  }
  /// W^T dy, assigned to a buffer of the caller.
  void input_gradient(const Output& dy, BatchRef<Scalar, In> dx, const Pass& pass = {}) const {
    product(weight.transpose(), dy, dx, pass.executor);
  }
};

}  // namespace ddl
