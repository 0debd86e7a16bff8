// SPDX-License-Identifier: MIT
/// @file  The playground's computations: the operator, depth, time and memory, each a few calls of the
/// library. playground.cpp gives them to JavaScript; a native program may use them as well.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ddl/analysis/gate_audit.hpp>
#include <ddl/ddl.hpp>

#include "../examples/state_batches.hpp"

namespace playground {

using ddl::Index;

// ---- the operator

struct Edited {
  Eigen::MatrixXf points;
  Eigen::VectorXf direction;         ///< k, of length 1
  std::array<float, 2> eigenvalues;  ///< across k and along k
  float determinant;
  std::string regime;
};

/// Y = (I - beta k k^T) X + beta k v^T for the points X, each a column, and one number of v for all of them.
inline Edited edit(const Eigen::VectorXf& direction, float beta, float value, const Eigen::MatrixXf& X) {
  const ddl::DeltaOperator A(direction, beta);
  const auto [across, along] = A.eigenvalues();
  Edited edited{X, A.direction(), {across.value, along.value}, A.determinant(), name_of(A.regime())};
  A.update_in_place(edited.points, Eigen::VectorXf::Constant(X.cols(), value));
  return edited;
}

// ---- depth

/// Two classes of points in the square from -1 to 1.
inline ddl::Dataset<float> points(const std::string& shape, Index count, std::uint64_t seed) {
  ddl::Dataset<float> data;
  data.inputs.resize(2, count);
  ddl::Random random(seed);
  for (Index n = 0; n < count; ++n) {
    const int label = static_cast<int>(n % 2);
    double x, y;
    if (shape == "spirals") {
      const double radius = 0.1 + 0.85 * std::sqrt(random.uniform());
      const double angle = 12 * radius + 3.14159265 * label;
      x = radius * std::cos(angle) + 0.02 * random.normal();
      y = radius * std::sin(angle) + 0.02 * random.normal();
    } else if (shape == "circles") {
      const double radius = label ? random.uniform(0.65, 0.95) : 0.5 * std::sqrt(random.uniform());
      const double angle = random.uniform(0, 6.2831853);
      x = radius * std::cos(angle);
      y = radius * std::sin(angle);
    } else if (shape == "xor") {
      x = random.uniform(0.05, 0.95) * (random.uniform() < 0.5 ? -1 : 1);
      y = random.uniform(0.05, 0.95) * ((x < 0) == (label == 0) ? -1 : 1);
    } else {
      throw std::invalid_argument("the points are " + shape + ", expected spirals, circles or xor");
    }
    data.inputs.col(n) << static_cast<float>(x), static_cast<float>(y);
    data.labels.push_back(label);
  }
  return data;
}

/// The rule of that name. @throws std::invalid_argument if there is none.
inline ddl::UpdateRule update_rule(const std::string& name) {
  for (const auto rule : {ddl::UpdateRule::delta, ddl::UpdateRule::write_only, ddl::UpdateRule::additive})
    if (name == name_of(rule)) return rule;
  throw std::invalid_argument("the update rule is " + name + ", expected delta, write_only or additive");
}

struct DepthSettings {
  Index depth = 6, width = 16, channels = 2;
  ddl::UpdateRule update = ddl::UpdateRule::delta;
  double learning_rate = 0.003;
  Index batch = 32;
  std::uint64_t seed = 1;
};

/// A DeltaResNet that learns which class a point of the plane belongs to.
class Depth {
 public:
  using Net = ddl::DeltaResNet<float>;

  /// `test` may be empty.
  Depth(const DepthSettings& settings, ddl::Dataset<float> train, ddl::Dataset<float> test)
      : train_(std::move(train)),
        test_(std::move(test)),
        run_(Net({.inputs = 2,
                  .outputs = 2,
                  .width = settings.width,
                  .value_channels = settings.channels,
                  .depth = settings.depth,
                  .block = {.update = settings.update}},
                 settings.seed),
             {.learning_rate = settings.learning_rate}),
        batches_(train_.view(), {.batch_size = settings.batch, .seed = settings.seed}) {}
  Depth(const Depth&) = delete;  // the batches point into the data

