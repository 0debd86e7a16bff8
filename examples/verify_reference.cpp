// SPDX-License-Identifier: MIT
/// @file  Checks the DDL Transformer against files of reference numbers: param.*, idx, targets, and what the reference
/// made of them: logits, loss, hidden.*, grad.*, greedy. For each file, in double and in float, and each group of
/// tensors it prints the largest relative RMS error and PASS or FAIL. The status is 1 if anything failed, if a setting
/// is unknown or if a tensor was not read.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <ddl/io/transformer_weights.hpp>
#include <ddl/model/sampling.hpp>
#include <ddl/train/loss.hpp>

namespace {

constexpr ddl::Index prompt_length = 5;  ///< of `greedy`, which begins with so many tokens of `idx`

struct Tolerances {
  double values, gradients;
};

/// rms(given - expected) / rms(expected); 0 of 0 is 0.
template <class Scalar>
double relative_rms(const ddl::Matrix<Scalar>& given, const ddl::Vector<double>& expected) {
  if (given.size() != expected.size()) return std::numeric_limits<double>::infinity();
  const double off = (given.reshaped().template cast<double>() - expected).norm();
  return off == 0 ? 0 : off / expected.norm();
}

/// The largest error of a group; NaN stays.
struct Worst {
  double error = 0;
  void add(double other) {
    if (other > error || std::isnan(other)) error = other;
  }
};

template <class Scalar>
class Reference {
 public:
  explicit Reference(const ddl::SafetensorsFile& file)
      : file_(file), model_(ddl::read_transformer<Scalar>(file)), tokens_(integers("idx")) {
    const ddl::TensorShape& shape = file.tensor("idx").shape;
    if (shape.size() != 2) throw ddl::FileError(file.file(), "tensor \"idx\": expected the shape [B, T]");
    batch_ = {tokens_, ddl::Index(shape[1])};
    check_all_read();
  }

  bool verify(const char* scalar, const Tolerances& tolerances) {
    auto cache = model_.make_cache();
    const auto logits = model_.forward(batch_, cache);
    ddl::Matrix<Scalar> slope = logits;
    const double loss = ddl::softmax_cross_entropy(logits, integers("targets"), slope);
    const auto hidden = hidden_error(cache);
    auto gradient = ddl::zeros_like(model_);
    model_.backward(batch_, slope, cache, gradient);
    const double expected_loss = file_.read<double>("loss")[0];

    bool passed = true;
    const auto report = [&](const char* group, double error, double tolerance) {
      const bool pass = error <= tolerance;
      std::printf("%s  %-6s  %-9s  %9.2e  (at most %.0e)  %s\n", file_.file().c_str(), scalar, group, error,
                  tolerance, pass ? "PASS" : "FAIL");
      passed = passed && pass;
    };
    report("logits", relative_rms<Scalar>(logits, file_.read<double>("logits")), tolerances.values);
    report("hidden", hidden, tolerances.values);
    report("loss", std::abs(loss - expected_loss) / std::abs(expected_loss), tolerances.values);
    report("gradients", gradient_error(gradient), tolerances.gradients);
    report("tokens", wrong_tokens(), 0);
    return passed;
  }

 private:
  std::vector<int> integers(const char* name) const {
    std::vector<int> numbers;
    file_.for_each_element<int>(name, [&](int number) { numbers.push_back(number); });
    return numbers;
  }
  std::string hidden_name(std::size_t layer) const { return "hidden." + std::to_string(layer); }
  std::size_t layers() const { return model_.blocks.size() / 2; }

  /// The embedding first, then what the readout makes of each layer's state.
  double hidden_error(typename ddl::DeltaTransformer<Scalar>::Cache& cache) const {
    Worst worst;
    worst.add(relative_rms<Scalar>(cache.embedded, file_.read<double>("hidden.0")));
    auto readout = cache.readout;
    for (std::size_t layer = 1; layer <= layers(); ++layer) {
      const ddl::Matrix<Scalar> read =
          model_.readout.forward(cache.states[2 * layer], readout, ddl::Serial{});
      worst.add(relative_rms<Scalar>(read, file_.read<double>(hidden_name(layer))));
    }
    return worst.error;
  }

  double gradient_error(const ddl::DeltaTransformer<Scalar>& gradient) const {
    auto expected = ddl::zeros_like(ddl::DeltaTransformer<double>(model_.settings));
    ddl::load_transformer(expected, file_, "grad.");
    std::vector<ddl::Matrix<double>> given;
    ddl::for_each_parameter(
        [&](const ddl::ParameterPath&, const auto& p) { given.push_back(p.template cast<double>()); },
        gradient);
    Worst worst;
    auto next = given.begin();
    ddl::for_each_parameter([&](const ddl::ParameterPath&,
                                const auto& p) { worst.add(relative_rms<double>(*next++, p.reshaped())); },
                            expected);
    for (const std::string& name : file_.names())  // of what no model reads
      if (name.starts_with("grad.") && name.find(".v_proj.") != std::string::npos &&
          ddl::unused_in_transformer(model_.settings, name))
        worst.add(file_.read<double>(name).norm() == 0 ? 0 : std::numeric_limits<double>::infinity());
    return worst.error;
  }

  /// How many of the tokens that follow the prompt differ.
  double wrong_tokens() const {
    const std::vector<int> greedy = integers("greedy");
    auto decoder = model_.make_decoder();
    ddl::Sampler sampler({.temperature = 0});
    ddl::Random random;
    int wrong = 0, next = 0;
    for (std::size_t i = 0; i < greedy.size(); ++i) {
      const bool prompted = i < std::min<std::size_t>(prompt_length, std::size_t(batch_.length));
      const int token = prompted ? batch_.tokens[i] : next;
      wrong += token != greedy[i];
      if (i + 1 < greedy.size()) next = sampler(model_.decode(token, decoder), random);
    }
    return wrong;
  }

  /// param.* and grad.* are seen to by load_transformer.
  void check_all_read() const {
    std::vector<std::string> known = {"idx", "targets", "logits", "loss", "greedy"};
    for (std::size_t layer = 0; layer <= layers(); ++layer) known.push_back(hidden_name(layer));
    for (const std::string& name : file_.names())
      if (!name.starts_with("param.") && !name.starts_with("grad.") &&
          std::find(known.begin(), known.end(), name) == known.end())
        throw ddl::FileError(file_.file(), "tensor \"" + name + "\" is not read by anything");
  }

  const ddl::SafetensorsFile& file_;
  ddl::DeltaTransformer<Scalar> model_;
  std::vector<int> tokens_;
  ddl::TokenBatch batch_;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Checks the DDL Transformer against files of reference numbers");
  std::vector<std::string> files;
  Tolerances in_double{1e-11, 1e-10}, in_float{2e-5, 1e-4};
  app.add_option("files", files, "safetensors files of reference numbers")->required();
  app.add_option("--double", in_double.values, "largest error in double")->capture_default_str();
  app.add_option("--double-gradients", in_double.gradients, "of gradients in double")->capture_default_str();
  app.add_option("--float", in_float.values, "largest error in float")->capture_default_str();
  app.add_option("--float-gradients", in_float.gradients, "of gradients in float")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  bool passed = true;
  for (const std::string& name : files) {
    try {
      const ddl::SafetensorsFile file(name);
      passed &= Reference<double>(file).verify("double", in_double);
      passed &= Reference<float>(file).verify("float", in_float);
    } catch (const std::exception& error) {
      std::printf("%s  FAIL\n", error.what());
      passed = false;
    }
  }
  std::printf("%s\n", passed ? "all PASS" : "FAIL");
  return passed ? 0 : 1;
}
