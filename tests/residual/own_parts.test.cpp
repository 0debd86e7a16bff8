// SPDX-License-Identifier: MIT
// A block of a user's own parts: all that a part needs, and what the concepts refuse.
#include <optional>

#include "ddl/residual/block.hpp"
#include "ddl/residual/variant_part.hpp"
#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

struct NoSettings {};

/// kt = w * c, entry by entry.
template <class Scalar_>
struct Scaling {
  using Scalar = Scalar_;
  using Settings = NoSettings;
  static constexpr PartKind kind = PartKind::sublayer;
  template <int Tokens = Dynamic>
  struct Tape {};

  Vector<Scalar> weight;

  static constexpr auto parameters() { return std::tuple(vector_parameter("weight", &Scaling::weight)); }

  Scaling() = default;
  Scaling(Index in, Index, const Settings&, Random&) : weight(Vector<Scalar>::Ones(in)) {}

  template <int Tokens>
  void forward(const ConstBatchRef<Scalar>& c, BatchRef<Scalar> kt, Tape<Tokens>&, const Pass&) const {
    kt = weight.asDiagonal() * c;
  }
  template <int Tokens>
  void backward(const ConstBatchRef<Scalar>& c, const ConstBatchRef<Scalar>&,
                const ConstBatchRef<Scalar>& dkt, BatchRef<Scalar> dc, Tape<Tokens>&, Scaling& gradient,
                const Pass&) const {
    gradient.weight += dkt.cwiseProduct(c).rowwise().sum();
    dc += weight.asDiagonal() * dkt;
  }
};

/// One learned beta for every token.
template <class Scalar_>
struct SharedBeta {
  using Scalar = Scalar_;
  using Settings = NoSettings;
  static constexpr PartKind kind = PartKind::gate;
  template <int Tokens = Dynamic>
  struct Tape {};

  Vector<Scalar> beta;

  static constexpr auto parameters() { return std::tuple(vector_parameter("beta", &SharedBeta::beta)); }

  SharedBeta() = default;
  SharedBeta(Index, Index, const Settings&, Random&) : beta(Vector<Scalar>::Ones(1)) {}

  template <int Tokens>
  void forward(const ConstBatchRef<Scalar>&, BatchRef<Scalar, 1> out, Tape<Tokens>&, const Pass&) const {
    out.setConstant(beta[0]);
  }
  template <int Tokens>
  void backward(const ConstBatchRef<Scalar>&, const ConstBatchRef<Scalar, 1>&,
                const ConstBatchRef<Scalar, 1>& dbeta, BatchRef<Scalar>, Tape<Tokens>&, SharedBeta& gradient,
                const Pass&) const {
    gradient.beta[0] += dbeta.sum();
  }
};

/// v = the first m entries of the state.
template <class Scalar_>
struct FirstEntries {
  using Scalar = Scalar_;
  using Settings = NoSettings;
  static constexpr PartKind kind = PartKind::value;
  template <int Tokens = Dynamic>
  struct Tape {};

  static constexpr auto parameters() { return std::tuple(); }
  ValueSource reads() const { return ValueSource::compressed; }

  FirstEntries() = default;
  FirstEntries(Index, Index, const Settings&, Random&) {}

  template <int Tokens>
  void forward(const ConstBatchRef<Scalar>& z, BatchRef<Scalar> v, Tape<Tokens>&, const Pass&) const {
    v = z.topRows(v.rows());
  }
  template <int Tokens>
  void backward(const ConstBatchRef<Scalar>&, const ConstBatchRef<Scalar>&, const ConstBatchRef<Scalar>& dv,
                BatchRef<Scalar> dz, Tape<Tokens>&, FirstEntries&, const Pass&) const {
    dz.topRows(dv.rows()) += dv;
  }
};

/// x = the first channel.
template <class Scalar_>
struct FirstChannel {
  using Scalar = Scalar_;
  using Settings = NoSettings;
  static constexpr PartKind kind = PartKind::compressor;
  template <int Tokens = Dynamic>
  struct Tape {
    Matrix<Scalar> x;
  };

  Index value_channels = 1;

  static constexpr auto parameters() { return std::tuple(); }

  FirstChannel() = default;
  FirstChannel(Index, Index channels, const Settings&, Random&) : value_channels(channels) {}

