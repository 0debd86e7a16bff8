// SPDX-License-Identifier: MIT
#include "ddl/residual/block.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

// Before anything else of this program, so that nothing has been allocated for the block by an earlier pass.
namespace {

struct FirstForward {
  long allocations = 0;
  bool changed_the_state = false;

  template <int Width, int Channels>
  static FirstForward of() {
    Random random(1);
    const DeltaResidualBlock<float, Width, Channels> block(Width, Channels, {}, random);
    const Matrix<float, Width, Channels> X = Matrix<float, Width, Channels>::Ones();
    Matrix<float, Width, Channels> Y;
    FirstForward result;
    result.allocations = allocations_in([&] {
      typename DeltaResidualBlock<float, Width, Channels>::template Cache<1> cache;
      block.forward(X, Y, cache);
    });
    result.changed_the_state = (X - Y).norm() > 0;
    return result;
  }
};

const FirstForward first_forwards[] = {FirstForward::of<16, 1>(), FirstForward::of<64, 4>()};

/// A block of width d and m = `Channels`, by what it is made of.
template <int Channels, template <class, int, int> class Value = LinearValue,
          template <class, int> class Norm = RmsNorm>
struct BlockOf {
  template <class Scalar, int d, int m>
  using Block = DeltaResidualBlock<Scalar, d, m, Mlp<Scalar, d, times(2, d)>, TanhGate<Scalar, d>,
                                   Value<Scalar, d, m>, ChannelCompressor<Scalar, d, m>, Norm<Scalar, d>>;

  template <class Scalar, bool Fixed>
  struct Layer
      : LayerBase<Block<Scalar, size<Fixed>(small_width), size<Fixed>(Channels)>, size<Fixed>(small_width)> {
    static constexpr int tokens = size<Fixed>(small_samples);
    struct Cache {
      typename Layer::Part::template Cache<tokens> block;
      typename Layer::Part::template Workspace<tokens> workspace;
    };
    Rewrite rewrite = Rewrite::delta;
    ValueSource source = ValueSource::context;
    Compression compression = Compression::automatic;
    double gate_bias = 0;
    double direction = 1;  ///< the size of kt, roughly

    static Index x_cols(Index samples) { return samples * Channels; }
    static Index y_cols(Index samples) { return samples * Channels; }
    GradientCheckSettings differences() const { return {.step = 1e-3 * (std::min)(1.0, 20 * direction)}; }
    auto make(Index width, Random& random) const {
      typename Layer::Part::Settings settings;
      settings.sublayer.hidden = 2 * width;
      settings.compressor.kind = compression;
      settings.rewrite = rewrite;
      settings.k_eps = 1e-2;
      settings.norm_eps = 0.1;
      typename Layer::Part block(width, Channels, settings, random);
      if constexpr (requires { block.value->source; })
        if (block.value) block.value->source = source;
      return block;
    }
    void adjust(auto& part, auto&) const {
      if (part.gate) part.gate->out.bias[0] += Scalar(gate_bias);
      part.sublayer.last.weight *= Scalar(direction);
      part.sublayer.last.bias *= Scalar(direction);
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

template <class Scalar, int Rows, int Cols>
struct SigmoidValue : LinearValue<Scalar, Rows, Cols> {
  using Base = LinearValue<Scalar, Rows, Cols>;
  SigmoidValue() = default;
  SigmoidValue(const typename Base::Settings& settings, Index width, Index channels, Random& random)
      : Base(settings, width, channels, random) {
    this->sigmoid_scale = 4;
  }
};

}  // namespace

TEST_CASE("a fixed-size block's forward never uses the heap, not even the first time", "[residual][block]") {
  for (const FirstForward& first : first_forwards) {
    CHECK(first.allocations == 0);
    CHECK(first.changed_the_state);
  }
}

TEST_CASE("the block passes the suite under the three rewrites", "[residual][block][grad]") {
  const Rewrite rewrite = GENERATE(Rewrite::delta, Rewrite::write_only, Rewrite::additive);
  INFO(name_of(rewrite));
  check_layer<BlockOf<2>::Layer>(rewrite);
}

TEST_CASE("the block's gradients hold for every value, from the context and from the compressed state",
          "[residual][block][grad]") {
  const ValueSource source = GENERATE(ValueSource::context, ValueSource::compressed);
  CAPTURE(source == ValueSource::context);
  check_differences(BlockOf<3>::Layer<double, false>{{}, Rewrite::delta, source});
  check_differences(BlockOf<3, SigmoidValue>::Layer<double, false>{{}, Rewrite::delta, source});
  check_differences(BlockOf<3, ConstantValue>::Layer<double, false>{{}, Rewrite::delta, source});
}

TEST_CASE("the block's gradients hold for every compressor and without a norm", "[residual][block][grad]") {
  check_differences(BlockOf<1>::Layer<double, false>{{}, Rewrite::delta, ValueSource::compressed});
  check_differences(
      BlockOf<3>::Layer<double, false>{{}, Rewrite::delta, ValueSource::context, Compression::mean});
  check_differences(BlockOf<1, LinearValue, NoNorm>::Layer<double, false>{});
}

TEST_CASE("the block's gradients hold for gates nearly shut and nearly reflecting, and for a tiny kt",
          "[residual][block][grad]") {
  const double gate_bias = GENERATE(-5.0, 0.0, 5.0), direction = GENERATE(1.0, 1e-2);
  CAPTURE(gate_bias, direction);
  check_differences(BlockOf<2>::Layer<double, false>{
      {}, Rewrite::delta, ValueSource::context, Compression::automatic, gate_bias, direction});
}

TEST_CASE("a kt of 0, or so small or large that its square is not a float, gives finite numbers",
          "[residual][block]") {
  const double direction = GENERATE(0.0, 1e-20, 1e18);
  CAPTURE(direction);
  Pass pass(
      BlockOf<2>::Layer<float, false>{
          {}, Rewrite::delta, ValueSource::context, Compression::automatic, 0, direction},
      small_width, small_samples);
  for (const auto& [name, tensor] : pass.run()) {
    INFO(name);
    CHECK(all_finite(tensor));
  }
  CHECK((pass.y == pass.x) == (direction < 1));  // a skipped write
}

TEST_CASE("the block is its four parts and X + beta k (v - X^T k)^T", "[residual][block]") {
  Random random(6);
  DeltaResidualBlock<double> block(5, 2, {}, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p); }, block);
  Matrix<double> X(5, 2), Y(5, 2), x(5, 1), c(5, 1), kt(5, 1), v(2, 1);
  Matrix<double, 1> beta(1, 1);
  fill(random, X);
  decltype(block)::Cache<> cache;
  block.forward(X, Y, cache);

