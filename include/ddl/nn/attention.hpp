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
#include "ddl/nn/rope.hpp"
#include "ddl/nn/sequence.hpp"

namespace ddl {

struct AttentionSettings {
  Index heads = 1;
  Index head_dim = 0;  ///< 0: the inputs divided by the heads
  double rope_base = 10000;
  double rope_ratio = 1;  ///< of a head's dimensions, the share that is rotated, from 0 to 1
  bool qk_norm = true;
  double norm_eps = 1e-5;
};

namespace detail {

/// Queries and keys in a block: the scores of two blocks fit a first- or second-level cache.
inline constexpr Index attention_block = 64;

/// Room for the blocks of one piece, one a thread and kept, as the panels of a product are. It holds nothing between
/// pieces.
template <class Scalar>
struct AttentionBlocks {
  using Block = Eigen::Map<Matrix<Scalar>>;
  Block query, dkey, dvalue;  ///< head_dim x block
  Block scores, dscores;      ///< keys x queries

  explicit AttentionBlocks(Index head_dim)
      : AttentionBlocks(head_dim, room((3 * head_dim + 2 * attention_block) * attention_block)) {}

 private:
  AttentionBlocks(Index head_dim, Scalar* at)
      : query(at, head_dim, attention_block),
        dkey(query.data() + query.size(), head_dim, attention_block),
        dvalue(dkey.data() + dkey.size(), head_dim, attention_block),
        scores(dvalue.data() + dvalue.size(), attention_block, attention_block),
        dscores(scores.data() + scores.size(), attention_block, attention_block) {}
  static Scalar* room(Index size) {
    thread_local Vector<Scalar> kept;
    if (kept.size() < size) kept.resize(size);
    return kept.data();
  }
};

}  // namespace detail

/// Per head, with q = W_q c, k = W_k c, v = W_v c in rows of its own, and position t in the sequence:
///
///     q'_t = q_rms * rms(rotate(q_t)),   k'_t likewise       rms(x) = x / sqrt(mean(x^2) + eps)
///     o_t = sum over s <= t of softmax_s(q'_t . k'_s / sqrt(head_dim)) v_s
///
/// and y = W_p o.   c: in x N, y: out x N, q, k, v, o: (heads head_dim) x N.
///
/// The norms' weights are shared by the heads and act on the scores alone: the pass folds them into one,
/// w = q_rms * k_rms / sqrt(head_dim), and a score is sum_i w_i rms(q)_i rms(k)_i. No matrix of scores larger
/// than a block exists; the backward pass computes the scores again.
template <class Scalar_, int In = Dynamic, int Out = In>
struct CausalSelfAttention {
  using Scalar = Scalar_;
  using Settings = AttentionSettings;
  using Input = ConstBatchRef<Scalar, In>;
  using Output = ConstBatchRef<Scalar, Out>;

  /// What decoding keeps of one sequence: its keys and values, up to a capacity. A copy is another sequence
  /// with the same beginning; count = 0 begins anew.
  struct KeyValues {
    Matrix<Scalar> key, value;  ///< (heads head_dim) x capacity
    Index count = 0;            ///< tokens held
    RotaryTable<Scalar> rotary;
    Matrix<Scalar> query, output;  ///< of the newest token
    Matrix<Scalar> scores;         ///< capacity x heads
    Vector<Scalar> weight;

    Index capacity() const noexcept { return key.cols(); }
  };

  /// The backward pass turns query, key and value into the gradients of W_q c, W_k c and W_v c.
  template <int Tokens = Dynamic>
  struct Cache {
    Index length = 0;               ///< tokens per sequence; 0: the whole batch is one sequence
    std::optional<KeyValues> past;  ///< if there is one, forward takes the next token of a sequence
    RotaryTable<Scalar> rotary;
    Matrix<Scalar, Dynamic, Tokens> query, key;  ///< rms(rotate(.))
    Matrix<Scalar, Dynamic, Tokens> value, output, doutput;
    Matrix<Scalar, Dynamic, Tokens> query_scale, key_scale;  ///< heads x N: what rms multiplied by
    Matrix<Scalar, Dynamic, Tokens> log_sum;                 ///< heads x N: log of the softmax's denominator
    Matrix<Scalar, Dynamic, Tokens> mean_slope;              ///< heads x N: o.do
    Vector<Scalar> weight;                                   ///< w
    Matrix<Scalar> dweight;  ///< head_dim x (heads and sequences), the share of each in dw
  };

