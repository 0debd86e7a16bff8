// SPDX-License-Identifier: MIT
/// @file  The scan of delta-rule edits over time by chunks of C edits, as matrix products, and its adjoint.
/// @source Compact WY, as in DeltaProduct: Yang et al. 2024 (DeltaNet), with decay Yang et al. 2025 (Gated
/// DeltaNet).
///
/// In a chunk with keys K = [k_1 .. k_C], queries Q (of the tokens that end in the chunk), D = diag(beta),
/// G_i = g_1 + .. + g_i,
///
///     a_i = e^{G_i}                             c_j = e^{G_C - G_j}
///     L_ij = k_i.k_j e^{G_i - G_j}, j < i       M_ij = q_i.k_j e^{G_i - G_j}, j <= i
///
/// of which no exponential exceeds 1, the r_i and p_i = beta_i r_i of the recurrent form are the rows of R
/// and P:
///
///     R = V^T - diag(a) K^T X_0 - L P                        row by row
///     O^T = s (diag(a) Q^T X_0 + M P)                        X_C = a_C X_0 + K diag(c) P
///
/// The adjoint, with E = s dO^T, H = dL/dX_C, W = D Y the gradient of V^T:
///
///     Y = M^T E + diag(c) K^T H - L^T W                      row by row from the last; dbeta_i = Y_i.R_i
///     N = (E P^T) e^{G_i - G_j} for j <= i                   A = -(W P^T) e^{G_i - G_j} for j < i
///     dQ = X_0 (diag(a) E)^T + K N^T
///     dK = Q N + K (A + A^T) - X_0 (diag(a) W)^T + H (diag(c) P)^T
///     dL/dX_0 = a_C H + Q diag(a) E - K diag(a) W
///
/// For unit keys and 0 <= beta <= 2 no entry of (I + D L)^-1, which is applied here, exceeds 2: below the
/// diagonal they are -beta_i k_i^T A_{i-1} .. A_{j+1} k_j with |A| <= 1. Matrices are stored transposed,
/// value channels down the columns.
#pragma once

#include "ddl/op/delta_scan_recurrent.hpp"

namespace ddl::detail {

/// Channels that are computed together: what Eigen packs for a product with the state then fits its limit for
/// the stack, 128 KiB, and nothing is taken from the heap.
template <class Scalar>
Index chunked_channels(Index d, Index m) {
  const Index fit = Index{EIGEN_STACK_ALLOCATION_LIMIT} / (d * Index{sizeof(Scalar)}) / 16 * 16;
  return (std::min)(m, (std::max)(Index(16), (std::min)(Index(128), fit)));
}

/// One panel of channels of a head, and room for one chunk.
template <class Scalar>
class ScanChunk {
 public:
  using Inputs = DeltaScanInputs<Scalar>;
  using Block = Eigen::Map<Matrix<Scalar>>;
  using Strided = Eigen::Map<Matrix<Scalar>, Eigen::Unaligned, Eigen::OuterStride<>>;
  using ConstStrided = Eigen::Map<const Matrix<Scalar>, Eigen::Unaligned, Eigen::OuterStride<>>;

  ScanChunk(const ScanHead<const Inputs>& head, Index channel, Index channels, Index chunk)
      : head_(head), d_(head.sizes.d), channel_(channel), channels_(channels), chunk_(chunk) {
    const Index C = (std::min)(chunk, head.count);  // edits of the longest chunk
    room_ = scan_room<Scalar>(2 * channels * d_ + 4 * C * C + 4 * channels * C + 2 * d_ * C + 4 * C);
    X_ = take(channels * d_);
    H_ = take(channels * d_);
    S_ = take(C * C);
    M_ = take(C * C);
    N_ = take(C * C);
    A_ = take(C * C);
    for (Scalar** at : {&R_, &P_, &E_, &Y_}) *at = take(channels * C);
    dQ_ = take(d_ * C);
    dK_ = take(d_ * C);
    for (Scalar** at : {&a_, &c_, &decay_, &beta_}) *at = take(C);
  }

