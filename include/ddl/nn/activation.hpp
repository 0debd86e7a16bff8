// SPDX-License-Identifier: MIT
/// @file  Activation functions.
#pragma once

#include <cmath>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
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

/// Activations work on blocks of at most 256 entries, which stay in the first-level cache between their few
/// steps.
inline constexpr Index block_size = 256;
template <class Real>
using Block = Eigen::Array<Real, Dynamic, 1, Eigen::ColMajor, block_size, 1>;

/// Phi(x), the normal distribution function.
template <class Real>
Block<Real> normal_cdf(const Block<Real>& x) {
  if constexpr (std::is_same_v<Real, float>) {
    // erf by its rational approximation on [-4, 4] (that of Eigen's SpecialFunctions; within 2 ulp of 1),
    // which vectorises where a call to libm does not.
    constexpr float p[] = {-2.72614225801306e-10f, 2.77068142495902e-08f,  -2.10102402082508e-06f,
                           -5.69250639462346e-05f, -7.34990630326855e-04f, -2.95459980854025e-03f,
                           -1.60960333262415e-02f};
    constexpr float q[] = {-1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f,
                           -7.37332916720468e-03f, -1.42647390514189e-02f};
    const Block<Real> t = (((x * 0.70710678118654752f).max)(-4.f).min)(4.f), square = t * t;
    const auto polynomial = [&](const auto& coefficients) {
      Block<Real> sum = Block<Real>::Constant(x.size(), coefficients[0]);
      for (std::size_t i = 1; i < std::size(coefficients); ++i) sum = sum * square + coefficients[i];
      return sum;
    };
    return t * polynomial(p) / polynomial(q) * 0.5f + 0.5f;
  } else {
    return x.unaryExpr([](const Real& t) {
      using std::erfc;
      return Real(Real(0.5) * erfc(-t * Real(0.70710678118654752440)));
    });
  }
}

/// The logistic function of a block, or of any array: an expression that refers to it.
template <class X>
auto logistic(const Eigen::ArrayBase<X>& x) {
  return ((-x.derived()).exp() + typename X::Scalar(1)).inverse();
}

/// f(x).
template <class Real>
Block<Real> activated(Activation kind, const Block<Real>& x) {
  switch (kind) {
    case Activation::gelu:
      return x * normal_cdf(x);
    case Activation::silu:
      return x * detail::logistic(x);
    case Activation::tanh:
      return x.tanh();
    case Activation::sigmoid:
      return detail::logistic(x);
    default:
      return (x.max)(Real(0));
  }
}

/// f'(x).
template <class Real>
Block<Real> activation_slope(Activation kind, const Block<Real>& x) {
  const auto one_less = [](const Block<Real>& y) -> Block<Real> { return Real(1) - y; };
  switch (kind) {
    case Activation::gelu: {
      const Block<Real> density = (x * x * Real(-0.5)).exp() * Real(0.39894228040143267794);
      return x * density + normal_cdf(x);
    }
    case Activation::silu: {
      const Block<Real> s = detail::logistic(x);
      return x * s * one_less(s) + s;
    }
    case Activation::tanh: {
      const Block<Real> y = x.tanh();
      return one_less(y * y);
    }
    case Activation::sigmoid: {
      const Block<Real> s = detail::logistic(x);
      return s * one_less(s);
    }
    default:
      return x.unaryExpr([](const Real& t) { return t > Real(0) ? Real(1) : Real(0); });
  }
}

/// Calls f(column, first row, rows) over blocks.
template <Executor E, class F>
void for_blocks(const E& executor, Index rows, Index cols, const F& f) {
  for_ranges(executor, cols, columns_per_piece(rows), [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n)
      for (Index i = 0; i < rows; i += block_size) f(n, i, (std::min)(block_size, rows - i));
  });
}

}  // namespace detail

/// y = f(x), entry by entry; y may be x.
template <class X, class Y, Executor E = Serial>
void activate(Activation kind, const Eigen::MatrixBase<X>& x, Eigen::MatrixBase<Y>& y,
              const E& executor = {}) {
  check_shape("ddl::activate", "y", y, x.rows(), x.cols());
  detail::for_blocks(executor, x.rows(), x.cols(), [&](Index n, Index i, Index rows) {
    column(y, n, i, rows) = detail::activated<typename X::Scalar>(kind, column(x.derived(), n, i, rows));
  });
}

/// dx = dy f'(x), from the input x of the forward pass; dx may be dy.
template <class X, class DY, class DX, Executor E = Serial>
void activate_backward(Activation kind, const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<DY>& dy,
                       Eigen::MatrixBase<DX>& dx, const E& executor = {}) {
  check_shape("ddl::activate_backward", "dy", dy, x.rows(), x.cols());
  check_shape("ddl::activate_backward", "dx", dx, x.rows(), x.cols());
  detail::for_blocks(executor, x.rows(), x.cols(), [&](Index n, Index i, Index rows) {
    column(dx, n, i, rows) = column(dy.derived(), n, i, rows) * detail::activation_slope<typename X::Scalar>(
                                                                    kind, column(x.derived(), n, i, rows));
  });
}

}  // namespace ddl
