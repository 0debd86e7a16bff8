// SPDX-License-Identifier: MIT
/// @file  The scan of delta-rule edits over time, one edit after the other, and its adjoint.
/// @source Yang et al. 2024 (DeltaNet), Yang et al. 2025 (Gated DeltaNet).
///
/// With a = e^g, the state X (d x m), x_i its rows, the forward pass of an edit is
///
///     r = v - a u,   p = beta r                          u = X^T k, left by the sweep of the edit before
///     x_i <- a x_i + k_i p                               one sweep over the rows, which also gives
///     o += s q_i x_i,   u' += k'_i x_i                   the output, and u for the next key, k'
///
/// and the backward pass, with H = dL/dX (rows h_i) and e = s do, takes X back while it goes:
///
///     y = H^T k + (q.k) e,   w = beta y                  H^T k left by the sweep of the edit after
///     dv = w,   dbeta = y.r
///     dq_i = x_i.e,   h_i <- h_i + q_i e                 one sweep over the rows of X and H
///     x_i <- x_i - k_i p                                 now the decayed state that the edit read
///     dk_i = h_i.p - x_i.w
///     h_i <- a (h_i - k_i w),   x_i <- x_i / a,   y' += k'_i h_i
///
/// The decay's gradient needs no state. In terms of e^{-G_t} X_t, with G_t = g_1 + .. + g_t, no decay is left
/// but beside v, q and the last state, hence
///
///     dL/dg_t = <X_T, H_T> + sum over s >= t of (o_s.do_s - v_s.dv_s),   o_s.do_s = q_s.dq_s
///
/// where T may be any later token: the sum starts anew at the end of every chunk.
///
/// The value channels are the SIMD lanes: a row of X is contiguous, no sum runs across lanes in the forward
/// pass. A panel of a few packets of channels is copied to where it is contiguous and stays in the
/// first-level cache for the whole sequence. Panels are independent but for the sums dq, dk, dbeta and dg.
#pragma once

#include <utility>

#include "ddl/op/delta_scan_types.hpp"
#include "ddl/op/delta_update.hpp"

namespace ddl::detail {

/// The lanes of a panel: `Width` packets.
template <class Scalar_, int Width>
struct Panel {
  using Scalar = Scalar_;
  using Lane = WideLane<Scalar>;
  using Pack = typename Lane::Pack;
  static constexpr int width = Width;
  static constexpr Index lanes = Width * Lane::size;
  /// One number for each lane.
  using Numbers = Eigen::Array<Scalar, int(lanes), 1>;

  /// The first `count` lanes, at least one; zero in the others.
  static EIGEN_STRONG_INLINE void load(const Scalar* from, Index count, Numbers& to) {
    if (lanes == 1 || count == lanes) {
      to = Eigen::Map<const Numbers>(from);
    } else {
      to.setZero();
      std::copy_n(from, count, to.data());
    }
  }
  static EIGEN_STRONG_INLINE void store(const Numbers& from, Index count, Scalar* to) {
    if (lanes == 1 || count == lanes)
      Eigen::Map<Numbers>{to} = from;
    else
      std::copy_n(from.data(), count, to);
  }
};

/// A number for each lane, in registers.
template <class P>
struct Registers {
  typename P::Pack at[std::size_t(P::width)];

