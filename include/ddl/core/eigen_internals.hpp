// SPDX-License-Identifier: MIT
/// @file  All that the library uses of Eigen's internals, and its only intrinsics: SIMD lanes, stores that go
/// past the caches, the kernel of matrix products, and the extension points of a new expression.
///
/// With DDL_PLAIN_EIGEN defined, lanes are single numbers, which the compiler may vectorise, stores are plain
/// stores, and matrix products are those of Eigen's public interface. Results then differ in the order of
/// sums. The expression's extension points have no substitute: they are those that Eigen documents for new
/// expression types.
#pragma once

#include "ddl/core/scalar.hpp"

namespace ddl::detail {

/// One accumulation scalar at a time. Sweeps over columns are written once, over lanes: packets first, and
/// what is left of a column one by one.
template <class Scalar>
struct SingleLane {
  using Pack = Accum<Scalar>;
  static constexpr Index size = 1;
  static Pack load(const Scalar* from) { return static_cast<Pack>(*from); }
  static void store(Scalar* to, const Pack& pack) { *to = static_cast<Scalar>(pack); }
  static void stream(Scalar* to, const Pack& pack) { store(to, pack); }
  static Pack broadcast(const Accum<Scalar>& value) { return value; }
  static Pack add(const Pack& a, const Pack& b) { return a + b; }
  static Pack add_product(const Pack& c, const Pack& a, const Pack& b) { return c + a * b; }
  static Pack subtract_product(const Pack& c, const Pack& a, const Pack& b) { return c - a * b; }
  static Pack subtract(const Pack& a, const Pack& b) { return a - b; }
  static Pack multiply(const Pack& a, const Pack& b) { return a * b; }
  static Pack divide(const Pack& a, const Pack& b) { return a / b; }
  static Pack minimum(const Pack& a, const Pack& b) { return Eigen::numext::mini(a, b); }
  static Pack maximum(const Pack& a, const Pack& b) { return Eigen::numext::maxi(a, b); }
  static Pack sqrt(const Pack& pack) { return Eigen::numext::sqrt(pack); }
  static Pack exp(const Pack& pack) { return Eigen::numext::exp(pack); }
  static Pack tanh(const Pack& pack) { return Eigen::numext::tanh(pack); }
  /// f of each entry.
  template <class F>
  static Pack map(const Pack& pack, const F& f) {
    return f(pack);
  }
  static Accum<Scalar> sum(const Pack& pack) { return pack; }
};

#ifdef DDL_PLAIN_EIGEN

template <class Scalar>
using WideLane = SingleLane<Scalar>;

inline void prefetch(const void*) {}
inline void finish_streams() {}

#else

/// *to = packet, past the caches where the processor can do so; `to` must then be aligned to the packet. A
/// plain store first reads the line that it overwrites: for a batch larger than the cache that is half as
/// much traffic again.
template <class Scalar, class Pack>
EIGEN_STRONG_INLINE void stream(Scalar* to, const Pack& packet) {
  Eigen::internal::pstoreu(to, packet);
}
#ifdef EIGEN_VECTORIZE_SSE
EIGEN_STRONG_INLINE void stream(float* to, const __m128& packet) { _mm_stream_ps(to, packet); }
EIGEN_STRONG_INLINE void stream(double* to, const __m128d& packet) { _mm_stream_pd(to, packet); }
#endif
#ifdef EIGEN_VECTORIZE_AVX
EIGEN_STRONG_INLINE void stream(float* to, const __m256& packet) { _mm256_stream_ps(to, packet); }
EIGEN_STRONG_INLINE void stream(double* to, const __m256d& packet) { _mm256_stream_pd(to, packet); }
#endif
#ifdef EIGEN_VECTORIZE_AVX512
EIGEN_STRONG_INLINE void stream(float* to, const __m512& packet) { _mm512_stream_ps(to, packet); }
EIGEN_STRONG_INLINE void stream(double* to, const __m512d& packet) { _mm512_stream_pd(to, packet); }
#endif

/// Makes streamed stores visible to other threads before what is stored after.
inline void finish_streams() {
#ifdef EIGEN_VECTORIZE_SSE
  _mm_sfence();
#endif
}

/// Asks for the cache line at an address, which need not be valid.
template <class Scalar>
EIGEN_STRONG_INLINE void prefetch(const Scalar* address) {
  Eigen::internal::prefetch(address);
}

/// Eigen's SIMD packet of the scalar.
template <class Scalar>
struct PacketLane {
  using Pack = typename Eigen::internal::packet_traits<Scalar>::type;
  static constexpr Index size = Eigen::internal::packet_traits<Scalar>::size;
  static EIGEN_STRONG_INLINE Pack load(const Scalar* from) { return Eigen::internal::ploadu<Pack>(from); }
  static EIGEN_STRONG_INLINE void store(Scalar* to, const Pack& pack) { Eigen::internal::pstoreu(to, pack); }
  static EIGEN_STRONG_INLINE void stream(Scalar* to, const Pack& pack) { detail::stream(to, pack); }
  static EIGEN_STRONG_INLINE Pack broadcast(Scalar value) { return Eigen::internal::pset1<Pack>(value); }
  static EIGEN_STRONG_INLINE Pack add(const Pack& a, const Pack& b) { return Eigen::internal::padd(a, b); }
  static EIGEN_STRONG_INLINE Pack add_product(const Pack& c, const Pack& a, const Pack& b) {
    return Eigen::internal::pmadd(a, b, c);
  }
  static EIGEN_STRONG_INLINE Pack subtract_product(const Pack& c, const Pack& a, const Pack& b) {
    return Eigen::internal::psub(c, Eigen::internal::pmul(a, b));
  }
  static EIGEN_STRONG_INLINE Pack subtract(const Pack& a, const Pack& b) {
    return Eigen::internal::psub(a, b);
  }
  static EIGEN_STRONG_INLINE Pack multiply(const Pack& a, const Pack& b) {
    return Eigen::internal::pmul(a, b);
  }
  static EIGEN_STRONG_INLINE Pack divide(const Pack& a, const Pack& b) { return Eigen::internal::pdiv(a, b); }
  static EIGEN_STRONG_INLINE Pack minimum(const Pack& a, const Pack& b) {
    return Eigen::internal::pmin(a, b);
  }
  static EIGEN_STRONG_INLINE Pack maximum(const Pack& a, const Pack& b) {
    return Eigen::internal::pmax(a, b);
  }
  static EIGEN_STRONG_INLINE Pack sqrt(const Pack& pack) {
    if constexpr (bool(Eigen::internal::packet_traits<Scalar>::HasSqrt))
      return Eigen::internal::psqrt(pack);
    else
      return map(pack, SingleLane<Scalar>::sqrt);
  }
  static EIGEN_STRONG_INLINE Pack exp(const Pack& pack) {
    if constexpr (bool(Eigen::internal::packet_traits<Scalar>::HasExp))
      return Eigen::internal::pexp(pack);
    else
      return map(pack, SingleLane<Scalar>::exp);
  }
  static EIGEN_STRONG_INLINE Pack tanh(const Pack& pack) {
    if constexpr (bool(Eigen::internal::packet_traits<Scalar>::HasTanh))
      return Eigen::internal::ptanh(pack);
    else
      return map(pack, SingleLane<Scalar>::tanh);
  }
  template <class F>
  static Pack map(const Pack& pack, const F& f) {
    Scalar entries[static_cast<std::size_t>(size)];
    store(entries, pack);
    for (Scalar& entry : entries) entry = f(entry);
    return load(entries);
  }
  static EIGEN_STRONG_INLINE Scalar sum(const Pack& pack) { return Eigen::internal::predux(pack); }
};

template <class Scalar>
using WideLane = std::conditional_t<std::is_same_v<Accum<Scalar>, Scalar> &&
                                        Eigen::internal::packet_traits<Scalar>::Vectorizable,
                                    PacketLane<Scalar>, SingleLane<Scalar>>;

/// Eigen's kernel of C += A B, which runs along panels into which blocks of A and B are packed first.
template <class Scalar>
struct ProductKernel {
  using Traits = Eigen::internal::gebp_traits<Scalar, Scalar>;
  static constexpr Index rows = Traits::mr, cols = Traits::nr;  ///< of C, which the kernel takes at once

