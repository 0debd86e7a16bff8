// SPDX-License-Identifier: MIT
#include "ddl/op/delta_product.hpp"

#include <complex>
#include <limits>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/op_data.hpp"

using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;
using ddl::DeltaOperator;
using ddl::DeltaProduct;
using ddl::Dynamic;
using ddl::Index;
using ddl::Matrix;
using ddl::Random;
using ddl::Vector;
using Complex = std::complex<double>;

namespace {

enum class Directions { random, repeated, nearly_parallel };

/// n unit directions, as columns; nearly parallel ones have a correlation of 1 - 1e-12.
Matrix<double> directions_of(Directions kind, Index d, Index n, Random& random) {
  const auto first = random_matrix<Vector<double>>(random, d).normalized().eval();
  auto all = random_matrix<Matrix<double>>(random, d, n);
  for (Index i = 0; i < n; ++i) {
    if (kind == Directions::repeated) all.col(i) = first;
    if (kind == Directions::nearly_parallel) {
      all.col(i) -= first * first.dot(all.col(i));
      all.col(i) = first + std::sqrt(2e-12) * all.col(i).normalized();
    }
    all.col(i).normalize();
  }
  return all;
}

/// One edit of X in long double: (I - beta k k^T) X + beta k v^T.
void edit(Matrix<long double>& X, const DeltaOperator<double>& A, const Vector<double>& v) {
  const Vector<long double> k = A.direction().cast<long double>();
  const Vector<long double> r = v.cast<long double>() - X.transpose().lazyProduct(k);
  X += (static_cast<long double>(A.beta()) * k).lazyProduct(r.transpose());
}

struct Case {
  Directions kind;
  Index count;
  double beta;
};

/// Every kind, count and gate; a gate of -1 stands for a mixture of all.
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto kind : {Directions::random, Directions::repeated, Directions::nearly_parallel})
    for (const Index count : {1, 2, 3, 7, 20, 64})
      for (const double beta : {0.0, 1e-6, 1.0, 2 - 1e-6, 2.0, -1.0}) all.push_back({kind, count, beta});
  return all;
}

std::vector<DeltaOperator<double>> factors_of(const Case& c, Index d, Random& random) {
  constexpr double gates[] = {0.3, 1e-6, 1.6, 2 - 1e-6, 2};
  const auto directions = directions_of(c.kind, d, c.count, random);
  std::vector<DeltaOperator<double>> factors;
  for (Index i = 0; i < c.count; ++i)
    factors.push_back(DeltaOperator<double>::as_given(directions.col(i), c.beta < 0 ? gates[i % 5] : c.beta));
  return factors;
}

}  // namespace

TEST_CASE("a product of operators is the product of their matrices", "[op][delta_product]") {
  constexpr Index d = 12;
  Random random(1);
  for (const Case& c : cases()) {
    const double tolerance = sequence_tolerance<double>(c.count);
    CAPTURE(static_cast<int>(c.kind), c.count, c.beta);
    DeltaProduct<double> product(d);
    Matrix<long double> dense = Matrix<long double>::Identity(d, d);
    double determinant = 1;
    for (const auto& factor : factors_of(c, d, random)) {
      product.push(factor);
      edit(dense, factor, Vector<double>::Zero(d));
      determinant *= factor.determinant();
    }
    const Matrix<double> expected = dense.cast<double>();
    const auto X = random_matrix<Matrix<double>>(random, d, 3);
    Matrix<double> Y(d, 3), Z(d, 3);
    CHECK(product.size() == c.count);
    CHECK_FALSE(product.writes());
    CHECK(error(product.dense(), expected) <= tolerance);
    product.apply(X, Y);
    CHECK(error(Y, expected.lazyProduct(X)) <= tolerance);
    product.apply_adjoint(X, Z);
    CHECK(error(Z, expected.transpose().lazyProduct(X)) <= tolerance);
    CHECK(std::abs(product.determinant() - determinant) <= tolerance);
    if (c.beta != 1) {
      product.inverse().apply_in_place(Y);
      CHECK(error(Y, X) <= undo_tolerance);
    }
  }
}

