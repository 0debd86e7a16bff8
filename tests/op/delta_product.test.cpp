// SPDX-License-Identifier: MIT
#include "ddl/op/delta_product.hpp"

#include <complex>
#include <limits>
#include <vector>

#include "ddl/train/gradient_check.hpp"
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

/// Everything that a product's result depends on, for check_gradients.
struct Inputs {
  using Scalar = double;
  Matrix<double> X, K, V, beta;
  static constexpr auto parameters() {
    using ddl::parameter;
    return std::tuple(parameter("X", &Inputs::X), parameter("K", &Inputs::K), parameter("V", &Inputs::V),
                      parameter("beta", &Inputs::beta));
  }
  DeltaProduct<double> product() const {
    DeltaProduct<double> all(X.rows());
    for (Index i = 0; i < K.cols(); ++i)
      all.push(DeltaOperator<double>::as_given(K.col(i), beta(i)), V.row(i).transpose());
    return all;
  }
};

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
    const double compact = compact_tolerance<double>(c.count, d, X.colwise().norm().maxCoeff());
    product.apply(X, Y);
    CHECK(error(Y, expected.lazyProduct(X)) <= compact);
    product.apply_adjoint(X, Z);
    CHECK(error(Z, expected.transpose().lazyProduct(X)) <= compact);
    CHECK(std::abs(product.determinant() - determinant) <= tolerance);
    if (c.beta != 1) {
      product.inverse().apply_in_place(Y);
      CHECK(error(Y, X) <= undo_tolerance);
    }
  }
}

