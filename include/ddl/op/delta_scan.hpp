// SPDX-License-Identifier: MIT
/// @file  The delta rule over time: T edits of the state of every head of every sequence, one after the other, with an output
/// after each token; its adjoint, inference from a given state, and the way back.
#pragma once

#include "ddl/op/delta_scan_chunked.hpp"
#include "ddl/op/delta_scan_recurrent.hpp"

namespace ddl {
namespace detail {

template <class Scalar, Executor E>
void scan_forward(const char* where, const DeltaScanSettings& settings, std::span<const Index> offsets,
                  const DeltaScanInputs<Scalar>& x, BatchRef<Scalar>& state, BatchRef<Scalar>& output,
                  DeltaScanTape<Scalar>* tape, const E& executor) {
  const ScanSizes s = scan_sizes(where, settings, offsets, x);
  check_shape(where, "state", state, s.m, s.sequences * s.value_heads * s.d);
  check_shape(where, "output", output, s.value_heads * s.m, s.tokens);
  if (x.has_decay()) {
    const Scalar largest = x.log_decay.template maxCoeff<Eigen::PropagateNumbers>();
    if (largest > Scalar(0)) fail(where, "log_decay", number_text(static_cast<double>(largest)), "at most 0");
  }
  if (tape) {
    tape->chunk = settings.chunk;
    tape->error.resizeLike(x.value);
    plan_rewinding(s, offsets, x, *tape, executor);
  }
  if (settings.kernel == ScanKernel::chunked)
    scan_chunked(s, offsets, x, settings.chunk, state, output, tape, executor);
  else
    scan_recurrent(s, offsets, x, state, output, tape, executor);
  if (tape) tape->last = state;
}

}  // namespace detail

/// The scan. For every head of every sequence, with a_t = e^{g_t} and all edits of token t,
///
///     X <- a_t X,   then for each edit   X <- X + beta k (v - X^T k)^T,   then   o_t = output_scale X^T q_t
///
///   offsets  the sequences' first tokens, from 0 to N: S + 1 numbers; sequences may be empty
///   inputs   see DeltaScanInputs
///   state    m x (S value_heads d): columns (s value_heads + h) d .. are the transposed state X^T of head h of sequence s;
///            initial on entry, final on return
///   output   (value_heads m) x N
///   tape     what delta_scan_backward needs. Without decay and for beta |k|^2 in [0, 2] that is m numbers an edit and head,
///            and the final states; otherwise one state for each `chunk` edits is added.
///
/// @throws std::invalid_argument if a setting or a shape does not fit, or a decay is above 0.
template <class Scalar, Executor E = Serial>
void delta_scan_forward(const DeltaScanSettings& settings, std::span<const Index> offsets,
                        const DeltaScanInputs<Scalar>& inputs, std::type_identity_t<BatchRef<Scalar>> state,
                        std::type_identity_t<BatchRef<Scalar>> output, DeltaScanTape<Scalar>& tape,
                        const E& executor = {}) {
  detail::scan_forward("ddl::delta_scan_forward", settings, offsets, inputs, state, output, &tape, executor);
}

/// The same without a tape: the next tokens of sequences that are being continued.
template <class Scalar, Executor E = Serial>
void delta_scan_infer(const DeltaScanSettings& settings, std::span<const Index> offsets,
                      const DeltaScanInputs<Scalar>& inputs, std::type_identity_t<BatchRef<Scalar>> state,
                      std::type_identity_t<BatchRef<Scalar>> output, const E& executor = {}) {
  DeltaScanTape<Scalar>* const none = nullptr;
  detail::scan_forward("ddl::delta_scan_infer", settings, offsets, inputs, state, output, none, executor);
}

/// The adjoint of delta_scan_forward.
///
///   doutput   (value_heads m) x N
///   dstate    as state: dL/d(final state) on entry, dL/d(initial state) on return
///   gradient  of the inputs, assigned
template <class Scalar, Executor E = Serial>
void delta_scan_backward(const DeltaScanSettings& settings, std::span<const Index> offsets,
                         const DeltaScanInputs<Scalar>& inputs, DeltaScanTape<Scalar>& tape,
                         const std::type_identity_t<ConstBatchRef<Scalar>>& doutput,
                         std::type_identity_t<BatchRef<Scalar>> dstate, DeltaScanInputs<Scalar>& gradient,
                         const E& executor = {}) {
  constexpr const char* where = "ddl::delta_scan_backward";
  const detail::ScanSizes s = detail::scan_sizes(where, settings, offsets, inputs);
  check_shape(where, "doutput", doutput, s.value_heads * s.m, s.tokens);
  check_shape(where, "dstate", dstate, s.m, s.sequences * s.value_heads * s.d);
  gradient.resize_like(inputs);
  if (settings.kernel == ScanKernel::chunked)
    detail::scan_chunked_backward(s, offsets, inputs, tape, doutput, dstate, gradient, executor);
  else
    detail::scan_recurrent_backward(s, offsets, inputs, tape, doutput, dstate, gradient, executor);
}

}  // namespace ddl
