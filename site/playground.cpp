// SPDX-License-Identifier: MIT
/// @file  playground.hpp for JavaScript, by embind: settings and results are objects, numbers are typed
/// arrays, and an exception is an Error with its message.
#include <emscripten.h>
#include <emscripten/bind.h>

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "playground.hpp"

namespace {

using ddl::Index;
using emscripten::val;

// ---- values of both languages

template <class Value>
std::pair<const char*, Value> field(const char* name, const Value& value) {
  return {name, value};
}
template <class... Values>
val object(const std::pair<const char*, Values>&... fields) {
  val result = val::object();
  (result.set(fields.first, fields.second), ...);
  return result;
}

/// A typed array with a copy of the numbers.
template <class Numbers>
val array(const Numbers& numbers) {
  return val(emscripten::typed_memory_view(static_cast<std::size_t>(numbers.size()), numbers.data()))
      .template call<val>("slice");
}
/// The matrices one after the other.
val array(const std::vector<Eigen::MatrixXf>& matrices) {
  std::vector<float> numbers;
  for (const auto& matrix : matrices)
    numbers.insert(numbers.end(), matrix.data(), matrix.data() + matrix.size());
  return array(numbers);
}

/// The numbers of an array, as a matrix with as many rows.
Eigen::MatrixXf matrix(const val& numbers, Index rows) {
  const auto values = emscripten::convertJSArrayToNumberVector<float>(numbers);
  return Eigen::Map<const Eigen::MatrixXf>(values.data(), rows, static_cast<Index>(values.size()) / rows);
}

/// The share of each bin.
std::vector<float> shares(const ddl::Distribution& distribution) {
  std::vector<float> result;
  for (const Index count : distribution.counts)
    result.push_back(static_cast<float>(count) / static_cast<float>(distribution.count));
  return result;
}

EM_JS(void, throw_error, (const char* message), { throw new Error(UTF8ToString(message)); });

/// f with its exceptions as JavaScript's.
template <auto f>
struct Guarded;
template <class Result, class... Args, Result (*f)(Args...)>
struct Guarded<f> {
  static Result call(Args... args) {
    try {
      return f(args...);
    } catch (const std::exception& error) {
      throw_error(error.what());
      throw;  // not reached
    }
  }
};
template <auto f>
constexpr auto guarded = &Guarded<f>::call;

// ---- the operator

val edit_points(const val& direction, float beta, float value, const val& points) {
  const Index d = direction["length"].as<int>();
  const auto edited = playground::edit(matrix(direction, d), beta, value, matrix(points, d));
  return object(field("points", array(edited.points)), field("direction", array(edited.direction)),
                field("eigenvalues", array(edited.eigenvalues)), field("determinant", edited.determinant),
                field("regime", edited.regime));
}

// ---- depth

playground::Depth* make_depth(const val& settings) {
  const auto data = settings["data"].as<std::string>();
  ddl::Dataset<float> train, test;
  if (data == "own") {
    train.inputs = matrix(settings["points"], 2);
    train.labels = emscripten::convertJSArrayToNumberVector<int>(settings["labels"]);
  } else {
    train = playground::points(data, 400, 1);
    test = playground::points(data, 400, 2);
  }
  const auto number = [&](const char* name) { return settings[name].as<int>(); };
  return new playground::Depth({.depth = number("depth"),
                                .width = number("width"),
                                .channels = number("channels"),
                                .update = playground::update_rule(settings["update"].as<std::string>()),
                                .learning_rate = settings["learningRate"].as<double>(),
                                .batch = number("batch"),
                                .seed = settings["seed"].as<unsigned>()},
                               std::move(train), std::move(test));
}

val train_depth(playground::Depth& depth, int steps, double seconds) {
  return array(depth.train(steps, seconds));
}

val test_depth(playground::Depth& depth, int size) {
  const auto evaluation = [](const ddl::Evaluation& e) {
    return object(field("loss", e.loss), field("accuracy", e.accuracy));
  };
  const auto [train, test, layers] = depth.test();
  std::vector<float> beta, before, after;
  for (const ddl::LayerAudit& layer : layers) {
    const auto bins = shares(layer.beta);
    beta.insert(beta.end(), bins.begin(), bins.end());
    before.push_back(static_cast<float>(layer.before.mean));
    after.push_back(static_cast<float>(layer.after.mean));
  }
  return object(field("train", evaluation(train)), field("test", evaluation(test)),
                field("parameters", static_cast<int>(depth.parameters())),
                field("bins", static_cast<int>(layers.empty() ? 0 : beta.size() / layers.size())),
                field("beta", array(beta)), field("before", array(before)), field("after", array(after)),
                field("regions", array(depth.regions(size))));
}

val points_of(const playground::Depth& depth) {
  const auto points = [](const ddl::Dataset<float>& data) {
    return object(field("points", array(data.inputs)), field("labels", array(data.labels)));
  };
  return object(field("train", points(depth.train_points())), field("test", points(depth.test_points())));
}

int depth_step(const playground::Depth& depth) { return static_cast<int>(depth.step()); }

// ---- time

playground::Time* make_time(const val& settings) {
  return new playground::Time({.task = settings["task"].as<std::string>(),
                               .negative_eigenvalues = settings["negativeEigenvalues"].as<bool>(),
                               .edits = settings["edits"].as<int>(),
                               .learning_rate = settings["learningRate"].as<double>(),
                               .seed = settings["seed"].as<unsigned>(),
                               .steps = settings["steps"].as<int>()});
}
val train_time(playground::Time& time, int steps) { return array(time.train(steps)); }
val test_time(const playground::Time& time) {
  const auto [accuracy, beta] = time.test();
  return object(field("accuracy", array(accuracy)), field("beta", array(shares(beta))));
}
int time_step(const playground::Time& time) { return static_cast<int>(time.step()); }
val time_settings(const playground::Time& time) {
  return object(field("steps", static_cast<int>(time.settings().steps)),
                field("trained", static_cast<int>(time.settings().length)),
                field("guessing", time.guessing()));
}

// ---- memory

val rewind_memory(const val& settings) {
  const auto number = [&](const char* name) { return settings[name].as<int>(); };
  const auto rewound = playground::rewind({.depth = number("depth"),
                                           .width = number("width"),
                                           .channels = number("channels"),
                                           .beta = settings["beta"].as<double>(),
                                           .seed = settings["seed"].as<unsigned>()});
  return object(field("errors", array(rewound.errors)), field("states", array(rewound.states)),
                field("recovered", array(rewound.recovered)),
                field("stateBytes", static_cast<int>(rewound.state_bytes)),
                field("editBytes", static_cast<int>(rewound.edit_bytes)));
}

}  // namespace

EMSCRIPTEN_BINDINGS(playground) {
  using emscripten::class_, emscripten::function, emscripten::allow_raw_pointers;
  function("edit", guarded<edit_points>);
  function("rewind", guarded<rewind_memory>);
  class_<playground::Depth>("Depth")
      .constructor(guarded<make_depth>, allow_raw_pointers())
      .function("train", guarded<train_depth>)
      .function("test", guarded<test_depth>)
      .function("points", guarded<points_of>)
      .function("step", depth_step);
  class_<playground::Time>("Time")
      .constructor(guarded<make_time>, allow_raw_pointers())
      .function("train", guarded<train_time>)
      .function("test", guarded<test_time>)
      .function("step", time_step)
      .function("settings", time_settings);
}
