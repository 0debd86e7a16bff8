// SPDX-License-Identifier: MIT A user's own token mixer in a DeltaTransformer: gradients, training,
// inference, generation, and a file of its weights.
#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "ddl/io/weights.hpp"
#include "ddl/model/delta_transformer.hpp"
#include "ddl/model/generate.hpp"
#include "ddl/train/fit.hpp"
#include "ddl/train/gradient_check.hpp"
#include "ddl/train/loss.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;

namespace {

struct AverageSettings {
  double decay = 0.5;  ///< at first, in (0, 1)
};

/// An exponential moving average over the tokens of a sequence, with a learned decay for each channel:
///
///     y_t = a * y_(t-1) + (1 - a) * c_t,   y_(-1) = 0,   a = sigmoid(logit).   c, y: d x N
template <class Scalar_>
struct MovingAverage {
  using Scalar = Scalar_;
  using Settings = AverageSettings;
  using Input = ConstBatchRef<Scalar>;
  static constexpr PartKind kind = PartKind::sublayer;
  template <int Tokens = Dynamic>
  struct Tape {};
  /// The last average of every sequence.
  struct State {
    using Scalar = Scalar_;
    Matrix<Scalar> average;  ///< d x S
    static constexpr auto parameters() { return std::tuple(parameter("average", &State::average)); }
  };

  Vector<Scalar> logit;

  static constexpr auto parameters() { return std::tuple(vector_parameter("logit", &MovingAverage::logit)); }

  MovingAverage() = default;
  MovingAverage(Index in, Index, const Settings& settings, Random&)
      : logit(Vector<Scalar>::Constant(
            in, static_cast<Scalar>(std::log(settings.decay / (1 - settings.decay))))) {}

  template <int Tokens>
  void forward(const Input& c, BatchRef<Scalar> y, Tape<Tokens>& tape, const Pass& pass) const {
    State start = make_state(c.cols() / pass.length(), 0);
    infer(c, y, start, tape, pass);
  }
  /// With g_t = dy_t + a * g_(t+1):  dc_t += (1 - a) * g_t,  da += g_t * (y_(t-1) - c_t).
  template <int Tokens>
  void backward(const Input& c, const Input& y, const Input& dy, BatchRef<Scalar> dc, Tape<Tokens>&,
                MovingAverage& gradient, const Pass& pass) const {
    const Vector<Scalar> a = decay(), zero = Vector<Scalar>::Zero(a.size());
    Vector<Scalar> da = zero;
    for (Index begin = 0; begin < c.cols(); begin += pass.length()) {
      Vector<Scalar> g = zero;
      for (Index n = begin + pass.length(); n-- > begin;) {
        g = dy.col(n) + a.cwiseProduct(g);
        dc.col(n) += g - a.cwiseProduct(g);
        da += g.cwiseProduct((n > begin ? Vector<Scalar>(y.col(n - 1)) : zero) - c.col(n));
      }
    }
    gradient.logit.array() += da.array() * a.array() * (Scalar(1) - a.array());
  }

  State make_state(Index sequences, Index) const { return {Matrix<Scalar>::Zero(logit.size(), sequences)}; }
  template <int Tokens>
  void infer(const Input& c, BatchRef<Scalar> y, State& state, Tape<Tokens>&, const Pass& pass) const {
    const Vector<Scalar> a = decay();
    for (Index n = 0; n < c.cols(); ++n) {
      auto average = state.average.col(n / pass.length());
      average = a.cwiseProduct(average) + c.col(n) - a.cwiseProduct(c.col(n));
      y.col(n) = average;
    }
  }

 private:
  Vector<Scalar> decay() const {
    return logit.unaryExpr([](Scalar x) { return Scalar(1) / (Scalar(1) + std::exp(-x)); });
  }
};

using Model = DeltaTransformer<double, MovingAverage<double>>;

constexpr Index length = 6;

Model::Settings small_settings() {
  Model::Settings settings;
  settings.vocabulary = 5;
  settings.context = 20;
  settings.layers = 2;
  settings.width = 4;
  settings.value_channels = 2;
  settings.mixer = {.decay = 0.7};
  settings.mlp.hidden = 6;
  settings.k_eps = settings.norm_eps = 0.1;
  return settings;
}

/// With parameters at random, all of them.
Model some_model(std::uint64_t seed = 7) {
  Model model(small_settings(), seed);
  Random random(seed);
  for_each_parameter([&](const ParameterPath&, auto& p) { random.fill_normal(p, 0.5); }, model);
  return model;
}

const std::vector<int> text = {0, 1, 4, 2, 0, 3, 3, 0, 2, 4, 1, 1},
                       targets = {1, 4, 2, 0, 3, 3, 0, 2, 4, 1, 1, 0};

/// Batches of one text, over and over.
struct Repetition {
  void next() {}
  TokenBatch inputs() const { return {text, length}; }
  Index samples() const { return static_cast<Index>(text.size()); }
  template <Executor E>
  double loss(const Matrix<double>& logits, Matrix<double>& dlogits, const E& executor) {
    return softmax_cross_entropy(logits, targets, dlogits, executor);
  }
};

}  // namespace

