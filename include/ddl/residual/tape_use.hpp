// SPDX-License-Identifier: MIT
/// @file  The check that a tape is used as it must be: forward, then one backward, with the model that it was
/// made for.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ddl/core/check.hpp"
#include "ddl/core/pass.hpp"

namespace ddl {

/// A number or pointer that an object gives away with its memory: a moved-from object has T().
template <class T>
class Moving {
 public:
  /// Implicit, as the conversion back is.
  Moving(T value = {}) : value_(value) {}  // implicit, like the conversion back
  Moving(const Moving&) = default;         ///< leaves the other one as it is
  /// The other one has T() then.
  Moving(Moving&& other) noexcept : value_(std::exchange(other.value_, T())) {}
  Moving& operator=(const Moving&) = default;  ///< leaves the other one as it is
  /// The other one has T() then.
  Moving& operator=(Moving&& other) noexcept {
    value_ = std::exchange(other.value_, T());
    return *this;
  }
  operator T() const noexcept { return value_; }  ///< the value

 private:
  T value_;
};

/// The sizes by which a model tells its own tapes and states from those of another.
struct ModelSizes {
  Index inputs = 0, outputs = 0, width = 0, value_channels = 0, layers = 0;  ///< what messages name
  std::uint64_t shapes = 0;  ///< shape_hash of the parameters, or 0 where the sizes above are enough

  /// Whether all sizes and the hash are equal.
  bool operator==(const ModelSizes&) const = default;
  /// As messages write it.
  EIGEN_DONT_INLINE std::string str() const {
    return std::to_string(inputs) + " inputs, " + std::to_string(outputs) + " outputs, width " +
           std::to_string(width) + ", " + std::to_string(value_channels) + " value channels and " +
           std::to_string(layers) + " layers";
  }
};

/// What a tape knows of its use: the sizes that it was made for, and whether a forward pass waits for its
/// backward pass.
class TapeUse {
 public:
  void made_for(const ModelSizes& sizes) { sizes_ = sizes; }  ///< the model for which the tape is made

  /// Marks the tape as without a forward pass.
  /// @throws std::invalid_argument if the model is empty, or the tape was made for one of other sizes.
  void begin_forward(const char* where, const ModelSizes& model) {
    check_sizes(where, "the tape", sizes_, model);
    forward_of_ = nullptr;
  }
  /// Notes the model, and the sequences of the pass.
  void end_forward(const void* model, const Pass& pass) {
    forward_of_ = model;
    offsets_.assign(pass.offsets().begin(), pass.offsets().end());
    if (offsets_.empty()) length_ = pass.length();
  }
  /// Checks that the tape is that of a forward pass of this model.
  /// @throws std::invalid_argument if the model is empty, or the last pass with this tape was not a forward
  /// pass of this model with these sizes.
  EIGEN_DONT_INLINE void check_backward(const char* where, const void* model, const ModelSizes& sizes) const {
    check_sizes(where, "the tape", sizes_, sizes);
    if (forward_of_ != model || !model)
      fail(where, "the tape",
           forward_of_ ? "that of a forward pass of another model"
                       : "without a forward pass, or one that backward has used up",
           "that of a forward pass of this model");
  }
  /// Uses the forward pass up. @return the pass over its sequences, whose lengths are those kept here.
  Pass begin_backward(const ExecutorRef& executor) {
    forward_of_ = nullptr;
    return offsets_.empty() ? Pass(executor, length_) : Pass(executor, offsets_);
  }

  /// Checks that a tape or state belongs to the model.
  /// @throws std::invalid_argument if the sizes differ, or the model is empty.
  EIGEN_DONT_INLINE static void check_sizes(const char* where, const char* what, const ModelSizes& given,
                                            const ModelSizes& model) {
    check_model(where, model);
    if (given == model) return;
    ModelSizes same_parts = given;
    same_parts.shapes = model.shapes;
    fail(where, what,
         given == ModelSizes{} ? "default-constructed"
         : same_parts == model ? "made for a model of the same sizes with other parts"
                               : "made for a model of " + given.str(),
         "one made for this model of " + model.str());
  }
  /// Checks that the model has weights.
  /// @throws std::invalid_argument if the model is empty.
  EIGEN_DONT_INLINE static void check_model(const char* where, const ModelSizes& model) {
    if (model.inputs < 1 || model.outputs < 1 || model.width < 1)
      fail(where, "the model", "empty (default-constructed or moved from)", "one made from settings");
  }

 private:
  ModelSizes sizes_;
  Moving<const void*> forward_of_;
  Index length_ = 1;            ///< of the sequences, or
  std::vector<Index> offsets_;  ///< see Pass
};

}  // namespace ddl