TEST_CASE("a product with writes is the sequence of rewrites, and its inverse takes them back",
          "[op][delta_product]") {
  constexpr Index d = 12, m = 3;
  Random random(2);
  for (const Case& c : cases())
    for (const int every :
         {1, 3}) {  // each edit writes, or one in three, the first of which is not the first edit
      const double tolerance = sequence_tolerance<double>(c.count);
      CAPTURE(static_cast<int>(c.kind), c.count, c.beta, every);
      const auto X = random_matrix<Matrix<double>>(random, d, m);
      Matrix<long double> state = X.cast<long double>();
      DeltaProduct<double> product(d);
      for (const auto& factor : factors_of(c, d, random)) {
        Vector<double> v = Vector<double>::Zero(m);
        if (product.size() % every == every - 1) {
          v = random_matrix<Vector<double>>(random, m);
          product.push(factor, v);
        } else {
          product.push(factor);
        }
        edit(state, factor, v);
      }
      CHECK(product.writes() == (c.count >= every));
      Matrix<double> Y = product * X;
      CHECK(error(Y, state.cast<double>()) <= tolerance);
      if (c.beta != 1) {
        product.inverse().apply_in_place(Y);
        CHECK(error(Y, X) <= undo_tolerance);
      }
    }
}

TEMPLATE_TEST_CASE_SIG("a product applies to any scalar, size and storage", "[op][delta_product]",
                       ((class Scalar, int Rows), Scalar, Rows), (float, 5), (Complex, Dynamic),
                       (Eigen::half, 5)) {
  using Operator = DeltaOperator<Scalar, Rows>;
  using State = Matrix<Scalar, Rows, Dynamic>;
  using Wide = Matrix<ddl::Accum<Scalar>, Rows, Dynamic>;
  constexpr Index d = 5, m = 3;
  Random random(3);
  DeltaProduct<Scalar, Rows> product(d);
  const State X = random_matrix<State>(random, d, m), W = random_matrix<State>(random, d, m);
  Wide state = widen(X);
  for (int i = 0; i < 6; ++i) {
    const Operator A(random_matrix<Vector<Scalar, Rows>>(random, d), 1.25f);
    const auto v = random_matrix<Vector<Scalar>>(random, m);
    product.push(A, v);
    state = (A.dense().lazyProduct(state) +
             typename Wide::Scalar(A.beta()) * A.direction() * widen(v).transpose())
                .eval();
  }
  Worst worst;
  CHECK(for_each_storage<Scalar, Rows>(X, [&](auto& x) {
          product.apply_in_place(x);
          worst.add(error(widen(State(x)), state));
        }) == 0);
  CHECK(worst <= tolerance_of<Scalar>());
  CHECK(error(widen(State(product * X)), state) <= tolerance_of<Scalar>());

  State adjoint(d, m);
  product.apply_adjoint(W, adjoint);
  const Wide expected = product.dense().adjoint().lazyProduct(widen(W));
  CHECK(error(widen(adjoint), expected) <= tolerance_of<Scalar>());
  const Wide plain = product.dense().lazyProduct(widen(X));
  const auto left = widen(W).cwiseProduct(plain.conjugate()).sum();
  const auto right = expected.cwiseProduct(widen(X).conjugate()).sum();
  CHECK(std::abs(left - right) <= tolerance_of<Scalar>() * widen(X).norm() * widen(W).norm());
}

TEST_CASE("two operators compose, the right one first", "[op][delta_product]") {
  Random random(4);
  const DeltaOperator A(random_matrix<Vector<double>>(random, 4), 1.5);
  const DeltaOperator B(random_matrix<Vector<double>>(random, 4), 0.5);
  const auto X = random_matrix<Matrix<double>>(random, 4, 1);
  const Matrix<double> Y = (B * A) * X;
  CHECK(error(Y, B.dense() * A.dense() * X) <= identity_tolerance<double>);
  CHECK_FALSE(error(Y, A.dense() * B.dense() * X) <= 1e-3);
  CHECK((B * A).size() == 2);
}

TEST_CASE("the parts of a product can be read", "[op][delta_product]") {
  DeltaProduct<double, 2> product;
  CHECK(product.size() == 0);
  product.push(DeltaOperator(Eigen::Vector2d(1, 0), 0.5));
  product.push(DeltaOperator(Eigen::Vector2d(0.6, 0.8), 1.5), Eigen::Vector3d(1, 2, 3));
  CHECK(product.directions() == (Eigen::Matrix2d() << 1, 0.6, 0, 0.8).finished());
  CHECK(product.betas() == Eigen::Vector2d(0.5, 1.5));
  CHECK(product.overlaps() == (Eigen::Matrix2d() << 0, 0, 0.6, 0).finished());
  CHECK(product.written() == (Eigen::Matrix<double, 2, 3>() << 0, 0, 0, 1, 2, 3).finished());
}

