// SPDX-License-Identifier: MIT
/// @file  The batched delta update Y = X + beta k (v - X^T k)^T, its two controls, their adjoint, and its
/// inverse.
/// @source Zhang et al., Deep Delta Learning, arXiv:2601.00417, the residual block.
///
/// The forward pass of each of the three update rules is Y = X + kt p^T. The backward pass, with G = dL/dY,
/// is
///
///     dX = G - kt q^T,     dkt = G p - X q - w kt
///
/// The rules differ in the m coefficients p, q and the number w. With k = s kt, g = G^T k, u = X^T k,
/// r = v - u:
///
///     rule         p           q          w                        dv        dbeta
///     delta        s beta r    s beta g   s^2 beta (g.r - g.u)     beta g    g.r
///     write-only   s beta v    0          s^2 beta g.v             beta g    g.v
///     additive     1           0          0                        0         0
///
/// The term w kt is the derivative of the normalisation; it is exact because k_eps is inside the root. Each
/// pass visits the state of a token once: two sweeps run over it while it is in cache, one of dot products,
/// then one that writes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/eigen_internals.hpp"
#include "ddl/core/executor.hpp"
#include "ddl/op/direction.hpp"

namespace ddl {

/// How a block changes its state.
///
///     delta        Y = X + beta k (v - X^T k)^T
///     write_only   Y = X + beta k v^T           a control: nothing is read before the write
///     additive     Y = X + kt 1^T               a control: a plain residual connection, without gate and value
enum class UpdateRule { delta, write_only, additive };

/// Its name in this enumeration.
constexpr const char* name_of(UpdateRule rule) noexcept {
  constexpr const char* names[] = {"delta", "write_only", "additive"};
  return names[static_cast<int>(rule)];
}

/// The inputs of N rank-1 edits of states of size d x m, or the gradients of these inputs.
///
/// @tparam Tokens  N at compile time, or Dynamic.
template <class Scalar, int Rows = Dynamic, int Cols = Dynamic, int Tokens = Dynamic>
struct EditInputs {
  using AccumScalar = Accum<Scalar>;

  Matrix<Scalar, Rows, Tokens> direction;   ///< kt, d x N, not normalised
  Matrix<AccumScalar, 1, Tokens> beta;      ///< the gate, 1 x N
  Matrix<AccumScalar, Cols, Tokens> value;  ///< v, m x N

  /// For `tokens` states of rows x cols. Entries are not set.
  void resize(Index rows, Index cols, Index tokens) {
    direction.resize(rows, tokens);
    beta.resize(1, tokens);
    value.resize(cols, tokens);
  }
};

/// What the forward pass saves for the backward pass and for the inverse, besides the inputs.
template <class Scalar, int Rows = Dynamic, int Cols = Dynamic, int Tokens = Dynamic>
struct EditTape {
  using AccumScalar = Accum<Scalar>;

