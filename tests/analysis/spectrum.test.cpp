// SPDX-License-Identifier: MIT
#include "ddl/analysis/spectrum.hpp"

#include <algorithm>
#include <complex>
#include <functional>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/op_data.hpp"

using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;
using ddl::DeltaOperator;
using ddl::DeltaProduct;
using ddl::Dynamic;
using ddl::effective_rank;
using ddl::Index;
using ddl::Matrix;
using ddl::Random;
using ddl::singular_values;
using ddl::spectrum;
using ddl::stable_rank;
using ddl::Vector;
using Complex = std::complex<double>;

namespace {

enum class Directions { random, repeated, plane };

/// n edits of d dimensions; a gate of -1 stands for a mixture.
template <class Scalar, int Rows = Dynamic>
DeltaProduct<Scalar, Rows> random_product(Directions kind, Index d, Index n, double beta, Random& random) {
  constexpr double gates[] = {0.3, 1, 1.6, 2, 0, 2 - 1e-6};
  const auto basis = random_matrix<Matrix<Scalar, Rows, 2>>(random, d, 2);
  DeltaProduct<Scalar, Rows> product(d);
  for (Index i = 0; i < n; ++i) {
    auto k = random_matrix<Vector<Scalar, Rows>>(random, d);
    if (kind == Directions::repeated) k = basis.col(0);
    if (kind == Directions::plane) k = (basis * random_matrix<Vector<Scalar, 2>>(random, 2)).eval();
    product.push(DeltaOperator(k, static_cast<float>(beta < 0 ? gates[i % 6] : beta)));
  }
  return product;
}

/// Of n operators and a decomposition, whose results are sums of many terms.
template <class Scalar>
double spectrum_tolerance(Index n) {
  return std::max(derivative_tolerance<Scalar>, sequence_tolerance<Scalar>(n));
}

/// How far the spectrum is from that of the dense A. Eigenvalues are compared by what rounding leaves of them
/// however ill-conditioned they are: each is one of a matrix near A, and their powers' sums are the traces of
/// A's powers.
template <class Real>
double spectrum_error(const ddl::Spectrum<Real>& s, const Matrix<Complex>& A) {
  const Index d = A.rows(), p = s.eigenvalues.size();
  if (s.singular_values.size() != p || p + s.ones != d) return std::numeric_limits<double>::infinity();
  Worst worst;
  Vector<double> all = Vector<double>::Ones(d);
  all.head(p) = s.singular_values.template cast<double>();
  std::sort(all.begin(), all.end(), std::greater<>());
  worst.add(error(all, singular_values(A)));
  Vector<Complex> values = Vector<Complex>::Ones(d), powers = values;
  values.head(p) = s.eigenvalues.template cast<Complex>();
  Matrix<Complex> power = Matrix<Complex>::Identity(d, d);
  for (int i = 1; i <= 4; ++i) {
    powers.array() *= values.array();
    power *= A;
    worst.add(std::abs(powers.sum() - power.trace()) / static_cast<double>(d));
  }
  // The last diagonal entry of R bounds the distance to a singular matrix from above.
  for (const Complex& value : values)
    worst.add(
        std::abs(Eigen::ColPivHouseholderQR<Matrix<Complex>>(A - value * Matrix<Complex>::Identity(d, d))
                     .matrixQR()(d - 1, d - 1)));
  return worst;
}

}  // namespace

TEST_CASE("the spectrum is that of the dense product", "[analysis][spectrum]") {
  Random random(1);
  for (const auto kind : {Directions::random, Directions::repeated, Directions::plane})
    for (const Index d : {1, 2, 9})
      for (const Index n : {1, 2, 5, 9, 10, 30})
        for (const double beta : {0.0, 1e-6, 0.7, 1.0, 2.0, -1.0}) {
          CAPTURE(static_cast<int>(kind), d, n, beta);
          const auto product = random_product<double>(kind, d, n, beta, random);
          const auto s = spectrum(product);
          CHECK(s.ones == d - std::min(d, n));
          CHECK(spectrum_error(s, product.dense().cast<Complex>()) <= spectrum_tolerance<double>(n));
          const Complex determinant = s.eigenvalues.prod();
          CHECK(std::abs(determinant - product.determinant()) <= spectrum_tolerance<double>(n));
        }
}