TEST_CASE("a product with writes is the sequence of updates, and its inverse takes them back",
          "[op][delta_product]") {
  constexpr Index d = 12, m = 3;
  Random random(2);
  for (const Case& c : cases())
    for (const int every :
         {1, 3}) {  // each edit writes, or one in three, the first of which is not the first edit
      CAPTURE(static_cast<int>(c.kind), c.count, c.beta, every);
      const auto X = random_matrix<Matrix<double>>(random, d, m);
      Matrix<long double> state = X.cast<long double>();
      double size = X.colwise().norm().maxCoeff();
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
        size = (std::max)(
            {size, static_cast<double>(state.colwise().norm().maxCoeff()), v.cwiseAbs().maxCoeff()});
      }
      CHECK(product.writes() == (c.count >= every));
      Matrix<double> Y = product * X;
      CHECK(error(Y, state.cast<double>()) <= compact_tolerance<double>(c.count, d, size));
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

TEST_CASE("a product's backward pass is the gradient of its forward pass", "[op][delta_product][grad]") {
  constexpr Index d = 6, n = 5, m = 3;
  Random random(11);
  for (const double beta : {0.0, 1e-6, 1.0, 2.0, -1.0})  // -1: mixed
    for (const double dlog : {0.0, 0.7}) {               // of the log-determinant
      Inputs inputs{random_matrix<Matrix<double>>(random, d, m), random_matrix<Matrix<double>>(random, d, n),
                    random_matrix<Matrix<double>>(random, n, m), Matrix<double>::Constant(1, n, beta)};
      inputs.K.colwise().normalize();
      if (dlog > 0) inputs.K *= 0.9;  // no projections
      if (beta < 0) inputs.beta << 0, 1, 2, 1e-6, 1.5;
      const auto G = random_matrix<Matrix<double>>(random, d, m);
      const Matrix<double> base = inputs.X;
      Matrix<double> Y(d, m), dX = G;
      // <G, Y - base>, with Y - base as the sum of what changed: beside X, which is of order 1, gates of 1e-6
      // are lost to rounding.
      const auto loss = [&] {
        const auto product = inputs.product();
        DeltaProduct<double>::Tape tape;
        product.apply(inputs.X, Y, tape);
        return G.cwiseProduct(inputs.X - base + inputs.K * tape.steps).sum() +
               (dlog > 0 ? dlog * product.log_abs_determinant() : 0.0);
      };
      const auto product = inputs.product();
      DeltaProduct<double>::Tape tape;
      DeltaProduct<double>::Gradient gradient;
      product.apply(inputs.X, Y, tape);
      CHECK(error(Y, inputs.X + inputs.K * tape.steps) <= identity_tolerance<double>);
      product.backward(inputs.X, tape, dX, gradient);
      if (dlog > 0) product.log_abs_determinant_backward(dlog, gradient);
      Inputs given{dX, gradient.directions, gradient.writes, gradient.betas.transpose()};
      const auto report = ddl::check_gradients(inputs, given, loss, {.step = 1e-4, .allow_zero = beta == 0});
      CAPTURE(beta, dlog);
      INFO(report.message());
      CHECK(report.passes(gradient_tolerance));
      Matrix<double> again = G;
      DeltaProduct<double>::Gradient second;
      product.backward(inputs.X, tape, again, second);  // the tape is as it was
      CHECK(again == dX);
    }
}

TEST_CASE("no entry of the compact form's inverse is larger than 2", "[op][delta_product]") {
  constexpr Index d = 12;
  Random random(12);
  for (const Index n : {2, 64, 256})
    for (const auto kind : {Directions::random, Directions::repeated, Directions::nearly_parallel})
      for (const double beta : {0.5, 1.0, 2.0})
        for (const bool alternating : {false, true}) {
          auto K = directions_of(kind, d, n, random);
          if (alternating)
            for (Index i = 1; i < n; i += 2) K.col(i) *= -1;
          DeltaProduct<double> product(d);
          for (Index i = 0; i < n; ++i) product.push(DeltaOperator<double>::as_given(K.col(i), beta));
          const Matrix<double> scaled = product.betas().asDiagonal() * product.overlaps();
          const Matrix<double> inverse =
              scaled.triangularView<Eigen::UnitLower>().solve(Matrix<double>::Identity(n, n));
          CAPTURE(n, static_cast<int>(kind), beta, alternating);
          CHECK(inverse.cwiseAbs().maxCoeff() <= 2 + compact_tolerance<double>(n, d, 1));
        }
}

TEST_CASE("log-determinants keep small gates' digits and never overflow", "[op][delta_product]") {
  DeltaProduct<double> small(2), large(2), singular(2);
  for (int i = 0; i < 1000; ++i) {
    small.push(DeltaOperator(Eigen::Vector2d(3, 4), 1e-12));
    large.push(DeltaOperator<double>::as_given(Eigen::Vector2d(1e3, 0), 1));
  }
  singular.push(DeltaOperator(Eigen::Vector2d(1, 0), 1));
  CHECK(small.log_abs_determinant() == Catch::Approx(-1e-9).epsilon(1e-10).margin(0));
  CHECK(large.log_abs_determinant() == Catch::Approx(1000 * std::log(1e6 - 1)).epsilon(1e-12));
  CHECK(singular.log_abs_determinant() < -1e300);
  CHECK(DeltaOperator(Eigen::Vector2d(3, 4), 3).log_abs_determinant() == Catch::Approx(std::log(2)));
}

TEST_CASE("the determinant is right for directions of any length", "[op][delta_product]") {
  DeltaProduct<double> product(2);
  product.push(DeltaOperator<double>::as_given(Eigen::Vector2d(0, 2), 0.5));
  product.push(DeltaOperator<double>::as_given(Eigen::Vector2d(3, 4), 0.1));
  CHECK(product.determinant() == Catch::Approx(1.5));
}

TEST_CASE("operators and products compose in any order and of any sizes", "[op][delta_product]") {
  Random random(13);
  const DeltaOperator A(random_matrix<Vector<double>>(random, 4), 1.5);
  const DeltaOperator<double, 4> B(random_matrix<Vector<double, 4>>(random, 4), 0.5);
  const DeltaOperator C(random_matrix<Vector<double>>(random, 4), 2.0);
  const Matrix<double> expected = A.dense() * B.dense() * C.dense();
  STATIC_REQUIRE(std::is_same_v<decltype(A * B), DeltaProduct<double, 4>>);
  CHECK(error((A * B * C).dense(), expected) <= identity_tolerance<double>);
  CHECK(error((A * (B * C)).dense(), expected) <= identity_tolerance<double>);
  CHECK(error(((A * B) * (B * C)).dense(), A.dense() * B.dense() * B.dense() * C.dense()) <=
        identity_tolerance<double>);
  const Vector<double> x = random_matrix<Vector<double>>(random, 4);
  CHECK(error((A * (B * (C * x))).eval(), expected * x) <= identity_tolerance<double>);
  CHECK(error((A * B * C * x).eval(), expected * x) <= identity_tolerance<double>);
  CHECK(error((A * B * C).adjoint().dense(), expected.transpose()) <= identity_tolerance<double>);
  CHECK(error((A * B * C).transpose().dense(), expected.transpose()) <= identity_tolerance<double>);
  CHECK_THROWS_WITH(A * DeltaOperator(Eigen::VectorXd::Ones(5).eval(), 1),
                    ContainsSubstring("size is 4, expected 5"));
}

TEST_CASE("a product's power repeats it, writes included, and its inverse", "[op][delta_product]") {
  Random random(14);
  DeltaProduct<double> product(5);
  for (int i = 0; i < 3; ++i)
    product.push(DeltaOperator(random_matrix<Vector<double>>(random, 5), 0.4 + 0.7 * i),
                 random_matrix<Vector<double>>(random, 2));
  const auto X = random_matrix<Matrix<double>>(random, 5, 2);
  Matrix<double> Y = X;
  CHECK(Matrix<double>(product.pow(0) * X) == X);
  for (int i = 0; i < 3; ++i) Y = product * Y;
  CHECK(error((product.pow(3) * X).eval(), Y) <= sequence_tolerance<double>(20));
  CHECK(error((product.pow(-3) * Y).eval(), X) <= undo_tolerance);
}

TEST_CASE("the destination of a product may overlap what is read", "[op][delta_product]") {
  Random random(16);
  DeltaProduct<double> P(4);
  for (int i = 0; i < 2; ++i) P.push(DeltaOperator(random_matrix<Vector<double>>(random, 4), 1.3));
  const auto X = random_matrix<Matrix<double>>(random, 4, 4);
  const Matrix<double> dense = P.dense();
  Matrix<double> Y = X;
  Y = P * Y.transpose();
  CHECK(error(Y, dense * X.transpose()) <= identity_tolerance<double>);
  Y = X;
  P.apply(Y.transpose(), Y);
  CHECK(error(Y, dense * X.transpose()) <= identity_tolerance<double>);
  Y = X;
  P.apply_adjoint(Y.rowwise().reverse(), Y);
  CHECK(error(Y, dense.transpose() * X.rowwise().reverse()) <= identity_tolerance<double>);
  Y = X;
  Y.rightCols(3) = P * Y.leftCols(3);
  CHECK(error(Y.rightCols(3), dense * X.leftCols(3)) <= identity_tolerance<double>);
}

TEST_CASE("a product with a tape that was used before takes no memory, in either direction",
          "[op][delta_product]") {
  Random random(17);
  DeltaProduct<float> P(32);
  for (int i = 0; i < 16; ++i)
    P.push(DeltaOperator(random_matrix<Vector<float>>(random, 32), 1.5f),
           random_matrix<Vector<float>>(random, 24));
  const auto X = random_matrix<Matrix<float>>(random, 32, 24);
  Matrix<float> Y = X, dX = X;
  DeltaProduct<float>::Tape tape;
  DeltaProduct<float>::Gradient gradient;
  const auto both = [&] {
    P.apply(X, Y, tape);
    P.backward(X, tape, dX, gradient);
    P.apply_adjoint(X, Y, tape);
  };
  both();
  CHECK(allocations_in(both) == 0);
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

TEST_CASE("a product times a segment of a vector", "[op][delta_product]") {
  Random random(3);
  DeltaProduct<double> P(3);
  for (int i = 0; i < 2; ++i) P.push(DeltaOperator<double>(random_matrix<Vector<double>>(random, 3), 1.5));
  const auto x = random_matrix<Vector<double>>(random, 8, 1);
  const Eigen::Matrix<double, 8, 1> fixed = x;
  const Vector<double> expected = P.dense() * x.segment(2, 3);
  CHECK(error((P * x.segment(2, 3)).eval(), expected) <= identity_tolerance<double>);
  CHECK(error((P * fixed.segment<3>(2)).eval(), expected) <= identity_tolerance<double>);
}
