// SPDX-License-Identifier: MIT
#include "ddl/model/delta_resnet.hpp"

#include "ddl/train/loss.hpp"
#include "ddl/train/optimizer.hpp"
#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

constexpr int outputs = 3;

template <int Channels>
struct NetOf {
  template <class Scalar, bool Fixed>
  struct Layer : LayerBase<DeltaResNet<Scalar, size<Fixed>(small_width), size<Fixed>(Channels)>, Dynamic> {
    using Tape = typename Layer::Part::template Tape<size<Fixed>(small_samples)>;
    static constexpr bool has_dx = false;
    Index depth = 2;
    Memory memory = Memory::training;
    UpdateRule update = UpdateRule::delta;

    static Index x_rows(Index width) { return width - 2; }
    static Index y_rows(Index) { return outputs; }
    auto make(Index width, Random& random) const {
      typename Layer::Part::Settings settings = {.inputs = width - 2,
                                                 .outputs = outputs,
                                                 .width = width,
                                                 .value_channels = Channels,
                                                 .depth = depth};
      settings.block.update = update;
      settings.block.k_eps = 0.1;
      settings.block.norm.eps = 0.1;
      return typename Layer::Part(settings, random);
    }
    void forward(const auto& part, const auto& x, auto& y, auto& tape, const ddl::Pass& pass) const {
      if (tape.states.empty()) tape = part.template make_tape<size<Fixed>(small_samples)>(memory);
      y = part.forward(x, tape, pass);
    }
    static void backward(const auto& part, const auto&, const auto&, const auto& dy, auto&, auto& tape,
                         auto& gradient, const ddl::Pass& pass) {
      part.backward(dy, tape, gradient, pass.executor);
    }
  };
};

using Net = DeltaResNet<double>;
using FixedNet = DeltaResNet<double, 4, 2>;

const Net::Settings small = {.inputs = 3, .outputs = 2, .width = 4, .value_channels = 2, .depth = 2};

}  // namespace

TEST_CASE("the net passes the suite", "[model][delta_resnet][grad]") {
  check_layer<NetOf<2>::Layer>(Index(2));
}

TEMPLATE_TEST_CASE_SIG("the net's gradients hold for any number of value channels, fixed and dynamic alike",
                       "[model][delta_resnet][grad]", ((int Channels), Channels), 1, 3) {
  const typename NetOf<Channels>::template Layer<double, false> dynamic{};
  const typename NetOf<Channels>::template Layer<double, true> fixed{};
  check_differences(dynamic);
  check_close(Trial(fixed, small_width, small_samples).run(),
              Trial(dynamic, small_width, small_samples).run(), identity_tolerance<double>);
}

TEST_CASE("the net's gradients hold at any depth, under every update rule", "[model][delta_resnet][grad]") {
  const Index depth = GENERATE(0, 1, 3);
  const UpdateRule update = GENERATE(UpdateRule::delta, UpdateRule::write_only, UpdateRule::additive);
  CAPTURE(depth, name_of(update));
  check_differences(NetOf<2>::Layer<double, false>{{}, depth, Memory::training, update});
}

TEST_CASE("gradients are the same whatever the tape keeps", "[model][delta_resnet][grad]") {
  const Memory memory = GENERATE(Memory::recompute, Memory::reversible, Memory::reversible_recompute);
  const Index depth = GENERATE(0, 1, 4);
  const UpdateRule update = GENERATE(UpdateRule::delta, UpdateRule::write_only, UpdateRule::additive);
  CAPTURE(static_cast<int>(memory), depth, name_of(update));
  using Layer = NetOf<2>::Layer<double, false>;
  const auto expected = Trial(Layer{{}, depth, Memory::training, update}, small_width, small_samples).run();
  check_close(Trial(Layer{{}, depth, memory, update}, small_width, small_samples).run(), expected,
              gradient_tolerance);
  check_allocations(Layer{{}, depth, memory, update}, 40, 50);
}

TEST_CASE("a tape for inference gives the same logits, and has no backward pass", "[model][delta_resnet]") {
  Net net({.inputs = 3, .outputs = 2, .width = 4, .value_channels = 2, .depth = 3}, 1),
      gradient = zeros_like(net);
  Random random(2);
  Matrix<double> x(3, 5);
  fill(random, x);
  auto training = net.make_tape(), inference = net.make_tape(Memory::inference);
  const Matrix<double> logits = net.forward(x, training);
  CHECK(net.forward(x, inference) == logits);
  CHECK(inference.states.size() == 1);
  CHECK(inference.activations.size() == 1);
  CHECK_THROWS_WITH(net.backward(logits, inference, gradient),
                    "ddl::DeltaResNet::backward: the tape is without a forward pass, or one that "
                    "backward has used up, expected that of a forward pass of this model");
  for_each_parameter([](const ParameterPath&, const auto& p) { CHECK(p.isZero(0)); }, gradient);
}

