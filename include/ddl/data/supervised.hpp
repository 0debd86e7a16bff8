// SPDX-License-Identifier: MIT
/// @file  Learning a data set's labels or targets: its batches as fit takes them, and evaluation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "ddl/data/batch_sampler.hpp"
#include "ddl/model/delta_resnet.hpp"
#include "ddl/train/fit.hpp"

namespace ddl {

/// A part of a batch of samples: softmax cross-entropy where there are labels, mean squared error of the
/// targets otherwise.
template <class Scalar>
struct SupervisedShard {
  DatasetView<Scalar> view;  ///< the samples
  double normalizer;         ///< the terms of the loss in the whole batch

  const auto& inputs() const noexcept { return view.inputs; }  ///< features x samples
  Index samples() const noexcept { return view.size(); }       ///< samples in this part

  /// The sum of the terms, and the gradient of the mean over the whole batch.
  template <class Prediction, Executor E>
  LossSum loss(const Prediction& prediction, Matrix<Scalar>& grad, const E& executor) const {
    return view.labels.empty()
               ? mean_squared_error_sum(prediction, view.targets, normalizer, grad, executor)
               : softmax_cross_entropy_sum(prediction, view.labels, normalizer, grad, executor);
  }
  /// The number of samples predicted correctly; NaN without labels.
  template <class Prediction>
  double correct(const Prediction& prediction) const {
    if (view.labels.empty()) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(correct_predictions(prediction, view.labels));
  }
};

/// Batches for fit, as shards.
template <class Scalar>
class SupervisedBatches {
 public:
  /// `data` must outlive this. @throws std::invalid_argument if there is nothing to learn, or as BatchSampler
  /// does.
  SupervisedBatches(const DatasetView<Scalar>& data, const BatchSettings& settings)
      : data_(data), sampler_(data.size(), settings), content_(content_hash(data)) {
    if (data.labels.empty() && data.targets.rows() == 0)
      fail("ddl::SupervisedBatches", "the data", "without labels and targets", "one of them");
  }

  /// Goes to the next batch.
  void next() {
    view_.emplace(batch_.gather(data_, sampler_.next()));
    normalizer_ =
        static_cast<double>(view_->labels.empty() ? view_->targets.size() : counted_labels(view_->labels));
  }
  const auto& inputs() const noexcept { return view_->inputs; }         ///< features x samples of the batch
  Index samples() const noexcept { return view_->size(); }              ///< in the batch
  Index shards() const noexcept { return sampler_.settings().shards; }  ///< a setting
  /// Shard s of the batch.
  SupervisedShard<Scalar> shard(Index s) const {
    const Index begin = detail::shard_begin(samples(), shards(), s);
    return {view_->range(begin, detail::shard_begin(samples(), shards(), s + 1) - begin), normalizer_};
  }

  const BatchSampler& sampler() const noexcept { return sampler_; }  ///< the order of the samples

  /// The position, and what the order follows from: settings, and the data by their content.
  std::vector<std::uint64_t> state() const {
    const BatchPosition& position = sampler_.position();
    return {position.epoch,
            static_cast<std::uint64_t>(position.batch),
            sampler_.settings().seed,
            static_cast<std::uint64_t>(sampler_.samples()),
            static_cast<std::uint64_t>(sampler_.settings().batch_size),
            static_cast<std::uint64_t>(sampler_.settings().shuffle),
            static_cast<std::uint64_t>(sampler_.settings().keep_short),
            static_cast<std::uint64_t>(shards()),
            content_};
  }
  /// Goes back to a state.
  /// @throws std::invalid_argument if the state is of other data, or of an order with other settings, naming
  /// them.
  void restore(std::span<const std::uint64_t> words) {
    constexpr const char* where = "ddl::SupervisedBatches::restore";
    const auto own = state();
    detail::check_state(
        where, words, own,
        {"", "", "seed", "samples", "batch_size", "shuffle", "keep_short", "shards", "the data's hash"});
    sampler_.seek({words[0], static_cast<Index>(words[1])});
  }

 protected:
  /// Replaces the inputs of the current batch, for augmentation. `inputs` must have their shape and stay as
  /// they are until next().
  void replace_inputs(const Matrix<Scalar>& inputs) {
    check_shape("ddl::SupervisedBatches::replace_inputs", "inputs", inputs, view_->inputs.rows(), samples());
    const DatasetView<Scalar> old = *view_;
    view_.emplace(
        DatasetView<Scalar>{{inputs.data(), inputs.rows(), inputs.cols()}, old.labels, old.targets});
  }

 private:
  DatasetView<Scalar> data_;
  BatchSampler sampler_;
  std::uint64_t content_;
  Batch<Scalar> batch_;
  double normalizer_ = 0;
  std::optional<DatasetView<Scalar>> view_;  ///< of batch_; a view cannot be assigned
};

/// What evaluate() finds.
struct Evaluation {
  double loss = 0;      ///< mean over the samples, ignored ones left out
  double accuracy = 0;  ///< share of the same samples predicted correctly; NaN without labels
};

namespace detail {
struct SeeNothing {
  void operator()(const auto&) const noexcept {}
};
}  // namespace detail

/// The loss of a model's predictions over a data set, 256 samples at a time. `see(tape)` is called after each
/// pass: it may look at what the pass left behind, if `memory` keeps it.
template <class Model, class Scalar, Executor E = Serial, class See = detail::SeeNothing>
Evaluation evaluate(const Model& model, const DatasetView<Scalar>& data, const E& executor = {},
                    Memory memory = Memory::inference, See&& see = {}) {
  constexpr Index most = 256;
  auto tape = model.make_tape(memory);
  Matrix<Scalar> grad;
  LossSum total;
  double correct = 0;
  for (Index begin = 0; begin < data.size(); begin += most) {
    const SupervisedShard<Scalar> part{data.range(begin, (std::min)(most, data.size() - begin)), 1};
    const auto& prediction = model.forward(part.inputs(), tape, executor);
    grad.resize(prediction.rows(), prediction.cols());
    total += part.loss(prediction, grad, executor);
    correct += part.correct(prediction);
    see(tape);
  }
  return {total.mean(), total.count > 0 ? correct / total.count : 0};
}

}  // namespace ddl