  Linear<Scalar, In, Dynamic> c_q, c_k, c_v;
  Linear<Scalar, Dynamic, Out> c_proj;
  RmsNorm<Scalar> q_rms, k_rms;  ///< weights of head_dim; empty without qk_norm
  Index heads = 1;
  Index head_dim = 0;
  Index rotated = 0;  ///< dimensions of a head
  double rope_base = 10000;

  static constexpr auto parameters() {
    using A = CausalSelfAttention;
    return std::tuple(field("c_q", &A::c_q), field("c_k", &A::c_k), field("c_v", &A::c_v),
                      field("c_proj", &A::c_proj), field("q_rms", &A::q_rms), field("k_rms", &A::k_rms));
  }

  CausalSelfAttention() = default;
  /// @throws std::invalid_argument if a size does not fit or a setting is out of range.
  CausalSelfAttention(Index in, Index out, const Settings& settings, Random& random)
      : heads(settings.heads), head_dim(settings.head_dim), rope_base(settings.rope_base) {
    constexpr const char* where = "ddl::CausalSelfAttention";
    check_positive(where, "heads", heads);
    if (head_dim == 0) {
      if (in % heads != 0)
        fail(where, "heads", std::to_string(heads),
             "a divisor of the " + std::to_string(in) + " inputs, or a head_dim");
      head_dim = in / heads;
    }
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

  /// What a cache keeps, in scalars per sample.
  Index cache_scalars() const { return (5 * head_dim + 4) * heads; }

  /// @throws std::invalid_argument if a shape does not fit or cache.length does not divide N.
  template <int Tokens, Executor E = Serial>
  void forward(const Input& c, BatchRef<Scalar, Out> y, Cache<Tokens>& cache, const E& executor = {}) const {
    if (cache.past) return step(c, y, *cache.past, executor);
    const Index N = c.cols(), T = sequence_length("ddl::CausalSelfAttention", cache.length, N);
    for (auto* x : {&cache.query, &cache.key, &cache.value, &cache.output}) x->resize(inner(), N);
    for (auto* x : {&cache.query_scale, &cache.key_scale, &cache.log_sum}) x->resize(heads, N);
    cache.rotary.prepare(rotated, rope_base, T);
    fold_weights(cache.weight);
    c_q.forward(c, cache.query, executor);
    c_k.forward(c, cache.key, executor);
    c_v.forward(c, cache.value, executor);
    for_ranges(executor, N, columns_per_piece(inner()), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n)
        for (Index h = 0; h < heads; ++h) {
          cache.query_scale(h, n) = place(q_rms, head_of(cache.query, h, n), n % T, cache.rotary);
          cache.key_scale(h, n) = place(k_rms, head_of(cache.key, h, n), n % T, cache.rotary);
        }
    });
    const Index blocks = (T + detail::attention_block - 1) / detail::attention_block;
    executor.for_each(N / T * heads * blocks, [&](Index piece) {
      const Index head = piece / blocks;
      attend(cache, head % heads, head / heads * T, piece % blocks * detail::attention_block, T);
    });
    c_proj.forward(cache.output, y, executor);
  }

  template <int Tokens, Executor E = Serial>
  void backward(const Input& c, Cache<Tokens>& cache, const Output& dy, BatchRef<Scalar, In> dc,
                CausalSelfAttention& gradient, const E& executor = {}) const {
    const Index N = c.cols(), T = sequence_length("ddl::CausalSelfAttention", cache.length, N);
    cache.doutput.resize(inner(), N);
    cache.mean_slope.resize(heads, N);
    cache.dweight.setZero(head_dim, N / T * heads);
    c_proj.backward_parameters(cache.output, dy, gradient.c_proj, executor);
    c_proj.backward_input(dy, cache.doutput, executor);
    executor.for_each(N / T * heads, [&](Index piece) {
      attend_backward(cache, piece % heads, piece / heads * T, T, column(cache.dweight, piece));
    });
    for (Index i = 0; i < cache.dweight.cols() && has_norm(); ++i) {
      const auto dw = column(cache.dweight, i) * score_scale();
      column(gradient.q_rms.weight, 0) += dw * column(k_rms.weight, 0);
      column(gradient.k_rms.weight, 0) += dw * column(q_rms.weight, 0);
    }
    c_q.backward_parameters(c, cache.query, gradient.c_q, executor);
    c_k.backward_parameters(c, cache.key, gradient.c_k, executor);
    c_v.backward_parameters(c, cache.value, gradient.c_v, executor);
    c_q.backward_input(cache.query, dc, executor);
    c_k.add_backward_input(cache.key, dc, executor);
    c_v.add_backward_input(cache.value, dc, executor);
  }

