// SPDX-License-Identifier: MIT
/// @file  What the benchmarks share: the environment they print, threads, data, and timing side by side.
///
/// An absolute time of a shared machine means little, so every figure is a ratio taken within one run: ours
/// and what it is compared with run in turns, in short bursts, and the best burst of each counts.
#pragma once

#include <benchmark/benchmark.h>
#if __has_include(<dlfcn.h>)
#include <dlfcn.h>
#endif
#if __has_include(<malloc.h>)
#include <malloc.h>
#endif

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ddl/core/executor.hpp>
#include <ddl/core/random.hpp>
#include <ddl/core/thread_pool.hpp>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace bench {

using ddl::Index;

// --- the environment
// ----------------------------------------------------------------------------------------------

inline std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#elif defined(_MSC_VER)
  return "msvc " + std::to_string(_MSC_VER);
#else
  return "unknown";
#endif
}

inline std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown";
}

inline std::string simd() {
  std::string sets = Eigen::SimdInstructionSetsInUse();
#ifdef EIGEN_VECTORIZE_AVX2
  sets += ", AVX2";
#endif
#ifdef EIGEN_VECTORIZE_FMA
  sets += ", FMA";
#endif
  return sets;
}

inline Index hardware_threads() { return (std::max)(1u, std::thread::hardware_concurrency()); }

/// What the figures depend on, by name.
inline std::vector<std::pair<std::string, std::string>> environment() {
#ifdef EIGEN_USE_BLAS
  const char* blas = "yes";
#else
  const char* blas = "no";
#endif
  return {{"compiler", compiler()},
          {"flags", DDL_BUILD_FLAGS},
          {"simd", simd()},
          {"eigen", std::to_string(EIGEN_WORLD_VERSION) + '.' + std::to_string(EIGEN_MAJOR_VERSION) + '.' +
                        std::to_string(EIGEN_MINOR_VERSION)},
          {"blas", blas},
          {"processor", processor()},
          {"hardware_threads", std::to_string(hardware_threads())}};
}

/// OpenBLAS has threads of its own, which libtorch wants and a thread pool does not. With another BLAS
/// nothing happens.
inline void set_blas_threads([[maybe_unused]] Index threads) {
#if __has_include(<dlfcn.h>)
  static const auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"));
  if (set) set(static_cast<int>(threads));
#endif
}

/// A row for each benchmark: name, time, rates, and its other counters, which are times of what it is
/// compared with over its own, or shares.
class TableReporter : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override {
    std::printf("\n%s:", Context::executable_name);
    for (const auto& [name, value] : environment()) std::printf(" %s %s;", name.c_str(), value.c_str());
    std::printf("\n%-58s %10s  %-27s %s\n", "benchmark", "time", "rate",
                "times of others over ours, and shares");
    return true;
  }

  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type == Run::RT_Aggregate) continue;
      const auto& [function, args] = std::tie(run.run_name.function_name, run.run_name.args);
      const double seconds = run.GetAdjustedRealTime() / benchmark::GetTimeUnitMultiplier(run.time_unit);
      std::string rates, others;
      for (const auto& [name, counter] : run.counters) {
        if (name.ends_with("_median")) continue;
        const bool is_time = counter.flags & benchmark::Counter::kInvert;
        if (name.find("per_") != std::string::npos)
          rates += name + ' ' + with_prefix(counter.value, is_time ? "s" : "") + ' ';
        else
          others += name + ' ' + with_prefix(counter.value, "") + "  ";
      }
      std::printf("%-58s %10s  %-27s %s\n", (function + (args.empty() ? "" : "/") + args).c_str(),
                  with_prefix(seconds, "s").c_str(), rates.c_str(), others.c_str());
      std::fflush(stdout);
    }
  }

 private:
  /// Three digits and a decimal prefix, as 1.54 ms; plain below 1000 without a unit.
  static std::string with_prefix(double value, const std::string& unit) {
    static constexpr std::array<const char*, 7> prefixes{"n", "u", "m", "", "k", "M", "G"};
    std::size_t i = 3;
    for (; value >= 999.5 && i + 1 < prefixes.size(); ++i) value /= 1000;
    for (; !unit.empty() && value > 0 && value < 0.9995 && i > 0; --i) value *= 1000;
    char digits[32];
    std::snprintf(digits, sizeof(digits), "%.3g", value);
    const std::string suffix = prefixes[i] + unit;
    return suffix.empty() ? digits : digits + (' ' + suffix);
  }
};

/// The main function of every benchmark. Those whose arguments are worked out at run time register themselves
/// in `prepare`. With --table as first argument, the results are a table without Google Benchmark's columns.
inline int run(
    int argc, char** argv, const std::function<void()>& prepare = [] {}) {
  const bool as_table = argc > 1 && std::strcmp(argv[1], "--table") == 0;
  if (as_table) std::rotate(argv, argv + 1, argv + 2), ++argv, --argc;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  for (const auto& [name, value] : environment()) benchmark::AddCustomContext(name, value);
  set_blas_threads(1);  // the pool's threads call it side by side
  prepare();
  TableReporter table;
  benchmark::RunSpecifiedBenchmarks(as_table ? &table : nullptr);
  benchmark::Shutdown();
  return 0;
}

// --- threads and data
// ---------------------------------------------------------------------------------------------

/// The numbers of threads that are measured: one, and all.
inline std::vector<Index> thread_counts() {
  if (hardware_threads() == 1) return {1};
  return {1, hardware_threads()};
}

/// 1, 2, 4 .. up to all.
inline std::vector<Index> powers_of_two_threads() {
  std::vector<Index> counts;
  for (Index threads = 1; threads <= hardware_threads(); threads *= 2) counts.push_back(threads);
  return counts;
}

