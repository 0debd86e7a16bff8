// SPDX-License-Identifier: MIT
#include "ddl/core/scalar.hpp"

#include <limits>

#include "support/catch.hpp"
#include "support/tolerance.hpp"

namespace {

template <class Scalar, class Expected>
inline constexpr bool accumulates_in = std::is_same_v<ddl::Accum<Scalar>, Expected>;

// numeric_limits keeps this one file true for every type with a NaN and an infinity.
template <class Scalar>
struct Specials {
  using Limits = std::numeric_limits<Scalar>;
  const Scalar finite[6] = {Scalar(0),       Scalar(-1),           (Limits::max)(),
                            (Limits::min)(), Limits::denorm_min(), Limits::lowest()};
  const Scalar broken[3] = {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()};
};

}  // namespace

TEST_CASE("sixteen-bit scalars accumulate in float and the others in themselves", "[core][scalar]") {
  STATIC_REQUIRE(accumulates_in<Eigen::half, float>);
  STATIC_REQUIRE(accumulates_in<Eigen::bfloat16, float>);
  STATIC_REQUIRE(accumulates_in<float, float>);
  STATIC_REQUIRE(accumulates_in<double, double>);
  STATIC_REQUIRE(accumulates_in<long double, long double>);
  STATIC_REQUIRE(accumulates_in<std::complex<float>, std::complex<float>>);
  STATIC_REQUIRE(std::is_same_v<ddl::RealOf<std::complex<double>>, double>);
  STATIC_REQUIRE(std::is_same_v<ddl::RealOf<float>, float>);
}

TEMPLATE_TEST_CASE("a number is finite unless it is NaN or infinite", "[core][scalar]", float, double,
                   long double, Eigen::half, Eigen::bfloat16) {
  const Specials<TestType> specials;
  for (const TestType& x : specials.finite) CHECK(ddl::is_finite(x));
  for (const TestType& x : specials.broken) CHECK_FALSE(ddl::is_finite(x));
}

TEMPLATE_TEST_CASE("a complex number is finite if both of its parts are", "[core][scalar]", float, double) {
  using Complex = std::complex<TestType>;
  CHECK(ddl::is_finite(Complex(1, -2)));
  for (const TestType& x : Specials<TestType>().broken) {
    CHECK_FALSE(ddl::is_finite(Complex(x, 0)));
    CHECK_FALSE(ddl::is_finite(Complex(0, x)));
  }
}

TEST_CASE("one NaN anywhere makes a matrix not finite", "[core][scalar]") {
  Eigen::MatrixXd x = Eigen::MatrixXd::Zero(5, 4);
  CHECK(ddl::all_finite(x));
  CHECK(ddl::all_finite(x.topRows(0)));
  for (Eigen::Index i = 0; i < x.size(); ++i) {
    x(i) = std::numeric_limits<double>::quiet_NaN();
    CHECK_FALSE(ddl::all_finite(x));
    CHECK_FALSE(ddl::all_finite(x.transpose() * 2.0));
    x(i) = 0;
  }
}

TEST_CASE("the error measures of the tests fail on NaN, on another shape and on nothing", "[core][support]") {
  using ddl::test::error;
  using ddl::test::relative_error;
  const Eigen::VectorXd ones = Eigen::VectorXd::Ones(7);
  CHECK(error(ones, ones) == 0);
  CHECK(error(1.25 * ones, ones) == 0.25);
  CHECK(error(5 * ones, 4 * ones) == 0.25);
  CHECK(relative_error(1.25 * ones, ones) == Catch::Approx(0.25));
  CHECK_FALSE(error(ones, ones.transpose()) <= 1);
  CHECK_FALSE(relative_error(ones, ones.head(6)) <= 1);
  CHECK_FALSE(relative_error(ones, 0 * ones) <= 1);
  for (Eigen::Index i = 0; i < ones.size(); ++i) {
    Eigen::VectorXd broken = ones;
    broken(i) = std::numeric_limits<double>::quiet_NaN();
    CHECK_FALSE(error(broken, ones) <= 1);
    CHECK_FALSE(error(ones, broken) <= 1);
    CHECK_FALSE(relative_error(broken, ones) <= 1);
    CHECK_FALSE(relative_error(ones, broken) <= 1);
  }
}
