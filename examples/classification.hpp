// SPDX-License-Identifier: MIT
/// @file  What the programs on classification share: their data, options, nets and training.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <ddl/core/thread_pool.hpp>
#include <ddl/data/supervised.hpp>
#include <ddl/ddl.hpp>
#include <ddl/io/checkpoint.hpp>
#include <ddl/io/csv.hpp>
#include <ddl/io/idx.hpp>

#include "options.hpp"
#include "training.hpp"

namespace classification {

using ddl::Index;
using Net = ddl::DeltaResNet<float>;
using Data = ddl::Dataset<float>;

// ---- data

struct Problem {
  std::string name;
  Data train, test;
  Index image_side = 0;                                   ///< pixels, where samples are square images
  std::optional<ddl::Standardisation<float>> scale = {};  ///< of the training samples, applied to both
};

/// Three spirals in the plane, wound into each other, with noise.
inline Data spirals(Index samples, std::uint64_t seed) {
  ddl::Random random(seed);
  Data data;
  data.inputs.resize(2, samples);
  for (Index n = 0; n < samples; ++n) {
    const int arm = static_cast<int>(random.below(3));
    const double radius = random.uniform(0.1, 1);
    const double angle = 2 * 3.14159265358979323846 * (arm / 3.0 + 1.5 * radius) + 0.45 * random.normal();
    data.inputs.col(n) << static_cast<float>(radius * std::cos(angle)),
        static_cast<float>(radius * std::sin(angle));
    data.labels.push_back(arm);
  }
  return data;
}

/// The images in `folder` whose name has `part` in it, with their labels; nothing if there are none.
inline std::optional<Data> images_in(const std::string& folder, const std::string& part) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::string name = entry.path().filename().string();
    const auto at = name.find("images");
    if (at == std::string::npos || name.find(part) == std::string::npos || !name.ends_with("idx3-ubyte"))
      continue;
    Data data;
    data.inputs = ddl::read_idx_images<float>(entry.path().string());
    name.replace(at, 6, "labels").replace(name.find("idx3"), 4, "idx1");
    data.labels = ddl::read_idx_labels(folder + "/" + name);
    return data;
  }
  return std::nullopt;
}

/// A folder with MNIST's files (if it holds one pair of images and labels, the first four fifths are to learn
/// from), a CSV file (likewise; the last column is the class unless `label` names it), or the spirals if
/// `path` is empty. All but images are standardised: by `scale` if it is given, else by the training samples.
inline Problem load(const std::string& path, const std::string& label, Index train_count,
                    const std::optional<ddl::Standardisation<float>>& scale = {}) {
  Problem problem;
  const auto divide = [&](Data all) {
    if (train_count < 0 || train_count >= all.size())
      throw std::runtime_error(path + ": --train is " + std::to_string(train_count) + ", expected 1 to " +
                               std::to_string(all.size() - 1) + ", as it has " + std::to_string(all.size()) +
                               " samples; or 0");
    const Index count = train_count > 0 ? train_count : all.size() * 4 / 5;
    ddl::Random random(0);
    all.shuffle(random);  // files are often sorted by class
    const auto [first, rest] = all.split(count);
    const auto copy = [&](const auto& view) {
      return Data{view.inputs, {view.labels.begin(), view.labels.end()}, {}, all.class_names};
    };
    problem.train = copy(first);
    problem.test = copy(rest);
  };
  const auto standardise = [&] {
    problem.scale = scale ? *scale : ddl::Standardisation<float>(problem.train.inputs);
    problem.scale->apply(problem.train.inputs);
    problem.scale->apply(problem.test.inputs);
  };
  if (path.empty()) {
    problem.name = "three spirals (embedded)";
    problem.train = spirals(2000, 1);
    problem.test = spirals(2000, 2);
    standardise();
  } else if (std::filesystem::is_directory(path)) {
    problem.name = path;
    auto train = images_in(path, "train"), test = images_in(path, "t10k");
    if (train && test) {
      if (train_count > 0)
        throw std::runtime_error(path + ": has test files of its own, so --train has no meaning");
      problem.train = std::move(*train);
      problem.test = std::move(*test);
    } else if (train || test) {
      divide(std::move(train ? *train : *test));
    } else {
      throw std::runtime_error(
          path +
          ": holds no *train*images*ubyte or *t10k*images*ubyte (IDX, unpacked), expected MNIST's files");
    }
    const auto side = static_cast<Index>(std::lround(std::sqrt(double(problem.train.inputs.rows()))));
    if (side * side == problem.train.inputs.rows()) problem.image_side = side;
  } else {
    problem.name = path;
    divide(ddl::read_csv<float>(path, {.label = label.empty() ? ddl::read_csv_names(path).back() : label}));
    standardise();
  }
  if (problem.test.inputs.rows() != problem.train.inputs.rows())
    throw std::runtime_error(path + ": its test samples have " + std::to_string(problem.test.inputs.rows()) +
                             " inputs, expected " + std::to_string(problem.train.inputs.rows()) +
                             " as the training samples");
  return problem;
}

