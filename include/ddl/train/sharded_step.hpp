// SPDX-License-Identifier: MIT
/// @file  What fit learns from, and the loss and the gradient of a batch, shard by shard.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/core/communicator.hpp"
#include "ddl/residual/stack.hpp"
#include "ddl/train/loss.hpp"
#include "ddl/train/shards.hpp"

namespace ddl {

/// What a pass learns from:
///
///     inputs()                               what the model's forward takes
///     samples()                              how many there are
///     loss(prediction, grad, executor)       the mean loss, and dL/dprediction into grad
///     correct(prediction)                    optional: how many samples are predicted correctly, of those
///                                            that the loss counts (LossSum::count; all of them if it is a
///                                            mean); NaN if there is no such number
template <class B, class Model>
concept TrainingBatch = requires(B& batch, const Matrix<typename Model::Scalar>& prediction,
                                 Matrix<typename Model::Scalar>& grad) {
  batch.inputs();
  { batch.samples() } -> std::convertible_to<Index>;
  batch.loss(prediction, grad, Serial{});
};

/// A batch that consists of shards, which are computed side by side:
///
///     shards()        their number, the same for all batches
///     shard(s)        a TrainingBatch. Its loss() returns a LossSum, and writes the gradient of the sum
///                     divided by the terms of the whole batch. It may have no samples.
template <class D, class Model>
concept ShardedBatch = requires(D& data, Index s, const Matrix<typename Model::Scalar>& prediction,
                                Matrix<typename Model::Scalar>& grad) {
  { data.shards() } -> std::convertible_to<Index>;
  { data.shard(s) } -> TrainingBatch<Model>;
  { data.shard(s).loss(prediction, grad, Serial{}) } -> std::same_as<LossSum>;
};

namespace detail {
template <class D>
concept HasShards = requires(D& data) {
  data.shards();
};
}  // namespace detail

/// Batches to learn from. next() goes to the next batch of samples() samples. The data are then that batch: a
/// ShardedBatch if they have shards(), a TrainingBatch otherwise. Data with both shards() and a loss() of
/// their own are refused, as one of them would be ignored.
template <class D, class Model>
concept TrainingData = requires(D& data) {
  data.next();
  { data.samples() } -> std::convertible_to<Index>;
}
&&(detail::HasShards<D> ? ShardedBatch<D, Model> && !TrainingBatch<D, Model> : TrainingBatch<D, Model>);

namespace detail {

/// The buffers of a shard. Each size of batch has its own, so that no step allocates once every size has been
/// seen. Data with more than `most` sizes make old buffers change size.
template <class Model>
class StepBuffers {
 public:
  using Tape = decltype(std::declval<const Model&>().make_tape(Memory::training));
  struct Buffers {
    Index samples;
    Tape tape;
    Matrix<typename Model::Scalar> grad;  ///< dL/dprediction
  };

  Buffers& of(const Model& model, Index samples, Memory memory) {
    for (Buffers& buffers : all_)
      if (buffers.samples == samples) return buffers;
    if (all_.size() < most) {
      all_.reserve(most);  // so that none of them moves
      return all_.emplace_back(Buffers{samples, model.make_tape(memory), {}});
    }
    Buffers& oldest = all_[replaced_++ % most];
    oldest.samples = samples;
    return oldest;
  }

 private:
  static constexpr std::size_t most = 4;
  std::vector<Buffers> all_;
  std::size_t replaced_ = 0;
};

/// Computes the loss and the gradient of batches, shard by shard.
template <class Model>
class ShardedStep {
 public:
  using Tape = typename StepBuffers<Model>::Tape;
  struct Result {
    LossSum loss;
    double correct = 0;
    double counted = 0;  ///< samples that can be correct
  };

  /// @throws std::invalid_argument if the shards cannot be divided among the ranks.
  ShardedStep(const Model& model, Index shards, Memory memory, Communicator* ranks)
      : memory_(memory),
        ranks_(ranks && ranks->size() > 1 ? ranks : nullptr),
        no_pass_(model.make_tape(memory)),
        shards_(shards),
        gradients_(model, own_shards(shards, ranks_)),
        work_(static_cast<std::size_t>(gradients_.shards())) {
    first_ = ranks_ ? ranks_->rank() * gradients_.shards() : 0;
  }

  /// Of the last batch's first shard with samples, of this process. One without a pass if there is
  /// none.
  const Tape& tape() const noexcept {
    const auto first = std::find_if(work_.begin(), work_.end(), [](const Work& work) { return work.tape; });
    return first == work_.end() ? no_pass_ : *first->tape;
  }