  /// Room for decoding a sequence of at most `capacity` tokens.
  KeyValues make_key_values(Index capacity) const {
    check_positive("ddl::CausalSelfAttention::make_key_values", "capacity", capacity);
    KeyValues kept;
    kept.key.resize(inner(), capacity);
    kept.value.resize(inner(), capacity);
    kept.query.resize(inner(), 1);
    kept.output.resize(inner(), 1);
    kept.scores.resize(capacity, heads);
    kept.weight.resize(head_dim);
    kept.rotary.prepare(rotated, rope_base, capacity);
    return kept;
  }

  /// y for one more token of a sequence, c and y: d x 1; the last column of forward on all its tokens.
  /// @throws std::invalid_argument if a shape does not fit or the sequence would exceed the capacity.
  template <Executor E = Serial>
  void step(const Input& c, BatchRef<Scalar, Out> y, KeyValues& kept, const E& executor = {}) const {
    constexpr const char* where = "ddl::CausalSelfAttention::step";
    const Index t = kept.count;
    check_shape(where, "c", c, c_q.inputs(), 1);
    check_shape(where, "y", y, c_proj.outputs(), 1);
    check_shape(where, "the keys", kept.key, inner(), kept.capacity());
    if (t >= kept.capacity())
      fail(where, "the sequence", std::to_string(t + 1) + " tokens long",
           "at most the capacity, " + std::to_string(kept.capacity()));
    fold_weights(kept.weight);
    c_q.forward(c, kept.query, executor);
    c_k.forward(c, kept.key.middleCols(t, 1), executor);
    c_v.forward(c, kept.value.middleCols(t, 1), executor);
    executor.for_each(heads, [&](Index h) {
      place(q_rms, head_of(kept.query, h, 0), t, kept.rotary);
      place(k_rms, head_of(kept.key, h, t), t, kept.rotary);
      head_of(kept.query, h, 0) *= column(kept.weight, 0);
      auto scores = kept.scores.block(0, h, t + 1, 1);
      auto output = block_of(kept.output, h, 0, 1);
      product(block_of(kept.key, h, 0, t + 1).transpose(), block_of(kept.query, h, 0, 1), scores, Serial{});
      auto p = column(scores, 0);
      p = (p - p.maxCoeff()).exp();
      product(block_of(kept.value, h, 0, t + 1), scores, output, Serial{});
      head_of(kept.output, h, 0) /= p.sum();
    });
    c_proj.forward(kept.output, y, executor);
    ++kept.count;
  }

 private:
  Index inner() const noexcept { return heads * head_dim; }
  bool has_norm() const noexcept { return q_rms.weight.size() > 0; }
  Scalar score_scale() const { return Scalar(1) / std::sqrt(static_cast<Scalar>(head_dim)); }

  void fold_weights(Vector<Scalar>& weight) const {
    weight.setConstant(head_dim, score_scale());
    if (has_norm()) weight.array() *= q_rms.weight.array() * k_rms.weight.array();
  }

  /// The rows of head h of token n, or of `count` tokens from n on.
  template <class X>
  Run<Scalar> head_of(X& x, Index h, Index n) const {
    return column(x, n, h * head_dim, head_dim);
  }
  template <class X>
  auto block_of(X& x, Index h, Index n, Index count) const {
    return x.block(h * head_dim, n, head_dim, count);
  }

  /// x = rms(rotate(x)) for position p. @return what rms multiplied by.
  Scalar place(const RmsNorm<Scalar>& norm, Run<Scalar> x, Index p, const RotaryTable<Scalar>& rotary) const {
    Scalar scale(1);
    if (has_norm()) scale /= std::sqrt(x.square().mean() + static_cast<Scalar>(norm.eps));
    x *= scale;
    rotary.rotate(x, p);
    return scale;
  }
  /// From x' = rms(rotate(x)), its scale s and dx':  x' = dx, dx = s rotate^T(dx' - x' (x'.dx') / head_dim).
  void place_backward(Run<Scalar> x, const Run<Scalar>& dx, Scalar scale, Index p,
                      const RotaryTable<Scalar>& rotary) const {
    const Scalar along = has_norm() ? (x * dx).mean() : Scalar(0);
    x = scale * (dx - along * x);
    rotary.rotate_back(x, p);
  }

