// SPDX-License-Identifier: MIT
/// @file  The short convolution in front of a token mixer: causal, depthwise, followed by SiLU.
/// @source Poli et al., Hyena Hierarchy, 2023; as in flash-linear-attention's layers.
#pragma once

#include <optional>
#include <tuple>

#include "ddl/nn/activation.hpp"
#include "ddl/nn/token_windows.hpp"

namespace ddl {

/// y_n = silu(a_n),  a_n = sum over t of w_t * x_(n - (K - 1) + t),  x = 0 before a sequence;  a = x without a kernel.
///
///   x, y, a: channels x N    w: channels x K, the newest token last
template <class Scalar_>
struct ShortConvolution {
  using Scalar = Scalar_;
  using Input = ConstBatchRef<Scalar>;
  using State = ConvolutionState<Scalar>;

  struct Tape {
    Matrix<Scalar> before;   ///< a
    Matrix<Scalar> windows;  ///< scratch memory of infer
    Matrix<Scalar> dweight;  ///< scratch memory of backward
  };

  Matrix<Scalar> weight;

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

  void forward(const Input& x, BatchRef<Scalar> y, Tape& tape, const Pass& pass = {}) const {
    convolve(x, {pass}, y, tape);
  }

  /// Adds to dx. dy is overwritten with da.
  void backward(const Input& x, BatchRef<Scalar> dy, BatchRef<Scalar> dx, Tape& tape,
                ShortConvolution& gradient, const Pass& pass = {}) const {
    activate_backward(Activation::silu, tape.before, dy, dy, pass.executor);
    if (weight.size() == 0) {
      dx += dy;
      return;
    }
    detail::mix_windows_backward(x, weight, 1, pass, dy, dx, tape.dweight);
    gradient.weight += tape.dweight.leftCols(weight.cols());
  }

  State make_state(Index sequences, Index channels) const {
    return {Matrix<Scalar>::Zero(channels, past() * sequences)};
  }
  /// forward for the tokens after those in the state.
  void infer(const Input& x, BatchRef<Scalar> y, State& state, Tape& tape, const Pass& pass = {}) const {
    const detail::Windows layout{pass, past()};
    detail::extend_windows("ddl::ShortConvolution::infer", x, 1, layout, state, tape.windows);
    convolve(tape.windows, layout, y, tape);
  }

 private:
  Index past() const noexcept { return (std::max)(Index(1), weight.cols()) - 1; }
  void convolve(const Input& windows, const detail::Windows& layout, BatchRef<Scalar>& y, Tape& tape) const {
    tape.before.resizeLike(y);
    if (weight.size() == 0)
      tape.before = windows;
    else
      detail::mix_windows(windows, weight, 1, layout, tape.before);
    activate(Activation::silu, tape.before, y, layout.pass.executor);
  }
};

}  // namespace ddl