TEST_CASE("eigenvalues are those of Eigen's solver for the dense product", "[analysis][spectrum]") {
  Random random(2);
  const auto product = random_product<double>(Directions::random, 12, 7, 1.4, random);
  const auto s = spectrum(product);
  const auto dense = Eigen::EigenSolver<Matrix<double>>(product.dense(), false).eigenvalues().eval();
  CHECK(dense.imag().cwiseAbs().maxCoeff() > 0.01);  // complex ones are among them
  for (const Complex value : s.eigenvalues)
    CHECK((dense.array() - value).abs().minCoeff() <= derivative_tolerance<double>);
  for (const Complex value : dense)
    CHECK(std::min((s.eigenvalues.array() - value).abs().minCoeff(), std::abs(value - 1.0)) <=
          derivative_tolerance<double>);
}

TEST_CASE("a product's eigenvalues are those of its matrix", "[analysis][spectrum]") {
  Random random(15);
  const auto sorted = [](auto values) {
    std::sort(values.begin(), values.end(), [](const Complex& a, const Complex& b) {
      return std::abs(a.real() - b.real()) > 1e-8 ? a.real() < b.real() : a.imag() < b.imag();
    });
    return Vector<Complex>(values);
  };
  for (const Index n : {0, 1, 3, 9}) {
    DeltaProduct<double, 5> product;
    for (Index i = 0; i < n; ++i)
      product.push(DeltaOperator<double, 5>(random_matrix<Vector<double, 5>>(random, 5), 1.7));
    const Vector<Complex> expected =
        Eigen::EigenSolver<Matrix<double>>(Matrix<double>(product.dense()), false).eigenvalues();
    CAPTURE(n);
    CHECK(error(sorted(ddl::eigenvalues(product)), sorted(expected)) <= sequence_tolerance<double>(100));
  }
}

TEST_CASE("known spectra", "[analysis][spectrum]") {
  const Eigen::Vector3d x(1, 0, 0), y(0, 1, 0), tilted(0.6, 0.8, 0);
  const auto of = [](std::initializer_list<DeltaOperator<double, 3>> factors) {
    DeltaProduct<double, 3> product;
    for (const auto& factor : factors) product.push(factor);
    return spectrum(product);
  };
  const auto near = [](const auto& given, const std::vector<double>& expected) {
    return error(given, Eigen::Map<const Eigen::VectorXd>(expected.data(), Index(expected.size()))) <=
           identity_tolerance<double>;
  };
  // One operator: 1 - beta; two orthogonal ones: both.
  CHECK(near(of({{x, 1.75}}).singular_values, {0.75}));
  CHECK(near(of({{x, 1.75}}).eigenvalues.real(), {-0.75}));
  CHECK(of({{x, 1.75}}).ones == 2);
  CHECK(near(of({{x, 0.5}, {y, 1.25}}).singular_values, {0.5, 0.25}));
  // The same direction twice: one dimension takes both, the other none.
  CHECK(near(of({{x, 0.5}, {x, 0.5}}).singular_values, {1, 0.25}));
  // Two reflections are a rotation by twice the angle between them, cos 2t = 2 (0.6)^2 - 1.
  const auto rotation = of({{x, 2}, {tilted, 2}});
  CHECK(near(rotation.singular_values, {1, 1}));
  CHECK(near(rotation.eigenvalues.real(), {-0.28, -0.28}));
  CHECK(near(rotation.eigenvalues.imag().cwiseAbs(), {0.96, 0.96}));
  CHECK(near(rotation.eigenvalues.cwiseAbs(), {1, 1}));
  // A direction of any length: 1 - beta |k|^2.
  CHECK(near(of({DeltaOperator<double, 3>::as_given(3 * x, 0.5)}).eigenvalues.real(), {-3.5}));
}

TEST_CASE("the empty product and writes leave the spectrum alone", "[analysis][spectrum]") {
  const auto none = spectrum(DeltaProduct<double>(4));
  CHECK(none.singular_values.size() == 0);
  CHECK(none.eigenvalues.size() == 0);
  CHECK(none.ones == 4);

  Random random(3);
  DeltaProduct<double> writing(6), plain(6);
  for (int i = 0; i < 4; ++i) {
    const DeltaOperator A(random_matrix<Vector<double>>(random, 6), 1.5);
    writing.push(A, random_matrix<Vector<double>>(random, 2));
    plain.push(A);
  }
  CHECK(spectrum(writing).singular_values == spectrum(plain).singular_values);
}

