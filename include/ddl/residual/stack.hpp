// SPDX-License-Identifier: MIT
/// @file  The pass over a stack of blocks, and what it keeps between forward and backward.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "ddl/residual/block.hpp"

namespace ddl {

/// What a cache keeps of every layer between the forward and the backward pass, in scalars per sample:
///
///     training           the state (d m), the edit (d + 2 m + 2) and the parts' activations
///     recompute          the state and the edit; activations are computed again
///     rewind             the edit and the activations; states are taken back from the last, X = Y - beta k r^T
///     rewind_recompute   the edit
///     inference          nothing: one layer's worth serves every block in turn, and there is no way back
///
/// Gradients are the same in all four that have them, but for rounding.
enum class Memory { training, recompute, rewind, rewind_recompute, inference };

constexpr bool stores_states(Memory memory) noexcept {
  return memory == Memory::training || memory == Memory::recompute;
}
constexpr bool stores_activations(Memory memory) noexcept {
  return memory == Memory::training || memory == Memory::rewind;
}

/// What the passes over a stack write, sized by the first of them: layer l has its own entry of a vector, or all
/// layers share the first.
template <class Block, int Tokens = Dynamic>
struct StackCache {
  using States = typename Block::template States<Tokens>;

  Memory memory = Memory::training;
  std::vector<States> states;  ///< the input first, then what each layer made of it
  std::vector<typename Block::template Edits<Tokens>> edits;
  std::vector<typename Block::template Activations<Tokens>> activations;
  States state_gradient;
  typename Block::template Workspace<Tokens> workspace;

  /// Takes as many entries as passes over `depth` blocks need.
  void hold(std::size_t depth, Memory memory_) {
    memory = memory_;
    const Counts counts = counts_of(depth);
    states.resize(counts.states);
    edits.resize(counts.edits);
    activations.resize(counts.activations);
  }

  /// @throws std::invalid_argument if the cache is not for `depth` blocks.
  void check(const char* where, std::size_t depth) const {
    const Counts counts = counts_of(depth);
    if (states.size() != counts.states || edits.size() != counts.edits ||
        activations.size() != counts.activations)
      fail(where, "the cache",
           "for a net of " + std::to_string(edits.size()) + " blocks, or another memory mode",
           "one from make_cache of this net of " + std::to_string(depth));
  }
  /// @throws std::invalid_argument if there is no way back either.
  void check_training(const char* where, std::size_t depth) const {
    if (memory == Memory::inference) fail(where, "the cache", "made for inference", "one made for training");
    check(where, depth);
  }

  /// Layer l's entry, or the one that all layers share.
  template <class T>
  static T& kept(std::vector<T>& entries, std::size_t l) {
    return entries[entries.size() > l ? l : 0];
  }

 private:
  struct Counts {
    std::size_t states, edits, activations;
  };
  Counts counts_of(std::size_t depth) const {
    const std::size_t one = (std::min)(depth, std::size_t{1});
    return {stores_states(memory) ? depth + 1 : 1, memory == Memory::inference ? one : depth,
            stores_activations(memory) ? depth : one};
  }
};

/// The compressor that block l reads by: its own, or that of the nearest block before it that has one.
template <class Blocks>
auto& compressor_of(Blocks& blocks, std::size_t l) {
  for (; !blocks[l].compressor; --l)
    if (l == 0) fail("ddl::compressor_of", "the first block's compressor", "absent", "its own");
  return *blocks[l].compressor;
}

/// cache.states.back() = block_n( .. block_1(cache.states.front()))
template <class Block, int Tokens, Executor E = Serial>
void stack_forward(const std::vector<Block>& blocks, StackCache<Block, Tokens>& cache,
                   const E& executor = {}) {
  for (std::size_t l = 0; l < blocks.size(); ++l)
    blocks[l].forward(compressor_of(blocks, l), cache.kept(cache.states, l), cache.kept(cache.states, l + 1),
                      cache.kept(cache.edits, l), cache.kept(cache.activations, l), executor);
}

/// cache.state_gradient holds the gradient of the last state on entry and that of the first on return; the
/// gradients of all parameters are added to `gradient`.
template <class Block, int Tokens, Executor E = Serial>
void stack_backward(const std::vector<Block>& blocks, StackCache<Block, Tokens>& cache,
                    std::vector<Block>& gradient, const E& executor = {}) {
  auto& dX = cache.state_gradient;
  for (std::size_t l = blocks.size(); l-- > 0;) {
    const Block& block = blocks[l];
    const auto& compressor = compressor_of(blocks, l);
    auto& X = cache.kept(cache.states, l);
    auto& edit = cache.edits[l];
    auto& activations = cache.kept(cache.activations, l);
    if (stores_states(cache.memory))
      rewrite_backward(block.rewrite, X, edit, dX, cache.workspace.edit, executor);
    else
      rewrite_backward_rewind(block.rewrite, X, edit, dX, cache.workspace.edit, executor);
    if (!stores_activations(cache.memory)) block.run_parts(compressor, X, edit, activations, executor);
    block.backward_parts(compressor, X, edit, activations, dX, compressor_of(gradient, l), gradient[l],
                         cache.workspace, executor);
  }
}

}  // namespace ddl
