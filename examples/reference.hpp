// SPDX-License-Identifier: MIT
/// @file  Files of reference numbers for the DDL Transformer, under the authors' names, and for the models of
/// flash-linear-attention, under its names; and the comparison with what this library computes:
///
///     param.*          the parameters; flash-linear-attention's also without "param."
///     idx, targets     tokens and what follows them, B x T; a target of -1 is ignored. Without targets, they are the next
///                      tokens of idx, and the last of a sequence is ignored
///     logits           B x T x vocabulary
///     hidden.i         B x T x width, of a DDL Transformer: the embedding, then what is read of the state after each layer
///     loss, grad.*     the mean cross-entropy, and its gradients
///     greedy           the first 5 tokens of idx and the 8 most likely ones after them
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ddl/io/delta_net_weights.hpp>
#include <ddl/io/transformer_weights.hpp>
#include <ddl/model/language_model.hpp>
#include <ddl/model/sampling.hpp>
#include <ddl/train/loss.hpp>

namespace reference {

constexpr ddl::Index prompt_length = 5, decoded_length = 8;

/// The largest relative RMS error of each group of tensors, and the number of tokens that differ.
struct Errors {
  double logits = 0, loss = 0, gradients = 0, tokens = 0;
  std::optional<double> hidden = {};  ///< of a DDL Transformer
};

/// Whether the model is one of flash-linear-attention's.
inline bool is_over_time(const ddl::SafetensorsFile& file) { return !file.metadata().contains("variant"); }

/// Whether any number is stored in less than double precision, so that no pass can be closer.
inline bool is_rounded(const ddl::SafetensorsFile& file) {
  const auto names = file.names();
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    const std::string& dtype = file.tensor(name).dtype;
    return dtype == "F32" || dtype == "F16" || dtype == "BF16";
  });
}

/// rms(given - expected) / rms(expected); 0 of 0 is 0.
template <class Scalar>
double relative_rms(const ddl::Matrix<Scalar>& given, const ddl::Vector<double>& expected) {
  const double off = (given.reshaped().template cast<double>() - expected).norm();
  return off == 0 ? 0 : off / expected.norm();
}

/// The largest of the errors added; NaN stays.
struct Worst {
  double error = 0;
  void add(double other) {
    if (other > error || std::isnan(other)) error = other;
  }
};

