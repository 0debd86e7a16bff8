// SPDX-License-Identifier: MIT
#include "ddl/nn/product.hpp"

#include <new>
#include <stdexcept>
#include <vector>

#include "ddl/core/thread_pool.hpp"
#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

/// A, B and C as blocks of larger matrices, so that no outer stride is a size.
template <class Scalar>
struct Operands {
  Matrix<Scalar> a, b, c;
  Vector<Scalar> bias;
  Index rows, cols, depth;

  Operands(Index rows_, Index cols_, Index depth_)
      : a(rows_ + 2, depth_ + 1),
        b(depth_ + 3, cols_ + 1),
        c(rows_ + 1, cols_ + 2),
        bias(rows_),
        rows(rows_),
        cols(cols_),
        depth(depth_) {
    Random random(7);
    fill(random, a);
    fill(random, b);
    fill(random, c);
    fill(random, bias);
  }
};

template <class Scalar>
void check_products(Index rows, Index cols, Index depth) {
  CAPTURE(rows, cols, depth);
  using RowMajor = Eigen::Matrix<Scalar, Dynamic, Dynamic, Eigen::RowMajor>;
  const Order order{true};
  Operands<Scalar> o(rows, cols, depth);
  const auto a = o.a.topLeftCorner(rows, depth);
  const auto b = o.b.topLeftCorner(depth, cols);
  auto c = o.c.topLeftCorner(rows, cols);
  const Matrix<Scalar> around = o.c, expected = a * b;
  const RowMajor a_around = o.a, b_around = o.b;
  const auto a_rows = a_around.topLeftCorner(rows, depth);
  const auto b_rows = b_around.topLeftCorner(depth, cols);
  // Sums in another order differ by the rounding of their terms, whatever is left when these cancel.
  const double terms = static_cast<double>((a.cwiseAbs() * b.cwiseAbs()).norm());
  const auto agrees = [&](const Matrix<Scalar>& wanted) {
    return static_cast<double>((c - wanted).norm()) <= identity_tolerance<Scalar> * terms;
  };

  product(a, b, c, order);
  CHECK(agrees(expected));
  CHECK(o.c.col(cols) == around.col(cols));  // nothing beside C is written
  CHECK(o.c.row(rows) == around.row(rows));
  product(a_rows, b, c, order);
  CHECK(agrees(expected));
  add_product(a, b_rows, c, order);
  CHECK(agrees(Scalar(2) * expected));
  affine(a, b, o.bias, c, order);
  CHECK(agrees(expected.colwise() + o.bias));
}

}  // namespace

TEMPLATE_TEST_CASE("products are Eigen's, and of transposes on either side", "[nn][product]", float, double) {
  const Index rows = GENERATE(1, 2, 95, 96, 97, 192, 193, 600);  // around a tile's height of 96
  const Index cols = GENERATE(1, 5, 64, 65, 300);                // around its width of 64
  const Index depth = GENERATE(1, 17, 300);
  check_products<TestType>(rows, cols, depth);
}

TEMPLATE_TEST_CASE("products larger than what is packed at a time", "[nn][product]", float, double) {
  check_products<TestType>(2100, 70, 30);
  check_products<TestType>(30, 2100, 70);
  check_products<TestType>(70, 30, 2100);
  check_products<TestType>(1100, 1100, 10);
  check_products<TestType>(10, 1100, 1100);
  check_products<TestType>(1100, 10, 1100);
}

TEST_CASE("a row times a matrix, or a transpose", "[nn][product]") {
  Random random(5);
  Eigen::RowVectorXd a(30), c(600);
  Matrix<double> b(30, 600);
  fill(random, a);
  fill(random, b);
  const Matrix<double> b_transpose = b.transpose();
  product(a, b, c, Order{true});
  CHECK(relative_error(c, (a * b).eval()) <= identity_tolerance<double>);
  add_product(a, b_transpose.transpose(), c, Order{true});
  CHECK(relative_error(c, (2 * a * b).eval()) <= identity_tolerance<double>);
  const Vector<double> bias = Vector<double>::Constant(1, 0.5);
  affine(a, b, bias, c, Order{true});
  CHECK(relative_error(c, ((a * b).array() + 0.5).matrix().eval()) <= identity_tolerance<double>);
  product(b.topLeftCorner(4, 30).row(2), b, c, Order{true});
  CHECK(relative_error(c, (b.topLeftCorner(4, 30).row(2) * b).eval()) <= identity_tolerance<double>);
}

