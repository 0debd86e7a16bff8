// SPDX-License-Identifier: MIT
/// @file  The expression A * X, for an operator A that is never formed as a matrix, and the rules of its
/// aliasing.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/eigen_internals.hpp"

namespace ddl {

namespace detail {

/// How the entries of two matrices lie in memory: nothing in common; every entry at the same place; any other
/// way.
enum class Overlap { none, same, other };

template <class M>
inline constexpr bool has_direct_access = (int(M::Flags) & Eigen::DirectAccessBit) != 0;

/// The address of the first byte of x's entries, and of the one after the last. Strides may be negative.
template <class M>
std::pair<std::uintptr_t, std::uintptr_t> memory_of(M& x) {
  Index first = 0, last = 0;
  for (const Index span : {(x.rows() - 1) * x.rowStride(), (x.cols() - 1) * x.colStride()})
    (span < 0 ? first : last) += span;
  const auto at = [&](Index entry) { return reinterpret_cast<std::uintptr_t>(x.data() + entry); };
  return {at(first), at(last + 1)};
}

template <class X, class Y>
Overlap overlap_of(const X& x, Y& y) {
  if (x.size() == 0 || y.size() == 0) return Overlap::none;
  const auto [x_first, x_end] = memory_of(x);
  const auto [y_first, y_end] = memory_of(y);
  if (x_end <= y_first || y_end <= x_first) return Overlap::none;
  const bool same = static_cast<const void*>(x.data()) == static_cast<const void*>(y.data()) &&
                    x.rows() == y.rows() && x.cols() == y.cols() &&
                    (x.rows() == 1 || x.rowStride() == y.rowStride()) &&
                    (x.cols() == 1 || x.colStride() == y.colStride());
  return same ? Overlap::same : Overlap::other;
}

/// Calls f(x) if x and y are known to have no memory in common, or to overlap as allowed; else f(a copy of
/// x). An expression whose memory is not known is always copied, that is, evaluated once. y need not have
/// values yet; it is no const reference, so that compilers do not warn of that.
template <Overlap Allowed, class X, class Y, class F>
void with_operand(const Eigen::MatrixBase<X>& x, Y& y, F&& f) {
  if constexpr (has_direct_access<X> && has_direct_access<std::remove_cvref_t<decltype(y.derived())>>) {
    const Overlap overlap = overlap_of(x.derived(), y.derived());
    if (overlap == Overlap::none || overlap == Allowed) return f(x.derived());
  }
  const typename X::PlainObject copy(x);
  f(copy);
}

/// True for what may stand on the left of A * X; specialised beside each such class.
template <class T>
inline constexpr bool is_operator = false;

template <class T>
concept OperatorOf = is_operator<std::remove_cvref_t<T>>;
template <class Derived>
void accepts_matrix(const Eigen::MatrixBase<Derived>&);
template <class Derived>
void accepts_array(const Eigen::ArrayBase<Derived>&);
/// x.head(n) is a VectorBlock, whose base is the MatrixBase of a Block.
template <class T>
concept MatrixExpression = requires(const std::remove_cvref_t<T>& x) {
  accepts_matrix(x);
};
template <class T>
concept ArrayExpression = requires(const std::remove_cvref_t<T>& x) {
  accepts_array(x);
};

/// Whether Y, deduced as Y&&, can be assigned to.
template <class Y>
inline constexpr bool is_writable = !std::is_const_v<std::remove_reference_t<Y>> &&
                                    (int(std::remove_cvref_t<Y>::Flags) & Eigen::LvalueBit) != 0;

/// How an expression keeps an operand: a named object that Eigen nests by reference by reference, all else by
/// value.
template <class T>
struct Kept {
  using type = std::remove_cvref_t<T>;
};
template <OperatorOf T>
struct Kept<T&> {
  using type = const T&;
};
template <MatrixExpression T>
struct Kept<T&> {
  using type = typename T::Nested;
};

}  // namespace detail

/// The unevaluated product A X. As with Eigen's products, the destination may overlap X in any way: what is
/// not known to be safe goes through a temporary, which `.noalias()` omits where X is an expression.
/// Y = A * X and X = A * X need none. A coefficient, (A * X)(i, j), costs the whole product.
///
/// Named operators and matrices are kept by reference, temporaries by value.
/// @throws std::invalid_argument if X does not have the operator's number of rows.
template <detail::OperatorOf A, detail::MatrixExpression X>
auto operator*(A&& op, X&& x) {
  return OperatorTimes<typename detail::Kept<A>::type, typename detail::Kept<X>::type>(std::forward<A>(op),
                                                                                       std::forward<X>(x));
}
template <detail::OperatorOf A, detail::ArrayExpression X>
auto operator*(A&&, X&& x) {
  static_assert(!detail::ArrayExpression<X>, "ddl: an operator acts on a matrix; write A * x.matrix()");
  return x.matrix().eval();
}

/// The product A X that operator* returns: an expression of Eigen.
template <class Operator, class Rhs>
class OperatorTimes : public Eigen::MatrixBase<OperatorTimes<Operator, Rhs>> {
 public:
  using Base = Eigen::MatrixBase<OperatorTimes>;  ///< what Eigen's macros ask for
  EIGEN_DENSE_PUBLIC_INTERFACE(OperatorTimes)

  /// Made by operator*.
  template <class A, class X>
  OperatorTimes(A&& op, X&& x) : op_(std::forward<A>(op)), X_(std::forward<X>(x)) {
    using Op = std::remove_cvref_t<Operator>;
    using Matrix = std::remove_cvref_t<Rhs>;
    static_assert(std::is_same_v<typename Op::Scalar, typename Matrix::Scalar>,
                  "ddl: operator and state must have one Scalar");
    static_assert(Op::RowsAtCompileTime == Dynamic || int(Matrix::RowsAtCompileTime) == Dynamic ||
                      int(Op::RowsAtCompileTime) == int(Matrix::RowsAtCompileTime),
                  "ddl: the state's rows differ from the operator's");
    check_shape("ddl::operator*", "the right-hand side", X_, op_.cols(), X_.cols());
  }
  Index rows() const noexcept { return X_.rows(); }  ///< those of X
  Index cols() const noexcept { return X_.cols(); }  ///< those of X

  /// What assignments call. Where X's memory is not known, Y must not be a part of it.
  template <class Out>
  void assign_to(Out& out) const {
    auto&& Y = out.matrix();  // an array has no noalias()
    if constexpr (detail::has_direct_access<std::remove_cvref_t<Rhs>>) {
      detail::with_operand<detail::Overlap::same>(X_, Y, [&](const auto& x) {
        if (out.rows() != rows() || out.cols() != cols()) out.resize(rows(), cols());
        op_.apply(x, Y);
      });
    } else {
      Y.noalias() = X_;
      op_.apply_in_place(Y);
    }
  }

 private:
  Operator op_;
  Rhs X_;
};

}  // namespace ddl