  /// The output of head h for the queries from `i` on, in the sequence of T tokens from `first` on: in one
  /// pass over the keys before them, rescaled whenever a larger score turns up.
  template <class Cache>
  void attend(Cache& cache, Index h, Index first, Index i, Index T) const {
    constexpr Index block = detail::attention_block;
    using Numbers = Eigen::Array<Scalar, block, 1>;
    Numbers highest = Numbers::Constant(std::numeric_limits<Scalar>::lowest()), sum = Numbers::Zero();
    const Index queries = (std::min)(block, T - i);
    detail::AttentionBlocks<Scalar> room(head_dim);
    auto q = room.query.leftCols(queries);
    auto output = block_of(cache.output, h, first + i, queries);
    q = cache.weight.asDiagonal() * block_of(cache.query, h, first + i, queries);
    output.setZero();
    for (Index j = 0; j <= i; j += block) {
      const Index keys = (std::min)(block, T - j);
      auto scores = room.scores.topLeftCorner(keys, queries);
      product(block_of(cache.key, h, first + j, keys).transpose(), q, scores, Serial{});
      for (Index r = 0; r < queries; ++r) {
        const Index seen = j < i ? keys : r + 1;
        auto p = column(scores, r, 0, seen);
        const Scalar top = (std::max)(highest[r], p.maxCoeff());
        const Scalar shrink = std::exp(highest[r] - top);
        p = (p - top).exp();
        column(scores, r, seen, keys - seen).setZero();
        sum[r] = sum[r] * shrink + p.sum();
        highest[r] = top;
        column(output, r) *= shrink;
      }
      add_product(block_of(cache.value, h, first + j, keys), scores, output, Serial{});
    }
    for (Index r = 0; r < queries; ++r) {
      column(output, r) /= sum[r];
      cache.log_sum(h, first + i + r) = highest[r] + std::log(sum[r]);
    }
  }

  /// With P the softmax of head h, keys x queries, and do = W_p^T dy:
  ///
  ///     dv = do P^T,   dS = P * (v^T do - 1 (o.do)),   dk = (w q) dS^T,   dq = w (k dS),   dw = q.(k dS)
  ///
  /// where q and k are those of the cache. Keys are the outer loop: dk and dv of a block are complete, and take
  /// the place of k and v, when its queries have been seen; k dS adds up where the output was.
  template <class Cache>
  void attend_backward(Cache& cache, Index h, Index first, Index T, Run<Scalar> dweight) const {
    constexpr Index block = detail::attention_block;
    detail::AttentionBlocks<Scalar> room(head_dim);
    for (Index n = first; n < first + T; ++n) {
      auto output = head_of(cache.output, h, n);
      cache.mean_slope(h, n) = (output * head_of(cache.doutput, h, n)).sum();
      output.setZero();
    }
    for (Index j = 0; j < T; j += block) {
      const Index keys = (std::min)(block, T - j);
      auto k = block_of(cache.key, h, first + j, keys), v = block_of(cache.value, h, first + j, keys);
      auto dk = room.dkey.leftCols(keys), dv = room.dvalue.leftCols(keys);
      dk.setZero();
      dv.setZero();
      for (Index i = j; i < T; i += block) {
        const Index queries = (std::min)(block, T - i);
        auto q = room.query.leftCols(queries);
        auto scores = room.scores.topLeftCorner(keys, queries);
        auto dscores = room.dscores.topLeftCorner(keys, queries);
        auto kdS = block_of(cache.output, h, first + i, queries);
        const auto doutput = block_of(cache.doutput, h, first + i, queries);
        q = cache.weight.asDiagonal() * block_of(cache.query, h, first + i, queries);
        product(k.transpose(), q, scores, Serial{});
        product(v.transpose(), doutput, dscores, Serial{});
        for (Index r = 0; r < queries; ++r) {
          const Index n = first + i + r, seen = j < i ? keys : r + 1;
          auto p = column(scores, r, 0, seen), dp = column(dscores, r, 0, seen);
          p = (p - cache.log_sum(h, n)).exp();
          dp = p * (dp - cache.mean_slope(h, n));
          column(scores, r, seen, keys - seen).setZero();
          column(dscores, r, seen, keys - seen).setZero();
        }
        add_product(doutput, scores.transpose(), dv, Serial{});
        add_product(q, dscores.transpose(), dk, Serial{});
        add_product(k, dscores, kdS, Serial{});
      }
      v = dv;
      for (Index s = 0; s < keys; ++s)
        place_backward(head_of(cache.key, h, first + j + s), column(dk, s), cache.key_scale(h, first + j + s),
                       j + s, cache.rotary);
    }
    for (Index t = 0; t < T; ++t) {
      auto q = head_of(cache.query, h, first + t), kdS = head_of(cache.output, h, first + t);
      dweight += q * kdS;
      kdS *= column(cache.weight, 0);
      place_backward(q, kdS, cache.query_scale(h, first + t), t, cache.rotary);
    }
  }
};

}  // namespace ddl
