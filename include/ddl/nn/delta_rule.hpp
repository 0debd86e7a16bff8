// SPDX-License-Identifier: MIT
/// @file  The delta rule over time as a token mixer: DeltaNet, Gated DeltaNet and Gated DeltaProduct.
/// @source Yang et al. 2024 (DeltaNet), Yang et al. 2025 (Gated DeltaNet), Siems et al. 2025 (DeltaProduct),
/// Grazzi et al. 2025 (betas in (0, 2)). The layers and the names of their parameters are those of
/// flash-linear-attention (fla).
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "ddl/nn/linear.hpp"
#include "ddl/nn/norm.hpp"
#include "ddl/nn/short_convolution.hpp"
#include "ddl/op/delta_scan.hpp"
#include "ddl/op/direction.hpp"

namespace ddl {

/// Settings of a DeltaRule. The defaults are those of DeltaNet. Gated DeltaNet adds `decay` and
/// `output_gate`, Gated DeltaProduct also `edits`.
struct DeltaRuleSettings {
  Index heads = 1;                        ///< of queries and keys
  std::optional<Index> value_heads = {};  ///< a multiple of heads; heads by default
  std::optional<Index> head_dim = {};     ///< of queries and keys; the inputs divided by the heads by default
  std::optional<Index> value_dim = {};    ///< of a value head; head_dim by default
  Index edits = 1;                        ///< per token
  bool negative_eigenvalues = false;      ///< betas in (0, 2) in place of (0, 1)
  bool decay = false;                     ///< a forget gate for each value head
  bool output_gate = false;               ///< multiply the normalised output by silu(W_g c)
  /// Kernel of the short convolutions. Without one, queries, keys and values are only activated.
  std::optional<Index> convolution = 4;
  double norm_eps = 1e-5;                 ///< of o_norm
  UpdateRule update = UpdateRule::delta;  ///< or write_only, the control: X <- X + beta k v^T
};

/// The delta rule over time as a token mixer. Per value head h with key head hk, and with n edits a token:
///
///     q = unit(silu(conv(W_q c)))_hk          k_i = unit(silu(conv(W_k c)))_(i, hk)      unit(x) = x / sqrt(|x|^2 + 1e-6)
///     v_i = silu(conv(W_v c))_(i, h)          beta_i = b sigmoid(w_(i, h).c)             b = 1, or 2
///     X <- e^g X,  g = -exp(A_log) softplus(w.c + dt_bias)                               with `decay`, before the edits
///     X <- X + beta_i k_i (v_i - X^T k_i)^T   for i = 1 .. n
///     o = X^T q / sqrt(head_dim)
///     y = W_o (o_norm * rms(o) [* silu(W_g c)])                                          with `output_gate`
///
///     c: in x N    y: out x N    X: head_dim x value_dim, zero before a sequence
///
/// The state of a sequence has a constant size: `infer` costs the same at every position.
template <class Scalar_>
struct DeltaRule {
  using Scalar = Scalar_;
  using Settings = DeltaRuleSettings;
  using Input = ConstBatchRef<Scalar>;
  static constexpr PartKind kind = PartKind::sublayer;

  /// What a pass keeps for its backward pass, with room for gradients.
  template <int Tokens = Dynamic>
  struct Tape {
    Matrix<Scalar> q, k, v;                                                ///< W c, before the convolutions
    typename ShortConvolution<Scalar>::Tape q_conv1d, k_conv1d, v_conv1d;  ///< of the convolutions
    Matrix<Scalar> q_inverse_norm, k_inverse_norm;  ///< one for each head (and edit) and token
    Matrix<Scalar> decay;                           ///< w.c + dt_bias, value_heads x N
    DeltaScanInputs<Scalar> inputs, dinputs;        ///< of the scan, and their gradients
    DeltaScanTape<Scalar> scan;                     ///< what its forward pass saves
    Matrix<Scalar> state, dstate;                   ///< of the scan
    Matrix<Scalar> output;                          ///< o
    Matrix<Scalar> output_inverse_rms;              ///< value_heads x N
    Matrix<Scalar> gate, dgate;                     ///< W_g c
    Matrix<Scalar> dnorm;                           ///< scratch memory of backward
    /// What W_o reads, then in backward its gradient, that of o, and those of W_q c, W_k c and W_v c, in
    /// turn.
    Vector<Scalar> shared;
    std::vector<Index> offsets;  ///< of the sequences, see Pass
  };

