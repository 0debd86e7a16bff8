// SPDX-License-Identifier: MIT
/// @file  Matrix products over an executor: Eigen's kernel (or BLAS), on tiles whose bounds depend on the
/// shapes alone.
#pragma once

#include <algorithm>
#include <type_traits>

#include "ddl/core/batch.hpp"
#include "ddl/core/eigen_internals.hpp"
#include "ddl/core/pass.hpp"

namespace ddl {
namespace detail {

/// What stands in C before A B is added.
enum class Start { keep, zero, bias };

/// Writes it to rows i .. i + m - 1 of columns j .. j + n - 1.
template <class Scalar>
void begin_tile(const View<Scalar>& c, Index i, Index j, Index m, Index n, Start start, const Scalar* bias) {
  for (Index col = j; col < j + n && start != Start::keep; ++col)
    if (start == Start::zero)
      std::fill_n(c.at(i, col), m, Scalar(0));
    else
      std::copy_n(bias + i, m, c.at(i, col));
}

/// Runs f(m, n, i, j) for tiles of at most `height` x `width` that cover C, m x n from row i and column j on.
template <class Scalar, class F>
void for_tiles(const View<Scalar>& c, Index height, Index width, const ExecutorRef& executor, const F& f) {
  const Index down = pieces_of(c.rows, height);
  executor.for_each(down * pieces_of(c.cols, width), [&](Index tile) {
    const Index i = tile % down * height, j = tile / down * width;
    f((std::min)(height, c.rows - i), (std::min)(width, c.cols - j), i, j);
  });
}

#if defined(EIGEN_USE_BLAS) || defined(DDL_PLAIN_EIGEN)

/// C += A B for one tile, by Eigen's public interface.
template <int OrderA, int OrderB, class Scalar>
void multiply_tile(const Scalar* a, Index stride_a, const Scalar* b, Index stride_b, Scalar* c,
                   Index stride_c, Index m, Index depth, Index n) {
  using Stride = Eigen::OuterStride<>;
  using A = Eigen::Matrix<Scalar, Dynamic, Dynamic, OrderA>;
  using B = Eigen::Matrix<Scalar, Dynamic, Dynamic, OrderB>;
  Eigen::Map<Matrix<Scalar>, 0, Stride>(c, m, n, Stride(stride_c)).noalias() +=
      Eigen::Map<const A, 0, Stride>(a, m, depth, Stride(stride_a)) *
      Eigen::Map<const B, 0, Stride>(b, depth, n, Stride(stride_b));
}

/// Where tiles would be too few to share among threads, they are cut to halves, and not further: operands are
/// packed anew for every tile. Without BLAS, what Eigen packs at a time fits its limit for the stack.
template <class Scalar>
void multiply_tiles(const View<const Scalar>& a, const View<const Scalar>& b, const View<Scalar>& c,
                    Start start, const Scalar* bias, const ExecutorRef& executor) {
#ifdef EIGEN_USE_BLAS
  constexpr Index enough = 16;
  const Index run = (std::max)(Index(1), a.cols);
  Index height = 256, width = 256;
  if (pieces_of(c.rows, height) * pieces_of(c.cols, width) < enough) width /= 2;
  if (pieces_of(c.rows, height) * pieces_of(c.cols, width) < enough) height /= 2;
#else
  constexpr Index height = 96, width = 96, run = 1024 / Index(sizeof(Scalar));
#endif
  const auto tile = !a.row_major  ? b.row_major ? multiply_tile<Eigen::ColMajor, Eigen::RowMajor, Scalar>
                                                : multiply_tile<Eigen::ColMajor, Eigen::ColMajor, Scalar>
                     : b.row_major ? multiply_tile<Eigen::RowMajor, Eigen::RowMajor, Scalar>
                                  : multiply_tile<Eigen::RowMajor, Eigen::ColMajor, Scalar>;
  for_tiles(c, height, width, executor, [&](Index m, Index n, Index i, Index j) {
    begin_tile(c, i, j, m, n, start, bias);
    for (Index k = 0; k < a.cols; k += run)
      tile(a.at(i, k), a.stride, b.at(k, j), b.stride, c.at(i, j), c.stride, m, (std::min)(run, a.cols - k),
           n);
  });
}

#else

/// Room for the packed operands of a product. A thread keeps it from one product to the next, so that a
/// training step allocates nothing; a product that begins on the same thread while this one waits for others
/// has its own.
template <class Scalar>
struct Panels {
  Vector<Scalar> a, b;

