// SPDX-License-Identifier: MIT
#include "ddl/op/delta_operator.hpp"

#include <cmath>
#include <complex>
#include <limits>

#include <Eigen/Eigenvalues>
#include <unsupported/Eigen/AutoDiff>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/op_data.hpp"

using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;
using ddl::DeltaOperator;
using ddl::Dynamic;
using ddl::Index;
using ddl::Matrix;
using ddl::Random;
using ddl::Regime;
using ddl::Vector;
using Dual = Eigen::AutoDiffScalar<Eigen::Vector2d>;
using Complex = std::complex<double>;

namespace {

/// A random direction of `rows` entries (or Rows of them) and a random gate.
template <class Scalar, int Rows>
DeltaOperator<Scalar, Rows> random_operator(Random& random, Index rows) {
  using Real = typename DeltaOperator<Scalar, Rows>::Real;
  const auto k = random_matrix<Vector<Scalar, Rows>>(random, Rows == Dynamic ? rows : Rows);
  return DeltaOperator<Scalar, Rows>::as_given(k, random_scalar<Real>(random));
}

constexpr double gates[] = {0, 1e-6, 0.4, 1, 1.5, 2 - 1e-6, 2, -0.7, 2.5};

}  // namespace

TEMPLATE_TEST_CASE_SIG("an operator times a matrix is its dense matrix times it, in any storage",
                       "[op][delta_operator]", ((class Scalar, int Rows), Scalar, Rows), (float, 5),
                       (double, Dynamic), (long double, 5), (Complex, Dynamic), (Eigen::half, 5), (Dual, 5)) {
  using State = Matrix<Scalar, Rows, Dynamic>;
  using Wide = Matrix<ddl::Accum<Scalar>, Rows, Dynamic>;
  Random random(1);
  for (const Index m : {1, 3, 19}) {  // a row-major state is taken 16 columns at a time
    const auto A = random_operator<Scalar, Rows>(random, 9);
    const State X = random_matrix<State>(random, A.rows(), m);
    const auto v = random_matrix<Vector<Scalar>>(random, m);
    const Wide product = A.dense().lazyProduct(widen(X));
    const Wide written = product + ddl::Accum<Scalar>(A.beta()) * A.direction() * widen(v).transpose();
    Worst worst;
    const auto compare = [&](const State& given, const Wide& expected) {
      worst.add(error(flat(given), flat(expected)));
    };
    const auto edit = [&](auto& x) {
      A.update_in_place(x, v);
      compare(x, written);
      A.apply(X, x);
      compare(x, product);
      x = X;
      x = A * x;
      compare(x, product);
    };
    CAPTURE(m);
    CHECK(for_each_storage<Scalar, Rows>(X, edit) == 0);
    CHECK(worst <= tolerance_of<Scalar>());
  }
}

TEST_CASE("source and destination may differ in their storage", "[op][delta_operator]") {
  Random random(2);
  const auto A = random_operator<double, Dynamic>(random, 6);
  const auto X = random_matrix<Matrix<double>>(random, 6, 18);
  const auto v = random_matrix<Vector<double>>(random, 18);
  const Eigen::MatrixXd product = A.dense() * X, written = product + A.beta() * A.direction() * v.transpose();
  Worst worst;
  const auto compare = [&](const Matrix<double>& given, const Matrix<double>& expected) {
    worst.add(error(given, expected));
  };
  for_each_storage<double, Dynamic>(X, [&](auto& x) {
    const int overwritten = for_each_storage<double, Dynamic>(X, [&](auto& y) {
      A.update(x, v, y);
      compare(y, written);
      y = A * x;
      compare(y, product);
    });
    CHECK(overwritten == 0);
  });
  CHECK(worst <= identity_tolerance<double>);
}

TEST_CASE("a temporary block and an expression are as good as a matrix", "[op][delta_operator]") {
  Random random(3);
  const auto A = random_operator<double, Dynamic>(random, 4);
  const auto X = random_matrix<Matrix<double>>(random, 4, 3);
  Eigen::MatrixXd all = X.replicate(2, 1);
  A.apply(2 * X, all.topRows(4));
  A.apply_in_place(all.bottomRows(4));
  CHECK(error(all.topRows(4), A.dense() * (2 * X)) <= identity_tolerance<double>);
  CHECK(error(all.bottomRows(4), A.dense() * X) <= identity_tolerance<double>);
  CHECK(error((A * (X - 3 * X)).eval(), A.dense() * (X - 3 * X)) <= identity_tolerance<double>);
}

