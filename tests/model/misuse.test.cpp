// SPDX-License-Identifier: MIT
/// @file  What a caller of a model can get wrong: each is one std::invalid_argument that says what was given
/// and what was expected, and nothing of the caller's changes.
#include <algorithm>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/model/delta_resnet.hpp"
#include "ddl/model/delta_transformer.hpp"
#include "ddl/train/optimizer.hpp"
#include "support/catch.hpp"

using namespace ddl;

namespace {

/// A misuse, and what the message must contain.
struct Misuse {
  const char* name;
  std::function<void()> run;
  std::vector<std::string> says;
};

std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "nothing was thrown";
}

void check(const std::vector<Misuse>& misuses) {
  for (const Misuse& misuse : misuses) {
    CAPTURE(misuse.name);
    const std::string message = message_of(misuse.run);
    for (const std::string& text : misuse.says) CHECK_THAT(message, Catch::Matchers::ContainsSubstring(text));
  }
}

template <class Model>
bool same(const Model& a, const Model& b) {
  bool equal = true;
  for_each_parameter([&](const ParameterPath&, const auto& p, const auto& q) { equal = equal && p == q; }, a,
                     b);
  return equal;
}
template <class Model>
bool is_zero(const Model& model) {
  return same(model, zeros_like(model));
}

/// What is left of a model, tape or state that was moved away.
template <class Model>
Model moved_from(Model model) {
  const Model taken = std::move(model);
  return model;  // NOLINT(bugprone-use-after-move)
}

using Net = DeltaResNet<double>;
using FixedNet = DeltaResNet<double, 8, 2>;

template <class N>
typename N::Settings net_settings() {
  return {.inputs = 3, .outputs = 2, .width = 8, .value_channels = 2, .depth = 2};
}
template <class N>
N changed_net(const std::function<void(typename N::Settings&)>& change) {
  auto settings = net_settings<N>();
  change(settings);
  return N(settings, 7);
}

using Lm = DeltaTransformer<double>;

DeltaTransformerSettings<> lm_settings(Variant variant = Variant::cc_ec) {
  DeltaTransformerSettings<> settings = settings_of(variant);
  settings.vocabulary = 11;
  settings.context = 8;
  settings.layers = 1;
  settings.width = 8;
  settings.mixer.heads = 2;
  return settings;
}
Lm changed_lm(const std::function<void(DeltaTransformerSettings<>&)>& change,
              Variant variant = Variant::cc_ec) {
  auto settings = lm_settings(variant);
  change(settings);
  return Lm(settings, 7);
}

const std::vector<int> tokens = {1, 2, 3, 4, 5, 6, 7, 8};

}  // namespace

TEMPLATE_TEST_CASE("DeltaResNet::backward refuses a gradient of other shapes, and changes nothing",
                   "[model][misuse]", Net, FixedNet) {
  using N = TestType;
  using Settings = typename N::Settings;
  const N net(net_settings<N>(), 1);
  const Matrix<double> x = Matrix<double>::Random(3, 4), dlogits = Matrix<double>::Random(2, 4);
  auto tape = net.make_tape(), twin = net.make_tape();
  net.forward(x, tape);
  net.forward(x, twin);

  struct Row {
    const char* name;
    N gradient;
    std::vector<std::string> says;
  };
  const auto row = [](const char* name, const std::function<void(Settings&)>& change,
                      std::vector<std::string> says) {
    return Row{name, zeros_like(changed_net<N>(change)), std::move(says)};
  };
  std::vector<Row> rows = {
      row("shallower", [](Settings& s) { s.depth = 1; }, {"layers"}),
      row("deeper", [](Settings& s) { s.depth = 3; }, {"layers"}),
      row("fewer inputs", [](Settings& s) { s.inputs = 1; }, {"embedding.weight", "16 x 1", "16 x 3"}),
      row("fewer outputs", [](Settings& s) { s.outputs = 1; }, {"head.weight", "1 x 8", "2 x 8"}),
      row("more outputs", [](Settings& s) { s.outputs = 5; }, {"head.weight", "5 x 8", "2 x 8"}),
      row("additive", [](Settings& s) { s.block.update = UpdateRule::additive; }, {"layers.0.gate"}),
      row("other compressor", [](Settings& s) { s.block.compressor.compression = Compression::mean; },
          {"layers.0.compressor.weight", "8 x 2"}),
      {"default-constructed", N(), {"embedding.weight", "16 x 3"}},
      {"moved from", moved_from(zeros_like(net)), {"embedding.weight", "16 x 3"}},
  };
  if constexpr (std::is_same_v<N, Net>) {
    rows.push_back(
        row("narrower", [](Settings& s) { s.width = 4; }, {"embedding.weight", "8 x 3", "16 x 3"}));
    rows.push_back(row("wider", [](Settings& s) { s.width = 16; }, {"embedding.weight", "32 x 3", "16 x 3"}));
    rows.push_back(
        row("fewer value channels", [](Settings& s) { s.value_channels = 1; }, {"embedding.weight"}));
    rows.push_back(row("smaller hidden layer", [](Settings& s) { s.block.sublayer.hidden = 4; },
                       {"layers.0.sublayer.first.weight", "4 x 8", "32 x 8"}));
    rows.push_back(row("more layers in the sublayer", [](Settings& s) { s.block.sublayer.layers = 3; },
                       {"layers.0.sublayer.middle"}));
  }
  for (Row& each : rows) {
    each.says.push_back("ddl::DeltaResNet::backward: the gradient's");
    check({{each.name, [&] { net.backward(dlogits, tape, each.gradient); }, each.says}});
    for_each_parameter([](const ParameterPath&, const auto& p) { CHECK(p.isZero(0)); }, each.gradient);
  }

  // The forward pass is not lost: its backward pass may still come.
  N gradient = zeros_like(net), expected = zeros_like(net);
  net.backward(dlogits, tape, gradient);
  net.backward(dlogits, twin, expected);
  CHECK(same(gradient, expected));
  CHECK_FALSE(is_zero(gradient));
}

