// SPDX-License-Identifier: MIT
#include "ddl/data/dataset.hpp"

#include "ddl/core/random.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

namespace {

template <class Scalar = float>
Dataset<Scalar> five_samples() {
  Dataset<Scalar> data;
  data.inputs.resize(2, 5);
  data.inputs << 0, 1, 2, 3, 4, 10, 11, 12, 13, 14;
  data.labels = {0, 1, ignored_label, 3, 1};
  data.targets.resize(3, 5);
  for (Index n = 0; n < 5; ++n) data.targets.col(n).setConstant(static_cast<Scalar>(100 + n));
  return data;
}

}  // namespace

TEST_CASE("a data set is split into views of its own memory", "[data][dataset]") {
  const Dataset<float> data = five_samples();
  const auto [first, rest] = data.split(2);
  CHECK(first.size() == 2);
  CHECK(rest.size() == 3);
  CHECK(first.inputs.data() == data.inputs.data());
  CHECK(rest.inputs.data() == data.inputs.data() + 4);
  CHECK(rest.targets.data() == data.targets.data() + 6);
  CHECK(rest.inputs == data.inputs.rightCols(3));
  CHECK(rest.targets == data.targets.rightCols(3));
  CHECK(std::vector(first.labels.begin(), first.labels.end()) == std::vector{0, 1});
  CHECK(std::vector(rest.labels.begin(), rest.labels.end()) == std::vector{ignored_label, 3, 1});
  const auto middle = rest.range(1, 1);
  CHECK(middle.inputs == data.inputs.col(3));
  CHECK(middle.targets == data.targets.col(3));
  CHECK(middle.labels[0] == 3);
  CHECK(data.view().range(5, 0).size() == 0);
  CHECK(allocations_in([&] { data.split(3); }) == 0);
}

TEST_CASE("labels and targets may be absent", "[data][dataset]") {
  const Dataset<double> data{.inputs = Matrix<double>::Ones(2, 5)};
  const auto [first, rest] = data.split(2);
  CHECK(first.labels.empty());
  CHECK(rest.targets.rows() == 0);
  CHECK(rest.size() == 3);
  CHECK(data.class_count() == 0);
}

TEST_CASE("there are as many classes as have names or occur", "[data][dataset]") {
  Dataset<float> data = five_samples();
  CHECK(data.class_count() == 4);
  data.class_names = {"a", "b", "c", "d", "e", "f"};
  CHECK(data.class_count() == 6);
  data.class_names.resize(1);
  CHECK(data.class_count() == 4);
}

TEST_CASE("what does not fit a data set is refused", "[data][dataset][errors]") {
  const Dataset<float> good = five_samples();
  Dataset<float> data = good;
  data.labels.pop_back();
  CHECK_THROWS_WITH(data.view(), "ddl::Dataset: the number of labels is 4, expected 5");
  data = good;
  data.labels[1] = -2;
  CHECK_THROWS_WITH(data.view(), "ddl::Dataset: a label is -2, expected 0 or more, or -1 (ignored)");
  data = good;
  data.targets.resize(3, 4);
  CHECK_THROWS_WITH(data.view(), "ddl::Dataset: targets is 3 x 4, expected 3 x 5");
  CHECK_THROWS_WITH(good.split(6), ContainsSubstring("6 samples from 0, expected one within 5 samples"));
  CHECK_THROWS_AS(good.split(-1), std::invalid_argument);
  const Index most = std::numeric_limits<Index>::max();
  for (const auto& [begin, count] : std::vector<std::pair<Index, Index>>{
           {-1, 1}, {0, 6}, {6, 0}, {5, 1}, {1, -1}, {most, 1}, {1, most}, {most, most}})
    CHECK_THROWS_AS(good.view().range(begin, count), std::invalid_argument);
}

TEMPLATE_TEST_CASE("standardised features have mean 0 and deviation 1, and go back to what they were",
                   "[data][standardisation]", float, double) {
  using Scalar = TestType;
  Random random(1);
  Matrix<Scalar> x(3, 1000);
  random.fill_normal(x, 2);
  x.row(1).array() = x.row(1).array() * Scalar(1e-3) + Scalar(5);
  x.row(2).array() = x.row(2).array() * Scalar(1e6) - Scalar(1e7);
  const Matrix<Scalar> before = x;
  const Standardisation standardisation(x);
  const Vector<Scalar> mean = before.rowwise().mean();
  CHECK(relative_error(standardisation.mean, mean) <= float_tolerance);

  CHECK(allocations_in([&] { standardisation.apply(x); }) == 0);
  const Vector<double> sums = x.template cast<double>().rowwise().mean();
  CHECK(sums.cwiseAbs().maxCoeff() <= 1e3 * identity_tolerance<Scalar>);
  const Vector<double> squares = x.template cast<double>().rowwise().squaredNorm() / 1000;
  CHECK((squares.array() - 1).abs().maxCoeff() <= 1e3 * identity_tolerance<Scalar>);

  CHECK(allocations_in([&] { standardisation.undo(x); }) == 0);
  for (Index i = 0; i < 3; ++i) CHECK(relative_error(x.row(i), before.row(i)) <= identity_tolerance<Scalar>);
}

