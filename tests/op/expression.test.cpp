// SPDX-License-Identifier: MIT
#include "ddl/op/expression.hpp"

#include <utility>

#include "support/catch.hpp"

using ddl::Dynamic;
using ddl::Index;
using ddl::Matrix;
using ddl::detail::Overlap;

namespace {

using Stride = Eigen::Stride<Dynamic, Dynamic>;
using Columns = Eigen::Map<Matrix<double>, Eigen::Unaligned, Stride>;
using Rows = Eigen::Map<Eigen::Matrix<double, Dynamic, Dynamic, Eigen::RowMajor>, Eigen::Unaligned, Stride>;

/// Forty numbers in which matrices lie.
struct Numbers {
  double at[40] = {};

  /// A matrix whose entry (i, j) is number first + i down + j right.
  Columns matrix(Index first, Index rows, Index cols, Index down, Index right) {
    return {at + first, rows, cols, Stride(right, down)};
  }
  template <class M>
  std::pair<Index, Index> memory(M x) const {
    const auto [first, end] = ddl::detail::memory_of(x);
    const auto number = [&](std::uintptr_t address) {
      const auto distance = address - reinterpret_cast<std::uintptr_t>(at);
      CHECK(distance % sizeof(double) == 0);
      return static_cast<Index>(distance / sizeof(double));
    };
    return {number(first), number(end)};
  }
};

Overlap overlap(Columns x, Columns y) {
  const Overlap there = ddl::detail::overlap_of(x, y), back = ddl::detail::overlap_of(y, x);
  CHECK(there == back);
  return there;
}

}  // namespace

TEST_CASE("the memory of a matrix ends after the last of its entries, whatever its strides",
          "[op][expression]") {
  using Range = std::pair<Index, Index>;
  Numbers numbers;
  CHECK(numbers.memory(numbers.matrix(0, 3, 4, 1, 3)) == Range(0, 12));
  CHECK(numbers.memory(numbers.matrix(2, 3, 4, 1, 5)) == Range(2, 20));
  CHECK(numbers.memory(numbers.matrix(0, 3, 4, 2, 7)) == Range(0, 26));
  CHECK(numbers.memory(numbers.matrix(10, 3, 4, -1, 5)) == Range(8, 26));
  CHECK(numbers.memory(numbers.matrix(20, 3, 4, 1, -5)) == Range(5, 23));
  CHECK(numbers.memory(numbers.matrix(30, 3, 4, -1, -5)) == Range(13, 31));
  CHECK(numbers.memory(numbers.matrix(4, 1, 1, 7, 9)) == Range(4, 5));
  CHECK(numbers.memory(Rows(numbers.at + 1, 3, 4, Stride(6, 1))) == Range(1, 17));
}

TEST_CASE("matrices overlap if one begins before the other ends", "[op][expression]") {
  Numbers numbers;
  const auto x = numbers.matrix(6, 3, 2, 1, 3);  // numbers 6 .. 11
  CHECK(overlap(x, numbers.matrix(0, 3, 2, 1, 3)) == Overlap::none);
  CHECK(overlap(x, numbers.matrix(12, 3, 2, 1, 3)) == Overlap::none);
  CHECK(overlap(x, numbers.matrix(1, 3, 2, 1, 3)) == Overlap::other);
  CHECK(overlap(x, numbers.matrix(11, 3, 2, 1, 3)) == Overlap::other);
  CHECK(overlap(x, numbers.matrix(8, 1, 1, 1, 1)) == Overlap::other);
  CHECK(overlap(x, numbers.matrix(20, 3, 2, 1, -9)) == Overlap::other);   // 20 .. 22 and 11 .. 13
  CHECK(overlap(x, numbers.matrix(21, 3, 2, 1, -9)) == Overlap::none);    // 21 .. 23 and 12 .. 14
  CHECK(overlap(x, numbers.matrix(15, 3, 2, 1, -12)) == Overlap::other);  // 15 .. 17 and 3 .. 5, around x
  CHECK(overlap(numbers.matrix(6, 0, 2, 1, 3), numbers.matrix(6, 0, 2, 1, 3)) == Overlap::none);
  CHECK(overlap(x, numbers.matrix(7, 3, 0, 1, 3)) == Overlap::none);
}

TEST_CASE("matrices are the same if every entry is at the same place", "[op][expression]") {
  Numbers numbers;
  const auto x = numbers.matrix(4, 3, 2, 1, 5);
  CHECK(overlap(x, x) == Overlap::same);
  CHECK(overlap(x, numbers.matrix(5, 3, 2, 1, 5)) == Overlap::other);
  CHECK(overlap(x, numbers.matrix(4, 3, 2, 1, 4)) == Overlap::other);
  CHECK(overlap(x, numbers.matrix(4, 3, 2, 2, 5)) == Overlap::other);
  CHECK(overlap(x, numbers.matrix(4, 2, 2, 1, 5)) == Overlap::other);
  CHECK(overlap(x, numbers.matrix(4, 3, 3, 1, 5)) == Overlap::other);
  // Of a single row or column, the other stride does not matter.
  CHECK(overlap(numbers.matrix(4, 1, 3, 1, 5), numbers.matrix(4, 1, 3, 9, 5)) == Overlap::same);
  CHECK(overlap(numbers.matrix(4, 1, 3, 1, 5), numbers.matrix(4, 1, 3, 1, 6)) == Overlap::other);
  CHECK(overlap(numbers.matrix(4, 3, 1, 1, 5), numbers.matrix(4, 3, 1, 1, 9)) == Overlap::same);
  CHECK(overlap(numbers.matrix(4, 3, 1, 1, 5), numbers.matrix(4, 3, 1, 2, 5)) == Overlap::other);
}

TEST_CASE("an operand is copied where it overlaps the destination in a way that is not allowed",
          "[op][expression]") {
  Matrix<double> all = Matrix<double>::Random(4, 6);
  const auto is_copied = [&]<Overlap Allowed>(std::integral_constant<Overlap, Allowed>, const auto& x,
                                              auto y) {
    bool copied = false;
    ddl::detail::with_operand<Allowed>(x, y, [&](const auto& operand) {
      copied = static_cast<const void*>(&operand) != static_cast<const void*>(&x);
      CHECK(operand == x);
    });
    return copied;
  };
  constexpr std::integral_constant<Overlap, Overlap::same> same;
  constexpr std::integral_constant<Overlap, Overlap::none> none;
  const auto left = all.leftCols(3);
  CHECK_FALSE(is_copied(same, left, all.rightCols(3)));
  CHECK_FALSE(is_copied(none, left, all.rightCols(3)));
  CHECK_FALSE(is_copied(same, left, all.leftCols(3)));
  CHECK(is_copied(none, left, all.leftCols(3)));
  CHECK(is_copied(same, left, all.middleCols(1, 3)));
  CHECK(is_copied(same, (2 * left).eval() + left, all.rightCols(3)));
}