TEST_CASE("settings of a net of fixed sizes start at those sizes", "[model][delta_resnet]") {
  const DeltaResNet<float, 8, 3> net({.inputs = 4, .outputs = 2, .depth = 1}, 1);
  CHECK(net.width() == 8);
  CHECK(net.value_channels() == 3);
  CHECK_THROWS_WITH((DeltaResNet<float, 8, 3>({.inputs = 4, .outputs = 2, .width = 9}, 1)),
                    "ddl::DeltaResNet: width is 9, expected 8 (fixed)");
}

TEST_CASE("inference never allocates, not even the first time", "[model][delta_resnet]") {
  const DeltaResNet<float> net({.inputs = 30, .outputs = 2, .width = 64, .value_channels = 3, .depth = 3}, 1);
  const Matrix<float> x = Matrix<float>::Ones(30, 200);
  auto state = net.make_state<Dynamic>(200);
  auto tape = net.make_tape(Memory::inference);
  CHECK(allocations_in([&] { net.infer(x, state); }) == 0);
  CHECK(state.logits == net.forward(x, tape));
  CHECK(allocations_in([&] { net.forward(x, tape); }) == 0);
}

TEST_CASE("a training step allocates nothing after the first", "[model][delta_resnet]") {
  const Index samples = 200;
  DeltaResNet<float> net({.inputs = 30, .outputs = 10, .width = 64, .value_channels = 2, .depth = 3}, 1);
  auto gradient = zeros_like(net);
  auto tape = net.make_tape();
  AdamW optimizer(net);
  Random random(2);
  Matrix<float> x(30, samples), dlogits(10, samples);
  fill(random, x);
  std::vector<int> labels(samples);
  for (int& label : labels) label = static_cast<int>(random.below(10));
  const auto step = [&] {
    set_zero(gradient);
    const double loss = softmax_cross_entropy(net.forward(x, tape), labels, dlogits);
    net.backward(dlogits, tape, gradient);
    clip_global_norm(gradient, 1);
    optimizer.step(net, gradient);
    return loss;
  };
  double first = step(), last = first;
  CHECK(allocations_in([&] { last = step(); }) == 0);
  for (int i = 0; i < 20; ++i) last = step();
  CHECK(last < 0.9 * first);
}

TEST_CASE("one tape serves batches of any size, an empty one too", "[model][delta_resnet]") {
  const Index depth = GENERATE(0, 2);
  CAPTURE(depth);
  const Net net({.inputs = 3, .outputs = 2, .width = 4, .value_channels = 2, .depth = depth}, 1);
  Random random(2);
  Matrix<double> x(3, 6);
  fill(random, x);
  auto tape = net.make_tape(), whole = net.make_tape();
  const Matrix<double> expected = net.forward(x, whole);
  CHECK(net.forward(x.leftCols(4).eval(), tape) == expected.leftCols(4));
  CHECK(net.forward(x.rightCols(1).eval(), tape).isApprox(expected.rightCols(1)));

  Net gradient = zeros_like(net);
  const Matrix<double> none(3, 0);
  const Matrix<double>& logits = net.forward(none, tape);
  CHECK(logits.rows() == 2);
  CHECK(logits.cols() == 0);
  Matrix<double> dlogits(2, 0);
  CHECK(mean_squared_error(logits, Matrix<double>(2, 0), dlogits) == 0);
  net.backward(dlogits, tape, gradient);
  for_each_parameter([](const ParameterPath&, const auto& p) { CHECK(p.isZero(0)); }, gradient);
}

TEST_CASE("a net of depth 0 is its head over the normalised embedding", "[model][delta_resnet]") {
  const Net net({.inputs = 3, .outputs = 2, .width = 4, .depth = 0}, 1);
  Random random(2);
  Vector<double> x(3);
  fill(random, x);
  auto tape = net.make_tape();
  const Vector<double> embedded = net.embedding.weight * x + net.embedding.bias;
  const Vector<double> normalised = embedded / std::sqrt(embedded.squaredNorm() / 4 + 1e-5);
  CHECK(error(net.forward(x, tape), (net.head.weight * normalised + net.head.bias).eval()) <=
        identity_tolerance<double>);
}

TEST_CASE("one seed gives one net, another seed another", "[model][delta_resnet]") {
  const auto difference = [](const Net& a, const Net& b) {
    double sum = 0;
    for_each_parameter([&](const ParameterPath&, const auto& p, const auto& q) { sum += (p - q).norm(); }, a,
                       b);
    return sum;
  };
  CHECK(difference(Net(small, 1), Net(small, 1)) == 0);
  CHECK(difference(Net(small, 1), Net(small, 2)) > 1);
}

