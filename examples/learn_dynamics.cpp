// SPDX-License-Identifier: MIT
/// @file  Learns the motion of a double pendulum with a DeltaResNet and, on the same data, seeds and number
/// of parameters, with the additive control; then compares them over many steps and shows where the gates
/// settled.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <future>
#include <string>
#include <vector>

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <ddl/ddl.hpp>

#include "options.hpp"
#include "training.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Net = ddl::DeltaResNet<float>;
using Batch = Eigen::MatrixXf;
using ddl::Index;

// ---- the double pendulum

/// Angles from the vertical (rad) and angular velocities (rad/s) of two rods of 1 m, each ending in
/// 1 kg.
using State = Eigen::Vector4d;
constexpr double gravity = 9.81;    // m/s^2
constexpr double time_step = 0.05;  // s, between the states that are learned
constexpr int substeps = 10;

State velocity(const State& s) {
  const double difference = s[0] - s[1], sine = std::sin(difference), cosine = std::cos(difference);
  // [2 c; c 1] [a1; a2] = [r1; r2], the equations of motion solved for the accelerations.
  const double r1 = -s[3] * s[3] * sine - 2 * gravity * std::sin(s[0]);
  const double r2 = s[2] * s[2] * sine - gravity * std::sin(s[1]);
  const double determinant = 2 - cosine * cosine;
  return {s[2], s[3], (r1 - cosine * r2) / determinant, (2 * r2 - cosine * r1) / determinant};
}

/// J, zero when hanging at rest.
double energy(const State& s) {
  const double kinetic = s[2] * s[2] + 0.5 * s[3] * s[3] + s[2] * s[3] * std::cos(s[0] - s[1]);
  return kinetic + gravity * (2 * (1 - std::cos(s[0])) + (1 - std::cos(s[1])));
}

/// The state one time step later, by the classical Runge-Kutta method.
State advance(State s) {
  constexpr double h = time_step / substeps;
  for (int i = 0; i < substeps; ++i) {
    const State a = velocity(s), b = velocity(s + h / 2 * a), c = velocity(s + h / 2 * b),
                d = velocity(s + h * c);
    s += h / 6 * (a + 2 * b + 2 * c + d);
  }
  return s;
}

State random_state(ddl::Random& random) {
  return {random.uniform(-1, 1), random.uniform(-1, 1), random.uniform(-1, 1), random.uniform(-1, 1)};
}

// ---- data

/// What the net sees of a state: angles by sine and cosine.
Eigen::Matrix<double, 6, 1> features(const State& s) {
  return {std::sin(s[0]), std::cos(s[0]), std::sin(s[1]), std::cos(s[1]), s[2], s[3]};
}

/// Pairs of a state's features and the change to the next state, the latter in units of its root mean
/// square.
struct Data {
  Batch inputs, targets;
  State unit;
};

Data simulate(Index trajectories, Index length, std::uint64_t seed) {
  ddl::Random random(seed);
  Data data{Batch(6, trajectories * length), Batch(4, trajectories * length), {}};
  Eigen::MatrixXd changes(4, trajectories * length);
  for (Index t = 0, n = 0; t < trajectories; ++t) {
    State s = random_state(random);
    for (Index i = 0; i < length; ++i, ++n) {
      const State next = advance(s);
      data.inputs.col(n) = features(s).cast<float>();
      changes.col(n) = next - s;
      s = next;
    }
  }
  data.unit = (changes.rowwise().squaredNorm() / static_cast<double>(changes.cols())).cwiseSqrt();
  data.targets = (data.unit.cwiseInverse().asDiagonal() * changes).cast<float>();
  return data;
}

// ---- training a net

struct Options {
  Index width = 32, value_channels = 4, depth = 6, hidden = 64, batch = 128, steps = 4000;
  double learning_rate = 3e-3;
  int seeds = 3;
  Index horizon = 200;
  std::string json;
};

Net::Settings settings_of(const Options& options, ddl::UpdateRule update) {
  Net::Settings settings{.inputs = 6,
                         .outputs = 4,
                         .width = options.width,
                         .value_channels = options.value_channels,
                         .depth = options.depth};
  settings.block.update = update;
  Index hidden = options.hidden;
  settings.block.sublayer.hidden = hidden;
  // The additive control has no gates and values; wider hidden layers give it their parameters.
  if (update == ddl::UpdateRule::additive) {
    const Index wanted = parameter_count(Net(settings_of(options, ddl::UpdateRule::delta)));
    while (parameter_count(Net(settings)) < wanted) settings.block.sublayer.hidden = ++hidden;
  }
  return settings;
}