TEST_CASE("overlaps are the inner products of earlier directions, however storage grew",
          "[op][delta_product]") {
  Random random(7);
  DeltaProduct<Complex> product(6);
  for (int i = 0; i < 11; ++i)
    product.push(DeltaOperator<Complex>(random_matrix<Vector<Complex>>(random, 6), 1.5));
  const Matrix<Complex> gram = product.directions().adjoint().lazyProduct(product.directions());
  const Matrix<Complex> expected = gram.triangularView<Eigen::StrictlyLower>();
  CHECK(error(product.overlaps(), expected) <= identity_tolerance<double>);
}

TEST_CASE("the empty product is the identity", "[op][delta_product]") {
  const DeltaProduct<double> none(3);
  const Eigen::MatrixXd X = Eigen::MatrixXd::Constant(3, 2, 7);
  CHECK(Eigen::MatrixXd(none * X) == X);
  CHECK(none.determinant() == 1);
  CHECK(none.inverse().size() == 0);
  CHECK(DeltaProduct<double, 3>().rows() == 3);
}

TEST_CASE("reserving changes nothing but memory, and pushing into it allocates nothing",
          "[op][delta_product]") {
  Random random(5);
  const DeltaOperator A(random_matrix<Vector<double>>(random, 30), 1.5);
  const auto X = random_matrix<Matrix<double>>(random, 30, 5);
  const Eigen::VectorXd v = Eigen::VectorXd::LinSpaced(4, 1, 2);
  DeltaProduct<double> plain(30), writing(30);
  plain.reserve(64);
  writing.reserve(64, 4);
  CHECK_FALSE(writing.writes());
  CHECK(Eigen::MatrixXd(writing * X) == X);
  CHECK(allocations_in([&] {
          for (int i = 0; i < 64; ++i) plain.push(A);
        }) == 0);
  CHECK(allocations_in([&] {
          for (int i = 0; i < 64; ++i) writing.push(A, v);
        }) == 0);
  CHECK(plain.size() == 64);
  CHECK(writing.writes());
}

TEST_CASE("a projection makes the product singular", "[op][delta_product]") {
  Random random(6);
  for (Index d = 2; d <= 60; ++d) {
    DeltaProduct<double> product(d);
    product.push(DeltaOperator(random_matrix<Vector<double>>(random, d), 0.5));
    product.push(DeltaOperator(random_matrix<Vector<double>>(random, d), 1.0));
    CAPTURE(d);
    CHECK_THROWS_AS(product.inverse(), std::domain_error);
    CHECK(std::abs(product.determinant()) <= identity_tolerance<double>);
  }
}

TEST_CASE("what does not fit a product is refused by name", "[op][delta_product]") {
  const DeltaOperator A(Eigen::VectorXd::Ones(4).eval(), 1), B(Eigen::VectorXd::Ones(5).eval(), 1);
  DeltaProduct<double> product(4);
  product.push(A, Eigen::Vector2d(1, 2));
  Eigen::MatrixXd X(4, 2), tall(5, 2), wide(4, 3);
  const auto refused = [](const auto& attempt, const std::string& message) {
    CHECK_THROWS_WITH(attempt(), ContainsSubstring(message));
  };
  refused([] { DeltaProduct<double>(); }, "rows is 0, expected at least 1");
  refused([] { DeltaProduct<double, 3>(4); }, "rows is 4, expected 3 (fixed)");
  refused([&] { product.push(B); }, "the operator's size is 5, expected 4");
  refused([&] { product.push(A, Eigen::Vector3d(1, 2, 3)); }, "the size of v is 3, expected 2");
  refused([&] { product.push(A, Eigen::VectorXd()); }, "the size of v is 0, expected at least 1");
  refused([&] { product.apply(wide, wide); }, "X is 4 x 3, expected 4 x 2");
  refused([&] { product.apply(X, wide); }, "Y is 4 x 3, expected 4 x 2");
  refused([&] { product.apply_in_place(tall); }, "X is 5 x 2, expected 4 x 2");
  refused([&] { product.apply_adjoint(tall, X); }, "X is 5 x 2, expected 4 x 2");
  refused([&] { X = product * tall; }, "the right-hand side is 5 x 2, expected 4 x 2");
  CHECK(product.size() == 1);
}
