// SPDX-License-Identifier: MIT
/// @file  A sequence of Delta operators, with or without writes, as one compact WY product.
/// @source Compact WY: Schreiber and Van Loan 1989; for the delta rule, Yang et al. 2024 (DeltaNet).
#pragma once

#include <algorithm>
#include <utility>

#include "ddl/op/delta_operator.hpp"

namespace ddl {

/// The edits X_i = (I - beta_i k_i k_i^H) X_{i-1} + beta_i k_i v_i^T, i = 1 .. n, as one edit of rank n:
///
///     X_n = X_0 - K Z,   (I + D S) Z = D (K^H X_0 - V)
///
/// with K = [k_1 .. k_n], D = diag(beta), V's rows v_i^T, and S the strictly lower part of K^H K. The
/// triangular system is solved by forward substitution; T = (I + D S)^-1 D is never formed. Two matrix
/// products and a small solve replace n passes over the state.
///
///   shapes   K: d x n    V: n x m, absent if nothing was written    X, Y: d x m
///   memory   n (d + n + m) scalars; storage doubles as it fills
///
/// Meant for unit directions. The triangular system's condition grows with n and with |k|; past about 64
/// edits, or for long directions, apply several products one after the other.
template <class Scalar_, int Rows = Dynamic>
class DeltaProduct {
 public:
  using Scalar = Scalar_;
  using AccumScalar = Accum<Scalar>;
  using Real = RealOf<AccumScalar>;
  using Operator = DeltaOperator<Scalar, Rows>;

  /// The empty product on vectors of size `rows`: the identity.
  /// @throws std::invalid_argument if `rows` is below 1 or differs from the fixed number.
  explicit DeltaProduct(Index rows = Rows == Dynamic ? 0 : Rows)
      : directions_(checked(rows), 0), writes_(0, 0) {}

  Index rows() const noexcept { return directions_.rows(); }
  Index cols() const noexcept { return directions_.rows(); }
  Index size() const noexcept { return size_; }
  /// True once an edit wrote something; the product is then affine, on states of a fixed number of columns.
  bool writes() const noexcept { return has_writes_; }

  auto directions() const { return directions_.leftCols(size_); }
  auto betas() const { return betas_.head(size_); }
  auto written() const { return writes_.topRows(size_); }
  /// S, n x n: the inner products k_i^H k_j for j < i; zero elsewhere.
  auto overlaps() const { return overlaps_.topLeftCorner(size_, size_); }

  /// Appends an operator that acts after all before it. @throws std::invalid_argument on a size that differs.
  void push(const Operator& op) {
    if (op.rows() != rows())
      fail("ddl::DeltaProduct::push", "the operator's size", std::to_string(op.rows()),
           std::to_string(rows()));
    if (size_ == capacity()) reserve((std::max)(Index(4), 2 * size_));
    overlaps_.row(size_).head(size_).noalias() = op.direction().adjoint() * directions();
    overlaps_.row(size_).tail(capacity() - size_).setZero();
    directions_.col(size_) = op.direction();
    betas_[size_] = op.beta();
    writes_.row(size_).setZero();  // A X writes v = 0
    ++size_;
  }
  /// Appends an operator and its write v. @throws std::invalid_argument if v's size differs from earlier ones'.
  template <class Derived>
  void push(const Operator& op, const Eigen::MatrixBase<Derived>& v) {
    EIGEN_STATIC_ASSERT_VECTOR_ONLY(Derived)
    if (v.size() == 0) fail("ddl::DeltaProduct::push", "the size of v", "0", "at least 1");
    if (writes() && v.size() != writes_.cols())
      fail("ddl::DeltaProduct::push", "the size of v", std::to_string(v.size()),
           std::to_string(writes_.cols()));
    push(op);
    if (writes_.cols() != v.size()) writes_.setZero(capacity(), v.size());
    for (Index j = 0; j < v.size(); ++j) writes_(size_ - 1, j) = AccumScalar(v.derived().coeff(j));
    has_writes_ = true;
  }

  /// Y = A_n .. A_1 X plus the writes; Y may be X.
  template <class In, class Out>
  void apply(const Eigen::MatrixBase<In>& X, Out&& Y) const {
    check_apply(X, Y);
    Small Z = directions().adjoint() * X.template cast<AccumScalar>();
    if (writes()) Z -= written();
    Z = betas().template cast<AccumScalar>().asDiagonal() * Z;
    unit_lower().template triangularView<Eigen::UnitLower>().solveInPlace(Z);
    subtract(X, Z, Y);
  }
  template <class InOut>
  void apply_in_place(InOut&& X) const {
    apply(X, X);
  }
  template <class Derived>
  OperatorTimes<DeltaProduct, Derived> operator*(const Eigen::MatrixBase<Derived>& X) const {
    return {*this, X.derived()};
  }

