// SPDX-License-Identifier: MIT
#include <cstdio>

#include <ddl/mpi/communicator.hpp>

int main() {
  return ddl::mpi::run("consumer_mpi", [](ddl::Communicator& ranks) {
    std::printf("rank %ld of %ld\n", long(ranks.rank()), long(ranks.size()));
    return 0;
  });
}
