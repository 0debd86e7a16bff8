// SPDX-License-Identifier: MIT
/// @file  Batches for tests of training: y = sin of a mixture of two random inputs, for as long as anybody
/// asks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "ddl/model/delta_resnet.hpp"
#include "ddl/train/loss.hpp"

namespace ddl::test {

template <class Scalar>
struct ToyData {
  Random random{17};
  Matrix<Scalar> x, y;
  double poison = 0;  ///< added to the loss of the next batch

  void next() {
    x.resize(2, 16);
    random.fill_normal(x, 1);
    y = (x.row(0) - x.row(1)).array().sin();
  }
  const Matrix<Scalar>& inputs() const { return x; }
  Index samples() const { return x.cols(); }
  template <Executor E>
  double loss(const Matrix<Scalar>& prediction, Matrix<Scalar>& grad, const E& executor) {
    return mean_squared_error(prediction, y, grad, executor) + poison;
  }

  std::vector<std::uint64_t> state() const { return {random.state().begin(), random.state().end()}; }
  void restore(std::span<const std::uint64_t> words) {
    if (words.size() != 4) throw std::invalid_argument("a toy's state is four words");
    Random::State state{};
    std::copy(words.begin(), words.end(), state.begin());
    random = Random(state);
  }
};

template <class Scalar>
DeltaResNet<Scalar> toy_net(Index depth = 2) {
  return DeltaResNet<Scalar>({.inputs = 2, .outputs = 1, .width = 8, .value_channels = 2, .depth = depth}, 3);
}

}  // namespace ddl::test
