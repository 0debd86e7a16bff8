// SPDX-License-Identifier: MIT
/// @file  The executor with threads. No thread starts unless a program makes one of these.
///
/// Implementation note: this is not Eigen's ThreadPool. That one hangs where the system refuses a thread, its
/// tasks must not throw, and a scheduled task cannot be taken back: the caller of a nested loop has to wait
/// until a busy worker reaches the task. Here a call of for_each is a job on the caller's stack. The caller
/// runs pieces until none is left, workers without work join it, and the caller waits for pieces that are
/// under way and for nothing else.
#pragma once

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"

namespace ddl {
namespace detail {

/// The threads of a pool, the calling thread apart, and the jobs that they share.
class Workers {
 public:
  /// A call of ThreadPool::for_each.
  struct Job {
    void (*call)(const void* f, Index piece);
    const void* f;
    Index pieces;
    std::atomic<Index> next{0};     ///< the piece that begins next
    std::atomic<Index> helpers{0};  ///< workers that run pieces
    Job* older = nullptr;           ///< the next in the list of jobs
    Index failed = pieces;          ///< the lowest piece that threw
    std::exception_ptr error{};     ///< what that piece threw
  };

  Workers() = default;
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      ++posts_;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void start_one() {
    threads_.emplace_back([this] { work(); });
  }
  std::size_t count() const noexcept { return threads_.size(); }

  /// Runs all pieces of the job, on this thread and on idle workers.
  void run(Job& job) {
    Index wanted = job.pieces - 1;
    {
      const std::lock_guard lock(mutex_);
      job.older = newest_;
      newest_ = &job;
      ++posts_;
      wanted = (std::min)(wanted, sleeping_);
    }
    for (; wanted > 0; --wanted) wake_.notify_one();
    run_pieces(job);
    {
      std::unique_lock lock(mutex_);
      open_job();  // all pieces are taken, so this job leaves the list and no worker joins it any more
      if (job.helpers > 0) {
        lock.unlock();
        spin_until([&] { return job.helpers == 0; });
        lock.lock();
        finished_.wait(lock, [&] { return job.helpers == 0; });
      }
    }
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (Job* job = open_job()) {
        ++job->helpers;
        lock.unlock();
        run_pieces(*job);
        lock.lock();
        if (--job->helpers == 0) finished_.notify_all();  // the job may be gone from here on
      } else if (stopped_) {
        return;
      } else {
        const unsigned seen = posts_;
        const auto posted = [&] { return posts_ != seen; };
        lock.unlock();
        spin_until(posted);
        lock.lock();
        ++sleeping_;
        wake_.wait(lock, posted);
        --sleeping_;
      }
    }
  }

  /// Takes pieces in ascending order until none is left or one throws. So a piece that throws comes after all
  /// lower ones have begun, and the lowest that throws does not depend on the threads.
  void run_pieces(Job& job) {
    for (Index i = job.next++; i < job.pieces; i = job.next++) {
      try {
        job.call(job.f, i);
      } catch (...) {
        job.next = job.pieces;
        const std::lock_guard lock(mutex_);
        if (i < job.failed) {
          job.failed = i;
          job.error = std::current_exception();
        }
      }
    }
  }

  /// Drops the jobs whose pieces are all taken. Returns the job with the fewest helpers of those left, or
  /// null. The caller holds the mutex.
  Job* open_job() {
    Job* open = nullptr;
    for (Job** at = &newest_; Job* job = *at;) {
      if (job->next >= job->pieces) {
        *at = job->older;
      } else {
        if (!open || job->helpers < open->helpers) open = job;
        at = &job->older;
      }
    }
    return open;
  }

  /// Waits some tens of microseconds at most, which is less than it takes to sleep and to be woken. A
  /// training step hands out its next pieces, and ends its last ones, within that time.
  template <class Condition>
  static void spin_until(const Condition& condition) {
    for (int i = 0; i < 50 && !condition(); ++i) std::this_thread::yield();
  }

  std::mutex mutex_;  ///< guards all members but threads_, and what is not atomic in the jobs
  std::condition_variable wake_, finished_;
  Job* newest_ = nullptr;
  Index sleeping_ = 0;
  bool stopped_ = false;
  std::atomic<unsigned> posts_{0};  ///< changes when a job comes and when the pool ends
  std::vector<std::thread> threads_;
};

}  // namespace detail

/// Runs pieces on `threads` threads, of which the calling thread is one. Any number of threads may call
/// for_each at once. A piece may call for_each of this or of another pool: the calling thread runs that loop
/// at once, and threads without work help it. In a forked child, which has none of the pool's threads, the
/// calling thread runs all pieces.
class ThreadPool {
 public:
  static constexpr Index max_threads = 4096;  ///< the most threads of a pool

  /// Starts threads - 1 threads.
  /// @throws std::invalid_argument if threads is not in 1 .. max_threads
  /// @throws std::runtime_error if the system refuses a thread; those that were started have ended by then.
  explicit ThreadPool(Index threads) : threads_(threads) {
    if (threads < 1 || threads > max_threads)
      fail("ddl::ThreadPool", "threads", std::to_string(threads),
           "at least 1 and at most " + std::to_string(max_threads));
    try {
      while (static_cast<Index>(workers_->count()) < threads - 1) workers_->start_one();
    } catch (const std::exception& refusal) {
      const auto started = workers_->count();
      workers_.reset();  // before the message, which may need their memory
      throw std::runtime_error("ddl::ThreadPool: threads is " + std::to_string(threads) +
                               " (the caller's and " + std::to_string(threads - 1) +
                               " more), but the system started only " + std::to_string(started) +
                               " more: " + refusal.what());
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    if (forked()) static_cast<void>(workers_.release());  // there is no thread to join
  }

  Index threads() const noexcept { return threads_; }  ///< the calling thread included

  /// See Executor. The calling thread takes part.
  template <class F>
  void for_each(Index pieces, F&& f) const {
    if (pieces < 2 || threads_ < 2 || forked()) return Serial{}.for_each(pieces, f);
    const auto call = [&f](Index piece) { f(piece); };
    detail::Workers::Job job{[](const void* g, Index piece) { (*static_cast<decltype(&call)>(g))(piece); },
                             &call, pieces};
    workers_->run(job);
  }

 private:
#if __has_include(<unistd.h>)
  static long this_process() noexcept { return ::getpid(); }
#else
  static long this_process() noexcept { return 0; }
#endif
  bool forked() const noexcept { return this_process() != process_; }

  Index threads_;
  long process_ = this_process();
  std::unique_ptr<detail::Workers> workers_ = std::make_unique<detail::Workers>();
};

}  // namespace ddl