TEST_CASE("DeltaResNet refuses the tape of another net", "[model][misuse]") {
  const Net net(net_settings<Net>(), 1);
  const Matrix<double> x = Matrix<double>::Random(3, 4);
  const Memory memory = GENERATE(Memory::training, Memory::recompute, Memory::reversible,
                                 Memory::reversible_recompute, Memory::inference);
  CAPTURE(static_cast<int>(memory));
  using Settings = Net::Settings;
  struct {
    const char* name;
    void (*change)(Settings&);
    std::vector<std::string> says;
    bool same_sizes =
        false;  ///< its passes are right with an inference tape of this net, which keeps nothing
  } const rows[] = {
      {"shallower", [](Settings& s) { s.depth = 1; }, {"1 layers", "2 layers"}},
      {"deeper", [](Settings& s) { s.depth = 3; }, {"3 layers", "2 layers"}},
      {"narrower", [](Settings& s) { s.width = 4; }, {"width 4", "width 8"}},
      {"wider", [](Settings& s) { s.width = 16; }, {"width 16", "width 8"}},
      {"fewer value channels",
       [](Settings& s) { s.value_channels = 1; },
       {"1 value channels", "2 value channels"}},
      {"other inputs", [](Settings& s) { s.inputs = 5; }, {"5 inputs", "3 inputs"}},
      {"other outputs", [](Settings& s) { s.outputs = 1; }, {"1 outputs", "2 outputs"}},
      {"additive", [](Settings& s) { s.block.update = UpdateRule::additive; }, {"other parts"}, true},
      {"other hidden layers", [](Settings& s) { s.block.sublayer.hidden = 5; }, {"other parts"}, true},
  };
  for (const auto& row : rows) {
    if (row.same_sizes && memory == Memory::inference) continue;
    auto says = row.says;
    says.push_back("ddl::DeltaResNet::forward: the tape is ");
    auto tape = changed_net<Net>(row.change).make_tape(memory);
    check({{row.name, [&] { net.forward(x, tape); }, says}});
  }
  Net::Tape<> none;
  none.memory = memory;
  check({{"default-constructed",
          [&] { net.forward(x, none); },
          {"ddl::DeltaResNet::forward: the tape", "default-constructed"}}});

  // Nets of the same shapes share tapes.
  const Net copy = net;
  auto tape = net.make_tape(memory), own = copy.make_tape(memory);
  CHECK(copy.forward(x, tape) == copy.forward(x, own));
}