  /// The states X^T of S sequences, value_dim x (S value_heads head_dim), and the windows of the
  /// convolutions. With a rollback R also the last R tokens of each sequence: their keys, betas and errors
  /// r = v - X^T k as in the scan, S R columns, and how many of them there are, 1 x S.
  struct State {
    using Scalar = Scalar_;
    Matrix<Scalar> memory;                                  ///< X^T of every head and sequence
    ConvolutionState<Scalar> q_conv1d, k_conv1d, v_conv1d;  ///< their windows
    Matrix<Scalar> key, beta, error, recent;                ///< of the last R tokens, see above
    static constexpr auto parameters() {
      return std::tuple(parameter("memory", &State::memory), parameter("q_conv1d", &State::q_conv1d),
                        parameter("k_conv1d", &State::k_conv1d), parameter("v_conv1d", &State::v_conv1d),
                        parameter("key", &State::key), parameter("beta", &State::beta),
                        parameter("error", &State::error), parameter("recent", &State::recent));
    }
  };

  Linear<Scalar> q_proj, k_proj, v_proj, b_proj, a_proj, g_proj, o_proj;  ///< the W and w above, or empty
  ShortConvolution<Scalar> q_conv1d, k_conv1d, v_conv1d;  ///< after the projections of the same letter
  Vector<Scalar> A_log, dt_bias;  ///< of the decay, one for each value head; empty without it
  RmsNorm<Scalar> o_norm;         ///< one weight of value_dim for all heads
  Index heads = 1, value_heads = 1, head_dim = 0, value_dim = 0, edits = 1;  ///< see DeltaRuleSettings
  bool negative_eigenvalues = false;                                         ///< betas in (0, 2)
  UpdateRule update = UpdateRule::delta;                                     ///< delta or write_only

  static constexpr auto parameters() {
    using D = DeltaRule;
    return std::tuple(
        parameter("q_proj", &D::q_proj), parameter("k_proj", &D::k_proj), parameter("v_proj", &D::v_proj),
        parameter("q_conv1d", &D::q_conv1d), parameter("k_conv1d", &D::k_conv1d),
        parameter("v_conv1d", &D::v_conv1d), parameter("b_proj", &D::b_proj), parameter("a_proj", &D::a_proj),
        vector_parameter("A_log", &D::A_log), vector_parameter("dt_bias", &D::dt_bias),
        parameter("g_proj", &D::g_proj), parameter("o_norm", &D::o_norm), parameter("o_proj", &D::o_proj));
  }

  DeltaRule() = default;
  /// @throws std::invalid_argument if a size does not fit or a setting is out of range.
  DeltaRule(Index in, Index out, const Settings& settings, Random& random)
      : heads(settings.heads),
        value_heads(settings.value_heads.value_or(settings.heads)),
        edits(settings.edits),
        negative_eigenvalues(settings.negative_eigenvalues),
        update(settings.update) {
    constexpr const char* where = "ddl::DeltaRule";
    check_positive(where, "heads", heads);
    check_positive(where, "value_heads", value_heads);
    check_positive(where, "edits", edits);
    if (update == UpdateRule::additive) fail(where, "update", name_of(update), "delta or write_only");
    if (value_heads % heads != 0)
      fail(where, "value_heads", std::to_string(value_heads),
           "a multiple of the " + std::to_string(heads) + " heads");
    if (!settings.head_dim && in % heads != 0)
      fail(where, "heads", std::to_string(heads),
           "a divisor of the " + std::to_string(in) + " inputs, or a head_dim");
    head_dim = settings.head_dim.value_or(in / heads);
    value_dim = settings.value_dim.value_or(head_dim);
    check_positive(where, "head_dim", head_dim);
    check_positive(where, "value_dim", value_dim);
    const Index keys = heads * head_dim, values = value_heads * value_dim;
    q_proj = {in, keys, random, 1, false};
    k_proj = {in, edits * keys, random, 1, false};
    v_proj = {in, edits * values, random, 1, false};
    b_proj = {in, edits * value_heads, random, 1, false};
    q_conv1d = {keys, settings.convolution, random};
    k_conv1d = {edits * keys, settings.convolution, random};
    v_conv1d = {edits * values, settings.convolution, random};
    if (settings.decay) {
      // exp(A_log) is uniform in (0, 16); softplus(dt_bias) is log-uniform in [1e-3, 0.1].
      a_proj = {in, value_heads, random, 1, false};
      A_log.resize(value_heads);
      dt_bias.resize(value_heads);
      for (Index h = 0; h < value_heads; ++h) {
        A_log[h] = static_cast<Scalar>(std::log(16 * (1 - random.uniform())));
        const double dt = std::exp(std::log(1e-3) + random.uniform() * std::log(100.0));
        dt_bias[h] = static_cast<Scalar>(dt + std::log(-std::expm1(-dt)));
      }
    }
    if (settings.output_gate) g_proj = {in, values, random, 1, false};
    o_norm = RmsNorm<Scalar>(value_dim, settings.norm_eps);
    o_proj = {values, out, random, 1, false};
  }