TEST_CASE("a segment of a vector is as good as a vector", "[op][delta_operator]") {
  Random random(3);
  const auto A = random_operator<double, Dynamic>(random, 3);
  const auto check = [&](const auto& x) {
    const Vector<double> expected = A.dense() * x;
    CHECK(error((A * x).eval(), expected) <= identity_tolerance<double>);
    Vector<double> y = A * x;
    CHECK(y == A * Vector<double>(x));
  };
  Vector<double> x = random_matrix<Vector<double>>(random, 8, 1);
  const Eigen::Matrix<double, 8, 1> fixed = x;
  check(x.head(3));
  check(x.tail(3));
  check(x.segment(2, 3));
  check(x.head<3>());
  check(fixed.tail<3>());
  check(fixed.segment<3>(2));
  check(std::as_const(x).segment(1, 3));
  const Vector<double> y = A * x.head<3>();  // a temporary segment
  CHECK(y == A * fixed.head<3>());
  const Vector<double> expected = A * x.segment(1, 3);
  x.head(3) = A * x.segment(1, 3);  // the destination overlaps
  CHECK(x.head(3) == expected);
}

TEST_CASE("scalar and size are deduced from the direction", "[op][delta_operator]") {
  const Eigen::Vector3f fixed(3, 0, 4);
  const Eigen::VectorXd dynamic = fixed.cast<double>();
  STATIC_REQUIRE(std::is_same_v<decltype(DeltaOperator(fixed, 1)), DeltaOperator<float, 3>>);
  STATIC_REQUIRE(std::is_same_v<decltype(DeltaOperator(dynamic, 1, 1e-5)), DeltaOperator<double>>);
  STATIC_REQUIRE(std::is_same_v<decltype(DeltaOperator(fixed.head<2>(), 1)), DeltaOperator<float, 2>>);
  CHECK(DeltaOperator(fixed, 1).direction() == Eigen::Vector3f(0.6f, 0, 0.8f));
}

TEMPLATE_TEST_CASE("beta zero, one and two give identity, projection and reflection", "[op][delta_operator]",
                   float, Complex) {
  using Square = Matrix<TestType>;
  constexpr double tolerance = identity_tolerance<TestType>;
  Random random(4);
  for (const Index d : {1, 2, 3, 17, 64}) {
    CAPTURE(d);
    const auto kt = random_matrix<Vector<TestType>>(random, d);
    const auto X = random_matrix<Square>(random, d, 3);
    const auto v = random_matrix<Vector<TestType>>(random, 3);
    const auto gated = [&](int beta) {
      return DeltaOperator<TestType>(kt, static_cast<ddl::RealOf<TestType>>(beta));
    };
    const auto k = gated(0).direction();
    const Square one = Square::Identity(d, d);
    Square Y(d, 3);

    CHECK(Square(gated(0) * X) == X);
    gated(0).update(X, v, Y);
    CHECK(Y == X);

    const auto projection = gated(1);
    CHECK(error((projection * (projection * X).eval()).eval(), (projection * X).eval()) <= tolerance);
    CHECK(error((k.adjoint() * (projection * X).eval()).eval(), 0 * v.transpose()) <= tolerance);
    projection.update(X, v, Y);
    CHECK(error(k.adjoint() * Y, v.transpose()) <= tolerance);

    const auto reflection = gated(2);
    CHECK(error((reflection * (reflection * X).eval()).eval(), X) <= tolerance);
    CHECK(error(reflection.dense().adjoint().lazyProduct(reflection.dense()), one) <= tolerance);
    CHECK(error((reflection * k).eval(), -k) <= tolerance);
    CHECK(std::abs(reflection.determinant() + 1) <= tolerance);
  }
}

TEST_CASE("an update multiplies the error k^T X - v^T by 1 - beta", "[op][delta_operator]") {
  Random random(5);
  for (const double beta : gates) {
    CAPTURE(beta);
    const DeltaOperator A(random_matrix<Vector<double>>(random, 12), beta);
    const auto X = random_matrix<Matrix<double>>(random, 12, 4);
    const auto v = random_matrix<Vector<double>>(random, 4);
    Matrix<double> Y(12, 4);
    A.update(X, v, Y);
    const auto error_of = [&](const auto& state) {
      return (A.direction().transpose() * state - v.transpose()).eval();
    };
    CHECK(error(error_of(Y), (1 - beta) * error_of(X)) <= identity_tolerance<double>);
  }
}

