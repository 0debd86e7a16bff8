// SPDX-License-Identifier: MIT
/// @file  An executor that shows whether a result depends on the order of its pieces.
#pragma once

#include "ddl/core/executor.hpp"

namespace ddl::test {

/// Runs the pieces on the calling thread, the last one first.
struct Backwards {
  template <class F>
  void for_each(Index pieces, F&& f) const {
    for (Index i = pieces; i-- > 0;) f(i);
  }
};

}  // namespace ddl::test
