// SPDX-License-Identifier: MIT
/// @file  The Delta operator A = I - beta k k^T, kept as (k, beta).
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417: the operator and its spectrum (sec. 2,
/// Prop. 2.1).
#pragma once

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/op/direction.hpp"
#include "ddl/op/expression.hpp"

namespace ddl {

/// What a gate does to the component along k: keeps it, erases it, turns it around.
enum class Regime { identity, projection, reflection, expansion };

/// The nearest of the three regimes by beta |k|^2 (bounds at 0.5 and 1.5); `expansion` outside [0, 2].
template <class Real>
Regime regime_of(const Real& beta_k2) {
  const Real rounding = Real(8) * Eigen::NumTraits<Real>::epsilon();  // of |k|^2, for a k that was normalised
  if (!(beta_k2 >= -rounding) || beta_k2 > Real(2) + rounding) return Regime::expansion;
  return beta_k2 < Real(0.5)    ? Regime::identity
         : beta_k2 <= Real(1.5) ? Regime::projection
                                : Regime::reflection;
}

/// Its name in this enumeration.
constexpr const char* name_of(Regime regime) noexcept {
  constexpr const char* names[] = {"identity", "projection", "reflection", "expansion"};
  return names[static_cast<int>(regime)];
}

namespace detail {

/// log |1 - x|
template <class Real>
Real log_abs_one_minus(const Real& x) {
  using std::log;
  using std::log1p;
  return x < Real(1) ? Real(log1p(Real(-x))) : Real(log(Real(x - Real(1))));
}

}  // namespace detail

/// The operator A = I - beta k k^H on vectors of size d (k^T for real scalars); the d x d matrix is never
/// formed.
///
///     shapes     k: d    X, Y: d x m, either storage order    v: m
///     cost       4 d m flops, one visit of each column; no heap use but for the temporaries named below
///     spectrum   1 (d - 1 times) and 1 - beta |k|^2, which is also the determinant
///
/// The product A * X is an expression, see OperatorTimes. Everywhere the destination may overlap what is read
/// in any way. No temporary is needed where they have no memory in common or are one matrix; expressions, and
/// matrices that overlap otherwise, are copied first.
///
/// @tparam Rows  d at compile time, or Dynamic; m is read from each argument.
template <class Scalar_, int Rows = Dynamic>
class DeltaOperator {
  static_assert(
      !Eigen::NumTraits<Scalar_>::IsInteger,
      "ddl::DeltaOperator: the scalar is an integer, use the direction's cast<float>() or cast<double>()");

 public:
  using Scalar = Scalar_;
  using AccumScalar = Accum<Scalar>;
  using Real = RealOf<AccumScalar>;               ///< of beta, norms and eigenvalues
  using Direction = Vector<AccumScalar, Rows>;    ///< of k
  static constexpr int RowsAtCompileTime = Rows;  ///< d, or Dynamic
  /// An eigenvalue and its algebraic multiplicity.
  struct Eigenvalue {
    Real value;          ///< a real number, as the operator is Hermitian
    Index multiplicity;  ///< d - 1 or 1
  };

  /// k = direction / sqrt(|direction|^2 + k_eps^2). The zero direction gives k = 0, the identity.
  /// @throws std::invalid_argument if the direction is empty, or anything is not finite.
  template <class Derived>
  DeltaOperator(const Eigen::MatrixBase<Derived>& direction, Real beta, Real k_eps = Real(0))
      : DeltaOperator(AsGiven{}, direction, std::move(beta)) {
    if (!is_finite(k_eps) || k_eps < Real(0))
      fail("ddl::DeltaOperator", "k_eps", "negative or not finite", "a number of at least 0");
    const auto unit = detail::normalizer(k_.data(), k_.size(), k2_, k_eps);
    k_ *= AccumScalar(unit.power);
    k_ *= AccumScalar(unit.scale);
    k2_ = k_.squaredNorm();
  }

  /// k = direction, whatever its length: I - beta direction direction^H.
  /// @throws std::invalid_argument as above, and if |direction|^2 is larger than the largest number.
  template <class Derived>
  static DeltaOperator as_given(const Eigen::MatrixBase<Derived>& direction, Real beta) {
    DeltaOperator op(AsGiven{}, direction, std::move(beta));
    if (!is_finite(op.k2_))
      fail("ddl::DeltaOperator::as_given", "the squared length of the direction", "not finite", "finite");
    return op;
  }

  const Direction& direction() const noexcept { return k_; }  ///< k
  const Real& beta() const noexcept { return beta_; }         ///< the gate
  Index rows() const noexcept { return k_.size(); }           ///< d
  Index cols() const noexcept { return k_.size(); }           ///< d

  /// Y = A X. @throws std::invalid_argument if a shape does not fit.
  template <class In, class Out>
  void apply(const Eigen::MatrixBase<In>& X, Out&& Y) const {
    check_apply(X, Y);
    detail::with_operand<detail::Overlap::same>(X.derived(), Y,
                                                [&](const auto& x) { edit(x, Y.derived(), Zero{}); });
  }
  /// X = A X.
  template <class InOut>
  void apply_in_place(InOut&& X) const {
    static_assert(detail::is_writable<InOut>,
                  "ddl: the state must be writable, neither const nor an expression");
    if constexpr (detail::is_writable<InOut>) apply(X, X);
  }

  /// Y = A X + beta k v^T = X + beta k (v - X^T k)^T: read, compare, write. At beta |k|^2 = 1
  /// the old content along k is gone: k^T Y = v^T.
  template <class In, class Value, class Out>
  void update(const Eigen::MatrixBase<In>& X, const Eigen::MatrixBase<Value>& v, Out&& Y) const {
    check_apply(X, Y);
    EIGEN_STATIC_ASSERT_VECTOR_ONLY(Value)
    if (v.size() != X.cols())
      fail("ddl::DeltaOperator::update", "the size of v", std::to_string(v.size()), std::to_string(X.cols()));
    detail::with_operand<detail::Overlap::none>(v, Y, [&](const auto& values) {
      detail::with_operand<detail::Overlap::same>(X, Y, [&](const auto& x) {
        edit(x, Y.derived(), [&](Index j) { return AccumScalar(values.coeff(j)); });
      });
    });
  }
  /// X = A X + beta k v^T.
  template <class InOut, class Value>
  void update_in_place(InOut&& X, const Eigen::MatrixBase<Value>& v) const {
    update(X, v, X);
  }

  DeltaOperator adjoint() const { return *this; }                              ///< A itself: it is Hermitian
  DeltaOperator transpose() const { return as_given(k_.conjugate(), beta_); }  ///< A itself for real scalars

  /// I - beta' k k^H with beta' = beta / (beta |k|^2 - 1): the transpose only where beta |k|^2 is 0 or 2.
  /// @throws std::domain_error where beta |k|^2 is 1 to within rounding: a projection has no inverse.
  DeltaOperator inverse() const {
    using std::abs;
    if (abs(determinant()) <= Real(8) * Eigen::NumTraits<Real>::epsilon())
      throw std::domain_error("ddl::DeltaOperator::inverse: beta |k|^2 is 1, a projection has no inverse");
    return as_given(k_, beta_ / (beta_ * k2_ - Real(1)));
  }

  /// A^n; a negative n needs the inverse.
  DeltaOperator pow(int n) const {
    if (n < 0) return inverse().power(0u - static_cast<unsigned>(n));
    return power(static_cast<unsigned>(n));
  }

  Real determinant() const { return Real(1) - beta_ * k2_; }  ///< 1 - beta |k|^2
  /// log |det A|; minus infinity for a projection. Keeps all digits where beta |k|^2 is small.
  Real log_abs_determinant() const { return detail::log_abs_one_minus(Real(beta_ * k2_)); }
  /// 1 on the complement of k, and 1 - beta |k|^2 along it.
  std::array<Eigenvalue, 2> eigenvalues() const { return {{{Real(1), rows() - 1}, {determinant(), 1}}}; }
  Regime regime() const { return regime_of(Real(beta_ * k2_)); }  ///< regime_of(beta |k|^2)

  /// The d x d matrix, for tests and display.
  Matrix<AccumScalar, Rows, Rows> dense() const {
    return Matrix<AccumScalar, Rows, Rows>::Identity(rows(), rows()) - AccumScalar(beta_) * k_ * k_.adjoint();
  }

 private:
  struct AsGiven {};
  /// The value of a product A X. A named type, so that `edit` is compiled once for a type of state.
  struct Zero {
    AccumScalar operator()(Index) const { return AccumScalar(0); }
  };
  template <class Derived>
  DeltaOperator(AsGiven, const Eigen::MatrixBase<Derived>& direction, Real beta) : beta_(std::move(beta)) {
    static_assert(Derived::IsVectorAtCompileTime,
                  "ddl::DeltaOperator: the direction must be a vector, as K.col(i) is");
    if (direction.size() == 0) fail("ddl::DeltaOperator", "the size of the direction", "0", "at least 1");
    check_fixed("ddl::DeltaOperator", "the size of the direction", direction.size(), Rows);
    if (!all_finite(direction)) fail("ddl::DeltaOperator", "the direction", "not finite", "finite numbers");
    if (!is_finite(beta_)) fail("ddl::DeltaOperator", "beta", "not finite", "a finite number");
    k_.resize(direction.size());
    for (Index i = 0; i < k_.size(); ++i) k_[i] = AccumScalar(direction.derived().coeff(i));
    k2_ = k_.squaredNorm();
  }

  DeltaOperator power(unsigned n) const {
    // 1 - (1 - a)(1 - b) = a + b - a b, which loses nothing where a and b are small.
    Real power(0), square = beta_ * k2_;
    for (; n > 0; n /= 2, square = square + square - square * square)
      if (n % 2) power = power + square - power * square;
    return as_given(k_, k2_ > Real(0) ? Real(power / k2_) : Real(0));
  }

  template <class In, class Out>
  void check_apply(const Eigen::MatrixBase<In>& X, const Eigen::MatrixBase<Out>& Y) const {
    static_assert(std::is_same_v<typename In::Scalar, Scalar> && std::is_same_v<typename Out::Scalar, Scalar>,
                  "ddl::DeltaOperator: operator and state must have one Scalar");
    static_assert(
        Rows == Dynamic || int(In::RowsAtCompileTime) == Dynamic || int(In::RowsAtCompileTime) == Rows,
        "ddl::DeltaOperator: the state's rows differ from the operator's");
    check_shape("ddl::DeltaOperator", "X", X, rows(), X.cols());
    check_shape("ddl::DeltaOperator", "Y", Y, X.rows(), X.cols());
  }

  /// Y = X + beta k (v - k^H X), a few columns at a time, so that a row-major X is read along its rows.
  template <class In, class Out, class Value>
  void edit(const In& X, Out&& Y, const Value& v) const {
    constexpr Index panel = In::IsRowMajor ? 16 : 1;
    Eigen::Matrix<AccumScalar, 1, Dynamic, Eigen::RowMajor, 1, panel> r;
    for (Index j = 0; j < X.cols(); j += panel) {
      const Index width = (std::min)(panel, X.cols() - j);
      if constexpr (In::IsRowMajor) {
        r.setZero(width);
        for (Index i = 0; i < X.rows(); ++i)
          r += Eigen::numext::conj(k_[i]) * X.row(i).segment(j, width).template cast<AccumScalar>();
        for (Index c = 0; c < width; ++c) r[c] = AccumScalar(beta_) * (v(j + c) - r[c]);
        for (Index i = 0; i < X.rows(); ++i)
          Y.row(i).segment(j, width) =
              (X.row(i).segment(j, width).template cast<AccumScalar>() + k_[i] * r).template cast<Scalar>();
      } else {
        // The operator's fixed size, if it has one, also where the state's is not known to the compiler.
        const auto x = X.col(j).template head<Rows>(rows()).template cast<AccumScalar>();
        const AccumScalar step = AccumScalar(beta_) * (v(j) - k_.dot(x));
        Y.col(j).template head<Rows>(rows()) = (x + k_ * step).template cast<Scalar>();
      }
    }
  }

  Direction k_;
  Real beta_;
  Real k2_{};
};

/// The size is that of the direction.
template <class Derived, class Beta>
DeltaOperator(const Eigen::MatrixBase<Derived>&, Beta)
    -> DeltaOperator<typename Derived::Scalar, int(Derived::SizeAtCompileTime)>;
/// The size is that of the direction.
template <class Derived, class Beta, class Eps>
DeltaOperator(const Eigen::MatrixBase<Derived>&, Beta, Eps)
    -> DeltaOperator<typename Derived::Scalar, int(Derived::SizeAtCompileTime)>;

namespace detail {
template <class Scalar, int Rows>
inline constexpr bool is_operator<DeltaOperator<Scalar, Rows>> = true;
}  // namespace detail

}  // namespace ddl
