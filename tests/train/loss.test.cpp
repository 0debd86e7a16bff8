// SPDX-License-Identifier: MIT
#include "ddl/train/loss.hpp"

#include <utility>

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

Matrix<double> random_matrix(Index rows, Index cols, double deviation = 1) {
  Random random(static_cast<std::uint64_t>(rows * cols));
  Matrix<double> x(rows, cols);
  fill(random, x, deviation);
  return x;
}

void check_grad(Matrix<double> at, const Matrix<double>& grad, const auto& loss) {
  const GradientReport report = ddl::check_gradients(at, grad, [&] { return loss(at); });
  INFO(report.message());
  CHECK(report.passes(gradient_tolerance));
}

}  // namespace

TEST_CASE("the mean squared error is the mean over all entries, and its grad the gradient",
          "[train][loss][grad]") {
  const Matrix<double> prediction = random_matrix(3, 4), target = random_matrix(3, 4, 2);
  Matrix<double> grad(3, 4), unused(3, 4);
  const double loss = mean_squared_error(prediction, target, grad);
  CHECK(loss == Catch::Approx((prediction - target).squaredNorm() / 12).epsilon(1e-14));
  CHECK(error(grad, ((prediction - target) / 6).eval()) <= identity_tolerance<double>);
  check_grad(prediction, grad, [&](const auto& at) { return mean_squared_error(at, target, unused); });
}

TEST_CASE("the cross-entropy is the mean of -log softmax at the labels that count, and its grad the gradient",
          "[train][loss][grad]") {
  const Matrix<double> logits = random_matrix(5, 4, 2);
  const std::vector<int> labels = {4, ignored_label, 0, 2};
  Matrix<double> grad(5, 4), unused(5, 4);
  const double loss = softmax_cross_entropy(logits, labels, grad);
  double expected = 0;
  for (const Index n : {0, 2, 3})
    expected -= std::log(std::exp(logits(labels[static_cast<std::size_t>(n)], n)) /
                         logits.col(n).array().exp().sum()) /
                3;
  CHECK(loss == Catch::Approx(expected).epsilon(1e-14));
  CHECK(grad.col(1).isZero(0));
  CHECK(grad.colwise().sum().norm() <= identity_tolerance<double>);
  check_grad(logits, grad, [&](const auto& at) { return softmax_cross_entropy(at, labels, unused); });
}

TEST_CASE("the cross-entropy of equal logits is log(classes)", "[train][loss]") {
  const Matrix<float> logits = Matrix<float>::Constant(10, 2, 3.f);
  const std::vector<int> labels = {0, 9};
  Matrix<float> grad(10, 2);
  CHECK(softmax_cross_entropy(logits, labels, grad) ==
        Catch::Approx(std::log(10)).epsilon(identity_tolerance<float>));
}

TEST_CASE("the cross-entropy of logits of +-1e4 in float is exact and its grad finite", "[train][loss]") {
  Matrix<float> logits(3, 2), grad(3, 2), expected(3, 2);
  logits << 1e4f, -1e4f, -1e4f, 1e4f, 0, 1e4f;
  const std::vector<int> labels = {1, 2};
  const double loss = softmax_cross_entropy(logits, labels, grad);
  CHECK(loss == Catch::Approx((2e4 + std::log(2)) / 2).epsilon(identity_tolerance<float>));
  expected << 0.5f, 0, -0.5f, 0.25f, 0, -0.25f;
  CHECK(error(grad, expected) <= identity_tolerance<float>);
}

TEST_CASE("a loss over nothing is 0: an empty batch, or no label that counts", "[train][loss]") {
  Matrix<double> none(3, 0), grad = Matrix<double>::Ones(3, 2);
  CHECK(mean_squared_error(none, none, none) == 0);
  CHECK(softmax_cross_entropy(none, std::vector<int>{}, none) == 0);
  CHECK(softmax_cross_entropy(Matrix<double>::Ones(3, 2), std::vector<int>{-1, -1}, grad) == 0);
  CHECK(grad.isZero(0));
}

TEST_CASE("losses are bit-identical in any order of their pieces", "[train][loss]") {
  const Matrix<double> x = random_matrix(4, 9000), target = random_matrix(4, 9000, 2);
  std::vector<int> labels(9000);
  Random random(4);
  for (int& label : labels) label = static_cast<int>(random.below(5)) - 1;
  const auto run = [&](const Order& order) {
    Matrix<double> mse_grad(4, 9000), ce_grad(4, 9000);
    const double mse = mean_squared_error(x, target, mse_grad, order);
    const double ce = softmax_cross_entropy(x, labels, ce_grad, order);
    CHECK(order.most_pieces > 1);
    return std::tuple(mse, ce, mse_grad, ce_grad);
  };
  CHECK(run(Order{false}) == run(Order{true}));
}

