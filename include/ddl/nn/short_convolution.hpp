// SPDX-License-Identifier: MIT
/// @file  The short convolution in front of a token mixer: causal, depthwise, followed by SiLU.
/// @source Poli et al., Hyena Hierarchy, 2023; as in flash-linear-attention's layers.
#pragma once

#include <optional>
#include <tuple>

#include "ddl/nn/activation.hpp"
#include "ddl/nn/token_windows.hpp"

namespace ddl {

/// The convolution y_n = silu(a_n),  a_n = sum over t of w_t * x_(n - (K - 1) + t),  x = 0 before a sequence;
/// a = x without a kernel.
///
///     x, y, a: channels x N    w: channels x K, the newest token last
template <class Scalar_>
struct ShortConvolution {
  using Scalar = Scalar_;
  using Input = ConstBatchRef<Scalar>;
  using State = ConvolutionState<Scalar>;  ///< the last tokens of each sequence

  /// Scratch memory.
  struct Tape {
    Matrix<Scalar> windows;  ///< scratch memory of infer
    Matrix<Scalar> dweight;  ///< scratch memory of backward
  };

  Matrix<Scalar> weight;  ///< w; empty without a kernel

  static constexpr auto parameters() { return std::tuple(parameter("weight", &ShortConvolution::weight)); }

  ShortConvolution() = default;
  /// Weights are drawn from a normal distribution of deviation 1 / sqrt(kernel).
  /// @throws std::invalid_argument if the kernel is below 1.
  ShortConvolution(Index channels, const std::optional<Index>& kernel, Random& random) {
    if (!kernel) return;
    check_positive("ddl::ShortConvolution", "kernel", *kernel);
    weight.resize(channels, *kernel);
    random.fill_normal(weight, 1 / std::sqrt(static_cast<double>(*kernel)));
  }

  /// The tape is not used.
  void forward(const Input& x, BatchRef<Scalar> y, Tape&, const Pass& pass = {}) const {
    convolve(x, {pass}, y);
    activate(Activation::silu, y, y, pass.executor);
  }

  /// Assigns dx, in which a is computed again first. dy is overwritten with da.
  void backward(const Input& x, BatchRef<Scalar> dy, BatchRef<Scalar> dx, Tape& tape,
                ShortConvolution& gradient, const Pass& pass = {}) const {
    convolve(x, {pass}, dx);
    activate_backward(Activation::silu, dx, dy, dy, pass.executor);
    if (weight.size() == 0) {
      dx = dy;
      return;
    }
    dx.setZero();
    detail::mix_windows_backward(x, weight, 1, pass, dy, dx, tape.dweight);
    gradient.weight += tape.dweight.leftCols(weight.cols());
  }

  /// At the start of sequences.
  /// @param rollback  the most tokens that roll_back is to take back.
  State make_state(Index sequences, Index channels, Index rollback = 0) const {
    return {Matrix<Scalar>::Zero(channels, past(rollback) * sequences), rollback};
  }
  /// forward for the tokens after those in the state.
  void infer(const Input& x, BatchRef<Scalar> y, State& state, Tape& tape, const Pass& pass = {}) const {
    const detail::Windows layout{pass, past(state.rollback)};
    detail::extend_windows("ddl::ShortConvolution::infer", x, 1, layout, state, tape.windows);
    convolve(tape.windows, layout, y);
    activate(Activation::silu, y, y, pass.executor);
  }
  /// Takes the last `tokens` tokens of each sequence back, at most as many as the state was made for.
  void roll_back(State& state, Index tokens) const {
    detail::roll_back_windows(state, weight.cols(), 1, tokens);
  }

 private:
  Index past(Index rollback) const noexcept { return weight.size() == 0 ? 0 : weight.cols() - 1 + rollback; }
  /// a
  void convolve(const Input& windows, const detail::Windows& layout, BatchRef<Scalar>& a) const {
    if (weight.size() == 0)
      a = windows;
    else
      detail::mix_windows(windows, weight, 1, layout, a);
  }
};

}  // namespace ddl
