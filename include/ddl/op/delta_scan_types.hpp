// SPDX-License-Identifier: MIT
/// @file  What a scan of delta-rule edits over time is given, what it returns, and what its backward pass
/// needs.
/// @source Yang et al. 2024 (DeltaNet), Yang et al. 2025 (Gated DeltaNet), Siems et al. 2025 (DeltaProduct).
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"
#include "ddl/core/parameters.hpp"
#include "ddl/op/delta_update.hpp"

namespace ddl {

/// Which key head a value head reads where there are more value heads than key heads.
///
///     blocks  value head h reads key head h div ratio (flash-linear-attention, Qwen3-Next)
///     cyclic  value head h reads key head h mod key_heads (ggml)
enum class HeadMap { blocks, cyclic };

/// Which formulation computes a scan. Both give the same numbers but for rounding, and either may go back
/// from what the other saved.
///
///     automatic  what was measured to be faster for the head's size
///     recurrent  one edit after the other, for any inputs
///     chunked    matrix products over chunks of edits (compact WY)
enum class ScanKernel { automatic, recurrent, chunked };

/// Settings of delta_scan_forward and its relatives.
struct DeltaScanSettings {
  Index key_heads = 1;                        ///< of queries and keys
  std::optional<Index> value_heads = {};      ///< of values, betas, decays and states; absent: key_heads
  HeadMap head_map = HeadMap::blocks;         ///< if there are more value heads than key heads
  Index edits = 1;                            ///< per token: decay before the first, output after the last
  std::optional<double> output_scale = {};    ///< absent: 1 / sqrt(d)
  ScanKernel kernel = ScanKernel::automatic;  ///< which formulation computes the scan
  Index chunk = 32;  ///< edits between stored states, and in a chunk of the chunked kernel
  UpdateRule update = UpdateRule::delta;  ///< or write_only, a control that the recurrent kernel computes
};

/// The inputs of a scan over N tokens, token n in column n; their gradient is a value of the same type. A
/// head has d key channels and m value channels. The rows of key, value and beta are ordered (edit, head,
/// channel).
template <class Scalar_>
struct DeltaScanInputs {
  using Scalar = Scalar_;

  Matrix<Scalar> query;      ///< (key_heads d) x N
  Matrix<Scalar> key;        ///< (edits key_heads d) x N, unit columns in the models of the literature
  Matrix<Scalar> value;      ///< (edits value_heads m) x N
  Matrix<Scalar> beta;       ///< (edits value_heads) x N
  Matrix<Scalar> log_decay;  ///< value_heads x N, at most 0; 0 x 0: no decay

  static constexpr auto parameters() {
    using I = DeltaScanInputs;
    return std::tuple(parameter("query", &I::query), parameter("key", &I::key), parameter("value", &I::value),
                      parameter("beta", &I::beta), parameter("log_decay", &I::log_decay));
  }

  /// Whether the states are multiplied by e^log_decay.
  bool has_decay() const noexcept { return log_decay.size() > 0; }
  /// Takes the sizes of other inputs. Entries are not set.
  void resize_like(const DeltaScanInputs& other) {
    query.resizeLike(other.query);
    key.resizeLike(other.key);
    value.resizeLike(other.value);
    beta.resizeLike(other.beta);
    log_decay.resizeLike(other.log_decay);
  }
};

/// What a forward pass saves for its backward pass, which uses it up. States are transposed, see
/// delta_scan_forward.
template <class Scalar>
struct DeltaScanTape {
  Matrix<Scalar> error;  ///< r, as value: (edits value_heads m) x N
  Matrix<Scalar> last;   ///< the final states, m x (S value_heads d)
  /// The states at the starts of chunks, m x (chunks value_heads d); empty if backward recovers them.
  Matrix<Scalar> starts;
  Matrix<bool> kept;  ///< as beta: the state before this edit is kept when a chunk is gone through again
  Index chunk = 0;    ///< edits from one start to the next; 0: used up, or never written
  std::vector<DeltaScanInputs<Scalar>> shares;  ///< room for sums that backward divides among threads
};

namespace detail {

/// The sizes of a scan.
struct ScanSizes {
  Index d, m, key_heads, value_heads, edits, tokens, sequences;
  HeadMap head_map;
  double output_scale;
  bool write_only;  ///< r = v in place of v - X^T k