TEST_CASE("DeltaResNet::backward wants one forward pass of this net and this batch", "[model][misuse]") {
  Net net(net_settings<Net>(), 1);
  const Net copy = net;
  Net gradient = zeros_like(net);
  const Memory memory =
      GENERATE(Memory::training, Memory::recompute, Memory::reversible, Memory::reversible_recompute);
  CAPTURE(static_cast<int>(memory));
  const Matrix<double> x = Matrix<double>::Random(3, 4), dlogits = Matrix<double>::Random(2, 4);
  const std::string where = "ddl::DeltaResNet::backward: ";
  auto fresh = net.make_tape(memory), used = fresh, done = fresh, of_copy = fresh, failed = fresh;
  net.forward(x, used);
  net.backward(dlogits, used, gradient);
  const Net once = gradient;
  net.forward(x, done);
  copy.forward(x, of_copy);
  net.forward(x, failed);
  CHECK_THROWS_AS(net.forward(dlogits, failed), std::invalid_argument);
  auto other = changed_net<Net>([](auto& s) { s.depth = 1; }).make_tape(memory);
  auto inference = net.make_tape(Memory::inference);
  net.forward(x, inference);
  Net::Tape<> none;
  check({
      {"no forward pass",
       [&] { net.backward(dlogits, fresh, gradient); },
       {where, "the tape", "without a forward pass"}},
      {"twice", [&] { net.backward(dlogits, used, gradient); }, {where, "the tape", "used up"}},
      {"forward by a copy",
       [&] { net.backward(dlogits, of_copy, gradient); },
       {where, "the tape", "a forward pass of another model"}},
      {"fewer samples",
       [&] { net.backward(dlogits.leftCols(3), done, gradient); },
       {where, "dlogits is 2 x 3", "2 x 4"}},
      {"more samples",
       [&] { net.backward(Matrix<double>::Zero(2, 5), done, gradient); },
       {where, "dlogits is 2 x 5", "2 x 4"}},
      {"dlogits of another height",
       [&] { net.backward(x, done, gradient); },
       {where, "dlogits is 3 x 4", "2 x 4"}},
      {"dlogits of another width",
       [&] { net.backward(dlogits.leftCols(2), done, gradient); },
       {where, "dlogits is 2 x 2", "2 x 4"}},
      {"tape of another net",
       [&] { net.backward(dlogits, other, gradient); },
       {where, "the tape", "1 layers"}},
      {"inference",
       [&] { net.backward(dlogits, inference, gradient); },
       {where, "the tape", "without a forward pass"}},
      {"default-constructed tape", [&] { net.backward(dlogits, none, gradient); }, {where, "the tape"}},
  });
  CHECK(same(gradient, once));
  // A refused call leaves the pass as it was.
  set_zero(gradient);
  net.backward(dlogits, done, gradient);
  CHECK(same(gradient, once));
  set_zero(gradient);
  net.backward(dlogits, failed, gradient);
  CHECK(same(gradient, once));
  // A net that has changed its shapes since.
  net.forward(x, fresh);
  net = changed_net<Net>([](auto& s) { s.block.sublayer.hidden = 5; });
  gradient = zeros_like(net);
  check({{"net replaced",
          [&] { net.backward(dlogits, fresh, gradient); },
          {where, "the tape", "other parts"}}});
}

TEMPLATE_TEST_CASE("a default-constructed or moved-from DeltaResNet is refused by every pass",
                   "[model][misuse]", Net, FixedNet) {
  using N = TestType;
  const N net(net_settings<N>(), 1);
  const bool moved = GENERATE(false, true);
  const N empty = moved ? moved_from(net) : N();
  N gradient = zeros_like(net), none;
  const Matrix<double> x = Matrix<double>::Random(3, 4), dlogits = Matrix<double>::Random(2, 4);
  auto tape = net.make_tape(), inference = net.make_tape(Memory::inference);
  net.forward(x, tape);
  const std::vector<std::string> says = {"the model is ", "empty (default-constructed or moved from)"};
  const auto with = [&](const char* where) {
    auto all = says;
    all.push_back(where);
    return all;
  };
  check({
      {"make_tape", [&] { empty.make_tape(); }, with("ddl::DeltaResNet::make_tape")},
      {"make_tape for inference", [&] { empty.make_tape(Memory::inference); },
       with("ddl::DeltaResNet::make_tape")},
      {"forward", [&] { empty.forward(x, tape); }, with("ddl::DeltaResNet::forward")},
      {"forward without inputs", [&] { empty.forward(Matrix<double>(0, 4), tape); },
       with("ddl::DeltaResNet::forward")},
      {"forward, inference", [&] { empty.forward(x.leftCols(1), inference); },
       with("ddl::DeltaResNet::forward")},
      {"backward", [&] { empty.backward(dlogits, tape, gradient); }, with("ddl::DeltaResNet::backward")},
      {"backward of nothing", [&] { empty.backward(dlogits, tape, none); },
       with("ddl::DeltaResNet::backward")},
  });
  CHECK(is_zero(gradient));
  CHECK(empty.inputs() == 0);
  CHECK(empty.value_channels() == 0);
}