  void forward(Index sequence, ScanState<Scalar> state, BatchRef<Scalar>& output,
               DeltaScanTape<Scalar>* tape) {
    copy_rows(d_, state.data + channel_, state.stride, channels_, X_, channels_, channels_);
    for (Index begin = 0; begin < head_.count; begin += chunk_) {
      if (tape && tape->starts.size() > 0) {
        const ScanState<Scalar> start(tape->starts, head_.sizes, chunk_slot(head_, sequence, begin, chunk_),
                                      head_.h);
        copy_rows(d_, X_, channels_, channels_, start.data + channel_, start.stride, channels_);
      }
      open(begin);
      Block X(X_, channels_, d_), R(R_, channels_, C_), P(P_, channels_, C_), S(S_, C_, C_),
          M(M_, C_, queries_);
      R = head_part(head_.x.value);
      P.noalias() = X * keys();
      R.array() -= P.array().rowwise() * numbers(a_).transpose();
      for (Index i = 0; i < C_; ++i) {
        R.col(i).noalias() -= P.leftCols(i) * S.col(i).head(i);
        P.col(i) = beta_[i] * R.col(i);
      }
      if (tape) head_part(tape->error) = R;
      if (queries_ > 0) {
        Strided O(output.data() + first_token_ * output.outerStride() + head_.h * head_.sizes.m + channel_,
                  channels_, queries_, Eigen::OuterStride<>(output.outerStride()));
        O.noalias() = X * queries();
        for (Index i = 0; i < queries_; ++i) O.col(i) *= a_[edit_of(i)];
        O.noalias() += P * M;
        O *= static_cast<Scalar>(head_.sizes.output_scale);
      }
      P.array().rowwise() *= numbers(c_).transpose();
      X *= a_[C_ - 1];
      X.noalias() += P * keys().transpose();
    }
    copy_rows(d_, X_, channels_, channels_, state.data + channel_, state.stride, channels_);
  }

  /// As ScanPanelBackward::run().
  void backward(Index sequence, Index first, Index end, DeltaScanTape<Scalar>& tape,
                const ConstBatchRef<Scalar>& doutput, ScanState<Scalar> dstate, const ScanHead<Inputs>& sums,
                Matrix<Scalar>& dvalue) {
    const bool stored = tape.starts.size() > 0;
    const ScanState<Scalar> last(tape.last, head_.sizes, sequence, head_.h);
    copy_rows(d_, dstate.data + channel_, dstate.stride, channels_, H_, channels_, channels_);
    if (!stored) copy_rows(d_, last.data + channel_, last.stride, channels_, X_, channels_, channels_);
    for (Index begin = (end - 1) / chunk_ * chunk_; begin >= first; begin -= chunk_) {
      open(begin);
      if (stored) {
        const ScanState<Scalar> start(tape.starts, head_.sizes, chunk_slot(head_, sequence, begin, chunk_),
                                      head_.h);
        copy_rows(d_, start.data + channel_, start.stride, channels_, X_, channels_, channels_);
      }
      Block X(X_, channels_, d_), H(H_, channels_, d_), S(S_, C_, C_), M(M_, C_, queries_),
          N(N_, C_, queries_), A(A_, C_, C_), P(P_, channels_, C_), R(R_, channels_, C_),
          Y(Y_, channels_, C_), E(E_, channels_, queries_), dQ(dQ_, d_, queries_), dK(dK_, d_, C_);
      const auto K = keys();
      const auto beta = numbers(beta_).transpose(), a = numbers(a_).transpose(), c = numbers(c_).transpose();
      R = head_part(tape.error);
      E = ConstStrided(
          doutput.data() + first_token_ * doutput.outerStride() + head_.h * head_.sizes.m + channel_,
          channels_, queries_, Eigen::OuterStride<>(doutput.outerStride()));
      E *= static_cast<Scalar>(head_.sizes.output_scale);

      Y.noalias() = H * K;
      P = R.array().rowwise() * beta;
      P.array().rowwise() *= c;
      if (!stored) {
        X.noalias() -= P * K.transpose();
        X /= a_[C_ - 1];
      }
      Scalar scaling(0);  // <X_C, H>, from X_0
      if (head_.x.has_decay()) scaling = a_[C_ - 1] * X.cwiseProduct(H).sum() + P.cwiseProduct(Y).sum();
      dK.noalias() = H.transpose() * P;
      P = R.array().rowwise() * beta;

      Y.array().rowwise() *= c;
      if (queries_ > 0) Y.noalias() += E * M.transpose();
      for (Index i = C_; i-- > 0;) {  // W takes the place of Y
        const Index after = C_ - 1 - i;
        Y.col(i).noalias() -= Y.rightCols(after) * S.col(i).tail(after);
        sums.beta(begin + i) += Y.col(i).dot(R.col(i));
        Y.col(i) *= beta_[i];
      }
      head_part(dvalue) = Y;

      A.noalias() = P.transpose() * Y;  // A^T, which becomes A + A^T
      for (Index i = 0; i < C_; ++i) {
        decay_until(A.col(i), i);
        A.col(i).head(i) *= Scalar(-1);
        A(i, i) = Scalar(0);
        A.row(i).head(i) = A.col(i).head(i).transpose();
      }
      dK.noalias() += K * A;
      if (queries_ > 0) {
        N.noalias() = P.transpose() * E;  // N^T
        for (Index i = 0; i < queries_; ++i) decay_until(N.col(i), edit_of(i));
        dK.noalias() += queries() * N.transpose();
        dQ.noalias() = K * N;
        for (Index i = 0; i < queries_; ++i) E.col(i) *= a_[edit_of(i)];
        dQ.noalias() += X.transpose() * E;
        Strided(sums.query(begin + edit_of(0)), d_, queries_, Eigen::OuterStride<>(sums.x.query.rows())) +=
            dQ;
      }
      if (head_.x.has_decay()) {
        for (Index j = C_; j-- > 0;) {
          scaling -= Y.col(j).dot(head_part(head_.x.value).col(j));
          if (head_.ends_token(begin + j)) {
            const Index i = head_.token(begin + j) - first_token_;
            scaling += dQ.col(i).dot(queries().col(i));
          }
          if (head_.begins_token(begin + j)) sums.log_decay(begin + j) += scaling;
        }
      }
      Y.array().rowwise() *= a;
      dK.noalias() -= X.transpose() * Y;
      Strided(sums.key(begin), d_, C_, Eigen::OuterStride<>(head_.sizes.key_heads * d_)) += dK;
      H *= a_[C_ - 1];
      if (queries_ > 0) H.noalias() += E * queries().transpose();
      H.noalias() -= Y * K.transpose();
    }
    if (!stored) copy_rows(d_, X_, channels_, channels_, last.data + channel_, last.stride, channels_);
    copy_rows(d_, H_, channels_, channels_, dstate.data + channel_, dstate.stride, channels_);
  }