/// Batches of images, each moved by up to `most` pixels each way, anew in every epoch. By how much follows
/// from seed, epoch and batch, so there is no more to save than of the batches.
class ShiftedBatches : public ddl::SupervisedBatches<float> {
 public:
  ShiftedBatches(const ddl::DatasetView<float>& data, const ddl::BatchSettings& settings, Index side,
                 Index most)
      : SupervisedBatches(data, settings), side_(side), most_(side > 0 ? most : 0) {
    if (side > 0 && most >= side)
      throw std::invalid_argument("--shift is " + std::to_string(most) + ", expected 0 to " +
                                  std::to_string(side - 1) + ", as images are " + std::to_string(side) +
                                  " pixels wide");
  }

  void next() {
    const auto position = sampler().position();
    SupervisedBatches::next();
    const auto& from = SupervisedBatches::inputs();
    if (most_ == 0) return;
    ddl::Random random(ddl::Random(sampler().settings().seed)() + 1000003 * position.epoch +
                       static_cast<std::uint64_t>(position.batch));
    inputs_.setZero(from.rows(), from.cols());
    for (Index n = 0; n < from.cols(); ++n) {
      const Index down = random.below(2 * most_ + 1) - most_, right = random.below(2 * most_ + 1) - most_;
      for (Index row = std::max(Index(0), down); row < side_ + std::min(Index(0), down); ++row)
        for (Index col = std::max(Index(0), right); col < side_ + std::min(Index(0), right); ++col)
          inputs_(row * side_ + col, n) = from((row - down) * side_ + col - right, n);
    }
    replace_inputs(inputs_);
  }

 private:
  Index side_, most_;
  Eigen::MatrixXf inputs_;
};

// ---- options, nets, training

struct Options {
  std::string data, label;
  Index train_count = 0;
  Index width = 64, value_channels = 4, depth = 6, hidden = 128;
  Index batch = 64, shards = 1, epochs = 40, shift = 2;
  double learning_rate = 2e-3, weight_decay = 0.05;
  Index threads = static_cast<Index>(std::max(1u, std::thread::hardware_concurrency()));
  int seeds = 1;

  void add_to(CLI::App& app) {
    app.option_defaults()->always_capture_default();
    options::add_text(app, "--data", data,
                      "a folder with MNIST's files, or a CSV file; without it, three spirals");
    options::add_text(app, "--label", label, "the CSV file's column of classes; without it, the last one");
    options::add(app, "--train", train_count, options::size_or_0,
                 "samples to learn from where test data are not apart; 0: the first 4 of 5");
    options::add(app, "--width", width, options::size, "width d of the state");
    options::add(app, "--value-channels", value_channels, options::size, "value channels m of the state");
    options::add(app, "--depth", depth, options::size, "number of blocks");
    options::add(app, "--hidden", hidden, options::size, "width of the sublayers' hidden layer");
    options::add(app, "--batch", batch, options::size, "samples a step");
    options::add(app, "--shards", shards, options::size,
                 "parts of a batch that threads compute side by side");
    options::add(app, "--epochs", epochs, options::size, "times that every sample is seen");
    options::add(app, "--threads", threads, options::threads, "threads");
    options::add(app, "--seeds", seeds, options::Range<int>{1}, "number of seeds");
    options::add(app, "--shift", shift, options::size_or_0, "images are moved by up to so many pixels");
    options::add(app, "--learning-rate", learning_rate, options::positive, "peak of the schedule");
    options::add(app, "--weight-decay", weight_decay, options::non_negative, "AdamW's");
  }

  /// What weights, gradient, moments, and what a step keeps take in a net with these inputs, about.
  double bytes(Index inputs) const {
    const double d = double(width), state = d * double(value_channels), layers = double(depth),
                 n = double(hidden);
    const double weights = double(inputs) * state + layers * (2 * d * n + state + 4 * d + n);
    return 4 * (4 * weights + double(batch) * layers * (state + 2 * n + 4 * d));
  }
  /// f(), where memory may run out for these options.
  template <class F>
  auto within_memory(Index inputs, const F& f) const {
    static const std::vector<options::Size<Options>> sizes = {{"--width", &Options::width},
                                                              {"--value-channels", &Options::value_channels},
                                                              {"--depth", &Options::depth},
                                                              {"--hidden", &Options::hidden},
                                                              {"--batch", &Options::batch}};
    return options::within_memory(
        *this, sizes, [inputs](const Options& o) { return o.bytes(inputs); }, f);
  }

  nlohmann::json json() const {
    return {{"data", data},
            {"label", label},
            {"train", train_count},
            {"width", width},
            {"value_channels", value_channels},
            {"depth", depth},
            {"hidden", hidden},
            {"batch", batch},
            {"shards", shards},
            {"epochs", epochs},
            {"shift", shift},
            {"learning_rate", learning_rate},
            {"weight_decay", weight_decay}};
  }
};

constexpr std::array residuals{ddl::UpdateRule::delta, ddl::UpdateRule::write_only,
                               ddl::UpdateRule::additive};

