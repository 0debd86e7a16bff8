// SPDX-License-Identifier: MIT
/// @file  How the tokens of a batch fall into sequences.
///
/// B sequences of T tokens are a batch of N = B T columns: token t of sequence b is column b T + t. Only what
/// looks along a sequence needs T, which is the member `length` of its cache, set before the pass; 0 means
/// that the whole batch is one sequence. A shorter sequence is padded at its end: nothing looks ahead, so that
/// its own tokens do not see the padding.
#pragma once

#include <algorithm>

#include "ddl/core/check.hpp"

namespace ddl {

/// The number of tokens in each sequence of a batch of `tokens`; at least 1.
/// @throws std::invalid_argument if the sequences do not fill the batch.
inline Index sequence_length(const char* where, Index length, Index tokens) {
  if (length == 0) return (std::max)(Index(1), tokens);
  if (length < 0 || tokens % length != 0)
    fail(where, "the length of a sequence", std::to_string(length),
         "a divisor of the batch's " + std::to_string(tokens) + " tokens, or 0 for one sequence");
  return length;
}

}  // namespace ddl
