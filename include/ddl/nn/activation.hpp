// SPDX-License-Identifier: MIT
/// @file  Activation functions.
#pragma once

#include <cmath>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/eigen_internals.hpp"
#include "ddl/core/pass.hpp"

namespace ddl {

/// gelu: x Phi(x), exact (Hendrycks and Gimpel 2016).   silu: x sigmoid(x).
enum class Activation { gelu, silu, tanh, relu, sigmoid };

/// Its name in this enumeration.
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

/// The logistic function of an array: an expression that refers to it.
template <class X>
auto logistic(const Eigen::ArrayBase<X>& x) {
  return ((-x.derived()).exp() + typename X::Scalar(1)).inverse();
}

// Functions of a pack of numbers: see core/eigen_internals.hpp.

template <class Lane, class Pack = typename Lane::Pack>
Pack lane_logistic(const Pack& x) {
  const Pack one = Lane::broadcast(1);
  return Lane::divide(one, Lane::add(Lane::exp(Lane::subtract(Lane::broadcast(0), x)), one));
}

/// Phi(x), the normal distribution function.
template <class Lane, class Pack = typename Lane::Pack>
Pack normal_cdf(const Pack& x) {
  using Real = decltype(Lane::sum(x));
  if constexpr (std::is_same_v<Real, float>) {
    // erf by its rational approximation on [-4, 4] (that of Eigen's SpecialFunctions; within 2 ulp of 1),
    // which vectorises where a call to libm does not.
    constexpr float p[] = {-2.72614225801306e-10f, 2.77068142495902e-08f,  -2.10102402082508e-06f,
                           -5.69250639462346e-05f, -7.34990630326855e-04f, -2.95459980854025e-03f,
                           -1.60960333262415e-02f};
    constexpr float q[] = {-1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f,
                           -7.37332916720468e-03f, -1.42647390514189e-02f};
    const Pack scaled = Lane::multiply(x, Lane::broadcast(0.70710678118654752f)),
               half = Lane::broadcast(0.5f);
    const Pack t = Lane::minimum(Lane::maximum(scaled, Lane::broadcast(-4)), Lane::broadcast(4));
    const Pack square = Lane::multiply(t, t);
    const auto polynomial = [&](const auto& coefficients) {
      Pack sum = Lane::broadcast(coefficients[0]);
      for (std::size_t i = 1; i < std::size(coefficients); ++i)
        sum = Lane::add_product(Lane::broadcast(coefficients[i]), sum, square);
      return sum;
    };
    return Lane::add_product(half, Lane::divide(Lane::multiply(t, polynomial(p)), polynomial(q)), half);
  } else {
    return Lane::map(x, [](const Real& t) {
      using std::erfc;
      return Real(Real(0.5) * erfc(-t * Real(0.70710678118654752440)));
    });
  }
}

/// f(x).
template <class Lane, class Pack = typename Lane::Pack>
Pack activated(Activation kind, const Pack& x) {
  switch (kind) {
    case Activation::gelu:
      return Lane::multiply(x, normal_cdf<Lane>(x));
    case Activation::silu:
      return Lane::multiply(x, lane_logistic<Lane>(x));
    case Activation::tanh:
      return Lane::tanh(x);
    case Activation::sigmoid:
      return lane_logistic<Lane>(x);
    default:
      return Lane::maximum(x, Lane::broadcast(0));
  }
}

/// f'(x).
template <class Lane, class Pack = typename Lane::Pack>
Pack activation_derivative(Activation kind, const Pack& x) {
  using Real = decltype(Lane::sum(x));
  const Pack one = Lane::broadcast(1);
  switch (kind) {
    case Activation::gelu: {
      const Pack exponent = Lane::multiply(Lane::multiply(x, x), Lane::broadcast(Real(-0.5)));
      const Pack density = Lane::multiply(Lane::exp(exponent), Lane::broadcast(Real(0.39894228040143267794)));
      return Lane::add_product(normal_cdf<Lane>(x), x, density);
    }
    case Activation::silu: {
      const Pack s = lane_logistic<Lane>(x);
      return Lane::add_product(s, Lane::multiply(x, s), Lane::subtract(one, s));
    }
    case Activation::tanh: {
      const Pack y = Lane::tanh(x);
      return Lane::subtract_product(one, y, y);
    }
    case Activation::sigmoid: {
      const Pack s = lane_logistic<Lane>(x);
      return Lane::multiply(s, Lane::subtract(one, s));
    }
    default:
      return Lane::map(x, [](const Real& t) { return t > Real(0) ? Real(1) : Real(0); });
  }
}

/// Calls f.operator()<Lane>(column, row) for packs of entries that cover a batch.
template <class Scalar, class F>
void for_packs(const ExecutorRef& executor, Index rows, Index cols, const F& f) {
  for_ranges(executor, cols, columns_per_piece(rows), [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n)
      sweep<Scalar>(rows, [=]<class Lane>(Index i) { f.template operator()<Lane>(n, i); });
  });
}

}  // namespace detail

/// y = f(x), entry by entry; y may be x. The entries of a column are contiguous.
template <class X, class Y>
void activate(Activation kind, const Eigen::MatrixBase<X>& x, Eigen::MatrixBase<Y>& y,
              const ExecutorRef& executor = {}) {
  using Scalar = typename X::Scalar;
  check_shape("ddl::activate", "y", y, x.rows(), x.cols());
  const detail::View<const Scalar> from(x.derived());
  const detail::View<Scalar> to(y.derived());
  detail::for_packs<Scalar>(executor, x.rows(), x.cols(), [=]<class Lane>(Index n, Index i) {
    Lane::store(to.at(i, n), detail::activated<Lane>(kind, Lane::load(from.at(i, n))));
  });
}

/// dx = dy f'(x), from the input x of the forward pass; dx may be dy. The entries of a column are contiguous.
template <class X, class DY, class DX>
void activate_backward(Activation kind, const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<DY>& dy,
                       Eigen::MatrixBase<DX>& dx, const ExecutorRef& executor = {}) {
  using Scalar = typename X::Scalar;
  check_shape("ddl::activate_backward", "dy", dy, x.rows(), x.cols());
  check_shape("ddl::activate_backward", "dx", dx, x.rows(), x.cols());
  const detail::View<const Scalar> input(x.derived()), grad(dy.derived());
  const detail::View<Scalar> to(dx.derived());
  detail::for_packs<Scalar>(executor, x.rows(), x.cols(), [=]<class Lane>(Index n, Index i) {
    const auto derivative = detail::activation_derivative<Lane>(kind, Lane::load(input.at(i, n)));
    Lane::store(to.at(i, n), Lane::multiply(Lane::load(grad.at(i, n)), derivative));
  });
}

}  // namespace ddl
