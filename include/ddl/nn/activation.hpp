// SPDX-License-Identifier: MIT
/// @file  Activation functions.
#pragma once

#include <cmath>

#include "ddl/core/batch.hpp"
#include "ddl/core/executor.hpp"

namespace ddl {

/// gelu: x Phi(x), exact (Hendrycks and Gimpel 2016).   silu: x sigmoid(x).
enum class Activation { gelu, silu, tanh, relu, sigmoid };

constexpr const char* name_of(Activation kind) noexcept {
  constexpr const char* names[] = {"gelu", "silu", "tanh", "relu", "sigmoid"};
  return names[static_cast<int>(kind)];
}

/// The logistic function, without overflow at either end.
template <class Real>
Real sigmoid(const Real& x) {
  using std::exp;
  if (x >= Real(0)) return Real(1) / (Real(1) + exp(-x));
  const Real e = exp(x);
  return e / (Real(1) + e);
}

namespace detail {

/// Phi(x), the normal distribution function.
template <class X>
auto normal_cdf(const X& x) {
  using Real = typename X::Scalar;
  return x.unaryExpr([](const Real& t) {
    using std::erfc;
    return Real(0.5) * erfc(-t * Real(0.70710678118654752440));
  });
}

/// In float, erf by its rational approximation on [-4, 4] (as in Eigen's SpecialFunctions, after Cephes;
/// within 2 ulp of 1), which vectorises where a call to libm does not.
template <class X>
requires std::is_same_v<typename X::Scalar, float> Eigen::Array<float, Dynamic, 1, 0, 256, 1> normal_cdf(
    const X& x) {
  using Block = Eigen::Array<float, Dynamic, 1, 0, 256, 1>;
  const Block t = (x * 0.70710678118654752f).max(-4.f).min(4.f);
  const Block t2 = t * t;
  Block p = t2 * -2.72614225801306e-10f + 2.77068142495902e-08f;
  p = p * t2 - 2.10102402082508e-06f;
  p = p * t2 - 5.69250639462346e-05f;
  p = p * t2 - 7.34990630326855e-04f;
  p = p * t2 - 2.95459980854025e-03f;
  p = p * t2 - 1.60960333262415e-02f;
  Block q = t2 * -1.45660718464996e-05f - 2.13374055278905e-04f;
  q = q * t2 - 1.68282697438203e-03f;
  q = q * t2 - 7.37332916720468e-03f;
  q = q * t2 - 1.42647390514189e-02f;
  return 0.5f + 0.5f * t * p / q;
}

template <class X, class Y>
void activate(Activation kind, const X& x, Y&& y) {
  using Real = typename X::Scalar;
  switch (kind) {
    case Activation::gelu:
      y = x * normal_cdf(x);
      break;
    case Activation::silu:
      y = x / (Real(1) + (-x).exp());
      break;
    case Activation::tanh:
      y = x.tanh();
      break;
    case Activation::relu:
      y = x.max(Real(0));
      break;
    case Activation::sigmoid:
      y = Real(1) / (Real(1) + (-x).exp());
      break;
  }
}

template <class X, class DY, class DX>
void activate_backward(Activation kind, const X& x, const DY& dy, DX&& dx) {
  using Real = typename X::Scalar;
  using Block = Eigen::Array<Real, Dynamic, 1, 0, 256, 1>;
  switch (kind) {
    case Activation::gelu:
      dx = dy * (normal_cdf(x) + x * (x.square() * Real(-0.5)).exp() * Real(0.39894228040143267794));
      break;
    case Activation::silu: {
      const Block s = Real(1) / (Real(1) + (-x).exp());
      dx = dy * s * (Real(1) + x * (Real(1) - s));
      break;
    }
    case Activation::tanh:
      dx = dy * (Real(1) - x.tanh().square());
      break;
    case Activation::relu:
      dx = (x > Real(0)).select(dy, Real(0));
      break;
    case Activation::sigmoid: {
      const Block s = Real(1) / (Real(1) + (-x).exp());
      dx = dy * s * (Real(1) - s);
      break;
    }
  }
}

/// Calls f(column, first row, rows) over pieces of at most 256 rows, the size of the blocks above.
template <Executor E, class F>
void for_blocks(const E& executor, Index rows, Index cols, const F& f) {
  for_ranges(executor, cols, columns_per_piece(rows), [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n)
      for (Index i = 0; i < rows; i += 256) f(n, i, (std::min)(Index(256), rows - i));
  });
}

}  // namespace detail

/// y = f(x), entry by entry; y may be x.
template <class X, class Y, Executor E = Serial>
void activate(Activation kind, const Eigen::MatrixBase<X>& x, Eigen::MatrixBase<Y>& y,
              const E& executor = {}) {
  detail::for_blocks(executor, x.rows(), x.cols(), [&](Index n, Index i, Index rows) {
    detail::activate(kind, x.col(n).segment(i, rows).array(), y.col(n).segment(i, rows).array());
  });
}

/// dx = dy f'(x), from the input x of the forward pass; dx may be dy.
template <class X, class DY, class DX, Executor E = Serial>
void activate_backward(Activation kind, const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<DY>& dy,
                       Eigen::MatrixBase<DX>& dx, const E& executor = {}) {
  detail::for_blocks(executor, x.rows(), x.cols(), [&](Index n, Index i, Index rows) {
    detail::activate_backward(kind, x.col(n).segment(i, rows).array(), dy.col(n).segment(i, rows).array(),
                              dx.col(n).segment(i, rows).array());
  });
}

}  // namespace ddl
