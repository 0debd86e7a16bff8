// SPDX-License-Identifier: MIT
/// @file  Counts heap allocations. Include it in one translation unit of a program: it replaces malloc where
/// the C library lets it (glibc; Eigen calls malloc, and so does operator new), and operator new alone
/// elsewhere.
#pragma once

#include <Eigen/Core>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)  // gcc
#define DDL_TEST_SANITIZED 1
#elif defined(__clang__)
#define DDL_TEST_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define DDL_TEST_SANITIZED 0
#endif

#if defined(__GLIBC__) && !DDL_TEST_SANITIZED
#include <malloc.h>
#define DDL_TEST_REPLACES_MALLOC 1
#else
#define DDL_TEST_REPLACES_MALLOC 0
#endif

namespace ddl::test {

/// Whether bytes_in_use is kept, and Eigen's own allocations are seen.
inline constexpr bool counts_malloc = DDL_TEST_REPLACES_MALLOC;

inline std::atomic<long> allocation_count{0};
inline std::atomic<long> bytes_in_use{0};

/// The number of allocations that f() makes.
template <class F>
long allocations_in(F&& f) {
  const long before = allocation_count.load();
  f();
  return allocation_count.load() - before;
}

}  // namespace ddl::test

#if DDL_TEST_REPLACES_MALLOC
namespace ddl::test {
inline void* counted(void* memory) {
  ++allocation_count;
  if (memory) bytes_in_use += static_cast<long>(malloc_usable_size(memory));
  return memory;
}
inline void forget(void* memory) {
  if (memory) bytes_in_use -= static_cast<long>(malloc_usable_size(memory));
}
}  // namespace ddl::test

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void __libc_free(void*);

void* malloc(std::size_t size) { return ddl::test::counted(__libc_malloc(size)); }
void* calloc(std::size_t count, std::size_t size) { return ddl::test::counted(__libc_calloc(count, size)); }
void* realloc(void* old, std::size_t size) {
  ddl::test::forget(old);
  return ddl::test::counted(__libc_realloc(old, size));
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  return ddl::test::counted(__libc_memalign(alignment, size));
}
void free(void* memory) {
  ddl::test::forget(memory);
  __libc_free(memory);
}
}
#else
// Not inlined: gcc takes a delete that it sees calling free() for a mistake if it does not see the new.
EIGEN_DONT_INLINE void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  ++ddl::test::allocation_count;
  return std::malloc(size > 0 ? size : 1);
}
EIGEN_DONT_INLINE void* operator new(std::size_t size) {
  if (void* memory = operator new(size, std::nothrow)) return memory;
  throw std::bad_alloc();
}
EIGEN_DONT_INLINE void* operator new[](std::size_t size) { return operator new(size); }
EIGEN_DONT_INLINE void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return operator new(size, std::nothrow);
}
EIGEN_DONT_INLINE void operator delete(void* memory) noexcept { std::free(memory); }
EIGEN_DONT_INLINE void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
EIGEN_DONT_INLINE void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
EIGEN_DONT_INLINE void operator delete[](void* memory) noexcept { std::free(memory); }
EIGEN_DONT_INLINE void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
EIGEN_DONT_INLINE void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
#endif
