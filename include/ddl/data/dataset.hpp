// SPDX-License-Identifier: MIT
/// @file  Samples to learn from, and their standardisation.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/parameters.hpp"
#include "ddl/core/random.hpp"
#include "ddl/train/loss.hpp"

namespace ddl {

/// N samples that somebody else owns.
///
///     inputs: features x N    labels: N or none    targets: outputs x N, no outputs if there are none
template <class Scalar>
struct DatasetView {
  using Values = Eigen::Map<const Matrix<Scalar>>;  ///< columns in memory of somebody else

  Values inputs;                ///< features x N
  std::span<const int> labels;  ///< N class numbers, or none
  Values targets;               ///< outputs x N, or 0 x N

  Index size() const noexcept { return inputs.cols(); }  ///< the number of samples N

  /// Samples begin .. begin + count - 1. @throws std::invalid_argument if there are no such samples.
  DatasetView range(Index begin, Index count) const {
    if (begin < 0 || count < 0 || begin > size() || count > size() - begin)
      fail("ddl::DatasetView::range", "the range",
           std::to_string(count) + " samples from " + std::to_string(begin),
           "one within " + std::to_string(size()) + " samples");
    const auto columns = [&](const Values& x) {
      return Values(x.data() + begin * x.rows(), x.rows(), count);
    };
    return {columns(inputs),
            labels.empty() ? labels
                           : labels.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
            columns(targets)};
  }

  /// The first `first_count` samples, and the others.
  std::pair<DatasetView, DatasetView> split(Index first_count) const {
    return {range(0, first_count), range(first_count, size() - first_count)};
  }
};

/// N samples and what is to be learnt of them: classes, numbers, both or neither.
template <class Scalar_>
struct Dataset {
  using Scalar = Scalar_;

  Matrix<Scalar> inputs = {};                 ///< features x N
  std::vector<int> labels = {};               ///< N class numbers, each 0 or more or ignored_label; or none
  Matrix<Scalar> targets = {};                ///< outputs x N, or empty
  std::vector<std::string> class_names = {};  ///< by class number, or none

  Index size() const noexcept { return inputs.cols(); }  ///< the number of samples N

  /// As many as have names or occur.
  Index class_count() const noexcept {
    const int largest = labels.empty() ? -1 : *std::max_element(labels.begin(), labels.end());
    return (std::max)(static_cast<Index>(class_names.size()), Index{largest} + 1);
  }

  /// All samples, for as long as this data set stays as it is.
  /// @throws std::invalid_argument if labels or targets do not fit the inputs.
  DatasetView<Scalar> view() const& {
    constexpr const char* where = "ddl::Dataset";
    if (!labels.empty() && static_cast<Index>(labels.size()) != size())
      fail(where, "the number of labels", std::to_string(labels.size()), std::to_string(size()));
    for (const int label : labels)
      if (label < 0 && label != ignored_label)
        fail(where, "a label", std::to_string(label), "0 or more, or -1 (ignored)");
    if (targets.size() > 0) check_shape(where, "targets", targets, targets.rows(), size());
    const Index outputs = targets.size() > 0 ? targets.rows() : 0;
    using Values = typename DatasetView<Scalar>::Values;
    return {Values(inputs.data(), inputs.rows(), size()), labels, Values(targets.data(), outputs, size())};
  }
  void view() const&& = delete;  // it would outlive its samples

  /// Puts the samples into a random order. Samples in files are often sorted by class: shuffle them before a
  /// split.
  /// @throws std::invalid_argument if labels or targets do not fit the inputs.
  void shuffle(Random& random) {
    const auto from = view();
    std::vector<Index> order(static_cast<std::size_t>(size()));
    std::iota(order.begin(), order.end(), Index{0});
    random.shuffle(order);
    Dataset shuffled = *this;
    for (std::size_t n = 0; n < order.size(); ++n) {
      shuffled.inputs.col(static_cast<Index>(n)) = from.inputs.col(order[n]);
      if (!labels.empty()) shuffled.labels[n] = labels[static_cast<std::size_t>(order[n])];
      if (from.targets.rows() > 0) shuffled.targets.col(static_cast<Index>(n)) = from.targets.col(order[n]);
    }
    *this = std::move(shuffled);
  }

  /// Views of the first `first_count` samples and of the others.
  std::pair<DatasetView<Scalar>, DatasetView<Scalar>> split(Index first_count) const& {
    return view().split(first_count);
  }
  void split(Index first_count) const&& = delete;
};

/// The map x -> (x - mean) / deviation, for each feature. Fit it to the samples to train on alone, apply it
/// to all. It is a part (core/parameters.hpp), so it is saved and loaded like the weights of the model that
/// it belongs to.
template <class Scalar_>
struct Standardisation {
  using Scalar = Scalar_;

  Vector<Scalar> mean, deviation;  ///< of each feature

  static constexpr auto parameters() {
    return std::tuple(vector_parameter("mean", &Standardisation::mean),
                      vector_parameter("deviation", &Standardisation::deviation));
  }

  Standardisation() = default;
  /// The identity on `features` features, mean 0 and deviation 1, to load another into.
  /// @throws std::invalid_argument if `features` is below 1.
  explicit Standardisation(Index features) {
    check_positive("ddl::Standardisation", "features", features);
    mean.setZero(features);
    deviation.setOnes(features);
  }
  /// Mean and deviation over the columns of features x N. A feature that is constant gets deviation 1.
  /// @throws std::invalid_argument if there are no samples, or mean or deviation of a feature is not finite.
  template <class Derived>
  explicit Standardisation(const Eigen::MatrixBase<Derived>& inputs) {
    constexpr const char* where = "ddl::Standardisation";
    check_positive(where, "the number of samples", inputs.cols());
    // Welford's recurrence: no squares of large means are subtracted, and the deviation of a constant is
    // exactly 0.
    using Sum = std::common_type_t<Accum<Scalar>, double>;
    Vector<Sum> average = Vector<Sum>::Zero(inputs.rows()), squares = average, step(inputs.rows());
    for (Index n = 0; n < inputs.cols(); ++n) {
      step = inputs.col(n).template cast<Sum>() - average;
      average += step / static_cast<Sum>(n + 1);
      squares.array() += step.array() * (inputs.col(n).template cast<Sum>() - average).array();
    }
    mean = average.template cast<Scalar>();
    deviation = (squares / static_cast<Sum>(inputs.cols())).cwiseSqrt().template cast<Scalar>();
    for (Index i = 0; i < inputs.rows(); ++i) {
      if (!is_finite(mean[i]) || !is_finite(deviation[i]))
        fail(where, "the mean or deviation of feature " + std::to_string(i), "not finite",
             "a finite number: NaN, infinity or too large a number is among the inputs");
      if (deviation[i] == Scalar(0)) deviation[i] = Scalar(1);
    }
  }

  /// In place. @throws std::invalid_argument if x has another number of features; so does undo.
  void apply(BatchRef<Scalar> x) const {
    check_shape("ddl::Standardisation::apply", "x", x, mean.size(), x.cols());
    x = (x.colwise() - mean).array().colwise() / deviation.array();
  }
  /// The inverse of apply, in place.
  void undo(BatchRef<Scalar> x) const {
    check_shape("ddl::Standardisation::undo", "x", x, mean.size(), x.cols());
    x = (x.array().colwise() * deviation.array()).colwise() + mean.array();
  }
};

/// The scalar is that of the inputs.
template <class Derived>
Standardisation(const Eigen::MatrixBase<Derived>&) -> Standardisation<typename Derived::Scalar>;

}  // namespace ddl