struct Progress {
  std::atomic<Index> step{0};
  std::atomic<double> loss{0};
};

struct Trained {
  Net net;
  double seconds = 0;
};

Trained train(const Options& options, ddl::UpdateRule update, const Data& data, std::uint64_t seed,
              Progress& progress) {
  Trained result{Net(settings_of(options, update), seed)};
  Net& net = result.net;
  auto tape = net.make_tape();
  auto gradient = ddl::zeros_like(net);
  ddl::AdamW optimizer(net, {.weight_decay = 1e-4});
  const ddl::WarmupCosine schedule(
      {.peak = options.learning_rate, .warmup = options.steps / 20, .steps = options.steps});
  ddl::Random random(seed + 1000);
  Batch x(6, options.batch), target(4, options.batch), grad(4, options.batch);

  const auto start = Clock::now();
  double smooth = 0;
  for (Index step = 0; step < options.steps; ++step) {
    for (Index n = 0; n < options.batch; ++n) {
      const Index sample = random.below(data.inputs.cols());
      x.col(n) = data.inputs.col(sample);
      target.col(n) = data.targets.col(sample);
    }
    const double loss = ddl::mean_squared_error(net.forward(x, tape), target, grad);
    ddl::set_zero(gradient);
    net.backward(grad, tape, gradient);
    ddl::clip_global_norm(gradient, 1.0);
    optimizer.settings.learning_rate = schedule(step);
    optimizer.step(net, gradient);
    smooth = step == 0 ? loss : 0.99 * smooth + 0.01 * loss;
    progress.loss = smooth;
    progress.step = step + 1;
  }
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return result;
}

// ---- evaluation

/// The gates of one layer over the test data.
struct Gates {
  std::array<double, 3> quantiles{};  // of beta: 5, 50 and 95 %
  std::array<double, 3> shares{};     // of the regimes identity, projection, reflection
};

struct Result {
  double one_step = 0;  // RMS error of one step, in units of the RMS change of a step
  double roll_out = 0;  // RMS error of the angles after `horizon` steps, rad
  double drift = 0;     // mean |E - E_0| over the roll-outs, J
  Index parameters = 0;
  double seconds = 0;
  std::vector<Gates> gates;
};

std::vector<Gates> read_gates(const Net& net, const Net::Tape<>& tape) {
  std::vector<Gates> gates;
  net.for_each_edit(tape, [&](const auto& block, const auto& edit) {
    if (!block.gate) return;
    const auto& row = edit.inputs.beta;
    std::vector<float> beta(row.data(), row.data() + row.size());
    std::ranges::sort(beta);
    Gates layer;
    const double last = static_cast<double>(beta.size() - 1);
    for (std::size_t q = 0; q < 3; ++q)
      layer.quantiles[q] = beta[static_cast<std::size_t>(last * std::array{0.05, 0.5, 0.95}[q])];
    for (const float b : beta)
      layer.shares[static_cast<std::size_t>(ddl::regime_of(b))] += 1 / static_cast<double>(beta.size());
    gates.push_back(layer);
  });
  return gates;
}

Result evaluate(const Options& options, const Trained& trained, const Data& train_data,
                const Data& test_data) {
  const Net& net = trained.net;
  Result result;
  result.parameters = parameter_count(net);
  result.seconds = trained.seconds;
  auto tape = net.make_tape();
  const Eigen::MatrixXd scale = train_data.unit.asDiagonal();
  const Eigen::MatrixXd predicted = scale * net.forward(test_data.inputs, tape).cast<double>();
  const Eigen::MatrixXd actual = test_data.unit.asDiagonal() * test_data.targets.cast<double>();
  result.one_step = (predicted - actual).norm() / actual.norm();
  result.gates = read_gates(net, tape);

  constexpr Index starts = 50;
  ddl::Random random(99);
  Eigen::MatrixXd truth(4, starts);
  for (Index n = 0; n < starts; ++n) truth.col(n) = random_state(random);
  Eigen::MatrixXd rolled = truth;
  Eigen::VectorXd first_energy(starts);
  for (Index n = 0; n < starts; ++n) first_energy[n] = energy(truth.col(n));
  auto state = net.make_state<ddl::Dynamic>(starts);
  Batch x(6, starts);
  for (Index step = 0; step < options.horizon; ++step) {
    for (Index n = 0; n < starts; ++n) {
      x.col(n) = features(rolled.col(n)).cast<float>();
      truth.col(n) = advance(truth.col(n));
    }
    rolled += scale * net.infer(x, state).cast<double>();
    for (Index n = 0; n < starts; ++n)
      result.drift +=
          std::abs(energy(rolled.col(n)) - first_energy[n]) / static_cast<double>(starts * options.horizon);
  }
  result.roll_out = (rolled - truth).topRows(2).norm() / std::sqrt(2.0 * starts);
  return result;
}

