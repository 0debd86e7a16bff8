// SPDX-License-Identifier: MIT
/// @file  Pieces of batches of sequences, for tests of inference.
#pragma once

#include "ddl/core/batch.hpp"

namespace ddl::test {

/// The tokens p .. p + count - 1 of every sequence of a batch of sequences of `length` tokens, of `columns`
/// columns each.
template <class X>
Matrix<typename X::Scalar> chunk_of(const X& x, Index columns, Index length, Index p, Index count) {
  const Index sequences = x.cols() / (length * columns);
  Matrix<typename X::Scalar> chunk(x.rows(), sequences * count * columns);
  for (Index s = 0; s < sequences; ++s)
    chunk.middleCols(s * count * columns, count * columns) =
        x.middleCols((s * length + p) * columns, count * columns);
  return chunk;
}

/// The inverse: writes such a chunk to its place in x.
template <class X, class Chunk>
void put_chunk(X& x, Index columns, Index length, Index p, Index count, const Chunk& chunk) {
  const Index sequences = x.cols() / (length * columns);
  for (Index s = 0; s < sequences; ++s)
    x.middleCols((s * length + p) * columns, count * columns) =
        chunk.middleCols(s * count * columns, count * columns);
}

}  // namespace ddl::test
