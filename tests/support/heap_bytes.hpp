// SPDX-License-Identifier: MIT
/// @file  Measures what a piece of code takes from operator new. Include it in one translation unit of a
/// test, which it replaces the global operators in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>

namespace ddl::test {

struct HeapUse {
  std::size_t largest = 0;  ///< single allocation
  std::size_t peak = 0;     ///< bytes in use at once
};
inline HeapUse heap_use;
inline std::size_t heap_bytes = 0;

template <class F>
HeapUse heap_use_of(F&& f) {
  const std::size_t before = heap_bytes;
  heap_use = {0, before};
  f();
  return {heap_use.largest, heap_use.peak - before};
}

/// Before each block stands its size.
inline constexpr std::size_t heap_prefix = alignof(std::max_align_t);

}  // namespace ddl::test

void* operator new(std::size_t size) {
  using namespace ddl::test;
  char* const block = static_cast<char*>(std::malloc(heap_prefix + size));
  if (!block) throw std::bad_alloc();
  std::memcpy(block, &size, sizeof(size));
  heap_bytes += size;
  heap_use.largest = (std::max)(heap_use.largest, size);
  heap_use.peak = (std::max)(heap_use.peak, heap_bytes);
  return block + heap_prefix;
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept {
  using namespace ddl::test;
  if (!memory) return;
  char* const block = static_cast<char*>(memory) - heap_prefix;
  std::size_t size = 0;
  std::memcpy(&size, block, sizeof(size));
  heap_bytes -= size;
  std::free(block);
}
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }
// A sanitizer's own versions of these would not call those above.
void* operator new[](std::size_t size) { return operator new(size); }
void operator delete[](void* memory) noexcept { operator delete(memory); }
void operator delete[](void* memory, std::size_t) noexcept { operator delete(memory); }
