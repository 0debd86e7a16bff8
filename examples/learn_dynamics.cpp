// SPDX-License-Identifier: MIT
/// @file  Learns the motion of a double pendulum with a DeltaResNet and, on the same data, seeds and number
/// of parameters, with the additive control; then compares them over many steps and shows where the gates
/// settled.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <ddl/core/thread_pool.hpp>
#include <ddl/ddl.hpp>

#include "options.hpp"
#include "plots.hpp"
#include "training.hpp"

namespace {

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
struct Data : ddl::Dataset<float> {
  State unit;
};

Data simulate(Index trajectories, Index length, std::uint64_t seed) {
  ddl::Random random(seed);
  Data data{{.inputs = Batch(6, trajectories * length)}, {}};
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
  Index width = 32, value_channels = 4, depth = 6, hidden = 64, batch = 128, shards = 1, steps = 4000;
  double learning_rate = 3e-3;
  Index seeds = 3, horizon = 200;
  Index threads = static_cast<Index>(std::max(1u, std::thread::hardware_concurrency()));
  std::string output;
};

constexpr std::array updates{ddl::UpdateRule::delta, ddl::UpdateRule::additive};

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

/// One line for all runs, with the losses of those that are trained: a mean over the last steps.
class Progress {
 public:
  explicit Progress(const Options& options)
      : steps_(options.seeds * options.steps * static_cast<Index>(updates.size())) {}

  /// The observer of a run of updates[kind].
  auto observer(std::size_t kind) {
    return [this, kind, mean = 0.0](const auto& context) mutable {
      const double loss = context.report.loss;
      mean = mean > 0 ? 0.99 * mean + 0.01 * loss : loss;
      const std::lock_guard lock(mutex_);
      losses_[kind] = mean;
      const double share = static_cast<double>(++made_) / static_cast<double>(steps_);
      if (!line_.due(share)) return;
      char text[96];
      std::snprintf(text, sizeof text, "  loss: delta %.2e, additive %.2e", losses_[0], losses_[1]);
      line_.draw("", share, text);
    };
  }

 private:
  std::mutex mutex_;
  Index steps_, made_ = 0;
  std::array<double, 2> losses_{};
  ddl::ProgressLine line_{stdout};
};

struct Trained {
  Net net;
  double seconds = 0;
};

Trained train(const Options& options, ddl::UpdateRule update, const Data& data, std::uint64_t seed,
              const ddl::ThreadPool& pool, auto observer) {
  ddl::TrainingRun run(Net(settings_of(options, update), seed), {.weight_decay = 1e-4});
  ddl::SupervisedBatches<float> batches(
      data.view(), {.batch_size = options.batch, .seed = seed + 1000, .shards = options.shards});
  const ddl::WarmupCosine schedule(
      {.peak = options.learning_rate, .warmup = options.steps / 20, .steps = options.steps});
  const auto fitted =
      fit_on(pool, run, batches, {.steps = options.steps, .learning_rate = schedule}, observer);
  return {std::move(run.model), fitted.last.seconds};
}

// ---- evaluation

/// The gates of one layer over the test data.
struct Gates {
  std::array<double, 3> quantiles{};  // of beta: 5, 50 and 95 %
  std::array<double, 3> shares{};     // of the regimes identity, projection, reflection
};

struct Result {
  double one_step = 0;                // RMS error of one step, in units of the RMS change of a step
  std::vector<double> roll_out = {};  // RMS error of the angles after 1, 2, .. steps, rad
  double drift = 0;                   // mean |E - E_0| over the roll-outs, J
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
    result.roll_out.push_back((rolled - truth).topRows(2).norm() / std::sqrt(2.0 * starts));
  }
  return result;
}