  EIGEN_STRONG_INLINE Registers() {
    for (auto& pack : at) pack = P::Lane::broadcast(typename P::Scalar(0));
  }
  explicit EIGEN_STRONG_INLINE Registers(const typename P::Numbers& numbers) {
    for (int w = 0; w < P::width; ++w) at[w] = P::Lane::load(numbers.data() + w * P::Lane::size);
  }
  EIGEN_STRONG_INLINE void store(typename P::Numbers& numbers) const {
    for (int w = 0; w < P::width; ++w) P::Lane::store(numbers.data() + w * P::Lane::size, at[w]);
  }
  EIGEN_STRONG_INLINE void add(const Registers& other) {
    for (int w = 0; w < P::width; ++w) at[w] = P::Lane::add(at[w], other.at[w]);
  }
};

/// The rows of a panel that are summed apart: fewer sums than four packets wait for their own additions.
template <class P>
inline constexpr std::size_t sums_at_once = P::width >= 4 ? 1 : 4 / P::width;

/// One sweep over a panel of X, whose rows are `stride` apart:  x_i <- a x_i + k_i p,   o = sum of q_i x_i,
/// u = sum of next_i x_i.   Without Decay a is 1; without Read there is no o.
template <class P, bool Decay, bool Read>
void advance(Index d, typename P::Scalar* X, Index stride, typename P::Scalar a, const typename P::Scalar* k,
             const typename P::Numbers& p, const typename P::Scalar* q, const typename P::Scalar* next,
             typename P::Numbers& o, typename P::Numbers& u) {
  using Lane = typename P::Lane;
  using Scalar = typename P::Scalar;
  constexpr std::size_t rows = sums_at_once<P>;
  const Registers<P> write(p);
  const auto zero = Lane::broadcast(Scalar(0)), decay = Lane::broadcast(a);
  Registers<P> output[rows], read[rows];
  const auto visit = [&](Index i, Registers<P>& out, Registers<P>& in) {
    Scalar* x = X + i * stride;
    const auto ki = Lane::broadcast(k[i]), nexti = Lane::broadcast(next[i]);
    const auto qi = Read ? Lane::broadcast(q[i]) : zero;
    for (int w = 0; w < P::width; ++w) {
      auto state = Lane::load(x + w * Lane::size);
      if constexpr (Decay) state = Lane::add_product(zero, decay, state);
      state = Lane::add_product(state, ki, write.at[w]);
      Lane::store(x + w * Lane::size, state);
      if constexpr (Read) out.at[w] = Lane::add_product(out.at[w], qi, state);
      in.at[w] = Lane::add_product(in.at[w], nexti, state);
    }
  };
  Index i = 0;
  for (; i + Index(rows) <= d; i += Index(rows))
    for (std::size_t r = 0; r < rows; ++r) visit(i + Index(r), output[r], read[r]);
  for (; i < d; ++i) visit(i, output[0], read[0]);
  for (std::size_t r = 1; r < rows; ++r) output[0].add(output[r]), read[0].add(read[r]);
  if constexpr (Read) output[0].store(o);
  read[0].store(u);
}

/// u = sum of k_i x_i.
template <class P>
void read_panel(Index d, const typename P::Scalar* X, Index stride, const typename P::Scalar* k,
                typename P::Numbers& u) {
  using Lane = typename P::Lane;
  constexpr std::size_t rows = sums_at_once<P>;
  Registers<P> read[rows];
  const auto visit = [&](Index i, Registers<P>& sum) {
    const auto ki = Lane::broadcast(k[i]);
    for (int w = 0; w < P::width; ++w)
      sum.at[w] = Lane::add_product(sum.at[w], ki, Lane::load(X + i * stride + w * Lane::size));
  };
  Index i = 0;
  for (; i + Index(rows) <= d; i += Index(rows))
    for (std::size_t r = 0; r < rows; ++r) visit(i + Index(r), read[r]);
  for (; i < d; ++i) visit(i, read[0]);
  for (std::size_t r = 1; r < rows; ++r) read[0].add(read[r]);
  read[0].store(u);
}

/// One sweep back over a panel of X and H, rows x_i h_i side by side: see the top of this file. Adds to dk,
/// and with Read to dq; the sums run over the panel's lanes. With Decay, a is not 1. X holds the state after
/// the edit on entry and the one before it on return; with Kept the one before it, both times.
/// @return the sum of q_i dq_i, over the panel's lanes; 0 without Read.
template <class P, bool Decay, bool Read, bool Kept>
typename P::Scalar retreat(Index d, typename P::Scalar* XH, typename P::Scalar a, const typename P::Scalar* k,
                           const typename P::Numbers& p, const typename P::Numbers& w,
                           const typename P::Scalar* q, const typename P::Numbers& e,
                           const typename P::Scalar* before, typename P::Scalar* dk, typename P::Scalar* dq,
                           typename P::Numbers& y) {
  using Lane = typename P::Lane;
  using Scalar = typename P::Scalar;
  const Registers<P> minus_p(typename P::Numbers(-p)), minus_w(typename P::Numbers(-w)), es(e);
  const auto zero = Lane::broadcast(Scalar(0)), one = Lane::broadcast(Scalar(1));
  const auto decay = Lane::broadcast(a), grow = Lane::broadcast(Scalar(1) / a);
  Registers<P> read;
  Scalar along(0);
  for (Index i = 0; i < d; ++i) {
    Scalar* x = XH + 2 * i * P::lanes;
    Scalar* h = x + P::lanes;
    const auto ki = Lane::broadcast(k[i]), beforei = Lane::broadcast(before[i]);
    const auto qi = Read ? Lane::broadcast(q[i]) : zero;
    auto sum_q = zero, sum_h = zero, sum_x = zero;
    for (int c = 0; c < P::width; ++c) {
      const auto given = Lane::load(x + c * Lane::size);
      auto after = given, decayed = given, gradient = Lane::load(h + c * Lane::size);
      if constexpr (Kept) {
        if constexpr (Decay) decayed = Lane::add_product(zero, decay, given);
        after = Lane::subtract_product(decayed, ki, minus_p.at[c]);
      } else {
        decayed = Lane::add_product(after, ki, minus_p.at[c]);
      }
      if constexpr (Read) {
        sum_q = Lane::add_product(sum_q, after, es.at[c]);
        gradient = Lane::add_product(gradient, qi, es.at[c]);
      }
      sum_h = Lane::add_product(sum_h, gradient, minus_p.at[c]);
      sum_x = Lane::add_product(sum_x, decayed, minus_w.at[c]);
      gradient = Lane::add_product(gradient, ki, minus_w.at[c]);
      if constexpr (Decay) gradient = Lane::add_product(zero, decay, gradient);
      if constexpr (Decay && !Kept) decayed = Lane::add_product(zero, grow, decayed);
      if constexpr (!Kept) Lane::store(x + c * Lane::size, decayed);
      Lane::store(h + c * Lane::size, gradient);
      read.at[c] = Lane::add_product(read.at[c], beforei, gradient);
    }
    dk[i] += Lane::sum(Lane::subtract_product(sum_x, sum_h, one));
    if constexpr (Read) {
      const Scalar dqi = Lane::sum(sum_q);
      dq[i] += dqi;
      along += q[i] * dqi;
    }
  }
  read.store(y);
  return along;
}

template <bool Value>
using Flag = std::bool_constant<Value>;

/// Calls f(Flag..): flags of the run time as types.
template <class F>
EIGEN_STRONG_INLINE void with_flags(F&& f) {
  f();
}
template <class F, class... Rest>
EIGEN_STRONG_INLINE void with_flags(F&& f, bool flag, Rest... rest) {
  if (flag)
    with_flags([&](auto... known) { f(Flag<true>{}, known...); }, rest...);
  else
    with_flags([&](auto... known) { f(Flag<false>{}, known...); }, rest...);
}

/// Room of a thread that it keeps from one piece to the next, so that only the first scan allocates. Pieces
/// run to their end on one thread and begin no other.
template <class Scalar>
Scalar* scan_room(Index size) {
  thread_local Vector<Scalar> kept;
  if (kept.size() < size) kept.resize(size);
  return kept.data();
}

/// Copies rows of `channels` lanes to where they are `to_stride` apart; the other lanes of `all` are set to
/// zero.
template <class Scalar>
void copy_rows(Index d, const Scalar* from, Index from_stride, Index channels, Scalar* to, Index to_stride,
               Index all) {
  for (Index i = 0; i < d; ++i) {
    std::copy_n(from + i * from_stride, channels, to + i * to_stride);
    std::fill_n(to + i * to_stride + channels, all - channels, Scalar(0));
  }
}

/// Calls f with a Panel<Scalar, Width>: of the widths that keep a row of d packets within `bytes`, the
/// largest of which no half is empty. It depends on the sizes alone, and so do all bits of the result.
template <class Scalar, class F>
auto with_panel(Index d, Index m, Index bytes, F&& f) {
  constexpr Index size = WideLane<Scalar>::size;
  const auto fits = [&](Index width) {
    return (width / 2) * size < m && width * size * d * Index{sizeof(Scalar)} <= bytes;
  };
  if (fits(4)) return f(Panel<Scalar, 4>{});
  if (fits(2)) return f(Panel<Scalar, 2>{});
  return f(Panel<Scalar, 1>{});
}

/// Asks for `count` numbers that an edit will read or write. Those of a head are a column apart in every
/// matrix, too far for the processor to see where they lead.
template <class Scalar>
EIGEN_STRONG_INLINE void prefetch_row(const Scalar* row, Index count) {
  constexpr Index line = 64 / Index{sizeof(Scalar)};
  for (Index i = 0; i < count; i += line) prefetch(row + i);
}

/// How many edits before it is needed a row is asked for.
inline constexpr Index edits_ahead = 3;

/// The forward pass of channels `channel` .. of a head, from `state` and back into it.
template <class P, class Scalar>
void scan_panel(const ScanHead<const DeltaScanInputs<Scalar>>& head, Index sequence, Index channel,
                ScanState<Scalar> state, Scalar* output, Index output_stride, DeltaScanTape<Scalar>* tape) {
  using Numbers = typename P::Numbers;
  const ScanSizes& s = head.sizes;
  const Index d = s.d, channels = (std::min)(P::lanes, s.m - channel);
  const auto scale = static_cast<Scalar>(s.output_scale);
  const bool has_decay = head.x.has_decay();
  if (head.count == 0) return;
  // For a few edits the copies would cost more than they save.
  constexpr Index few = 4;
  const bool in_place = head.count <= few && channels == P::lanes;
  Scalar* const X = in_place ? state.data + channel : scan_room<Scalar>(d * P::lanes);
  const Index stride = in_place ? state.stride : P::lanes;
  if (!in_place) copy_rows(d, state.data + channel, state.stride, channels, X, stride, P::lanes);
  // The panel holds Z with X = factor Z: a decay changes the factor alone, until it is worth a sweep. In
  // place it is applied at once.
  const Scalar least_factor = in_place ? Scalar(1) : Scalar(1) / 64;
  Scalar factor(1);
  const auto save = [&](const ScanState<Scalar>& to) {
    copy_rows(d, X, stride, channels, to.data + channel, to.stride, channels);
    for (Index i = 0; i < d && factor != Scalar(1); ++i)
      Run<Scalar>(to.data + channel + i * to.stride, channels) *= factor;
  };
  const auto out = [&](Index j) { return output + head.token(j) * output_stride + head.h * s.m + channel; };
  Numbers u, v, r, p, o;
  read_panel<P>(d, X, stride, head.key(0), u);
  for (Index j = 0; j < head.count; ++j) {
    if (tape && tape->starts.size() > 0 && j % tape->chunk == 0)
      save(ScanState<Scalar>(tape->starts, s, chunk_slot(head, sequence, j, tape->chunk), head.h));
    if (const Index later = j + edits_ahead; later < head.count) {
      prefetch_row(head.key(later), d);
      prefetch_row(head.query(later), d);
      prefetch_row(head.value(later) + channel, channels);
      prefetch_row(out(later), channels);
      if (tape) prefetch_row(head.of_value(tape->error, later) + channel, channels);
    }
    if (has_decay && head.begins_token(j)) factor *= std::exp(head.log_decay(j));
    P::load(head.value(j) + channel, channels, v);
    r = v;
    if (!s.write_only) r -= factor * u;
    if (tape) P::store(r, channels, head.of_value(tape->error, j) + channel);
    const bool decays = factor < least_factor, reads = head.ends_token(j);
    const Scalar a = decays ? factor : Scalar(1);
    if (decays) factor = Scalar(1);
    p = (head.beta(j) / factor) * r;
    const Scalar* k = head.key(j);
    const Scalar* next = j + 1 < head.count ? head.key(j + 1) : k;
    const Scalar* q = reads ? head.query(j) : k;
    with_flags(
        [&]<bool Decay, bool Read>(Flag<Decay>, Flag<Read>) {
          advance<P, Decay, Read>(d, X, stride, a, k, p, q, next, o, u);
        },
        decays, reads);
    if (reads) {
      o *= scale * factor;
      P::store(o, channels, out(j));
    }
  }
  if (!in_place) save(state);
}

/// The recurrent scan of all heads of all sequences; `tape` may be null.
template <class Scalar, Executor E>
void scan_recurrent(const ScanSizes& s, std::span<const Index> offsets, const DeltaScanInputs<Scalar>& x,
                    BatchRef<Scalar>& states, BatchRef<Scalar>& output, DeltaScanTape<Scalar>* tape,
                    const E& executor) {
  with_panel<Scalar>(s.d, s.m, 24 * 1024, [&]<class P>(P) {
    const Index panels = pieces_of(s.m, P::lanes);
    executor.for_each(s.sequences * s.value_heads * panels, [&](Index piece) {
      const Index at = piece / panels, sequence = at / s.value_heads, h = at % s.value_heads;
      const ScanHead head(x, s, offsets, sequence, h);
      scan_panel<P>(head, sequence, piece % panels * P::lanes, ScanState<Scalar>(states, s, sequence, h),
                    output.data(), output.outerStride(), tape);
    });
  });
}

/// The backward pass of one panel: of channels `channel` .. of a head.
template <class P, class Scalar>
class ScanPanelBackward {
 public:
  using Numbers = typename P::Numbers;
  using Inputs = DeltaScanInputs<Scalar>;