  /// Y = (A_n .. A_1)^H X; Y may be X. Writes, which are no part of the linear map, are left out.
  template <class In, class Out>
  void apply_adjoint(const Eigen::MatrixBase<In>& X, Out&& Y) const {
    check_shape("ddl::DeltaProduct", "X", X, rows(), X.cols());
    check_shape("ddl::DeltaProduct", "Y", Y, X.rows(), X.cols());
    Small Z = directions().adjoint() * X.template cast<AccumScalar>();
    unit_lower().adjoint().template triangularView<Eigen::UnitUpper>().solveInPlace(Z);
    Z = betas().template cast<AccumScalar>().asDiagonal() * Z;
    subtract(X, Z, Y);
  }

  /// The map that undoes all edits, writes included: the inverse edits in reverse order.
  /// @throws std::domain_error if one of the operators is a projection.
  DeltaProduct inverse() const {
    DeltaProduct undo(rows());
    undo.reserve(size_, writes() ? writes_.cols() : 0);
    for (Index i = size_ - 1; i >= 0; --i) {
      const Operator op = Operator::as_given(directions_.col(i), betas_[i]).inverse();
      // X = A^-1 (Y - beta k v^T) = A^-1 Y + beta' k v^T
      if (writes())
        undo.push(op, writes_.row(i));
      else
        undo.push(op);
    }
    return undo;
  }

  /// The product of the determinants.
  Real determinant() const {
    Real product(1);
    for (Index i = 0; i < size_; ++i) product *= Real(1) - betas_[i] * directions_.col(i).squaredNorm();
    return product;
  }

  /// The d x d matrix of the linear map, for tests and display.
  Matrix<AccumScalar, Rows, Rows> dense() const {
    Matrix<AccumScalar, Rows, Rows> all = Matrix<AccumScalar, Rows, Rows>::Identity(rows(), rows());
    for (Index i = 0; i < size_; ++i) all = Operator::as_given(directions_.col(i), betas_[i]).dense() * all;
    return all;
  }

  /// Makes room for `count` edits, so that pushing them does not allocate.
  void reserve(Index count, Index value_channels = 0) {
    if (count > capacity()) {
      directions_.conservativeResize(Eigen::NoChange, count);
      betas_.conservativeResize(count);
      overlaps_.conservativeResize(count, count);
      overlaps_.rightCols(count - size_).setZero();
      writes_.conservativeResize(count, writes_.cols());
    }
    if (value_channels > 0 && !writes()) writes_.setZero(capacity(), value_channels);
  }

 private:
  using Small = Matrix<AccumScalar>;

  static Index checked(Index rows) {
    check_positive("ddl::DeltaProduct", "rows", rows);
    check_fixed("ddl::DeltaProduct", "rows", rows, Rows);
    return rows;
  }
  Index capacity() const noexcept { return directions_.cols(); }

  Small unit_lower() const { return betas().template cast<AccumScalar>().asDiagonal() * overlaps(); }

  template <class In, class Out>
  void check_apply(const Eigen::MatrixBase<In>& X, const Eigen::MatrixBase<Out>& Y) const {
    check_shape("ddl::DeltaProduct", "X", X, rows(), writes() ? writes_.cols() : X.cols());
    check_shape("ddl::DeltaProduct", "Y", Y, X.rows(), X.cols());
  }

  template <class In, class Out>
  void subtract(const Eigen::MatrixBase<In>& X, const Small& Z, Out& Y) const {
    if constexpr (std::is_same_v<AccumScalar, Scalar>) {
      Y = X;
      Y.noalias() -= directions() * Z;
    } else {
      Y = (X.template cast<AccumScalar>() - directions() * Z).template cast<Scalar>();
    }
  }

  Matrix<AccumScalar, Rows, Dynamic> directions_;
  Vector<Real> betas_;
  Small overlaps_;
  Small writes_;  ///< rows of zeros until there is a write
  bool has_writes_ = false;
  Index size_ = 0;
};

template <class Scalar, int Rows>
DeltaProduct<Scalar, Rows> DeltaOperator<Scalar, Rows>::operator*(const DeltaOperator& first) const {
  DeltaProduct<Scalar, Rows> product(rows());
  product.push(first);
  product.push(*this);
  return product;
}

}  // namespace ddl
