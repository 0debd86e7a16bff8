// SPDX-License-Identifier: MIT
/// @file  DDL Transformers in safetensors files, under the names and settings of the authors' code.
/// @source github.com/yifanzhang-pro/deep-delta-learning: the names of parameters and settings.
///
/// The metadata hold `variant` (name_of(Variant)) and `config`, a JSON object of the authors' settings; those that it
/// does not name have the authors' defaults. `ddl_rewrite` is ours: "write_only" or "additive", the controls.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "ddl/io/weights.hpp"
#include "ddl/model/delta_transformer.hpp"

namespace ddl {

namespace detail {

/// Takes settings out of a JSON object one by one, so that in the end those that nobody knows are left.
class ConfigReader {
 public:
  explicit ConfigReader(nlohmann::json config) : left_(std::move(config)) {
    if (!left_.is_object()) fail(where, "the config", json_text(left_), "a JSON object");
  }

  /// A size: so large at most that the product of two is a 64-bit number.
  Index number(const char* key, Index otherwise, Index least = 1) {
    return json_integer(where, key, take(key, otherwise), least, (std::numeric_limits<std::int32_t>::max)());
  }
  double number(const char* key, double otherwise) { return json_number(where, key, take(key, otherwise)); }
  bool flag(const char* key, bool otherwise) { return json_flag(where, key, take(key, otherwise)); }
  nlohmann::json take(const char* key, nlohmann::json otherwise) {
    const auto found = left_.find(key);
    if (found == left_.end()) return otherwise;
    nlohmann::json value = std::move(*found);
    left_.erase(found);
    return value;
  }
  /// A setting of which one value is provided for.
  void only(const char* key, const nlohmann::json& expected) {
    const nlohmann::json value = take(key, expected);
    if (value != expected) fail(where, key, json_text(value), json_text(expected));
  }
  void finish() const {
    if (!left_.empty())
      fail(where, "the config", json_text(left_), "nothing besides the settings that are known");
  }

  static constexpr const char* where = "ddl::transformer_settings";