  bool has_decay() const noexcept { return A_log.size() > 0; }  ///< whether there is a forget gate
  /// Whether the output is multiplied by silu(W_g c).
  bool has_output_gate() const noexcept { return g_proj.weight.size() > 0; }

  /// Multiplies the output by a factor, as models do that scale their initial weights by depth.
  void scale_output(Scalar factor) { o_proj.weight *= factor; }

  /// y from c.
  /// @throws std::invalid_argument if a shape does not fit or the sequences do not fill the batch.
  template <int Tokens>
  void forward(const Input& c, BatchRef<Scalar> y, Tape<Tokens>& tape, const Pass& pass = {}) const {
    project(c, tape, pass);
    q_conv1d.forward(tape.q, tape.inputs.query, tape.q_conv1d, pass);
    k_conv1d.forward(tape.k, tape.inputs.key, tape.k_conv1d, pass);
    v_conv1d.forward(tape.v, tape.inputs.value, tape.v_conv1d, pass);
    normalize(tape, pass);
    tape.state.setZero(value_dim,
                       pass.sequences("ddl::DeltaRule::forward", c.cols()) * value_heads * head_dim);
    delta_scan_forward(scan_settings(), tape.offsets, tape.inputs, tape.state, tape.output, tape.scan,
                       pass.executor);
    project_output(c, y, tape, pass);
  }

  /// Adds to dc and to the gradient's parameters.
  template <int Tokens>
  void backward(const Input& c, const Input&, const Input& dy, BatchRef<Scalar> dc, Tape<Tokens>& tape,
                DeltaRule& gradient, const Pass& pass = {}) const {
    const Index N = c.cols();
    auto doutput = shared(tape, value_heads * value_dim, N);
    o_proj.backward_parameters(doutput, dy, gradient.o_proj, pass);  // still what W_o has read
    o_proj.input_gradient(dy, doutput, pass);
    backward_norm_and_gate(tape, doutput, gradient, pass);
    if (has_output_gate()) g_proj.backward(c, tape.dgate, dc, gradient.g_proj, pass);

    tape.dstate.setZero(tape.state.rows(), tape.state.cols());
    auto& d = tape.dinputs;
    // Nothing reads o any more: dv takes its memory, where it has its size.
    const auto exchange_memory = [&] {
      if (edits == 1) d.value.swap(tape.output);
    };
    exchange_memory();
    delta_scan_backward(scan_settings(), tape.offsets, tape.inputs, tape.scan, doutput, tape.dstate, d,
                        pass.executor);
    // beta = b sigmoid(logit)
    d.beta.array() *= tape.inputs.beta.array() * (Scalar(1) - tape.inputs.beta.array() / largest_beta());
    b_proj.backward(c, d.beta, dc, gradient.b_proj, pass);
    if (has_decay()) {
      // g = -exp(A_log) softplus(a)
      for (Index n = 0; n < N; ++n)
        for (Index h = 0; h < value_heads; ++h) {
          Scalar& dg = d.log_decay(h, n);
          gradient.A_log[h] += dg * tape.inputs.log_decay(h, n);
          dg *= -std::exp(A_log[h]) * sigmoid(tape.decay(h, n));
          gradient.dt_bias[h] += dg;
        }
      a_proj.backward(c, d.log_decay, dc, gradient.a_proj, pass);
    }
    unit_backward(tape.inputs.query, tape.q_inverse_norm, d.query, pass);
    unit_backward(tape.inputs.key, tape.k_inverse_norm, d.key, pass);
    const auto back = [&](const auto& projection, const auto& convolution, const auto& projected,
                          auto& dconvolved, auto& convolution_tape, auto& dprojection, auto& dconvolution) {
      auto dprojected = shared(tape, projected.rows(), N);
      convolution.backward(projected, dconvolved, dprojected, convolution_tape, dconvolution, pass);
      projection.backward(c, dprojected, dc, dprojection, pass);
    };
    back(q_proj, q_conv1d, tape.q, d.query, tape.q_conv1d, gradient.q_proj, gradient.q_conv1d);
    back(k_proj, k_conv1d, tape.k, d.key, tape.k_conv1d, gradient.k_proj, gradient.k_conv1d);
    back(v_proj, v_conv1d, tape.v, d.value, tape.v_conv1d, gradient.v_proj, gradient.v_conv1d);
    exchange_memory();
  }