  decltype(block)::Activations<> parts;
  x = block.compressor->forward(X, parts.compressor);
  block.norm.forward(x, c, parts.norm);
  block.sublayer.forward(c, kt, parts.sublayer);
  block.gate->forward(c, beta, parts.gate);
  block.value->forward(c, v);
  const Vector<double> k = kt / std::sqrt(kt.squaredNorm() + block.k_eps * block.k_eps);
  const Matrix<double> expected = X + beta(0) * k * (v - X.transpose() * k).transpose();
  CHECK(error(Y, expected) <= identity_tolerance<double>);
  block.forward(X, X, cache);
  CHECK(X == Y);
}

TEST_CASE("the additive control has neither gate nor value", "[residual][block]") {
  Random random(6);
  DeltaResidualBlock<double>::Settings settings;
  settings.rewrite = Rewrite::additive;
  const DeltaResidualBlock<double> additive(5, 2, settings, random), delta(5, 2, {}, random);
  CHECK_FALSE(additive.gate);
  CHECK_FALSE(additive.value);
  CHECK(parameter_count(delta) - parameter_count(additive) == 6 + 12);
}

TEST_CASE("a block maps an empty batch to an empty batch", "[residual][block]") {
  Random random(6);
  const DeltaResidualBlock<double> block(5, 2, {}, random);
  DeltaResidualBlock<double> gradient = zeros_like(block);
  const Matrix<double> X(5, 0);
  Matrix<double> Y(5, 0), dX(5, 0);
  decltype(gradient)::Cache<> cache;
  decltype(gradient)::Workspace<> workspace;
  block.forward(X, Y, cache);
  block.backward(X, cache, dX, gradient, workspace);
  for_each_parameter([](const ParameterPath&, const auto& p) { CHECK(p.isZero(0)); }, gradient);
}

TEST_CASE("a block refuses sizes and settings out of range", "[residual][block][errors]") {
  using Dynamic = DeltaResidualBlock<double>;
  using Fixed = DeltaResidualBlock<double, 4, 2>;
  const auto message = []<class Block>(std::type_identity<Block>, Index width, Index channels, auto change) {
    typename Block::Settings settings;
    change(settings);
    Random random(1);
    try {
      Block(width, channels, settings, random);
    } catch (const std::invalid_argument& e) {
      return std::string(e.what());
    }
    return std::string("nothing was thrown");
  };
  constexpr std::type_identity<Dynamic> dynamic;
  constexpr std::type_identity<Fixed> fixed;
  const auto none = [](auto&) {};
  CHECK(message(dynamic, 0, 1, none) == "ddl::DeltaResidualBlock: width is 0, expected at least 1");
  CHECK(message(dynamic, 4, 0, none) == "ddl::DeltaResidualBlock: value_channels is 0, expected at least 1");
  CHECK(message(fixed, 5, 2, none) == "ddl::DeltaResidualBlock: width is 5, expected 4 (fixed)");
  CHECK(message(fixed, 4, 1, none) == "ddl::DeltaResidualBlock: value_channels is 1, expected 2 (fixed)");
  CHECK(message(dynamic, 4, 1, [](auto& s) { s.k_eps = -1; }) ==
        "ddl::DeltaResidualBlock: k_eps is -1, expected a number of at least 0");
  CHECK(message(dynamic, 4, 1, [](auto& s) { s.k_eps = not_a_number; }) ==
        "ddl::DeltaResidualBlock: k_eps is nan, expected a number of at least 0");
  CHECK(message(dynamic, 4, 1, [](auto& s) { s.norm_eps = 0; }) ==
        "ddl::RmsNorm: eps is 0, expected a number above 0");
  CHECK(message(dynamic, 4, 1, [](auto& s) { s.gate.beta0 = 2; }) ==
        "ddl::Gate: beta0 is 2, expected a number above 0 and below 2");
  CHECK(message(dynamic, 4, 2, [](auto& s) { s.compressor.kind = Compression::identity; }) ==
        "ddl::ChannelCompressor: value_channels is 2, expected 1, for an identity compressor");
}