 private:
  nlohmann::json left_;
};

}  // namespace detail

/// @throws std::invalid_argument if the variant or a setting is unknown, or one has a value that is not provided for.
inline DeltaTransformerSettings transformer_settings(const std::string& variant,
                                                     const nlohmann::json& config) {
  const auto named = std::find_if(all_variants.begin(), all_variants.end(),
                                  [&](Variant each) { return variant == name_of(each); });
  if (named == all_variants.end())
    fail(detail::ConfigReader::where, "the variant", variant, "vdim1, tc, tc_ec, cc or cc_ec");
  detail::ConfigReader from(config);
  const bool expanded = *named != Variant::vdim1;
  DeltaTransformerSettings to = settings_of(*named);
  to.vocabulary = from.number("vocab_size", Index(50304));
  to.layers = from.number("num_hidden_layers", Index(12), 0);
  to.width = from.number("hidden_size", Index(768));
  to.context = from.number("block_size", Index(1024));
  to.attention = {.heads = from.number("num_attention_heads", Index(6)),
                  .head_dim = from.number("head_dim", Index(128)),
                  .rope_base = from.number("rope_base", 10000.0),
                  .rope_ratio = from.number("rope_ratio", 1.0),
                  .qk_norm = from.flag("use_qk_rmsnorm", true)};
  to.k_eps = from.number("ddl_k_eps", default_k_eps);

  if (!from.flag("ddl_beta_single_linear", true))
    to.gate = TanhGateSettings{.hidden = from.number("ddl_beta_hidden_size", Index(128))};

  if (from.flag(expanded ? "ddl_v_constant" : "ddl_v_dim1_constant", false)) {
    const char* key = expanded ? "ddl_v_constant_value" : "ddl_v_dim1_constant_value";
    to.value = ConstantValueSettings{from.number(key, 2.0)};
  } else if (from.flag("ddl_v_sigmoid", true)) {
    const double scale = from.number("ddl_v_sigmoid_scale", 4.0);
    check_range(from.where, "ddl_v_sigmoid_scale", scale, scale > 0, "a number above 0");
    to.value = LinearValueSettings{ValueSource::compressed, scale};
  } else {
    to.value = LinearValueSettings{ValueSource::compressed, 0};
  }

  if (expanded) {
    to.value_channels = from.number("ddl_value_channels", Index(4));
    if (auto* over_tokens = std::get_if<TokenConvolutionSettings>(&to.compressor))
      over_tokens->kernel = from.number("ddl_state_shortconv_kernel_size", Index(4));
    if (auto* over_channels = std::get_if<ChannelConvolutionSettings>(&to.compressor)) {
      over_channels->kernel = from.number("ddl_state_shortconv_kernel_size", to.value_channels);
      from.only("ddl_state_dv_shortconv_causal", false);
    }
  }
  if (to.expansion.kernel > 0)
    to.expansion.kernel = from.number("input_embed_shortconv_kernel_size", Index(4));

  const nlohmann::json rewrite = from.take("ddl_rewrite", name_of(Rewrite::delta));
  for (const Rewrite each : {Rewrite::delta, Rewrite::write_only, Rewrite::additive})
    if (rewrite == name_of(each)) to.rewrite = each;
  if (rewrite != name_of(to.rewrite))
    fail(from.where, "ddl_rewrite", detail::json_text(rewrite), "delta, write_only or additive");

  for (const char* key : {"bias", "using_groupnorm", "use_output_gate", "use_k_shift", "use_v_shift",
                          "scale_attn_by_inverse_layer_idx", "mup"})
    from.only(key, false);
  for (const char* key : {"q_activation", "k_activation", "v_activation"}) from.only(key, nullptr);
  from.only("dropout", 0);
  // Where weights started does not matter once they are read. What is left of the others does not concern this variant,
  // and the authors' code ignores it.
  for (const char* key :
       {"embedding_init_std", "hidden_init_std_factor", "ddl_state_read_init", "ddl_beta_init",
        "ddl_beta_hidden_size", "ddl_v_sigmoid", "ddl_v_sigmoid_scale", "ddl_v_constant",
        "ddl_v_constant_value", "ddl_v_dim1_constant", "ddl_v_dim1_constant_value", "ddl_value_channels",
        "ddl_state_shortconv_kernel_size", "ddl_state_dv_shortconv_causal",
        "input_embed_shortconv_kernel_size"})
    from.take(key, nullptr);
  from.finish();
  return to;
}

/// The settings in a file's metadata. @throws FileError
inline DeltaTransformerSettings transformer_settings(const SafetensorsFile& file) {
  const std::string& variant = detail::metadata_entry(file, "variant");
  const nlohmann::json config = detail::parse_metadata(file, "config");
  try {
    return transformer_settings(variant, config);
  } catch (const std::invalid_argument& error) {
    throw FileError(file.file(), error.what());
  }
}

/// The other way: variant and config. @throws std::invalid_argument if the authors' code has no such model.
inline Metadata transformer_metadata(const DeltaTransformerSettings& settings) {
  const auto* compressor = std::get_if<CompressorSettings>(&settings.compressor);
  const auto* over_channels = std::get_if<ChannelConvolutionSettings>(&settings.compressor);
  const auto* over_tokens = std::get_if<TokenConvolutionSettings>(&settings.compressor);
  const auto* value = std::get_if<LinearValueSettings>(&settings.value);
  const auto* constant = std::get_if<ConstantValueSettings>(&settings.value);
  const auto* tanh = std::get_if<TanhGateSettings>(&settings.gate);
  const bool expands = settings.expansion.kernel > 0, floored = settings.mlp.hidden == 8 * settings.width / 3;
  check_positive("ddl::transformer_metadata", "heads", settings.attention.heads);
  const auto expect = [](bool true_of_it, const char* what, const char* expected) {
    if (!true_of_it) fail("ddl::transformer_metadata", what, "none of the authors' models", expected);
  };
  expect(!compressor || (settings.value_channels == 1 && !expands),
         "a model without a convolution to compress", "one value channel, repeated");
  expect(!value || value->source == ValueSource::compressed, "a value of the context",
         "the compressed state's");
  expect(settings.norm_eps == 1e-5 && settings.attention.norm_eps == 1e-5, "this eps of a norm", "1e-5");
  expect(settings.mlp.hidden == 0 || floored, "this hidden width of SwiGLU",
         "8/3 of the width, rounded down");

  const Index d = settings.width;
  nlohmann::json config = {{"vocab_size", settings.vocabulary},
                           {"num_hidden_layers", settings.layers},
                           {"hidden_size", d},
                           {"block_size", settings.context},
                           {"num_attention_heads", settings.attention.heads},
                           {"head_dim", settings.attention.head_dim > 0 ? settings.attention.head_dim
                                                                        : d / settings.attention.heads},
                           {"rope_base", settings.attention.rope_base},
                           {"rope_ratio", settings.attention.rope_ratio},
                           {"use_qk_rmsnorm", settings.attention.qk_norm},
                           {"ddl_k_eps", settings.k_eps},
                           {"ddl_beta_single_linear", tanh == nullptr}};
  if (tanh) config["ddl_beta_hidden_size"] = tanh->hidden > 0 ? tanh->hidden : (std::max)(Index(1), d / 4);
  if (value) config["ddl_v_sigmoid"] = value->sigmoid_scale > 0;
  if (value && value->sigmoid_scale > 0) config["ddl_v_sigmoid_scale"] = value->sigmoid_scale;
  if (constant) {
    config[compressor ? "ddl_v_dim1_constant" : "ddl_v_constant"] = true;
    config[compressor ? "ddl_v_dim1_constant_value" : "ddl_v_constant_value"] = constant->value;
  }
  if (!compressor) config["ddl_value_channels"] = settings.value_channels;
  if (over_tokens) config["ddl_state_shortconv_kernel_size"] = over_tokens->kernel;
  if (over_channels && over_channels->kernel > 0)
    config["ddl_state_shortconv_kernel_size"] = over_channels->kernel;
  if (expands) config["input_embed_shortconv_kernel_size"] = settings.expansion.kernel;
  if (settings.rewrite != Rewrite::delta) config["ddl_rewrite"] = name_of(settings.rewrite);
  const Variant variant = compressor    ? Variant::vdim1
                          : over_tokens ? (expands ? Variant::tc_ec : Variant::tc)
                                        : (expands ? Variant::cc_ec : Variant::cc);
  return {{"variant", name_of(variant)}, {"config", config.dump()}};
}

/// The authors' name for a parameter of a DeltaTransformer, "blocks.3.norm.weight" -> "transformer.h.1.ln_2.weight".
inline std::string transformer_name(const DeltaTransformerSettings& settings, std::string_view name) {
  using Beginnings = std::span<const std::pair<std::string, std::string>>;
  const auto renamed = [](std::string_view whole, Beginnings beginnings) {
    for (const auto& [ours, theirs] : beginnings)
      if (whole.starts_with(ours)) return theirs + std::string(whole.substr(ours.size()));
    return std::string(whole);
  };
  const bool over_tokens = std::holds_alternative<TokenConvolutionSettings>(settings.compressor);
  const std::string convolution = over_tokens ? "shortconv.weight" : "weight";
  constexpr std::string_view blocks = "blocks.";
  if (!name.starts_with(blocks)) {
    const std::array<std::pair<std::string, std::string>, 4> beginnings = {
        {{"embedding.", "transformer.wte."},
         {"expansion.", "input_embed.conv."},
         {"readout.weight", "readout." + convolution},
         {"norm.", "ln_f."}}};
    return renamed(name, beginnings);
  }
  const std::size_t dot = name.find('.', blocks.size());
  const auto block = std::stoul(std::string(name.substr(blocks.size(), dot - blocks.size())));
  const bool attends = block % 2 == 0;
  const std::string rewrite = attends ? "ddl_attn." : "ddl_mlp.";
  const std::string gate = std::holds_alternative<TanhGateSettings>(settings.gate) ? "beta_out." : "beta.";
  const std::array<std::pair<std::string, std::string>, 7> beginnings = {
      {{"compressor.weight", "compress." + convolution},
       {"compressor.", "compress."},
       {"norm.", attends ? "ln_1." : "ln_2."},
       {"sublayer.", attends ? "attn." : "mlp."},
       {"gate.in.", rewrite + "beta_in."},
       {"gate.out.", rewrite + gate},
       {"value.projection.", rewrite + "v_proj."}}};
  return "transformer.h." + std::to_string(block / 2) + "." + renamed(name.substr(dot + 1), beginnings);
}

/// Whether a checkpoint of the authors' has this tensor and no model reads it: the head, which is the embedding, and
/// under a constant value the projection that would have computed it.
inline bool unused_in_transformer(const DeltaTransformerSettings& settings, std::string_view name) {
  return name == "lm_head.weight" || (std::holds_alternative<ConstantValueSettings>(settings.value) &&
                                      name.find(".v_proj.") != std::string_view::npos);
}

/// Fills the model from the tensors PREFIX + the authors' names, converted to its scalar, or leaves it as it was.
/// @throws FileError if one is missing or of another shape, a tensor with the prefix belongs to nothing, or
/// lm_head.weight is there and not the embedding.
template <class Scalar>
void load_transformer(DeltaTransformer<Scalar>& model, const SafetensorsFile& file,
                      const std::string& prefix = {}) {
  DeltaTransformer<Scalar> read = model;
  const LoadReport report = load_parameters(
      read, file, [&](std::string_view name) { return prefix + transformer_name(model.settings, name); },
      Strict::no);
  std::string problems;
  for (const std::string& name : report.missing)
    problems += "\n  missing: tensor " + detail::in_quotes(prefix + transformer_name(model.settings, name));
  for (const std::string& name : report.unexpected)
    if (name.starts_with(prefix) &&
        !unused_in_transformer(model.settings, std::string_view(name).substr(prefix.size())))
      problems += "\n  unexpected: tensor " + detail::in_quotes(name);
  if (!problems.empty()) throw FileError(file.file(), "does not fit the model" + problems);
  const std::string head = prefix + "lm_head.weight";
  if (file.contains(head) && file.read_matrix<Scalar>(head) != read.embedding.weight)
    throw FileError(file.file(), "tensor " + detail::in_quotes(head) +
                                     " is not the embedding's weight, expected the same: they are tied");
  model = std::move(read);
}

namespace detail {

/// Calls f(name, shape) for every tensor of layer `layer` under the authors' names, or for those outside of the layers
/// if it is below 0. The settings are those that transformer_settings gives.
template <class F>
void for_each_tensor(const DeltaTransformerSettings& settings, Index layer, const F& f) {
  const auto size = [](Index n) { return static_cast<std::uint64_t>(n); };
  const std::uint64_t d = size(settings.width), m = size(settings.value_channels),
                      head_dim = size(settings.attention.head_dim),
                      inner = size(settings.attention.heads) * head_dim, hidden = 8 * d / 3;
  const auto compressor = [&](const std::string& name) {
    const auto* over_tokens = std::get_if<TokenConvolutionSettings>(&settings.compressor);
    const auto* over_channels = std::get_if<ChannelConvolutionSettings>(&settings.compressor);
    if (over_tokens || over_channels) f(name + "read", TensorShape{m});
    if (over_tokens) f(name + "shortconv.weight", TensorShape{d * m, size(over_tokens->kernel)});
    if (over_channels) f(name + "weight", TensorShape{d, size(over_channels->kernel)});
  };
  if (layer < 0) {
    f("transformer.wte.weight", TensorShape{size(settings.vocabulary), d});
    if (settings.expansion.kernel > 0)
      f("input_embed.conv.weight", TensorShape{d * m, size(settings.expansion.kernel)});
    compressor("readout.");
    f("ln_f.weight", TensorShape{d});
    return;
  }
  const std::string h = "transformer.h." + std::to_string(layer) + ".";
  compressor(h + "compress.");
  for (const char* projection : {"attn.c_q.weight", "attn.c_k.weight", "attn.c_v.weight"})
    f(h + projection, TensorShape{inner, d});
  f(h + "attn.c_proj.weight", TensorShape{d, inner});
  if (settings.attention.qk_norm)
    for (const char* norm : {"attn.q_rms.weight", "attn.k_rms.weight"}) f(h + norm, TensorShape{head_dim});
  for (const char* projection : {"mlp.c_fc1.weight", "mlp.c_fc2.weight"})
    f(h + projection, TensorShape{hidden, d});
  f(h + "mlp.c_proj.weight", TensorShape{d, hidden});
  for (const char* norm : {"ln_1.weight", "ln_2.weight"}) f(h + norm, TensorShape{d});
  if (settings.rewrite == Rewrite::additive) return;
  for (const std::string& rewrite : {h + "ddl_attn.", h + "ddl_mlp."}) {
    if (const auto* tanh = std::get_if<TanhGateSettings>(&settings.gate)) {
      f(rewrite + "beta_in.weight", TensorShape{size(tanh->hidden), d});
      f(rewrite + "beta_out.weight", TensorShape{1, size(tanh->hidden)});
      f(rewrite + "beta_out.bias", TensorShape{1});
    } else {
      f(rewrite + "beta.weight", TensorShape{1, d});
      f(rewrite + "beta.bias", TensorShape{1});
    }
    if (std::holds_alternative<LinearValueSettings>(settings.value)) {
      f(rewrite + "v_proj.weight", TensorShape{m, d});
      f(rewrite + "v_proj.bias", TensorShape{m});
    }
  }
}

/// Compares every shape that the settings ask for with the file's, so that a model takes no more memory than its file
/// justifies. @throws FileError that lists what does not fit, up to the first layer where anything does not.
inline void check_tensors(const SafetensorsFile& file, const DeltaTransformerSettings& settings,
                          const std::string& prefix) {
  std::string problems;
  for (Index layer = -1; layer < settings.layers && problems.empty(); ++layer)
    for_each_tensor(settings, layer, [&](const std::string& theirs, const TensorShape& wanted) {
      const std::string name = prefix + theirs;
      problems += fit_problem(file, stored_tensor(file, name), name, wanted, true);
    });
  if (!problems.empty()) throw FileError(file.file(), "does not fit its own config" + problems);
}

}  // namespace detail

/// The model that a file holds, its parameters' names with or without "param.". @throws FileError
template <class Scalar>
DeltaTransformer<Scalar> read_transformer(const SafetensorsFile& file) {
  const DeltaTransformerSettings settings = transformer_settings(file);
  const auto names = file.names();
  const std::string prefix =
      std::any_of(names.begin(), names.end(), [](auto& name) { return name.starts_with("param."); })
          ? "param."
          : "";
  detail::check_tensors(file, settings, prefix);
  try {
    DeltaTransformer<Scalar> model(settings);
    load_transformer(model, file, prefix);
    return model;
  } catch (const std::invalid_argument& error) {
    throw FileError(file.file(), error.what());
  }
}

/// Writes the model as the authors' code would, whole or not at all.
/// @throws FileError, or std::invalid_argument if the authors' code has no such model.
template <class Scalar>
void save_transformer(const DeltaTransformer<Scalar>& model, const std::string& path) {
  SafetensorsWriter writer;
  writer.metadata = transformer_metadata(model.settings);
  for_each_parameter(
      [&](const ParameterPath& place, const auto& p) {
        const std::string name = transformer_name(model.settings, place.str());
        if (name != "input_embed.conv.weight") return writer.add(name, p, place.is_vector());
        std::vector<std::byte> bytes(static_cast<std::size_t>(p.size()) * sizeof(Scalar));
        for (Index i = 0; i < p.size(); ++i)  // PyTorch's Conv1d: (d m) x 1 x K
          detail::store_little<Scalar>(p(i / p.cols(), i % p.cols()),
                                       bytes.data() + static_cast<std::size_t>(i) * sizeof(Scalar));
        TensorShape shape = detail::shape_of(p, false);
        shape.insert(shape.begin() + 1, 1);
        writer.add(name, detail::dtype_of<Scalar>(), shape, std::move(bytes));
      },
      model);
  writer.save(path);
}

}  // namespace ddl