/// Calls f(executor) with an executor of that many threads.
template <class F>
void with_threads(Index threads, F&& f) {
  if (threads == 1) return f(ddl::Serial{});
  const ddl::ThreadPool pool(threads);
  f(pool);
}

template <class Scalar>
ddl::Matrix<Scalar> random_matrix(Index rows, Index cols, std::uint64_t seed) {
  ddl::Random random(seed);
  ddl::Matrix<Scalar> x(rows, cols);
  random.fill_normal(x, 1);
  return x;
}

/// N, d, m: larger than a cache, and the last two within.
inline std::vector<std::vector<Index>> delta_update_shapes() {
  return {{4096, 768, 4}, {4096, 768, 1}, {4096, 256, 4}, {64, 64, 16}, {256, 64, 1}};
}

/// Copies `bytes / 2` bytes by std::memcpy, one share a thread: `bytes` of traffic, half read and half
/// written.
class Copy {
 public:
  explicit Copy(double bytes)
      : from_(static_cast<std::size_t>(bytes / 2), char(1)), to_(from_.size(), char(2)) {}

  /// A share in calls of at most `piece` bytes. The C library copies long runs in another way than short ones
  /// (past the cache, or by the processor's string instructions), and which is faster differs.
  template <ddl::Executor E>
  void run(std::size_t piece, Index threads, const E& executor) {
    const std::size_t share = (from_.size() + std::size_t(threads) - 1) / std::size_t(threads);
    executor.for_each(threads, [&](Index i) {
      const std::size_t end = (std::min)(from_.size(), std::size_t(i + 1) * share);
      for (std::size_t at = std::size_t(i) * share; at < end; at += piece)
        std::memcpy(to_.data() + at, from_.data() + at, (std::min)(piece, end - at));
    });
  }

 private:
  std::vector<char> from_, to_;
};

/// What the heap holds, in bytes; 0 where the C library does not say.
inline double heap_bytes() {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
  const auto info = mallinfo2();
  return double(info.uordblks + info.hblkhd);
#else
  return 0;
#endif
}

// --- timing
// -------------------------------------------------------------------------------------------------------

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The value that `share` of the values lie below.
inline double quantile(std::vector<double> values, double share) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(share * double(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

/// The seconds that each of `calls` calls of f takes, after a warm-up.
template <class F>
std::vector<double> seconds_of_each(Index calls, const F& f) {
  for (Index i = 0; i < calls / 10; ++i) f();
  std::vector<double> seconds(static_cast<std::size_t>(calls));
  for (double& s : seconds) {
    const auto start = Clock::now();
    f();
    benchmark::ClobberMemory();
    s = seconds_since(start);
  }
  return seconds;
}

/// How long a contestant runs untimed before each burst, for the other's threads to fall asleep where they
/// linger.
inline double warm_up_seconds = 0;

/// Something to time, in bursts that each last a millisecond or more.
class Contestant {
 public:
  /// `name` is that of the counter for its time over ours; ours needs none.
  template <class F>
  Contestant(std::string name, F f)
      : name_(std::move(name)), calls_([f](Index count) mutable {
          if (count > 1) f();  // brings back into the cache what the other contestant has thrown out
          for (const auto begin = Clock::now(); seconds_since(begin) < warm_up_seconds;) f();
          const auto start = Clock::now();
          for (Index i = 0; i < count; ++i) {
            f();
            benchmark::ClobberMemory();
          }
          return seconds_since(start);
        }) {
    while (calls_(count_) < 1e-3) count_ *= 2;
  }

  void run_burst() { seconds_.push_back(calls_(count_) / double(count_)); }

  const std::string& name() const { return name_; }
  const std::vector<double>& seconds() const { return seconds_; }  ///< per call, of each burst
  double best() const { return *std::min_element(seconds_.begin(), seconds_.end()); }

 private:
  std::string name_;
  std::function<double(Index)> calls_;
  Index count_ = 1;
  std::vector<double> seconds_;
};

/// Times ours and the baselines in turns. The benchmark's time is that of our best burst, per call; the
/// counters are each baseline's best over ours, and the median over all turns of their ratio.
template <class Ours>
void paired(benchmark::State& state, const Ours& ours_, std::vector<Contestant> baselines) {
  Contestant ours("", ours_);
  for (auto _ : state) {
    state.PauseTiming();  // the clock below counts, and no processor time is reported
    const auto start = Clock::now();
    for (int turn = 0; turn < 7 || (turn < 1000 && seconds_since(start) < 0.25); ++turn) {
      ours.run_burst();
      for (auto& baseline : baselines) baseline.run_burst();
    }
    state.SetIterationTime(ours.best());
    state.ResumeTiming();
  }
  for (const auto& baseline : baselines) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < ours.seconds().size(); ++i)
      ratios.push_back(baseline.seconds()[i] / ours.seconds()[i]);
    state.counters[baseline.name()] = baseline.best() / ours.best();
    state.counters[baseline.name() + "_median"] = quantile(ratios, 0.5);
  }
}

/// Sets `counter` to the smaller of two others: what the faster of two baselines gives.
inline void take_faster(benchmark::State& state, const char* counter, const char* a, const char* b) {
  state.counters[counter] = (std::min)(double(state.counters[a]), double(state.counters[b]));
}

/// Registers a benchmark that calls `paired` or sets its own time.
template <class F>
benchmark::internal::Benchmark* add(const std::string& name, const F& f) {
  return benchmark::RegisterBenchmark(name.c_str(), f)
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

}  // namespace bench