  /// The capacity does not matter: the state has a constant size.
  /// @param rollback  the most tokens that roll_back is to take back; 0 with decay.
  /// @throws std::invalid_argument if a number is out of range.
  State make_state(Index sequences, Index, Index rollback = 0) const {
    constexpr const char* where = "ddl::DeltaRule::make_state";
    check_positive(where, "sequences", sequences);
    if (rollback < 0) fail(where, "rollback", std::to_string(rollback), "at least 0");
    if (rollback > 0 && has_decay())
      fail(where, "rollback", std::to_string(rollback),
           "0 with decay: a decayed state cannot be taken back without loss; copy the state instead");
    const Index columns = sequences * rollback;
    return {Matrix<Scalar>::Zero(value_dim, sequences * value_heads * head_dim),
            q_conv1d.make_state(sequences, q_proj.outputs(), rollback),
            k_conv1d.make_state(sequences, k_proj.outputs(), rollback),
            v_conv1d.make_state(sequences, v_proj.outputs(), rollback),
            Matrix<Scalar>::Zero(k_proj.outputs(), columns),
            Matrix<Scalar>::Zero(b_proj.outputs(), columns),
            Matrix<Scalar>::Zero(v_proj.outputs(), columns),
            Matrix<Scalar>::Zero(1, rollback > 0 ? sequences : 0)};
  }
  /// The columns of forward for the tokens after those in the state.
  /// @throws std::invalid_argument if a shape does not fit.
  template <int Tokens>
  void infer(const Input& c, BatchRef<Scalar> y, State& state, Tape<Tokens>& tape,
             const Pass& pass = {}) const {
    const Index S = pass.sequences("ddl::DeltaRule::infer", c.cols());
    const Index rollback = check_recent("ddl::DeltaRule::infer", state, S);
    project(c, tape, pass);
    q_conv1d.infer(tape.q, tape.inputs.query, state.q_conv1d, tape.q_conv1d, pass);
    k_conv1d.infer(tape.k, tape.inputs.key, state.k_conv1d, tape.k_conv1d, pass);
    v_conv1d.infer(tape.v, tape.inputs.value, state.v_conv1d, tape.v_conv1d, pass);
    normalize(tape, pass);
    if (rollback == 0) {
      delta_scan_infer(scan_settings(), tape.offsets, tape.inputs, state.memory, tape.output, pass.executor);
    } else {
      delta_scan_forward(scan_settings(), tape.offsets, tape.inputs, state.memory, tape.output, tape.scan,
                         pass.executor);
      detail::append_newest(state.key, tape.inputs.key, pass, S);
      detail::append_newest(state.beta, tape.inputs.beta, pass, S);
      detail::append_newest(state.error, tape.scan.error, pass, S);
      for (Index s = 0; s < S; ++s)
        state.recent(s) = (std::min)(static_cast<Scalar>(rollback),
                                     state.recent(s) + static_cast<Scalar>(pass.sequence(s).length()));
    }
    project_output(c, y, tape, pass);
  }
  /// Takes back the last tokens of every sequence of a state, as if infer had not seen them: what speculative
  /// decoding does with the tokens that it rejects.
  ///
  ///     ddl::DeltaRule<float>::Tape<> tape;
  ///     auto state = mixer.make_state(1, 0, 8);   // at most 8 tokens are to be taken back
  ///     mixer.infer(c, y, state, tape, pass);     // some tokens of which 3 turn out wrong
  ///     mixer.roll_back(state, 3);
  ///
  /// X = X' - beta k r^T for each edit, from the last. A token that is taken back cannot be taken back again,
  /// and is no longer one of those that the state holds.
  /// @throws std::invalid_argument if a sequence of the state holds fewer tokens, or the state is that of
  /// another mixer.
  void roll_back(State& state, Index tokens) const {
    constexpr const char* where = "ddl::DeltaRule::roll_back";
    const Index S = state.recent.cols();
    if (S == 0)
      fail(where, "the state", "made without a rollback", "one of make_state with a rollback above 0");
    const Index rollback = check_recent(where, state, S);
    check_shape(where, "the memory of the state", state.memory, value_dim, S * value_heads * head_dim);
    const Index most = static_cast<Index>(state.recent.minCoeff());
    if (tokens < 0 || tokens > most)
      fail(where, "tokens", std::to_string(tokens),
           "from 0 to the " + std::to_string(most) + " tokens that the state can take back");
    const detail::ScanSizes sizes{.d = head_dim,
                                  .m = value_dim,
                                  .key_heads = heads,
                                  .value_heads = value_heads,
                                  .edits = edits,
                                  .tokens = S * rollback,
                                  .sequences = S,
                                  .head_map = HeadMap::blocks,
                                  .output_scale = 1,
                                  .write_only = update == UpdateRule::write_only};
    std::vector<Index> offsets;
    for (Index s = 0; s <= S; ++s) offsets.push_back(s * rollback);
    detail::take_back(sizes, offsets, std::as_const(state), state.error, tokens, state.memory, Serial{});
    q_conv1d.roll_back(state.q_conv1d, tokens);
    k_conv1d.roll_back(state.k_conv1d, tokens);
    v_conv1d.roll_back(state.v_conv1d, tokens);
    for (auto* recent : {&state.key, &state.beta, &state.error}) detail::drop_newest(*recent, S, tokens);
    state.recent.array() -= static_cast<Scalar>(tokens);
  }