TEST_CASE("a DeltaResNet that gave one of its parts away is refused", "[model][misuse]") {
  Net net(net_settings<Net>(), 1);
  const auto refused = [&](auto& part) {
    const auto taken = std::move(part);
    check({{"make_tape", [&] { net.make_tape(); }, {"ddl::DeltaResNet::make_tape: the model is empty"}}});
    part = taken;
    CHECK_NOTHROW(net.make_tape());
  };
  refused(net.embedding);
  refused(net.norm);
  refused(net.head);
}

TEST_CASE("an optimizer refuses models of other shapes, and changes nothing", "[model][misuse]") {
  Net net(net_settings<Net>(), 1), deeper = changed_net<Net>([](auto&s) { s.depth = 3; }),
                                   wider_head = changed_net<Net>([](auto&s) { s.outputs = 5; }), none;
  const Net before = net, ones = [&] {
    Net g = zeros_like(net);
    for_each_parameter([](const ParameterPath&, auto& p) { p.setOnes(); }, g);
    return g;
  }();
  const Net gone = moved_from(ones);
  AdamW adam(net);
  Sgd sgd(net);
  AdamW of_none(none);
  check({
      {"gradient of another depth", [&] { adam.step(net, deeper); }, {"layers"}},
      {"gradient that differs at the end",
       [&] { adam.step(net, wider_head); },
       {"head.weight", "5 x 8", "2 x 8"}},
      {"the same, Sgd", [&] { sgd.step(net, wider_head); }, {"head.weight", "5 x 8", "2 x 8"}},
      {"gradient default-constructed",
       [&] { adam.step(net, none); },
       {"embedding.weight", "0 x 0", "16 x 3"}},
      {"gradient moved from", [&] { adam.step(net, gone); }, {"embedding.weight", "0 x 0", "16 x 3"}},
      {"model default-constructed", [&] { adam.step(none, none); }, {"embedding.weight"}},
      {"model of another shape", [&] { adam.step(deeper, deeper); }, {"layers"}},
      {"optimizer of a default-constructed model", [&] { of_none.step(net, ones); }, {"embedding.weight"}},
  });
  CHECK(same(net, before));
  AdamW untouched(net);
  Net expected = net;
  untouched.step(expected, ones);
  adam.step(net, ones);
  CHECK(same(net, expected));
}

TEST_CASE("DeltaTransformer::backward refuses a gradient of other shapes, and changes nothing",
          "[model][misuse]") {
  const Lm model(lm_settings(), 1);
  const Matrix<double> dlogits = Matrix<double>::Random(11, 8);
  auto tape = model.make_tape(), twin = model.make_tape();
  model.forward({tokens, 4}, tape);
  model.forward({tokens, 4}, twin);
  const auto none = [](auto&) {};
  struct Row {
    const char* name;
    Lm gradient;
    std::vector<std::string> says;
  } rows[] = {
      {"smaller vocabulary",
       changed_lm([](auto& s) { s.vocabulary = 5; }),
       {"embedding.weight", "5 x 8", "11 x 8"}},
      {"narrower", changed_lm([](auto& s) { s.width = 4; }), {"embedding.weight", "11 x 4", "11 x 8"}},
      {"wider", changed_lm([](auto& s) { s.width = 16; }), {"embedding.weight", "11 x 16", "11 x 8"}},
      {"more layers", changed_lm([](auto& s) { s.layers = 2; }), {"layers"}},
      {"no layers", changed_lm([](auto& s) { s.layers = 0; }), {"layers"}},
      {"tc_ec", changed_lm(none, Variant::tc_ec), {"layers.0.compressor"}},
      {"cc", changed_lm(none, Variant::cc), {"expansion.weight"}},
      {"vdim1", changed_lm(none, Variant::vdim1), {"expansion.weight"}},
      {"two-layer gate", changed_lm([](auto& s) { s.gate = TanhGateSettings{}; }), {"layers.0.mixer.gate"}},
      {"no norm of queries",
       changed_lm([](auto& s) { s.mixer.qk_norm = false; }),
       {"layers.0.mixer.sublayer.q_rms.weight"}},
      {"smaller heads",
       changed_lm([](auto& s) { s.mixer.head_dim = 2; }),
       {"layers.0.mixer.sublayer.c_q.weight"}},
      {"default-constructed", Lm(), {"embedding.weight", "11 x 8"}},
      {"moved from", moved_from(model), {"embedding.weight", "11 x 8"}},
  };
  for (Row& row : rows) {
    set_zero(row.gradient);
    row.says.push_back("ddl::DeltaTransformer::backward: the gradient's");
    check({{row.name, [&] { model.backward(dlogits, tape, row.gradient); }, row.says}});
    for_each_parameter([](const ParameterPath&, const auto& p) { CHECK(p.isZero(0)); }, row.gradient);
  }
  Lm gradient = zeros_like(model), expected = zeros_like(model);
  model.backward(dlogits, tape, gradient);
  model.backward(dlogits, twin, expected);
  CHECK(same(gradient, expected));
}