  /// `sums` takes the gradients that are sums over channels, which are added to, `dvalue` that of the values.
  ScanPanelBackward(const ScanHead<const Inputs>& head, const ScanHead<Inputs>& sums, Matrix<Scalar>& dvalue,
                    DeltaScanTape<Scalar>& tape, Index channel, const ConstBatchRef<Scalar>& doutput)
      : head_(head),
        sums_(sums),
        dvalue_(dvalue),
        tape_(tape),
        doutput_(doutput),
        d_(head.sizes.d),
        channel_(channel),
        channels_((std::min)(P::lanes, head.sizes.m - channel)),
        X_(scan_room<Scalar>(d_ * P::lanes *
                             (2 + (tape.starts.size() > 0 ? (std::min)(tape.chunk, head.count) : 0)))),
        H_(X_ + P::lanes),
        kept_(X_ + d_ * stride) {}

  /// From edit `end` to `begin`, which are a chunk's bounds; dstate: the gradient of the state, of that after
  /// them on entry and of that before on return. Without stored states the tape's last one is taken back as
  /// well.
  void run(Index sequence, Index begin, Index end, ScanState<Scalar> dstate) {
    copy_rows(d_, dstate.data + channel_, dstate.stride, channels_, H_, stride, P::lanes);
    read_panel<P>(d_, H_, stride, head_.key(end - 1), y_);
    if (tape_.starts.size() == 0) {
      const ScanState<Scalar> state(tape_.last, head_.sizes, sequence, head_.h);
      copy_rows(d_, state.data + channel_, state.stride, channels_, X_, stride, P::lanes);
      begin_sums();
      for (Index j = end; j-- > begin;) go_back(j);
      copy_rows(d_, X_, stride, channels_, state.data + channel_, state.stride, channels_);
    } else {
      for (Index first = (end - 1) / tape_.chunk * tape_.chunk; first >= begin; first -= tape_.chunk)
        go_back_chunk(sequence, first, (std::min)(first + tape_.chunk, end));
    }
    copy_rows(d_, H_, stride, channels_, dstate.data + channel_, dstate.stride, channels_);
  }

