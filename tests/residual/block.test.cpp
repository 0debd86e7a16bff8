// SPDX-License-Identifier: MIT
#include "ddl/residual/block.hpp"

#include <optional>

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
      auto tape = block.template make_tape<1>();
      block.forward(X, Y, tape);
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
    using Tape = std::optional<typename Layer::Part::template Tape<size<Fixed>(small_samples)>>;
    UpdateRule update = UpdateRule::delta;
    ValueSource source = ValueSource::context;
    Compression compression = Compression::automatic;
    double gate_bias = 0;
    double direction = 1;  ///< the size of kt, roughly

    static Index x_cols(Index samples) { return samples * Channels; }
    static Index y_cols(Index samples) { return samples * Channels; }
    GradientCheckSettings differences() const { return {.step = 1e-3 * (std::min)(1.0, 15 * direction)}; }
    auto make(Index width, Random& random) const {
      typename Layer::Part::Settings settings;
      settings.sublayer.hidden = 2 * width;
      settings.compressor.compression = compression;
      settings.update = update;
      settings.k_eps = 1e-2;
      if constexpr (requires { settings.norm.eps; }) settings.norm.eps = 0.1;
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

template <class Scalar, int Rows, int Cols>
struct SigmoidValue : LinearValue<Scalar, Rows, Cols> {
  using Base = LinearValue<Scalar, Rows, Cols>;
  SigmoidValue() = default;
  SigmoidValue(Index width, Index channels, const typename Base::Settings& settings, Random& random)
      : Base(width, channels, settings, random) {
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

TEST_CASE("the block passes the suite under the three update rules", "[residual][block][grad]") {
  const UpdateRule update = GENERATE(UpdateRule::delta, UpdateRule::write_only, UpdateRule::additive);
  INFO(name_of(update));
  check_layer<BlockOf<2>::Layer>(update);
}

TEST_CASE("the block's gradients hold for every value, from the context and from the compressed state",
          "[residual][block][grad]") {
  const ValueSource source = GENERATE(ValueSource::context, ValueSource::compressed);
  CAPTURE(source == ValueSource::context);
  check_differences(BlockOf<3>::Layer<double, false>{{}, UpdateRule::delta, source});
  check_differences(BlockOf<3, SigmoidValue>::Layer<double, false>{{}, UpdateRule::delta, source});
  check_differences(BlockOf<3, ConstantValue>::Layer<double, false>{{}, UpdateRule::delta, source});
}

TEST_CASE("the block's gradients hold for every compressor and without a norm", "[residual][block][grad]") {
  check_differences(BlockOf<1>::Layer<double, false>{{}, UpdateRule::delta, ValueSource::compressed});
  check_differences(
      BlockOf<3>::Layer<double, false>{{}, UpdateRule::delta, ValueSource::context, Compression::mean});
  check_differences(BlockOf<1, LinearValue, NoNorm>::Layer<double, false>{});
}

TEST_CASE("the block's gradients hold for gates nearly shut and nearly reflecting, and for a tiny kt",
          "[residual][block][grad]") {
  const double gate_bias = GENERATE(-5.0, 0.0, 5.0), direction = GENERATE(1.0, 1e-2);
  CAPTURE(gate_bias, direction);
  check_differences(BlockOf<2>::Layer<double, false>{
      {}, UpdateRule::delta, ValueSource::context, Compression::automatic, gate_bias, direction});
}

TEST_CASE("a kt of 0, or so small or large that its square is not a float, gives finite numbers",
          "[residual][block]") {
  const double direction = GENERATE(0.0, 1e-20, 1e18);
  CAPTURE(direction);
  ddl::test::Trial run(
      BlockOf<2>::Layer<float, false>{
          {}, UpdateRule::delta, ValueSource::context, Compression::automatic, 0, direction},
      small_width, small_samples);
  for (const auto& [name, tensor] : run.run()) {
    INFO(name);
    CHECK(all_finite(tensor));
  }
  CHECK((run.y == run.x) == (direction < 1));  // a skipped write
}

TEST_CASE("the block is its four parts and X + beta k (v - X^T k)^T", "[residual][block]") {
  Random random(6);
  DeltaResidualBlock<double> block(5, 2, {}, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p); }, block);
  Matrix<double> X(5, 2), Y(5, 2), x(5, 1), c(5, 1), kt(5, 1), v(2, 1);
  Matrix<double, 1> beta(1, 1);
  fill(random, X);
  auto tape = block.make_tape();
  block.forward(X, Y, tape);

  decltype(block)::Connection::Activations<> parts;
  x = block.compressor.forward(X, parts.compressor);
  block.norm.forward(x, c, parts.norm);
  block.sublayer.forward(c, kt, parts.sublayer);
  block.gate->forward(c, beta, parts.gate);
  block.value->forward(c, v, parts.value);
  const Vector<double> k = kt / std::sqrt(kt.squaredNorm() + block.k_eps * block.k_eps);
  const Matrix<double> expected = X + beta(0) * k * (v - X.transpose() * k).transpose();
  CHECK(error(Y, expected) <= identity_tolerance<double>);
  block.forward(X, X, tape);
  CHECK(X == Y);
}

TEST_CASE("the additive control has neither gate nor value", "[residual][block]") {
  Random random(6);
  DeltaResidualBlock<double>::Settings settings;
  settings.update = UpdateRule::additive;
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
  auto tape = block.make_tape();
  block.forward(X, Y, tape);
  block.backward(X, dX, tape, gradient);
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
  CHECK(message(dynamic, 4, 1, [](auto& s) { s.norm.eps = 0; }) ==
        "ddl::RmsNorm: eps is 0, expected a number above 0");
  CHECK(message(dynamic, 4, 1, [](auto& s) { s.gate.beta0 = 2; }) ==
        "ddl::Gate: beta0 is 2, expected a number above 0 and below 2");
  CHECK(message(dynamic, 4, 2, [](auto& s) { s.compressor.compression = Compression::identity; }) ==
        "ddl::ChannelCompressor: value_channels is 2, expected 1, for an identity compressor");
}

namespace {

/// A block of width 5 with two channels, a forward pass, and what a backward pass takes.
struct Used {
  using Block = DeltaResidualBlock<double>;
  Random random{6};
  Block block{5, 2, {}, random};
  Block gradient = zeros_like(block);
  Matrix<double> X{5, 6}, Y{5, 6}, dX{5, 6};
  Block::Tape<> tape = block.make_tape();

  Used() {
    fill(random, X);
    fill(random, dX);
  }
  void forward() { block.forward(X, Y, tape); }
  void backward() { block.backward(X, dX, tape, gradient); }

  /// f throws this, and neither dX nor the gradient has changed.
  template <class F>
  void refused(const F& f, const std::string& message) {
    const Matrix<double> before = dX;
    const Block gradient_before = gradient;
    CHECK_THROWS_AS(f(), std::invalid_argument);
    CHECK_THROWS_WITH(f(), message);
    CHECK(dX == before);
    for_each_parameter([](const ParameterPath&, const auto& a, const auto& b) { CHECK(a == b); }, gradient,
                       gradient_before);
  }
};

const std::string backward_where = "ddl::DeltaResidualBlock::backward: ";
const std::string forward_where = "ddl::DeltaResidualBlock::forward: ";
const std::string a_forward = ", expected that of a forward pass of this model";
const std::string empty_model =
    "the model is empty (default-constructed or moved from), expected one made from settings";

}  // namespace

TEST_CASE("a block's backward needs a forward of its own, and uses it up", "[residual][block][errors]") {
  Used used;
  used.refused(
      [&] { used.backward(); },
      backward_where + "the tape is without a forward pass, or one that backward has used up" + a_forward);
  used.forward();
  used.backward();
  used.refused(
      [&] { used.backward(); },
      backward_where + "the tape is without a forward pass, or one that backward has used up" + a_forward);
  used.forward();
  const Used::Block copy = used.block;
  used.refused([&] { copy.backward(used.X, used.dX, used.tape, used.gradient); },
               backward_where + "the tape is that of a forward pass of another model" + a_forward);
  CHECK_NOTHROW(used.backward());  // a refusal uses up nothing
}

TEST_CASE("a block refuses the tape of another block, of no block, and a forward that failed",
          "[residual][block][errors]") {
  Used used;
  const Used::Block narrower(4, 2, {}, used.random), more(5, 3, {}, used.random);
  const std::string made_for =
      "expected one made for this model of 5 inputs, 5 outputs, width 5, 2 value channels and 1 layers";
  auto tape = narrower.make_tape();
  used.refused([&] { used.block.forward(used.X, used.Y, tape); },
               forward_where +
                   "the tape is made for a model of 4 inputs, 4 outputs, width 4, 2 value channels and 1 "
                   "layers, " +
                   made_for);
  used.refused([&] { used.block.backward(used.X, used.dX, tape, used.gradient); },
               backward_where +
                   "the tape is made for a model of 4 inputs, 4 outputs, width 4, 2 value channels and 1 "
                   "layers, " +
                   made_for);
  tape = more.make_tape();
  used.refused([&] { used.block.forward(used.X, used.Y, tape); },
               forward_where +
                   "the tape is made for a model of 5 inputs, 5 outputs, width 5, 3 value channels and 1 "
                   "layers, " +
                   made_for);
  tape = {};
  used.refused([&] { used.block.forward(used.X, used.Y, tape); },
               forward_where + "the tape is default-constructed, " + made_for);
  used.forward();
  Matrix<double> odd(5, 7);
  used.refused([&] { used.block.forward(odd, used.Y, used.tape); },
               forward_where + "X is 5 x 7, expected 5 x 6");
  used.refused(
      [&] { used.backward(); },
      backward_where + "the tape is without a forward pass, or one that backward has used up" + a_forward);
}

TEST_CASE("a block refuses states and gradients of other shapes", "[residual][block][errors]") {
  Used used;
  Matrix<double> tall(6, 6), longer(5, 8), odd(5, 7);
  used.refused([&] { used.block.forward(tall, used.Y, used.tape); },
               forward_where + "X is 6 x 6, expected 5 x 6");
  used.refused([&] { used.block.forward(used.X, longer, used.tape); },
               forward_where + "Y is 5 x 8, expected 5 x 6");
  used.refused(
      [&] {
        used.block.forward(used.X, used.Y, used.tape, {Serial{}, 2});
      },
      forward_where + "the length of a sequence is 2, expected a divisor of the batch's 3 tokens");
  used.forward();
  used.refused([&] { used.block.backward(longer, used.dX, used.tape, used.gradient); },
               backward_where + "X is 5 x 8, expected 5 x 6");
  used.refused([&] { used.block.backward(used.X, longer, used.tape, used.gradient); },
               backward_where + "dX is 5 x 8, expected 5 x 6");
  used.refused([&] { used.block.backward(used.X, odd, used.tape, used.gradient); },
               backward_where + "dX is 5 x 7, expected 5 x 6");
  CHECK_NOTHROW(used.backward());  // a refusal uses up nothing
}

TEST_CASE("a block refuses a gradient of another block and an empty one", "[residual][block][errors]") {
  Used used;
  Used::Block::Settings additive;
  additive.update = UpdateRule::additive;
  used.forward();
  const auto shape = [](const char* given) {
    return "compressor.weight is " + std::string(given) + ", expected 5 x 2";
  };
  const auto refused = [&](Used::Block wrong, const std::string& difference) {
    const Matrix<double> before = used.dX;
    const auto attempt = [&] { used.block.backward(used.X, used.dX, used.tape, wrong); };
    CHECK_THROWS_AS(attempt(), std::invalid_argument);
    CHECK_THROWS_WITH(attempt(), backward_where + "the gradient's " + difference);
    CHECK(used.dX == before);
    for_each_parameter([](const ParameterPath&, const auto& p) { CHECK(p.isZero(0)); }, wrong);
  };
  refused(zeros_like(Used::Block(4, 2, {}, used.random)), shape("4 x 2"));
  refused(zeros_like(Used::Block(5, 3, {}, used.random)), shape("5 x 3"));
  refused(zeros_like(Used::Block(5, 2, additive, used.random)), "gate is absent, expected present");
  refused(Used::Block(), shape("0 x 0"));
  Used::Block whole = used.gradient;
  const Used::Block taken = std::move(whole);
  refused(whole, shape("0 x 0"));  // NOLINT: moved from
  CHECK_NOTHROW(used.backward());  // a refusal uses up nothing
}

TEST_CASE("a block that is empty or was moved from refuses to run", "[residual][block][errors]") {
  Used used;
  const Used::Block empty;
  used.refused([&] { empty.make_tape(); }, "ddl::DeltaResidualBlock::make_tape: " + empty_model);
  Used::Block::Tape<> tape;
  used.refused([&] { empty.forward(used.X, used.Y, tape); }, forward_where + empty_model);
  used.refused([&] { empty.forward(used.X, used.Y, used.tape); }, forward_where + empty_model);
  used.refused([&] { empty.backward(used.X, used.dX, tape, used.gradient); }, backward_where + empty_model);
  used.forward();
  const Used::Block taken = std::move(used.block);
  used.refused([&] { used.forward(); }, forward_where + empty_model);
  used.refused([&] { used.backward(); }, backward_where + empty_model);
  // the block that took the weights runs with the tape of the one before
  taken.forward(used.X, used.Y, used.tape);
  CHECK_NOTHROW(taken.backward(used.X, used.dX, used.tape, used.gradient));
}

TEST_CASE("a tape that was moved from is without a forward pass", "[residual][block][errors]") {
  Used used;
  const auto refused = [&] {
    used.refused(
        [&] { used.backward(); },
        backward_where + "the tape is without a forward pass, or one that backward has used up" + a_forward);
  };
  used.forward();
  auto constructed = std::move(used.tape);
  refused();
  CHECK_NOTHROW(used.block.backward(used.X, used.dX, constructed, used.gradient));
  used.forward();  // it is like a new one
  Used::Block::Tape<> assigned;
  assigned = std::move(used.tape);
  refused();
  CHECK_NOTHROW(used.block.backward(used.X, used.dX, assigned, used.gradient));
  used.forward();
  CHECK_NOTHROW(used.backward());
}
