// SPDX-License-Identifier: MIT
/// @file  Ranks that are threads of this process.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "ddl/core/communicator.hpp"

namespace ddl::test {

class ThreadRanks {
 public:
  explicit ThreadRanks(Index size) : size_(size) {}

  /// Calls f(communicator) on every rank and rethrows what the lowest rank that threw has thrown.
  template <class F>
  void run(const F& f) {
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(size_));
    std::vector<std::thread> threads;
    for (Index rank = 0; rank < size_; ++rank)
      threads.emplace_back([&, rank] {
        Rank communicator(*this, rank);
        try {
          f(communicator);
        } catch (...) {
          errors[static_cast<std::size_t>(rank)] = std::current_exception();
        }
      });
    for (std::thread& thread : threads) thread.join();
    for (const auto& error : errors)
      if (error) std::rethrow_exception(error);
  }

 private:
  class Rank final : public Communicator {
   public:
    Rank(ThreadRanks& ranks, Index rank) : ranks_(ranks), rank_(rank) {}
    Index rank() const noexcept override { return rank_; }
    Index size() const noexcept override { return ranks_.size_; }
    void exchange(Index other, std::span<const std::byte> out, std::span<std::byte> in) override {
      ranks_.send(rank_, other, out);
      ranks_.receive(other, rank_, in);
    }

   private:
    ThreadRanks& ranks_;
    Index rank_;
  };

  void send(Index from, Index to, std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    messages_[{from, to}].emplace_back(bytes.begin(), bytes.end());
    arrived_.notify_all();
  }
  void receive(Index from, Index to, std::span<std::byte> bytes) {
    std::unique_lock lock(mutex_);
    auto& queue = messages_[{from, to}];
    arrived_.wait(lock, [&] { return !queue.empty(); });
    if (queue.front().size() != bytes.size())
      std::terminate();  // sizes that do not match would hang or corrupt
    std::copy(queue.front().begin(), queue.front().end(), bytes.begin());
    queue.erase(queue.begin());
  }

  Index size_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<std::pair<Index, Index>, std::vector<std::vector<std::byte>>> messages_;
};

}  // namespace ddl::test