// ---- report

constexpr std::array updates{ddl::UpdateRule::delta, ddl::UpdateRule::additive};

using Runs = std::array<std::future<Trained>, 2>;

/// Redraws one line until both runs have ended; without a terminal, prints it once.
void show_progress(const Options& options, int seed, const Runs& runs,
                   const std::array<Progress, 2>& progress) {
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  const auto start = Clock::now();
  for (bool done = false; !done;) {
    done = std::ranges::all_of(runs, [](const auto& run) {
      return run.wait_for(std::chrono::milliseconds(50)) == std::future_status::ready;
    });
    if (!terminal && !done) continue;
    const Index steps = progress[0].step + progress[1].step;
    const double share = static_cast<double>(steps) / static_cast<double>(2 * options.steps);
    const double speed = static_cast<double>(steps * options.batch) /
                         std::chrono::duration<double>(Clock::now() - start).count();
    std::string bar(30, '.');
    std::fill_n(bar.begin(), static_cast<int>(share * 30), '#');
    std::printf("%sseed %d/%d [%s] %3.0f %%  loss: delta %.2e, additive %.2e  %.0f samples/s%s",
                terminal ? "\r" : "", seed + 1, options.seeds, bar.c_str(), share * 100,
                progress[0].loss.load(), progress[1].loss.load(), speed, done ? "\n" : "");
    std::fflush(stdout);
  }
}

/// "mean +- standard deviation" over the seeds.
template <class F>
std::string over_seeds(const std::vector<Result>& results, const char* format, const F& figure) {
  double mean = 0, square = 0;
  for (const auto& r : results) mean += figure(r) / static_cast<double>(results.size());
  for (const auto& r : results) square += (figure(r) - mean) * (figure(r) - mean);
  const double deviation =
      results.size() > 1 ? std::sqrt(square / static_cast<double>(results.size() - 1)) : 0;
  std::array<char, 64> a{}, b{};
  std::snprintf(a.data(), a.size(), format, mean);
  std::snprintf(b.data(), b.size(), format, deviation);
  return std::string(a.data()) + " +- " + b.data();
}

void print_report(const Options& options, const std::array<std::vector<Result>, 2>& results) {
  std::printf("\n%d seeds, mean +- standard deviation\n\n%-44s %-22s %-22s\n", options.seeds, "", "delta",
              "additive control");
  const auto row = [&](const std::string& label, const char* format, const auto& figure) {
    std::printf("%-44s %-22s %-22s\n", label.c_str(), over_seeds(results[0], format, figure).c_str(),
                over_seeds(results[1], format, figure).c_str());
  };
  const std::string horizon = std::to_string(options.horizon);
  row("one-step error (share of a step's change)", "%.5f", [](const Result& r) { return r.one_step; });
  row("angle error after " + horizon + " steps (rad)", "%.3f", [](const Result& r) { return r.roll_out; });
  row("energy drift over " + horizon + " steps (J)", "%.3f", [](const Result& r) { return r.drift; });
  row("training time (s)", "%.1f", [](const Result& r) { return r.seconds; });
  std::printf("%-44s %-22ld %-22ld\n", "parameters", static_cast<long>(results[0][0].parameters),
              static_cast<long>(results[1][0].parameters));

  std::printf("\nWhere the gates settled (beta: 0 keeps, 1 overwrites, 2 reflects), mean over seeds\n\n");
  std::printf("layer   beta at 5 %%   50 %%   95 %%     identity  projection  reflection\n");
  for (std::size_t l = 0; l < results[0][0].gates.size(); ++l) {
    Gates mean;
    for (const auto& r : results[0])
      for (std::size_t i = 0; i < 3; ++i) {
        mean.quantiles[i] += r.gates[l].quantiles[i] / options.seeds;
        mean.shares[i] += 100 * r.gates[l].shares[i] / options.seeds;
      }
    std::printf("%5zu   %11.2f %6.2f %6.2f    %7.0f %%   %7.0f %%   %7.0f %%\n", l + 1, mean.quantiles[0],
                mean.quantiles[1], mean.quantiles[2], mean.shares[0], mean.shares[1], mean.shares[2]);
  }
}

