// SPDX-License-Identifier: MIT
// Run by mpirun with 1, 2 and 4 ranks.
#include "ddl/mpi/communicator.hpp"

#include <cstdint>
#include <vector>

#include "ddl/core/random.hpp"
#include "ddl/train/shards.hpp"
#include "support/catch.hpp"

using namespace ddl;
using Catch::Matchers::ContainsSubstring;

namespace {

const mpi::Environment environment;

std::vector<float> values_of(Index rank, std::size_t count) {
  Matrix<float> values(static_cast<Index>(count), 1);
  ddl::Random random(static_cast<std::uint64_t>(rank));
  random.fill_normal(values, 1);
  return std::vector<float>(values.data(), values.data() + count);
}

}  // namespace

TEST_CASE("a sum over MPI ranks has the bits of the tree, in messages of any length", "[mpi]") {
  mpi::Communicator ranks(MPI_COMM_WORLD, GENERATE(1 << 30, 1024, 12, 1));
  const std::size_t count = GENERATE(0u, 1u, 7u, 1000u);
  std::vector<std::vector<float>> tree;
  for (Index rank = 0; rank < ranks.size(); ++rank) tree.push_back(values_of(rank, count));
  for_each_tree_sum(ranks.size(), [&](Index to, Index from) {
    for (std::size_t i = 0; i < count; ++i)
      tree[static_cast<std::size_t>(to)][i] += tree[static_cast<std::size_t>(from)][i];
  });
  auto values = values_of(ranks.rank(), count);
  std::vector<float> buffer;
  sum_over_ranks(ranks, std::span(values), buffer);
  CHECK(values == tree.front());

  values = values_of(ranks.rank(), count);
  broadcast(ranks, std::span(values));
  CHECK(values == values_of(0, count));
}

TEST_CASE("messages are not mixed up with those of the caller", "[mpi]") {
  mpi::Communicator ranks;
  CHECK(ranks.size() > ranks.rank());
  if (ranks.size() == 1) return;  // no partner
  const int other = static_cast<int>(ranks.rank() ^ 1);
  const std::uint64_t foreign = 1, own = 2;
  std::uint64_t got_foreign = 0, got_own = 0;
  MPI_Request request;
  MPI_Isend(&foreign, 8, MPI_BYTE, other, 0, MPI_COMM_WORLD, &request);
  ranks.exchange(other, std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(&got_own, 1)));
  MPI_Recv(&got_foreign, 8, MPI_BYTE, other, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  MPI_Wait(&request, MPI_STATUS_IGNORE);
  CHECK(got_own == 2);
  CHECK(got_foreign == 1);
}

TEST_CASE("what is wrong with a message is an exception on the rank that receives it", "[mpi]") {
  mpi::Communicator ranks;
  CHECK_THROWS_WITH(ranks.exchange(ranks.size(), {}, {}),
                    ContainsSubstring("ddl::mpi::Communicator::exchange: the other rank is " +
                                      std::to_string(ranks.size())));
  CHECK_THROWS_WITH(ranks.exchange(-1, {}, {}), ContainsSubstring("the other rank is -1, expected 0 to "));
  if (ranks.size() == 1) return;  // no partner
  const Index other = ranks.rank() ^ 1;
  const bool even = ranks.rank() % 2 == 0;
  std::vector<std::byte> bytes(8);
  if (even)
    ranks.exchange(other, std::span(bytes).first(5), {});
  else
    CHECK_THROWS_WITH(
        ranks.exchange(other, {}, bytes),
        "ddl::mpi::Communicator::exchange: rank " + std::to_string(other) + " sent 5 bytes, expected 8");
  if (even)
    ranks.exchange(other, bytes, {});
  else
    CHECK_THROWS_WITH(ranks.exchange(other, {}, std::span(bytes).first(5)),
                      ContainsSubstring("MPI_Sendrecv: ") && ContainsSubstring("truncated"));
}

TEST_CASE("a communicator is any group of ranks, and MPI is initialized once", "[mpi]") {
  CHECK_THROWS_WITH(mpi::Communicator(MPI_COMM_NULL),
                    "ddl::mpi::Communicator: comm is MPI_COMM_NULL, expected a communicator of this process");
  CHECK_THROWS_WITH(mpi::Communicator(MPI_COMM_WORLD, 0),
                    "ddl::mpi::Communicator: longest_message is 0, expected at least 1");
  CHECK_THROWS_WITH(
      mpi::Environment(),
      "ddl::mpi::Environment: MPI is initialized already, expected one Environment in a process");
  MPI_Comm half;
  MPI_Comm_split(MPI_COMM_WORLD, mpi::Communicator().rank() % 2 == 0 ? 0 : 1, 0, &half);
  {
    mpi::Communicator ranks(half);
    std::uint64_t sum = 1;
    std::vector<std::uint64_t> buffer;
    sum_over_ranks(ranks, std::span(&sum, 1), buffer);
    CHECK(sum == static_cast<std::uint64_t>(ranks.size()));
  }
  MPI_Comm_free(&half);
}
