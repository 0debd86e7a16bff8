// SPDX-License-Identifier: MIT
#include "ddl/core/thread_pool.hpp"

#include <thread>
#include <vector>

#include "support/catch.hpp"

using ddl::Index;

namespace {

/// How often each of `pieces` pieces ran.
std::vector<int> runs(const ddl::ThreadPool& pool, Index pieces) {
  std::vector<std::atomic<int>> counts(static_cast<std::size_t>(pieces));
  pool.for_each(pieces, [&](Index i) { ++counts[static_cast<std::size_t>(i)]; });
  return {counts.begin(), counts.end()};
}

}  // namespace

TEST_CASE("a pool runs every piece once", "[core][thread_pool]") {
  const Index threads = GENERATE(1, 2, 3, 8);
  const ddl::ThreadPool pool(threads);
  CHECK(pool.threads() == threads);
  for (const Index pieces : {0, 1, 2, 7, 1000})
    CHECK(runs(pool, pieces) == std::vector<int>(static_cast<std::size_t>(pieces), 1));
}

TEST_CASE("a pool of two uses two threads", "[core][thread_pool]") {
  const ddl::ThreadPool pool(2);
  std::atomic<int> inside{0};
  pool.for_each(2, [&](Index) {
    ++inside;
    while (inside < 2) std::this_thread::yield();  // ends only if both pieces are under way at once
  });
  CHECK(inside == 2);
}

TEST_CASE("several callers may share a pool", "[core][thread_pool]") {
  const ddl::ThreadPool pool(3);
  std::vector<std::vector<int>> counts(4);
  {
    std::vector<std::jthread> callers;
    for (auto& mine : counts) callers.emplace_back([&] { mine = runs(pool, 500); });
  }
  for (const auto& each : counts) CHECK(each == std::vector<int>(500, 1));
}

TEST_CASE("work handed in from within a piece is done", "[core][thread_pool]") {
  const ddl::ThreadPool pool(2);
  std::atomic<int> done{0};
  pool.for_each(8, [&](Index) { pool.for_each(8, [&](Index) { ++done; }); });
  CHECK(done == 64);
}

TEST_CASE("a pool needs a thread", "[core][thread_pool]") {
  const Index threads = GENERATE(0, -1);
  CHECK_THROWS_WITH(ddl::ThreadPool(threads), Catch::Matchers::ContainsSubstring("threads") &&
                                                  Catch::Matchers::ContainsSubstring("at least 1"));
}