TEST_CASE("determinant and eigenvalues are those of the dense matrix", "[op][delta_operator]") {
  Random random(6);
  for (const Index d : {1, 2, 5, 9})
    for (const double beta : gates)
      for (const bool as_given : {false, true}) {
        CAPTURE(d, beta, as_given);
        const auto kt = random_matrix<Vector<double>>(random, d);
        const auto A = as_given ? DeltaOperator<double>::as_given(kt, beta) : DeltaOperator(kt, beta);
        Eigen::VectorXd given(d);
        Index filled = 0;
        for (const auto& [value, multiplicity] : A.eigenvalues()) {
          given.segment(filled, multiplicity).setConstant(value);
          filled += multiplicity;
        }
        CHECK(filled == d);
        std::sort(given.begin(), given.end());
        const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(A.dense(), Eigen::EigenvaluesOnly);
        CHECK(error(given, solver.eigenvalues()) <= identity_tolerance<double>);
        CHECK(std::abs(A.determinant() - given.prod()) <=
              identity_tolerance<double> * (std::max)(1.0, given.norm()));
      }
}

TEMPLATE_TEST_CASE("the inverse undoes the operator", "[op][delta_operator]", float, Complex) {
  using Real = ddl::RealOf<TestType>;
  Random random(7);
  for (const double beta : {0.0, 1e-6, 0.5, 1.5, 2.0, -1.0, 3.0})
    for (const bool as_given : {false, true}) {
      CAPTURE(beta, as_given);
      const auto kt = random_matrix<Vector<TestType>>(random, 6);
      const auto gate = static_cast<Real>(beta);
      const auto A = as_given ? DeltaOperator<TestType>::as_given(kt / kt.norm(), gate)
                              : DeltaOperator<TestType>(kt, gate);
      const Matrix<TestType> one = Matrix<TestType>::Identity(6, 6);
      CHECK(error((A.inverse() * A.dense()).eval(), one) <= identity_tolerance<TestType>);
      CHECK(error((A * A.inverse().dense()).eval(), one) <= identity_tolerance<TestType>);
    }
}

TEMPLATE_TEST_CASE("a projection has no inverse, whatever its direction", "[op][delta_operator]", float,
                   double, Complex) {
  Random random(8);
  for (Index d = 1; d <= 100; ++d) {
    const DeltaOperator<TestType> A(random_matrix<Vector<TestType>>(random, d), 1);
    CAPTURE(d, A.determinant());
    CHECK_THROWS_AS(A.inverse(), std::domain_error);
    CHECK_THROWS_AS(A.pow(-2), std::domain_error);
  }
  const Vector<TestType> two = Vector<TestType>::Constant(1, TestType(2));
  CHECK_THROWS_WITH(DeltaOperator<TestType>::as_given(two, ddl::RealOf<TestType>(0.25)).inverse(),
                    ContainsSubstring("projection"));
}

TEST_CASE("the adjoint moves to the other side of the inner product", "[op][delta_operator]") {
  Random random(9);
  const auto A = random_operator<Complex, Dynamic>(random, 7);
  const auto x = random_matrix<Vector<Complex>>(random, 7), y = random_matrix<Vector<Complex>>(random, 7);
  const Complex left = y.dot((A * x).eval()), right = (A.adjoint() * y).eval().dot(x);
  CHECK(std::abs(left - right) <= identity_tolerance<double> * std::abs(left));
  CHECK(error(A.transpose().dense(), A.dense().transpose()) <= identity_tolerance<double>);
  CHECK(error(A.adjoint().dense(), A.dense().adjoint()) <= identity_tolerance<double>);
}

TEST_CASE("a power is the repeated product, of the inverse where it is negative", "[op][delta_operator]") {
  Random random(10);
  for (const double beta : gates)
    for (int n = -4; n <= 7; ++n) {
      if (n < 0 && beta == 1) continue;
      CAPTURE(beta, n);
      const auto half_unit = (0.5 * random_matrix<Vector<double>>(random, 4).normalized()).eval();
      const auto A = DeltaOperator<double>::as_given(half_unit, 4 * beta);
      const Eigen::MatrixXd factor = n < 0 ? A.inverse().dense() : A.dense();
      Eigen::MatrixXd product = Eigen::MatrixXd::Identity(4, 4);
      for (int i = 0; i < std::abs(n); ++i) product *= factor;
      CHECK(error(A.pow(n).dense(), product) <= identity_tolerance<double>);
    }
  const Eigen::Vector2d axis(1, 0);
  CHECK(DeltaOperator(axis, 2).pow(1000001).beta() == 2);
  CHECK(DeltaOperator(axis, 2).pow(1000000).beta() == 0);
  CHECK(DeltaOperator(0 * axis, 2).pow(3).beta() == 0);
}

