// SPDX-License-Identifier: MIT
#include "../../examples/realtime.hpp"

#include <utility>
#include <vector>

#include "ddl/train/gradient_check.hpp"
#include "ddl/train/loss.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace ddl;
using namespace ddl::test;
using realtime::Effect;
using realtime::Net;

static_assert(noexcept(std::declval<Effect&>().process(nullptr, 0)));

namespace {

/// A net with gates and values that do something.
Net some_net() {
  Net net = realtime::make_net();
  Random random(2);
  for_each_parameter([&](const ParameterPath&, auto& p) { random.fill_normal(p, 0.4); }, net);
  return net;
}

template <class Model>
std::vector<std::byte> file_of(const Model& net) {
  SafetensorsWriter file;
  for_each_parameter(
      [&](const ParameterPath& path, const auto& p) { file.add(path.str(), p, path.is_vector()); }, net);
  return file.bytes();
}

/// Both channels as a host holds them: frames x 2, column-major.
Matrix<float> processed(Effect& effect, Matrix<float> sound, std::initializer_list<int> blocks) {
  Index begin = 0;
  for (const int frames : blocks) {
    float* const channels[] = {sound.col(0).data() + begin, sound.col(1).data() + begin};
    const long count = allocations_in([&] { effect.process(channels, frames); });
    CHECK(count == 0);
    begin += frames;
  }
  CHECK(begin == sound.rows());
  return sound;
}

}  // namespace

TEST_CASE("the audio callback gives what the forward pass over the whole signal gives, without allocating",
          "[examples][realtime]") {
  const Net net = some_net();
  Effect effect(file_of(net));
  const Matrix<float> sound = Matrix<float>::Random(150, 2);
  auto tape = net.make_tape(Memory::inference);
  const Matrix<float> expected = net.forward(sound.transpose(), tape, {Serial{}, sound.rows()}).transpose();
  CHECK(error(processed(effect, sound, {1, 64, 0, 7, 78}), expected) <= float_tolerance);

  // with memory: what came before the second half matters
  effect.reset();
  const Matrix<float> anew = processed(effect, sound.bottomRows(75), {75});
  CHECK(error(anew, expected.bottomRows(75)) > 1e-3);
  effect.reset();
  CHECK(processed(effect, sound.bottomRows(75), {64, 11}) == anew);
}

TEST_CASE("the gradients of the example's sublayer hold over sequences", "[examples][realtime][grad]") {
  realtime::SmoothingNet<double, 4, 2> net({.inputs = 2, .outputs = 2, .depth = 2}, 1);
  Random random(3);
  for_each_parameter([&](const ParameterPath&, auto& p) { random.fill_normal(p, 0.5); }, net);
  Matrix<double> x(2, 10), target(2, 10), dlogits(2, 10);
  random.fill_normal(x, 1);
  random.fill_normal(target, 1);
  const std::vector<Index> offsets{0, 5, 6, 10};
  const auto check = [&](const Pass& pass) {
    auto tape = net.make_tape();
    auto gradient = zeros_like(net);
    const auto loss = [&] { return mean_squared_error(net.forward(x, tape, pass), target, dlogits); };
    loss();
    net.backward(dlogits, tape, gradient);
    const GradientReport report = check_gradients(net, gradient, loss);
    INFO(report.message());
    CHECK(report.passes(gradient_tolerance));
  };
  check({Serial{}, 5});
  check({Serial{}, offsets});
}

TEST_CASE("the effect refuses the weights of another net", "[examples][realtime][errors]") {
  const Net deeper({.inputs = 2, .outputs = 2, .depth = 4}, 1);
  CHECK_THROWS_WITH(Effect(file_of(deeper)),
                    Catch::Matchers::ContainsSubstring("the effect's weights") &&
                        Catch::Matchers::ContainsSubstring("unexpected: tensor \"layers.3."));
  CHECK_THROWS_AS(Effect(std::span<const std::byte>()), FileError);
}