TEMPLATE_TEST_CASE_SIG("spectra of any scalar and size", "[analysis][spectrum]",
                       ((class Scalar, int Rows), Scalar, Rows), (float, 7), (Eigen::half, Dynamic),
                       (Complex, Dynamic), (double, 1)) {
  using Wide = ddl::Accum<Scalar>;
  constexpr Index d = Rows == Dynamic ? 7 : Rows;
  Random random(4);
  for (const Index n : {3, 8}) {
    const auto product = random_product<Scalar, Rows>(Directions::random, d, n, -1, random);
    const auto s = spectrum(product);
    STATIC_REQUIRE(std::is_same_v<decltype(s), const ddl::Spectrum<ddl::RealOf<Wide>>>);
    CHECK(spectrum_error(s, product.dense().template cast<Complex>()) <= spectrum_tolerance<Wide>(n));
  }
}

TEST_CASE("hundreds of edits: as contractions, no singular value exceeds 1", "[analysis][spectrum]") {
  Random random(5);
  const auto product = random_product<double>(Directions::random, 16, 400, -1, random);
  const auto s = spectrum(product);
  CHECK(s.singular_values[0] <= 1 + sequence_tolerance<double>(400));
  CHECK(error(s.singular_values, singular_values(product.dense())) <= sequence_tolerance<double>(400));
}

TEST_CASE("a product that overflows is refused", "[analysis][spectrum]") {
  DeltaProduct<double> product(2);
  for (int i = 0; i < 3; ++i)
    product.push(DeltaOperator<double>::as_given(Vector<double>::Constant(2, 1e100), 1.0));
  CHECK_THROWS_WITH(spectrum(product), ContainsSubstring("the product is not finite"));
}

TEST_CASE("singular values of any matrix, and nothing that is not a number", "[analysis][spectrum]") {
  Random random(6);
  for (const Index rows : {1, 3, 8})
    for (const Index cols : {1, 5}) {
      const auto A = random_matrix<Matrix<float>>(random, rows, cols);
      const auto values = singular_values(A);
      CHECK(values.size() == std::min(rows, cols));
      const Matrix<double> wide = A.cast<double>(), square = rows < cols
                                                                 ? Matrix<double>(wide * wide.transpose())
                                                                 : Matrix<double>(wide.transpose() * wide);
      const Eigen::SelfAdjointEigenSolver<Matrix<double>> squares(square, Eigen::EigenvaluesOnly);
      CHECK(error(values, squares.eigenvalues().cwiseMax(0).cwiseSqrt().reverse()) <= float_tolerance);
      CHECK(std::is_sorted(values.begin(), values.end(), std::greater<>()));
    }
  CHECK(singular_values(Matrix<double>(0, 3)).size() == 0);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Matrix<double> A = Matrix<double>::Identity(3, 3);
    A(1, 2) = bad;
    CHECK_THROWS_WITH(singular_values(A), ContainsSubstring("the matrix is not finite"));
  }
}

TEST_CASE("effective and stable rank", "[analysis][spectrum]") {
  const Eigen::Vector4d equal(3, 3, 3, 3), one(5, 0, 0, 0), mixed(4, 2, 1, 1);
  const double exact = identity_tolerance<double>;
  CHECK(std::abs(effective_rank(equal) - 4) <= exact);
  CHECK(std::abs(stable_rank(equal) - 4) <= exact);
  CHECK(effective_rank(one) == 1);
  CHECK(stable_rank(one) == 1);
  // Shares 1/2, 1/4, 1/8, 1/8: an entropy of 1.75 bits. Squares 16 + 4 + 1 + 1 over 16.
  CHECK(std::abs(effective_rank(mixed) - std::exp2(1.75)) <= exact);
  CHECK(std::abs(stable_rank(mixed) - 22.0 / 16) <= exact);
  CHECK(effective_rank(Eigen::Vector2d(0, 0)) == 0);
  CHECK(stable_rank(Eigen::Vector2d(0, 0)) == 0);
  CHECK(effective_rank(Vector<double>(0)) == 0);
  // The unit does not matter, however large or small.
  for (const double unit : {1e-300, 1e300}) {
    CHECK(std::abs(effective_rank(unit * mixed) - std::exp2(1.75)) <= exact);
    CHECK(std::abs(stable_rank(unit * mixed) - 22.0 / 16) <= exact);
  }
  for (const double bad :
       {-1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    CHECK_THROWS_WITH(effective_rank(Eigen::Vector2d(1, bad)), ContainsSubstring("a singular value is"));
    CHECK_THROWS_WITH(stable_rank(Eigen::Vector2d(bad, 1)), ContainsSubstring("a singular value is"));
  }
}
