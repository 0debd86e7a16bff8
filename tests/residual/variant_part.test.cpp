// SPDX-License-Identifier: MIT
#include "ddl/residual/variant_part.hpp"

#include <optional>

#include "ddl/nn/attention.hpp"
#include "ddl/nn/swiglu.hpp"
#include "ddl/residual/block.hpp"
#include "ddl/residual/channel_convolution_compressor.hpp"
#include "ddl/residual/token_convolution_compressor.hpp"
#include "support/layer_suite.hpp"
#include "support/sequences.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

constexpr int channels = 2;

template <class Scalar, int d, int m>
struct Parts {
  using Perceptron = Mlp<Scalar, d, times(2, d)>;
  using Gated = SwiGlu<Scalar, d, times(2, d)>;
  using Mix = ChannelCompressor<Scalar, d, m>;
  using Convolution = ChannelConvolutionCompressor<Scalar, d, m>;

  /// The first of each kind, the second of each kind, and either.
  template <std::size_t Which>
  using Block = std::tuple_element_t<
      Which,
      std::tuple<
          DeltaResidualBlock<Scalar, d, m, Perceptron, LinearGate<Scalar, d>, LinearValue<Scalar, d, m>, Mix>,
          DeltaResidualBlock<Scalar, d, m, Gated, TanhGate<Scalar, d>, ConstantValue<Scalar, d, m>,
                             Convolution>,
          DeltaResidualBlock<Scalar, d, m, VariantPart<Perceptron, Gated>,
                             VariantPart<LinearGate<Scalar, d>, TanhGate<Scalar, d>>,
                             VariantPart<LinearValue<Scalar, d, m>, ConstantValue<Scalar, d, m>>,
                             VariantPart<Mix, Convolution>>>>;
};

template <std::size_t Which>
struct BlockOf {
  template <class Scalar, bool Fixed>
  using Block =
      typename Parts<Scalar, size<Fixed>(small_width), size<Fixed>(channels)>::template Block<Which>;

  template <class Scalar, bool Fixed>
  struct Layer : LayerBase<Block<Scalar, Fixed>, size<Fixed>(small_width)> {
    using Tape = std::optional<typename Layer::Part::template Tape<size<Fixed>(small_samples)>>;
    typename Layer::Part::Settings settings = {};

    static Index x_cols(Index samples) { return samples * channels; }
    static Index y_cols(Index samples) { return samples * channels; }
    static GradientCheckSettings differences() { return {.step = 3e-4}; }
    auto make(Index width, Random& random) const {
      auto sized = settings;
      sized.k_eps = sized.norm.eps = 0.1;
      const auto widen = [&](auto& sublayer) { sublayer.hidden = 2 * width; };
      if constexpr (Which < 2)
        widen(sized.sublayer);
      else
        std::visit(widen, sized.sublayer);
      return typename Layer::Part(width, channels, sized, random);
    }
    static bool adds() { return false; }  // dx is dy on entry
    static void forward(const auto& part, const auto& x, auto& y, auto& tape, const ddl::Pass& pass) {
      if (!tape) tape.emplace(part.template make_tape<size<Fixed>(small_samples)>());
      part.forward(x, y, *tape, pass);
    }
    static void backward(const auto& part, const auto& x, const auto&, const auto& dy, auto& dx, auto& tape,
                         auto& gradient, const ddl::Pass& pass) {
      dx = dy;
      part.backward(x, dx, *tape, gradient, pass.executor);
    }
  };
};

using Either = BlockOf<2>::Layer<double, false>;
using Settings = Either::Part::Settings;

Settings second() {
  Settings settings;
  settings.sublayer = SwiGluSettings{};
  settings.gate = TanhGateSettings{};
  settings.value = ConstantValueSettings{};
  settings.compressor = ChannelConvolutionSettings{};
  return settings;
}

using Gate = VariantPart<LinearGate<double>, TanhGate<double>>;
using Value = VariantPart<LinearValue<double>, ConstantValue<double>>;
using Compressor = VariantPart<ChannelCompressor<double>, ChannelConvolutionCompressor<double>>;
static_assert(Sublayer<VariantPart<Mlp<double>, SwiGlu<double>>> && GatePart<Gate> && ValuePart<Value> &&
              CompressorPart<Compressor>);

}  // namespace