  Panels() { exchange(); }
  ~Panels() { exchange(); }
  Panels(const Panels&) = delete;
  Panels& operator=(const Panels&) = delete;

  static Scalar* room(Vector<Scalar>& panels, Index size) {
    if (panels.size() < size)
      Vector<Scalar>(size).swap(panels);  // a resize() that throws leaves a dangling pointer
    return panels.data();
  }

 private:
  void exchange() {
    thread_local Vector<Scalar> kept_a, kept_b;
    a.swap(kept_a);
    b.swap(kept_b);
  }
};

/// Eigen's own product packs for itself alone; here all threads share the panels, so that tiles may be small
/// without being packed each anew.
template <class Scalar>
void multiply_tiles(const View<const Scalar>& a, const View<const Scalar>& b, const View<Scalar>& c,
                    Start start, const Scalar* bias, const ExecutorRef& executor) {
  using Kernel = ProductKernel<Scalar>;
  constexpr Index mr = Kernel::rows, nr = Kernel::cols;
  constexpr Index height = pieces_of(96, mr) * mr, width = pieces_of(64, nr) * nr;
  // The depth after which sums are stored: mr rows of A, which the kernel reads again and again, then take
  // 24 KiB, and leave room for B in a first-level cache of 32.
  constexpr Index run = (std::max)(Index(16), 24 * 1024 / (mr * Index(sizeof(Scalar))) / 16 * 16);
  // What is packed at a time: at most some megabytes.
  constexpr Index most_rows = 1024 / height * height, most_cols = 1024 / width * width, most_depth = 512;

  Panels<Scalar> panels;
  for (Index i0 = 0; i0 < c.rows; i0 += most_rows)
    for (Index j0 = 0; j0 < c.cols; j0 += most_cols)
      for (Index k0 = 0; k0 == 0 || k0 < a.cols; k0 += most_depth) {
        View<Scalar> part = c;
        part.data = c.at(i0, j0);
        part.rows = (std::min)(most_rows, c.rows - i0);
        part.cols = (std::min)(most_cols, c.cols - j0);
        const Index depth = (std::min)(most_depth, a.cols - k0), down = pieces_of(part.rows, height);
        Scalar *packed_a = panels.room(panels.a, part.rows * depth),
               *packed_b = panels.room(panels.b, part.cols * depth);
        const auto for_runs = [&](const auto& f) {
          for (Index k = 0; k < depth; k += run) f(k, (std::min)(run, depth - k));
        };
        executor.for_each(down + pieces_of(part.cols, width), [&](Index piece) {
          const Index i = piece * height, j = (piece - down) * width;
          for_runs([&](Index k, Index length) {
            if (piece < down)
              Kernel::pack_a(packed_a + k * part.rows + i * length, a.at(i0 + i, k0 + k), a.stride,
                             a.row_major, length, (std::min)(height, part.rows - i));
            else
              Kernel::pack_b(packed_b + k * part.cols + j * length, b.at(k0 + k, j0 + j), b.stride,
                             b.row_major, length, (std::min)(width, part.cols - j));
          });
        });
        for_tiles(part, height, width, executor, [&](Index m, Index n, Index i, Index j) {
          if (k0 == 0) begin_tile(part, i, j, m, n, start, bias ? bias + i0 : bias);
          for_runs([&](Index k, Index length) {
            Kernel::multiply(part.at(i, j), part.stride, packed_a + k * part.rows + i * length,
                             packed_b + k * part.cols + j * length, m, length, n);
          });
        });
      }
}

#endif

/// y += A x, or y += A^T x for a row-major A.
template <class Scalar>
void add_times_vector(const View<const Scalar>& a, const Scalar* x, Scalar* y) {
  using Stride = Eigen::OuterStride<>;
  using Map = Eigen::Map<const Matrix<Scalar>, 0, Stride>;
  const Eigen::Map<const Vector<Scalar>> in(x, a.cols);
  Eigen::Map<Vector<Scalar>> out(y, a.rows);
  if (a.row_major)
    out.noalias() += Map(a.data, a.cols, a.rows, Stride(a.stride)).transpose() * in;
  else
    out.noalias() += Map(a.data, a.rows, a.cols, Stride(a.stride)) * in;
}

/// C = start + A B.
template <class Scalar>
void multiply(const View<const Scalar>& a, const View<const Scalar>& b, const View<Scalar>& c, Start start,
              const Scalar* bias, const ExecutorRef& given) {
  eigen_assert(a.rows == c.rows && b.cols == c.cols && b.rows == a.cols && !c.row_major);
  constexpr Index worth_sharing = 1 << 20;  // multiplications: 20 microseconds, what waking threads takes
  constexpr Index piece = 256;
  const ExecutorRef executor = c.rows * c.cols * a.cols < worth_sharing ? ExecutorRef() : given;
  if (c.cols == 1 && !b.row_major) {
    executor.for_each(pieces_of(c.rows, piece), [&](Index i) {
      const Index begin = i * piece;
      View<const Scalar> part = a;
      part.data = a.at(begin, 0);
      part.rows = (std::min)(piece, c.rows - begin);
      begin_tile(c, begin, 0, part.rows, 1, start, bias);
      add_times_vector(part, b.data, c.at(begin, 0));
    });
  } else if (c.rows == 1 && c.stride == 1 && a.stride == 1) {
    executor.for_each(pieces_of(c.cols, piece), [&](Index i) {
      const Index begin = i * piece;
      View<const Scalar> part = b;  // (a B)^T = B^T a^T
      part.data = b.at(0, begin);
      part.rows = (std::min)(piece, c.cols - begin);
      part.cols = b.rows;
      part.row_major = !b.row_major;
      begin_tile(c, 0, begin, 1, part.rows, start, bias);
      add_times_vector(part, a.data, c.at(0, begin));
    });
  } else {
    multiply_tiles(a, b, c, start, bias, executor);
  }
}

}  // namespace detail

/// C = A B, where A and B may be transposes and C is column-major.
template <class A, class B, class C>
void product(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, Eigen::MatrixBase<C>& c,
             const ExecutorRef& executor) {
  using Scalar = typename C::Scalar;
  detail::multiply<Scalar>(detail::View<const Scalar>(a.derived()), detail::View<const Scalar>(b.derived()),
                           detail::View<Scalar>(c.derived()), detail::Start::zero, nullptr, executor);
}

/// C += A B.
template <class A, class B, class C>
void add_product(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, Eigen::MatrixBase<C>& c,
                 const ExecutorRef& executor) {
  using Scalar = typename C::Scalar;
  detail::multiply<Scalar>(detail::View<const Scalar>(a.derived()), detail::View<const Scalar>(b.derived()),
                           detail::View<Scalar>(c.derived()), detail::Start::keep, nullptr, executor);
}

/// C = A B + bias 1^T; the bias is a contiguous vector.
template <class A, class B, class Bias, class C>
void affine(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, const Eigen::MatrixBase<Bias>& bias,
            Eigen::MatrixBase<C>& c, const ExecutorRef& executor) {
  using Scalar = typename C::Scalar;
  detail::multiply<Scalar>(detail::View<const Scalar>(a.derived()), detail::View<const Scalar>(b.derived()),
                           detail::View<Scalar>(c.derived()), detail::Start::bias, bias.derived().data(),
                           executor);
}

/// sum += X 1, over all columns.
template <class X, class Sum, Executor E>
void add_row_sums(const Eigen::MatrixBase<X>& x, Eigen::MatrixBase<Sum>& sum, const E& executor) {
  for_ranges(executor, x.rows(), rows_per_piece(x.cols()), [&](Index begin, Index end) {
    for (Index n = 0; n < x.cols(); ++n)
      column(sum, 0, begin, end - begin) += column(x.derived(), n, begin, end - begin);
  });
}

}  // namespace ddl
