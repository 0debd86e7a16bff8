// SPDX-License-Identifier: MIT
#include "ddl/nn/rope.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

constexpr Index positions = 40;

RotaryTable<double> table_of(Index rotated, double base = 100) {
  RotaryTable<double> table;
  table.prepare(rotated, base, positions);
  return table;
}

Vector<double> drawn(Index size, std::uint64_t seed) {
  Random random(seed);
  Vector<double> x(size);
  fill(random, x);
  return x;
}

Vector<double> rotated(const RotaryTable<double>& table, Vector<double> x, Index p) {
  table.rotate(column(x, 0), p);
  return x;
}

}  // namespace

TEST_CASE("a pair is a complex number that is turned by p base^(-2 i / r)", "[nn][rope]") {
  const Index p = GENERATE(Index(0), Index(1), positions - 1);
  const Vector<double> x = drawn(9, 1), y = rotated(table_of(6), x, p);
  for (Index i = 0; i < 3; ++i) {
    const std::complex<double> turned =
        std::complex(x[i], x[i + 3]) *
        std::polar(1.0, static_cast<double>(p) * std::pow(100.0, -static_cast<double>(i) / 3));
    CHECK(std::abs(std::complex(y[i], y[i + 3]) - turned) <= identity_tolerance<double>);
  }
  CHECK(y.tail(3) == x.tail(3));
}

TEST_CASE("the product of two rotated vectors depends on how far apart they are", "[nn][rope]") {
  const RotaryTable<double> table = table_of(8);
  const Vector<double> q = drawn(8, 1), k = drawn(8, 2);
  const double expected = rotated(table, q, 7).dot(rotated(table, k, 4));
  CHECK(std::abs(rotated(table, q, 30).dot(rotated(table, k, 27)) - expected) <=
        derivative_tolerance<double>);
  CHECK(std::abs(rotated(table, q, 4).dot(rotated(table, k, 7)) - expected) > 0.1);
}

TEST_CASE("rotating back is the inverse and the adjoint", "[nn][rope]") {
  const RotaryTable<double> table = table_of(6);
  const Vector<double> x = drawn(7, 1), dy = drawn(7, 2);
  Vector<double> dx = dy, back = rotated(table, x, 11);
  table.rotate_back(column(back, 0), 11);
  CHECK(error(back, x) <= identity_tolerance<double>);
  table.rotate_back(column(dx, 0), 11);
  CHECK(std::abs(rotated(table, x, 11).dot(dy) - x.dot(dx)) <= identity_tolerance<double>);
}

TEST_CASE("a table is filled once, and again for more positions, other dimensions or another base",
          "[nn][rope]") {
  RotaryTable<double> table = table_of(6);
  CHECK(allocations_in([&] { table.prepare(6, 100, 10); }) == 0);
  CHECK(table.cosine.cols() == positions);
  table.prepare(6, 100, positions + 1);
  CHECK(table.cosine.cols() == positions + 1);
  CHECK(table.cosine.leftCols(positions) == table_of(6).cosine);
  table.prepare(6, 50, 10);
  CHECK(table.sine == table_of(6, 50).sine.leftCols(10));
  table.prepare(4, 50, 10);
  CHECK(table.sine == table_of(4, 50).sine.leftCols(10));
}

TEST_CASE("the rotated share of a head is rounded down to an even number", "[nn][rope]") {
  CHECK(rotated_dimensions("", 8, 1) == 8);
  CHECK(rotated_dimensions("", 8, 0.5) == 4);
  CHECK(rotated_dimensions("", 10, 0.5) == 4);
  CHECK(rotated_dimensions("", 10, 0.39) == 2);
  CHECK(rotated_dimensions("", 7, 0) == 0);
}

TEST_CASE("an odd head, a share above 1 and a base of 0 are refused", "[nn][rope][errors]") {
  RotaryTable<double> table;
  CHECK_THROWS_WITH(rotated_dimensions("here", 7, 1),
                    "here: head_dim is 7, expected an even number, or a rope_ratio of 0");
  CHECK_THROWS_WITH(rotated_dimensions("here", 8, 1.5),
                    "here: rope_ratio is 1.5, expected a number from 0 to 1");
  CHECK_THROWS_WITH(rotated_dimensions("here", 8, not_a_number),
                    "here: rope_ratio is nan, expected a number from 0 to 1");
  CHECK_THROWS_WITH(table.prepare(8, 0, 3), "ddl::RotaryTable: base is 0, expected a number above 0");
}