 private:
  static constexpr Index stride = 2 * P::lanes;

  /// The state before edit j, which begins a chunk or comes after the last.
  void load_state(Index sequence, Index j) {
    const ScanState<Scalar> state =
        j < head_.count ? ScanState<Scalar>(tape_.starts, head_.sizes,
                                            chunk_slot(head_, sequence, j, tape_.chunk), head_.h)
                        : ScanState<Scalar>(tape_.last, head_.sizes, sequence, head_.h);
    copy_rows(d_, state.data + channel_, state.stride, channels_, X_, stride, P::lanes);
  }

  /// Goes through the chunk again as far as the tape names states to keep, and then back from its end.
  void go_back_chunk(Index sequence, Index begin, Index end) {
    Index count = 0;
    for (Index j = begin; j < end; ++j) count += head_.of_beta(tape_.kept, j);
    if (count > 0) load_state(sequence, begin);
    Numbers unused;
    for (Index j = begin, kept = 0; kept < count; ++j) {
      if (head_.of_beta(tape_.kept, j))
        copy_rows(d_, X_, stride, P::lanes, kept_ + kept++ * d_ * P::lanes, P::lanes, P::lanes);
      load_write(j);
      const Scalar* k = head_.key(j);
      with_flags(
          [&]<bool Decay>(Flag<Decay>) {
            advance<P, Decay, false>(d_, X_, stride, a_, k, p_, k, k, unused, unused);
          },
          head_.x.has_decay() && head_.begins_token(j));
    }
    load_state(sequence, end);
    begin_sums();
    for (Index j = end; j-- > begin;) {
      const bool kept = head_.of_beta(tape_.kept, j);
      if (kept) copy_rows(d_, kept_ + --count * d_ * P::lanes, P::lanes, P::lanes, X_, stride, P::lanes);
      go_back(j, kept);
    }
  }

