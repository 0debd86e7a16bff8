// SPDX-License-Identifier: MIT
/// @file  Losses.
///
/// Each loss has two forms. `softmax_cross_entropy(..)` takes a whole batch and returns the mean.
/// `softmax_cross_entropy_sum(..)` takes a part of a batch and the number of terms of the whole batch: the
/// sums of the parts add up to the sum of the whole, and so do the gradients of the mean.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"

namespace ddl {

/// A sum of terms of a loss, and their number.
struct LossSum {
  double sum = 0;    ///< of the terms
  double count = 0;  ///< of terms

  /// 0 if there are no terms.
  double mean() const noexcept { return count > 0 ? sum / count : 0; }
  /// Adds the terms of another part.
  LossSum& operator+=(const LossSum& other) noexcept {
    sum += other.sum;
    count += other.count;
    return *this;
  }
};

/// The sum over all entries of (prediction - target)^2, and grad = d(sum / normalizer)/dprediction.
/// @param normalizer  the number of entries of the whole batch, of which this may be a part.
/// @throws std::invalid_argument if a shape does not fit, or the normalizer is not above 0 though there are
/// entries.
template <class P, class T, class D, Executor E = Serial>
LossSum mean_squared_error_sum(const Eigen::MatrixBase<P>& prediction, const Eigen::MatrixBase<T>& target,
                               double normalizer, Eigen::MatrixBase<D>& grad, const E& executor = {}) {
  using Scalar = typename P::Scalar;
  constexpr const char* where = "ddl::mean_squared_error";
  check_shape(where, "target", target, prediction.rows(), prediction.cols());
  check_shape(where, "grad", grad, prediction.rows(), prediction.cols());
  if (prediction.size() == 0) return {};
  check_range(where, "the normalizer", normalizer, normalizer > 0, "a number above 0");
  const double share = 1 / normalizer;
  const double total =
      sum_ranges(executor, prediction.cols(), prediction.rows(), [&](Index begin, Index end) {
        double sum = 0;
        for (Index n = begin; n < end; ++n) {
          grad.col(n) = prediction.col(n) - target.col(n);
          sum += grad.col(n).template cast<double>().squaredNorm();
          grad.col(n) *= static_cast<Scalar>(2 * share);
        }
        return sum;
      });
  return {total, static_cast<double>(prediction.size())};
}

/// L = mean over all entries of (prediction - target)^2, and grad = dL/dprediction.
/// @return L; 0 for an empty batch. @throws std::invalid_argument if a shape does not fit.
template <class P, class T, class D, Executor E = Serial>
double mean_squared_error(const Eigen::MatrixBase<P>& prediction, const Eigen::MatrixBase<T>& target,
                          Eigen::MatrixBase<D>& grad, const E& executor = {}) {
  return mean_squared_error_sum(prediction, target, static_cast<double>(prediction.size()), grad, executor)
      .mean();
}

/// The label of a sample that does not count.
inline constexpr int ignored_label = -1;

/// The number of labels that are not ignored.
inline Index counted_labels(std::span<const int> labels) noexcept {
  return static_cast<Index>(labels.size()) -
         static_cast<Index>(std::count(labels.begin(), labels.end(), ignored_label));
}

/// The sum over the samples that count of -log softmax(logits)[label], and
/// grad = d(sum / normalizer)/dlogits, 0 where ignored. The largest logit is taken out first: exp does not
/// overflow, and log is never taken of 0.
///
///     logits, grad: classes x N    labels: N, each 0 .. classes - 1 or ignored_label
///
/// @param normalizer  counted_labels of the whole batch, of which this may be a part.
/// @throws std::invalid_argument if a shape or a label does not fit, or the normalizer is not above 0 though
/// a sample counts; nothing is written then.
template <class P, class D, Executor E = Serial>
LossSum softmax_cross_entropy_sum(const Eigen::MatrixBase<P>& logits, std::span<const int> labels,
                                  double normalizer, Eigen::MatrixBase<D>& grad, const E& executor = {}) {
  using Scalar = typename P::Scalar;
  constexpr const char* where = "ddl::softmax_cross_entropy";
  check_shape(where, "grad", grad, logits.rows(), logits.cols());
  if (static_cast<Index>(labels.size()) != logits.cols())
    fail(where, "the number of labels", std::to_string(labels.size()), std::to_string(logits.cols()));
  for (const int label : labels)
    if (label != ignored_label && (label < 0 || label >= logits.rows()))
      fail(where, "a label", std::to_string(label),
           "0 to " + std::to_string(logits.rows() - 1) + ", or -1 (ignored)");
  const Index counted = counted_labels(labels);
  if (counted > 0) check_range(where, "the normalizer", normalizer, normalizer > 0, "a number above 0");
  const double share = 1 / normalizer;
  const double total = sum_ranges(executor, logits.cols(), logits.rows(), [&](Index begin, Index end) {
    double sum = 0;
    for (Index n = begin; n < end; ++n) {
      const int label = labels[static_cast<std::size_t>(n)];
      if (label == ignored_label) {
        grad.col(n).setZero();
        continue;
      }
      const Scalar largest = logits.col(n).maxCoeff();
      const double correct = static_cast<double>(logits(label, n) - largest);
      grad.col(n).array() = (logits.col(n).array() - largest).exp();
      const Scalar exponentials = grad.col(n).sum();
      sum += std::log(static_cast<double>(exponentials)) - correct;
      grad.col(n) *= static_cast<Scalar>(share) / exponentials;
      grad(label, n) -= static_cast<Scalar>(share);
    }
    return sum;
  });
  return {total, static_cast<double>(counted)};
}

/// L = mean over the samples that count of -log softmax(logits)[label], and grad = dL/dlogits:
/// softmax_cross_entropy_sum of a whole batch.
/// @return L; 0 if no sample counts. @throws std::invalid_argument if a shape or a label does not fit;
/// nothing is written then.
template <class P, class D, Executor E = Serial>
double softmax_cross_entropy(const Eigen::MatrixBase<P>& logits, std::span<const int> labels,
                             Eigen::MatrixBase<D>& grad, const E& executor = {}) {
  return softmax_cross_entropy_sum(logits, labels, static_cast<double>(counted_labels(labels)), grad,
                                   executor)
      .mean();
}

/// The number of samples whose largest logit is the label's. Ignored samples do not count, nor do samples
/// with a logit that is not finite: they have no prediction. @throws std::invalid_argument if the number of
/// labels does not fit.
template <class P>
Index correct_predictions(const Eigen::MatrixBase<P>& logits, std::span<const int> labels) {
  if (static_cast<Index>(labels.size()) != logits.cols())
    fail("ddl::correct_predictions", "the number of labels", std::to_string(labels.size()),
         std::to_string(logits.cols()));
  Index correct = 0;
  for (Index n = 0; n < logits.cols(); ++n) {
    if (!all_finite(logits.col(n))) continue;
    Index best = 0;
    logits.col(n).maxCoeff(&best);
    correct += best == labels[static_cast<std::size_t>(n)];
  }
  return correct;
}

}  // namespace ddl