  Index ratio() const noexcept { return value_heads / key_heads; }
  Index key_head(Index h) const noexcept { return head_map == HeadMap::blocks ? h / ratio() : h % key_heads; }
  /// The i-th value head that reads key head hk.
  Index value_head(Index hk, Index i) const noexcept {
    return head_map == HeadMap::blocks ? hk * ratio() + i : i * key_heads + hk;
  }
};

/// @throws std::invalid_argument if settings or shapes do not fit.
template <class Scalar>
ScanSizes scan_sizes(const char* where, const DeltaScanSettings& settings, std::span<const Index> offsets,
                     const DeltaScanInputs<Scalar>& x) {
  static_assert(std::is_floating_point_v<Scalar>, "ddl: a scan is over float, double or long double");
  ScanSizes s{};
  s.key_heads = settings.key_heads;
  s.value_heads = settings.value_heads.value_or(settings.key_heads);
  s.edits = settings.edits;
  s.tokens = x.query.cols();
  s.head_map = settings.head_map;
  s.write_only = settings.update == UpdateRule::write_only;
  if (settings.update == UpdateRule::additive)
    fail(where, "update", name_of(settings.update), "delta or write_only");
  check_positive(where, "key_heads", s.key_heads);
  check_positive(where, "value_heads", s.value_heads);
  check_positive(where, "edits", s.edits);
  check_positive(where, "chunk", settings.chunk);
  if (s.value_heads % s.key_heads != 0)
    fail(where, "value_heads", std::to_string(s.value_heads),
         "a multiple of the " + std::to_string(s.key_heads) + " key heads");
  const auto rows_per = [&](const char* what, const Matrix<Scalar>& matrix, Index parts) {
    if (matrix.rows() < parts || matrix.rows() % parts != 0)
      fail(where, what, ddl::shape_text(matrix.rows(), matrix.cols()),
           "a multiple of " + std::to_string(parts) + " rows, one block a head");
    return matrix.rows() / parts;
  };
  s.d = rows_per("query", x.query, s.key_heads);
  check_shape(where, "key", x.key, s.edits * s.key_heads * s.d, s.tokens);
  s.m = rows_per("value", x.value, s.edits * s.value_heads);
  check_shape(where, "value", x.value, s.edits * s.value_heads * s.m, s.tokens);
  check_shape(where, "beta", x.beta, s.edits * s.value_heads, s.tokens);
  if (x.has_decay()) check_shape(where, "log_decay", x.log_decay, s.value_heads, s.tokens);
  s.output_scale = settings.output_scale.value_or(1 / std::sqrt(static_cast<double>(s.d)));
  check_finite(where, "output_scale", s.output_scale);
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != s.tokens ||
      !std::is_sorted(offsets.begin(), offsets.end()))
    fail(where, "offsets",
         offsets.empty()
             ? "empty"
             : "from " + std::to_string(offsets.front()) + " to " + std::to_string(offsets.back()),
         "an ascent from 0 to the " + std::to_string(s.tokens) + " tokens");
  s.sequences = static_cast<Index>(offsets.size()) - 1;
  return s;
}

/// The edits of one value head of one sequence, numbered from 0: edit j is that of token j / edits. All edits
/// of a scan are equally far apart in memory, so that no access divides.
template <class Inputs>
struct ScanHead {
  Inputs& x;
  const ScanSizes& sizes;
  Index h, hk, first, count;  ///< value head, key head, first edit in the batch, number of edits

  ScanHead(Inputs& inputs, const ScanSizes& s, std::span<const Index> offsets, Index sequence, Index head)
      : x(inputs), sizes(s), h(head), hk(s.key_head(head)) {
    const auto at = static_cast<std::size_t>(sequence);
    first = offsets[at] * s.edits;
    count = (offsets[at + 1] - offsets[at]) * s.edits;
  }

  bool begins_token(Index j) const { return sizes.edits == 1 || j % sizes.edits == 0; }
  bool ends_token(Index j) const { return sizes.edits == 1 || (j + 1) % sizes.edits == 0; }
  Index token(Index j) const { return sizes.edits == 1 ? first + j : (first + j) / sizes.edits; }

  auto* key(Index j) const { return x.key.data() + ((first + j) * sizes.key_heads + hk) * sizes.d; }
  auto* value(Index j) const { return of_value(x.value, j); }
  auto& beta(Index j) const { return of_beta(x.beta, j); }
  auto* query(Index j) const { return x.query.data() + (token(j) * sizes.key_heads + hk) * sizes.d; }
  auto& log_decay(Index j) const { return x.log_decay.data()[token(j) * sizes.value_heads + h]; }