  /// a, r and p of edit j.
  void load_write(Index j) {
    a_ = head_.x.has_decay() && head_.begins_token(j) ? std::exp(head_.log_decay(j)) : Scalar(1);
    P::load(head_.of_value(tape_.error, j) + channel_, channels_, r_);
    p_ = head_.beta(j) * r_;
  }

  /// <X, H>, with which the sum for the decay's gradient begins.
  void begin_sums() {
    scaling_ = Scalar(0);
    if (!head_.x.has_decay()) return;
    Numbers sum = Numbers::Zero();
    for (Index i = 0; i < d_; ++i)
      sum += Eigen::Map<const Numbers>(X_ + i * stride) * Eigen::Map<const Numbers>(H_ + i * stride);
    scaling_ = sum.sum();
  }

  const Scalar* doutput(Index j) const {
    return doutput_.data() + head_.token(j) * doutput_.outerStride() + head_.h * head_.sizes.m + channel_;
  }

  void prefetch_edit(Index j) const {
    if (j < 0) return;
    prefetch_row(head_.key(j), d_);
    prefetch_row(head_.query(j), d_);
    prefetch_row(head_.value(j) + channel_, channels_);
    prefetch_row(head_.of_value(tape_.error, j) + channel_, channels_);
    prefetch_row(doutput(j), channels_);
    prefetch_row(head_.of_value(dvalue_, j) + channel_, channels_);
    prefetch_row(sums_.key(j), d_);
    prefetch_row(sums_.query(j), d_);
  }