TEMPLATE_TEST_CASE("products of other scalars", "[nn][product]", long double, std::complex<double>) {
  check_products<TestType>(97, 65, 30);
  check_products<TestType>(3, 2, 530);
}

namespace {

/// Fails at one of its pieces, and counts them.
struct Failing {
  Index fails_at;
  mutable Index piece = 0;
  void for_each(Index pieces, const auto& f) const {
    for (Index i = 0; i < pieces; ++i) {
      if (piece++ == fails_at) throw std::runtime_error("a piece fails");
      f(i);
    }
  }
};

/// Runs a product of its own before the pieces, on the same thread, as an executor may that does other work
/// while it waits.
struct Interrupting {
  mutable bool inside = false;

  void for_each(Index pieces, const auto& f) const {
    if (!inside) {
      inside = true;
      const Matrix<double> a = Matrix<double>::Ones(200, 200);
      Matrix<double> c(200, 200);
      product(a, a, c, *this);
      if (!(c.array() == 200).all()) FAIL("the other product is wrong");
      inside = false;
    }
    Serial{}.for_each(pieces, f);
  }
};

}  // namespace

TEST_CASE("a product that begins while another is under way does not disturb it", "[nn][product]") {
  const Operands<double> o(128, 100, 100);
  Matrix<double> c(o.a.rows(), o.b.cols());
  const Matrix<double> a = o.a, b = o.b.topRows(o.a.cols());
  product(a, b, c, Interrupting{});
  CHECK(relative_error(c, (a * b).eval()) <= identity_tolerance<double>);
}

TEST_CASE("products share one pool, from within its pieces, too", "[nn][product]") {
  const ThreadPool pool(4);
  const Operands<double> o(130, 200, 600);
  const Matrix<double> a = o.a, b = o.b.topRows(o.a.cols());
  Matrix<double> alone(a.rows(), b.cols());
  product(a, b, alone, Serial{});
  std::vector<Matrix<double>> c(6, Matrix<double>(a.rows(), b.cols()));
  for (int repeat = 0; repeat < 5; ++repeat)
    pool.for_each(6, [&](Index i) { product(a, b, c[static_cast<std::size_t>(i)], pool); });
  for (const auto& each : c) CHECK(each == alone);
}

TEST_CASE("a product that ends with an exception leaves the next one right", "[nn][product]") {
  const Operands<double> o(128, 100, 100);
  const Matrix<double> a = o.a, b = o.b.topRows(o.a.cols());
  Matrix<double> c(a.rows(), b.cols());
  const Failing none{-1};
  product(a, b, c, none);
  REQUIRE(none.piece > 1);
  for (Index piece = 0; piece < none.piece; ++piece) {
    CHECK_THROWS_WITH(product(a, b, c, Failing{piece}), "a piece fails");
    product(a, b, c, Serial{});
    CHECK(relative_error(c, (a * b).eval()) <= identity_tolerance<double>);
  }
}

#if !defined(EIGEN_USE_BLAS) && !defined(DDL_PLAIN_EIGEN)
TEST_CASE("panels that find no memory stay as they were", "[nn][product]") {
  Vector<double> panels = Vector<double>::Ones(100);
  CHECK_THROWS_AS(ddl::detail::Panels<double>::room(panels, Index(1) << 61), std::bad_alloc);
  CHECK(panels == Vector<double>::Ones(100));
}
#endif

TEST_CASE("a product of no depth is zero, and one of no rows or columns is nothing", "[nn][product]") {
  const Matrix<double> a(3, 0), b(0, 2);
  Matrix<double> c = Matrix<double>::Ones(3, 2), none(3, 0);
  add_product(a, b, c, Serial{});
  CHECK(c == Matrix<double>::Ones(3, 2));
  product(a, b, c, Serial{});
  CHECK(c.isZero(0));
  product(a, Matrix<double>(0, 0), none, Serial{});
  CHECK(none.cols() == 0);
}

TEST_CASE("row sums are added over all columns", "[nn][product]") {
  Random random(3);
  const Index rows = GENERATE(Index(1), Index(64), Index(65), Index(200));
  Matrix<double> x(rows, 5);
  fill(random, x);
  Vector<double> sum = Vector<double>::Ones(rows);
  add_row_sums(x, sum, Order{true});
  CHECK(error(sum, (x.rowwise().sum().array() + 1).matrix()) <= identity_tolerance<double>);
}
