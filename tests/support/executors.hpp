// SPDX-License-Identifier: MIT
/// @file  Executors that show whether a result depends on the order of its pieces, and what was shared, and
/// what holds for every executor whose pieces throw.
#pragma once

#include <atomic>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "ddl/core/executor.hpp"
#include "support/catch.hpp"

namespace ddl::test {

/// Runs the pieces on the calling thread, the last one first.
struct Backwards {
  template <class F>
  void for_each(Index pieces, F&& f) const {
    std::exception_ptr error;
    for (Index i = pieces; i-- > 0;) try {
        f(i);
      } catch (...) {
        error = std::current_exception();
      }
    if (error) std::rethrow_exception(error);
  }
};

/// Counts the loops that threads could share.
struct Counting {
  int& loops;

  template <class F>
  void for_each(Index pieces, F&& f) const {
    loops += pieces > 1;
    Serial{}.for_each(pieces, f);
  }
};

/// How often each of `pieces` pieces ran.
template <Executor E>
std::vector<int> runs(const E& executor, Index pieces) {
  std::vector<std::atomic<int>> counts(static_cast<std::size_t>(pieces));
  executor.for_each(pieces, [&](Index i) { ++counts[static_cast<std::size_t>(i)]; });
  return {counts.begin(), counts.end()};
}

/// Pieces `first`, first + step, .. throw.
template <Executor E>
void check_exceptions(const E& executor, Index pieces, Index first, Index step) {
  CAPTURE(pieces, first, step);
  struct Running {
    std::atomic<int>& count;
    explicit Running(std::atomic<int>& c) : count(c) { ++count; }
    ~Running() { --count; }
  };
  std::atomic<int> running{0};
  std::vector<std::atomic<int>> counts(static_cast<std::size_t>(pieces));
  std::string caught = "nothing";
  try {
    executor.for_each(pieces, [&](Index i) {
      const Running now(running);
      ++counts[static_cast<std::size_t>(i)];
      std::this_thread::yield();
      if (i >= first && (i - first) % step == 0) throw std::runtime_error(std::to_string(i));
      std::this_thread::yield();
    });
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  CHECK(running == 0);
  CHECK(caught == std::to_string(first));
  bool once = true;
  for (Index i = 0; i < pieces; ++i) {
    const int count = counts[static_cast<std::size_t>(i)];
    once = once && count <= 1 && (count == 1 || i > first);
  }
  CHECK(once);
  CHECK(runs(executor, pieces) == std::vector<int>(static_cast<std::size_t>(pieces), 1));
}

template <Executor E>
void check_exceptions(const E& executor) {
  for (const Index pieces : {1, 2, 3, 40})
    for (const Index first : {Index(0), pieces / 2, pieces - 1})
      for (const Index step : {1, 3, 1000}) check_exceptions(executor, pieces, first, step);
}

}  // namespace ddl::test