TEST_CASE("DeltaTransformer refuses the tape of another model", "[model][misuse]") {
  const Lm model(lm_settings(), 1);
  const Memory memory = GENERATE(Memory::training, Memory::reversible_recompute, Memory::inference);
  CAPTURE(static_cast<int>(memory));
  const auto none = [](auto&) {};
  struct Row {
    const char* name;
    Lm other;
    std::vector<std::string> says;
  } const rows[] = {
      {"narrower", changed_lm([](auto& s) { s.width = 4; }), {"width 4", "width 8"}},
      {"more layers", changed_lm([](auto& s) { s.layers = 2; }), {"2 layers", "1 layers"}},
      {"other vocabulary", changed_lm([](auto& s) { s.vocabulary = 5; }), {"5 outputs", "11 outputs"}},
      {"tc_ec", changed_lm(none, Variant::tc_ec), {"other parts"}},
      {"cc", changed_lm(none, Variant::cc), {"other parts"}},
      {"vdim1", changed_lm(none, Variant::vdim1), {"1 value channels", "4 value channels"}},
      {"two-layer gate", changed_lm([](auto& s) { s.gate = TanhGateSettings{}; }), {"other parts"}},
  };
  for (const Row& row : rows) {
    auto tape = row.other.make_tape(memory);
    auto says = row.says;
    says.push_back("ddl::DeltaTransformer::forward: the tape is ");
    check({{row.name, [&] { model.forward({tokens, 4}, tape); }, says}});
  }
  Lm::Tape empty;
  empty.memory = memory;
  auto gone = moved_from(model.make_tape(memory));
  const std::string where = "ddl::DeltaTransformer::forward: the tape is ";
  check({
      {"default-constructed",
       [&] {
         model.forward({tokens, 4}, empty);
       },
       {where, "default-constructed"}},
      {"moved from",
       [&] {
         model.forward({tokens, 4}, gone);
       },
       {where, "moved from"}},
  });
}

TEST_CASE("DeltaTransformer::backward wants one forward pass of this model", "[model][misuse]") {
  const Lm model(lm_settings(), 1), copy = model;
  Lm gradient = zeros_like(model);
  const Matrix<double> dlogits = Matrix<double>::Random(11, 8);
  const Memory memory = GENERATE(Memory::training, Memory::reversible_recompute);
  CAPTURE(static_cast<int>(memory));
  auto fresh = model.make_tape(memory), used = fresh, done = fresh, of_copy = fresh;
  model.forward({tokens, 4}, used);
  model.backward(dlogits, used, gradient);
  const Lm once = gradient;
  model.forward({tokens, 4}, done);
  copy.forward({tokens, 4}, of_copy);
  auto other = changed_lm([](auto& s) { s.layers = 2; }).make_tape(memory);
  auto inference = model.make_tape(Memory::inference);
  model.forward({tokens, 4}, inference);
  Lm::Tape none;
  const std::string where = "ddl::DeltaTransformer::backward: ";
  const auto back = [&](Lm::Tape& tape) { model.backward(dlogits, tape, gradient); };
  check({
      {"no forward pass", [&] { back(fresh); }, {where, "the tape", "without a forward pass"}},
      {"twice", [&] { back(used); }, {where, "the tape", "used up"}},
      {"forward by a copy", [&] { back(of_copy); }, {where, "the tape", "a forward pass of another model"}},
      {"dlogits too few",
       [&] { model.backward(dlogits.leftCols(7), done, gradient); },
       {where, "dlogits is 11 x 7", "11 x 8"}},
      {"dlogits too low",
       [&] { model.backward(dlogits.topRows(10), done, gradient); },
       {where, "dlogits is 10 x 8", "11 x 8"}},
      {"tape of another model", [&] { back(other); }, {where, "the tape"}},
      {"inference", [&] { back(inference); }, {where, "the tape", "without a forward pass"}},
      {"default-constructed tape", [&] { back(none); }, {where, "the tape"}},
  });
  CHECK(same(gradient, once));
  set_zero(gradient);
  back(done);
  CHECK(same(gradient, once));
}

