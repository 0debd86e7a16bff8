// SPDX-License-Identifier: MIT
/// @file  The net of the benchmarks, and a step of its training on a random batch.
#pragma once

#include <ddl/model/delta_resnet.hpp>
#include <ddl/train/loss.hpp>
#include <ddl/train/optimizer.hpp>

#include "support.hpp"

namespace bench {

using Net = ddl::DeltaResNet<float>;

template <class AnyNet = Net>
typename AnyNet::Settings net_settings(Index width, Index depth = 8) {
  return {.inputs = 64, .outputs = 10, .width = width, .value_channels = 4, .depth = depth};
}

/// A net on the way: its learning rate is 0, so that every step does the same work on the same numbers.
struct Training {
  Training(Index width, Index batch, ddl::Memory memory = ddl::Memory::training, Index depth = 8)
      : net(net_settings(width, depth), 1),
        gradient(ddl::zeros_like(net)),
        optimizer(net, {.learning_rate = 0}),
        x(random_matrix<float>(net.inputs(), batch, 2)),
        dlogits(net.outputs(), batch),
        tape(net.make_tape(memory)) {
    ddl::Random random(3);
    for (Index n = 0; n < batch; ++n) labels.push_back(static_cast<int>(random.below(net.outputs())));
  }

  /// Forward, loss, backward.
  template <ddl::Executor E = ddl::Serial>
  void differentiate(const E& executor = {}) {
    const auto& logits = net.forward(x, tape, executor);
    ddl::softmax_cross_entropy(logits, labels, dlogits, executor);
    ddl::set_zero(gradient);
    net.backward(dlogits, tape, gradient, executor);
  }

  /// Forward, loss, backward, clipping, AdamW.
  template <ddl::Executor E = ddl::Serial>
  void step(const E& executor = {}) {
    differentiate(executor);
    ddl::clip_global_norm(gradient, 1, executor);
    optimizer.step(net, gradient, executor);
  }

  Net net, gradient;
  ddl::AdamW<Net> optimizer;
  ddl::Matrix<float> x, dlogits;
  std::vector<int> labels;
  Net::Tape<> tape;
};

}  // namespace bench