TEST_CASE("powers of a gate near zero lose no digits", "[op][delta_operator]") {
  for (const double beta : {1e-15, 1e-12, 1e-9, 1e-4})
    for (const int n : {1, 2, 3, 1000, 4096}) {
      const double expected = -std::expm1(n * std::log1p(-beta));  // 1 - (1 - beta)^n
      CAPTURE(beta, n);
      CHECK(std::abs(DeltaOperator(Eigen::Vector2d(0, 1), beta).pow(n).beta() / expected - 1) <=
            identity_tolerance<double>);
    }
}

TEST_CASE("the regime is the nearest of the three by beta |k|^2", "[op][delta_operator]") {
  struct {
    double beta;
    Regime regime;
    std::string name;
  } const cases[] = {{-1e-9, Regime::expansion, "expansion"}, {0, Regime::identity, "identity"},
                     {0.49, Regime::identity, "identity"},    {0.5, Regime::projection, "projection"},
                     {1.5, Regime::projection, "projection"}, {1.51, Regime::reflection, "reflection"},
                     {2, Regime::reflection, "reflection"},   {2.01, Regime::expansion, "expansion"}};
  for (const auto& c : cases) {
    CAPTURE(c.beta);
    CHECK(DeltaOperator(Eigen::Vector2d(0, -7), c.beta).regime() == c.regime);
    CHECK(DeltaOperator<double>::as_given(Eigen::Vector2d(0, 0.5), 4 * c.beta).regime() == c.regime);
    CHECK(ddl::name_of(c.regime) == c.name);
  }
  CHECK(ddl::regime_of(std::numeric_limits<double>::quiet_NaN()) == Regime::expansion);
}

TEMPLATE_TEST_CASE("a normalised direction at beta = 2 reflects, however its length was rounded",
                   "[op][delta_operator]", float, double) {
  Random random(9);
  for (Index d = 1; d <= 300; ++d) {
    CAPTURE(d);
    const DeltaOperator A(random_matrix<Vector<TestType>>(random, d), TestType(2));
    CHECK(A.regime() == Regime::reflection);
  }
}

TEST_CASE("a direction of any length is normalised, k_eps inside the root", "[op][delta_operator]") {
  Random random(11);
  const auto unit = random_matrix<Vector<double>>(random, 7).normalized().eval();
  for (const double length : {0.0, 1e-20, 1e-6, 1.0, 1e18})
    for (const float k_eps : {0.0f, 1e-5f}) {
      CAPTURE(length, k_eps);
      const DeltaOperator A((length * unit).cast<float>(), 1.5f, k_eps);
      const double root = std::hypot(length, static_cast<double>(k_eps));
      const Eigen::VectorXd expected =
          length > 0 ? Eigen::VectorXd(length / root * unit) : Eigen::VectorXd(0 * unit);
      CHECK(error(A.direction().cast<double>(), expected) <= identity_tolerance<float>);
      if (expected.norm() > 0)
        CHECK(relative_error(A.direction().cast<double>(), expected) <= identity_tolerance<float>);
      CHECK(std::abs(A.determinant() - (1 - 1.5 * expected.squaredNorm())) <= identity_tolerance<float>);
      CHECK(ddl::all_finite((A * unit.cast<float>()).eval()));
    }
}

TEST_CASE("what cannot be an operator or a state is refused by name", "[op][delta_operator]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto message_of = [](const auto& attempt) -> std::string {
    try {
      attempt();
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "nothing was thrown";
  };
  const Eigen::VectorXd k = Eigen::VectorXd::Ones(4);
  const DeltaOperator A(k, 1);
  Eigen::MatrixXd X(4, 2), tall(5, 2), wide(4, 3);
  const auto refused = [&](const auto& attempt, const std::string& message) {
    CHECK_THAT(message_of(attempt), ContainsSubstring(message));
  };
  refused([&] { DeltaOperator(k.head(0), 1); }, "the size of the direction is 0, expected at least 1");
  refused([&] { DeltaOperator<double, 3>(k, 1); }, "the size of the direction is 4, expected 3 (fixed)");
  refused([&] { DeltaOperator(nan * k, 1); }, "the direction is not finite");
  refused([&] { DeltaOperator<double>::as_given(k / 0, 1); }, "the direction is not finite");
  refused([&] { DeltaOperator(k, nan); }, "beta is not finite");
  refused([&] { DeltaOperator(k, 1, nan); }, "k_eps is");
  refused([&] { A.apply(tall, X); }, "X is 5 x 2, expected 4 x 2");
  refused([&] { A.apply(X, wide); }, "Y is 4 x 3, expected 4 x 2");
  refused([&] { A.apply_in_place(tall); }, "X is 5 x 2, expected 4 x 2");
  refused([&] { X = A * tall; }, "the right-hand side is 5 x 2, expected 4 x 2");
  refused([&] { A.update(X, k, X); }, "the size of v is 4, expected 2");
  refused([&] { A.update(X, k.head(2), tall); }, "Y is 5 x 2, expected 4 x 2");
}