  /// Trains for as many steps, or until the time is over. @return the loss of each step.
  std::vector<float> train(Index steps, double seconds = std::numeric_limits<double>::infinity()) {
    std::vector<float> losses;
    ddl::fit(run_, batches_, {.steps = run_.step + steps}, ddl::TimeLimit{seconds},
             [&](const auto& context) { losses.push_back(static_cast<float>(context.report.loss)); });
    return losses;
  }

  struct Test {
    ddl::Evaluation train, test;          ///< NaN where there are no points
    std::vector<ddl::LayerAudit> layers;  ///< what each gate does with these points; none without gates
  };
  Test test() const {
    const Net& net = run_.model;
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    std::optional<ddl::GateAudit> audit;
    if (net.layers.front().update != ddl::UpdateRule::additive)
      audit.emplace(net, ddl::GateAuditSettings{.bins = 20});
    const auto& points = test_.size() > 0 ? test_ : train_;
    const auto evaluation =
        evaluate(net, points.view(), ddl::Serial(), ddl::Memory::training, [&](const auto& tape) {
          if (audit) audit->add(net, tape);
        });
    Test result{evaluate(net, train_.view()), {nan, nan}, {}};
    if (test_.size() > 0) result.test = evaluation;
    if (audit) result.layers = audit->layers();
    return result;
  }

  /// The probability of class 1, from 0 to 255, over the square: size x size points, row by row from the top
  /// left.
  std::vector<std::uint8_t> regions(Index size) {
    if (grid_.cols() != size * size) {
      const auto at = [&](Index i) { return (2 * static_cast<float>(i) + 1) / static_cast<float>(size) - 1; };
      grid_.resize(2, size * size);
      for (Index i = 0; i < grid_.cols(); ++i) grid_.col(i) << at(i % size), -at(i / size);
    }
    const auto& logits = run_.model.forward(grid_, grid_tape_);
    std::vector<std::uint8_t> pixels;
    for (const auto& logit : logits.colwise())
      pixels.push_back(static_cast<std::uint8_t>(std::lround(255 / (1 + std::exp(logit[0] - logit[1])))));
    return pixels;
  }

  Index step() const { return run_.step; }
  Index parameters() const { return parameter_count(run_.model); }
  const ddl::Dataset<float>& train_points() const { return train_; }
  const ddl::Dataset<float>& test_points() const { return test_; }

 private:
  ddl::Dataset<float> train_, test_;
  ddl::TrainingRun<Net> run_;
  ddl::SupervisedBatches<float> batches_;
  Eigen::MatrixXf grid_;
  Net::Tape<> grid_tape_ = run_.model.make_tape(ddl::Memory::inference);
};

// ---- time

struct TimeSettings {
  std::string task = "parity";       ///< an automaton
  bool negative_eigenvalues = true;  ///< beta in (0, 2); otherwise in (0, 1)
  Index edits = 1;                   ///< per token
  double learning_rate = 0.01;
  std::uint64_t seed = 1;
  Index steps = 200;  ///< of the whole run
  Index width = 32, heads = 4;
  Index sequences = 32, length = 16;  ///< of a batch
};

/// A Transformer of one layer, with the delta rule as its token mixer, that learns to follow an automaton.
class Time {
 public:
  using Net = ddl::DeltaTransformer<float, ddl::DeltaRule<float>>;

  explicit Time(const TimeSettings& settings)
      : settings_(settings),
        automaton_(automata::named(settings.task)),
        run_(net(settings, automaton_)),
        batches_(automaton_, settings.sequences, settings.length, settings.seed),
        rate_({.peak = settings.learning_rate, .warmup = settings.steps / 20, .steps = settings.steps}) {}
  Time(const Time&) = delete;  // the batches point to the automaton

  /// Trains for as many steps. @return the loss of each step.
  std::vector<float> train(Index steps) {
    std::vector<float> losses;
    ddl::fit(run_, batches_,
             {.steps = (std::min)(run_.step + steps, settings_.steps), .learning_rate = rate_},
             [&](const auto& context) { losses.push_back(static_cast<float>(context.report.loss)); });
    return losses;
  }

