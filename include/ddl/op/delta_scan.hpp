// SPDX-License-Identifier: MIT
/// @file  The delta rule over time: T edits of the state of every head of every sequence, one after the
/// other, with an output after each token; its adjoint, inference from a given state, and the way back.
/// @source Yang et al. 2024 (DeltaNet), Yang et al. 2025 (Gated DeltaNet), Siems et al. 2025 (DeltaProduct).
///
/// For every head of every sequence, with the state X (d x m) and a_t = e^{g_t}, token t does
///
///     X <- a_t X                         once,
///     X <- X + beta k (v - X^T k)^T      for each of its edits,
///     o_t = output_scale X^T q_t         after the last
///
/// The control UpdateRule::write_only leaves out the read: X <- X + beta k v^T (linear attention).
///
/// Two formulations compute it: delta_scan_recurrent.hpp, delta_scan_chunked.hpp. The backward pass recovers
/// the states from the last one: X before an edit is X - beta k r^T, with r = v - X^T k from the forward
/// pass.
#pragma once

#include "ddl/op/delta_scan_chunked.hpp"
#include "ddl/op/delta_scan_recurrent.hpp"

namespace ddl {
namespace detail {

/// Whether the chunked kernel is to compute a pass. Measured: one sweep a token is faster forward for every
/// head size. Backward, its sums across lanes and two arrays that leave the first-level cache make matrix
/// products faster for large heads.
/// @throws std::invalid_argument if the settings ask for the chunked kernel and edits stretch the state too
/// much for it.
template <class Scalar, Executor E>
bool use_chunks(const char* where, const DeltaScanSettings& settings, bool backward, const ScanSizes& s,
                std::span<const Index> offsets, const DeltaScanInputs<Scalar>& x, const E& executor) {
  if (s.write_only && settings.kernel == ScanKernel::chunked)
    fail(where, "update", name_of(settings.update), "delta for the chunked kernel");
  if (s.write_only) return false;
  const bool faster = backward && s.d * s.m > 128 * 128;
  if (settings.kernel == ScanKernel::recurrent || (settings.kernel == ScanKernel::automatic && !faster))
    return false;
  const bool stable = chunks_are_stable(s, offsets, x, settings.chunk, executor);
  if (!stable && settings.kernel == ScanKernel::chunked)
    fail(where, "the growth of the state within a chunk, the product of |1 - beta |k|^2|", "above e^2",
         "beta |k|^2 in [0, 2], or the recurrent kernel, or smaller chunks");
  return stable;
}

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
  const bool chunked = use_chunks(where, settings, false, s, offsets, x, executor);
  if (tape) {
    tape->chunk = settings.chunk;
    tape->error.resizeLike(x.value);
    plan_backward(s, offsets, x, *tape, executor);
  }
  if (chunked)
    scan_chunked(s, offsets, x, settings.chunk, state, output, tape, executor);
  else
    scan_recurrent(s, offsets, x, state, output, tape, executor);
  if (tape) tape->last = state;
}

/// @throws std::invalid_argument if the tape is used up, or of another shape than these inputs give.
template <class Scalar>
void check_tape(const char* where, const ScanSizes& s, const DeltaScanInputs<Scalar>& x,
                const DeltaScanTape<Scalar>& tape) {
  if (tape.chunk == 0)
    fail(where, "the tape", "used up or never written", "one that delta_scan_forward has just written");
  check_shape(where, "the tape's error", tape.error, x.value.rows(), s.tokens);
  check_shape(where, "the tape's kept", tape.kept, x.beta.rows(), s.tokens);
  check_shape(where, "the tape's last", tape.last, s.m, s.sequences * s.value_heads * s.d);
}

/// X <- X - beta k r^T for the edits of the last `tokens` tokens of every sequence, from the last. Keys and
/// betas are those of x, the r those of `error`.
template <class Scalar, class Inputs, Executor E>
void take_back(const ScanSizes& s, std::span<const Index> offsets, const Inputs& x,
               const Matrix<Scalar>& error, Index tokens, std::type_identity_t<BatchRef<Scalar>> state,
               const E& executor) {
  executor.for_each(s.sequences * s.value_heads, [&](Index piece) {
    const ScanHead head(x, s, offsets, piece / s.value_heads, piece % s.value_heads);
    for (Index j = head.count; j-- > head.count - tokens * s.edits;) {
      const ConstRun<Scalar> r(head.of_value(error, j), s.m);
      for (Index i = 0; i < s.d; ++i) column(state, piece * s.d + i) -= (head.beta(j) * head.key(j)[i]) * r;
    }
  });
}

}  // namespace detail

/// The scan: all tokens of all sequences, from the first to the last.
///
///     offsets  the first tokens of the S sequences, and N: S + 1 ascending numbers from 0; sequences may be empty
///     inputs   see DeltaScanInputs
///     state    m x (S value_heads d): columns (s value_heads + h) d .. are the transposed state X^T of head h of
///              sequence s; initial on entry, final on return
///     output   (value_heads m) x N
///     tape     what delta_scan_backward needs: m numbers an edit and head, and the final states. With decay, or
///              where beta |k|^2 leaves [0, 2], one state for each `chunk` edits is added.
///
/// Keys need not be of unit length. The result has the same bits on any number of threads.
/// @throws std::invalid_argument if a setting or a shape does not fit, or a log_decay is above 0.
template <class Scalar, Executor E = Serial>
void delta_scan_forward(const DeltaScanSettings& settings, std::span<const Index> offsets,
                        const DeltaScanInputs<Scalar>& inputs, std::type_identity_t<BatchRef<Scalar>> state,
                        std::type_identity_t<BatchRef<Scalar>> output, DeltaScanTape<Scalar>& tape,
                        const E& executor = {}) {
  detail::scan_forward("ddl::delta_scan_forward", settings, offsets, inputs, state, output, &tape, executor);
}

