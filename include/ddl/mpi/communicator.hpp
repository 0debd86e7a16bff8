// SPDX-License-Identifier: MIT
/// @file  Ranks over MPI: start and end of MPI, and a Communicator. CMake target ddl::mpi; not part of
/// ddl.hpp.
///
///     int main() {
///       return ddl::mpi::run("my_program", [](ddl::mpi::Communicator& ranks) {
///         ...
///         ddl::fit(run, data, {.steps = 1000, .ranks = &ranks});
///         return 0;
///       });
///     }
///
///     mpirun -n 4 my_program
#pragma once

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>

#include "ddl/core/check.hpp"
#include "ddl/core/communicator.hpp"

namespace ddl::mpi {

/// A function of MPI failed.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

/// @throws Error, with the name of the function and MPI's text, if the code is not MPI_SUCCESS.
inline void check(const char* function, int code) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
  throw Error(
      std::string(function) + ": " +
      (length > 0 ? std::string(text, static_cast<std::size_t>(length)) : "error " + std::to_string(code)));
}

inline bool is_initialized() {
  int flag = 0;
  check("MPI_Initialized", MPI_Initialized(&flag));
  return flag != 0;
}
inline bool is_finalized() {
  int flag = 0;
  check("MPI_Finalized", MPI_Finalized(&flag));
  return flag != 0;
}

/// fit calls MPI from the thread that called it; the other threads of a pool do not.
inline void check_thread_level(const char* where, int level) {
  if (level < MPI_THREAD_FUNNELED)
    throw Error(std::string(where) +
                ": MPI was initialized for a single thread, expected at least MPI_THREAD_FUNNELED");
}

}  // namespace detail

/// Initializes MPI, and finalizes it at the end of the scope. If an exception leaves the scope, all ranks are
/// ended (MPI_Abort), since MPI_Finalize would wait for ranks that wait for this one. Make one, in main.
class Environment {
 public:
  /// Calls MPI_Init_thread.
  /// @throws std::invalid_argument if MPI is initialized already, Error if it does not support threads.
  Environment() {
    if (detail::is_initialized())
      fail("ddl::mpi::Environment", "MPI", "initialized already", "one Environment in a process");
    int level = 0;
    detail::check("MPI_Init_thread", MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level));
    detail::check_thread_level("MPI_Init_thread", level);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() {
    if (std::uncaught_exceptions() > exceptions_)
      MPI_Abort(MPI_COMM_WORLD, 1);
    else
      MPI_Finalize();
  }

 private:
  int exceptions_ = std::uncaught_exceptions();
};

