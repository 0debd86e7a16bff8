// SPDX-License-Identifier: MIT
/// @file  Matrix products over an executor: Eigen's kernels, on tiles whose bounds depend on the shapes
/// alone.
#pragma once

#include <algorithm>
#include <type_traits>

#include "ddl/core/batch.hpp"
#include "ddl/core/executor.hpp"

namespace ddl {
namespace detail {

/// The largest tile, and the depth after which a tile's running sums are stored: the packed panels of both
/// operands fit a second-level cache.
inline constexpr Index tile_rows = 256, tile_cols = 256, tile_depth = 256;

/// Eigen packs its operands into buffers that it allocates at every product beyond 128 KiB; these are kept
/// instead, one pair a thread, so that a training step allocates nothing. They hold nothing between calls.
template <class Scalar>
class PackingBuffers : public Eigen::internal::level3_blocking<Scalar, Scalar> {
 public:
  PackingBuffers(Index rows, Index cols, Index depth) {
    thread_local Vector<Scalar> a, b;
    this->m_mc = (std::min)(rows, tile_rows);
    this->m_nc = (std::min)(cols, tile_cols);
    this->m_kc = (std::min)(depth, tile_depth);
    if (a.size() < this->m_mc * this->m_kc) a.resize(tile_rows * tile_depth);
    if (b.size() < this->m_nc * this->m_kc) b.resize(tile_cols * tile_depth);
    this->m_blockA = a.data();
    this->m_blockB = b.data();
  }
};

/// C += A B for one tile: A rows x depth, B depth x cols, C rows x cols and column-major.
template <class Scalar, int OrderA, int OrderB>
void add_tile(Index rows, Index cols, Index depth, const Scalar* a, Index stride_a, const Scalar* b,
              Index stride_b, Scalar* c, Index stride_c) {
  using Stride = Eigen::OuterStride<>;
  using A = Eigen::Matrix<Scalar, Dynamic, Dynamic, OrderA>;
  using B = Eigen::Matrix<Scalar, Dynamic, Dynamic, OrderB>;
  if constexpr (std::is_floating_point_v<Scalar>) {
    if (cols == 1 && OrderB == Eigen::ColMajor) {
      Eigen::Map<Vector<Scalar>>(c, rows).noalias() +=
          Eigen::Map<const A, 0, Stride>(a, rows, depth, Stride(stride_a)) *
          Eigen::Map<const Vector<Scalar>>(b, depth);
    } else if (rows == 1 && stride_c == 1 && OrderA == Eigen::RowMajor) {
      Eigen::Map<Vector<Scalar>>(c, cols).noalias() +=
          Eigen::Map<const B, 0, Stride>(b, depth, cols, Stride(stride_b)).transpose() *
          Eigen::Map<const Vector<Scalar>>(a, depth);
    } else {
      PackingBuffers<Scalar> buffers(rows, cols, depth);
      Eigen::internal::general_matrix_matrix_product<Index, Scalar, OrderA, false, Scalar, OrderB, false,
                                                     Eigen::ColMajor, 1>::run(rows, cols, depth, a, stride_a,
                                                                              b, stride_b, c, 1, stride_c,
                                                                              Scalar(1), buffers, nullptr);
    }
  } else {
    Eigen::Map<Matrix<Scalar>, 0, Stride>(c, rows, cols, Stride(stride_c)) +=
        Eigen::Map<const A, 0, Stride>(a, rows, depth, Stride(stride_a))
            .lazyProduct(Eigen::Map<const B, 0, Stride>(b, depth, cols, Stride(stride_b)));
  }
}

/// For each tile of C: start(tile's first row, first column, rows, columns), then C += A B.
template <class A, class B, class C, class Start, Executor E>
void multiply(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, Eigen::MatrixBase<C>& c,
              const Start& start, const E& executor) {
  using Scalar = typename C::Scalar;
  static_assert(bool(A::Flags & Eigen::DirectAccessBit) && bool(B::Flags & Eigen::DirectAccessBit) &&
                    bool(C::Flags & Eigen::DirectAccessBit),
                "ddl: matrix products take matrices, maps and blocks");
  static_assert(!C::IsRowMajor || int(C::RowsAtCompileTime) == 1,
                "ddl: a product's destination is column-major");
  constexpr int order_a = A::IsRowMajor ? Eigen::RowMajor : Eigen::ColMajor;
  constexpr int order_b = B::IsRowMajor ? Eigen::RowMajor : Eigen::ColMajor;
  const Index rows = c.rows(), cols = c.cols(), depth = a.cols();
  eigen_assert(a.rows() == rows && b.cols() == cols && b.rows() == depth);
  const Index stride_a = a.derived().outerStride(), stride_b = b.derived().outerStride();
  const Index stride_c = C::IsRowMajor ? 1 : c.derived().outerStride();
  // Weight gradients are small and deep, activations are long: halve a tile that would be the only one.
  const Index height =
      rows > tile_rows / 2 && rows <= tile_rows && cols <= tile_cols ? tile_rows / 2 : tile_rows;
  const Index width = cols > tile_cols / 2 && cols <= tile_cols ? tile_cols / 2 : tile_cols;
  const Index down = (rows + height - 1) / height, across = (cols + width - 1) / width;
  executor.for_each(down * across, [&](Index tile) {
    const Index i = tile % down * height, j = tile / down * width;
    const Index tile_height = (std::min)(height, rows - i), tile_width = (std::min)(width, cols - j);
    start(i, j, tile_height, tile_width);
    add_tile<Scalar, order_a, order_b>(tile_height, tile_width, depth,
                                       a.derived().data() + (A::IsRowMajor ? i * stride_a : i), stride_a,
                                       b.derived().data() + (B::IsRowMajor ? j : j * stride_b), stride_b,
                                       c.derived().data() + i + j * stride_c, stride_c);
  });
}

}  // namespace detail

/// C = A B.
template <class A, class B, class C, Executor E>
void product(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, Eigen::MatrixBase<C>& c,
             const E& executor) {
  detail::multiply(
      a, b, c, [&](Index i, Index j, Index rows, Index cols) { c.block(i, j, rows, cols).setZero(); },
      executor);
}

/// C += A B.
template <class A, class B, class C, Executor E>
void add_product(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, Eigen::MatrixBase<C>& c,
                 const E& executor) {
  detail::multiply(
      a, b, c, [](Index, Index, Index, Index) {}, executor);
}

/// C = A B + bias 1^T.
template <class A, class B, class Bias, class C, Executor E>
void affine(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, const Eigen::MatrixBase<Bias>& bias,
            Eigen::MatrixBase<C>& c, const E& executor) {
  detail::multiply(
      a, b, c,
      [&](Index i, Index j, Index rows, Index cols) {
        c.block(i, j, rows, cols).colwise() = bias.segment(i, rows);
      },
      executor);
}

/// sum += X 1, over all columns.
template <class X, class Sum, Executor E>
void add_row_sums(const Eigen::MatrixBase<X>& x, Eigen::MatrixBase<Sum>& sum, const E& executor) {
  for_ranges(executor, x.rows(), 64, [&](Index begin, Index end) {
    for (Index n = 0; n < x.cols(); ++n)
      sum.segment(begin, end - begin) += x.col(n).segment(begin, end - begin);
  });
}

}  // namespace ddl
