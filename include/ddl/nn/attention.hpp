// SPDX-License-Identifier: MIT
/// @file  Causal self-attention with rotary positions and normalised queries and keys, in memory linear in
/// the length of a sequence.
/// @source Vaswani et al., Attention Is All You Need, 2017; in blocks: Milakov and Gimelshein, Online
/// normalizer calculation for softmax, 2018, and Dao et al., FlashAttention, 2022.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "ddl/nn/linear.hpp"
#include "ddl/nn/norm.hpp"
#include "ddl/nn/part.hpp"
#include "ddl/nn/rope.hpp"

namespace ddl {

/// Settings of CausalSelfAttention.
struct AttentionSettings {
  Index heads = 1;                     ///< a divisor of the inputs unless head_dim is given
  std::optional<Index> head_dim = {};  ///< the inputs divided by the heads by default
  double rope_base = 10000;            ///< of the rotary positions, see RotaryTable
  double rope_ratio = 1;               ///< share of a head's dimensions that is rotated, from 0 to 1
  bool qk_norm = true;                 ///< normalise queries and keys, with learned weights
  double norm_eps = 1e-5;              ///< of these norms
};

namespace detail {

/// Queries and keys in a block: the scores of two blocks fit a first- or second-level cache.
inline constexpr Index attention_block = 64;

/// Scratch memory for the blocks of one piece of work. Each thread allocates it once and reuses it.
template <class Scalar>
Scalar* attention_scratch(Index head_dim) {
  thread_local Vector<Scalar> kept;
  const Index size = (3 * head_dim + 2 * attention_block) * attention_block;
  if (kept.size() < size) kept.resize(size);
  return kept.data();
}

/// The blocks of a forward pass for some queries, in memory of (head_dim + attention_block) * queries
/// scalars.
template <class Scalar>
struct AttentionBlocks {
  using Block = Eigen::Map<Matrix<Scalar>>;
  Block query;   ///< head_dim x queries
  Block scores;  ///< keys x queries

  AttentionBlocks(Index head_dim, Index queries, Scalar* at)
      : query(at, head_dim, queries), scores(at + query.size(), attention_block, queries) {}
};

/// Those of a backward pass.
template <class Scalar>
struct AttentionGradientBlocks : AttentionBlocks<Scalar> {
  using typename AttentionBlocks<Scalar>::Block;
  Block dscores;       ///< keys x queries
  Block dkey, dvalue;  ///< head_dim x block

  AttentionGradientBlocks(Index head_dim, Scalar* at)
      : AttentionBlocks<Scalar>(head_dim, attention_block, at),
        dscores(this->scores.data() + this->scores.size(), attention_block, attention_block),
        dkey(dscores.data() + dscores.size(), head_dim, attention_block),
        dvalue(dkey.data() + dkey.size(), head_dim, attention_block) {}
};

}  // namespace detail

/// Causal self-attention. Per head, with q = W_q c, k = W_k c, v = W_v c and position t in the sequence:
///
///     q'_t = q_rms * rms(rotate(q_t)),   k'_t likewise       rms(x) = x / sqrt(mean(x^2) + eps)
///     o_t = sum over s <= t of softmax_s(q'_t . k'_s / sqrt(head_dim)) v_s
///
/// and y = W_p o.   c: in x N, y: out x N, q, k, v, o: (heads head_dim) x N.
///
/// The norms' weights are shared by the heads and act on the scores alone: they fold into one weight
/// w = q_rms * k_rms / sqrt(head_dim), and a score is sum_i w_i rms(q)_i rms(k)_i. No matrix of scores larger
/// than a block exists; the backward pass computes the scores again.
template <class Scalar_, int In = Dynamic, int Out = In>
struct CausalSelfAttention {
  using Scalar = Scalar_;
  using Settings = AttentionSettings;
  using Input = ConstBatchRef<Scalar, In>;
  using Output = ConstBatchRef<Scalar, Out>;
  static constexpr PartKind kind = PartKind::sublayer;

