// SPDX-License-Identifier: MIT
/// @file  Matrix products over an executor: Eigen's kernels (or BLAS), on tiles whose bounds depend on the
/// shapes alone.
#pragma once

#include <algorithm>
#include <type_traits>

#include "ddl/core/batch.hpp"
#include "ddl/core/executor.hpp"

namespace ddl {
namespace detail {

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
        stride(int(Derived::RowsAtCompileTime) == 1 && Derived::IsRowMajor ? x.innerStride()
                                                                           : x.outerStride()),
        row_major(Derived::IsRowMajor && int(Derived::RowsAtCompileTime) != 1) {
    static_assert(bool(Derived::Flags & Eigen::DirectAccessBit),
                  "ddl: a product takes matrices, maps and blocks");
    eigen_assert(x.rows() == 1 || x.innerStride() == 1);
  }
  Scalar* at(Index i, Index j) const { return data + (row_major ? i * stride + j : i + j * stride); }
};

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

#ifdef EIGEN_USE_BLAS

/// Where tiles would be too few to share among threads, they are cut to halves, and not further: BLAS packs
/// its operands anew for every tile.
template <int OrderA, int OrderB, class Scalar, Executor E>
void multiply_tiles(const View<const Scalar>& a, const View<const Scalar>& b, const View<Scalar>& c,
                    Start start, const Scalar* bias, const E& executor) {
  namespace internal = Eigen::internal;
  constexpr Index enough = 16;
  Index height = 256, width = 256;
  if (pieces_of(c.rows, height) * pieces_of(c.cols, width) < enough) width /= 2;
  if (pieces_of(c.rows, height) * pieces_of(c.cols, width) < enough) height /= 2;
  const Index down = pieces_of(c.rows, height), across = pieces_of(c.cols, width);
  executor.for_each(down * across, [&](Index tile) {
    const Index i = tile % down * height, j = tile / down * width;
    const Index m = (std::min)(height, c.rows - i), n = (std::min)(width, c.cols - j);
    begin_tile(c, i, j, m, n, start, bias);
    internal::gemm_blocking_space<Eigen::ColMajor, Scalar, Scalar, Dynamic, Dynamic, Dynamic> blocking(
        m, n, a.cols, 1, true);
    internal::general_matrix_matrix_product<Index, Scalar, OrderA, false, Scalar, OrderB, false,
                                            Eigen::ColMajor, 1>::run(m, n, a.cols, a.at(i, 0), a.stride,
                                                                     b.at(0, j), b.stride, c.at(i, j), 1,
                                                                     c.stride, Scalar(1), blocking, nullptr);
  });
}

#else

/// Room for the packed operands of a product. A thread keeps it from one product to the next, so that a training
/// step allocates nothing; a product that begins on the same thread while this one waits for others has its own.
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

/// Eigen's kernel runs along panels into which both operands are packed first. Eigen's own product packs for
/// itself alone; here all threads share the panels, so that tiles may be small without being packed each anew.
template <int OrderA, int OrderB, class Scalar, Executor E>
void multiply_tiles(const View<const Scalar>& a, const View<const Scalar>& b, const View<Scalar>& c,
                    Start start, const Scalar* bias, const E& executor) {
  namespace internal = Eigen::internal;
  using Traits = internal::gebp_traits<Scalar, Scalar>;
  using FromA = internal::const_blas_data_mapper<Scalar, Index, OrderA>;
  using FromB = internal::const_blas_data_mapper<Scalar, Index, OrderB>;
  using ToC = internal::blas_data_mapper<Scalar, Index, Eigen::ColMajor, Eigen::Unaligned, 1>;
  using PackA = internal::gemm_pack_lhs<Scalar, Index, FromA, Traits::mr, Traits::LhsProgress,
                                        typename Traits::LhsPacket4Packing, OrderA>;
  using PackB = internal::gemm_pack_rhs<Scalar, Index, FromB, Traits::nr, OrderB>;
  using Kernel = internal::gebp_kernel<Scalar, Scalar, Index, ToC, Traits::mr, Traits::nr, false, false>;
  constexpr Index mr = Traits::mr, nr = Traits::nr;  // rows and columns that the kernel takes at once
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
        const Index rows = (std::min)(most_rows, c.rows - i0), down = pieces_of(rows, height);
        const Index cols = (std::min)(most_cols, c.cols - j0), across = pieces_of(cols, width);
        const Index depth = (std::min)(most_depth, a.cols - k0);
        Scalar *packed_a = panels.room(panels.a, rows * depth),
               *packed_b = panels.room(panels.b, cols * depth);
        const auto for_runs = [&](const auto& f) {
          for (Index k = 0; k < depth; k += run) f(k, (std::min)(run, depth - k));
        };
        executor.for_each(down + across, [&](Index piece) {
          const Index i = piece * height, j = (piece - down) * width;
          for_runs([&](Index k, Index length) {
            if (piece < down)
              PackA()(packed_a + k * rows + i * length, FromA(a.at(i0 + i, k0 + k), a.stride), length,
                      (std::min)(height, rows - i));
            else
              PackB()(packed_b + k * cols + j * length, FromB(b.at(k0 + k, j0 + j), b.stride), length,
                      (std::min)(width, cols - j));
          });
        });
        executor.for_each(down * across, [&](Index tile) {
          const Index i = tile % down * height, j = tile / down * width;
          const Index m = (std::min)(height, rows - i), n = (std::min)(width, cols - j);
          if (k0 == 0) begin_tile(c, i0 + i, j0 + j, m, n, start, bias);
          for_runs([&](Index k, Index length) {
            Kernel()(ToC(c.at(i0 + i, j0 + j), c.stride), packed_a + k * rows + i * length,
                     packed_b + k * cols + j * length, m, length, n, Scalar(1));
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
template <class Scalar, Executor E>
void multiply(const View<const Scalar>& a, const View<const Scalar>& b, const View<Scalar>& c, Start start,
              const Scalar* bias, const E& executor) {
  eigen_assert(a.rows == c.rows && b.cols == c.cols && b.rows == a.cols && !c.row_major);
  constexpr Index worth_sharing = 1 << 18;  // multiplications: some microseconds, what waking a thread takes
  constexpr Index piece = 256;
  if constexpr (!std::is_same_v<E, Serial>)
    if (c.rows * c.cols * a.cols < worth_sharing) return multiply(a, b, c, start, bias, Serial{});
  if (c.cols == 1 && !b.row_major) {
    for_ranges(executor, c.rows, piece, [&](Index begin, Index end) {
      View<const Scalar> part = a;
      part.data = a.at(begin, 0);
      part.rows = end - begin;
      begin_tile(c, begin, 0, part.rows, 1, start, bias);
      add_times_vector(part, b.data, c.at(begin, 0));
    });
  } else if (c.rows == 1 && c.stride == 1 && a.stride == 1) {
    for_ranges(executor, c.cols, piece, [&](Index begin, Index end) {
      View<const Scalar> part = b;  // (a B)^T = B^T a^T
      part.data = b.at(0, begin);
      part.rows = end - begin;
      part.cols = b.rows;
      part.row_major = !b.row_major;
      begin_tile(c, 0, begin, 1, part.rows, start, bias);
      add_times_vector(part, a.data, c.at(0, begin));
    });
  } else if (a.row_major) {
    eigen_assert(!b.row_major);
    multiply_tiles<Eigen::RowMajor, Eigen::ColMajor>(a, b, c, start, bias, executor);
  } else if (b.row_major) {
    multiply_tiles<Eigen::ColMajor, Eigen::RowMajor>(a, b, c, start, bias, executor);
  } else {
    multiply_tiles<Eigen::ColMajor, Eigen::ColMajor>(a, b, c, start, bias, executor);
  }
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
