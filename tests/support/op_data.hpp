// SPDX-License-Identifier: MIT
/// @file  Data for the tests of op: random values of any scalar, in every kind of storage, and their
/// comparison.
#pragma once

#include <complex>
#include <limits>
#include <vector>

#include "ddl/core/batch.hpp"
#include "ddl/core/random.hpp"
#include "support/tolerance.hpp"

namespace ddl::test {

template <class Scalar>
concept AutoDiff = requires(Scalar x) {
  x.derivatives();
};
template <class Scalar>
inline constexpr bool is_sixteen_bit = !std::is_same_v<Accum<Scalar>, Scalar>;

template <class Scalar>
Scalar random_scalar(Random& random) {
  if constexpr (AutoDiff<Scalar>) {
    Scalar x(random.normal());
    random.fill_normal(x.derivatives(), 1);
    return x;
  } else if constexpr (Eigen::NumTraits<Scalar>::IsComplex) {
    const double real = random.normal();
    return Scalar(real, random.normal());
  } else {
    return static_cast<Scalar>(random.normal());
  }
}

template <class M>
M random_matrix(Random& random, Index rows, Index cols = 1) {
  M x(rows, cols);
  for (Index j = 0; j < cols; ++j)
    for (Index i = 0; i < rows; ++i) x(i, j) = random_scalar<typename M::Scalar>(random);
  return x;
}

/// Lengths from the smallest number to nearly the largest. Without those below the smallest normal number
/// where the processor takes such numbers for 0, as after -ffast-math.
template <class Real>
std::vector<Real> lengths_of_any_size() {
  using Limits = std::numeric_limits<Real>;
  std::vector<Real> lengths = {
      0, Limits::min(), Limits::min() * 1000, Real(1e-30),      Real(1e-20), Real(1e-6),
      1, Real(1e18),    Limits::max() / 1e6f, Limits::max() / 4};
  volatile Real smallest = Limits::denorm_min();
  if (smallest * Real(1) > 0)
    for (const Real length : {Limits::denorm_min(), 64 * Limits::denorm_min(), Limits::min() / 8})
      lengths.push_back(length);
  return lengths;
}

/// The matrix in its accumulation type.
template <class Derived>
auto widen(const Eigen::MatrixBase<Derived>& x) {
  return x.template cast<Accum<typename Derived::Scalar>>().eval();
}

/// What error() can compare: for scalars of automatic differentiation, values and derivatives one below the
/// other.
template <class Derived>
auto flat(const Eigen::MatrixBase<Derived>& x) {
  if constexpr (AutoDiff<typename Derived::Scalar>) {
    const Index parameters = x(0, 0).derivatives().size();
    Eigen::MatrixXd all(x.rows() * (1 + parameters), x.cols());
    for (Index j = 0; j < x.cols(); ++j)
      for (Index i = 0; i < x.rows(); ++i)
        all.col(j).segment(i * (1 + parameters), 1 + parameters) << x(i, j).value(), x(i, j).derivatives();
    return all;
  } else {
    return widen(x);
  }
}

/// The largest of many errors; one NaN makes it NaN for good.
class Worst {
 public:
  void add(double error) {
    if (!(error <= value_) && value_ == value_) value_ = error;
  }
  operator double() const { return value_; }

 private:
  double value_ = 0;
};

template <class Scalar>
constexpr double tolerance_of() {
  if constexpr (is_sixteen_bit<Scalar>) {
    return storage_tolerance<Scalar>;
  } else {
    return identity_tolerance<Scalar>;
  }
}

template <class Scalar>
constexpr double derivative_tolerance_of() {
  if constexpr (is_sixteen_bit<Scalar>) {
    return storage_tolerance<Scalar>;
  } else {
    return derivative_tolerance<Scalar>;
  }
}

/// Calls f(x) with x holding X's values: column-major, row-major, as a map that starts one scalar off
/// alignment and has a gap between columns, and as a block within a larger matrix. Whatever lies around the
/// last two must be left alone: if it is not, f's errors stay and `overwrites` counts.
template <class Scalar, int Rows, class F>
int for_each_storage(const Matrix<Scalar, Rows, Dynamic>& X, F&& f) {
  const Index d = X.rows(), m = X.cols();
  auto column_major = X;
  f(column_major);
  Eigen::Matrix<Scalar, Rows, Dynamic, Eigen::RowMajor> row_major = X;
  f(row_major);
  const Scalar untouched(-77);
  Matrix<Scalar> memory = Matrix<Scalar>::Constant(d + 2, m + 1, untouched);
  Eigen::Map<Matrix<Scalar, Rows, Dynamic>, Eigen::Unaligned, Eigen::OuterStride<>> map(
      memory.data() + 1, d, m, Eigen::OuterStride<>(d + 2));
  map = X;
  f(map);
  Matrix<Scalar> around = Matrix<Scalar>::Constant(d + 2, m + 2, untouched);
  auto block = around.template block<Rows, Dynamic>(1, 1, d, m);
  block = X;
  f(block);
  const Index kept = (memory.array() == untouched).count() + (around.array() == untouched).count();
  return static_cast<int>(memory.size() + around.size() - 2 * d * m - kept);
}

}  // namespace ddl::test