  /// What backward needs of forward. It overwrites query, key and value with the gradients of W_q c, W_k c
  /// and W_v c.
  template <int Tokens = Dynamic>
  struct Tape {
    RotaryTable<Scalar> rotary;                              ///< cosines and sines of the positions
    Matrix<Scalar, Dynamic, Tokens> query, key;              ///< rms(rotate(.))
    Matrix<Scalar, Dynamic, Tokens> value, output, doutput;  ///< (heads head_dim) x N
    Matrix<Scalar, Dynamic, Tokens> query_inverse_rms, key_inverse_rms;  ///< heads x N
    Matrix<Scalar, Dynamic, Tokens> log_sum;      ///< heads x N: log of the softmax's denominator
    Matrix<Scalar, Dynamic, Tokens> output_grad;  ///< heads x N: o.do
    Vector<Scalar> weight;                        ///< w
    Matrix<Scalar> dweight;                       ///< head_dim x (heads S): the terms of dw
    Matrix<Scalar> single;  ///< AttentionBlocks of infer for one token, a column for each head
  };

  /// The key-value cache: rms(rotate(k)) and v of the tokens so far, (heads head_dim) x (S capacity).
  struct State {
    using Scalar = Scalar_;
    Matrix<Scalar> key, value;  ///< as described above
    static constexpr auto parameters() {
      return std::tuple(parameter("key", &State::key), parameter("value", &State::value));
    }
  };

  Linear<Scalar, In, Dynamic> c_q, c_k, c_v;  ///< W_q, W_k and W_v
  Linear<Scalar, Dynamic, Out> c_proj;        ///< W_p
  RmsNorm<Scalar> q_rms, k_rms;               ///< weights of head_dim; empty without qk_norm
  Index heads = 1;                            ///< their number
  Index head_dim = 0;                         ///< rows of a head's queries, keys and values
  Index rotated = 0;                          ///< dimensions of a head
  double rope_base = 10000;                   ///< see RotaryTable

  static constexpr auto parameters() {
    using A = CausalSelfAttention;
    return std::tuple(parameter("c_q", &A::c_q), parameter("c_k", &A::c_k), parameter("c_v", &A::c_v),
                      parameter("c_proj", &A::c_proj), parameter("q_rms", &A::q_rms),
                      parameter("k_rms", &A::k_rms));
  }

  CausalSelfAttention() = default;
  /// @throws std::invalid_argument if a size does not fit or a setting is out of range.
  CausalSelfAttention(Index in, Index out, const Settings& settings, Random& random)
      : heads(settings.heads), rope_base(settings.rope_base) {
    constexpr const char* where = "ddl::CausalSelfAttention";
    check_positive(where, "heads", heads);
    if (!settings.head_dim && in % heads != 0)
      fail(where, "heads", std::to_string(heads),
           "a divisor of the " + std::to_string(in) + " inputs, or a head_dim");
    head_dim = settings.head_dim.value_or(in / heads);
    check_positive(where, "head_dim", head_dim);
    check_range(where, "rope_base", rope_base, rope_base > 0, "a number above 0");
    rotated = rotated_dimensions(where, head_dim, settings.rope_ratio);
    const Index inner = heads * head_dim;
    c_q = {in, inner, random, 1, false};
    c_k = {in, inner, random, 1, false};
    c_v = {in, inner, random, 1, false};
    c_proj = {inner, out, random, 1, false};
    if (settings.qk_norm) q_rms = k_rms = RmsNorm<Scalar>(head_dim, settings.norm_eps);
  }

  /// Multiplies the output by a factor, as models do that scale their initial weights by depth.
  void scale_output(Scalar factor) { c_proj.weight *= factor; }

  /// y from c.
  /// @throws std::invalid_argument if a shape does not fit, the sequences do not fill the batch or the pass
  /// does not begin them.
  template <int Tokens>
  void forward(const Input& c, BatchRef<Scalar, Out> y, Tape<Tokens>& tape, const Pass& pass = {}) const {
    if (pass.position != 0)
      fail("ddl::CausalSelfAttention::forward", "the position", std::to_string(pass.position),
           "0: infer continues a sequence");
    const Index S = pass.sequences("ddl::CausalSelfAttention", c.cols()), T = pass.longest();
    project(c, tape, pass, T);
    const Index blocks = pieces_of(T, detail::attention_block);
    pass.executor.for_each(S * heads * blocks, [&](Index piece) {
      const Index head = piece / blocks;
      const TokenRange tokens = pass.sequence(head / heads);
      attend(tape, tape.key, tape.value, head % heads, tokens, tokens.begin, 0,
             piece % blocks * detail::attention_block, detail::attention_scratch<Scalar>(head_dim));
    });
    c_proj.forward(tape.output, y, pass);
  }