TEST_CASE("the destination may overlap what is read in any way", "[op][delta_operator]") {
  Random random(14);
  const auto A = random_operator<double, Dynamic>(random, 4);
  const Eigen::MatrixXd dense = A.dense(), X = random_matrix<Eigen::MatrixXd>(random, 4, 4),
                        tall = random_matrix<Eigen::MatrixXd>(random, 6, 3);
  Worst worst;
  const auto starting_from = [&](const Eigen::MatrixXd& first, const auto& f,
                                 const Eigen::MatrixXd& expected) {
    Eigen::MatrixXd Y = first;
    f(Y);
    worst.add(error(Y, expected));
  };
  starting_from(
      X, [&](auto& Y) { Y = A * Y; }, dense * X);
  starting_from(
      X, [&](auto& Y) { Y = A * Y.transpose(); }, dense * X.transpose());
  starting_from(
      X, [&](auto& Y) { Y = A * (Y + Y.transpose()); }, dense * (X + X.transpose()));
  starting_from(
      X, [&](auto& Y) { Y = A * Y.rowwise().reverse(); }, dense * X.rowwise().reverse());
  starting_from(
      X, [&](auto& Y) { Y.transpose() = A * Y; }, (dense * X).transpose());
  starting_from(
      X, [&](auto& Y) { Y = A * (A * Y).transpose(); }, dense * (dense * X).transpose());
  starting_from(
      X, [&](auto& Y) { Y += A * Y.transpose(); }, X + dense * X.transpose());
  starting_from(
      X, [&](auto& Y) { Y = 2 * (A * Y.transpose()); }, 2 * (dense * X.transpose()));
  starting_from(
      X, [&](auto& Y) { A.apply(Y.transpose(), Y); }, dense * X.transpose());
  starting_from(
      X, [&](auto& Y) { A.apply(Y, Y.rowwise().reverse()); }, (dense * X).rowwise().reverse());
  starting_from(
      tall, [&](auto& Y) { Y = A * Y.topRows(4); }, dense * tall.topRows(4));
  starting_from(
      tall, [&](auto& Y) { Y.noalias() = A * Y.topRows(4); }, dense * tall.topRows(4));
  starting_from(
      tall, [&](auto& Y) { Y = A * Eigen::Map<Eigen::MatrixXd>(Y.data() + 1, 4, 4); },
      dense * Eigen::Map<const Eigen::MatrixXd>(tall.data() + 1, 4, 4));
  starting_from(
      tall.topRows(2).eval(), [&](auto& Y) { Y = A * Y.replicate(2, 1); },
      dense * tall.topRows(2).replicate(2, 1));
  for (const Index shift : {-1, 1}) {
    Eigen::MatrixXd Y = X;
    const Eigen::MatrixXd expected = dense * X.middleCols(1, 2);
    Y.middleCols(1 + shift, 2) = A * Y.middleCols(1, 2);
    worst.add(error(Y.middleCols(1 + shift, 2), expected));
    Y = X;
    A.apply(Y.middleCols(1, 2), Y.middleCols(1 + shift, 2));
    worst.add(error(Y.middleCols(1 + shift, 2), expected));
  }
  const Eigen::MatrixXd written = dense * X + A.beta() * A.direction() * X.row(1).reverse();
  starting_from(
      X, [&](auto& Y) { A.update_in_place(Y, Y.row(1).reverse()); }, written);
  starting_from(
      X, [&](auto& Y) { A.update(X, X.row(1).reverse(), Y); }, written);
  CHECK(worst <= identity_tolerance<double>);
}