TEST_CASE("a default-constructed or moved-from DeltaTransformer is refused by every pass",
          "[model][misuse]") {
  const Lm model(lm_settings(), 1);
  const bool moved = GENERATE(false, true);
  const Lm empty = moved ? moved_from(model) : Lm();
  Lm gradient = zeros_like(model), none;
  const Matrix<double> dlogits = Matrix<double>::Random(11, 8);
  auto tape = model.make_tape();
  model.forward({tokens, 4}, tape);
  auto state = model.make_state();
  const auto with = [](const char* function) {
    return std::vector<std::string>{"ddl::DeltaTransformer::" + std::string(function),
                                    "the model is empty (default-constructed or moved from)"};
  };
  check({
      {"make_tape", [&] { empty.make_tape(); }, with("make_tape")},
      {"make_state", [&] { empty.make_state(); }, with("make_state")},
      {"forward",
       [&] {
         empty.forward({tokens, 4}, tape);
       },
       with("forward")},
      {"forward of nothing", [&] { empty.forward({}, tape); }, with("forward")},
      {"backward", [&] { empty.backward(dlogits, tape, gradient); }, with("backward")},
      {"backward of nothing", [&] { empty.backward(Matrix<double>(0, 0), tape, none); }, with("backward")},
      {"infer", [&] { empty.infer(1, state); }, with("infer")},
  });
  CHECK(is_zero(gradient));
  CHECK(state.position == 0);
}

TEST_CASE("DeltaTransformer::infer refuses the state of another model", "[model][misuse]") {
  const Lm model(lm_settings(), 1);
  const auto none = [](auto&) {};
  struct Row {
    const char* name;
    Lm other;
    std::vector<std::string> says;
  } const rows[] = {
      {"narrower", changed_lm([](auto& s) { s.width = 4; }), {"width 4", "width 8"}},
      {"wider", changed_lm([](auto& s) { s.width = 16; }), {"width 16", "width 8"}},
      {"more layers", changed_lm([](auto& s) { s.layers = 2; }), {"2 layers", "1 layers"}},
      {"tc_ec", changed_lm(none, Variant::tc_ec), {"other parts"}},
      {"cc", changed_lm(none, Variant::cc), {"other parts"}},
      {"vdim1", changed_lm(none, Variant::vdim1), {"1 value channels", "4 value channels"}},
      {"smaller heads", changed_lm([](auto& s) { s.mixer.head_dim = 2; }), {"other parts"}},
      {"longer convolution", changed_lm([](auto& s) { s.expansion.kernel = 5; }), {"other parts"}},
  };
  for (const Row& row : rows) {
    auto says = row.says;
    says.push_back("ddl::DeltaTransformer::infer: the state is ");
    auto state = row.other.make_state();
    check({{row.name, [&] { model.infer(1, state); }, says}});
    CHECK(state.position == 0);
  }
  Lm::State empty;
  auto state = model.make_state(), fork = state, gone = moved_from(state), three = model.make_state(3);
  const std::string where = "ddl::DeltaTransformer::infer: ";
  check({
      {"default-constructed", [&] { model.infer(1, empty); }, {where, "the state", "default-constructed"}},
      {"moved from", [&] { model.infer(1, gone); }, {where, "the state", "moved from"}},
      {"fewer tokens than sequences",
       [&] { model.infer(tokens, three); },
       {where, "the number of tokens is 8", "a multiple of the 3 sequences"}},
  });
  // A token that is refused is not taken, nor one too many.
  model.infer(1, state);
  model.infer(1, fork);
  CHECK_THROWS_AS(model.infer(99, state), std::invalid_argument);
  CHECK_THROWS_AS(model.infer(tokens, state), std::invalid_argument);
  CHECK(state.position == 1);
  CHECK(model.infer(2, state) == model.infer(2, fork));
  // Keys of one head serve no model of four.
  const auto heads = [](Index n) {
    return changed_lm([n](auto& s) { s.mixer = {.heads = n, .head_dim = 8 / n}; });
  };
  auto one_head = heads(1).make_state();
  check({{"fewer heads of the same keys", [&] { heads(4).infer(1, one_head); }, {where, "other parts"}}});
}