template <class Scalar>
class Reference {
 public:
  /// @throws ddl::FileError if a setting is unknown, a tensor is missing or misshapen, or one is not read by
  /// anything.
  explicit Reference(const ddl::SafetensorsFile& file)
      : file_(file),
        model_(is_over_time(file) ? ddl::read_delta_net<Scalar, ddl::LanguageMixer<Scalar>>(file)
                                  : ddl::read_transformer<Scalar, ddl::LanguageMixer<Scalar>>(file)) {
    const ddl::TensorShape shape = file.tensor("idx").shape;
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < std::uint64_t(prompt_length))
      throw ddl::FileError(file.file(), "tensor \"idx\": has shape " + ddl::detail::tensor_shape_text(shape) +
                                            ", expected [B, T], T at least " + std::to_string(prompt_length));
    const auto size = [](ddl::Index n) { return static_cast<std::uint64_t>(n); };
    if (!is_over_time(file) || file.contains("targets")) expect_shape("targets", shape);
    expect_shape("logits", {shape[0], shape[1], size(model_.vocabulary())});
    for (std::size_t layer = 0; layer < hidden_count(); ++layer)
      expect_shape(hidden_name(layer), {shape[0], shape[1], size(model_.width())});
    if (file.tensor("loss").shape != ddl::TensorShape{}) expect_shape("loss", {1});
    const std::uint64_t greedy = size(prompt_length + decoded_length);
    const bool flat = is_over_time(file) && file.tensor("greedy").shape.size() == 1;
    expect_shape("greedy", flat ? ddl::TensorShape{greedy} : ddl::TensorShape{1, greedy});
    tokens_ = integers("idx");
    batch_ = {tokens_, static_cast<ddl::Index>(shape[1])};
    check_all_read();
  }

  /// @throws ddl::FileError if a number is out of range: a token that is not in the vocabulary.
  Errors errors() const {
    try {
      return compare();
    } catch (const std::invalid_argument& error) {
      throw ddl::FileError(file_.file(), error.what());
    }
  }

 private:
  Errors compare() const {
    Errors errors;
    auto tape = model_.make_tape();
    const auto logits = model_.forward(batch_, tape);
    ddl::Matrix<Scalar> dlogits = logits;
    const double loss = ddl::softmax_cross_entropy(logits, targets(), dlogits);
    if (hidden_count() > 0) errors.hidden = hidden_error(tape);
    auto gradient = ddl::zeros_like(model_);
    model_.backward(dlogits, tape, gradient);
    const double expected_loss = file_.read<double>("loss")[0];
    errors.logits = relative_rms<Scalar>(logits, file_.read<double>("logits"));
    errors.loss = std::abs(loss - expected_loss) / std::abs(expected_loss);
    errors.gradients = gradient_error(gradient);
    errors.tokens = wrong_tokens();
    return errors;
  }

  std::vector<int> integers(const char* name) const {
    std::vector<int> numbers;
    file_.for_each_element<int>(name, [&](int number) { numbers.push_back(number); });
    return numbers;
  }
  std::vector<int> targets() const {
    if (file_.contains("targets")) return integers("targets");
    std::vector<int> targets(tokens_.size(), ddl::ignored_label);
    const auto length = static_cast<std::size_t>(*batch_.length);
    for (std::size_t n = 0; n < targets.size(); ++n)
      if ((n + 1) % length != 0) targets[n] = tokens_[n + 1];
    return targets;
  }
  void expect_shape(const std::string& name, const ddl::TensorShape& expected) const {
    const ddl::TensorShape& shape = file_.tensor(name).shape;
    if (shape != expected)
      throw ddl::FileError(file_.file(), "tensor \"" + name + "\": has shape " +
                                             ddl::detail::tensor_shape_text(shape) + ", expected " +
                                             ddl::detail::tensor_shape_text(expected));
  }
  std::string hidden_name(std::size_t layer) const { return "hidden." + std::to_string(layer); }
  std::size_t hidden_count() const { return is_over_time(file_) ? 0 : model_.layers.size() + 1; }

  /// The embedding first, then what the readout makes of each layer's state.
  double hidden_error(typename ddl::LanguageModel<Scalar>::Tape& tape) const {
    Worst worst;
    worst.add(relative_rms<Scalar>(tape.embedded, file_.read<double>("hidden.0")));
    auto readout = tape.readout;
    for (std::size_t layer = 1; layer < hidden_count(); ++layer) {
      const ddl::Matrix<Scalar> read =
          model_.readout.forward(tape.states[2 * layer], readout, {ddl::Serial{}, *batch_.length});
      worst.add(relative_rms<Scalar>(read, file_.read<double>(hidden_name(layer))));
    }
    return worst.error;
  }

  double gradient_error(const ddl::LanguageModel<Scalar>& gradient) const {
    auto expected = ddl::zeros_like(ddl::LanguageModel<double>(model_.settings));
    if (is_over_time(file_))
      ddl::load_delta_net(expected, file_, "grad.");
    else
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
      if (!is_over_time(file_) && name.starts_with("grad.") && name.find(".v_proj.") != std::string::npos &&
          ddl::unused_in_transformer(model_.settings, name))
        worst.add(file_.read<double>(name).norm() == 0 ? 0 : std::numeric_limits<double>::infinity());
    return worst.error;
  }

  /// How many of the tokens that follow the prompt differ.
  double wrong_tokens() const {
    const std::vector<int> greedy = integers("greedy");
    auto state = model_.make_state(1, prompt_length + decoded_length);
    ddl::Sampler sampler({.temperature = 0});
    ddl::Random random;
    int wrong = 0, next = 0;
    for (std::size_t i = 0; i < greedy.size(); ++i) {
      const bool prompted = i < std::size_t(prompt_length);
      const int token = prompted ? batch_.tokens[i] : next;
      wrong += token != greedy[i];
      if (i + 1 < greedy.size()) next = sampler(model_.infer(token, state).col(0), random);
    }
    return wrong;
  }

  /// Parameters and gradients are seen to by the functions that load them.
  void check_all_read() const {
    std::vector<std::string> known = {"idx", "targets", "logits", "loss", "greedy"};
    std::vector<std::string> beginnings = {"param.", "grad."};
    if (is_over_time(file_)) beginnings.insert(beginnings.end(), {"model.", "lm_head."});
    for (std::size_t layer = 0; layer < hidden_count(); ++layer) known.push_back(hidden_name(layer));
    for (const std::string& name : file_.names())
      if (std::none_of(beginnings.begin(), beginnings.end(), [&](auto& b) { return name.starts_with(b); }) &&
          std::find(known.begin(), known.end(), name) == known.end())
        throw ddl::FileError(file_.file(), "tensor \"" + name + "\" is not read by anything");
  }

  const ddl::SafetensorsFile& file_;
  ddl::LanguageModel<Scalar> model_;
  std::vector<int> tokens_;
  ddl::TokenBatch batch_;
};

}  // namespace reference