  template <int Tokens>
  ConstBatchRef<Scalar> forward(const ConstBatchRef<Scalar>& X, Tape<Tokens>& tape, const Pass&) const {
    tape.x.resize(X.rows(), X.cols() / value_channels);
    for (Index n = 0; n < tape.x.cols(); ++n) tape.x.col(n) = X.col(n * value_channels);
    return tape.x;
  }
  template <int Tokens>
  ConstBatchRef<Scalar> output(const ConstBatchRef<Scalar>&, const Tape<Tokens>& tape) const {
    return tape.x;
  }
  template <int Tokens>
  void backward(const ConstBatchRef<Scalar>&, const ConstBatchRef<Scalar>& dx, BatchRef<Scalar> dX,
                Tape<Tokens>&, FirstChannel&, const Pass&) const {
    for (Index n = 0; n < dx.cols(); ++n) dX.col(n * value_channels) += dx.col(n);
  }
};

/// c = x + w, with a weight that is learned.
template <class Scalar_>
struct Shift {
  using Scalar = Scalar_;
  using Settings = NoSettings;
  static constexpr PartKind kind = PartKind::norm;
  template <int Tokens = Dynamic>
  struct Tape {};

  Vector<Scalar> weight;

  static constexpr auto parameters() { return std::tuple(vector_parameter("weight", &Shift::weight)); }

  Shift() = default;
  Shift(Index in, Index, const Settings&, Random&) : weight(Vector<Scalar>::Zero(in)) {}

  template <int Tokens>
  void forward(const ConstBatchRef<Scalar>& x, BatchRef<Scalar> c, Tape<Tokens>&, const Pass&) const {
    c = x.colwise() + weight;
  }
  template <int Tokens>
  void backward(const ConstBatchRef<Scalar>&, const ConstBatchRef<Scalar>&, const ConstBatchRef<Scalar>& dc,
                BatchRef<Scalar> dx, Tape<Tokens>&, Shift& gradient, const Pass&) const {
    gradient.weight += dc.rowwise().sum();
    dx += dc;
  }
};

template <class Scalar>
using OwnBlock = DeltaResidualBlock<Scalar, Dynamic, Dynamic, Scaling<Scalar>, SharedBeta<Scalar>,
                                    FirstEntries<Scalar>, FirstChannel<Scalar>, Shift<Scalar>>;

template <class Scalar, bool>
struct OwnLayer : LayerBase<OwnBlock<Scalar>, Dynamic> {
  using Tape = std::optional<typename OwnBlock<Scalar>::template Tape<>>;
  static Index x_cols(Index samples) { return 2 * samples; }
  static Index y_cols(Index samples) { return 2 * samples; }
  static bool adds() { return false; }  // dx is dy on entry
  auto make(Index width, Random& random) const { return OwnBlock<Scalar>(width, 2, {}, random); }
  static void forward(const auto& part, const auto& x, auto& y, auto& tape, const ddl::Pass& pass) {
    if (!tape) tape.emplace(part.make_tape());
    part.forward(x, y, *tape, pass);
  }
  static void backward(const auto& part, const auto& x, const auto&, const auto& dy, auto& dx, auto& tape,
                       auto& gradient, const ddl::Pass& pass) {
    dx = dy;
    part.backward(x, dx, *tape, gradient, pass.executor);
  }
};

// What the concepts refuse. Each of the misfits lacks one thing that a part has, or has it wrong.

enum class Misfit {
  none,
  kind_missing,
  kind_of_a_gate,
  kind_no_kind,
  settings_missing,
  tape_missing,
  parameters_missing,
  default_missing,
  copy_missing,
  sizes_missing,
  forward_missing,
  forward_not_const,
  forward_without_pass,
  backward_missing,
  backward_not_const,
  backward_without_y,
  backward_without_pass,
  backward_into_const_gradient
};

template <bool Has>
struct HasSettings {
  using Settings = NoSettings;
};
template <>
struct HasSettings<false> {};

template <bool Has>
struct HasTape {
  template <int Tokens = Dynamic>
  struct Tape {};
};
template <>
struct HasTape<false> {};

template <bool Has>
struct Copies {};
template <>
struct Copies<false> {
  Copies() = default;
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;
};

template <Misfit M>
struct KindOf {
  static constexpr PartKind kind = M == Misfit::kind_of_a_gate ? PartKind::gate : PartKind::sublayer;
};
template <>
struct KindOf<Misfit::kind_missing> {};
template <>
struct KindOf<Misfit::kind_no_kind> {
  static constexpr const char* kind = "sublayer";
};