TEST_CASE("a block of parts that are chosen at run time passes the suite", "[residual][variant_part][grad]") {
  check_layer<BlockOf<2>::Layer>();
  check_differences(Either{{}, second()});
}

TEST_CASE("one of several parts is that part, names included", "[residual][variant_part]") {
  CHECK(ddl::test::Trial(Either{}, small_width, small_samples).run() ==
        ddl::test::Trial(BlockOf<0>::Layer<double, false>{}, small_width, small_samples).run());
  CHECK(ddl::test::Trial(Either{{}, second()}, small_width, small_samples).run() ==
        ddl::test::Trial(BlockOf<1>::Layer<double, false>{}, small_width, small_samples).run());
}

TEST_CASE("one of several parts tells what the part tells", "[residual][variant_part]") {
  Random random(1);
  CHECK(Value(8, 2, LinearValueSettings{.source = ValueSource::compressed}, random).reads() ==
        ValueSource::compressed);
  CHECK(Value(8, 2, ConstantValueSettings{}, random).reads() == ValueSource::context);
  CHECK_THROWS_WITH(Gate(8, 1, TanhGateSettings{.hidden = -1}, random),
                    "ddl::TanhGate: hidden is -1, expected at least 1");
}

TEST_CASE("a connection is given a compressor, and has no parameters of it", "[residual][block]") {
  Random random(1);
  using Block = DeltaResidualBlock<double>;
  const Block block(5, 2, {}, random);
  const Block::Connection& connection = block;
  CHECK(parameter_count(block) - parameter_count(connection) == 10);
  Matrix<double> X(5, 6), given(5, 6), expected(5, 6), dY(5, 6);
  fill(random, X);
  fill(random, dY);
  auto tape = block.make_tape();
  block.forward(X, expected, tape);
  Block::Connection::Edit<> edit;
  Block::Connection::Activations<> activations;
  Block::Connection::Workspace<> workspace;
  connection.forward(block.compressor, X, given, edit, activations);
  CHECK(given == expected);

  Matrix<double> dX = dY;
  Block gradient = zeros_like(block), own = zeros_like(block);
  block.backward(X, dX, tape, own);
  delta_update_backward(connection.update, X, edit.inputs, edit.tape, dY, workspace.gradient);
  connection.backward_parts(block.compressor, X, dY, edit, activations, gradient.compressor, gradient,
                            workspace);
  CHECK(dY == dX);
  CHECK_FALSE(gradient.compressor.weight.isZero(0));
  for_each_parameter([](const ParameterPath&, const auto& a, const auto& b) { CHECK(a == b); }, gradient,
                     own);
}

namespace {

using Reader = VariantPart<ChannelCompressor<double>, TokenConvolutionCompressor<double>>;
using Mixer = VariantPart<SwiGlu<double>, CausalSelfAttention<double>>;
static_assert(CompressorPart<Reader> && Stateful<Reader> && Sublayer<Mixer> && Stateful<Mixer>);

constexpr Index length = 7;

/// On a width of 6 with two channels, weights at random.
template <class P>
P part_of(Index out, const typename P::Settings& settings) {
  Random random(3);
  P part(6, out, settings, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p, 0.5); }, part);
  return part;
}

Matrix<double> drawn(Index cols) {
  Random random(4);
  Matrix<double> x(6, cols);
  fill(random, x);
  return x;
}

}  // namespace