  void go_back(Index j, bool kept = false) {
    const ScanSizes& s = head_.sizes;
    const bool decays = head_.x.has_decay() && head_.begins_token(j), reads = head_.ends_token(j);
    const Scalar* k = head_.key(j);
    const Scalar* q = k;
    Scalar* dq = nullptr;
    prefetch_edit(j - edits_ahead);
    load_write(j);
    if (reads) {
      q = head_.query(j);
      dq = sums_.query(j);
      P::load(doutput(j), channels_, e_);
      e_ *= static_cast<Scalar>(s.output_scale);
      y_ += (ConstRun<Scalar>(q, d_) * ConstRun<Scalar>(k, d_)).sum() * e_;
    }
    Numbers w = head_.beta(j) * y_;
    P::store(w, channels_, head_.of_value(dvalue_, j) + channel_);
    sums_.beta(j) += (y_ * r_).sum();
    if (head_.x.has_decay()) {
      Numbers v;
      P::load(head_.value(j) + channel_, channels_, v);
      scaling_ -= (v * w).sum();
    }
    if (s.write_only) w.setZero();  // no gradient through the read
    with_flags(
        [&]<bool Decay, bool Read, bool Kept>(Flag<Decay>, Flag<Read>, Flag<Kept>) {
          scaling_ += retreat<P, Decay, Read, Kept>(d_, X_, a_, k, p_, w, q, e_, j > 0 ? head_.key(j - 1) : k,
                                                    sums_.key(j), dq, y_);
        },
        decays, reads, kept);
    if (decays) sums_.log_decay(j) += scaling_;
  }

  const ScanHead<const Inputs>& head_;
  const ScanHead<Inputs>& sums_;
  Matrix<Scalar>& dvalue_;
  DeltaScanTape<Scalar>& tape_;
  const ConstBatchRef<Scalar>& doutput_;
  Index d_, channel_, channels_;
  Scalar* X_;  ///< rows of X and H, side by side
  Scalar* H_;
  Scalar* kept_;  ///< states, d x lanes each
  Numbers y_, r_, p_, e_;
  Scalar a_, scaling_;  ///< the decay; what the gradient of its logarithm is so far
};

/// The backward pass of all heads of all sequences. Assigns `gradient`; dstates: those of the final states on
/// entry, and of the initial ones on return. Sums across lanes cost the same for a wide panel, which
/// therefore may exceed the first-level cache.
template <class Scalar, Executor E>
void scan_recurrent_backward(const ScanSizes& s, std::span<const Index> offsets,
                             const DeltaScanInputs<Scalar>& x, DeltaScanTape<Scalar>& tape,
                             const ConstBatchRef<Scalar>& doutput, BatchRef<Scalar>& dstates,
                             DeltaScanInputs<Scalar>& gradient, const E& executor) {
  with_panel<Scalar>(s.d, s.m, 32 * 1024, [&]<class P>(P) {
    const Index panels = pieces_of(s.m, P::lanes);
    sum_parts(s, offsets, s.ratio() * panels, tape, gradient, executor,
              [&](Index sequence, Index key_head, Index part, Index begin, Index end, const auto& sums_of) {
                const Index h = s.value_head(key_head, part / panels);
                const ScanHead head(x, s, offsets, sequence, h);
                const ScanHead<DeltaScanInputs<Scalar>> sums = sums_of(h);
                ScanPanelBackward<P, Scalar>(head, sums, gradient.value, tape, part % panels * P::lanes,
                                             doutput)
                    .run(sequence, begin, end, ScanState<Scalar>(dstates, s, sequence, h));
              });
  });
}

}  // namespace ddl::detail