TEST_CASE("a mean that is large beside its deviation costs no digits", "[data][standardisation]") {
  // The squares of 1e9 are spaced by 128: sum x^2 - N mean^2 would be noise.
  Matrix<double> x(1, 1001);
  for (Index n = 0; n < 1001; ++n) x(0, n) = 1e9 + static_cast<double>(n % 2);
  const Standardisation standardisation(x);
  const double share = 500.0 / 1001;
  CHECK(standardisation.mean[0] - 1e9 == Catch::Approx(share).epsilon(1e-6));
  CHECK(standardisation.deviation[0] == Catch::Approx(std::sqrt(share * (1 - share))).epsilon(1e-6));
  // A million small steps after one large number, in float.
  Matrix<float> y = Matrix<float>::Constant(1, 1'000'000, 0.1f);
  y(0, 0) = 1e6f;
  CHECK(Standardisation(y).mean[0] == Catch::Approx(1.1).epsilon(1e-6));
}

TEMPLATE_TEST_CASE("a constant feature has deviation 1 and becomes 0", "[data][standardisation]", float,
                   double, Eigen::half) {
  using Scalar = TestType;
  Matrix<Scalar> x = Matrix<Scalar>::Constant(2, 777, Scalar(0.1f));
  x(1, 3) = Scalar(0.2f);
  const Standardisation standardisation(x);
  CHECK(standardisation.mean[0] == Scalar(0.1f));
  CHECK(standardisation.deviation[0] == Scalar(1));
  CHECK(standardisation.deviation[1] != Scalar(1));
  standardisation.apply(x);
  CHECK(x.row(0).isZero(Scalar(0)));
  CHECK(Standardisation(x.leftCols(1)).deviation[1] == Scalar(1));
}

TEST_CASE("the part to train on alone is standardised exactly, and the rest by its measure",
          "[data][standardisation]") {
  Dataset<double> data{.inputs = Matrix<double>(1, 4)};
  data.inputs << 1, 3, 10, -4;
  const Standardisation standardisation(data.split(2).first.inputs);
  CHECK(standardisation.mean[0] == 2);
  CHECK(standardisation.deviation[0] == 1);
  standardisation.apply(data.inputs.rightCols(2));
  CHECK(data.inputs == Eigen::RowVector4d(1, 3, 8, -6));
}

TEST_CASE("a standardisation is a part with two vectors", "[data][standardisation]") {
  const Standardisation<float> part(Matrix<float>::Ones(3, 2).eval());
  std::vector<std::string> names;
  for_each_parameter(
      [&](const ParameterPath& path, const auto& p) {
        CHECK(path.is_vector());
        CHECK(p.size() == 3);
        names.push_back(path.str());
      },
      part);
  CHECK(names == std::vector<std::string>{"mean", "deviation"});
}

TEST_CASE("an empty standardisation changes nothing", "[data][standardisation]") {
  const Standardisation<float> identity(3);
  Matrix<float> x = Matrix<float>::Random(3, 4);
  const Matrix<float> before = x;
  identity.apply(x);
  CHECK(x == before);
  CHECK_THROWS_WITH(Standardisation<float>(0), "ddl::Standardisation: features is 0, expected at least 1");
}

TEST_CASE("what cannot be standardised is refused", "[data][standardisation][errors]") {
  CHECK_THROWS_WITH(Standardisation(Matrix<float>(2, 0)),
                    "ddl::Standardisation: the number of samples is 0, expected at least 1");
  const double bad =
      GENERATE(std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), 1e200);
  Matrix<double> x = Matrix<double>::Ones(3, 4);
  x(2, 1) = bad;
  CHECK_THROWS_WITH(Standardisation(x), ContainsSubstring("deviation of feature 2 is not finite"));
  const Standardisation<double> standardisation(Matrix<double>::Ones(3, 4).eval());
  Matrix<double> narrow(2, 4);
  CHECK_THROWS_WITH(standardisation.apply(narrow), "ddl::Standardisation::apply: x is 2 x 4, expected 3 x 4");
  CHECK_THROWS_WITH(standardisation.undo(narrow), "ddl::Standardisation::undo: x is 2 x 4, expected 3 x 4");
}

TEST_CASE("a shuffle changes the order of the samples and nothing else", "[data][dataset]") {
  Dataset<double> data{.inputs = Matrix<double>::Random(3, 100), .targets = Matrix<double>::Random(2, 100)};
  for (int n = 0; n < 100; ++n) data.labels.push_back(n < 50 ? 0 : 1);  // sorted by class
  data.inputs.row(0).setLinSpaced(0, 99);
  const auto sorted = data;
  Random random(3);
  data.shuffle(random);
  std::vector<int> seen(100, 0);
  for (Index n = 0; n < 100; ++n) {
    const auto from = static_cast<Index>(data.inputs(0, n));
    ++seen.at(static_cast<std::size_t>(from));
    CHECK(data.inputs.col(n) == sorted.inputs.col(from));
    CHECK(data.targets.col(n) == sorted.targets.col(from));
    CHECK(data.labels[static_cast<std::size_t>(n)] == sorted.labels[static_cast<std::size_t>(from)]);
  }
  CHECK(seen == std::vector<int>(100, 1));
  const auto first = data.split(80).first.labels;
  CHECK(std::abs(std::count(first.begin(), first.end(), 0) - 40) < 20);
  auto again = sorted;
  Random same(3);
  again.shuffle(same);
  CHECK(again.inputs == data.inputs);
}

TEST_CASE("samples without labels or targets are shuffled, too, and those that do not fit are refused",
          "[data][dataset]") {
  Random random(3);
  Dataset<float> data{.inputs = Matrix<float>::Random(1, 20)};
  const float sum = data.inputs.sum();
  data.shuffle(random);
  CHECK(std::abs(data.inputs.sum() - sum) < 1e-5f);
  CHECK(data.labels.empty());
  CHECK(data.targets.size() == 0);
  data.labels = {1, 2};
  CHECK_THROWS_AS(data.shuffle(random), std::invalid_argument);
}
