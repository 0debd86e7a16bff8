// SPDX-License-Identifier: MIT
/// @file  Stores that go past the caches. A plain store first reads the line that it overwrites: for a batch larger
/// than the cache that is half as much traffic again. Eigen's packets have no such store; these are the library's only intrinsics.
#pragma once

#include "ddl/core/scalar.hpp"

namespace ddl::detail {

/// *to = packet. Where it can go past the caches, `to` must be aligned to the packet.
template <class Scalar, class Pack>
EIGEN_STRONG_INLINE void stream(Scalar* to, const Pack& packet) {
  Eigen::internal::pstoreu(to, packet);
}

/// Makes streamed stores visible to other threads before what is stored after.
inline void finish_streams() {
#ifdef EIGEN_VECTORIZE_SSE
  _mm_sfence();
#endif
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

}  // namespace ddl::detail
