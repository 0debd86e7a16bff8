// SPDX-License-Identifier: MIT
#include "ddl/residual/one_of.hpp"

#include "ddl/nn/swiglu.hpp"
#include "ddl/residual/channel_convolution.hpp"
#include "ddl/residual/stack.hpp"
#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

constexpr int channels = 2;

template <class Scalar, int d, int m>
struct Parts {
  using Perceptron = Mlp<Scalar, d, times(2, d)>;
  using Gated = SwiGlu<Scalar, d, times(2, d)>;
  using Mix = ChannelCompressor<Scalar, d, m>;
  using Convolution = ChannelConvolution<Scalar, d, m>;

  /// The first of each kind, the second of each kind, and either.
  template <std::size_t Which>
  using Block = std::tuple_element_t<
      Which,
      std::tuple<
          DeltaResidualBlock<Scalar, d, m, Perceptron, LinearGate<Scalar, d>, LinearValue<Scalar, d, m>, Mix>,
          DeltaResidualBlock<Scalar, d, m, Gated, TanhGate<Scalar, d>, ConstantValue<Scalar, d, m>,
                             Convolution>,
          DeltaResidualBlock<
              Scalar, d, m, OneOf<Perceptron, Gated>, OneOf<LinearGate<Scalar, d>, TanhGate<Scalar, d>>,
              OneOf<LinearValue<Scalar, d, m>, ConstantValue<Scalar, d, m>>, OneOf<Mix, Convolution>>>>;
};

template <std::size_t Which>
struct BlockOf {
  template <class Scalar, bool Fixed>
  using Block =
      typename Parts<Scalar, size<Fixed>(small_width), size<Fixed>(channels)>::template Block<Which>;

  template <class Scalar, bool Fixed>
  struct Layer : LayerBase<Block<Scalar, Fixed>, size<Fixed>(small_width)> {
    static constexpr int tokens = size<Fixed>(small_samples);
    struct Cache {
      typename Layer::Part::template Cache<tokens> block;
      typename Layer::Part::template Workspace<tokens> workspace;
    };
    typename Layer::Part::Settings settings = {};

    static Index x_cols(Index samples) { return samples * channels; }
    static Index y_cols(Index samples) { return samples * channels; }
    static GradientCheckSettings differences() { return {.step = 3e-4}; }
    auto make(Index width, Random& random) const {
      auto sized = settings;
      sized.k_eps = sized.norm_eps = 0.1;
      const auto widen = [&](auto& sublayer) { sublayer.hidden = 2 * width; };
      if constexpr (Which < 2)
        widen(sized.sublayer);
      else
        std::visit(widen, sized.sublayer);
      return typename Layer::Part(width, channels, sized, random);
    }
    void forward(const auto& part, const auto& x, auto& y, auto& cache, const Order& order) const {
      part.forward(x, y, cache.block, order);
    }
    void backward(const auto& part, const auto& x, const auto&, auto& cache, const auto& dy, auto& dx,
                  auto& gradient, const Order& order) const {
      dx = dy;
      part.backward(x, cache.block, dx, gradient, cache.workspace, order);
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

using Gate = OneOf<LinearGate<double>, TanhGate<double>>;
using Value = OneOf<LinearValue<double>, ConstantValue<double>>;
using Compressor = OneOf<ChannelCompressor<double>, ChannelConvolution<double>>;
static_assert(Sublayer<OneOf<Mlp<double>, SwiGlu<double>>> && GatePart<Gate> && ValuePart<Value> &&
              CompressorPart<Compressor>);

}  // namespace

TEST_CASE("a block of parts that are chosen at run time passes the suite", "[residual][one_of][grad]") {
  check_layer<BlockOf<2>::Layer>();
  check_differences(Either{{}, second()});
}

TEST_CASE("one of several parts is that part, names included", "[residual][one_of]") {
  CHECK(Pass(Either{}, small_width, small_samples).run() ==
        Pass(BlockOf<0>::Layer<double, false>{}, small_width, small_samples).run());
  CHECK(Pass(Either{{}, second()}, small_width, small_samples).run() ==
        Pass(BlockOf<1>::Layer<double, false>{}, small_width, small_samples).run());
}

TEST_CASE("one of several parts tells what the part tells", "[residual][one_of]") {
  Random random(1);
  CHECK(Gate(LinearGateSettings{}, 8, random).cache_scalars() == 0);
  CHECK(Gate(TanhGateSettings{.hidden = 3}, 8, random).cache_scalars() == 3);
  CHECK(Value(LinearValueSettings{.source = ValueSource::compressed}, 8, 2, random).reads() ==
        ValueSource::compressed);
  CHECK(Value(ConstantValueSettings{}, 8, 2, random).reads() == ValueSource::context);
  CHECK_THROWS_WITH(Gate(TanhGateSettings{.hidden = -1}, 8, random),
                    "ddl::TanhGate: hidden is -1, expected at least 1, or 0 for a quarter of the width");
}

TEST_CASE("a block that shares a compressor is given it, and has no parameters of it", "[residual][block]") {
  Random random(1), same(1);
  using Block = DeltaResidualBlock<double>;
  Block::Settings sharing;
  sharing.shares_compressor = true;
  const Block own(5, 2, {}, random), shared(5, 2, sharing, same);
  CHECK(parameter_count(own) - parameter_count(shared) == 10);
  CHECK(own.activation_scalars() == shared.activation_scalars(*own.compressor));
  Matrix<double> X(5, 6), given(5, 6), expected(5, 6);
  fill(random, X);
  Block::Cache<> cache;
  own.forward(X, expected, cache);
  shared.forward(*own.compressor, X, given, cache.edit, cache.activations);
  CHECK(given == expected);

  CHECK_THROWS_WITH(
      shared.forward(X, given, cache),
      "ddl::DeltaResidualBlock::forward: the compressor is that of the block before it, expected one "
      "of its own, outside a stack");
  Block gradient = zeros_like(shared);
  Block::Workspace<> workspace;
  CHECK_THROWS_WITH(
      shared.backward(X, cache, given, gradient, workspace),
      "ddl::DeltaResidualBlock::backward: the compressor is that of the block before it, expected one "
      "of its own, outside a stack");
  const std::vector<Block> stack = {shared, own, shared, shared, own};
  CHECK(&compressor_of(stack, 3) == &*stack[1].compressor);
  CHECK(&compressor_of(stack, 4) == &*stack[4].compressor);
  CHECK_THROWS_WITH(compressor_of(stack, 0),
                    "ddl::compressor_of: the first block's compressor is absent, expected its own");
}
