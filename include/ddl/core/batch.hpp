// SPDX-License-Identifier: MIT
/// @file  The layout of a batch.
///
/// N vectors of size d are one column-major d x N matrix: features x samples, so a linear layer over a batch
/// is one matrix product. N states of size d x m are one column-major d x (N m) matrix: the state of sample
/// (token) n is its columns n m .. n m + m - 1, which makes every k^T X and every update along k contiguous.
/// Every dimension is fixed at compile time or Dynamic; one implementation serves both.
#pragma once

#include "ddl/core/scalar.hpp"

namespace ddl {

/// Column-major whatever EIGEN_DEFAULT_TO_ROW_MAJOR says (Eigen insists on row-major for row vectors).
template <class Scalar, int Rows = Dynamic, int Cols = Dynamic>
using Matrix =
    Eigen::Matrix<Scalar, Rows, Cols, (Rows == 1 && Cols != 1) ? Eigen::RowMajor : Eigen::ColMajor>;

/// A column vector.
template <class Scalar, int Rows = Dynamic>
using Vector = Matrix<Scalar, Rows, 1>;

/// A vector that holds `Rows` entries or none, without the heap when `Rows` is fixed: an optional bias.
template <class Scalar, int Rows = Dynamic>
using OptionalVector = Eigen::Matrix<Scalar, Dynamic, 1, Eigen::ColMajor, Rows, 1>;

/// A matrix of `Rows` x `Cols` or an empty one, without the heap when both are fixed.
template <class Scalar, int Rows = Dynamic, int Cols = Dynamic>
using OptionalMatrix =
    Eigen::Matrix<Scalar, Dynamic, Dynamic, (Rows == 1 && Cols != 1) ? Eigen::RowMajor : Eigen::ColMajor,
                  Rows, Cols>;

/// Views of a batch with any number of columns. A ConstBatchRef copies (allocates) if it is given a row-major
/// matrix or an expression; a BatchRef does not compile then.
template <class Scalar, int Rows = Dynamic>
using BatchRef = Eigen::Ref<Matrix<Scalar, Rows, Dynamic>>;
/// See BatchRef.
template <class Scalar, int Rows = Dynamic>
using ConstBatchRef = Eigen::Ref<const Matrix<Scalar, Rows, Dynamic>>;

namespace detail {

/// A run of consecutive scalars as an array. Loops are written over these whatever matrix they came from, so
/// that each expression is compiled once for a scalar and not once for every type of matrix.
template <class Scalar>
using Run = Eigen::Map<Eigen::Array<Scalar, Dynamic, 1>>;
template <class Scalar>
using ConstRun = Eigen::Map<const Eigen::Array<Scalar, Dynamic, 1>>;

}  // namespace detail

/// Entries begin .. begin + size - 1 of column j of a column-major matrix; the whole column by default.
template <class Derived>
detail::ConstRun<typename Derived::Scalar> column(const Eigen::DenseBase<Derived>& x, Index j,
                                                  Index begin = 0, Index size = -1) {
  return {x.derived().data() + j * x.derived().colStride() + begin, size < 0 ? x.rows() : size};
}
/// The same of a matrix that can be written to.
template <class Derived>
detail::Run<typename Derived::Scalar> column(Eigen::DenseBase<Derived>& x, Index j, Index begin = 0,
                                             Index size = -1) {
  return {x.derived().data() + j * x.derived().colStride() + begin, size < 0 ? x.rows() : size};
}

/// The product of two dimensions, Dynamic if one of them is.
constexpr int times(int a, int b) noexcept { return a == Dynamic || b == Dynamic ? Dynamic : a * b; }

namespace detail {

/// A matrix whose columns, or rows, are contiguous, whatever its type was.
template <class Scalar>
struct View {
  Scalar* data;
  Index rows, cols, stride;
  bool row_major;  ///< a transpose; a single row counts as column-major

  template <class Derived>
  explicit View(Derived& x)
      : data(x.data()),
        rows(x.rows()),
        cols(x.cols()),
        stride(int(Derived::RowsAtCompileTime) == 1 && Derived::IsRowMajor ? x.innerStride()
                                                                           : x.outerStride()),
        row_major(Derived::IsRowMajor && int(Derived::RowsAtCompileTime) != 1) {
    static_assert(bool(Derived::Flags & Eigen::DirectAccessBit),
                  "ddl: matrices, maps and blocks, no expressions");
    eigen_assert(x.rows() == 1 || x.innerStride() == 1);
  }
  Scalar* at(Index i, Index j) const { return data + (row_major ? i * stride + j : i + j * stride); }
};

}  // namespace detail

}  // namespace ddl