  struct Test {
    std::vector<float> accuracy;  ///< the share of sequences whose state is right after 1, 2, .. tokens
    ddl::Distribution beta;       ///< of all tokens, over [0, 2]
  };
  /// On the same random sequences in every test, four times as long as those of training.
  Test test() const {
    constexpr Index sequences = 64;
    const Index length = 4 * settings_.length;
    automata::StateBatches data(automaton_, sequences, length, ~std::uint64_t{0});
    data.next();
    auto tape = run_.model.make_tape();
    const auto& logits = run_.model.forward(data.inputs(), tape);
    Test test{std::vector<float>(static_cast<std::size_t>(length)), {0, 2, 20}};
    for (Index n = 0; n < data.samples(); ++n) {
      Index best;
      logits.col(n).maxCoeff(&best);
      test.accuracy[static_cast<std::size_t>(n % length)] +=
          (best == data.labels()[static_cast<std::size_t>(n)]) / static_cast<float>(sequences);
    }
    for (const float beta : tape.activations.front().mixer.sublayer.inputs.beta.reshaped())
      test.beta.add(beta);
    return test;
  }

  Index step() const { return run_.step; }
  const TimeSettings& settings() const { return settings_; }
  double guessing() const { return most_frequent(automaton_); }

 private:
  static Net net(const TimeSettings& settings, const automata::Automaton& automaton) {
    Net::Settings sizes;
    sizes.vocabulary = automaton.tokens + automaton.states;
    sizes.layers = 1;
    sizes.width = settings.width;
    sizes.mixer = {.heads = settings.heads,
                   .edits = settings.edits,
                   .negative_eigenvalues = settings.negative_eigenvalues,
                   .convolution = {}};
    sizes.update = ddl::UpdateRule::additive;  // over depth
    return Net(sizes, settings.seed);
  }

  TimeSettings settings_;
  automata::Automaton automaton_;
  ddl::TrainingRun<Net> run_;
  automata::StateBatches batches_;
  ddl::WarmupCosine rate_;
};

// ---- memory

struct MemorySettings {
  Index depth = 100, width = 16, channels = 4;
  double beta = 1;  ///< of the layers, about
  std::uint64_t seed = 1;
  Index samples = 64;
};

struct Rewound {
  std::vector<float> errors;                       ///< |recovered - X| / |X| of X_0 .. X_depth
  std::vector<Eigen::MatrixXf> states, recovered;  ///< of the first sample
  Index state_bytes, edit_bytes;                   ///< of all layers and samples
};

/// Runs a net of random weights, then recovers the state before each layer from the last state and the edits
/// alone: X_l = X_(l+1) - beta k r^T.
inline Rewound rewind(const MemorySettings& settings) {
  using Net = ddl::DeltaResNet<float>;
  const Net net({.inputs = settings.width,
                 .outputs = 1,
                 .width = settings.width,
                 .value_channels = settings.channels,
                 .depth = settings.depth,
                 .block = {.gate = {.beta0 = settings.beta}}},
                settings.seed);
  ddl::Random random(settings.seed);
  Eigen::MatrixXf x(settings.width, settings.samples);
  random.fill_normal(x, 1);
  auto tape = net.make_tape();  // stores every state, to compare with
  net.forward(x, tape);

  const std::size_t depth = net.layers.size();
  Rewound rewound{std::vector<float>(depth + 1), std::vector<Eigen::MatrixXf>(depth + 1),
                  std::vector<Eigen::MatrixXf>(depth + 1), 0, 0};
  Eigen::MatrixXf X = tape.states.back();
  for (std::size_t l = depth;; --l) {
    const auto& stored = tape.states[l];
    rewound.errors[l] = (X - stored).norm() / stored.norm();
    rewound.states[l] = stored.leftCols(settings.channels);
    rewound.recovered[l] = X.leftCols(settings.channels);
    if (l == 0) break;
    const auto& edit = tape.edits[l - 1];
    delta_update_inverse(net.layers[l - 1].update, edit.inputs, edit.tape, X);
    rewound.state_bytes += stored.size() * Index{sizeof(float)};
    rewound.edit_bytes += (edit.inputs.direction.size() + edit.inputs.beta.size() + edit.inputs.value.size() +
                           edit.tape.inverse_norm.size() + edit.tape.read.size()) *
                          Index{sizeof(float)};
  }
  return rewound;
}

}  // namespace playground