  /// Names the first shard whose loss was not finite, for a message. Collective.
  std::string where_not_finite() const {
    const auto bad = std::find_if(work_.begin(), work_.end(), [](const Work& work) { return !work.finite; });
    auto first = static_cast<std::uint64_t>(bad == work_.end() ? shards_ : first_ + (bad - work_.begin()));
    if (ranks_) {
      const auto all = gather(*ranks_, first);
      first = *std::min_element(all.begin(), all.end());
    }
    if (shards_ == 1 || first == static_cast<std::uint64_t>(shards_)) return {};
    return " (shard " + std::to_string(first) + " of " + std::to_string(shards_) + ")";
  }

  /// @return the gradient of the batch's mean loss; `total` becomes the sums over all shards.
  template <class Data, Executor E>
  Model& compute(const Model& model, Data& data, Result& total, const E& executor) {
    executor.for_each(gradients_.shards(), [&](Index s) {
      Work& work = work_[static_cast<std::size_t>(s)];
      Model& gradient = gradients_.zeroed(s);
      if constexpr (HasShards<Data>) {
        auto shard = data.shard(first_ + s);
        one(model, shard, work, gradient, executor);
      } else {
        one(model, data, work, gradient, executor);
      }
    });
    for_each_tree_sum(gradients_.shards(), [&](Index to, Index from) {
      Result& sum = work_[static_cast<std::size_t>(to)].result;
      sum.loss += work_[static_cast<std::size_t>(from)].result.loss;
      sum.correct += work_[static_cast<std::size_t>(from)].result.correct;
      sum.counted += work_[static_cast<std::size_t>(from)].result.counted;
    });
    total = work_.front().result;
    Model& gradient = gradients_.sum(executor);
    if (ranks_) add_ranks(gradient, total);
    return gradient;
  }

 private:
  struct Work {
    StepBuffers<Model> buffers;
    const Tape* tape = nullptr;  ///< of the last pass; null if the shard had no samples
    Result result;               ///< after compute, of this shard and some that were added to it
    bool finite = true;          ///< the shard's own loss
  };

  static Index own_shards(Index shards, const Communicator* ranks) {
    if (!ranks) return shards;
    const Index size = ranks->size();
    const bool divisible = is_power_of_two(shards);
    if (!divisible || !is_power_of_two(size) || size > shards)
      fail("ddl::fit", "the number of ranks", std::to_string(size),
           divisible ? "a power of two of at most " + std::to_string(shards) + ", the number of shards"
                     : "1, as the number of shards, " + std::to_string(shards) + ", is not a power of two");
    return shards / size;
  }

  template <class B, Executor E>
  void one(const Model& model, B& batch, Work& work, Model& gradient, const E& executor) {
    work.result = {};
    work.finite = true;
    work.tape = nullptr;
    const Index samples = batch.samples();
    if (samples == 0) return;
    auto& [size, tape, grad] = work.buffers.of(model, samples, memory_);
    work.tape = &tape;
    const auto& prediction = model.forward(batch.inputs(), tape, executor);
    grad.resize(prediction.rows(), prediction.cols());
    const auto loss = batch.loss(prediction, grad, executor);
    if constexpr (std::is_same_v<std::remove_const_t<decltype(loss)>, LossSum>) {
      work.result.loss = loss;
      work.result.counted = loss.count;
    } else {
      work.result.loss = {static_cast<double>(loss), 1};  // a mean
      work.result.counted = static_cast<double>(samples);
    }
    work.finite = is_finite(work.result.loss.sum);
    work.result.correct = std::numeric_limits<double>::quiet_NaN();
    if constexpr (requires { batch.correct(prediction); })
      work.result.correct = static_cast<double>(batch.correct(prediction));
    model.backward(grad, tape, gradient, executor);
  }

  void add_ranks(Model& gradient, Result& total) {
    flat_.clear();
    for_each_parameter(
        [&](const ParameterPath&, auto& p) { flat_.insert(flat_.end(), p.data(), p.data() + p.size()); },
        gradient);
    sum_over_ranks(*ranks_, std::span(flat_), received_);
    const auto* from = flat_.data();
    for_each_parameter(
        [&](const ParameterPath&, auto& p) {
          std::copy_n(from, p.size(), p.data());
          from += p.size();
        },
        gradient);
    std::array<double, 4> numbers = {total.loss.sum, total.loss.count, total.correct, total.counted};
    std::vector<double> buffer;
    sum_over_ranks(*ranks_, std::span<double>(numbers), buffer);
    total = {{numbers[0], numbers[1]}, numbers[2], numbers[3]};
  }

  Memory memory_;
  Communicator* ranks_;
  Tape no_pass_;
  Index shards_, first_ = 0;
  ShardGradients<Model> gradients_;
  std::vector<Work> work_;
  std::vector<typename Model::Scalar> flat_, received_;
};

}  // namespace detail
}  // namespace ddl
