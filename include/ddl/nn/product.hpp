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

/// A matrix as these products see it, whatever its type was.
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
        stride(int(Derived::RowsAtCompileTime) == 1 && Derived::IsRowMajor ? 1 : x.outerStride()),
        row_major(Derived::IsRowMajor && int(Derived::RowsAtCompileTime) != 1) {
    static_assert(bool(Derived::Flags & Eigen::DirectAccessBit),
                  "ddl: a product takes matrices, maps and blocks");
  }
  Scalar* at(Index i, Index j) const { return data + (row_major ? i * stride + j : i + j * stride); }
};

/// C += A B by Eigen's blocked kernel (or BLAS, with EIGEN_USE_BLAS).
template <int OrderA, int OrderB, class Scalar>
void add_blocked(Index rows, Index cols, Index depth, const Scalar* a, Index stride_a, const Scalar* b,
                 Index stride_b, Scalar* c, Index stride_c) {
  PackingBuffers<Scalar> buffers(rows, cols, depth);
  Eigen::internal::general_matrix_matrix_product<Index, Scalar, OrderA, false, Scalar, OrderB, false,
                                                 Eigen::ColMajor, 1>::run(rows, cols, depth, a, stride_a, b,
                                                                          stride_b, c, 1, stride_c, Scalar(1),
                                                                          buffers, nullptr);
}

/// y += A x, or y += A^T x for a row-major A.
template <class Scalar>
void add_times_vector(const View<const Scalar>& a, Index rows, Index cols, const Scalar* x, Scalar* y) {
  using Stride = Eigen::OuterStride<>;
  const Eigen::Map<const Vector<Scalar>> in(x, cols);
  Eigen::Map<Vector<Scalar>> out(y, rows);
  if (a.row_major)
    out.noalias() +=
        Eigen::Map<const Matrix<Scalar>, 0, Stride>(a.data, cols, rows, Stride(a.stride)).transpose() * in;
  else
    out.noalias() += Eigen::Map<const Matrix<Scalar>, 0, Stride>(a.data, rows, cols, Stride(a.stride)) * in;
}

/// What stands in C before A B is added.
enum class Start { keep, zero, bias };

template <class Scalar, Executor E>
void multiply(const View<const Scalar>& a, const View<const Scalar>& b, const View<Scalar>& c, Start start,
              const Scalar* bias, const E& executor) {
  const Index rows = c.rows, cols = c.cols, depth = a.cols;
  eigen_assert(a.rows == rows && b.cols == cols && b.rows == depth && !c.row_major);
  // Where tiles would be too few to share among threads, they are cut to halves, and not further: every tile
  // packs its operands anew.
  constexpr Index enough = 16;
  const auto pieces = [](Index size, Index piece) { return (size + piece - 1) / piece; };
  Index height = tile_rows, width = tile_cols;
  if (pieces(rows, height) * pieces(cols, width) < enough) width /= 2;
  if (pieces(rows, height) * pieces(cols, width) < enough) height /= 2;
  const Index down = pieces(rows, height), across = pieces(cols, width);
  const auto run = [&](Index tile) {
    const Index i = tile % down * height, j = tile / down * width;
    const Index m = (std::min)(height, rows - i), n = (std::min)(width, cols - j);
    const Scalar *tile_a = a.at(i, 0), *tile_b = b.at(0, j);
    Scalar* tile_c = c.at(i, j);
    for (Index col = 0; col < n && start != Start::keep; ++col) {
      Scalar* to = tile_c + col * c.stride;
      if (start == Start::zero)
        std::fill_n(to, m, Scalar(0));
      else
        std::copy_n(bias + i, m, to);
    }
    if (n == 1 && !b.row_major) {
      View<const Scalar> panel = a;
      panel.data = tile_a;
      add_times_vector(panel, m, depth, tile_b, tile_c);
    } else if (rows == 1 && c.stride == 1 && a.stride == 1) {
      View<const Scalar> panel = b;  // (a B)^T = B^T a^T
      panel.data = tile_b;
      panel.row_major = !b.row_major;
      add_times_vector(panel, n, depth, tile_a, tile_c);
    } else if (a.row_major) {
      eigen_assert(!b.row_major);
      add_blocked<Eigen::RowMajor, Eigen::ColMajor>(m, n, depth, tile_a, a.stride, tile_b, b.stride, tile_c,
                                                    c.stride);
    } else if (b.row_major) {
      add_blocked<Eigen::ColMajor, Eigen::RowMajor>(m, n, depth, tile_a, a.stride, tile_b, b.stride, tile_c,
                                                    c.stride);
    } else {
      add_blocked<Eigen::ColMajor, Eigen::ColMajor>(m, n, depth, tile_a, a.stride, tile_b, b.stride, tile_c,
                                                    c.stride);
    }
  };
  constexpr Index worth_sharing = 1 << 18;  // multiplications: some microseconds, what waking a thread takes
  if (rows * cols * depth < worth_sharing)
    Serial{}.for_each(down * across, run);
  else
    executor.for_each(down * across, run);
}

}  // namespace detail

/// C = A B, where one of A and B may be a transpose and C is column-major.
template <class A, class B, class C, Executor E>
void product(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, Eigen::MatrixBase<C>& c,
             const E& executor) {
  using Scalar = typename C::Scalar;
  detail::multiply<Scalar>(detail::View<const Scalar>(a.derived()), detail::View<const Scalar>(b.derived()),
                           detail::View<Scalar>(c.derived()), detail::Start::zero, nullptr, executor);
}

/// C += A B.
template <class A, class B, class C, Executor E>
void add_product(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, Eigen::MatrixBase<C>& c,
                 const E& executor) {
  using Scalar = typename C::Scalar;
  detail::multiply<Scalar>(detail::View<const Scalar>(a.derived()), detail::View<const Scalar>(b.derived()),
                           detail::View<Scalar>(c.derived()), detail::Start::keep, nullptr, executor);
}

/// C = A B + bias 1^T; the bias is a contiguous vector.
template <class A, class B, class Bias, class C, Executor E>
void affine(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, const Eigen::MatrixBase<Bias>& bias,
            Eigen::MatrixBase<C>& c, const E& executor) {
  using Scalar = typename C::Scalar;
  detail::multiply<Scalar>(detail::View<const Scalar>(a.derived()), detail::View<const Scalar>(b.derived()),
                           detail::View<Scalar>(c.derived()), detail::Start::bias, bias.derived().data(),
                           executor);
}

/// sum += X 1, over all columns.
template <class X, class Sum, Executor E>
void add_row_sums(const Eigen::MatrixBase<X>& x, Eigen::MatrixBase<Sum>& sum, const E& executor) {
  for_ranges(executor, x.rows(), 64, [&](Index begin, Index end) {
    for (Index n = 0; n < x.cols(); ++n)
      column(sum, 0, begin, end - begin) += column(x.derived(), n, begin, end - begin);
  });
}

}  // namespace ddl