void write_json(const Options& options, const std::array<std::vector<Result>, 2>& results) {
  nlohmann::json document = {{"settings",
                              {{"width", options.width},
                               {"value_channels", options.value_channels},
                               {"depth", options.depth},
                               {"hidden", options.hidden},
                               {"batch", options.batch},
                               {"steps", options.steps},
                               {"learning_rate", options.learning_rate},
                               {"horizon", options.horizon}}},
                             {"runs", nlohmann::json::array()}};
  for (std::size_t kind = 0; kind < 2; ++kind)
    for (std::size_t seed = 0; seed < results[kind].size(); ++seed) {
      const Result& r = results[kind][seed];
      nlohmann::json gates = nlohmann::json::array();
      for (const auto& layer : r.gates)
        gates.push_back(
            {{"beta_quantiles_5_50_95", layer.quantiles}, {"identity_projection_reflection", layer.shares}});
      document["runs"].push_back({{"update", name_of(updates[kind])},
                                  {"seed", seed},
                                  {"parameters", r.parameters},
                                  {"one_step_error", r.one_step},
                                  {"angle_error_rad", r.roll_out},
                                  {"energy_drift_J", r.drift},
                                  {"seconds", r.seconds},
                                  {"gates", gates}});
    }
  training::write_json(options.json, document);
}

}  // namespace

int main(int argc, char** argv) {
  return program::run("learn_dynamics", [&] {
    Options options;
    CLI::App app("Learns the motion of a double pendulum with a DeltaResNet and with the additive control.");
    app.option_defaults()->always_capture_default();
    options::add(app, "--width", options.width, options::size, "width d of the state");
    options::add(app, "--value-channels", options.value_channels, options::size,
                 "value channels m of the state");
    options::add(app, "--depth", options.depth, options::size, "number of blocks");
    options::add(app, "--hidden", options.hidden, options::size, "width of the sublayers' hidden layer");
    options::add(app, "--batch", options.batch, options::size, "samples a step");
    options::add(app, "--steps", options.steps, options::size, "training steps");
    options::add(app, "--learning-rate", options.learning_rate, options::positive, "peak of the schedule");
    options::add(app, "--seeds", options.seeds, options::Range<int>{1}, "number of seeds");
    options::add(app, "--horizon", options.horizon, options::size, "steps of a roll-out");
    app.add_option("--json", options.json, "write the results to this file");
    CLI11_PARSE(app, argc, argv);
    if (!options.json.empty()) training::check_writable(options.json);

    const Data train_data = simulate(300, 100, 1), test_data = simulate(40, 100, 2);
    std::printf(
        "Double pendulum: %ld pairs of states %g s apart to learn from, %ld to test on.\n"
        "A DeltaResNet edits its state, X + beta k (v - X^T k)^T; the control adds to it, X + F(X).\n"
        "width %ld, value channels %ld, depth %ld, %ld steps of %ld samples; both nets train side by "
        "side.\n\n",
        static_cast<long>(train_data.inputs.cols()), time_step, static_cast<long>(test_data.inputs.cols()),
        static_cast<long>(options.width), static_cast<long>(options.value_channels),
        static_cast<long>(options.depth), static_cast<long>(options.steps), static_cast<long>(options.batch));

    std::array<std::vector<Result>, 2> results;
    for (int seed = 0; seed < options.seeds; ++seed) {
      std::array<Progress, 2> progress;
      Runs runs;
      for (std::size_t kind = 0; kind < 2; ++kind)
        runs[kind] = std::async(std::launch::async, [&, kind] {
          return train(options, updates[kind], train_data, static_cast<std::uint64_t>(seed), progress[kind]);
        });
      show_progress(options, seed, runs, progress);
      for (std::size_t kind = 0; kind < 2; ++kind)
        results[kind].push_back(evaluate(options, runs[kind].get(), train_data, test_data));
    }
    print_report(options, results);
    if (!options.json.empty()) write_json(options, results);
    return 0;
  });
}
