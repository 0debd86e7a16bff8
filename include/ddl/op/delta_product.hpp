// SPDX-License-Identifier: MIT
/// @file  A sequence of Delta operators, with or without writes, as one compact WY product.
/// @source Compact WY: Schreiber and Van Loan 1989; for the delta rule, Yang et al. 2024 (DeltaNet).
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>

#include "ddl/op/delta_operator.hpp"

namespace ddl {

/// A sequence of n edits as one edit of rank n. With X_i = (I - beta_i k_i k_i^H) X_{i-1} + beta_i k_i v_i^T,
///
///     X_n = X_0 + K P,   P = D R,   (I + S D) R = V - K^H X_0
///
/// with K = [k_1 .. k_n], D = diag(beta), V's rows v_i^T, and S the strictly lower part of K^H K. Row i of R
/// is the error v_i^T - k_i^H X_{i-1}. The triangular system is solved by forward substitution, no inverse is
/// formed. Two matrix products and a small solve replace n passes over the state.
///
///     shapes   K: d x n    V: n x m, absent if nothing was written    X, Y: d x m
///     memory   n (d + n + m) scalars; storage doubles as it fills
///
/// With unit directions and beta in [0, 2] no entry of (I + S D)^-1 is larger than 2: entry (i, j) below the
/// diagonal is -k_i^H A_{i-1} .. A_{j+1} k_j beta_j, and no A expands. The condition then grows at most as
/// n^2, and any number of edits is safe. With longer directions or larger gates the entries can grow like
/// |1 - beta |k|^2|^n.
///
/// Aliasing is as with DeltaOperator.
template <class Scalar_, int Rows = Dynamic>
class DeltaProduct {
 public:
  using Scalar = Scalar_;
  using AccumScalar = Accum<Scalar>;
  using Real = RealOf<AccumScalar>;               ///< of the betas
  using Operator = DeltaOperator<Scalar, Rows>;   ///< what a product is made of
  static constexpr int RowsAtCompileTime = Rows;  ///< d, or Dynamic

  /// What apply computes on its way and backward needs. Applying with a tape that was used before allocates
  /// nothing for the same n and m, as long as the operands of Eigen's matrix products fit its 128 KiB on the
  /// stack.
  struct Tape {
    Matrix<AccumScalar> errors;       ///< R, n x m
    Matrix<AccumScalar> steps;        ///< P = D R, n x m
    Matrix<AccumScalar> grad_errors;  ///< dL/dR, which is dL/dV, n x m
    Matrix<AccumScalar> grad_steps;   ///< dL/dP, n x m
    Matrix<AccumScalar> system;       ///< S D, n x n
  };

  /// The gradients of what a product is made of.
  struct Gradient {
    Matrix<AccumScalar, Rows, Dynamic>
        directions;              ///< dL/dK, of the k_i as they are kept (normalised), d x n
    Vector<Real> betas;          ///< n
    Matrix<AccumScalar> writes;  ///< dL/dV, n x m
  };

  /// The empty product on vectors of size `rows`: the identity.
  /// @throws std::invalid_argument if `rows` is below 1 or differs from the fixed number.
  explicit DeltaProduct(Index rows = Rows == Dynamic ? 0 : Rows)
      : directions_(checked(rows), 0), writes_(0, 0) {}

  Index rows() const noexcept { return directions_.rows(); }  ///< d
  Index cols() const noexcept { return directions_.rows(); }  ///< d
  Index size() const noexcept { return size_; }               ///< the number of edits n
  /// True once an edit wrote something; the product is then affine, on states of a fixed number of columns.
  bool writes() const noexcept { return has_writes_; }

  auto directions() const { return directions_.leftCols(size_); }  ///< K, d x n
  auto betas() const { return betas_.head(size_); }                ///< the gates, n
  /// V, n x m; rows of zeros where nothing was written.
  auto written() const { return writes_.topRows(size_); }
  /// S, n x n: the inner products k_i^H k_j for j < i; zero elsewhere.
  auto overlaps() const { return overlaps_.topLeftCorner(size_, size_); }

