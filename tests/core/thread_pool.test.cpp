// SPDX-License-Identifier: MIT
#include "ddl/core/thread_pool.hpp"

#include <chrono>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#endif

#include "support/catch.hpp"
#include "support/executors.hpp"

using Catch::Matchers::ContainsSubstring;
using ddl::Index;
using ddl::ThreadPool;
using ddl::test::runs;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)  // gcc
#define DDL_TEST_SANITIZED 1
#elif defined(__has_feature)
#define DDL_TEST_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define DDL_TEST_SANITIZED 0
#endif

namespace {

/// Waits for the condition; false if it does not come true within 20 seconds.
template <class Condition>
bool comes_true(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  return condition();
}

/// Runs one piece on each thread of the pool, all at once: g on the calling thread and f on the others.
template <class F, class G>
void on_workers_and_caller(const ThreadPool& pool, const F& f, const G& g) {
  const auto caller = std::this_thread::get_id();
  std::atomic<Index> inside{0};
  pool.for_each(pool.threads(), [&](Index) {
    ++inside;
    if (!comes_true([&] { return inside == pool.threads(); })) throw std::logic_error("a thread is missing");
    if (std::this_thread::get_id() == caller)
      g();
    else
      f();
  });
}

/// Time enough for threads without work to fall asleep.
void let_sleep() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }

}  // namespace

TEST_CASE("a pool runs every piece once", "[core][thread_pool]") {
  const Index threads = GENERATE(1, 2, 3, 8);
  const ThreadPool pool(threads);
  CHECK(pool.threads() == threads);
  for (const Index pieces : {0, 1, 2, 7, 1000})
    CHECK(runs(pool, pieces) == std::vector<int>(static_cast<std::size_t>(pieces), 1));
}

TEST_CASE("a pool uses all of its threads, asleep or not", "[core][thread_pool]") {
  const ThreadPool pool(3);
  std::atomic<int> others{0}, own{0};
  const auto count_other = [&] { ++others; };
  const auto count_own = [&] { ++own; };
  on_workers_and_caller(pool, count_other, count_own);
  on_workers_and_caller(pool, count_other, count_own);
  let_sleep();
  on_workers_and_caller(pool, count_other, count_own);
  CHECK(others == 6);
  CHECK(own == 3);
}

TEST_CASE("a pool takes any function object and a function", "[core][thread_pool]") {
  STATIC_REQUIRE(ddl::Executor<ThreadPool>);
  static std::atomic<int> calls{0};
  struct Once {
    void operator()(Index) & { ++calls; }
  } once;
  const ThreadPool pool(2);
  pool.for_each(5, once);
  pool.for_each(5, Once());
  void (&function)(Index) = *[](Index) { ++calls; };
  pool.for_each(5, function);
  CHECK(calls == 15);
}

TEST_CASE("several callers may share a pool", "[core][thread_pool]") {
  const ThreadPool pool(3);
  std::vector<std::vector<int>> counts(4);
  std::vector<std::thread> callers;
  for (auto& mine : counts) callers.emplace_back([&] { mine = runs(pool, 500); });
  for (std::thread& caller : callers) caller.join();
  for (const auto& each : counts) CHECK(each == std::vector<int>(500, 1));
}

TEST_CASE("loops within loops run every piece once", "[core][thread_pool]") {
  const ThreadPool pool(3);
  std::atomic<int> done{0};
  for (int repeat = 0; repeat < 20; ++repeat)
    pool.for_each(5,
                  [&](Index) { pool.for_each(4, [&](Index) { pool.for_each(3, [&](Index) { ++done; }); }); });
  CHECK(done == 20 * 5 * 4 * 3);
}

TEST_CASE("a nested loop does not wait for threads that are busy", "[core][thread_pool]") {
  const ThreadPool pool(2);
  std::atomic<bool> looped{false};
  bool in_time = false;
  const auto loop = [&] {
    pool.for_each(16, [](Index) {});
    looped = true;
  };
  const auto wait = [&] { in_time = comes_true([&] { return looped.load(); }); };
  SECTION("on the calling thread") {
    on_workers_and_caller(pool, wait, loop);
    CHECK(in_time);
  }
  SECTION("on a worker") {
    on_workers_and_caller(pool, loop, wait);
    CHECK(in_time);
  }
}

TEST_CASE("threads without work help a nested loop", "[core][thread_pool]") {
  const ThreadPool pool(3);
  std::atomic<bool> begun{false};
  const auto loop = [&] {  // on one thread; its two pieces wait for each other
    if (begun.exchange(true)) return;
    let_sleep();
    std::atomic<int> inside{0};
    pool.for_each(2, [&](Index) {
      ++inside;
      if (!comes_true([&] { return inside == 2; })) throw std::logic_error("no thread helps");
    });
  };
  const auto nothing = [] {};
  SECTION("on the calling thread") { CHECK_NOTHROW(on_workers_and_caller(pool, nothing, loop)); }
  SECTION("on a worker") { CHECK_NOTHROW(on_workers_and_caller(pool, loop, nothing)); }
}