  Matrix<AccumScalar, 1, Tokens> inverse_norm;  ///< s of k = s kt, 1 x N; 0 under the additive rule
  Matrix<AccumScalar, Cols, Tokens> read;       ///< u = X^T k, m x N; 0 under the additive rule
  AccumScalar k_eps{0};                         ///< as given to the forward pass
};

namespace detail {

template <class Inputs>
void check_inputs(const char* where, const Inputs& inputs) {
  check_shape(where, "beta", inputs.beta, 1, inputs.direction.cols());
  check_shape(where, "v", inputs.value, inputs.value.rows(), inputs.direction.cols());
}
template <class Inputs, class Tape>
void check_tape(const char* where, const Inputs& inputs, const Tape& tape) {
  check_inputs(where, inputs);
  check_shape(where, "inverse_norm", tape.inverse_norm, 1, inputs.direction.cols());
  check_shape(where, "read", tape.read, inputs.value.rows(), inputs.direction.cols());
}

/// r, the difference that an edit writes: v - u, or v under the write-only rule.
template <class Real>
Real error(UpdateRule rule, const Real& v, const Real& u) {
  return rule == UpdateRule::delta ? Real(v - u) : v;
}

/// out[j] = kt . X_j for `Group` columns, and *norm2 = |kt|^2 if asked for. Two sets of running sums, as one
/// would wait for the latency of its own additions.
template <int Group, bool Norm, class Scalar>
void dots(Index d, const Scalar* kt, const Scalar* X, Index stride, Accum<Scalar>* out,
          Accum<Scalar>* norm2) {
  using Real = Accum<Scalar>;
  using Wide = WideLane<Scalar>;
  using Single = SingleLane<Scalar>;
  constexpr std::size_t unroll = 2, sums = std::size_t{Group} + 1;
  typename Wide::Pack partial[unroll][sums];
  for (auto& set : partial)
    for (auto& sum : set) sum = Wide::broadcast(Real(0));
  Index i = 0;
  for (; i + Index{unroll} * Wide::size <= d; i += Index{unroll} * Wide::size)
    for (std::size_t u = 0; u < unroll; ++u) {
      const Index at = i + Index(u) * Wide::size;
      const auto k = Wide::load(kt + at);
      if constexpr (Norm) partial[u][Group] = Wide::add_product(partial[u][Group], k, k);
      for (int j = 0; j < Group; ++j)
        partial[u][j] = Wide::add_product(partial[u][j], k, Wide::load(X + j * stride + at));
    }
  Real total[sums];
  for (std::size_t j = 0; j < sums; ++j) total[j] = Wide::sum(Wide::add(partial[0][j], partial[1][j]));
  for (; i < d; ++i) {
    const Real k = Single::load(kt + i);
    if constexpr (Norm) total[Group] += k * k;
    for (int j = 0; j < Group; ++j) total[j] += k * Single::load(X + j * stride + i);
  }
  for (int j = 0; j < Group; ++j) out[j] = total[j];
  if constexpr (Norm) *norm2 = total[Group];
}

/// The k of one token: k = scale (power kt).
template <class Scalar>
struct Direction {
  const Scalar* kt;
  Normalizer<Accum<Scalar>> unit;
};

/// Whether the forward pass took token n's direction times a power of two.
template <class Scalar, int Rows, int Cols, int Tokens>
EIGEN_STRONG_INLINE bool is_scaled(UpdateRule rule, const EditTape<Scalar, Rows, Cols, Tokens>& tape,
                                   Index n) {
  using Real = Accum<Scalar>;
  return rule != UpdateRule::additive && !is_common(tape.inverse_norm.data()[n], common_length<Real>());
}

/// The direction of a token for which is_scaled.
template <class Scalar, int Rows, int Cols, int Tokens>
EIGEN_DONT_INLINE Direction<Scalar> scaled_direction(const EditInputs<Scalar, Rows, Cols, Tokens>& inputs,
                                                     const EditTape<Scalar, Rows, Cols, Tokens>& tape,
                                                     Index n) {
  const Index d = inputs.direction.rows();
  const Scalar* kt = inputs.direction.data() + n * d;
  return {kt, scaled_normalizer(kt, d, tape.k_eps)};
}

/// True once for every cache line of a column.
template <class Scalar>
constexpr bool starts_line(Index i) noexcept {
  return i % (64 / Index{sizeof(Scalar)}) == 0;
}

/// One number for each column of a group.
template <int Group, class Real>
using Coefficients = Eigen::Array<Real, Group, 1>;

/// The coefficients p of a group of columns: step r, or 1 under the additive rule.
template <int Group, class Real>
EIGEN_STRONG_INLINE Coefficients<Group, Real> write_coefficients(UpdateRule rule, Real step, const Real* v,
                                                                 const Real* u) {
  Coefficients<Group, Real> p;
  if (rule == UpdateRule::delta)
    for (int c = 0; c < Group; ++c) p[c] = step * (v[c] - u[c]);
  else
    for (int c = 0; c < Group; ++c) p[c] = rule == UpdateRule::write_only ? Real(step * v[c]) : Real(1);
  return p;
}

/// The columns from one token's state to the next, if that is worth asking for ahead: a column is too short
/// for the processor to see where it leads. 0 where the states lie in a cache, and asking would only cost
/// instructions.
template <class Scalar>
constexpr Index columns_to_next(Index d, Index m, Index tokens, Index n) noexcept {
  return n + 1 < tokens && d * m * tokens * Index{sizeof(Scalar)} > (Index(1) << 20) ? m : 0;
}

/// Whether Y is so large, from 16 MiB, that a cache keeps little of it until it is read again, and can be
/// streamed.
template <class X, class Y>
bool is_streamed(const X& x, const Y& y) noexcept {
  using Scalar = typename Y::Scalar;
  constexpr Index size = WideLane<Scalar>::size;
  return y.size() * Index{sizeof(Scalar)} >= (Index(1) << 24) && y.data() != x.data() &&
         y.colStride() % size == 0 &&
         reinterpret_cast<std::uintptr_t>(y.data()) % (size * sizeof(Scalar)) == 0;
}

/// Y_j = X_j + p_j kt. Where `next` is not 0, like pull_back, asks for the next token's state meanwhile.
template <int Group, bool Stream, class Scalar>
void add_outer(Index d, const Scalar* kt, const Coefficients<Group, Accum<Scalar>>& p, const Scalar* X,
               Index stride_x, Scalar* Y, Index stride_y, Index next) {
  sweep<Scalar>(d, [=]<class Lane>(Index i) {
    if (next != 0 && starts_line<Scalar>(i)) {
      prefetch(kt + d + i);
      for (int j = 0; j < Group; ++j) prefetch(X + (next + j) * stride_x + i);
    }
    const auto k = Lane::load(kt + i);
    for (int j = 0; j < Group; ++j) {
      const auto y = Lane::add_product(Lane::load(X + j * stride_x + i), k, Lane::broadcast(p[j]));
      if constexpr (Stream)
        Lane::stream(Y + j * stride_y + i, y);
      else
        Lane::store(Y + j * stride_y + i, y);
    }
  });
}

/// dX_j = G_j - q_j kt in place of G, and dkt = G p - X q - w kt; the `first` group of columns assigns dkt,
/// later ones add to it. With `Undo`, X holds Y and is first taken back: X_j = Y_j - p_j kt.
template <int Group, bool Undo, class Scalar, class State>
EIGEN_STRONG_INLINE void pull_back(Index d, const Scalar* kt, const Coefficients<Group, Accum<Scalar>>& p,
                                   const Coefficients<Group, Accum<Scalar>>& q, Accum<Scalar> w, bool first,
                                   State* X, Index stride_x, Scalar* dX, Index stride_dx, Scalar* dkt,
                                   Index next) {
  const auto step = [=]<class Lane>(Index i) {
    const auto k = Lane::load(kt + i);
    auto sum = first ? Lane::subtract_product(Lane::broadcast(Accum<Scalar>(0)), Lane::broadcast(w), k)
                     : Lane::load(dkt + i);
    for (int j = 0; j < Group; ++j) {
      const auto pj = Lane::broadcast(p[j]), qj = Lane::broadcast(q[j]);
      const auto gradient = Lane::load(dX + j * stride_dx + i);
      auto state = Lane::load(X + j * stride_x + i);
      if constexpr (Undo) {
        state = Lane::subtract_product(state, k, pj);
        Lane::store(X + j * stride_x + i, state);
      }
      sum = Lane::add_product(Lane::subtract_product(sum, state, qj), gradient, pj);
      Lane::store(dX + j * stride_dx + i, Lane::subtract_product(gradient, k, qj));
    }
    Lane::store(dkt + i, sum);
  };
  // With four columns, the addresses to ask for leave too few registers: a loop without them is 1.2 times as
  // fast.
  if (Group == 4 && next == 0) return sweep<Scalar>(d, step);
  sweep<Scalar>(d, [=]<class Lane>(Index i) {
    if (next != 0 && starts_line<Scalar>(i)) {
      prefetch(kt + d + i);
      for (int j = 0; j < Group; ++j) {
        prefetch(X + (next + j) * stride_x + i);
        prefetch(dX + (next + j) * stride_dx + i);
      }
    }
    step.template operator()<Lane>(i);
  });
}

// The three kernels for a direction whose power is not 1, one column at a time: rare, so never inlined.

/// Calls f(power kt, first row, rows) for one piece of a column after the other, scaled on the stack.
template <class Scalar, class F>
void for_scaled_pieces(Index d, Direction<Scalar> k, F&& f) {
  constexpr Index room = 64;
  Scalar scaled[room];
  for (Index begin = 0; begin < d; begin += room) {
    const Index rows = (std::min)(room, d - begin);
    for (Index i = 0; i < rows; ++i)
      scaled[i] = static_cast<Scalar>(k.unit.power * static_cast<Accum<Scalar>>(k.kt[begin + i]));
    f(static_cast<const Scalar*>(scaled), begin, rows);
  }
}

/// (power kt) . X
template <class Scalar>
EIGEN_DONT_INLINE Accum<Scalar> scaled_dot(Index d, Direction<Scalar> k, const Scalar* X) {
  Accum<Scalar> sum(0);
  for_scaled_pieces(d, k, [&](const Scalar* kt, Index begin, Index rows) {
    Accum<Scalar> part;
    dots<1, false>(rows, kt, X + begin, rows, &part, nullptr);
    sum += part;
  });
  return sum;
}

/// Y = X + p (power kt)
template <class Scalar>
EIGEN_DONT_INLINE void scaled_add_outer(Index d, Direction<Scalar> k, Accum<Scalar> p, const Scalar* X,
                                        Scalar* Y) {
  for_scaled_pieces(d, k, [&](const Scalar* kt, Index begin, Index rows) {
    const Coefficients<1, Accum<Scalar>> ps(p);
    add_outer<1, false>(rows, kt, ps, X + begin, rows, Y + begin, rows, 0);
  });
}

/// pull_back, of which dkt is the gradient of power kt.
template <bool Undo, class Scalar, class State>
EIGEN_DONT_INLINE void scaled_pull_back(Index d, Direction<Scalar> k, Accum<Scalar> p, Accum<Scalar> q,
                                        Accum<Scalar> w, bool first, State* X, Scalar* dX, Scalar* dkt) {
  for_scaled_pieces(d, k, [&](const Scalar* kt, Index begin, Index rows) {
    const Coefficients<1, Accum<Scalar>> ps(p), qs(q);
    pull_back<1, Undo>(rows, kt, ps, qs, w, first, X + begin, rows, dX + begin, rows, dkt + begin, 0);
  });
}

/// Calls f(integral constant Group, first column) so that groups of at most four columns cover 0 .. m - 1: kt
/// is read once for four columns, and any m runs at the speed of a fixed one.
template <class F>
EIGEN_STRONG_INLINE void for_groups(Index m, F&& f) {
  Index j = 0;
  for (; j + 4 <= m; j += 4) f(std::integral_constant<int, 4>{}, j);
  if (m - j >= 2) f(std::integral_constant<int, 2>{}, j), j += 2;
  if (m - j == 1) f(std::integral_constant<int, 1>{}, j);
}

}  // namespace detail

/// Y = the update of X; Y may be X.
///
///     X, Y       d x (N m)
///     inputs     kt d x N, beta 1 x N, v m x N
///     tape       assigned
///
/// @throws std::invalid_argument if a shape does not fit.
template <class Scalar, int Rows, int Cols, int Tokens, Executor E = Serial>
void delta_update_forward(UpdateRule rule, const std::type_identity_t<ConstBatchRef<Scalar, Rows>>& X,
                          const EditInputs<Scalar, Rows, Cols, Tokens>& inputs,
                          EditTape<Scalar, Rows, Cols, Tokens>& tape,
                          std::type_identity_t<BatchRef<Scalar, Rows>> Y, double k_eps = default_k_eps,
                          const E& executor = {}) {
  using Real = Accum<Scalar>;
  constexpr const char* where = "ddl::delta_update_forward";
  const Index d = X.rows(), N = inputs.direction.cols(), m = inputs.value.rows();
  check_shape(where, "X", X, inputs.direction.rows(), N * m);
  check_shape(where, "Y", Y, d, N * m);
  detail::check_inputs(where, inputs);
  tape.inverse_norm.resize(1, N);
  tape.read.resize(m, N);
  check_range(where, "k_eps", k_eps, k_eps >= 0, "a number of at least 0");
  tape.k_eps = static_cast<Real>(k_eps);
  const bool streamed = detail::is_streamed(X, Y);
  for_ranges(executor, N, columns_per_piece(d * m), [&](Index begin, Index end) {
    const Index stride_x = X.colStride(), stride_y = Y.colStride();
    for (Index n = begin; n < end; ++n) {
      const Index next = detail::columns_to_next<Scalar>(d, m, N, n);
      detail::Direction<Scalar> k{inputs.direction.data() + n * d, {Real(1), Real(0)}};
      const Scalar* state = X.data() + n * m * stride_x;
      Scalar* out = Y.data() + n * m * stride_y;
      Real* u = tape.read.data() + n * m;
      const Real* v = inputs.value.data() + n * m;
      Real s(0), step(0);
      if (rule != UpdateRule::additive) {
        Real norm2(0);
        detail::for_groups(m, [&]<int Group>(std::integral_constant<int, Group>, Index j) {
          const Scalar* columns = state + j * stride_x;
          if (j == 0)
            detail::dots<Group, true>(d, k.kt, columns, stride_x, u + j, &norm2);
          else
            detail::dots<Group, false>(d, k.kt, columns, stride_x, u + j, nullptr);
        });
        k.unit = detail::normalizer(k.kt, d, norm2, tape.k_eps);
        s = k.unit.scale;
        step = s * inputs.beta.data()[n];
        if (k.unit.power != Real(1)) [[unlikely]] {
          for (Index j = 0; j < m; ++j) u[j] = detail::scaled_dot(d, k, state + j * stride_x);
          s *= k.unit.power;
          if (!is_finite(s)) s = Real(0);
        }
        for (Index j = 0; j < m; ++j) u[j] *= k.unit.scale;
      } else {
        std::fill_n(u, m, Real(0));
      }
      tape.inverse_norm.data()[n] = s;
      detail::for_groups(m, [&]<int Group>(std::integral_constant<int, Group>, Index j) {
        const auto p = detail::write_coefficients<Group>(rule, step, v + j, u + j);
        if (k.unit.power != Real(1)) [[unlikely]] {
          for (Index c = j; c < j + Group; ++c)
            detail::scaled_add_outer(d, k, p[c - j], state + c * stride_x, out + c * stride_y);
          return;
        }
        const auto add =
            streamed ? detail::add_outer<Group, true, Scalar> : detail::add_outer<Group, false, Scalar>;
        add(d, k.kt, p, state + j * stride_x, stride_x, out + j * stride_y, stride_y, next);
      });
    }
    if (streamed) detail::finish_streams();
  });
}

namespace detail {

/// The backward pass; with Undo, X holds Y on entry: see delta_update_backward_reversible.
template <bool Undo, class Scalar, int Rows, int Cols, int Tokens, class States, Executor E>
void delta_update_backward(UpdateRule rule, States& X, const EditInputs<Scalar, Rows, Cols, Tokens>& inputs,
                           const EditTape<Scalar, Rows, Cols, Tokens>& tape, BatchRef<Scalar, Rows>& dX,
                           EditInputs<Scalar, Rows, Cols, Tokens>& gradient, const E& executor) {
  using Real = Accum<Scalar>;
  constexpr const char* where = Undo ? "ddl::delta_update_backward_reversible" : "ddl::delta_update_backward";
  const Index d = X.rows(), N = inputs.direction.cols(), m = inputs.value.rows();
  check_shape(where, "X", X, inputs.direction.rows(), N * m);
  check_shape(where, "dX", dX, d, N * m);
  check_tape(where, inputs, tape);
  gradient.resize(d, m, N);
  for_ranges(executor, N, columns_per_piece(d * m), [&](Index begin, Index end) {
    const Index stride_x = X.colStride(), stride_dx = dX.colStride();
    for (Index n = begin; n < end; ++n) {
      const Index next = columns_to_next<Scalar>(d, m, N, n);
      const Scalar* kt = inputs.direction.data() + n * d;
      const bool scaled = is_scaled(rule, tape, n);
      Direction<Scalar> k;
      if (scaled) [[unlikely]]
        k = scaled_direction(inputs, tape, n);
      const Real* u = tape.read.data() + n * m;
      const Real* v = inputs.value.data() + n * m;
      auto* state = X.data() + n * m * stride_x;
      Scalar* grad = dX.data() + n * m * stride_dx;
      Scalar* dkt = gradient.direction.data() + n * d;
      Real* dv = gradient.value.data() + n * m;  // first g, then beta g
      const Real s = scaled ? k.unit.scale : tape.inverse_norm.data()[n];
      const Real beta = rule == UpdateRule::additive ? Real(0) : inputs.beta.data()[n];
      const Real step = s * beta;
      Real gr(0), gu(0);
      if (rule == UpdateRule::additive) {
        std::fill_n(dv, m, Real(0));
      } else {
        for_groups(m, [&]<int Group>(std::integral_constant<int, Group>, Index j) {
          dots<Group, false, Scalar>(d, kt, grad + j * stride_dx, stride_dx, dv + j, nullptr);
        });
        if (scaled) [[unlikely]]
          for (Index j = 0; j < m; ++j) dv[j] = scaled_dot<Scalar>(d, k, grad + j * stride_dx);
        for (Index j = 0; j < m; ++j) {
          dv[j] *= s;
          gr += dv[j] * error(rule, v[j], u[j]);
          if (rule == UpdateRule::delta) gu += dv[j] * u[j];
        }
      }
      gradient.beta.data()[n] = gr;
      const Real w = s * step * (gr - gu);
      for_groups(m, [&]<int Group>(std::integral_constant<int, Group>, Index j) {
        const auto p = write_coefficients<Group>(rule, step, v + j, u + j);
        Coefficients<Group, Real> q;
        for (int c = 0; c < Group; ++c) q[c] = rule == UpdateRule::delta ? Real(step * dv[j + c]) : Real(0);
        if (scaled) [[unlikely]] {
          for (Index c = j; c < j + Group; ++c)
            scaled_pull_back<Undo>(d, k, p[c - j], q[c - j], w, c == 0, state + c * stride_x,
                                   grad + c * stride_dx, dkt);
          return;
        }
        pull_back<Group, Undo>(d, kt, p, q, w, j == 0, state + j * stride_x, stride_x, grad + j * stride_dx,
                               stride_dx, dkt, next);
      });
      if (scaled) [[unlikely]]
        for (Index i = 0; i < d; ++i) dkt[i] = static_cast<Scalar>(k.unit.power * static_cast<Real>(dkt[i]));
      for (Index j = 0; j < m; ++j) dv[j] *= beta;
    }
  });
}

}  // namespace detail

/// The adjoint of delta_update_forward.
///
///     X          d x (N m), the states that went in
///     dX         d x (N m): dL/dY on entry, dL/dX on return
///     gradient   dL/dkt, dL/dbeta, dL/dv, assigned
///
/// @throws std::invalid_argument if a shape does not fit.
template <class Scalar, int Rows, int Cols, int Tokens, Executor E = Serial>
void delta_update_backward(UpdateRule rule, const std::type_identity_t<ConstBatchRef<Scalar, Rows>>& X,
                           const EditInputs<Scalar, Rows, Cols, Tokens>& inputs,
                           const EditTape<Scalar, Rows, Cols, Tokens>& tape,
                           std::type_identity_t<BatchRef<Scalar, Rows>> dX,
                           EditInputs<Scalar, Rows, Cols, Tokens>& gradient, const E& executor = {}) {
  detail::delta_update_backward<false>(rule, X, inputs, tape, dX, gradient, executor);
}

/// The same from the states that came out: X holds Y on entry and the states that went in on return, by
/// X = Y - beta k r^T.
template <class Scalar, int Rows, int Cols, int Tokens, Executor E = Serial>
void delta_update_backward_reversible(UpdateRule rule, std::type_identity_t<BatchRef<Scalar, Rows>> X,
                                      const EditInputs<Scalar, Rows, Cols, Tokens>& inputs,
                                      const EditTape<Scalar, Rows, Cols, Tokens>& tape,
                                      std::type_identity_t<BatchRef<Scalar, Rows>> dX,
                                      EditInputs<Scalar, Rows, Cols, Tokens>& gradient,
                                      const E& executor = {}) {
  detail::delta_update_backward<true>(rule, X, inputs, tape, dX, gradient, executor);
}

/// The inverse of delta_update_forward, given what it saved: X holds Y on entry and X = Y - beta k r^T on
/// return.
template <class Scalar, int Rows, int Cols, int Tokens, Executor E = Serial>
void delta_update_inverse(UpdateRule rule, const EditInputs<Scalar, Rows, Cols, Tokens>& inputs,
                          const EditTape<Scalar, Rows, Cols, Tokens>& tape,
                          std::type_identity_t<BatchRef<Scalar, Rows>> X, const E& executor = {}) {
  using Real = Accum<Scalar>;
  const Index d = X.rows(), N = inputs.direction.cols(), m = inputs.value.rows();
  check_shape("ddl::delta_update_inverse", "X", X, inputs.direction.rows(), N * m);
  detail::check_tape("ddl::delta_update_inverse", inputs, tape);
  for_ranges(executor, N, columns_per_piece(d * m), [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n) {
      const Index next = detail::columns_to_next<Scalar>(d, m, N, n);
      const bool scaled = detail::is_scaled(rule, tape, n);
      detail::Direction<Scalar> k{inputs.direction.data() + n * d, {Real(1), tape.inverse_norm(n)}};
      if (scaled) [[unlikely]]
        k = detail::scaled_direction(inputs, tape, n);
      const Real step = rule == UpdateRule::additive ? Real(0) : Real(k.unit.scale * inputs.beta(n));
      detail::for_groups(m, [&]<int Group>(std::integral_constant<int, Group>, Index j) {
        const detail::Coefficients<Group, Real> p = -detail::write_coefficients<Group>(
            rule, step, inputs.value.data() + n * m + j, tape.read.data() + n * m + j);
        Scalar* state = X.data() + (n * m + j) * X.colStride();
        if (scaled) [[unlikely]] {
          for (Index c = 0; c < Group; ++c)
            detail::scaled_add_outer(d, k, p[c], state + c * X.colStride(), state + c * X.colStride());
          return;
        }
        detail::add_outer<Group, false>(d, k.kt, p, state, X.colStride(), state, X.colStride(), next);
      });
    }
  });
}

}  // namespace ddl
