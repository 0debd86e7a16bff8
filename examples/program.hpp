// SPDX-License-Identifier: MIT
/// @file  What the programs share: errors, standard streams and signals, each handled in one place.
#pragma once

#ifndef _WIN32
#include <fcntl.h>
#endif

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <system_error>

namespace program {

namespace detail {

inline volatile std::sig_atomic_t caught_signal = 0;

/// The next signal of the kind ends the program.
inline void note_signal(int number) {
  caught_signal = number;
  std::signal(number, SIG_DFL);
}

/// Opens what is closed of the standard streams, in the mode that they are not used in: the first file that
/// is opened does not take a stream's place, and printing fails as it should.
inline void open_standard_streams() {
#ifndef _WIN32
  for (int stream = 0; stream < 3; ++stream)
    if (::fcntl(stream, F_GETFD) < 0 && ::open("/dev/null", stream == 0 ? O_WRONLY : O_RDONLY) < 0) return;
#endif
}

}  // namespace detail

/// While one of these lives, SIGINT and SIGTERM are noted, and a closed pipe is an error of writing. As an
/// observer, it ends the run after the step in which a signal came. A second signal ends the program at once.
class StopOnSignal {
 public:
  StopOnSignal() {
    for (const int number : {SIGINT, SIGTERM})
      if (std::signal(number, detail::note_signal) == SIG_IGN) std::signal(number, SIG_IGN);
#ifdef SIGPIPE
    std::signal(SIGPIPE, SIG_IGN);
#endif
  }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

  /// Whether a signal came.
  bool caught() const { return detail::caught_signal != 0; }

  template <class Context>
  bool operator()(const Context&) const {
    return !caught();
  }
};

/// main() of a program: calls body(), which returns the exit status.
///
/// Exceptions are printed, and the status is 1. It is 1, too, if standard output could not be written. If
/// StopOnSignal caught a signal, the program ends by that signal once body() has returned.
template <class Body>
int run(const char* name, const Body& body) {
  detail::open_standard_streams();
  int status = 1;
  try {
    status = body();
    errno = 0;
    if (std::fflush(stdout) != 0 || std::ferror(stdout))
      throw std::runtime_error("cannot write to standard output: " +
                               (errno != 0 ? std::generic_category().message(errno) : "an earlier error"));
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: there is not enough memory\n", name);
    status = 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    status = 1;
  }
  if (const int number = detail::caught_signal; number != 0) {
    std::signal(number, SIG_DFL);
    std::raise(number);
  }
  return status;
}

}  // namespace program