/// The ranks of an MPI communicator. Messages are sent on a duplicate of it, so that they are not mixed up
/// with others.
class Communicator final : public ddl::Communicator {
 public:
  /// Collective. MPI is initialized with MPI_THREAD_FUNNELED at least, by an Environment or by the caller,
  /// and is not finalized before this object is destroyed. One thread at a time may use this object: the one
  /// that initialized MPI, or any with MPI_THREAD_SERIALIZED.
  /// @param longest_message  bytes; longer messages are sent in parts, since MPI counts with int.
  /// @throws std::invalid_argument if MPI is not initialized or `comm` has no single group of ranks, Error if
  /// MPI was initialized for a single thread.
  explicit Communicator(MPI_Comm comm = MPI_COMM_WORLD, int longest_message = 1 << 30)
      : longest_(static_cast<std::size_t>((std::max)(longest_message, 1))) {
    constexpr const char* where = "ddl::mpi::Communicator";
    check_positive(where, "longest_message", longest_message);
    if (!detail::is_initialized() || detail::is_finalized())
      fail(where, "MPI", detail::is_initialized() ? "finalized" : "not initialized",
           "a ddl::mpi::Environment that outlives the communicator");
    int level = 0, is_inter = 0;
    detail::check("MPI_Query_thread", MPI_Query_thread(&level));
    detail::check_thread_level(where, level);
    if (comm == MPI_COMM_NULL) fail(where, "comm", "MPI_COMM_NULL", "a communicator of this process");
    detail::check("MPI_Comm_test_inter", MPI_Comm_test_inter(comm, &is_inter));
    if (is_inter) fail(where, "comm", "an intercommunicator", "an intracommunicator");
    detail::check("MPI_Comm_dup", MPI_Comm_dup(comm, &comm_));
    // From here on, errors are returned and become exceptions.
    detail::check("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
    detail::check("MPI_Comm_rank", MPI_Comm_rank(comm_, &rank_));
    detail::check("MPI_Comm_size", MPI_Comm_size(comm_, &size_));
  }
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  ~Communicator() override {
    // MPI_Comm_free is collective; where an exception passes, the other ranks may not be here.
    if (std::uncaught_exceptions() == exceptions_ && !detail::is_finalized()) MPI_Comm_free(&comm_);
  }

  Index rank() const noexcept override { return rank_; }
  Index size() const noexcept override { return size_; }

  /// Sends and receives by MPI_Sendrecv.
  /// @throws std::invalid_argument if there is no such rank, Error if MPI fails or a message has another size
  /// than `in`.
  void exchange(Index other, std::span<const std::byte> out, std::span<std::byte> in) override {
    constexpr const char* where = "ddl::mpi::Communicator::exchange";
    if (other < 0 || other >= size_)
      fail(where, "the other rank", std::to_string(other), "0 to " + std::to_string(size_ - 1));
    do {
      const auto out_part = out.first((std::min)(out.size(), longest_));
      const auto in_part = in.first((std::min)(in.size(), longest_));
      exchange_part(where, static_cast<int>(other), out_part, in_part);
      out = out.subspan(out_part.size());
      in = in.subspan(in_part.size());
    } while (!out.empty() || !in.empty());
  }

 private:
  void exchange_part(const char* where, int other, std::span<const std::byte> out, std::span<std::byte> in) {
    constexpr int tag = 0;
    MPI_Status status;
    detail::check("MPI_Sendrecv",
                  MPI_Sendrecv(out.data(), static_cast<int>(out.size()), MPI_BYTE, other, tag, in.data(),
                               static_cast<int>(in.size()), MPI_BYTE, other, tag, comm_, &status));
    int received = 0;
    detail::check("MPI_Get_count", MPI_Get_count(&status, MPI_BYTE, &received));
    if (received != static_cast<int>(in.size()))
      throw Error(std::string(where) + ": rank " + std::to_string(other) + " sent " +
                  std::to_string(received) + " bytes, expected " + std::to_string(in.size()));
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::size_t longest_;
  int exceptions_ = std::uncaught_exceptions();
};

/// Calls f(communicator), of all ranks, between the start and the end of MPI. If f throws on any rank, all
/// ranks are ended and standard error has at least one line, "my_program: rank 2 of 4: " and the exception's
/// text.
/// @param program  its name, for the message.
/// @return what f returns, an exit status. It must be the same on all ranks.
/// @throws std::invalid_argument, Error if MPI cannot be initialized.
template <class F>
int run(const std::string& program, const F& f) {
  const Environment environment;
  Communicator ranks;
  std::string message = "an exception of unknown type";
  try {
    return f(ranks);
  } catch (const std::exception& error) {
    message = error.what();
  } catch (...) {
  }
  // An error that all ranks have in common is told by rank 0. MPI ends the others by SIGTERM meanwhile.
  if (ranks.rank() != 0) {
    std::signal(SIGTERM, SIG_DFL);
    std::this_thread::sleep_for(std::chrono::seconds(2));
  }
  std::fflush(stdout);
  std::fprintf(stderr, "%s: rank %ld of %ld: %s\n", program.c_str(), long(ranks.rank()), long(ranks.size()),
               message.c_str());
  std::fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, 1);
  return 1;
}

}  // namespace ddl::mpi