template <Misfit M>
struct Candidate : KindOf<M>,
                   HasSettings<M != Misfit::settings_missing>,
                   HasTape<M != Misfit::tape_missing>,
                   Copies<M != Misfit::copy_missing> {
  using Scalar = double;
  using X = ConstBatchRef<double>;
  using Y = BatchRef<double>;

  static constexpr auto parameters() requires(M != Misfit::parameters_missing) { return std::tuple(); }

  Candidate() requires(M != Misfit::default_missing) = default;
  Candidate(Index, Index, const NoSettings&, Random&) requires(M != Misfit::sizes_missing) {}
  explicit Candidate(double) {}

  template <class T>
  void forward(const X&, Y, T&, const Pass&) const
      requires(M != Misfit::forward_missing && M != Misfit::forward_not_const &&
               M != Misfit::forward_without_pass) {}
  template <class T>
  void forward(const X&, Y, T&, const Pass&) requires(M == Misfit::forward_not_const) {}
  template <class T>
  void forward(const X&, Y, T&) const requires(M == Misfit::forward_without_pass) {}

  template <class T>
  void backward(const X&, const X&, const X&, Y, T&, Candidate&, const Pass&) const
      requires(M < Misfit::backward_missing) {}
  template <class T>
  void backward(const X&, const X&, const X&, Y, T&, Candidate&,
                const Pass&) requires(M == Misfit::backward_not_const) {}
  template <class T>
  void backward(const X&, const X&, Y, T&, Candidate&, const Pass&) const
      requires(M == Misfit::backward_without_y) {}
  template <class T>
  void backward(const X&, const X&, const X&, Y, T&, Candidate&) const
      requires(M == Misfit::backward_without_pass) {}
  template <class T>
  void backward(const X&, const X&, const X&, Y, T&, Candidate&&, const Pass&) const
      requires(M == Misfit::backward_into_const_gradient) {}
};

template <int First, int... M>
constexpr bool none_is_a_sublayer(std::integer_sequence<int, M...>) {
  return (!Sublayer<Candidate<static_cast<Misfit>(First + M)>> && ...);
}
static_assert(Sublayer<Candidate<Misfit::none>>);
static_assert(none_is_a_sublayer<1>(
    std::make_integer_sequence<int, static_cast<int>(Misfit::backward_into_const_gradient)>()));
// what lacks only passes is still a part, of no use
static_assert(BlockPart<Candidate<Misfit::backward_missing>> && !BlockPart<Candidate<Misfit::kind_missing>>);

// One part of each kind is of that kind, and of no other.
template <class P>
constexpr int kinds_of() {
  return Sublayer<P> + 2 * GatePart<P> + 4 * ValuePart<P> + 8 * CompressorPart<P> + 16 * Norm<P>;
}
static_assert(kinds_of<Scaling<double>>() == 1 && kinds_of<Mlp<float>>() == 1);
static_assert(kinds_of<SharedBeta<double>>() == 2 && kinds_of<LinearGate<float>>() == 2 &&
              kinds_of<TanhGate<float>>() == 2);
static_assert(kinds_of<FirstEntries<double>>() == 4 && kinds_of<LinearValue<float>>() == 4 &&
              kinds_of<ConstantValue<float>>() == 4);
static_assert(kinds_of<FirstChannel<double>>() == 8 && kinds_of<ChannelCompressor<float>>() == 8);
static_assert(kinds_of<Shift<double>>() == 16 && kinds_of<RmsNorm<float>>() == 16 &&
              kinds_of<NoNorm<float>>() == 16);
static_assert(kinds_of<VariantPart<SharedBeta<double>, LinearGate<double>>>() == 2);
static_assert(kinds_of<VariantPart<Scaling<double>, Mlp<double>>>() == 1);
static_assert(kinds_of<VariantPart<Shift<double>, RmsNorm<double>>>() == 16);
static_assert(kinds_of<VariantPart<FirstChannel<double>, ChannelCompressor<double>>>() == 8);
static_assert(kinds_of<Linear<float>>() == 0 && kinds_of<int>() == 0);

// A sublayer with half a memory is none: infer would call forward and forget the tokens before, without an
// error.
struct SomeState {};
using Plain = Candidate<Misfit::none>;
struct WithMemory : Plain {
  using Plain::Plain;
  using State = SomeState;
  State make_state(Index, Index, Index = 0) const;
  template <class T>
  void infer(const X&, Y, State&, T&, const Pass&) const {}
  void roll_back(State&, Index) const;
};
struct WithoutRollBack : Plain {
  using Plain::Plain;
  using State = SomeState;
  State make_state(Index, Index) const;
  template <class T>
  void infer(const X&, Y, State&, T&, const Pass&) const {}
};
static_assert(Sublayer<WithMemory> && CanRollBack<WithMemory>);
static_assert(Sublayer<WithoutRollBack> && Stateful<WithoutRollBack> && !CanRollBack<WithoutRollBack>);