TEST_CASE("a coefficient of a product is a value, and what is temporary lives as long as the product",
          "[op][delta_operator]") {
  Random random(15);
  const Eigen::VectorXd kt = random_matrix<Eigen::VectorXd>(random, 4),
                        x = random_matrix<Eigen::VectorXd>(random, 4);
  const auto X = random_matrix<Matrix<double>>(random, 4, 3);
  const DeltaOperator A(kt, 1.5);
  const Matrix<double> expected = A.dense() * X;
  STATIC_REQUIRE(std::is_same_v<decltype((A * x)[2]), double>);
  STATIC_REQUIRE(std::is_same_v<decltype((A * X)(1, 2)), double>);
  CHECK((A * x)[2] == Catch::Approx(A.dense().row(2).dot(x)));
  CHECK((A * X)(1, 2) == Catch::Approx(expected(1, 2)));
  CHECK((A * X).norm() == Catch::Approx(expected.norm()));
  const auto Y = DeltaOperator(kt, 1.5) * X;
  const auto Z = A * Matrix<double>(2 * X);
  const auto W = A.inverse() * (A * X);
  CHECK(error(Y, expected) <= identity_tolerance<double>);
  CHECK(error(Z, 2 * expected) <= identity_tolerance<double>);
  CHECK(error(W, X) <= identity_tolerance<double>);
}

TEST_CASE("what stands within a product is evaluated once", "[op][delta_operator]") {
  Random random(16);
  const auto A = random_operator<double, Dynamic>(random, 40);
  const auto X = random_matrix<Matrix<double>>(random, 40, 40);
  int reads = 0;
  const auto counting = X.unaryExpr([&reads](double entry) {
    ++reads;
    return entry;
  });
  const Matrix<double> Y = A * (A * counting).transpose();
  CHECK(reads == X.size());
  CHECK(error(Y, A.dense() * (A.dense() * X).transpose()) <= identity_tolerance<double>);
}

TEST_CASE("the squared length of a direction taken as given is finite", "[op][delta_operator]") {
  CHECK_THROWS_WITH(DeltaOperator<float>::as_given(Eigen::Vector2f(1e38f, 0), 1),
                    ContainsSubstring("the squared length of the direction is not finite"));
}

TEST_CASE("a state without columns stays one", "[op][delta_operator]") {
  const DeltaOperator A(Eigen::Vector3d(1, 2, 3), 1);
  Eigen::Matrix3Xd none(3, 0);
  CHECK_NOTHROW(A.apply_in_place(none));
  CHECK((A * none).eval().cols() == 0);
}

TEST_CASE("applying an operator of 200,000 rows takes no memory at all", "[op][delta_operator]") {
  constexpr Index d = 200000, m = 4;
  Random random(12);
  const DeltaOperator A(random_matrix<Vector<float>>(random, d), 1.5f);
  const auto X = random_matrix<Matrix<float>>(random, d, m);
  const Eigen::Vector4f v(1, 2, 3, 4);
  const Eigen::VectorXd k = A.direction().cast<double>();
  const Eigen::MatrixXd before = X.cast<double>();
  const Eigen::MatrixXd expected = before - 1.5 * k * (k.transpose() * before);
  Matrix<float> Y(d, m);
  Eigen::Matrix<float, Dynamic, Dynamic, Eigen::RowMajor> row_major = X;
  CHECK(allocations_in([&] { Y = A * X; }) == 0);
  CHECK(error(Y.cast<double>(), expected) <= float_tolerance);
  CHECK(allocations_in([&] {
          A.apply(X, Y);
          A.apply_in_place(Y);
          A.update(X, v, Y);
          A.update_in_place(Y, v);
          Y.middleCols(1, 2) = A * X.rightCols(2);
          A.apply_in_place(row_major);
        }) == 0);
  CHECK(error(row_major.cast<double>(), expected) <= float_tolerance);
}

TEST_CASE("a fixed-size operator never touches the heap", "[op][delta_operator]") {
  Random random(13);
  const auto k = random_matrix<Vector<float, 8>>(random, 8);
  const auto X = random_matrix<Matrix<float, 8, 4>>(random, 8, 4);
  const Eigen::Vector4f v(1, 2, 3, 4);
  float sum = 0;
  CHECK(allocations_in([&] {
          const DeltaOperator A(k, 0.5f);
          Matrix<float, 8, 4> Y = A * X;
          A.inverse().apply_in_place(Y);
          A.pow(3).update_in_place(Y, v);
          sum = A.transpose().dense().sum() + Y.sum();
        }) == 0);
  CHECK(ddl::is_finite(sum));
}