 private:
  using Numbers = Eigen::Map<Eigen::Array<Scalar, Dynamic, 1>>;

  Scalar* take(Index size) {
    Scalar* const taken = room_;
    room_ += size;
    return taken;
  }
  Numbers numbers(Scalar* at) const { return {at, C_}; }

  /// The chunk's part of a matrix of value's shape: channels x C.
  template <class M>
  auto head_part(M& matrix) const {
    using Map = std::conditional_t<std::is_const_v<M>, ConstStrided, Strided>;
    const ScanSizes& s = head_.sizes;
    return Map(head_.of_value(matrix, begin_) + channel_, channels_, C_,
               Eigen::OuterStride<>(s.value_heads * s.m));
  }
  ConstStrided keys() const {
    return {head_.key(begin_), d_, C_, Eigen::OuterStride<>(head_.sizes.key_heads * d_)};
  }
  ConstStrided queries() const {
    return {queries_ > 0 ? head_.query(begin_ + edit_of(0)) : head_.key(begin_), d_, queries_,
            Eigen::OuterStride<>(head_.sizes.key_heads * d_)};
  }
  /// The edit, in the chunk, after which the i-th query reads.
  Index edit_of(Index i) const {
    return (first_token_ + i + 1) * head_.sizes.edits - 1 - head_.first - begin_;
  }

