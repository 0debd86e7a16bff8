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
    using Cache = typename Layer::Part::template Cache<size<Fixed>(small_samples)>;
    static constexpr bool has_dx = false;
    Index depth = 2;
    Memory memory = Memory::training;
    Rewrite rewrite = Rewrite::delta;

    static Index x_rows(Index width) { return width - 2; }
    static Index y_rows(Index) { return outputs; }
    auto make(Index width, Random& random) const {
      typename Layer::Part::Settings settings = {.inputs = width - 2,
                                                 .outputs = outputs,
                                                 .width = width,
                                                 .value_channels = Channels,
                                                 .depth = depth};
      settings.block.rewrite = rewrite;
      settings.block.k_eps = 0.1;
      settings.block.norm_eps = 0.1;
      return typename Layer::Part(settings, random);
    }
    void forward(const auto& part, const auto& x, auto& y, auto& cache, const Order& order) const {
      if (cache.states.empty())
        cache = part.template make_cache<size<Fixed>(small_samples)>(x.cols(), memory);
      y = part.forward(x, cache, order);
    }
    void backward(const auto& part, const auto& x, const auto&, auto& cache, const auto& dy, auto&,
                  auto& gradient, const Order& order) const {
      part.backward(x, dy, cache, gradient, order);
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
  check_close(Pass(fixed, small_width, small_samples).run(), Pass(dynamic, small_width, small_samples).run(),
              identity_tolerance<double>);
}

TEST_CASE("the net's gradients hold at any depth, under every rewrite", "[model][delta_resnet][grad]") {
  const Index depth = GENERATE(0, 1, 3);
  const Rewrite rewrite = GENERATE(Rewrite::delta, Rewrite::write_only, Rewrite::additive);
  CAPTURE(depth, name_of(rewrite));
  check_differences(NetOf<2>::Layer<double, false>{{}, depth, Memory::training, rewrite});
}

TEST_CASE("gradients are the same whatever the cache keeps", "[model][delta_resnet][grad]") {
  const Memory memory = GENERATE(Memory::recompute, Memory::rewind, Memory::rewind_recompute);
  const Index depth = GENERATE(0, 1, 4);
  const Rewrite rewrite = GENERATE(Rewrite::delta, Rewrite::write_only, Rewrite::additive);
  CAPTURE(static_cast<int>(memory), depth, name_of(rewrite));
  using Layer = NetOf<2>::Layer<double, false>;
  const auto expected = Pass(Layer{{}, depth, Memory::training, rewrite}, small_width, small_samples).run();
  check_close(Pass(Layer{{}, depth, memory, rewrite}, small_width, small_samples).run(), expected,
              gradient_tolerance);
  check_allocations(Layer{{}, depth, memory, rewrite}, 40, 50);
}

TEST_CASE("a cache for inference gives the same logits, and cannot be gone back through",
          "[model][delta_resnet]") {
  Net net({.inputs = 3, .outputs = 2, .width = 4, .value_channels = 2, .depth = 3}, 1),
      gradient = zeros_like(net);
  Random random(2);
  Matrix<double> x(3, 5);
  fill(random, x);
  auto training = net.make_cache(5), inference = net.make_cache(5, Memory::inference);
  const Matrix<double> logits = net.forward(x, training);
  CHECK(net.forward(x, inference) == logits);
  CHECK(inference.states.size() == 1);
  CHECK(inference.activations.size() == 1);
  CHECK_THROWS_WITH(
      net.backward(x, logits, inference, gradient),
      "ddl::DeltaResNet::backward: the cache is made for inference, expected one made for training");
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
  auto cache = net.make_cache(200, Memory::inference), checked = net.make_cache(200, Memory::inference);
  CHECK(allocations_in([&] { net.infer(x, cache); }) == 0);
  CHECK(allocations_in([&] { net.forward(x, checked); }) == 0);
  CHECK(cache.logits == checked.logits);
}

TEST_CASE("a training step allocates nothing after the first", "[model][delta_resnet]") {
  const Index samples = 200;
  DeltaResNet<float> net({.inputs = 30, .outputs = 10, .width = 64, .value_channels = 2, .depth = 3}, 1);
  auto gradient = zeros_like(net);
  auto cache = net.make_cache(samples);
  AdamW optimizer(net);
  Random random(2);
  Matrix<float> x(30, samples), slope(10, samples);
  fill(random, x);
  std::vector<int> labels(samples);
  for (int& label : labels) label = static_cast<int>(random.below(10));
  const auto step = [&] {
    set_zero(gradient);
    const double loss = softmax_cross_entropy(net.forward(x, cache), labels, slope);
    net.backward(x, slope, cache, gradient);
    clip_global_norm(gradient, 1);
    optimizer.step(net, gradient);
    return loss;
  };
  double first = step(), last = first;
  CHECK(allocations_in([&] { last = step(); }) == 0);
  for (int i = 0; i < 20; ++i) last = step();
  CHECK(last < 0.9 * first);
}

