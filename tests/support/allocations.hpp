// SPDX-License-Identifier: MIT
/// @file  Counts heap allocations and their bytes. Include it in one translation unit of a program: it
/// replaces malloc where the C library lets it (glibc; Eigen calls malloc, and so does operator new), and
/// operator new alone elsewhere.
#pragma once

#include <Eigen/Core>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#ifdef __APPLE__
#include <malloc/malloc.h>
#define malloc_usable_size malloc_size
#else
#include <malloc.h>
#ifdef _WIN32
inline std::size_t malloc_usable_size(void* memory) { return memory ? ::_msize(memory) : 0; }
#endif
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)  // gcc
#define DDL_TEST_SANITIZED 1
#elif defined(__clang__)
#define DDL_TEST_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define DDL_TEST_SANITIZED 0
#endif

#ifndef DDL_TEST_REPLACES_MALLOC  // a static link takes -DDDL_TEST_REPLACES_MALLOC=0: it has a malloc already
#if defined(__GLIBC__) && !DDL_TEST_SANITIZED
#define DDL_TEST_REPLACES_MALLOC 1
#else
#define DDL_TEST_REPLACES_MALLOC 0
#endif
#endif

namespace ddl::test {

/// Whether Eigen's own allocations are seen.
inline constexpr bool counts_malloc = DDL_TEST_REPLACES_MALLOC;

inline std::atomic<long> allocation_count{0};
inline std::atomic<long> bytes_in_use{0}, peak_of_bytes{0}, largest_allocation{0};

/// The number of allocations that f() makes.
template <class F>
long allocations_in(F&& f) {
  const long before = allocation_count.load();
  f();
  return allocation_count.load() - before;
}

struct HeapUse {
  std::size_t largest;  ///< single allocation
  std::size_t peak;     ///< bytes in use at once
};

/// What f() takes, in bytes; on one thread.
template <class F>
HeapUse heap_use_of(F&& f) {
  const long before = bytes_in_use;
  largest_allocation = 0;
  peak_of_bytes = before;
  f();
  return {static_cast<std::size_t>(largest_allocation), static_cast<std::size_t>(peak_of_bytes - before)};
}

inline void* counted(void* memory) {
  const auto size = static_cast<long>(malloc_usable_size(memory));
  ++allocation_count;
  bytes_in_use += size;
  if (size > largest_allocation) largest_allocation = size;
  if (bytes_in_use > peak_of_bytes) peak_of_bytes = bytes_in_use.load();
  return memory;
}
inline void* forgotten(void* memory) {
  bytes_in_use -= static_cast<long>(malloc_usable_size(memory));
  return memory;
}

}  // namespace ddl::test

#if DDL_TEST_REPLACES_MALLOC
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void __libc_free(void*);

void* malloc(std::size_t size) { return ddl::test::counted(__libc_malloc(size)); }
void* calloc(std::size_t count, std::size_t size) { return ddl::test::counted(__libc_calloc(count, size)); }
void* realloc(void* old, std::size_t size) {
  return ddl::test::counted(__libc_realloc(ddl::test::forgotten(old), size));
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  return ddl::test::counted(__libc_memalign(alignment, size));
}
void free(void* memory) { __libc_free(ddl::test::forgotten(memory)); }
}
#else
// All of them, as a sanitizer's own would not call these. Not inlined: gcc takes a delete that it sees
// calling free() for a mistake if it does not see the new.
EIGEN_DONT_INLINE void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return ddl::test::counted(std::malloc(size > 0 ? size : 1));
}
EIGEN_DONT_INLINE void* operator new(std::size_t size) {
  if (void* memory = operator new(size, std::nothrow)) return memory;
  throw std::bad_alloc();
}
EIGEN_DONT_INLINE void* operator new[](std::size_t size) { return operator new(size); }
EIGEN_DONT_INLINE void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return operator new(size, std::nothrow);
}
EIGEN_DONT_INLINE void operator delete(void* memory) noexcept { std::free(ddl::test::forgotten(memory)); }
EIGEN_DONT_INLINE void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }
EIGEN_DONT_INLINE void operator delete(void* memory, const std::nothrow_t&) noexcept {
  operator delete(memory);
}
EIGEN_DONT_INLINE void operator delete[](void* memory) noexcept { operator delete(memory); }
EIGEN_DONT_INLINE void operator delete[](void* memory, std::size_t) noexcept { operator delete(memory); }
EIGEN_DONT_INLINE void operator delete[](void* memory, const std::nothrow_t&) noexcept {
  operator delete(memory);
}
#endif
