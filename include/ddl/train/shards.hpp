// SPDX-License-Identifier: MIT
/// @file  The gradients of the shards of a batch, and their sum.
///
/// A batch is cut into a number of shards that is a setting of the run. Each shard has its own tape and its
/// own gradient, so that shards can be computed side by side. The gradients are added in an order that
/// depends on the number of shards alone: the result has the same bits on any number of threads and of
/// processes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "ddl/core/executor.hpp"
#include "ddl/core/parameters.hpp"

namespace ddl {

/// Adds values[i + stride] to values[i], for stride = 1, 2, 4, .. and all multiples i of 2 stride, by calls
/// add(i, i + stride). values[0] is then the sum of all `count` values.
template <class Add>
void for_each_tree_sum(Index count, const Add& add) {
  for (Index stride = 1; stride < count; stride *= 2)
    for (Index i = 0; i + stride < count; i += 2 * stride) add(i, i + stride);
}

/// The gradients of the shards of a batch. It takes `shards` times the memory of the model.
///
///     ddl::ShardGradients gradients(net, shards);
///     pool.for_each(shards, [&](ddl::Index s) {
///       const auto& prediction = net.forward(inputs[s], tapes[s]);
///       losses[s] = ddl::softmax_cross_entropy_sum(prediction, targets[s], targets_of_the_batch, grads[s]);
///       net.backward(grads[s], tapes[s], gradients.zeroed(s));
///     });
///     optimizer.step(net, gradients.sum(pool));
template <class Model>
class ShardGradients {
 public:
  using Scalar = typename Model::Scalar;

  /// @throws std::invalid_argument if shards is below 1.
  ShardGradients(const Model& model, Index shards) {
    check_positive("ddl::ShardGradients", "shards", shards);
    gradients_.assign(static_cast<std::size_t>(shards), zeros_like(model));
    is_zero_.assign(gradients_.size(), true);
    for (Model& gradient : gradients_) {
      for_each_parameter([&](const ParameterPath&, auto& p) { data_.push_back(p.data()); }, gradient);
    }
    for_each_parameter(
        [&, parameter = std::size_t(0)](const ParameterPath&, const auto& p) mutable {
          for (Index begin = 0; begin < p.size(); begin += piece)
            pieces_.push_back({parameter, begin, (std::min)(p.size(), begin + piece)});
          ++parameter;
        },
        model);
  }
  ShardGradients(const ShardGradients&) = delete;
  ShardGradients& operator=(const ShardGradients&) = delete;

  Index shards() const noexcept { return static_cast<Index>(gradients_.size()); }  ///< their number
  /// A shard's gradient as it is.
  Model& operator[](Index shard) noexcept {
    is_zero_[static_cast<std::size_t>(shard)] = false;
    return gradients_[static_cast<std::size_t>(shard)];
  }
  /// A shard's gradient, set to zero for a new step. Different threads may ask for different shards.
  Model& zeroed(Index shard) {
    const bool is_zero = is_zero_[static_cast<std::size_t>(shard)];
    Model& gradient = (*this)[shard];
    if (!is_zero) set_zero(gradient);
    return gradient;
  }

  /// Adds the gradients up (for_each_tree_sum).
  /// @return the sum, which is left in the first gradient. The others become zero: that costs less here,
  /// where they are in the cache, than at the next step.
  template <Executor E = Serial>
  Model& sum(const E& executor = {}) {
    if (shards() == 1) return gradients_.front();
    const std::size_t parameters = data_.size() / gradients_.size();
    executor.for_each(static_cast<Index>(pieces_.size()), [&](Index p) {
      const auto& [parameter, begin, end] = pieces_[static_cast<std::size_t>(p)];
      const auto segment = [&, parameter = parameter, begin = begin, end = end](Index shard) {
        return Eigen::Map<Eigen::Array<Scalar, Dynamic, 1>>(
            data_[static_cast<std::size_t>(shard) * parameters + parameter] + begin, end - begin);
      };
      for_each_tree_sum(shards(), [&](Index to, Index from) {
        segment(to) += segment(from);
        segment(from).setZero();
      });
    });
    std::fill(is_zero_.begin() + 1, is_zero_.end(), true);
    return gradients_.front();
  }

 private:
  /// Scalars of a parameter that are added up by one call, so that those of 16 shards stay in the cache.
  static constexpr Index piece = 1 << 12;
  struct Piece {
    std::size_t parameter;
    Index begin, end;
  };

  std::vector<Model> gradients_;
  /// Of every shard: whether its gradient is known to be zero. Not bits, as several threads write.
  std::vector<char> is_zero_;
  std::vector<Scalar*> data_;  ///< of every parameter of the first shard, then of the second ..
  std::vector<Piece> pieces_;
};

}  // namespace ddl
