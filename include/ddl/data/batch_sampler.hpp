// SPDX-License-Identifier: MIT
/// @file  Mini-batches: in which order samples are visited, and the samples of a batch side by side.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ddl/core/bytes.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/random.hpp"
#include "ddl/data/dataset.hpp"

namespace ddl {

/// Settings of a BatchSampler and of SupervisedBatches.
struct BatchSettings {
  Index batch_size = 32;   ///< samples
  std::uint64_t seed = 0;  ///< of the order of the samples
  bool shuffle = true;     ///< anew in each epoch; otherwise samples come in their own order
  bool keep_short = true;  ///< whether the last batch of an epoch may be shorter, or else is left out
  Index shards = 1;        ///< parts of a batch that fit computes side by side (train/shards.hpp)
};

/// A 64-bit hash of the samples and what is to be learnt of them: their values, shapes and order. A
/// checkpoint recognises its data by it. It is the same on all machines of one byte order.
template <class Scalar>
std::uint64_t content_hash(const DatasetView<Scalar>& data) {
  const auto hash = [](const auto& values, std::uint64_t seed) {
    return xxh64(std::as_bytes(std::span(values.data(), static_cast<std::size_t>(values.size()))), seed);
  };
  const auto rows = static_cast<std::uint64_t>(data.inputs.rows());
  return hash(data.targets, hash(data.labels, hash(data.inputs, rows)));
}

namespace detail {

/// @throws std::invalid_argument naming the first word of a kept state that differs from its own. Words whose
/// name is empty are a position, and may differ.
inline void check_state(const char* where, std::span<const std::uint64_t> kept,
                        std::span<const std::uint64_t> own, std::initializer_list<const char*> names) {
  if (kept.size() != own.size())
    fail(where, "the state", std::to_string(kept.size()) + " numbers", std::to_string(own.size()));
  std::size_t i = 0;
  for (const char* name : names) {
    if (*name != '\0' && kept[i] != own[i])
      fail(where, name, std::to_string(own[i]), std::to_string(kept[i]));
    ++i;
  }
}

inline void check_shards(const char* where, Index shards, Index batch) {
  if (shards < 1 || shards > batch)
    fail(where, "shards", std::to_string(shards), "1 to " + std::to_string(batch) + ", the size of a batch");
}

/// Where shard s begins of `shards` that divide `total` samples as evenly as possible; where it ends for
/// s + 1.
constexpr Index shard_begin(Index total, Index shards, Index s) noexcept { return total * s / shards; }

}  // namespace detail

/// Which batch comes next: all of BatchSampler that changes.
struct BatchPosition {
  std::uint64_t epoch = 0;  ///< passes over all samples before this batch
  Index batch = 0;          ///< within the epoch

  /// Equal if they are the same batch of the same epoch.
  friend bool operator==(const BatchPosition&, const BatchPosition&) = default;
};

/// Visits every sample once in an epoch, one batch after the other, without end. The order within an epoch
/// follows from the seed and the epoch's number alone, so that settings and position are all there is to
/// save:
///
///     ddl::BatchSampler sampler(samples.size(), {.batch_size = 64, .seed = 1});
///     sampler.seek(saved);                                     // where sampler.position() was
///     ddl::Batch<float> batch;
///     const auto view = batch.gather(samples, sampler.next());
class BatchSampler {
 public:
  /// @throws std::invalid_argument if there are no samples, or none is left in an epoch.
  BatchSampler(Index samples, const BatchSettings& settings) : settings_(settings) {
    constexpr const char* where = "ddl::BatchSampler";
    check_positive(where, "samples", samples);
    check_positive(where, "batch_size", settings.batch_size);
    detail::check_shards(where, settings.shards, settings.batch_size);
    if (!settings.keep_short && settings.batch_size > samples)
      fail(
          where, "batch_size", std::to_string(settings.batch_size),
          "at most " + std::to_string(samples) + ", the number of samples, where short batches are left out");
    order_.resize(static_cast<std::size_t>(samples));
    std::iota(order_.begin(), order_.end(), Index{0});
    batches_per_epoch_ = samples / settings.batch_size;
    if (settings.keep_short && samples % settings.batch_size != 0) ++batches_per_epoch_;
  }

  Index samples() const noexcept { return static_cast<Index>(order_.size()); }  ///< of the data set
  /// Short ones included if they are kept.
  Index batches_per_epoch() const noexcept { return batches_per_epoch_; }
  const BatchSettings& settings() const noexcept { return settings_; }  ///< as given to the constructor

  /// Of the batch that next() gives. After the last one of an epoch this is the first of the next.
  const BatchPosition& position() const noexcept { return position_; }

  /// Makes this batch the next one.
  /// @throws std::invalid_argument if an epoch has no such batch.
  void seek(const BatchPosition& position) {
    if (position.batch < 0 || position.batch >= batches_per_epoch_)
      fail("ddl::BatchSampler::seek", "batch", std::to_string(position.batch),
           "0 to " + std::to_string(batches_per_epoch_ - 1));
    position_ = position;
  }

  /// The samples of the next batch, until next() is called again. Allocates nothing.
  std::span<const Index> next() noexcept {
    if (settings_.shuffle && shuffled_for_ != position_.epoch) shuffle();
    const Index begin = position_.batch * settings_.batch_size;
    const Index count = (std::min)(settings_.batch_size, samples() - begin);
    if (++position_.batch == batches_per_epoch_) position_ = {position_.epoch + 1, 0};
    return std::span(order_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
  }

 private:
  void shuffle() noexcept {
    std::iota(order_.begin(), order_.end(), Index{0});
    // The seed's own first number keeps apart what seed + epoch would give twice.
    Random random(Random(settings_.seed)() + position_.epoch);
    random.shuffle(order_);
    shuffled_for_ = position_.epoch;
  }

  BatchSettings settings_;
  Index batches_per_epoch_ = 0;
  BatchPosition position_;
  std::optional<std::uint64_t> shuffled_for_;
  std::vector<Index> order_;
};

/// Memory for the samples of one batch. It grows to the largest batch, and nothing is allocated after that.
template <class Scalar>
class Batch {
 public:
  /// Copies these samples of `data`, in this order. The view is of this batch, until gather is called again.
  /// @throws std::invalid_argument if there is no such sample.
  DatasetView<Scalar> gather(const DatasetView<Scalar>& data, std::span<const Index> samples) {
    for (const Index sample : samples)
      if (sample < 0 || sample >= data.size())
        fail("ddl::Batch::gather", "a sample", std::to_string(sample),
             "0 to " + std::to_string(data.size() - 1));
    labels_.clear();
    if (!data.labels.empty())
      for (const Index sample : samples) labels_.push_back(data.labels[static_cast<std::size_t>(sample)]);
    return {gather(data.inputs, samples, inputs_), labels_, gather(data.targets, samples, targets_)};
  }

 private:
  using Values = typename DatasetView<Scalar>::Values;

  static Values gather(const Values& from, std::span<const Index> samples, std::vector<Scalar>& to) {
    const auto count = static_cast<Index>(samples.size());
    to.resize(static_cast<std::size_t>(from.rows() * count));
    Eigen::Map<Matrix<Scalar>> columns(to.data(), from.rows(), count);
    for (Index n = 0; n < count; ++n) columns.col(n) = from.col(samples[static_cast<std::size_t>(n)]);
    return Values(to.data(), from.rows(), count);
  }

  std::vector<Scalar> inputs_, targets_;
  std::vector<int> labels_;
};

}  // namespace ddl
