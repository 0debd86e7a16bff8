// SPDX-License-Identifier: MIT
/// @file  An audio effect in real time: trains a net to imitate a distortion with a filter after it, puts its
/// weights into an effect as a file in memory, and calls the effect as an audio host does, 64 frames at a
/// time.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <vector>

#include <ddl/io/safetensors.hpp>
#include <ddl/train/loss.hpp>
#include <ddl/train/optimizer.hpp>

#include "program.hpp"
#include "realtime.hpp"

namespace {

using ddl::Index;
using realtime::Net;

/// Two channels of `sequences` signals of `length` samples each, 2 x (sequences length), and what becomes of
/// them.
struct Signals {
  Eigen::MatrixXf x, y;

  Signals(Index sequences, Index length, ddl::Random& random) : x(2, sequences * length), y(2, x.cols()) {
    for (Index s = 0; s < sequences; ++s) {
      const double pitch[] = {random.uniform(0.02, 0.3), random.uniform(0.02, 0.3)};
      Eigen::Vector2f low = Eigen::Vector2f::Zero();
      for (Index n = s * length; n < (s + 1) * length; ++n) {
        for (Index i = 0; i < 2; ++i)
          x(i, n) = static_cast<float>(0.7 * std::sin(pitch[i] * double(n)) + 0.1 * random.normal());
        low = 0.7f * low + 0.3f * (3 * x.col(n)).array().tanh().matrix();
        y.col(n) = low;
      }
    }
  }
};

/// Sequences of 64 samples, by hand, as `fit` takes independent samples or tokens.
Net train() {
  constexpr Index steps = 400, sequences = 16, length = 64;
  Net net = realtime::make_net(), gradient = ddl::zeros_like(net);
  auto tape = net.make_tape();
  ddl::AdamW<Net> optimizer(net, {.learning_rate = 0.01});
  ddl::Random random(2);
  Eigen::MatrixXf dy(2, sequences * length);
  for (Index step = 1; step <= steps; ++step) {
    const Signals batch(sequences, length, random);
    const auto& prediction = net.forward(batch.x, tape, {ddl::Serial{}, length});
    const double loss = ddl::mean_squared_error(prediction, batch.y, dy);
    ddl::set_zero(gradient);
    net.backward(dy, tape, gradient);
    ddl::clip_global_norm(gradient, 1);
    optimizer.step(net, gradient);
    if (step == 1 || step % 100 == 0) std::printf("step %3ld  loss %.4f\n", long(step), loss);
  }
  return net;
}

int demo() {
  const Net net = train();
  ddl::SafetensorsWriter file;  // a plug-in has these bytes in its executable
  for_each_parameter(
      [&](const ddl::ParameterPath& path, const auto& p) { file.add(path.str(), p, path.is_vector()); }, net);
  const auto weights = file.bytes();
  realtime::Effect effect(weights);

  constexpr Index length = 48000;
  constexpr int frames = 64;
  ddl::Random random(3);
  const Signals second(1, length, random);
  std::vector<float> left(length), right(length);
  for (Index n = 0; n < length; ++n) {
    left[std::size_t(n)] = second.x(0, n);
    right[std::size_t(n)] = second.x(1, n);
  }
  std::vector<double> microseconds;
  for (Index begin = 0; begin < length; begin += frames) {
    float* const channels[] = {left.data() + begin, right.data() + begin};
    const auto start = std::chrono::steady_clock::now();
    effect.process(channels, frames);
    microseconds.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(microseconds.begin(), microseconds.end());

  const auto distance = [&](const auto& expected) {
    double sum = 0;
    for (Index n = 0; n < length; ++n)
      sum += (Eigen::Vector2f(left[std::size_t(n)], right[std::size_t(n)]) - expected.col(n)).squaredNorm();
    return std::sqrt(sum / expected.squaredNorm());
  };
  auto tape = net.make_tape(ddl::Memory::inference);
  const double from_forward = distance(net.forward(second.x, tape, {ddl::Serial{}, length}));
  std::printf("\none second of sound at 48 kHz, in blocks of %d frames (%.0f us of sound each)\n", frames,
              1e6 * frames / 48000);
  std::printf("time of a block              median %.0f us, largest %.0f us\n",
              microseconds[microseconds.size() / 2], microseconds.back());
  std::printf("distance from the target     %.3f of its norm\n", distance(second.y));
  std::printf("distance from forward        %.1e of its norm\n", from_forward);
  return from_forward <= 1e-4 ? 0 : 1;
}

}  // namespace

int main() { return program::run("realtime", demo); }