TEST_CASE("pools whose pieces call each other end", "[core][thread_pool]") {
  const ThreadPool one(2), other(3);
  std::atomic<int> done{0};
  const auto ping_pong = [&](const ThreadPool& a, const ThreadPool& b) {
    for (int repeat = 0; repeat < 50; ++repeat)
      a.for_each(4, [&](Index) { b.for_each(4, [&](Index) { a.for_each(4, [&](Index) { ++done; }); }); });
  };
  std::thread there([&] { ping_pong(one, other); });
  ping_pong(other, one);
  there.join();
  CHECK(done == 2 * 50 * 64);
}

TEST_CASE("a pool throws what the lowest piece that throws threw", "[core][thread_pool]") {
  const Index threads = GENERATE(1, 2, 3, 8);
  const ThreadPool pool(threads);
  for (int repeat = 0; repeat < 5; ++repeat) ddl::test::check_exceptions(pool);
}

TEST_CASE("a loop ends with an exception only after the pieces of other threads", "[core][thread_pool]") {
  const ThreadPool pool(2);
  std::atomic<bool> ended{false};
  const auto fails = [] { throw std::runtime_error("mine"); };
  const auto goes_on = [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ended = true;
  };
  SECTION("thrown on the calling thread") {
    CHECK_THROWS_WITH(on_workers_and_caller(pool, goes_on, fails), "mine");
  }
  SECTION("thrown on a worker") { CHECK_THROWS_WITH(on_workers_and_caller(pool, fails, goes_on), "mine"); }
  CHECK(ended);
  CHECK(runs(pool, 100) == std::vector<int>(100, 1));
}

TEST_CASE("no piece begins after one threw", "[core][thread_pool]") {
  const ThreadPool pool(2);
  std::atomic<bool> throws{false};
  std::atomic<int> begun{0};
  CHECK_THROWS_WITH(pool.for_each(1000,
                                  [&](Index i) {
                                    ++begun;
                                    if (i == 0) {
                                      throws = true;
                                      throw std::runtime_error("the first");
                                    }
                                    comes_true([&] { return throws.load(); });
                                    std::this_thread::sleep_for(std::chrono::milliseconds(1));
                                  }),
                    "the first");
  CHECK(begun < 1000);
}

TEST_CASE("an exception of a nested loop reaches the outermost caller", "[core][thread_pool]") {
  const ThreadPool pool(3), other(2);
  const auto nested = [&] {
    pool.for_each(4, [&](Index i) {
      other.for_each(4, [&](Index j) {
        if (i >= 1 && j >= 2) throw std::runtime_error(std::to_string(i) + ", " + std::to_string(j));
      });
    });
  };
  for (int repeat = 0; repeat < 50; ++repeat) CHECK_THROWS_WITH(nested(), "1, 2");
}

TEST_CASE("a thousand pools come and go, with and without work and exceptions", "[core][thread_pool]") {
  int thrown = 0;
  for (Index i = 0; i < 1000; ++i) {
    const ThreadPool pool(1 + i % 5);
    if (i % 3 == 1) pool.for_each(4, [](Index) {});
    if (i % 3 == 2) try {
        pool.for_each(4, [](Index piece) {
          if (piece > 0) throw 1;
        });
      } catch (int) {
        ++thrown;
      }
  }
  CHECK(thrown == 333);
}

TEST_CASE("a pool needs a number of threads that makes sense", "[core][thread_pool]") {
  const Index threads = GENERATE(Index(0), Index(-1), Index(4097), (std::numeric_limits<Index>::max)());
  CHECK_THROWS_WITH(ThreadPool(threads), ContainsSubstring("threads is " + std::to_string(threads)) &&
                                             ContainsSubstring("at least 1 and at most 4096"));
  CHECK_THROWS_AS(ThreadPool(threads), std::invalid_argument);
}

#ifdef __linux__

#if !DDL_TEST_SANITIZED  // a sanitizer needs the address space
TEST_CASE("a pool that the system refuses a thread throws and leaves none behind", "[core][thread_pool]") {
  const auto threads = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
  };
  const auto before = threads();
  rlimit saved{};
  REQUIRE(getrlimit(RLIMIT_AS, &saved) == 0);
  rlimit tight = saved;
  tight.rlim_cur = 500'000'000;
  std::string message = "nothing";
  REQUIRE(setrlimit(RLIMIT_AS, &tight) == 0);
  try {
    const ThreadPool pool(4000);
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  REQUIRE(setrlimit(RLIMIT_AS, &saved) == 0);
  CHECK_THAT(message, ContainsSubstring("threads is 4000 (the caller's and 3999 more)") &&
                          ContainsSubstring("the system started only "));
  CHECK(
      comes_true([&] { return threads() == before; }));  // the kernel removes a joined thread a little later
}
#endif

TEST_CASE("a forked child runs the pieces itself and ends the pool", "[core][thread_pool]") {
  auto pool = std::make_unique<ThreadPool>(3);
  CHECK(runs(*pool, 100) == std::vector<int>(100, 1));
  let_sleep();
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(20);  // ends a child that hangs
    const bool right = runs(*pool, 100) == std::vector<int>(100, 1);
    pool.reset();
    _exit(right ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(runs(*pool, 100) == std::vector<int>(100, 1));
}

#endif