namespace {

/// Gives up at the first piece, in the midst of a pass.
struct Cancelled {
  template <class F>
  void for_each(Index, F&&) const {
    throw std::runtime_error("cancelled");
  }
};

}  // namespace

TEST_CASE("a pass that ended in the midst is not one to go back through", "[model][misuse]") {
  const std::string none = "the tape is without a forward pass", used = "one that backward has used up";
  SECTION("DeltaResNet") {
    const Net net(net_settings<Net>(), 1);
    Net gradient = zeros_like(net);
    const Matrix<double> x = Matrix<double>::Random(3, 4), dlogits = Matrix<double>::Random(2, 4);
    auto tape = net.make_tape();
    net.forward(x, tape);
    CHECK_THROWS_WITH(net.forward(x, tape, Cancelled()), "cancelled");
    check({{"forward", [&] { net.backward(dlogits, tape, gradient); }, {none}}});
    net.forward(x, tape);
    CHECK_THROWS_WITH(net.backward(dlogits, tape, gradient, Cancelled()), "cancelled");
    check({{"backward", [&] { net.backward(dlogits, tape, gradient); }, {used}}});
  }
  SECTION("DeltaTransformer") {
    const Lm model(lm_settings(), 1);
    Lm gradient = zeros_like(model);
    const Matrix<double> dlogits = Matrix<double>::Random(11, 8);
    auto tape = model.make_tape();
    auto invalid = tokens;
    invalid[7] = 11;
    model.forward({tokens, 4}, tape);
    CHECK_THROWS_AS(model.forward({invalid, 4}, tape), std::invalid_argument);
    check({{"forward, token", [&] { model.backward(dlogits, tape, gradient); }, {none}}});
    model.forward({tokens, 4}, tape);
    CHECK_THROWS_WITH(model.forward({tokens, 4}, tape, Cancelled()), "cancelled");
    check({{"forward", [&] { model.backward(dlogits, tape, gradient); }, {none}}});
    model.forward({tokens, 4}, tape);
    CHECK_THROWS_WITH(model.backward(dlogits, tape, gradient, Cancelled()), "cancelled");
    check({{"backward", [&] { model.backward(dlogits, tape, gradient); }, {used}}});
  }
  SECTION("DeltaResidualBlock") {
    Random random(3);
    const DeltaResidualBlock<double> block(8, 2, {}, random);
    auto gradient = zeros_like(block);
    const Matrix<double> X = Matrix<double>::Random(8, 6);
    Matrix<double> Y(8, 6), dX = X;
    auto tape = block.make_tape();
    block.forward(X, Y, tape);
    CHECK_THROWS_WITH(block.forward(X, Y, tape, Cancelled()), "cancelled");
    check({{"forward", [&] { block.backward(X, dX, tape, gradient); }, {none}}});
    block.forward(X, Y, tape);
    CHECK_THROWS_WITH(block.backward(X, dX, tape, gradient, Cancelled()), "cancelled");
    check({{"backward", [&] { block.backward(X, dX, tape, gradient); }, {used}}});
  }
}