struct StateAlone : Plain {
  using Plain::Plain;
  using State = SomeState;
};
struct MakeStateOfOneCount : WithoutRollBack {
  using WithoutRollBack::WithoutRollBack;
  State make_state(Index) const;
};
struct MakeStateNotConst : WithoutRollBack {
  using WithoutRollBack::WithoutRollBack;
  State make_state(Index, Index);
};
struct MakeStateOfAnotherType : WithoutRollBack {
  using WithoutRollBack::WithoutRollBack;
  int make_state(Index, Index) const;
};
struct MakeStateAlone : Plain {
  using Plain::Plain;
  SomeState make_state(Index, Index) const;
};
struct InferAlone : Plain {
  using Plain::Plain;
  template <class T>
  void infer(const X&, Y, SomeState&, T&, const Pass&) const {}
};
struct InferMissing : Plain {
  using Plain::Plain;
  using State = SomeState;
  State make_state(Index, Index) const;
};
struct InferNotConst : WithoutRollBack {
  using WithoutRollBack::WithoutRollBack;
  template <class T>
  void infer(const X&, Y, State&, T&, const Pass&) {}
};
struct InferWithoutPass : WithoutRollBack {
  using WithoutRollBack::WithoutRollBack;
  template <class T>
  void infer(const X&, Y, State&, T&) const {}
};
struct RollBackAlone : Plain {
  using Plain::Plain;
  void roll_back(SomeState&, Index) const;
};
struct RollBackWithoutCount : WithMemory {
  using WithMemory::WithMemory;
  void roll_back(State&) const;
};
struct RollBackOfAStateThatCannot : WithoutRollBack {
  using WithoutRollBack::WithoutRollBack;
  void roll_back(State&, Index) const;
};
template <class... P>
constexpr bool no_sublayers = (!Sublayer<P> && ...);
static_assert(no_sublayers<StateAlone, MakeStateAlone, InferAlone, RollBackAlone>);
static_assert(no_sublayers<MakeStateOfOneCount, MakeStateNotConst, MakeStateOfAnotherType>);
static_assert(no_sublayers<InferMissing, InferNotConst, InferWithoutPass>);
static_assert(no_sublayers<RollBackWithoutCount, RollBackOfAStateThatCannot>);
struct CompressorWithoutInfer : FirstChannel<double> {
  using FirstChannel::FirstChannel;
  using State = SomeState;
  State make_state(Index, Index) const;
};
static_assert(CompressorPart<FirstChannel<double>> && !CompressorPart<CompressorWithoutInfer>);
/// Whose members cannot be looked for by deriving from it.
struct Final final : Plain {
  using Plain::Plain;
};
static_assert(Sublayer<Final>);

/// A value that does not tell what it reads, and a compressor that does not tell its output.
struct Unread : LinearValue<double> {
  using LinearValue::LinearValue;

 private:
  using LinearValue::reads;
};
struct Mute : FirstChannel<double> {
  using FirstChannel::FirstChannel;
  void output() const;
};
static_assert(!ValuePart<Unread> && MapPart<Unread, PartKind::value> && !CompressorPart<Mute>);
// fixed sizes
static_assert(Sublayer<Mlp<float, 4, 16>, 4>);
static_assert(!Stateful<Scaling<double>> &&
              std::is_same_v<StateOf<Scaling<double>>, NoState<Scaling<double>>>);

}  // namespace

TEST_CASE("a block of a user's own sublayer, gate, value, compressor and norm passes the suite",
          "[residual][block][grad]") {
  check_layer<OwnLayer>();
}

TEST_CASE("a block of a user's own parts walks their parameters by name and infers without a state",
          "[residual][block][infer]") {
  Random random(1);
  const OwnBlock<double> block(5, 2, {}, random);
  std::string names;
  for_each_parameter([&](const ParameterPath& path, const auto&) { names += path.str() + ";"; }, block);
  CHECK(names == "norm.weight;sublayer.weight;gate.beta;");
  auto state = block.make_state(3, 7);
  CHECK(parameter_count(state) == 0);
  Matrix<double> X(5, 6), Y(5, 6), expected(5, 6);
  fill(random, X);
  auto tape = block.make_tape();
  block.forward(X, expected, tape);
  OwnBlock<double>::Connection::Edit<> edit;
  OwnBlock<double>::Connection::Activations<> activations;
  const OwnBlock<double>::Connection& connection = block;
  connection.infer(block.compressor, X, Y, state, edit, activations);
  CHECK(Y == expected);
  CHECK_FALSE(Y == X);
}
