// SPDX-License-Identifier: MIT
/// @file  The executor with threads, on Eigen's own thread pool. No thread starts unless somebody makes one
/// of these.
#pragma once

#if __has_include(<Eigen/ThreadPool>)
#include <Eigen/ThreadPool>
#else
#include <unsupported/Eigen/CXX11/ThreadPool>
#endif

#include <atomic>
#include <memory>

#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"

namespace ddl {

/// Runs pieces on `threads` threads, of which the calling thread is one. Any number of threads may hand it work at
/// once, and a piece may hand it work in turn: a worker runs that work itself.
class ThreadPool {
 public:
  /// @throws std::invalid_argument if threads is below 1.
  explicit ThreadPool(Index threads) : threads_(threads) {
    check_positive("ddl::ThreadPool", "threads", threads);
    if (threads > 1) workers_ = std::make_unique<Eigen::ThreadPool>(static_cast<int>(threads - 1));
  }

  Index threads() const noexcept { return threads_; }

  template <class F>
  void for_each(Index pieces, F&& f) const {
    const Index helpers = (std::min)(threads_, pieces) - 1;
    if (helpers < 1 || workers_->CurrentThreadId() >= 0) return Serial{}.for_each(pieces, f);
    struct Work {
      std::remove_reference_t<F>& f;
      const Index pieces;
      std::atomic<Index> next{0};
      Eigen::Barrier finished;
      void run() {
        for (Index i = next.fetch_add(1); i < pieces; i = next.fetch_add(1)) f(i);
      }
    } work{f, pieces, {}, Eigen::Barrier(static_cast<unsigned>(helpers))};
    for (Index i = 0; i < helpers; ++i)
      workers_->Schedule([&work] {  // one pointer: std::function needs no heap for it
        work.run();
        work.finished.Notify();
      });
    work.run();
    work.finished.Wait();
  }

 private:
  Index threads_;
  std::unique_ptr<Eigen::ThreadPool> workers_;
};

}  // namespace ddl
