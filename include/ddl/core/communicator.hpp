// SPDX-License-Identifier: MIT
/// @file  Processes that work together, and sums over them in an order that does not depend on the network.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ddl/core/check.hpp"
#include "ddl/core/scalar.hpp"

namespace ddl {

/// A group of processes (ranks) that run the same program. ddl::mpi::Communicator (ddl/mpi/communicator.hpp)
/// is one over MPI; a class of one's own has the three functions below. All functions of this file are
/// collective: every rank calls them, in the same order, with the same sizes.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual Index rank() const noexcept = 0;  ///< of this process, 0 .. size() - 1
  virtual Index size() const noexcept = 0;  ///< the number of ranks

  /// Sends `out` to another rank and receives `in` from it. The other rank calls exchange with this rank's
  /// number at the same time, and with the sizes the other way round.
  virtual void exchange(Index other, std::span<const std::byte> out, std::span<std::byte> in) = 0;
};

namespace detail {
constexpr bool is_power_of_two(Index n) noexcept {
  return std::has_single_bit(static_cast<std::uint64_t>(n));
}
}  // namespace detail

/// Replaces the values on every rank by their sum over the ranks. The sum is taken as in for_each_tree_sum,
/// ((x0 + x1) + (x2 + x3)) + .. , so that it has the same bits on all ranks, and the bits of a sum within one
/// process.
///
/// Recursive halving: each rank exchanges half of its values with a partner and adds the half that it keeps,
/// log2(size) times; then the parts are gathered the same way back. A rank sends and receives less than twice
/// the values in all. (Rabenseifner, Optimization of Collective Reduction Operations, ICCS 2004.)
/// @param buffer  scratch memory, resized to half the values.
/// @throws std::invalid_argument if the number of ranks is not a power of two.
template <class T>
void sum_over_ranks(Communicator& ranks, std::span<T> values, std::vector<T>& buffer) {
  const Index size = ranks.size(), rank = ranks.rank();
  if (!detail::is_power_of_two(size))
    fail("ddl::sum_over_ranks", "the number of ranks", std::to_string(size), "a power of two");
  buffer.resize(values.size() / 2 + 1);
  struct Half {
    std::span<T> kept, sent;
  };
  std::vector<Half> halves;
  std::span<T> own = values;
  for (Index distance = 1; distance < size; distance *= 2) {
    const std::size_t middle = own.size() / 2;
    const bool lower = (rank & distance) == 0;
    const Half half =
        lower ? Half{own.first(middle), own.subspan(middle)} : Half{own.subspan(middle), own.first(middle)};
    const std::span<T> received(buffer.data(), half.kept.size());
    ranks.exchange(rank ^ distance, std::as_bytes(half.sent), std::as_writable_bytes(received));
    for (std::size_t i = 0; i < received.size(); ++i) half.kept[i] += received[i];
    halves.push_back(half);
    own = half.kept;
  }
  for (Index distance = size / 2; distance > 0; distance /= 2) {
    const Half& half = halves.back();
    ranks.exchange(rank ^ distance, std::as_bytes(half.kept), std::as_writable_bytes(half.sent));
    halves.pop_back();
  }
}

/// Gives every rank the values of rank 0.
template <class T>
void broadcast(Communicator& ranks, std::span<T> values) {
  const Index size = ranks.size(), rank = ranks.rank();
  for (Index distance = 1; distance < size; distance *= 2) {
    if (rank < distance && rank + distance < size)
      ranks.exchange(rank + distance, std::as_bytes(values), {});
    else if (rank >= distance && rank < 2 * distance)
      ranks.exchange(rank - distance, {}, std::as_writable_bytes(values));
  }
}

/// The values of all ranks, by rank. @throws as sum_over_ranks does.
inline std::vector<std::uint64_t> gather(Communicator& ranks, std::uint64_t value) {
  std::vector<std::uint64_t> all(static_cast<std::size_t>(ranks.size())), buffer;
  all[static_cast<std::size_t>(ranks.rank())] = value;
  sum_over_ranks(ranks, std::span(all), buffer);
  return all;
}

}  // namespace ddl
