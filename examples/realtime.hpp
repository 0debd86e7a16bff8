// SPDX-License-Identifier: MIT
/// @file  An audio effect with a trained net in it: a sublayer with memory, and a callback for the real-time
/// thread. docs/inference.md explains it.
#pragma once

#include <cstddef>
#include <span>
#include <tuple>

#include <ddl/io/weights.hpp>
#include <ddl/model/delta_resnet.hpp>

namespace realtime {

using ddl::Index;

// ---- 1. A sublayer with memory

struct SmoothingSettings {
  double keep = 0.8;  ///< a
};

/// kt_n = W h_n + w,  h_n = a h_(n-1) + (1 - a) c_n,  h = 0 before a sequence.   c, kt, h: Width x N.
template <class Scalar_, int Width>
struct Smoothing {
  using Scalar = Scalar_;
  using Settings = SmoothingSettings;
  using Input = ddl::ConstBatchRef<Scalar, Width>;
  using Output = ddl::BatchRef<Scalar, Width>;
  static constexpr ddl::PartKind kind = ddl::PartKind::sublayer;

  /// The last h of each sequence, Width x S.
  struct State {
    using Scalar = Scalar_;
    ddl::Matrix<Scalar, Width> last;
    static constexpr auto parameters() { return std::tuple(ddl::parameter("last", &State::last)); }
  };
  template <int Tokens = ddl::Dynamic>
  struct Tape {
    ddl::Matrix<Scalar, Width, Tokens> h;
    State start;  ///< of forward
  };

  ddl::Linear<Scalar, Width, Width> out;
  Scalar keep = 0;

  static constexpr auto parameters() { return std::tuple(ddl::parameter("out", &Smoothing::out)); }

  Smoothing() = default;
  Smoothing(Index inputs, Index outputs, const Settings& settings, ddl::Random& random)
      : out(inputs, outputs, random), keep(static_cast<Scalar>(settings.keep)) {}

  template <int Tokens>
  void forward(const Input& c, Output kt, Tape<Tokens>& tape, const ddl::Pass& pass) const {
    tape.start.last.setZero(c.rows(), pass.sequences("Smoothing::forward", c.cols()));
    infer(c, kt, tape.start, tape, pass);
  }

  template <int Tokens>
  void backward(const Input& /*c*/, const Input& /*kt*/, const Input& dkt, Output dc, Tape<Tokens>& tape,
                Smoothing& gradient, const ddl::Pass& pass) const {
    out.backward_parameters(tape.h, dkt, gradient.out, pass);
    auto& dh = tape.h;  // h is not needed any more
    out.input_gradient(dkt, dh, pass);
    for (Index s = 0; s < tape.start.last.cols(); ++s) {
      const auto [sequence, begin, end] = pass.sequence(s);
      for (Index n = end - 1; n >= begin; --n) {
        if (n + 1 < end) dh.col(n) += keep * dh.col(n + 1);
        dc.col(n) += (1 - keep) * dh.col(n);
      }
    }
  }

  State make_state(Index sequences, Index /*capacity*/) const {
    return {ddl::Matrix<Scalar, Width>::Zero(out.inputs(), sequences)};
  }

  /// forward for the samples after those in the state.
  template <int Tokens>
  void infer(const Input& c, Output kt, State& state, Tape<Tokens>& tape,
             const ddl::Pass& pass) const noexcept {
    tape.h.resize(c.rows(), c.cols());
    for (Index s = 0; s < state.last.cols(); ++s) {
      const auto [sequence, begin, end] = pass.sequence(s);
      for (Index n = begin; n < end; ++n) {
        state.last.col(s) = keep * state.last.col(s) + (1 - keep) * c.col(n);
        tape.h.col(n) = state.last.col(s);
      }
    }
    out.forward(tape.h, kt, pass);
  }
};
static_assert(ddl::Sublayer<Smoothing<float, 16>, 16> && ddl::Stateful<Smoothing<float, 16>>);

template <class Scalar, int Width, int ValueChannels>
using SmoothingNet =
    ddl::DeltaResNet<Scalar, Width, ValueChannels,
                     ddl::DeltaResidualBlock<Scalar, Width, ValueChannels, Smoothing<Scalar, Width>>>;

// ---- 2. The net: stereo in, stereo out

using Net = SmoothingNet<float, 16, 2>;

inline Net make_net() { return Net({.inputs = 2, .outputs = 2, .depth = 3}, /*seed=*/1); }

// ---- 3. The callback

class Effect {
 public:
  /// @param weights  a safetensors file, for example one that is part of the executable.
  /// @throws ddl::FileError if it is not one, or is one of another net.
  explicit Effect(std::span<const std::byte> weights) {
    ddl::load_parameters(net_, ddl::SafetensorsFile(ddl::FileContents("the effect's weights", weights)));
    state_ = net_.make_state();
  }

  /// Replaces `frames` samples of both channels. For the real-time thread: takes no lock, allocates nothing.
  void process(float* const* channels, int frames) noexcept {
    for (int n = 0; n < frames; ++n) {
      const Eigen::Vector2f x(channels[0][n], channels[1][n]);
      const auto& y = net_.infer(x, state_);
      channels[0][n] = y(0);
      channels[1][n] = y(1);
    }
  }

  /// Forgets the samples so far.
  void reset() noexcept { state_.reset(); }

 private:
  Net net_ = make_net();
  Net::State<1> state_;
};

}  // namespace realtime