// ---- report

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
  std::printf("\n%ld seeds, mean +- standard deviation\n\n%-41s %-18s %s\n", long(options.seeds), "", "delta",
              "additive control");
  const auto row = [&](const std::string& label, const char* format, const auto& figure) {
    std::printf("%-41s %-18s %s\n", label.c_str(), over_seeds(results[0], format, figure).c_str(),
                over_seeds(results[1], format, figure).c_str());
  };
  const std::string horizon = std::to_string(options.horizon);
  row("one-step error (share of a step's change)", "%.5f", [](const Result& r) { return r.one_step; });
  row("angle error after " + horizon + " steps (rad)", "%.3f",
      [](const Result& r) { return r.roll_out.back(); });
  row("energy drift over " + horizon + " steps (J)", "%.3f", [](const Result& r) { return r.drift; });
  row("training time (s)", "%.1f", [](const Result& r) { return r.seconds; });
  std::printf("%-41s %-18ld %ld\n", "parameters", static_cast<long>(results[0][0].parameters),
              static_cast<long>(results[1][0].parameters));

  std::printf("\nWhere the gates settled (0 keeps, 1 overwrites, 2 reflects), mean over seeds\n\n");
  std::printf("layer   beta at 5 %%   50 %%   95 %%     identity  projection  reflection\n");
  for (std::size_t l = 0; l < results[0][0].gates.size(); ++l) {
    Gates mean;
    for (const auto& r : results[0])
      for (std::size_t i = 0; i < 3; ++i) {
        mean.quantiles[i] += r.gates[l].quantiles[i] / static_cast<double>(options.seeds);
        mean.shares[i] += 100 * r.gates[l].shares[i] / static_cast<double>(options.seeds);
      }
    std::printf("%5zu   %11.2f %6.2f %6.2f    %7.0f %%   %7.0f %%   %7.0f %%\n", l + 1, mean.quantiles[0],
                mean.quantiles[1], mean.quantiles[2], mean.shares[0], mean.shares[1], mean.shares[2]);
  }
}

void write_results(const Options& options, const std::array<std::vector<Result>, 2>& results) {
  nlohmann::json document = {{"settings",
                              {{"width", options.width},
                               {"value_channels", options.value_channels},
                               {"depth", options.depth},
                               {"hidden", options.hidden},
                               {"batch", options.batch},
                               {"shards", options.shards},
                               {"steps", options.steps},
                               {"learning_rate", options.learning_rate},
                               {"horizon", options.horizon}}},
                             {"runs", nlohmann::json::array()}};
  plots::Table table("run,seed,seconds,error");
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
                                  {"angle_error_rad", r.roll_out.back()},
                                  {"energy_drift_J", r.drift},
                                  {"seconds", r.seconds},
                                  {"gates", gates}});
      for (std::size_t i = 0; i < r.roll_out.size(); ++i)
        table.add(name_of(updates[kind]), seed, time_step * static_cast<double>(i + 1), r.roll_out[i]);
    }
  training::write_json(options.output + ".json", document);
  table.save(options.output + ".csv");
  std::printf("\nresults: %s.json\n", options.output.c_str());
  plots::draw("training.gp", options.output + ".csv", options.output,
              "xlabel='seconds ahead'; ylabel='error of the predicted angles (rad)'; logy=1");
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
    options::add(app, "--shards", options.shards, options::size,
                 "parts of a batch that threads compute side by side");
    options::add(app, "--steps", options.steps, options::size, "training steps");
    options::add(app, "--learning-rate", options.learning_rate, options::positive, "peak of the schedule");
    options::add(app, "--seeds", options.seeds, options::size, "number of seeds");
    options::add(app, "--horizon", options.horizon, options::size, "steps of a roll-out");
    options::add(app, "--threads", options.threads, options::threads, "all of them give the same results");
    app.add_option("--output", options.output,
                   "write OUTPUT.json, a table and a picture: OUTPUT.csv, OUTPUT.svg and OUTPUT.png");
    CLI11_PARSE(app, argc, argv);
    if (!options.output.empty()) training::check_writable(options.output + ".json");

    const Data train_data = simulate(300, 100, 1), test_data = simulate(40, 100, 2);
    std::printf(
        "Double pendulum: %ld pairs of states %g s apart to learn from, %ld to test.\n"
        "A DeltaResNet edits its state, X + beta k (v - X^T k)^T.\n"
        "The additive control adds to it, X + F(X).\n"
        "Width %ld, value channels %ld, depth %ld; %ld steps of %ld samples, %ld seeds.\n\n",
        static_cast<long>(train_data.size()), time_step, static_cast<long>(test_data.size()),
        static_cast<long>(options.width), static_cast<long>(options.value_channels),
        static_cast<long>(options.depth), static_cast<long>(options.steps), static_cast<long>(options.batch),
        static_cast<long>(options.seeds));
    std::fflush(stdout);

    std::array<std::vector<Result>, 2> results;
    for (auto& of_seeds : results) of_seeds.resize(static_cast<std::size_t>(options.seeds));
    const ddl::ThreadPool pool(options.threads);
    {
      Progress progress(options);
      pool.for_each(2 * options.seeds, [&](Index run) {
        const auto kind = static_cast<std::size_t>(run % 2), seed = static_cast<std::size_t>(run / 2);
        const Trained trained =
            train(options, updates[kind], train_data, seed, pool, progress.observer(kind));
        results[kind][seed] = evaluate(options, trained, train_data, test_data);
      });
    }
    print_report(options, results);
    if (!options.output.empty()) write_results(options, results);
    return 0;
  });
}