/// The same without a tape: the next tokens of sequences that are being continued, one or many.
template <class Scalar, Executor E = Serial>
void delta_scan_infer(const DeltaScanSettings& settings, std::span<const Index> offsets,
                      const DeltaScanInputs<Scalar>& inputs, std::type_identity_t<BatchRef<Scalar>> state,
                      std::type_identity_t<BatchRef<Scalar>> output, const E& executor = {}) {
  DeltaScanTape<Scalar>* const none = nullptr;
  detail::scan_forward("ddl::delta_scan_infer", settings, offsets, inputs, state, output, none, executor);
}

/// The adjoint of delta_scan_forward.
///
///     tape      of that forward pass, used up
///     doutput   (value_heads m) x N
///     dstate    as state: dL/d(final state) on entry, dL/d(initial state) on return
///     gradient  of the inputs, assigned
///
/// Rounding errors of a state that is taken back from a later one are those of the largest state between.
/// @throws std::invalid_argument if a setting or a shape does not fit, or the tape is used up.
template <class Scalar, Executor E = Serial>
void delta_scan_backward(const DeltaScanSettings& settings, std::span<const Index> offsets,
                         const DeltaScanInputs<Scalar>& inputs, DeltaScanTape<Scalar>& tape,
                         const std::type_identity_t<ConstBatchRef<Scalar>>& doutput,
                         std::type_identity_t<BatchRef<Scalar>> dstate, DeltaScanInputs<Scalar>& gradient,
                         const E& executor = {}) {
  constexpr const char* where = "ddl::delta_scan_backward";
  const detail::ScanSizes s = detail::scan_sizes(where, settings, offsets, inputs);
  detail::check_tape(where, s, inputs, tape);
  check_shape(where, "doutput", doutput, s.value_heads * s.m, s.tokens);
  check_shape(where, "dstate", dstate, s.m, s.sequences * s.value_heads * s.d);
  const bool chunked = detail::use_chunks(where, settings, true, s, offsets, inputs, executor);
  gradient.resize_like(inputs);
  if (chunked)
    detail::scan_chunked_backward(s, offsets, inputs, tape, doutput, dstate, gradient, executor);
  else
    detail::scan_recurrent_backward(s, offsets, inputs, tape, doutput, dstate, gradient, executor);
  tape.chunk = 0;
}

/// Takes back the last `tokens` tokens of every sequence, as if they had not been seen: what speculative
/// decoding does with the tokens that it rejects. Decay and edits that stretch the state are refused: taking
/// them back would lose digits.
///
///     inputs, tape  of the forward pass that led to `state`
///     state         after that pass on entry, before those tokens on return
///
/// @throws std::invalid_argument if there is decay, the product of the factors |1 - beta |k|^2| above 1 of
/// those tokens exceeds e^2, a sequence is shorter, a shape does not fit or the tape is used up.
template <class Scalar, Executor E = Serial>
void delta_scan_inverse(const DeltaScanSettings& settings, std::span<const Index> offsets,
                        const DeltaScanInputs<Scalar>& inputs, const DeltaScanTape<Scalar>& tape,
                        Index tokens, std::type_identity_t<BatchRef<Scalar>> state, const E& executor = {}) {
  constexpr const char* where = "ddl::delta_scan_inverse";
  const detail::ScanSizes s = detail::scan_sizes(where, settings, offsets, inputs);
  detail::check_tape(where, s, inputs, tape);
  check_shape(where, "state", state, s.m, s.sequences * s.value_heads * s.d);
  if (inputs.has_decay())
    fail(where, "log_decay", shape_text(inputs.log_decay.rows(), inputs.log_decay.cols()),
         "0 x 0: a decayed state cannot be taken back without loss; copy the state instead");
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i)
    if (const Index length = offsets[i + 1] - offsets[i]; tokens < 0 || tokens > length)
      fail(where, "tokens", std::to_string(tokens),
           "from 0 to the " + std::to_string(length) + " tokens of sequence " + std::to_string(i));
  for (Index piece = 0; piece < s.sequences * s.value_heads; ++piece) {
    const detail::ScanHead head(inputs, s, offsets, piece / s.value_heads, piece % s.value_heads);
    Scalar growth(0);
    for (Index j = head.count - tokens * s.edits; j < head.count; ++j) growth += detail::log_stretch(head, j);
    if (growth > Scalar(detail::most_log_loss))
      fail(where,
           "the growth of the state over the last " + std::to_string(tokens) + " tokens of sequence " +
               std::to_string(piece / s.value_heads) + ", the product of |1 - beta |k|^2|,",
           "e^" + number_text(static_cast<double>(growth)),
           "at most e^2: a stretched state cannot be taken back without loss; copy the state instead");
  }
  detail::take_back(s, offsets, inputs, tape.error, tokens, state, executor);
}

}  // namespace ddl