TEST_CASE("infer of a part that is chosen at run time is forward over all tokens",
          "[residual][variant_part][infer]") {
  const Index sequences = GENERATE(Index(1), Index(2)), first = GENERATE(Index(1), Index(4), length);
  CAPTURE(sequences, first);
  const Index N = sequences * length;
  Matrix<double> y(6, N), expected(6, N);
  SECTION("compressors") {
    const Reader::Settings settings = GENERATE(Reader::Settings(CompressorSettings{}),
                                               Reader::Settings(TokenConvolutionSettings{.kernel = 3}));
    const Reader reader = part_of<Reader>(2, settings);
    const Matrix<double> X = drawn(2 * N);
    Reader::Tape<> tape;
    expected = reader.forward(X, tape, {Serial{}, length});
    Reader::State state = reader.make_state(sequences, length), fork;
    CHECK(state.of.index() == settings.index());
    CHECK(parameter_count(state) == (settings.index() == 1 ? 6 * 2 * 2 * sequences : 0));
    for (Index p = 0, count = first; p < length; p += count, count = 1) {
      fork = state;
      reader.infer(chunk_of(X * -1, 2, length, p, count), fork, tape, {Serial{}, count, p});
      put_chunk(y, 1, length, p, count,
                reader.infer(chunk_of(X, 2, length, p, count), state, tape, {Serial{}, count, p}));
    }
  }
  SECTION("sublayers") {
    const Mixer::Settings settings =
        GENERATE(Mixer::Settings(SwiGluSettings{}), Mixer::Settings(AttentionSettings{.heads = 3}));
    const Mixer mixer = part_of<Mixer>(6, settings);
    const Matrix<double> c = drawn(N);
    Mixer::Tape<> tape;
    mixer.forward(c, expected, tape, {Serial{}, length});
    Mixer::State state = mixer.make_state(sequences, length), fork;
    CHECK(state.of.index() == settings.index());
    CHECK(parameter_count(state) == (settings.index() == 1 ? 2 * 6 * N : 0));
    for (Index p = 0, count = first; p < length; p += count, count = 1) {
      Matrix<double> chunk(6, sequences * count);
      fork = state;
      mixer.infer(chunk_of(c * -1, 1, length, p, count), chunk, fork, tape, {Serial{}, count, p});
      mixer.infer(chunk_of(c, 1, length, p, count), chunk, state, tape, {Serial{}, count, p});
      put_chunk(y, 1, length, p, count, chunk);
    }
  }
  CHECK_FALSE(expected.isZero(0));
  CHECK(error(y, expected) <= 1e-12);
}

TEST_CASE("infer of a part that is chosen at run time allocates nothing from the second token on",
          "[residual][variant_part][infer]") {
  const Reader reader = part_of<Reader>(2, TokenConvolutionSettings{});
  const Mixer mixer = part_of<Mixer>(6, AttentionSettings{});
  const Matrix<double> X = drawn(2 * length);
  Matrix<double> y(6, 1);
  Reader::Tape<> reads;
  Mixer::Tape<> mixes;
  Reader::State window = reader.make_state(1, length);
  Mixer::State keys = mixer.make_state(1, length);
  const auto step = [&](Index p) {
    mixer.infer(reader.infer(X.middleCols(2 * p, 2), window, reads, {Serial{}, 1, p}), y, keys, mixes,
                {Serial{}, 1, p});
  };
  step(0);
  CHECK(allocations_in([&] {
          for (Index p = 1; p < length; ++p) step(p);
        }) == 0);
}

TEST_CASE("the state of another alternative is refused, and left",
          "[residual][variant_part][infer][errors]") {
  const Reader reader = part_of<Reader>(2, TokenConvolutionSettings{}),
               plain = part_of<Reader>(2, CompressorSettings{});
  const Mixer mixer = part_of<Mixer>(6, AttentionSettings{}), gated = part_of<Mixer>(6, SwiGluSettings{});
  const Matrix<double> X = drawn(2);
  Matrix<double> y(6, 1);
  Reader::Tape<> reads;
  Mixer::Tape<> mixes;
  Reader::State window = reader.make_state(1, length), none = plain.make_state(1, length);
  Mixer::State keys = mixer.make_state(1, length), no_keys = gated.make_state(1, length);
  const std::string where = "ddl::VariantPart::infer: the state is ";
  CHECK_THROWS_WITH(reader.infer(X, none, reads), where + "that of alternative 0, expected alternative 1");
  CHECK_THROWS_WITH(plain.infer(X, window, reads), where + "that of alternative 1, expected alternative 0");
  CHECK_THROWS_WITH(mixer.infer(X.leftCols(1), y, no_keys, mixes),
                    where + "that of alternative 0, expected alternative 1");
  CHECK_THROWS_WITH(gated.infer(X.leftCols(1), y, keys, mixes),
                    where + "that of alternative 1, expected alternative 0");
  CHECK_THROWS_AS(plain.infer(X, window, reads), std::invalid_argument);
  for_each_parameter(
      [](const ParameterPath& path, const auto& p) {
        CHECK(path.str() == "history");
        CHECK(p.isZero(0));
      },
      window);
}
