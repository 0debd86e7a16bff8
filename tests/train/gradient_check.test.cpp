// SPDX-License-Identifier: MIT
#include "ddl/train/gradient_check.hpp"

#include <cstring>

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

struct Pair {
  using Scalar = double;
  Matrix<double> a, b;
  static constexpr auto parameters() {
    return std::tuple(parameter("a", &Pair::a), parameter("b", &Pair::b));
  }
};

/// L = sum of sin(a) + sum of b^3, with its gradient.
struct Problem {
  Pair at{Matrix<double>(3, 3), Matrix<double>(2, 4)}, gradient;

  Problem() {
    Random random(8);
    fill(random, at.a);
    fill(random, at.b);
    gradient = {at.a.array().cos(), 3 * at.b.array().square()};
  }
  double loss() const { return at.a.array().sin().sum() + at.b.array().cube().sum(); }
  GradientReport check(const GradientCheckSettings& settings = {}) {
    return ddl::check_gradients(
        at, gradient, [this] { return loss(); }, settings);
  }
};

using Catch::Matchers::ContainsSubstring;

}  // namespace

TEST_CASE("a right gradient passes, with every entry compared", "[train][gradient_check]") {
  const GradientReport report = Problem().check();
  CHECK(report.passes(gradient_tolerance));
  CHECK(report.compared == 17);
  CHECK(report.error > 0);
}

TEST_CASE("one wrong entry fails and is named", "[train][gradient_check]") {
  Problem problem;
  problem.gradient.b(1, 2) += 1e-5;
  const GradientReport report = problem.check();
  CHECK_FALSE(report.passes(gradient_tolerance));
  CHECK(report.name == "b");
  CHECK(report.row == 1);
  CHECK(report.col == 2);
  CHECK(report.given == problem.gradient.b(1, 2));
  CHECK(report.given - report.numeric == Catch::Approx(1e-5).epsilon(1e-3));
  CHECK_THAT(report.message(), ContainsSubstring("b(1, 2)"));
}

TEST_CASE("an entry that is not finite fails and is named, wherever it stands", "[train][gradient_check]") {
  const double entry = GENERATE(as<double>{}, not_a_number, infinity, -infinity);
  const bool in_first = GENERATE(true, false);
  CAPTURE(entry, in_first);
  Problem problem;
  (in_first ? problem.gradient.a : problem.gradient.b)(0, 1) = entry;
  const GradientReport report = problem.check();
  CHECK_FALSE(report.passes(gradient_tolerance));
  CHECK_FALSE(report.passes(1e300));
  CHECK_THAT(report.message(), ContainsSubstring(in_first ? "a(0, 1)" : "b(0, 1)"));
}

TEST_CASE("a loss that is not a number fails", "[train][gradient_check]") {
  Problem problem;
  CHECK_FALSE(ddl::check_gradients(problem.at, problem.gradient, [] { return not_a_number; }).passes(1e300));
}

TEST_CASE("a transposed gradient fails, and one of another shape is refused", "[train][gradient_check]") {
  Problem problem;
  problem.gradient.a.transposeInPlace();
  const GradientReport report = problem.check();
  CHECK_FALSE(report.passes(gradient_tolerance));
  CHECK(report.name == "a");
  problem.gradient.b.transposeInPlace();
  CHECK_THROWS_AS(problem.check(), std::invalid_argument);
}

TEST_CASE("a zero gradient fails, wrongly zero or zero by right", "[train][gradient_check]") {
  Problem problem;
  problem.gradient.b.setZero();
  CHECK_FALSE(problem.check().passes(gradient_tolerance));
  problem.at.b.setZero();  // now zero is right: nothing is shown by it
  problem.gradient.a = problem.at.a.array().cos();
  const auto loss = [&] { return problem.at.a.array().sin().sum(); };
  const GradientReport vacuous = ddl::check_gradients(problem.at, problem.gradient, loss);
  CHECK_FALSE(vacuous.passes(gradient_tolerance));
  CHECK(vacuous.vacuous == "b");
  CHECK_THAT(vacuous.message(), ContainsSubstring("vacuous") && ContainsSubstring("of b"));
  CHECK(ddl::check_gradients(problem.at, problem.gradient, loss, {.allow_zero = true})
            .passes(gradient_tolerance));
}

TEST_CASE("a check of no entries fails", "[train][gradient_check]") {
  Matrix<double> none(0, 3);
  const GradientReport report = ddl::check_gradients(none, none, [] { return 1.0; });
  CHECK_FALSE(report.passes(1e300));
  CHECK(report.message() == "no gradient was compared");
}

TEST_CASE("a bare matrix can be checked, and the worst entry of it named", "[train][gradient_check]") {
  Matrix<double> x = Matrix<double>::Constant(2, 3, 0.5), gradient = 2 * x;
  const auto loss = [&] { return x.squaredNorm(); };
  CHECK(ddl::check_gradients(x, gradient, loss).passes(gradient_tolerance));
  gradient(1, 2) = 0;
  const GradientReport report = ddl::check_gradients(x, gradient, loss);
  CHECK_FALSE(report.passes(gradient_tolerance));
  CHECK_THAT(report.message(), ContainsSubstring("(1, 2)"));
}

TEST_CASE("the check leaves the model as it was, bit by bit", "[train][gradient_check]") {
  Problem problem;
  problem.at.a(0, 0) = -0.0;
  problem.at.a(1, 0) = 1e-310;
  problem.at.a(2, 0) = 1e10;
  const Pair before = problem.at;
  problem.check();
  const auto same = [](const Matrix<double>& x, const Matrix<double>& y) {
    return std::memcmp(x.data(), y.data(), sizeof(double) * static_cast<std::size_t>(x.size())) == 0;
  };
  CHECK(same(problem.at.a, before.a));
  CHECK(same(problem.at.b, before.b));
}