TEST_CASE("DeltaResidualBlock refuses what its forward pass was not for", "[model][misuse]") {
  Random random(3);
  using Block = DeltaResidualBlock<double>;
  const Block block(8, 2, {}, random), copy = block, wider(16, 2, {}, random);
  Block gradient = zeros_like(block), other = zeros_like(wider), none, gone = moved_from(zeros_like(block));
  const Matrix<double> X = Matrix<double>::Random(8, 6);
  Matrix<double> Y(8, 6), dX = Matrix<double>::Random(8, 6), fewer = Matrix<double>::Random(8, 4);
  const Matrix<double> dY = dX;
  auto fresh = block.make_tape(), used = fresh, done = fresh, of_copy = fresh;
  block.forward(X, Y, used);
  block.backward(X, dX, used, gradient);
  const Block once = gradient;
  dX = dY;
  block.forward(X, Y, done);
  copy.forward(X, Y, of_copy);
  const std::string where = "ddl::DeltaResidualBlock::backward: ";
  const auto back = [&](Block::Tape<>& tape, Block& g) { block.backward(X, dX, tape, g); };
  check({
      {"no forward pass", [&] { back(fresh, gradient); }, {where, "the tape", "without a forward pass"}},
      {"twice", [&] { back(used, gradient); }, {where, "the tape", "used up"}},
      {"forward by a copy",
       [&] { back(of_copy, gradient); },
       {where, "the tape", "a forward pass of another model"}},
      {"wider gradient",
       [&] { back(done, other); },
       {where, "the gradient's compressor.weight", "16 x 2", "8 x 2"}},
      {"gradient default-constructed", [&] { back(done, none); }, {where, "the gradient's compressor"}},
      {"gradient moved from",
       [&] { back(done, gone); },
       {where, "the gradient's compressor.weight", "8 x 2"}},
      {"other X", [&] { block.backward(fewer, dX, done, gradient); }, {where, "X is 8 x 4", "8 x 6"}},
      {"other dX", [&] { block.backward(X, fewer, done, gradient); }, {where, "dX is 8 x 4", "8 x 6"}},
      {"default-constructed, forward",
       [&] { none.forward(X, Y, fresh); },
       {"ddl::DeltaResidualBlock::forward: the model is empty (default-constructed"}},
      {"default-constructed, backward",
       [&] { none.backward(X, dX, done, gradient); },
       {"ddl::DeltaResidualBlock::backward: the model is empty (default-constructed"}},
      {"moved from, forward",
       [&] { gone.forward(X, Y, fresh); },
       {"the model is empty (default-constructed"}},
  });
  CHECK(same(gradient, once));
  CHECK(dX == dY);
  set_zero(gradient);
  back(done, gradient);
  CHECK(same(gradient, once));
}

namespace {

/// One sample's logits, alone and as each of a batch of 4.
template <class N>
void check_independent(const N& net) {
  Random random(5);
  Matrix<double> x(3, 4);
  random.fill_normal(x, 1.0);
  auto tape = net.make_tape(), one = net.make_tape();
  auto state = net.make_state();
  const Matrix<double> together = net.forward(x, tape);
  N gradient = zeros_like(net), sum = zeros_like(net);
  net.backward(together, tape, gradient);
  for (Index n = 0; n < 4; ++n) {
    const Matrix<double> alone = net.forward(x.col(n), one);
    CHECK((alone - together.col(n)).norm() <= 1e-12);
    state.reset();
    CHECK((net.infer(x.col(n), state) - together.col(n)).norm() <= 1e-12);
    net.backward(together.col(n), one, sum);
  }
  for_each_parameter(
      [](const ParameterPath& path, const auto& p, const auto& q) {
        CAPTURE(path.str());
        CHECK((p - q).norm() <= 1e-11 * (1 + q.norm()));
      },
      gradient, sum);
  // They do differ.
  CHECK((together.col(0) - together.col(1)).norm() > 1e-3);
}

}  // namespace

TEST_CASE("samples of a DeltaResNet do not see each other, whatever its parts are", "[model][misuse]") {
  SECTION("attention as sublayer") {
    using Block = DeltaResidualBlock<double, Dynamic, Dynamic, CausalSelfAttention<double>>;
    check_independent(DeltaResNet<double, Dynamic, Dynamic, Block>(
        {.inputs = 3, .outputs = 2, .width = 8, .value_channels = 2, .depth = 2}, 1));
  }
  SECTION("attention chosen at run time, a convolution over tokens as compressor") {
    using Block =
        DeltaResidualBlock<double, Dynamic, Dynamic, VariantPart<SwiGlu<double>, CausalSelfAttention<double>>,
                           LinearGate<double>, LinearValue<double>,
                           VariantPart<ChannelCompressor<double>, TokenConvolutionCompressor<double>>>;
    using N = DeltaResNet<double, Dynamic, Dynamic, Block>;
    N::Settings settings = {.inputs = 3, .outputs = 2, .width = 8, .value_channels = 2, .depth = 2};
    settings.block.sublayer = AttentionSettings{.heads = 2};
    settings.block.compressor = TokenConvolutionSettings{};
    N net(settings, 1);
    Random random(2);  // a convolution starts at the newest token alone
    for_each_parameter([&](const ParameterPath&, auto& p) { random.fill_normal(p, 0.4); }, net);
    check_independent(net);
  }
}