  /// Takes up the chunk that begins with edit `begin`: a, c, beta; S with L below and L^T above the diagonal;
  /// M^T, C x queries.
  void open(Index begin) {
    begin_ = begin;
    C_ = (std::min)(chunk_, head_.count - begin);
    first_token_ = (head_.first + begin) / head_.sizes.edits;
    queries_ = (head_.first + begin + C_) / head_.sizes.edits - first_token_;
    for (Index i = 0; i < C_; ++i) {
      const bool decays = head_.x.has_decay() && head_.begins_token(begin + i);
      decay_[i] = decays ? std::exp(head_.log_decay(begin + i)) : Scalar(1);
      a_[i] = i > 0 ? a_[i - 1] * decay_[i] : decay_[i];
      beta_[i] = head_.beta(begin + i);
    }
    for (Index i = C_; i-- > 0;) c_[i] = i + 1 < C_ ? c_[i + 1] * decay_[i + 1] : Scalar(1);
    Block S(S_, C_, C_), M(M_, C_, queries_);
    S.noalias() = keys().transpose() * keys();
    if (queries_ > 0) M.noalias() = keys().transpose() * queries();
    for (Index i = 0; i < C_ && head_.x.has_decay(); ++i) {
      decay_until(S.col(i), i);
      S.row(i).head(i) = S.col(i).head(i).transpose();
    }
    for (Index i = 0; i < queries_; ++i) decay_until(M.col(i), edit_of(i));
  }

  /// Multiplies entry j <= `last` by the decay between edits j and `last`; the entries below become 0. The
  /// decay is a product: differences of sums of logarithms would lose digits after a strong one.
  template <class Column>
  void decay_until(Column&& column, Index last) const {
    column.tail(C_ - 1 - last).setZero();
    if (!head_.x.has_decay()) return;
    Scalar factor(1);
    for (Index j = last; j-- > 0;) column[j] *= factor *= decay_[j + 1];
  }

  const ScanHead<const Inputs>& head_;
  Index d_, channel_, channels_, chunk_;
  /// Of the chunk: first edit, edits, first token, queries.
  Index begin_ = 0, C_ = 0, first_token_ = 0, queries_ = 0;
  Scalar* room_;
  Scalar *X_, *H_;                   ///< channels x d
  Scalar *S_, *M_, *N_, *A_;         ///< C x C
  Scalar *R_, *P_, *E_, *Y_;         ///< channels x C
  Scalar *dQ_, *dK_;                 ///< d x C
  Scalar *a_, *c_, *decay_, *beta_;  ///< C
};

/// The chunked scan of all heads of all sequences; `tape` may be null.
template <class Scalar, Executor E>
void scan_chunked(const ScanSizes& s, std::span<const Index> offsets, const DeltaScanInputs<Scalar>& x,
                  Index chunk, BatchRef<Scalar>& states, BatchRef<Scalar>& output,
                  DeltaScanTape<Scalar>* tape, const E& executor) {
  const Index channels = chunked_channels<Scalar>(s.d, s.m), panels = pieces_of(s.m, channels);
  executor.for_each(s.sequences * s.value_heads * panels, [&](Index piece) {
    const Index sequence = piece / panels / s.value_heads, h = piece / panels % s.value_heads;
    const Index channel = piece % panels * channels;
    const ScanHead head(x, s, offsets, sequence, h);
    ScanChunk<Scalar>(head, channel, (std::min)(channels, s.m - channel), chunk)
        .forward(sequence, ScanState<Scalar>(states, s, sequence, h), output, tape);
  });
}

template <class Scalar, Executor E>
void scan_chunked_backward(const ScanSizes& s, std::span<const Index> offsets,
                           const DeltaScanInputs<Scalar>& x, DeltaScanTape<Scalar>& tape,
                           const ConstBatchRef<Scalar>& doutput, BatchRef<Scalar>& dstates,
                           DeltaScanInputs<Scalar>& gradient, const E& executor) {
  const Index channels = chunked_channels<Scalar>(s.d, s.m), panels = pieces_of(s.m, channels);
  sum_parts(s, offsets, s.ratio() * panels, tape, gradient, executor,
            [&](Index sequence, Index key_head, Index part, Index begin, Index end, const auto& sums_of) {
              const Index h = s.value_head(key_head, part / panels), channel = part % panels * channels;
              const ScanHead head(x, s, offsets, sequence, h);
              const ScanHead<DeltaScanInputs<Scalar>> sums = sums_of(h);
              ScanChunk<Scalar>(head, channel, (std::min)(channels, s.m - channel), tape.chunk)
                  .backward(sequence, begin, end, tape, doutput, ScanState<Scalar>(dstates, s, sequence, h),
                            sums, gradient.value);
            });
}

}  // namespace ddl::detail