TEST_CASE("one cache serves batches of any size, an empty one too", "[model][delta_resnet]") {
  const Index depth = GENERATE(0, 2);
  CAPTURE(depth);
  const Net net({.inputs = 3, .outputs = 2, .width = 4, .value_channels = 2, .depth = depth}, 1);
  Random random(2);
  Matrix<double> x(3, 6);
  fill(random, x);
  auto cache = net.make_cache(2), whole = net.make_cache(6);
  const Matrix<double> expected = net.forward(x, whole);
  CHECK(net.forward(x.leftCols(4).eval(), cache) == expected.leftCols(4));
  CHECK(net.forward(x.rightCols(1).eval(), cache).isApprox(expected.rightCols(1)));

  Net gradient = zeros_like(net);
  const Matrix<double> none(3, 0);
  const Matrix<double>& logits = net.forward(none, cache);
  CHECK(logits.rows() == 2);
  CHECK(logits.cols() == 0);
  Matrix<double> slope(2, 0);
  CHECK(mean_squared_error(logits, Matrix<double>(2, 0), slope) == 0);
  net.backward(none, slope, cache, gradient);
  for_each_parameter([](const ParameterPath&, const auto& p) { CHECK(p.isZero(0)); }, gradient);
}

TEST_CASE("a net of depth 0 is its head over the normalised embedding", "[model][delta_resnet]") {
  const Net net({.inputs = 3, .outputs = 2, .width = 4, .depth = 0}, 1);
  Random random(2);
  Vector<double> x(3);
  fill(random, x);
  auto cache = net.make_cache(1);
  const Vector<double> embedded = net.embedding.weight * x + net.embedding.bias;
  const Vector<double> normalised = embedded / std::sqrt(embedded.squaredNorm() / 4 + 1e-5);
  CHECK(error(net.forward(x, cache), (net.head.weight * normalised + net.head.bias).eval()) <=
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
  CHECK(names == std::vector<std::string>{"embedding.weight", "embedding.bias", "blocks.0.compressor.weight",
                                          "blocks.0.norm.weight", "blocks.0.sublayer.first.weight",
                                          "blocks.0.sublayer.first.bias", "blocks.0.sublayer.last.weight",
                                          "blocks.0.sublayer.last.bias", "blocks.0.gate.out.weight",
                                          "blocks.0.gate.out.bias", "blocks.0.value.projection.weight",
                                          "blocks.0.value.projection.bias", "readout.weight", "norm.weight",
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
        "ddl::LinearValue: sigmoid_scale is -1, expected a number above 0, or 0 for a linear value");
  CHECK(message(dynamic, [](auto& s) { s.block.sublayer.layers = 1; }) ==
        "ddl::Mlp: layers is 1, expected at least 2");
}

TEST_CASE("passes refuse matrices and caches of the wrong shape, and write nothing",
          "[model][delta_resnet][errors]") {
  const Net net(small, 1),
      deeper({.inputs = 3, .outputs = 2, .width = 4, .value_channels = 2, .depth = 3}, 1);
  Net gradient = zeros_like(net);
  auto cache = net.make_cache(5);
  const Matrix<double> x = Matrix<double>::Ones(3, 5), dlogits = Matrix<double>::Ones(2, 5);
  const Matrix<double> logits = net.forward(x, cache);
  CHECK_THROWS_WITH(net.forward(dlogits, cache), "ddl::DeltaResNet::forward: x is 2 x 5, expected 3 x 5");
  CHECK_THROWS_WITH(net.backward(x.leftCols(4), dlogits, cache, gradient),
                    "ddl::DeltaResNet::backward: x is 3 x 4, expected 3 x 5");
  CHECK_THROWS_WITH(net.backward(x, x, cache, gradient),
                    "ddl::DeltaResNet::backward: dlogits is 3 x 5, expected 2 x 5");
  CHECK_THROWS_WITH(deeper.forward(x, cache),
                    "ddl::DeltaResNet::forward: the cache is for a net of 2 blocks, or another memory mode, "
                    "expected one from "
                    "make_cache of this net of 3");
  auto shallow = net.make_cache(5, Memory::rewind);
  CHECK_THROWS_AS(deeper.forward(x, shallow), std::invalid_argument);
  CHECK_THROWS_WITH(net.make_cache(-1), "ddl::DeltaResNet::make_cache: samples is -1, expected at least 0");
  CHECK_THROWS_WITH(net.make_cache<4>(5), "ddl::DeltaResNet::make_cache: samples is 5, expected 4 (fixed)");
  CHECK_THROWS_AS(net.make_cache(-1), std::invalid_argument);
  CHECK(cache.logits == logits);
  for_each_parameter([](const ParameterPath&, const auto& p) { CHECK(p.isZero(0)); }, gradient);
}
