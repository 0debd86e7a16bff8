// SPDX-License-Identifier: MIT
/// @file  Programs that run as one process, or as several that mpirun starts.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <stdexcept>

#include <ddl/core/communicator.hpp>
#ifdef DDL_WITH_MPI
#include <ddl/mpi/communicator.hpp>
#endif

namespace program {

/// Whether mpirun, or srun, started this process, by what they put into the environment: Open MPI, MPICH and
/// Intel MPI, PMIx. MPI itself could tell, but takes half a second for a process alone.
inline bool is_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"})
    if (std::getenv(name)) return true;
  return false;
}

/// Calls f(ranks), which returns the exit status: the same on all ranks. `ranks` is null if the process is
/// not one of mpirun's. Only rank 0 prints: the standard output of the others is closed. An exception ends
/// all ranks.
template <class F>
int run_ranks([[maybe_unused]] const char* name, const F& f) {
  if (!is_rank()) return f(nullptr);
#ifdef DDL_WITH_MPI
  return ddl::mpi::run(name, [&](ddl::Communicator& ranks) {
    if (ranks.rank() != 0) {
      if (!std::freopen("/dev/null", "w", stdout)) throw std::runtime_error("cannot open /dev/null");
      std::cerr.setstate(std::ios::failbit);  // what CLI11 says of wrong options; we print by std::fprintf
    }
    return f(&ranks);
  });
#else
  throw std::runtime_error(
      "was started by mpirun, but built without MPI (Debian: libopenmpi-dev openmpi-bin)");
#endif
}

}  // namespace program