TEST_CASE("a user's mixer is a sublayer with a state", "[model][own]") {
  STATIC_REQUIRE(Sublayer<MovingAverage<float>>);
  STATIC_REQUIRE(Stateful<MovingAverage<float>>);
}

TEST_CASE("a Transformer with a user's mixer passes the gradient check", "[model][own][grad]") {
  const Memory memory = GENERATE(Memory::training, Memory::reversible_recompute);
  Model model = some_model();
  auto tape = model.make_tape(memory);
  auto gradient = zeros_like(model);
  Matrix<double> dlogits(5, 12), unused(5, 12);
  softmax_cross_entropy(model.forward({text, length}, tape), targets, dlogits);
  model.backward(dlogits, tape, gradient);
  const auto report = check_gradients(model, gradient, [&] {
    return softmax_cross_entropy(model.forward({text, length}, tape), targets, unused);
  });
  INFO(report.message());
  CHECK(report.passes(1e-7));
}

TEST_CASE("fit trains a user's mixer", "[model][own]") {
  TrainingRun run(Model(small_settings(), 1), {.learning_rate = 0.02});
  const Vector<double> before = run.model.layers[0].mixer.sublayer.logit;
  Repetition data;
  double first = 0, last = 0;
  fit(run, data, {.steps = 60}, [&](const auto& context) {
    if (context.report.step == 1) first = context.report.loss;
    last = context.report.loss;
  });
  CAPTURE(first, last);
  CHECK(last < 0.5 * first);
  CHECK((run.model.layers[0].mixer.sublayer.logit - before).norm() > 0.01);
}

TEST_CASE("a user's mixer that has no roll_back is refused one", "[model][own][infer][errors]") {
  STATIC_REQUIRE(!CanRollBack<MovingAverage<float>>);
  CHECK_THROWS_WITH(
      some_model().make_state(1, {}, 2),
      "ddl::make_state: rollback is 2, expected 0: a part of the model has no roll_back; copy the state "
      "instead");
}

TEST_CASE("a user's mixer infers what forward gives, in pieces of any length", "[model][own][infer]") {
  const Model model = some_model();
  auto tape = model.make_tape();
  const Matrix<double> expected = model.forward({text}, tape);
  const Index piece = GENERATE(1, 3, 12);
  auto state = model.make_state();
  for (Index t = 0; t < 12; t += piece) {
    const auto& logits = model.infer(std::span(text).subspan(std::size_t(t), std::size_t(piece)), state);
    CHECK((logits - expected.middleCols(t, piece)).norm() <= 1e-12);
  }
  auto fork = state;
  state.reset();
  CHECK((model.infer(text[0], state) - expected.col(0)).norm() <= 1e-12);
  const Matrix<double> next = model.infer(2, fork);
  std::vector<int> longer = text;
  longer.push_back(2);
  CHECK((next - model.forward({longer}, tape).rightCols(1)).norm() <= 1e-12);
}

TEST_CASE("a user's mixer generates text", "[model][own][generate]") {
  const Model model = some_model();
  auto state = model.make_state();
  Sampler greedy({.temperature = 0});
  Random random(1);
  std::vector<int> all(text.begin(), text.begin() + 3);
  CHECK(generate(model, all, state, greedy, random, 5, [&](int token) { all.push_back(token); }) == 5);
  auto tape = model.make_tape(Memory::inference);
  const auto& logits = model.forward({all}, tape);
  for (Index t = 2; t < 7; ++t) {
    Index best = 0;
    logits.col(t).maxCoeff(&best);
    CHECK(all[static_cast<std::size_t>(t + 1)] == best);
  }
}

TEST_CASE("the parameters of a user's mixer have names, and are saved and loaded", "[io][own][weights]") {
  const Model model = some_model();
  std::vector<std::string> names;
  for_each_parameter([&](const ParameterPath& path, const auto&) { names.push_back(path.str()); }, model);
  for (const char* name : {"layers.0.mixer.sublayer.logit", "layers.1.mixer.sublayer.logit"})
    CHECK(std::count(names.begin(), names.end(), name) == 1);

  const test::TemporaryFolder folder;
  save_parameters(model, folder / "own.safetensors");
  Model loaded = some_model(8);
  load_parameters(loaded, SafetensorsFile(folder / "own.safetensors"));
  auto tape = model.make_tape(), other = loaded.make_tape();
  CHECK(loaded.forward({text}, other) == model.forward({text}, tape));
}
