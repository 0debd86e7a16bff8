// SPDX-License-Identifier: MIT
/// @file  One call of forward, backward or infer: who runs it, and how the columns of its batch fall into sequences.
#pragma once

#include <string>

#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"

namespace ddl {

/// A reference to an executor of any type, itself an executor. Serial unless it is given another, which must outlive it.
class ExecutorRef {
 public:
  ExecutorRef() = default;
  template <Executor E>
  ExecutorRef(const E& executor) {  // implicit, so that a pool can be handed to a pass
    if constexpr (!std::is_same_v<E, Serial>) {
      executor_ = &executor;
      for_each_ = [](const void* self, Index pieces, const Piece& piece) {
        static_cast<const E*>(self)->for_each(pieces, piece);
      };
    }
  }

  template <class F>
  void for_each(Index pieces, F&& f) const {
    using Function = std::remove_reference_t<F>;
    const Piece piece{&f, [](const void* self, Index i) { (*static_cast<Function*>(const_cast<void*>(self)))(i); }};
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

/// The layout of a batch, and who runs the call.
///
/// S sequences of T tokens are a batch of N = S T columns: token t of sequence s is column s T + t. Only parts that
/// look along a sequence (attention, convolutions over tokens) read the layout. With length 1, the default, the columns
/// are independent samples. Shorter sequences are padded at their end: no part looks ahead, so that their own tokens do
/// not see the padding.
struct Pass {
  ExecutorRef executor;
  Index length = 1;    ///< T, tokens of each sequence in this batch
  Index position = 0;  ///< tokens of each sequence that came before this batch; above 0 in `infer` only

  Pass() = default;
  template <Executor E>
  Pass(const E& executor_, Index length_ = 1, Index position_ = 0)  // implicit: an executor alone is a pass
      : executor(executor_), length(length_), position(position_) {}

  /// The number of sequences in a batch of `columns` tokens.
  /// @throws std::invalid_argument if the sequences do not fill the batch.
  Index sequences(const char* where, Index columns) const {
    if (length < 1 || columns % length != 0)
      fail(where, "the length of a sequence", std::to_string(length),
           "a divisor of the batch's " + std::to_string(columns) + " tokens");
    return columns / length;
  }
};

}  // namespace ddl
