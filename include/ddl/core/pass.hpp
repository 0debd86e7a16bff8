// SPDX-License-Identifier: MIT
/// @file  One call of forward, backward or infer: who runs it, and how the columns of its batch fall into
/// sequences.
#pragma once

#include <algorithm>
#include <span>
#include <string>

#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"

namespace ddl {

/// A reference to an executor of any type, itself an executor. Serial unless it is given another, which must
/// outlive it.
class ExecutorRef {
 public:
  ExecutorRef() = default;
  /// Refers to `executor`, and is Serial if that is.
  template <Executor E>
  ExecutorRef(const E& executor) {  // implicit, so that a pool can be handed to a pass
    if constexpr (!std::is_same_v<E, Serial>) {
      executor_ = &executor;
      for_each_ = [](const void* self, Index pieces, const Piece& piece) {
        static_cast<const E*>(self)->for_each(pieces, piece);
      };
    }
  }

  /// See Executor.
  template <class F>
  void for_each(Index pieces, F&& f) const {
    using Function = std::remove_reference_t<F>;
    const Piece piece{
        &f, [](const void* self, Index i) { (*static_cast<Function*>(const_cast<void*>(self)))(i); }};
    if (executor_)
      for_each_(executor_, pieces, piece);
    else
      Serial{}.for_each(pieces, piece);
  }

 private:
  struct Piece {
    const void* function;
    void (*call)(const void*, Index);
    void operator()(Index i) const { call(function, i); }
  };

  const void* executor_ = nullptr;
  void (*for_each_)(const void*, Index, const Piece&) = nullptr;
};

/// One sequence of a batch: its number, and its tokens, which are columns begin .. end - 1.
struct TokenRange {
  Index sequence, begin, end;  ///< see above

  Index length() const noexcept { return end - begin; }  ///< the number of tokens
};

/// The layout of a batch, and who runs the call.
///
/// A batch of N columns holds S sequences, one after the other. They have one length, or each its own. Only
/// parts that look along a sequence (attention, the delta rule over time, convolutions over tokens) read the
/// layout. With length 1, the default, the columns are independent samples.
///
///     Pass(pool, 64)          // sequences of 64 tokens; S = N / 64
///     Pass(pool, offsets)     // offsets {0, 5, 7, 16}: sequences of 5, 2 and 9 tokens
class Pass {
 public:
  ExecutorRef executor;  ///< runs the loops of the call
  Index position = 0;    ///< tokens of the longest sequence before this batch; above 0 in `infer` only
  std::span<const Index> behind = {};  ///< by how many tokens each sequence is shorter; by none if empty

  Pass() = default;
  /// Sequences of `length` columns each.
  template <Executor E>
  Pass(const E& executor_, Index length = 1, Index position_ = 0)  // implicit: an executor alone is a pass
      : executor(executor_), position(position_), length_(length) {}
  /// Sequences that begin at the given columns.
  /// @param offsets  the first columns of the S sequences, and N: S + 1 increasing numbers from 0, which must
  /// outlive the
  ///                 pass. They are what other libraries call cu_seqlens.
  /// @throws std::invalid_argument if there are none; sequences() checks the numbers.
  template <Executor E>
  Pass(const E& executor_, std::span<const Index> offsets, Index position_ = 0)
      : executor(executor_), position(position_), offsets_(offsets) {
    if (offsets.empty()) fail("ddl::Pass", "offsets", "empty", "the first columns of the sequences, and N");
  }

  /// The number of sequences in a batch of `columns` tokens.
  /// @throws std::invalid_argument if the sequences do not fill the batch.
  EIGEN_DONT_INLINE Index sequences(const char* where, Index columns) const {
    if (uniform()) {
      if (length_ < 1 || columns % length_ != 0)
        fail(where, "the length of a sequence", std::to_string(length_),
             "a divisor of the batch's " + std::to_string(columns) + " tokens");
      return columns / length_;
    }
    if (offsets_.front() != 0 || offsets_.back() != columns)
      fail(where, "offsets",
           "from " + std::to_string(offsets_.front()) + " to " + std::to_string(offsets_.back()),
           "from 0 to the batch's " + std::to_string(columns) + " tokens");
    for (std::size_t s = 1; s < offsets_.size(); ++s)
      if (offsets_[s] <= offsets_[s - 1])
        fail(where, "offsets", std::to_string(offsets_[s]) + " after " + std::to_string(offsets_[s - 1]),
             "increasing numbers");
    return static_cast<Index>(offsets_.size()) - 1;
  }

  /// The tokens of sequence s that came before this batch.
  Index before(Index s) const noexcept {
    return behind.empty() ? position : position - behind[static_cast<std::size_t>(s)];
  }
  /// The tokens of sequence s.
  TokenRange sequence(Index s) const noexcept {
    if (uniform()) return {s, s * length_, (s + 1) * length_};
    const auto at = static_cast<std::size_t>(s);
    return {s, offsets_[at], offsets_[at + 1]};
  }
  /// The tokens of the sequence to which column n belongs.
  TokenRange sequence_of(Index n) const noexcept {
    if (uniform()) return sequence(n / length_);
    return sequence(std::upper_bound(offsets_.begin(), offsets_.end(), n) - offsets_.begin() - 1);
  }
  /// The tokens of the longest sequence.
  Index longest() const noexcept {
    Index most = uniform() ? length_ : 0;
    for (std::size_t s = 1; s < offsets_.size(); ++s) most = (std::max)(most, offsets_[s] - offsets_[s - 1]);
    return most;
  }
  /// The length of all sequences, for parts that know no other.
  /// @throws std::invalid_argument if each sequence has its own.
  Index length() const {
    if (!uniform()) fail("ddl::Pass", "the batch", "one of sequences of different lengths", "one length");
    return length_;
  }
  /// Empty where all sequences have one length.
  std::span<const Index> offsets() const noexcept { return offsets_; }

 private:
  bool uniform() const noexcept { return offsets_.empty(); }

  Index length_ = 1;  ///< of all sequences, without offsets
  std::span<const Index> offsets_;
};

}  // namespace ddl
