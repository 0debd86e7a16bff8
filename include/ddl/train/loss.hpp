// SPDX-License-Identifier: MIT
/// @file  Losses. The mean over the batch is taken here and nowhere else.
#pragma once

#include <cmath>
#include <span>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"

namespace ddl {

/// L = mean over all entries of (prediction - target)^2, and grad = dL/dprediction.
/// @return L; 0 for an empty batch. @throws std::invalid_argument if a shape does not fit.
template <class P, class T, class D, Executor E = Serial>
double mean_squared_error(const Eigen::MatrixBase<P>& prediction, const Eigen::MatrixBase<T>& target,
                          Eigen::MatrixBase<D>& grad, const E& executor = {}) {
  using Scalar = typename P::Scalar;
  check_shape("ddl::mean_squared_error", "target", target, prediction.rows(), prediction.cols());
  check_shape("ddl::mean_squared_error", "grad", grad, prediction.rows(), prediction.cols());
  if (prediction.size() == 0) return 0;
  const double share = 1 / static_cast<double>(prediction.size());
  return share * sum_ranges(executor, prediction.cols(), [&](Index begin, Index end) {
           double sum = 0;
           for (Index n = begin; n < end; ++n) {
             grad.col(n) = prediction.col(n) - target.col(n);
             sum += grad.col(n).template cast<double>().squaredNorm();
             grad.col(n) *= static_cast<Scalar>(2 * share);
           }
           return sum;
         });
}

/// The label of a sample that does not count.
inline constexpr int ignored_label = -1;

/// L = mean over the samples that count of -log softmax(logits)[label], and grad = dL/dlogits, 0
/// where ignored. The largest logit is taken out first: exp does not overflow, and log is never taken of 0.
///
///   logits, grad: classes x N    labels: N, each 0 .. classes - 1 or ignored_label
///
/// @return L; 0 if no sample counts. @throws std::invalid_argument if a shape or a label does not fit;
/// nothing is written then.
template <class P, class D, Executor E = Serial>
double softmax_cross_entropy(const Eigen::MatrixBase<P>& logits, std::span<const int> labels,
                             Eigen::MatrixBase<D>& grad, const E& executor = {}) {
  using Scalar = typename P::Scalar;
  constexpr const char* where = "ddl::softmax_cross_entropy";
  check_shape(where, "grad", grad, logits.rows(), logits.cols());
  if (static_cast<Index>(labels.size()) != logits.cols())
    fail(where, "the number of labels", std::to_string(labels.size()), std::to_string(logits.cols()));
  Index counted = 0;
  for (const int label : labels) {
    if (label != ignored_label && (label < 0 || label >= logits.rows()))
      fail(where, "a label", std::to_string(label),
           "0 to " + std::to_string(logits.rows() - 1) + ", or -1 (ignored)");
    counted += label != ignored_label;
  }
  if (counted == 0) {
    grad.setZero();
    return 0;
  }
  const double share = 1 / static_cast<double>(counted);
  return share * sum_ranges(executor, logits.cols(), [&](Index begin, Index end) {
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
             const Scalar total = grad.col(n).sum();
             sum += std::log(static_cast<double>(total)) - correct;
             grad.col(n) *= static_cast<Scalar>(share) / total;
             grad(label, n) -= static_cast<Scalar>(share);
           }
           return sum;
         });
}

/// The number of samples whose largest logit is the label's. Ignored samples do not count, nor do samples with a logit
/// that is not finite: they have no prediction. @throws std::invalid_argument if the number of labels does not fit.
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