TEST_CASE("the net's parameters have dotted names, in the order of the pass", "[model][delta_resnet]") {
  const Net net({.inputs = 3, .outputs = 2, .width = 4, .value_channels = 2, .depth = 1}, 1);
  std::vector<std::string> names;
  for_each_parameter([&](const ParameterPath& path, const auto&) { names.push_back(path.str()); }, net);
  CHECK(names == std::vector<std::string>{"embedding.weight", "embedding.bias", "layers.0.compressor.weight",
                                          "layers.0.norm.weight", "layers.0.sublayer.first.weight",
                                          "layers.0.sublayer.first.bias", "layers.0.sublayer.last.weight",
                                          "layers.0.sublayer.last.bias", "layers.0.gate.out.weight",
                                          "layers.0.gate.out.bias", "layers.0.value.projection.weight",
                                          "layers.0.value.projection.bias", "readout.weight", "norm.weight",
                                          "head.weight", "head.bias"});
  CHECK(net.inputs() == 3);
  CHECK(net.outputs() == 2);
  CHECK(net.width() == 4);
  CHECK(net.value_channels() == 2);
  CHECK(net.depth() == 1);
}

TEST_CASE("a net refuses sizes and settings out of range", "[model][delta_resnet][errors]") {
  const auto message = []<class N>(std::type_identity<N>, auto change) {
    typename N::Settings settings = {.inputs = 3, .outputs = 2, .width = 4, .value_channels = 2, .depth = 2};
    change(settings);
    try {
      N net(settings);
    } catch (const std::invalid_argument& e) {
      return std::string(e.what());
    }
    return std::string("nothing was thrown");
  };
  constexpr std::type_identity<Net> dynamic;
  constexpr std::type_identity<FixedNet> fixed;
  CHECK(message(dynamic, [](auto& s) { s.inputs = 0; }) ==
        "ddl::DeltaResNet: inputs is 0, expected at least 1");
  CHECK(message(dynamic, [](auto& s) { s.outputs = 0; }) ==
        "ddl::DeltaResNet: outputs is 0, expected at least 1");
  CHECK(message(dynamic, [](auto& s) { s.width = 0; }) ==
        "ddl::DeltaResNet: width is 0, expected at least 1");
  CHECK(message(dynamic, [](auto& s) { s.value_channels = 0; }) ==
        "ddl::DeltaResNet: value_channels is 0, expected at least 1");
  CHECK(message(dynamic, [](auto& s) { s.depth = -1; }) ==
        "ddl::DeltaResNet: depth is -1, expected at least 0");
  CHECK(message(fixed, [](auto& s) { s.width = 5; }) == "ddl::DeltaResNet: width is 5, expected 4 (fixed)");
  CHECK(message(fixed, [](auto& s) { s.value_channels = 1; }) ==
        "ddl::DeltaResNet: value_channels is 1, expected 2 (fixed)");
  CHECK(message(dynamic, [](auto& s) { s.block.gate.beta0 = 0; }) ==
        "ddl::Gate: beta0 is 0, expected a number above 0 and below 2");
  CHECK(message(dynamic, [](auto& s) { s.block.k_eps = infinity; }) ==
        "ddl::DeltaResidualBlock: k_eps is inf, expected a number of at least 0");
  CHECK(message(dynamic, [](auto& s) { s.block.value.sigmoid_scale = -1; }) ==
        "ddl::LinearValue: sigmoid_scale is -1, expected a number above 0");
  CHECK(message(dynamic, [](auto& s) { s.block.sublayer.layers = 1; }) ==
        "ddl::Mlp: layers is 1, expected at least 2");
}

TEST_CASE("passes refuse matrices of the wrong shape, and write nothing", "[model][delta_resnet][errors]") {
  const Net net(small, 1);
  Net gradient = zeros_like(net);
  auto tape = net.make_tape();
  const Matrix<double> x = Matrix<double>::Ones(3, 5), dlogits = Matrix<double>::Ones(2, 5);
  CHECK_THROWS_WITH(net.forward(dlogits, tape), "ddl::DeltaResNet::forward: x is 2 x 5, expected 3 x 5");
  const Matrix<double> logits = net.forward(x, tape);
  CHECK_THROWS_WITH(net.backward(x, tape, gradient),
                    "ddl::DeltaResNet::backward: dlogits is 3 x 5, expected 2 x 5");
  CHECK_THROWS_WITH(net.backward(dlogits.leftCols(4), tape, gradient),
                    "ddl::DeltaResNet::backward: dlogits is 2 x 4, expected 2 x 5");
  CHECK(tape.logits == logits);
  for_each_parameter([](const ParameterPath&, const auto& p) { CHECK(p.isZero(0)); }, gradient);
  CHECK_NOTHROW(net.backward(dlogits, tape, gradient));
}