  /// Adds to dc and to the gradient's parameters.
  template <int Tokens>
  void backward(const Input& c, const Output&, const Output& dy, BatchRef<Scalar, In> dc, Tape<Tokens>& tape,
                CausalSelfAttention& gradient, const Pass& pass = {}) const {
    const Index N = c.cols(), S = pass.sequences("ddl::CausalSelfAttention::backward", N);
    tape.doutput.resize(inner(), N);
    tape.output_grad.resize(heads, N);
    tape.dweight.setZero(head_dim, S * heads);
    c_proj.backward_parameters(tape.output, dy, gradient.c_proj, pass);
    c_proj.input_gradient(dy, tape.doutput, pass);
    pass.executor.for_each(S * heads, [&](Index piece) {
      attend_backward(tape, piece % heads, pass.sequence(piece / heads), column(tape.dweight, piece));
    });
    for (Index i = 0; i < tape.dweight.cols() && has_norm(); ++i) {
      const auto dw = column(tape.dweight, i) * score_scale();
      column(gradient.q_rms.weight, 0) += dw * column(k_rms.weight, 0);
      column(gradient.k_rms.weight, 0) += dw * column(q_rms.weight, 0);
    }
    c_q.backward_parameters(c, tape.query, gradient.c_q, pass);
    c_k.backward_parameters(c, tape.key, gradient.c_k, pass);
    c_v.backward_parameters(c, tape.value, gradient.c_v, pass);
    add_product(c_q.weight.transpose(), tape.query, dc, pass.executor);
    add_product(c_k.weight.transpose(), tape.key, dc, pass.executor);
    add_product(c_v.weight.transpose(), tape.value, dc, pass.executor);
  }

  /// Any number of tokens can be taken back: `infer` overwrites what is cached after the pass's position.
  State make_state(Index sequences, Index capacity, Index = 0) const {
    check_positive("ddl::CausalSelfAttention::make_state", "sequences", sequences);
    check_positive("ddl::CausalSelfAttention::make_state", "capacity", capacity);
    return {Matrix<Scalar>::Zero(inner(), sequences * capacity),
            Matrix<Scalar>::Zero(inner(), sequences * capacity)};
  }

  /// Nothing to do, see make_state.
  void roll_back(State&, Index) const {}
  /// The columns of forward for the tokens after the first pass.before(s) ones of each sequence s.
  /// @throws std::invalid_argument if a shape does not fit or a sequence would exceed the capacity of the
  /// state.
  template <int Tokens>
  void infer(const Input& c, BatchRef<Scalar, Out> y, State& state, Tape<Tokens>& tape,
             const Pass& pass = {}) const {
    constexpr const char* where = "ddl::CausalSelfAttention::infer";
    const Index N = c.cols(), T = pass.longest(), S = pass.sequences(where, N);
    const Index capacity = S > 0 ? state.key.cols() / S : 0;
    check_shape(where, "c", c, c_q.inputs(), N);
    check_shape(where, "y", y, c_proj.outputs(), N);
    check_shape(where, "the keys of the state", state.key, inner(), S * capacity);
    for (Index s = 0; s < S; ++s) {
      const Index P = pass.before(s), end = P + pass.sequence(s).length();
      if (P < 0) fail(where, "the position", std::to_string(P), "at least 0");
      if (end > capacity)
        fail(where, "a sequence", std::to_string(end) + " tokens long",
             "at most the capacity of the state, " + std::to_string(capacity));
    }
    project(c, tape, pass, capacity);
    for (Index s = 0; s < S; ++s) {
      const TokenRange tokens = pass.sequence(s);
      const Index count = tokens.length(), first = s * capacity + pass.before(s);
      state.key.middleCols(first, count) = tape.key.middleCols(tokens.begin, count);
      state.value.middleCols(first, count) = tape.value.middleCols(tokens.begin, count);
    }
    // memory of the tape, as a thread that takes up a sequence in real time must not allocate its own
    if (T == 1) tape.single.resize(head_dim + detail::attention_block, S * heads);
    const Index blocks = pieces_of(T, detail::attention_block);
    pass.executor.for_each(S * heads * blocks, [&](Index piece) {
      const Index head = piece / blocks, s = head / heads;
      attend(tape, state.key, state.value, head % heads, pass.sequence(s), s * capacity, pass.before(s),
             piece % blocks * detail::attention_block,
             T == 1 ? tape.single.col(piece).data() : detail::attention_scratch<Scalar>(head_dim));
    });
    c_proj.forward(tape.output, y, pass);
  }