  /// Packs `count` rows of A, each of `depth` entries. The distance of its columns, or of its rows if it is
  /// row-major, is `stride`.
  static void pack_a(Scalar* panel, const Scalar* a, Index stride, bool row_major, Index depth, Index count) {
    row_major ? pack_a_of<Eigen::RowMajor>(panel, a, stride, depth, count)
              : pack_a_of<Eigen::ColMajor>(panel, a, stride, depth, count);
  }
  /// Packs `count` columns of B, each of `depth` entries.
  static void pack_b(Scalar* panel, const Scalar* b, Index stride, bool row_major, Index depth, Index count) {
    row_major ? pack_b_of<Eigen::RowMajor>(panel, b, stride, depth, count)
              : pack_b_of<Eigen::ColMajor>(panel, b, stride, depth, count);
  }
  /// C += A B for a column-major C of m x n.
  static void multiply(Scalar* c, Index stride, const Scalar* a_panel, const Scalar* b_panel, Index m,
                       Index depth, Index n) {
    using Mapper = Eigen::internal::blas_data_mapper<Scalar, Index, Eigen::ColMajor, Eigen::Unaligned, 1>;
    Eigen::internal::gebp_kernel<Scalar, Scalar, Index, Mapper, int(rows), int(cols), false, false>()(
        Mapper(c, stride), a_panel, b_panel, m, depth, n, Scalar(1));
  }