TEST_CASE("the sample whose largest logit is the label's is counted as correct", "[train][loss]") {
  Matrix<float> logits(2, 4);
  logits << 1, 0, 3, 1, 0, 1, 2, 0;
  CHECK(correct_predictions(logits, std::vector<int>{0, 1, 1, ignored_label}) == 2);
  CHECK_THROWS_WITH(correct_predictions(logits, std::vector<int>{0, 1}),
                    "ddl::correct_predictions: the number of labels is 2, expected 4");
}

TEST_CASE("a sample with a logit that is not finite has no prediction, in any class", "[train][loss]") {
  const float bad = GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  const Index place = GENERATE(0, 1, 2);
  Matrix<float> logits = Matrix<float>::Constant(3, 3, bad);
  logits.col(1) << 0, 1, 0;
  logits.col(2) << 0, 1, 0;
  logits(place, 2) = bad;
  for (int label = 0; label < 3; ++label)
    CHECK(correct_predictions(logits, std::vector<int>{label, 1, label}) == 1);
}

TEST_CASE("losses refuse shapes and labels that do not fit, and write nothing then",
          "[train][loss][errors]") {
  const Matrix<double> x = Matrix<double>::Ones(3, 2), wide = Matrix<double>::Ones(3, 4);
  Matrix<double> grad = Matrix<double>::Constant(3, 2, 7), narrow = Matrix<double>::Constant(3, 1, 7);
  using Labels = std::vector<int>;
  CHECK_THROWS_WITH(mean_squared_error(x, wide, grad),
                    "ddl::mean_squared_error: target is 3 x 4, expected 3 x 2");
  CHECK_THROWS_WITH(mean_squared_error(x, x, narrow),
                    "ddl::mean_squared_error: grad is 3 x 1, expected 3 x 2");
  CHECK_THROWS_WITH(softmax_cross_entropy(x, Labels{0, 1}, narrow),
                    "ddl::softmax_cross_entropy: grad is 3 x 1, expected 3 x 2");
  CHECK_THROWS_WITH(softmax_cross_entropy(x, Labels{0}, grad),
                    "ddl::softmax_cross_entropy: the number of labels is 1, expected 2");
  const int label = GENERATE(3, -2);
  CHECK_THROWS_WITH(softmax_cross_entropy(x, Labels{0, label}, grad),
                    "ddl::softmax_cross_entropy: a label is " + std::to_string(label) +
                        ", expected 0 to 2, or -1 (ignored)");
  CHECK_THROWS_AS(softmax_cross_entropy(x, Labels{0, label}, grad), std::invalid_argument);
  CHECK((grad.array() == 7).all());
  CHECK((narrow.array() == 7).all());
}

TEST_CASE("the sums and gradients of the parts of a batch are those of the whole", "[train][loss]") {
  const Matrix<double> x = random_matrix(3, 7, 2), target = random_matrix(3, 7, 1);
  const std::vector<int> labels = {0, ignored_label, 2, 1, ignored_label, 2, 0};
  Matrix<double> mse_grad(3, 7), ce_grad(3, 7);
  const double mse = mean_squared_error(x, target, mse_grad), ce = softmax_cross_entropy(x, labels, ce_grad);
  LossSum mse_sum, ce_sum;
  for (const auto& [begin, count] : {std::pair<Index, Index>(0, 2), std::pair<Index, Index>(2, 5)}) {
    const Matrix<double> part = x.middleCols(begin, count);
    Matrix<double> grad(3, count);
    mse_sum += mean_squared_error_sum(part, target.middleCols(begin, count), 21, grad);
    CHECK(grad == mse_grad.middleCols(begin, count));
    ce_sum += softmax_cross_entropy_sum(
        part, std::span(labels).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)), 5,
        grad);
    CHECK(grad == ce_grad.middleCols(begin, count));
  }
  CHECK(mse_sum.count == 21);
  CHECK(ce_sum.count == 5);
  CHECK(mse_sum.mean() == Catch::Approx(mse).epsilon(1e-14));
  CHECK(ce_sum.mean() == Catch::Approx(ce).epsilon(1e-14));
  Matrix<double> grad(3, 7);
  CHECK_THROWS_WITH(mean_squared_error_sum(x, target, 0, grad),
                    "ddl::mean_squared_error: the normalizer is 0, expected a number above 0");
  CHECK_THROWS_WITH(softmax_cross_entropy_sum(x, labels, 0, grad),
                    "ddl::softmax_cross_entropy: the normalizer is 0, expected a number above 0");
}