  /// The edit's part of another matrix of value's or beta's shape.
  template <class M>
  auto* of_value(M& matrix, Index j) const {
    return matrix.data() + ((first + j) * sizes.value_heads + h) * sizes.m;
  }
  template <class M>
  auto& of_beta(M& matrix, Index j) const {
    return matrix.data()[(first + j) * sizes.value_heads + h];
  }
};
template <class Inputs>
ScanHead(Inputs&, const ScanSizes&, std::span<const Index>, Index, Index) -> ScanHead<Inputs>;

/// The m x d transposed state of one head: where it begins, and from one of its columns to the next.
template <class Scalar>
struct ScanState {
  Scalar* data;
  Index stride;

  /// `slot`: the sequence, or the chunk among all.
  template <class M>
  ScanState(M& states, const ScanSizes& s, Index slot, Index head)
      : data(states.data() + (slot * s.value_heads + head) * s.d * states.outerStride()),
        stride(states.outerStride()) {}
};

/// The place among the chunks of all sequences of the one that begins with edit j: chunks need no table of
/// their own.
template <class Inputs>
Index chunk_slot(const ScanHead<Inputs>& head, Index sequence, Index j, Index chunk) {
  return head.first / chunk + sequence + j / chunk;
}

/// Rounding errors may be multiplied by e^2, about 7, on the way back, or within a chunk.
inline constexpr double most_log_loss = 2;

/// The log of the factor |1 - beta |k|^2| by which edit j stretches the state along k; 0 if it does not.
template <class Scalar>
Scalar log_stretch(const ScanHead<const DeltaScanInputs<Scalar>>& head, Index j) {
  if (head.sizes.write_only) return Scalar(0);
  const Scalar norm2 = ConstRun<Scalar>(head.key(j), head.sizes.d).square().sum();
  const Scalar along = std::abs(Scalar(1) - head.beta(j) * norm2);
  return along > Scalar(1) ? std::log(along) : Scalar(0);
}

/// Chooses the states that a backward pass needs. Taking an edit back multiplies relative errors by the decay
/// that it divides by, and by the factor by which the edit stretched the state. Where all edits of a sequence
/// together stay below the limit, the last state is enough. Otherwise those at the starts of chunks are
/// stored, and `kept` says after which edits of a chunk the limit would be exceeded again.
template <class Scalar, Executor E>
void plan_backward(const ScanSizes& s, std::span<const Index> offsets, const DeltaScanInputs<Scalar>& x,
                   DeltaScanTape<Scalar>& tape, const E& executor) {
  std::atomic<bool> is_reversible{true};
  tape.kept.resizeLike(x.beta);
  executor.for_each(s.sequences * s.value_heads, [&](Index piece) {
    const ScanHead head(x, s, offsets, piece / s.value_heads, piece % s.value_heads);
    Scalar total(0), stretch(0);
    for (Index j = 0; j < head.count; ++j) {
      const Scalar own = log_stretch(head, j);
      const Scalar loss = x.has_decay() && head.begins_token(j) ? own - head.log_decay(j) : own;
      total += loss;
      // The state before a chunk is stored; the one that its first edit reads is taken back over that edit.
      stretch = j % tape.chunk == 0 ? own : stretch + loss;
      const bool keep = stretch > Scalar(most_log_loss);
      if (keep) stretch = Scalar(0);
      head.of_beta(tape.kept, j) = keep;
    }
    if (total > Scalar(most_log_loss)) is_reversible = false;
  });
  const Index slots = is_reversible ? 0 : s.tokens * s.edits / tape.chunk + s.sequences;
  tape.starts.resize(s.m, slots * s.value_heads * s.d);
}

/// Whether no chunk stretches the state beyond the limit: the entries of (I + D L)^-1 grow with it.
template <class Scalar, Executor E>
bool chunks_are_stable(const ScanSizes& s, std::span<const Index> offsets, const DeltaScanInputs<Scalar>& x,
                       Index chunk, const E& executor) {
  std::atomic<bool> stable{true};
  executor.for_each(s.sequences * s.value_heads, [&](Index piece) {
    const ScanHead head(x, s, offsets, piece / s.value_heads, piece % s.value_heads);
    Scalar stretch(0);
    for (Index j = 0; j < head.count; ++j) {
      stretch = (j % chunk == 0 ? Scalar(0) : stretch) + log_stretch(head, j);
      if (stretch > Scalar(most_log_loss)) stable = false;
    }
  });
  return stable;
}

/// What of edits begin .. end - 1 is summed is set to zero.
template <class Scalar>
void zero_sums(const ScanHead<DeltaScanInputs<Scalar>>& sums, Index begin, Index end) {
  const Index d = sums.sizes.d;
  for (Index j = begin; j < end; ++j) {
    Run<Scalar>(sums.key(j), d).setZero();
    sums.beta(j) = Scalar(0);
    if (!sums.begins_token(j)) continue;
    Run<Scalar>(sums.query(j), d).setZero();
    if (sums.x.has_decay()) sums.log_decay(j) = Scalar(0);
  }
}

/// Adds what another share has summed; queries and keys are those of several heads, and added once.
template <class Scalar>
void add_sums(const ScanHead<DeltaScanInputs<Scalar>>& to, const ScanHead<DeltaScanInputs<Scalar>>& share,
              Index begin, Index end, bool with_keys) {
  const Index d = to.sizes.d;
  for (Index j = begin; j < end; ++j) {
    if (with_keys) Run<Scalar>(to.key(j), d) += ConstRun<Scalar>(share.key(j), d);
    to.beta(j) += share.beta(j);
    if (!to.begins_token(j)) continue;
    if (with_keys) Run<Scalar>(to.query(j), d) += ConstRun<Scalar>(share.query(j), d);
    if (to.x.has_decay()) to.log_decay(j) += share.log_decay(j);
  }
}

/// Calls add_part(sequence, key head, part, begin, end, sums) for `parts` parts of every key head of every
/// sequence. It goes back from edit `end` to `begin` and adds the gradients of queries, keys, betas and
/// decays of value head h to sums(h). They are sums over the value heads that share a key head, and over
/// their channels.
///
/// Where sequences and key heads are fewer than 16, parts are divided in shares that are summed apart and
/// added up in order; how many depends on the sizes alone. All sequences are then gone through in blocks of
/// edits, from the last, so that shares take room for a block and not for all tokens.
template <class Scalar, Executor E, class F>
void sum_parts(const ScanSizes& s, std::span<const Index> offsets, Index parts, DeltaScanTape<Scalar>& tape,
               DeltaScanInputs<Scalar>& gradient, const E& executor, const F& add_part) {
  constexpr Index enough = 16, block_of_shares = 256;
  const Index heads = s.sequences * s.key_heads;
  if (s.tokens == 0) return;
  const Index shares = (std::min)(parts, pieces_of(enough, heads));
  Index longest = 0;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i)
    longest = (std::max)(longest, (offsets[i + 1] - offsets[i]) * s.edits);
  const Index step = tape.chunk * s.edits;  // a block is whole chunks and whole tokens
  const Index block = pieces_of(shares == 1 ? longest : (std::min)(longest, block_of_shares), step) * step;
  const Index room = (std::min)(block, longest);
  tape.shares.resize(static_cast<std::size_t>(shares - 1));
  for (auto& share : tape.shares) {
    const Index columns = s.sequences * room / s.edits;
    share.query.resize(gradient.query.rows(), columns);
    share.key.resize(gradient.key.rows(), columns);
    share.beta.resize(gradient.beta.rows(), columns);
    share.log_decay.resize(gradient.log_decay.rows(), gradient.has_decay() ? columns : 0);
  }
  // The gradient of a head, or what a share has of its block that begins with edit `begin`.
  const auto sums_of = [&](Index share, Index sequence, Index h, Index begin) {
    ScanHead sums(share == 0 ? gradient : tape.shares[static_cast<std::size_t>(share - 1)], s, offsets,
                  sequence, h);
    if (share > 0) sums.first = sequence * room - begin;
    return sums;
  };
  for (Index begin = (longest - 1) / block * block; begin >= 0; begin -= block) {
    executor.for_each(heads * shares, [&](Index piece) {
      const Index share = piece % shares, sequence = piece / shares / s.key_heads,
                  hk = piece / shares % s.key_heads;
      const Index end = (std::min)(begin + block, sums_of(0, sequence, 0, begin).count);
      for (Index i = 0; i < s.ratio(); ++i)
        zero_sums(sums_of(share, sequence, s.value_head(hk, i), begin), begin, end);
      for (Index part = share * parts / shares; part < (share + 1) * parts / shares && begin < end; ++part)
        add_part(sequence, hk, part, begin, end, [&](Index h) { return sums_of(share, sequence, h, begin); });
    });
    if (shares == 1) continue;
    executor.for_each(heads, [&](Index piece) {
      const Index sequence = piece / s.key_heads, hk = piece % s.key_heads;
      const Index end = (std::min)(begin + block, sums_of(0, sequence, 0, begin).count);
      for (Index share = 1; share < shares; ++share)
        for (Index i = 0; i < s.ratio(); ++i) {
          const Index h = s.value_head(hk, i);
          add_sums(sums_of(0, sequence, h, begin), sums_of(share, sequence, h, begin), begin, end, i == 0);
        }
    });
  }
}

}  // namespace detail
}  // namespace ddl