/// The residual of this name. @throws std::runtime_error if there is none.
inline ddl::UpdateRule residual_named(const std::string& name) {
  for (const auto residual : residuals)
    if (name == name_of(residual)) return residual;
  throw std::runtime_error("the residual is " + name + ", expected delta, write_only or additive");
}

inline Net::Settings net_settings(const nlohmann::json& settings) {
  Net::Settings net{.inputs = training::setting<Index>(settings, "inputs"),
                    .outputs = training::setting<Index>(settings, "outputs"),
                    .width = training::setting<Index>(settings, "width"),
                    .value_channels = training::setting<Index>(settings, "value_channels"),
                    .depth = training::setting<Index>(settings, "depth")};
  net.block.sublayer.hidden = training::setting<Index>(settings, "hidden");
  net.block.update = residual_named(training::setting<std::string>(settings, "residual"));
  return net;
}

/// What a checkpoint needs to know: the options, the residual, and of the problem its sizes, content, classes
/// and standardisation. The additive control has no gates and values; its hidden layers are widened until it
/// has as many parameters.
inline nlohmann::json settings_of(const Options& options, const Problem& problem, ddl::UpdateRule residual) {
  nlohmann::json settings = options.json();
  settings["inputs"] = problem.train.inputs.rows();
  settings["outputs"] = std::max(problem.train.class_count(), problem.test.class_count());
  settings["data_hash"] = training::hash_text(content_hash(problem.train.view()));
  settings["class_names"] = problem.train.class_names;
  if (problem.scale) {
    const auto list = [](const auto& x) { return std::vector<float>(x.begin(), x.end()); };
    settings["mean"] = list(problem.scale->mean);
    settings["deviation"] = list(problem.scale->deviation);
  }
  settings["residual"] = name_of(ddl::UpdateRule::delta);
  if (residual == ddl::UpdateRule::additive) {
    const Index wanted = parameter_count(Net(net_settings(settings)));
    settings["residual"] = name_of(residual);
    while (parameter_count(Net(net_settings(settings))) < wanted)
      settings["hidden"] = settings["hidden"].get<Index>() + 1;
  }
  settings["residual"] = name_of(residual);
  return settings;
}

/// The settings that a run that goes on may have otherwise: where the data are, and for how long it learns.
inline const std::vector<std::string> may_differ = {"data", "label", "epochs"};

/// The standardisation that a checkpoint's net was trained with, if any.
inline std::optional<ddl::Standardisation<float>> scale_of(const nlohmann::json& settings) {
  if (!settings.contains("mean")) return std::nullopt;
  const auto vector = [&](const char* name) {
    const auto values = training::setting<std::vector<float>>(settings, name);
    return ddl::Vector<float>(Eigen::Map<const Eigen::VectorXf>(values.data(), Index(values.size())));
  };
  ddl::Standardisation<float> scale;
  scale.mean = vector("mean");
  scale.deviation = vector("deviation");
  if (scale.mean.size() != scale.deviation.size())
    throw std::runtime_error("the checkpoint has " + std::to_string(scale.mean.size()) + " means and " +
                             std::to_string(scale.deviation.size()) + " deviations");
  return scale;
}

/// Numbers the classes as a checkpoint's net does: by name. @throws std::runtime_error if it does not know a
/// name.
inline void number_classes(Data& data, const std::vector<std::string>& names) {
  if (data.class_names == names || data.class_names.empty()) return;
  std::vector<int> numbers;
  for (const auto& name : data.class_names) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end())
      throw std::runtime_error("the net was not trained on the class \"" + name + "\"");
    numbers.push_back(int(found - names.begin()));
  }
  for (int& label : data.labels)
    if (label != ddl::ignored_label) label = numbers[std::size_t(label)];
  data.class_names = names;
}

struct Trainer {
  Trainer(const Options& options, const Problem& problem, ddl::UpdateRule residual, int seed)
      : settings(settings_of(options, problem, residual)),
        run(Net(net_settings(settings), static_cast<std::uint64_t>(seed)),
            {.weight_decay = options.weight_decay}),
        batches(problem.train.view(),
                {.batch_size = options.batch,
                 .seed = static_cast<std::uint64_t>(seed),
                 .keep_short = false,
                 .shards = options.shards},
                problem.image_side, options.shift) {
    settings["seed"] = seed;
    fit.steps = options.epochs * batches.sampler().batches_per_epoch();
    fit.learning_rate = ddl::WarmupCosine({.peak = options.learning_rate,
                                           .warmup = std::min(fit.steps, fit.steps / 20 + 1),
                                           .steps = fit.steps});
  }

  nlohmann::json settings;
  ddl::TrainingRun<Net> run;
  ShiftedBatches batches;
  ddl::FitSettings fit;
};

struct Summary {
  double mean = 0, deviation = 0;
};

inline Summary summarise(const std::vector<double>& values) {
  Summary all;
  for (const double x : values) all.mean += x / static_cast<double>(values.size());
  for (const double x : values) all.deviation += (x - all.mean) * (x - all.mean);
  all.deviation = values.size() > 1 ? std::sqrt(all.deviation / static_cast<double>(values.size() - 1)) : 0;
  return all;
}

}  // namespace classification
