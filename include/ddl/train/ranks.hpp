// SPDX-License-Identifier: MIT
/// @file  What fit does so that all ranks make the same run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "ddl/core/bytes.hpp"
#include "ddl/core/communicator.hpp"
#include "ddl/core/parameters.hpp"

namespace ddl::detail {

/// Whether `value` is true on every rank.
inline bool all_true(Communicator& ranks, bool value) {
  const auto all = gather(ranks, value ? 1 : 0);
  return std::find(all.begin(), all.end(), 0) == all.end();
}

/// The lowest rank whose value is not that of rank 0.
inline std::optional<Index> first_other(Communicator& ranks, std::uint64_t value) {
  const auto all = gather(ranks, value);
  const auto other = std::find_if(all.begin(), all.end(), [&](auto x) { return x != all.front(); });
  return other == all.end() ? std::nullopt : std::optional(Index(other - all.begin()));
}

inline std::uint64_t hash_of(std::initializer_list<Index> numbers, std::uint64_t seed = 0) {
  return xxh64(std::as_bytes(std::span(numbers.begin(), numbers.size())), seed);
}

/// Gives every rank the run and the position in the data of rank 0, so that only rank 0 has to read a
/// checkpoint.
/// @param settings  what else has to be the same on all ranks.
/// @throws std::invalid_argument on all ranks if the run, the settings or the data of one do not fit those of
/// rank 0.
template <class Run, class Data>
void begin_together(Communicator& ranks, Run& run, Data& data, std::initializer_list<Index> settings) {
  const auto refuse = [](const char* what, Index rank) {
    throw std::invalid_argument("ddl::fit: " + std::string(what) + " of rank " + std::to_string(rank) +
                                " differ from those of rank 0");
  };
  std::uint64_t form = hash_of(settings);
  for_each_parameter(
      [&](const ParameterPath&, const auto& p) {
        form = hash_of({p.rows(), p.cols()}, form);
      },
      run);
  if (const auto other = first_other(ranks, form)) refuse("the model's sizes or the settings", *other);

  for_each_parameter(
      [&](const ParameterPath&, auto& p) {
        broadcast(ranks, std::span(p.data(), static_cast<std::size_t>(p.size())));
      },
      run);
  const auto broadcast_number = [&](const char*, auto& number) { broadcast(ranks, std::span(&number, 1)); };
  broadcast_number("step", run.step);
  if constexpr (requires { Run::Optimizer::visit_numbers(run.optimizer, broadcast_number); })
    Run::Optimizer::visit_numbers(run.optimizer, broadcast_number);

  if constexpr (requires { data.restore(data.state()); }) {
    std::vector<std::uint64_t> state = data.state();
    if (const auto other = first_other(ranks, state.size())) refuse("the data", *other);
    broadcast(ranks, std::span(state));
    bool fits = true;
    try {
      data.restore(state);
    } catch (const std::invalid_argument&) {
      fits = false;
    }
    if (const auto other = first_other(ranks, fits)) refuse("the data", *other);
  }
}

/// Compares parameters and moments by a hash. @throws std::runtime_error on all ranks, with the lowest rank
/// that has others than rank 0.
template <class Run>
void check_together(Communicator& ranks, const Run& run) {
  std::uint64_t hash = 0;
  for_each_parameter(
      [&](const ParameterPath&, const auto& p) {
        hash = xxh64(std::as_bytes(std::span(p.data(), static_cast<std::size_t>(p.size()))), hash);
      },
      run);
  if (const auto other = first_other(ranks, hash))
    throw std::runtime_error("ddl::fit: after step " + std::to_string(run.step) + " the parameters of rank " +
                             std::to_string(*other) +
                             " differ from those of rank 0, expected the same bits, as from the same program "
                             "on processors of one kind");
}

}  // namespace ddl::detail