 private:
  Index inner() const noexcept { return heads * head_dim; }
  bool has_norm() const noexcept { return q_rms.weight.size() > 0; }
  Scalar score_scale() const { return Scalar(1) / std::sqrt(static_cast<Scalar>(head_dim)); }

  /// The rows of head h of token n, or of `count` tokens from n on.
  template <class X>
  detail::Run<Scalar> head_of(X& x, Index h, Index n) const {
    return column(x, n, h * head_dim, head_dim);
  }
  template <class X>
  auto block_of(X& x, Index h, Index n, Index count) const {
    return x.block(h * head_dim, n, head_dim, count);
  }

  /// rms(rotate(x)) in place of x, for position p. @return the inverse rms.
  Scalar normalize_and_rotate(const RmsNorm<Scalar>& norm, detail::Run<Scalar> x, Index p,
                              const RotaryTable<Scalar>& rotary) const {
    Scalar inverse_rms(1);
    if (has_norm()) inverse_rms /= std::sqrt(x.square().mean() + static_cast<Scalar>(norm.eps));
    x *= inverse_rms;
    rotary.rotate(x, p);
    return inverse_rms;
  }
  /// From x' = rms(rotate(x)), the inverse rms s and dx':  x' = dx, dx = s rotate^T(dx' - x'
  /// (x'.dx') / head_dim).
  void normalize_and_rotate_backward(detail::Run<Scalar> x, const detail::Run<Scalar>& dx, Scalar inverse_rms,
                                     Index p, const RotaryTable<Scalar>& rotary) const {
    const Scalar along = has_norm() ? (x * dx).mean() : Scalar(0);
    x = inverse_rms * (dx - along * x);
    rotary.rotate_back(x, p);
  }