 private:
  static constexpr double unit_eps = 1e-3;  // 1e-6 inside the root

  /// @return the rollback that the state was made for.
  Index check_recent(const char* where, const State& state, Index S) const {
    const Index columns = state.beta.cols(), rollback = S > 0 ? columns / S : 0;
    check_shape(where, "the keys of the state", state.key, k_proj.outputs(), S * rollback);
    check_shape(where, "the betas of the state", state.beta, b_proj.outputs(), S * rollback);
    check_shape(where, "the errors of the state", state.error, v_proj.outputs(), S * rollback);
    check_shape(where, "the recent tokens of the state", state.recent, 1, rollback > 0 ? S : 0);
    return rollback;
  }
  /// rows x N in the memory that passes share.
  template <int Tokens>
  static Eigen::Map<Matrix<Scalar>> shared(Tape<Tokens>& tape, Index rows, Index N) {
    return {tape.shared.data(), rows, N};
  }

  Scalar largest_beta() const noexcept { return negative_eigenvalues ? Scalar(2) : Scalar(1); }
  DeltaScanSettings scan_settings() const {
    return {.key_heads = heads, .value_heads = value_heads, .edits = edits, .update = update};
  }

  /// Everything that is linear in c, and the betas and decays.
  template <int Tokens>
  void project(const Input& c, Tape<Tokens>& tape, const Pass& pass) const {
    const Index N = c.cols(), S = pass.sequences("ddl::DeltaRule", N);
    auto& inputs = tape.inputs;
    const auto apply = [&](const Linear<Scalar>& linear, Matrix<Scalar>& to) {
      to.resize(linear.outputs(), N);
      linear.forward(c, to, pass);
    };
    apply(q_proj, tape.q);
    apply(k_proj, tape.k);
    apply(v_proj, tape.v);
    apply(b_proj, inputs.beta);
    const Scalar b = largest_beta();
    for (Index i = 0; i < inputs.beta.size(); ++i) inputs.beta.data()[i] = b * sigmoid(inputs.beta.data()[i]);
    if (has_decay()) {
      apply(a_proj, tape.decay);
      tape.decay.colwise() += dt_bias;
      inputs.log_decay.resize(value_heads, N);
      for (Index n = 0; n < N; ++n)
        for (Index h = 0; h < value_heads; ++h)
          inputs.log_decay(h, n) = -std::exp(A_log[h]) * softplus(tape.decay(h, n));
    }
    if (has_output_gate()) apply(g_proj, tape.gate);
    inputs.query.resize(q_proj.outputs(), N);
    inputs.key.resize(k_proj.outputs(), N);
    inputs.value.resize(v_proj.outputs(), N);
    tape.output.resize(value_heads * value_dim, N);
    tape.offsets.assign(1, 0);
    for (Index s = 0; s < S; ++s) tape.offsets.push_back(pass.sequence(s).end);
  }

  static Scalar softplus(Scalar x) {  // log(1 + e^x) without overflow
    return (std::max)(x, Scalar(0)) + std::log1p(std::exp(-std::abs(x)));
  }