 private:
  template <int Order>
  static void pack_a_of(Scalar* panel, const Scalar* a, Index stride, Index depth, Index count) {
    using Mapper = Eigen::internal::const_blas_data_mapper<Scalar, Index, Order>;
    Eigen::internal::gemm_pack_lhs<Scalar, Index, Mapper, int(rows), Traits::LhsProgress,
                                   typename Traits::LhsPacket4Packing, Order>()(panel, Mapper(a, stride),
                                                                                depth, count);
  }
  template <int Order>
  static void pack_b_of(Scalar* panel, const Scalar* b, Index stride, Index depth, Index count) {
    using Mapper = Eigen::internal::const_blas_data_mapper<Scalar, Index, Order>;
    Eigen::internal::gemm_pack_rhs<Scalar, Index, Mapper, int(cols), Order>()(panel, Mapper(b, stride), depth,
                                                                              count);
  }
};

#endif

/// Calls f.operator()<Lane>(i) along a column of d entries.
template <class Scalar, class F>
EIGEN_STRONG_INLINE void sweep(Index d, F&& f) {
  using Wide = WideLane<Scalar>;
  Index i = 0;
  for (; i + Wide::size <= d; i += Wide::size) f.template operator()<Wide>(i);
  for (; i < d; ++i) f.template operator()<SingleLane<Scalar>>(i);
}

}  // namespace ddl::detail

namespace ddl {
template <class Operator, class Rhs>
class OperatorTimes;  // op/expression.hpp
}  // namespace ddl

// What Eigen needs to know of the expression A * X. As for Eigen::Solve, it is a dense expression that is
// evaluated as a whole.
namespace Eigen::internal {

template <class Operator, class Rhs>
struct traits<ddl::OperatorTimes<Operator, Rhs>>
    : traits<typename plain_matrix_type<std::remove_cvref_t<Rhs>>::type> {
  using Plain = typename plain_matrix_type<std::remove_cvref_t<Rhs>>::type;
  enum { Flags = traits<Plain>::Flags & RowMajorBit };
};

/// The value of an expression, kept where an evaluator of it can be made after it.
template <class Expression>
struct ValueOf {
  typename traits<Expression>::Plain value;
};

template <class Operator, class Rhs>
struct evaluator<ddl::OperatorTimes<Operator, Rhs>>
    : private ValueOf<ddl::OperatorTimes<Operator, Rhs>>,
      public evaluator<typename traits<ddl::OperatorTimes<Operator, Rhs>>::Plain> {
  using Value = ValueOf<ddl::OperatorTimes<Operator, Rhs>>;
  using Base = evaluator<typename traits<ddl::OperatorTimes<Operator, Rhs>>::Plain>;
  enum { Flags = Base::Flags | EvalBeforeNestingBit };
  explicit evaluator(const ddl::OperatorTimes<Operator, Rhs>& product)
      : Value{typename traits<ddl::OperatorTimes<Operator, Rhs>>::Plain(product)}, Base(this->value) {}
};

template <class Operator, class Rhs>
struct evaluator_assume_aliasing<ddl::OperatorTimes<Operator, Rhs>> {
  // Where X's memory is known, the assignment itself looks.
  static constexpr bool value = (int(std::remove_cvref_t<Rhs>::Flags) & DirectAccessBit) == 0;
};

template <class Destination, class Operator, class Rhs, class Scalar>
struct Assignment<Destination, ddl::OperatorTimes<Operator, Rhs>, assign_op<Scalar, Scalar>, Dense2Dense> {
  static void run(Destination& Y, const ddl::OperatorTimes<Operator, Rhs>& product,
                  const assign_op<Scalar, Scalar>&) {
    product.assign_to(Y);
  }
};

}  // namespace Eigen::internal
