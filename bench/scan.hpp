// SPDX-License-Identifier: MIT
/// @file  A scan of the delta rule over time on random inputs, for the benchmarks.
#pragma once

#include <ddl/op/delta_scan.hpp>

#include "support.hpp"

namespace bench {

enum class Pass { infer, forward, forward_backward };

template <class Scalar>
class Scan {
 public:
  /// Random inputs for heads of d x m: unit keys, beta in (0, 2), and with decay 0.9 a token on average.
  Scan(Index d, Index m, Index T, Index sequences, Index heads, bool decay)
      : d_(d), m_(m), settings_{.key_heads = heads} {
    const Index N = sequences * T;
    for (Index s = 0; s <= sequences; ++s) offsets_.push_back(s * T);
    inputs_.query = bench::random_matrix<Scalar>(heads * d, N, 1);
    inputs_.key = bench::random_matrix<Scalar>(heads * d, N, 2);
    inputs_.key.reshaped(d, heads * N).colwise().normalize();
    inputs_.value = bench::random_matrix<Scalar>(heads * m, N, 3);
    inputs_.beta = bench::random_matrix<Scalar>(heads, N, 4).array().tanh() + Scalar(1);
    if (decay)  // log decay of -0.1 on average, as Gated DeltaNet's at the start
      inputs_.log_decay = Scalar(-0.1) * bench::random_matrix<Scalar>(heads, N, 5).array().square();
    state_.setZero(m, sequences * heads * d);
    dstate_ = state_;
    output_.resize(heads * m, N);
    doutput_ = bench::random_matrix<Scalar>(heads * m, N, 6);
  }

  const ddl::DeltaScanInputs<Scalar>& inputs() const { return inputs_; }
  const ddl::Matrix<Scalar>& state() const { return state_; }    ///< the last states, m x (S heads d)
  const ddl::Matrix<Scalar>& output() const { return output_; }  ///< (heads m) x N
  Index tokens_and_heads() const { return inputs_.query.cols() * settings_.key_heads; }
  double flops(Pass pass) const {
    return double(pass == Pass::forward_backward ? 20 : 6) * double(d_ * m_) * double(tokens_and_heads());
  }

  template <ddl::Executor E>
  void run(Pass pass, ddl::ScanKernel kernel, const E& executor) {
    settings_.kernel = kernel;
    state_.setZero();
    if (pass == Pass::infer)
      return ddl::delta_scan_infer(settings_, offsets_, inputs_, state_, output_, executor);
    ddl::delta_scan_forward(settings_, offsets_, inputs_, state_, output_, tape_, executor);
    if (pass == Pass::forward) return;
    dstate_.setZero();
    ddl::delta_scan_backward(settings_, offsets_, inputs_, tape_, doutput_, dstate_, gradient_, executor);
  }

 private:
  Index d_, m_;
  ddl::DeltaScanSettings settings_;
  std::vector<Index> offsets_;
  ddl::DeltaScanInputs<Scalar> inputs_, gradient_;
  ddl::Matrix<Scalar> state_, dstate_, output_, doutput_;
  ddl::DeltaScanTape<Scalar> tape_;
};

}  // namespace bench