  /// Queries, keys and values of the tokens at hand; the rotary table is filled for `positions` positions.
  template <int Tokens>
  void project(const Input& c, Tape<Tokens>& tape, const Pass& pass, Index positions) const {
    const Index N = c.cols();
    for (auto* x : {&tape.query, &tape.key, &tape.value, &tape.output}) x->resize(inner(), N);
    for (auto* x : {&tape.query_inverse_rms, &tape.key_inverse_rms, &tape.log_sum}) x->resize(heads, N);
    tape.rotary.prepare(rotated, rope_base, positions);
    tape.weight.setConstant(head_dim, score_scale());
    if (has_norm()) tape.weight.array() *= q_rms.weight.array() * k_rms.weight.array();
    c_q.forward(c, tape.query, pass);
    c_k.forward(c, tape.key, pass);
    c_v.forward(c, tape.value, pass);
    for_ranges(pass.executor, N, columns_per_piece(inner()), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n) {
        const TokenRange tokens = pass.sequence_of(n);
        const Index p = pass.before(tokens.sequence) + n - tokens.begin;
        for (Index h = 0; h < heads; ++h) {
          tape.query_inverse_rms(h, n) =
              normalize_and_rotate(q_rms, head_of(tape.query, h, n), p, tape.rotary);
          tape.key_inverse_rms(h, n) = normalize_and_rotate(k_rms, head_of(tape.key, h, n), p, tape.rotary);
        }
      }
    });
  }

  /// The output of head h for a block of queries of a sequence, from the i-th on: in one pass over the keys
  /// before them, rescaled whenever a larger score turns up. Query i has position P + i; the key of position
  /// j is column `first_key` + j of `key`. There is nothing to do if the sequence has no i-th token. `memory`
  /// is that of AttentionBlocks.
  template <class Tape, class Keys>
  void attend(Tape& tape, const Keys& key, const Keys& value, Index h, const TokenRange& tokens,
              Index first_key, Index P, Index i, Scalar* memory) const {
    constexpr Index block = detail::attention_block;
    const Index first = tokens.begin, T = tokens.length();
    if (i >= T) return;
    using Numbers = Eigen::Array<Scalar, block, 1>;
    Numbers highest = Numbers::Constant(std::numeric_limits<Scalar>::lowest()), sum = Numbers::Zero();
    const Index queries = (std::min)(block, T - i);
    detail::AttentionBlocks<Scalar> room(head_dim, queries, memory);
    auto& q = room.query;
    auto output = block_of(tape.output, h, first + i, queries);
    q = tape.weight.asDiagonal() * block_of(tape.query, h, first + i, queries);
    output.setZero();
    for (Index j = 0; j < P + i + queries; j += block) {
      const Index keys = (std::min)(block, P + T - j);
      auto scores = room.scores.topLeftCorner(keys, queries);
      product(block_of(key, h, first_key + j, keys).transpose(), q, scores, Serial{});
      for (Index r = 0; r < queries; ++r) {
        const Index seen = std::clamp(P + i + r + 1 - j, Index(0), keys);
        column(scores, r, seen, keys - seen).setZero();
        if (seen == 0) continue;
        auto p = column(scores, r, 0, seen);
        const Scalar top = (std::max)(highest[r], p.maxCoeff());
        const Scalar shrink = std::exp(highest[r] - top);
        p = (p - top).exp();
        sum[r] = sum[r] * shrink + p.sum();
        highest[r] = top;
        column(output, r) *= shrink;
      }
      add_product(block_of(value, h, first_key + j, keys), scores, output, Serial{});
    }
    for (Index r = 0; r < queries; ++r) {
      column(output, r) /= sum[r];
      tape.log_sum(h, first + i + r) = highest[r] + std::log(sum[r]);
    }
  }

  /// With P the softmax of head h, keys x queries, and do = W_p^T dy:
  ///
  ///     dv = do P^T,   dS = P * (v^T do - 1 (o.do)),   dk = (w q) dS^T,   dq = w (k dS),   dw = q.(k dS)
  ///
  /// where q and k are those of the tape. Keys are the outer loop: dk and dv of a block are complete, and
  /// overwrite k and v, after all its queries; k dS accumulates in place of the output.
  template <class Tape>
  void attend_backward(Tape& tape, Index h, const TokenRange& tokens, detail::Run<Scalar> dweight) const {
    constexpr Index block = detail::attention_block;
    const Index first = tokens.begin, T = tokens.length();
    detail::AttentionGradientBlocks<Scalar> room(head_dim, detail::attention_scratch<Scalar>(head_dim));
    for (Index n = first; n < first + T; ++n) {
      auto output = head_of(tape.output, h, n);
      tape.output_grad(h, n) = (output * head_of(tape.doutput, h, n)).sum();
      output.setZero();
    }
    for (Index j = 0; j < T; j += block) {
      const Index keys = (std::min)(block, T - j);
      auto k = block_of(tape.key, h, first + j, keys), v = block_of(tape.value, h, first + j, keys);
      auto dk = room.dkey.leftCols(keys), dv = room.dvalue.leftCols(keys);
      dk.setZero();
      dv.setZero();
      for (Index i = j; i < T; i += block) {
        const Index queries = (std::min)(block, T - i);
        auto q = room.query.leftCols(queries);
        auto scores = room.scores.topLeftCorner(keys, queries);
        auto dscores = room.dscores.topLeftCorner(keys, queries);
        auto kdS = block_of(tape.output, h, first + i, queries);
        const auto doutput = block_of(tape.doutput, h, first + i, queries);
        q = tape.weight.asDiagonal() * block_of(tape.query, h, first + i, queries);
        product(k.transpose(), q, scores, Serial{});
        product(v.transpose(), doutput, dscores, Serial{});
        for (Index r = 0; r < queries; ++r) {
          const Index n = first + i + r, seen = j < i ? keys : r + 1;
          auto p = column(scores, r, 0, seen), dp = column(dscores, r, 0, seen);
          p = (p - tape.log_sum(h, n)).exp();
          dp = p * (dp - tape.output_grad(h, n));
          column(scores, r, seen, keys - seen).setZero();
          column(dscores, r, seen, keys - seen).setZero();
        }
        add_product(doutput, scores.transpose(), dv, Serial{});
        add_product(q, dscores.transpose(), dk, Serial{});
        add_product(k, dscores, kdS, Serial{});
      }
      v = dv;
      for (Index s = 0; s < keys; ++s)
        normalize_and_rotate_backward(head_of(tape.key, h, first + j + s), column(dk, s),
                                      tape.key_inverse_rms(h, first + j + s), j + s, tape.rotary);
    }
    for (Index t = 0; t < T; ++t) {
      auto q = head_of(tape.query, h, first + t), kdS = head_of(tape.output, h, first + t);
      dweight += q * kdS;
      kdS *= column(tape.weight, 0);
      normalize_and_rotate_backward(q, kdS, tape.query_inverse_rms(h, first + t), t, tape.rotary);
    }
  }
};

}  // namespace ddl