  template <int Tokens>
  void normalize(Tape<Tokens>& tape, const Pass& pass) const {
    unit(tape.inputs.query, tape.q_inverse_norm, pass);
    unit(tape.inputs.key, tape.k_inverse_norm, pass);
  }
  /// x / sqrt(|x|^2 + 1e-6) for every head, in place.
  void unit(Matrix<Scalar>& x, Matrix<Scalar>& inverse_norm, const Pass& pass) const {
    inverse_norm.resize(x.rows() / head_dim, x.cols());
    for_ranges(pass.executor, x.cols(), columns_per_piece(x.rows()), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n)
        for (Index h = 0; h < inverse_norm.rows(); ++h) {
          auto head = x.col(n).segment(h * head_dim, head_dim);
          const Scalar s = direction_scale(head, Scalar(head.squaredNorm()), static_cast<Scalar>(unit_eps));
          inverse_norm(h, n) = s;
          head *= s;
        }
    });
  }
  /// dx = s (dy - (dy.y) y), in place of dy.
  void unit_backward(const Matrix<Scalar>& y, const Matrix<Scalar>& inverse_norm, Matrix<Scalar>& dy,
                     const Pass& pass) const {
    for_ranges(pass.executor, y.cols(), columns_per_piece(y.rows()), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n)
        for (Index h = 0; h < inverse_norm.rows(); ++h) {
          const auto head = column(y, n, h * head_dim, head_dim);
          auto grad = column(dy, n, h * head_dim, head_dim);
          const Scalar along = (grad * head).sum();
          grad = inverse_norm(h, n) * (grad - along * head);
        }
    });
  }

  /// y = W_o (o_norm * rms(o) [* silu(gate)])
  template <int Tokens>
  void project_output(const Input& c, BatchRef<Scalar> y, Tape<Tokens>& tape, const Pass& pass) const {
    const Index N = c.cols();
    tape.shared.resize((std::max)({q_proj.outputs(), k_proj.outputs(), v_proj.outputs()}) * N);
    auto gated = shared(tape, value_heads * value_dim, N);
    tape.output_inverse_rms.resize(value_heads, N);
    for_ranges(pass.executor, N, columns_per_piece(tape.output.rows()), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n)
        for (Index h = 0; h < value_heads; ++h) {
          const auto o = column(tape.output, n, h * value_dim, value_dim);
          auto normed = column(gated, n, h * value_dim, value_dim);
          const Scalar s = Scalar(1) / std::sqrt(o.square().mean() + static_cast<Scalar>(o_norm.eps));
          tape.output_inverse_rms(h, n) = s;
          normed = s * o * column(o_norm.weight, 0);
          if (has_output_gate()) {
            const auto z = column(tape.gate, n, h * value_dim, value_dim);
            normed *= z * detail::logistic(z);
          }
        }
    });
    o_proj.forward(gated, y, pass);
  }
  /// From the gradient of what W_o reads that of o, in its place, and those of the gate and of o_norm.
  template <int Tokens>
  void backward_norm_and_gate(Tape<Tokens>& tape, Eigen::Map<Matrix<Scalar>>& doutput, DeltaRule& gradient,
                              const Pass& pass) const {
    const Index N = tape.output.cols();
    if (has_output_gate()) tape.dgate.resizeLike(tape.gate);
    detail::sum_over_tokens(
        N, value_dim, 1, tape.dnorm, pass.executor, [&](Index begin, Index end, auto& sum) {
          for (Index n = begin; n < end; ++n)
            for (Index h = 0; h < value_heads; ++h) {
              const auto o = column(tape.output, n, h * value_dim, value_dim);
              const auto w = column(o_norm.weight, 0);
              auto dnormed = column(doutput, n, h * value_dim, value_dim);  // gradient of w rms(o)
              const Scalar s = tape.output_inverse_rms(h, n);
              if (has_output_gate()) {
                const auto z = column(tape.gate, n, h * value_dim, value_dim);
                auto dz = column(tape.dgate, n, h * value_dim, value_dim);
                const auto sigma = detail::logistic(z);
                dz = dnormed * s * o * w * sigma * (Scalar(1) + z * (Scalar(1) - sigma));
                dnormed *= z * sigma;
              }
              column(sum, 0) += dnormed * s * o;
              const Scalar along = (dnormed * w * o).mean();
              dnormed = s * (dnormed * w - s * s * along * o);
            }
        });
    gradient.o_norm.weight += tape.dnorm.col(0);
  }
};

}  // namespace ddl