  /// Appends an operator that acts after all before it. @throws std::invalid_argument on a size that differs.
  template <int OtherRows>
  void push(const DeltaOperator<Scalar, OtherRows>& op) {
    if (op.rows() != rows())
      fail("ddl::DeltaProduct::push", "the operator's size", std::to_string(op.rows()),
           std::to_string(rows()));
    if (size_ == capacity()) reserve((std::max)(Index(4), 2 * size_));
    overlaps_.row(size_).head(size_).noalias() = op.direction().adjoint() * directions();
    directions_.col(size_) = op.direction();
    betas_[size_] = op.beta();
    writes_.row(size_).setZero();  // A X writes v = 0
    ++size_;
  }
  /// Appends an operator and its write v. @throws std::invalid_argument if v's size differs from earlier
  /// ones'.
  template <int OtherRows, class Derived>
  void push(const DeltaOperator<Scalar, OtherRows>& op, const Eigen::MatrixBase<Derived>& v) {
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

  /// Appends all edits of another product. @throws std::invalid_argument on sizes that differ.
  template <int OtherRows>
  void push(const DeltaProduct<Scalar, OtherRows>& after) {
    if (after.rows() != rows())
      fail("ddl::DeltaProduct::push", "the product's size", std::to_string(after.rows()),
           std::to_string(rows()));
    if (writes() && after.writes() && after.written().cols() != writes_.cols())
      fail("ddl::DeltaProduct::push", "the number of columns written", std::to_string(after.written().cols()),
           std::to_string(writes_.cols()));
    const Index count = after.size();  // `after` may be *this
    reserve(size_ + count, after.writes() ? after.written().cols() : 0);
    for (Index i = 0; i < count; ++i) {
      const auto op = Operator::as_given(after.directions().col(i), after.betas()[i]);
      if (after.writes())
        push(op, after.written().row(i).transpose().eval());
      else
        push(op);
    }
  }

  /// Y = A_n .. A_1 X plus the writes.
  template <class In, class Out>
  void apply(const Eigen::MatrixBase<In>& X, Out&& Y) const {
    Tape tape;
    apply(X, Y, tape);
  }
  /// The same, with memory that the caller keeps, and for a backward pass.
  template <class In, class Out>
  void apply(const Eigen::MatrixBase<In>& X, Out&& Y, Tape& tape) const {
    check_shape("ddl::DeltaProduct", "X", X, rows(), writes() ? writes_.cols() : X.cols());
    check_shape("ddl::DeltaProduct", "Y", Y, X.rows(), X.cols());
    detail::with_operand<detail::Overlap::same>(X, Y, [&](const auto& x) {
      tape.errors.noalias() = -directions().adjoint() * x.template cast<AccumScalar>();
      if (writes()) tape.errors += written();
      set_system(tape);
      tape.system.template triangularView<Eigen::UnitLower>().solveInPlace(tape.errors);
      tape.steps = betas().template cast<AccumScalar>().asDiagonal() * tape.errors;
      add(x, AccumScalar(1), tape.steps, Y.derived());
    });
  }
  /// X becomes what apply writes.
  template <class InOut>
  void apply_in_place(InOut&& X) const {
    static_assert(detail::is_writable<InOut>,
                  "ddl: the state must be writable, neither const nor an expression");
    if constexpr (detail::is_writable<InOut>) apply(X, X);
  }

  /// Y = (A_n .. A_1)^H X. Writes, which are no part of the linear map, are left out.
  template <class In, class Out>
  void apply_adjoint(const Eigen::MatrixBase<In>& X, Out&& Y) const {
    Tape tape;
    apply_adjoint(X, Y, tape);
  }
  /// The same with a tape, so that nothing is allocated.
  template <class In, class Out>
  void apply_adjoint(const Eigen::MatrixBase<In>& X, Out&& Y, Tape& tape) const {
    check_shape("ddl::DeltaProduct", "X", X, rows(), X.cols());
    check_shape("ddl::DeltaProduct", "Y", Y, X.rows(), X.cols());
    detail::with_operand<detail::Overlap::same>(X, Y, [&](const auto& x) {
      solve_adjoint(x, tape);
      add(x, AccumScalar(-1), tape.grad_errors, Y.derived());
    });
  }

  /// The adjoint of apply(X, Y, tape), of real scalars.
  ///
  ///     X          d x m, as it went in
  ///     dX         d x m: H = dL/dY on entry, dL/dX on return
  ///     gradient   assigned: dK, dbeta, dV
  ///
  /// With W = dL/dR and N the strictly lower part of W P^T:
  ///
  ///     (I + S D)^T W = D K^T H     dV = W     dbeta_i = (K^T H - S^T W)_i . R_i
  ///     dK = H P^T - X W^T - K (N + N^T)       dX = H - K W
  ///
  /// @throws std::invalid_argument if a shape does not fit, or the tape is of another shape.
  template <class In, class InOut>
  void backward(const Eigen::MatrixBase<In>& X, Tape& tape, InOut&& dX, Gradient& gradient) const {
    static_assert(!Eigen::NumTraits<Scalar>::IsComplex, "ddl::DeltaProduct::backward is of real scalars");
    constexpr const char* where = "ddl::DeltaProduct::backward";
    check_shape(where, "X", X, rows(), writes() ? writes_.cols() : X.cols());
    check_shape(where, "dX", dX, X.rows(), X.cols());
    check_shape(where, "the tape", tape.errors, size_, X.cols());
    check_shape(where, "the tape", tape.steps, size_, X.cols());
    detail::with_operand<detail::Overlap::none>(X, dX, [&](const auto& x) {
      auto& H = dX.derived();
      solve_adjoint(H, tape);
      const auto& W = tape.grad_errors;
      tape.grad_steps.noalias() -= overlaps().transpose() * W;
      gradient.betas = tape.grad_steps.cwiseProduct(tape.errors).rowwise().sum();
      gradient.writes = W;
      gradient.directions.noalias() = H.template cast<AccumScalar>() * tape.steps.transpose();
      gradient.directions.noalias() -= x.template cast<AccumScalar>() * W.transpose();
      tape.system.noalias() = W * tape.steps.transpose();
      tape.system.diagonal().setZero();
      gradient.directions.noalias() -= directions() * tape.system.template selfadjointView<Eigen::Lower>();
      add(H, AccumScalar(-1), W, H);
    });
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

  /// log |determinant()|, which neither over- nor underflows; minus infinity if one of the operators is a
  /// projection.
  Real log_abs_determinant() const {
    Real sum(0);
    for (Index i = 0; i < size_; ++i)
      sum += detail::log_abs_one_minus(Real(betas_[i] * directions_.col(i).squaredNorm()));
    return sum;
  }
  /// Adds to `gradient`, which backward has assigned, that of dlog * log_abs_determinant():
  /// dbeta_i = -|k_i|^2 / (1 - beta_i |k_i|^2), dk_i = -2 beta_i k_i / (1 - beta_i |k_i|^2).
  /// @throws std::invalid_argument if the gradient is not of this product's shape.
  void log_abs_determinant_backward(Real dlog, Gradient& gradient) const {
    static_assert(!Eigen::NumTraits<Scalar>::IsComplex, "ddl::DeltaProduct: gradients are of real scalars");
    constexpr const char* where = "ddl::DeltaProduct::log_abs_determinant_backward";
    check_shape(where, "the gradient of the directions", gradient.directions, rows(), size_);
    check_shape(where, "the gradient of the gates", gradient.betas, size_, 1);
    for (Index i = 0; i < size_; ++i) {
      const Real k2 = directions_.col(i).squaredNorm(), scale = -dlog / (Real(1) - betas_[i] * k2);
      gradient.betas[i] += scale * k2;
      gradient.directions.col(i) += 2 * scale * betas_[i] * directions_.col(i);
    }
  }

  /// The linear map's adjoint (A_n .. A_1)^H = A_1 .. A_n, and its transpose. Writes are left out.
  DeltaProduct adjoint() const {
    return reversed([](const Operator& op) { return op.adjoint(); });
  }
  /// (A_n .. A_1)^T. Writes are left out.
  DeltaProduct transpose() const {
    return reversed([](const Operator& op) { return op.transpose(); });
  }

  /// The product applied n times, writes included; a negative n needs the inverse. It has |n| size() edits.
  /// @throws std::domain_error if n is negative and one of the operators is a projection.
  DeltaProduct pow(int n) const {
    if (n < 0) return inverse().repeated(-static_cast<Index>(n));
    return repeated(n);
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

  template <class F>
  DeltaProduct reversed(F&& f) const {
    DeltaProduct product(rows());
    product.reserve(size_);
    for (Index i = size_ - 1; i >= 0; --i) product.push(f(Operator::as_given(directions_.col(i), betas_[i])));
    return product;
  }

  DeltaProduct repeated(Index times) const {
    DeltaProduct product(rows());
    product.reserve(times * size_, writes() ? writes_.cols() : 0);
    for (Index i = 0; i < times; ++i) product.push(*this);
    return product;
  }

  void set_system(Tape& tape) const {
    tape.system = overlaps() * betas().template cast<AccumScalar>().asDiagonal();
  }

  /// tape.grad_steps = K^H H, and tape.grad_errors = W of (I + S D)^H W = D K^H H.
  template <class In>
  void solve_adjoint(const In& H, Tape& tape) const {
    tape.grad_steps.noalias() = directions().adjoint() * H.template cast<AccumScalar>();
    tape.grad_errors = betas().template cast<AccumScalar>().asDiagonal() * tape.grad_steps;
    set_system(tape);
    tape.system.adjoint().template triangularView<Eigen::UnitUpper>().solveInPlace(tape.grad_errors);
  }

  /// Y = X + factor K Z; Y may be X.
  template <class In, class Out>
  void add(const In& X, AccumScalar factor, const Small& Z, Out&& Y) const {
    if constexpr (std::is_same_v<AccumScalar, Scalar>) {
      Y = X;
      Y.noalias() += factor * directions() * Z;
    } else {
      Y = (X.template cast<AccumScalar>() + factor * directions() * Z).template cast<Scalar>();
    }
  }

  Matrix<AccumScalar, Rows, Dynamic> directions_;
  Vector<Real> betas_;
  Small overlaps_;
  Small writes_;  ///< rows of zeros until there is a write
  bool has_writes_ = false;
  Index size_ = 0;
};

namespace detail {
template <class Scalar, int Rows>
inline constexpr bool is_operator<DeltaProduct<Scalar, Rows>> = true;
}  // namespace detail

/// The composition of two operators or products, `first` being applied first: their edits, one after the
/// other.
/// @throws std::invalid_argument if sizes differ.
template <detail::OperatorOf A, detail::OperatorOf B>
auto operator*(const A& second, const B& first) {
  static_assert(std::is_same_v<typename A::Scalar, typename B::Scalar>,
                "ddl: operators must have one Scalar");
  constexpr int a = A::RowsAtCompileTime, b = B::RowsAtCompileTime;
  static_assert(a == b || a == Dynamic || b == Dynamic, "ddl: operators must have one size");
  DeltaProduct<typename A::Scalar, a == Dynamic ? b : a> product(first.rows());
  product.push(first);
  product.push(second);
  return product;
}

}  // namespace ddl
