// SPDX-License-Identifier: MIT
/// @file  Counts heap allocations. Include it in one translation unit of a test: it replaces the global operator new,
/// and malloc too where the C library lets it (glibc), as Eigen calls malloc.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace ddl::test {

inline std::atomic<long> allocation_count{0};

/// The number of allocations that f() makes.
template <class F>
long allocations_in(F&& f) {
  const long before = allocation_count.load();
  f();
  return allocation_count.load() - before;
}

}  // namespace ddl::test

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t size) {
  ++ddl::test::allocation_count;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++ddl::test::allocation_count;
  return __libc_calloc(count, size);
}
void* realloc(void* old, std::size_t size) {
  ++ddl::test::allocation_count;
  return __libc_realloc(old, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  ++ddl::test::allocation_count;
  return __libc_memalign(alignment, size);
}
}
#else
void* operator new(std::size_t size) {
  ++ddl::test::allocation_count;
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif
