// SPDX-License-Identifier: MIT
/// @file  DDL Transformers in safetensors files, under the names and settings of the authors' code.
/// @source github.com/yifanzhang-pro/deep-delta-learning: the names of parameters and settings.
///
/// The metadata hold `variant` (name_of(Variant)) and `config`, a JSON object of the authors' settings; those
/// that it does not name have the authors' defaults. `ddl_rewrite` is ours: "write_only" or "additive", the
/// controls.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "ddl/io/foreign_weights.hpp"
#include "ddl/model/delta_transformer.hpp"

namespace ddl {

/// The settings of a variant, from the authors' configuration.
/// @tparam MixerSettings  AttentionSettings, or a variant that has them: LanguageModelSettings::Mixer.
/// @throws std::invalid_argument if the variant or a setting is unknown, or one has a value that is not
/// provided for.
template <class MixerSettings = AttentionSettings>
DeltaTransformerSettings<MixerSettings> transformer_settings(const std::string& variant,
                                                             const nlohmann::json& config) {
  const auto named = std::find_if(all_variants.begin(), all_variants.end(),
                                  [&](Variant each) { return variant == name_of(each); });
  if (named == all_variants.end())
    fail("ddl::transformer_settings", "the variant", variant, "vdim1, tc, tc_ec, cc or cc_ec");
  detail::ConfigReader from("ddl::transformer_settings", config);
  const bool expanded = *named != Variant::vdim1;
  auto to = settings_of<MixerSettings>(*named);
  to.vocabulary = from.number("vocab_size", Index(50304));
  to.layers = from.number("num_hidden_layers", Index(12), 0);
  to.width = from.number("hidden_size", Index(768));
  to.context = from.number("block_size", Index(1024));
  to.mixer = AttentionSettings{.heads = from.number("num_attention_heads", Index(6)),
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
    to.value = LinearValueSettings{.source = ValueSource::compressed};
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
  if (to.expansion.kernel) to.expansion.kernel = from.number("input_embed_shortconv_kernel_size", Index(4));

  const nlohmann::json update = from.take("ddl_rewrite", name_of(UpdateRule::delta));
  for (const UpdateRule each : {UpdateRule::delta, UpdateRule::write_only, UpdateRule::additive})
    if (update == name_of(each)) to.update = each;
  if (update != name_of(to.update))
    fail(from.where, "ddl_rewrite", detail::json_text(update), "delta, write_only or additive");

  for (const char* key : {"bias", "using_groupnorm", "use_output_gate", "use_k_shift", "use_v_shift",
                          "scale_attn_by_inverse_layer_idx", "mup"})
    from.only(key, false);
  for (const char* key : {"q_activation", "k_activation", "v_activation"}) from.only(key, nullptr);
  from.only("dropout", 0);
  // Where weights started does not matter once they are read. What is left of the others does not concern
  // this variant, and the authors' code ignores it.
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
template <class MixerSettings = AttentionSettings>
DeltaTransformerSettings<MixerSettings> transformer_settings(const SafetensorsFile& file) {
  const std::string& variant = detail::metadata_entry(file, "variant");
  const nlohmann::json config = detail::parse_metadata(file, "config");
  try {
    return transformer_settings<MixerSettings>(variant, config);
  } catch (const std::invalid_argument& error) {
    throw FileError(file.file(), error.what());
  }
}

/// The inverse of transformer_settings: the metadata `variant` and `config`. @throws std::invalid_argument if
/// the authors' code has no such model.
template <class MixerSettings>
Metadata transformer_metadata(const DeltaTransformerSettings<MixerSettings>& settings) {
  const auto* compressor = std::get_if<CompressorSettings>(&settings.compressor);
  const auto* over_channels = std::get_if<ChannelConvolutionSettings>(&settings.compressor);
  const auto* over_tokens = std::get_if<TokenConvolutionSettings>(&settings.compressor);
  const auto* value = std::get_if<LinearValueSettings>(&settings.value);
  const auto* constant = std::get_if<ConstantValueSettings>(&settings.value);
  const auto* tanh = std::get_if<TanhGateSettings>(&settings.gate);
  const bool expands = settings.expansion.kernel.has_value();
  const auto expect = [](bool true_of_it, const char* what, const char* expected) {
    if (!true_of_it) fail("ddl::transformer_metadata", what, "none of the authors' models", expected);
  };
  const auto* attention = detail::chosen<AttentionSettings>(settings.mixer);
  expect(attention, "this mixer", "causal self-attention");
  check_positive("ddl::transformer_metadata", "heads", attention->heads);
  expect(!compressor || (settings.value_channels == 1 && !expands),
         "a model without a convolution to compress", "one value channel, repeated");
  expect(!value || value->source == ValueSource::compressed, "a value of the context",
         "the compressed state's");
  expect(settings.tie_embeddings, "an untied head", "the embedding as the head");
  expect(settings.norm_eps == 1e-5 && attention->norm_eps == 1e-5, "this eps of a norm", "1e-5");
  expect(settings.mlp.hidden.value_or(8 * settings.width / 3) == 8 * settings.width / 3,
         "this hidden width of SwiGLU", "8/3 of the width, rounded down");

  const Index d = settings.width;
  nlohmann::json config = {{"vocab_size", settings.vocabulary},
                           {"num_hidden_layers", settings.layers},
                           {"hidden_size", d},
                           {"block_size", settings.context},
                           {"num_attention_heads", attention->heads},
                           {"head_dim", attention->head_dim.value_or(d / attention->heads)},
                           {"rope_base", attention->rope_base},
                           {"rope_ratio", attention->rope_ratio},
                           {"use_qk_rmsnorm", attention->qk_norm},
                           {"ddl_k_eps", settings.k_eps},
                           {"ddl_beta_single_linear", tanh == nullptr}};
  if (tanh) config["ddl_beta_hidden_size"] = tanh->hidden.value_or((std::max)(Index(1), d / 4));
  if (value) config["ddl_v_sigmoid"] = value->sigmoid_scale.has_value();
  if (value && value->sigmoid_scale) config["ddl_v_sigmoid_scale"] = *value->sigmoid_scale;
  if (constant) {
    config[compressor ? "ddl_v_dim1_constant" : "ddl_v_constant"] = true;
    config[compressor ? "ddl_v_dim1_constant_value" : "ddl_v_constant_value"] = constant->value;
  }
  if (!compressor) config["ddl_value_channels"] = settings.value_channels;
  if (over_tokens) config["ddl_state_shortconv_kernel_size"] = over_tokens->kernel;
  if (over_channels && over_channels->kernel)
    config["ddl_state_shortconv_kernel_size"] = *over_channels->kernel;
  if (expands) config["input_embed_shortconv_kernel_size"] = *settings.expansion.kernel;
  if (settings.update != UpdateRule::delta) config["ddl_rewrite"] = name_of(settings.update);
  const Variant variant = compressor    ? Variant::vdim1
                          : over_tokens ? (expands ? Variant::tc_ec : Variant::tc)
                                        : (expands ? Variant::cc_ec : Variant::cc);
  return {{"variant", name_of(variant)}, {"config", config.dump()}};
}

/// The authors' name for a parameter of a DeltaTransformer,
/// "layers.1.mlp.norm.weight" -> "transformer.h.1.ln_2.weight".
template <class MixerSettings>
std::string transformer_name(const DeltaTransformerSettings<MixerSettings>& settings, std::string_view name) {
  using detail::renamed;
  const bool over_tokens = std::holds_alternative<TokenConvolutionSettings>(settings.compressor);
  const std::string convolution = over_tokens ? "shortconv.weight" : "weight";
  const std::string gate = std::holds_alternative<TanhGateSettings>(settings.gate) ? "beta_out." : "beta.";
  constexpr std::string_view layers = "layers.";
  if (!name.starts_with(layers)) {
    const std::array<std::pair<std::string, std::string>, 4> beginnings = {
        {{"embedding.", "transformer.wte."},
         {"expansion.", "input_embed.conv."},
         {"readout.weight", "readout." + convolution},
         {"norm.", "ln_f."}}};
    return renamed(name, beginnings);
  }
  const std::size_t dot = name.find('.', layers.size());
  const std::array<std::pair<std::string, std::string>, 12> beginnings = {
      {{"compressor.weight", "compress." + convolution},
       {"compressor.", "compress."},
       {"mixer.norm.", "ln_1."},
       {"mixer.sublayer.", "attn."},
       {"mixer.gate.in.", "ddl_attn.beta_in."},
       {"mixer.gate.out.", "ddl_attn." + gate},
       {"mixer.value.projection.", "ddl_attn.v_proj."},
       {"mlp.norm.", "ln_2."},
       {"mlp.sublayer.", "mlp."},
       {"mlp.gate.in.", "ddl_mlp.beta_in."},
       {"mlp.gate.out.", "ddl_mlp." + gate},
       {"mlp.value.projection.", "ddl_mlp.v_proj."}}};
  return "transformer.h." + std::string(name.substr(layers.size(), dot - layers.size())) + "." +
         renamed(name.substr(dot + 1), beginnings);
}

/// Whether a checkpoint of the authors' has this tensor and no model reads it: the head, which is the
/// embedding, and under a constant value the projection that would have computed it.
template <class MixerSettings>
bool unused_in_transformer(const DeltaTransformerSettings<MixerSettings>& settings, std::string_view name) {
  return name == "lm_head.weight" || (std::holds_alternative<ConstantValueSettings>(settings.value) &&
                                      name.find(".v_proj.") != std::string_view::npos);
}

/// Fills the model from the tensors PREFIX + the authors' names, converted to its scalar, or leaves it as it
/// was.
/// @throws FileError if one is missing or of another shape, a tensor with the prefix belongs to nothing, or
/// lm_head.weight is there and not the embedding.
template <class Scalar, class Mixer>
void load_transformer(DeltaTransformer<Scalar, Mixer>& model, const SafetensorsFile& file,
                      const std::string& prefix = {}) {
  detail::load_by_names(
      model, file, prefix, [&](std::string_view name) { return transformer_name(model.settings, name); },
      [&](std::string_view theirs) { return unused_in_transformer(model.settings, theirs); });
}

namespace detail {

/// Calls f(name, shape) for every tensor of layer `layer` under the authors' names, or for those outside of
/// the layers if it is below 0. The settings are those that transformer_settings gives.
template <class MixerSettings, class F>
void for_each_transformer_tensor(const DeltaTransformerSettings<MixerSettings>& settings, Index layer,
                                 const F& f) {
  const auto size = [](Index n) { return static_cast<std::uint64_t>(n); };
  const AttentionSettings& attention = *chosen<AttentionSettings>(settings.mixer);
  const std::uint64_t d = size(settings.width), m = size(settings.value_channels),
                      head_dim = size(attention.head_dim.value_or(settings.width / attention.heads)),
                      inner = size(attention.heads) * head_dim, hidden = 8 * d / 3;
  const auto compressor = [&](const std::string& name) {
    const auto* over_tokens = std::get_if<TokenConvolutionSettings>(&settings.compressor);
    const auto* over_channels = std::get_if<ChannelConvolutionSettings>(&settings.compressor);
    if (over_tokens || over_channels) f(name + "read", TensorShape{m});
    if (over_tokens) f(name + "shortconv.weight", TensorShape{d * m, size(over_tokens->kernel)});
    if (over_channels)
      f(name + "weight", TensorShape{d, size(over_channels->kernel.value_or(settings.value_channels))});
  };
  if (layer < 0) {
    f("transformer.wte.weight", TensorShape{size(settings.vocabulary), d});
    if (settings.expansion.kernel)
      f("input_embed.conv.weight", TensorShape{d * m, size(*settings.expansion.kernel)});
    compressor("readout.");
    f("ln_f.weight", TensorShape{d});
    return;
  }
  const std::string h = "transformer.h." + std::to_string(layer) + ".";
  compressor(h + "compress.");
  for (const char* projection : {"attn.c_q.weight", "attn.c_k.weight", "attn.c_v.weight"})
    f(h + projection, TensorShape{inner, d});
  f(h + "attn.c_proj.weight", TensorShape{d, inner});
  if (attention.qk_norm)
    for (const char* norm : {"attn.q_rms.weight", "attn.k_rms.weight"}) f(h + norm, TensorShape{head_dim});
  for (const char* projection : {"mlp.c_fc1.weight", "mlp.c_fc2.weight"})
    f(h + projection, TensorShape{hidden, d});
  f(h + "mlp.c_proj.weight", TensorShape{d, hidden});
  for (const char* norm : {"ln_1.weight", "ln_2.weight"}) f(h + norm, TensorShape{d});
  if (settings.update == UpdateRule::additive) return;
  for (const std::string& connection : {h + "ddl_attn.", h + "ddl_mlp."}) {
    if (const auto* tanh = std::get_if<TanhGateSettings>(&settings.gate)) {
      const auto hidden_gate = size(tanh->hidden.value_or((std::max)(Index(1), settings.width / 4)));
      f(connection + "beta_in.weight", TensorShape{hidden_gate, d});
      f(connection + "beta_out.weight", TensorShape{1, hidden_gate});
      f(connection + "beta_out.bias", TensorShape{1});
    } else {
      f(connection + "beta.weight", TensorShape{1, d});
      f(connection + "beta.bias", TensorShape{1});
    }
    if (std::holds_alternative<LinearValueSettings>(settings.value)) {
      f(connection + "v_proj.weight", TensorShape{m, d});
      f(connection + "v_proj.bias", TensorShape{m});
    }
  }
}

}  // namespace detail

/// The model that a file holds, its parameters' names with or without "param.". @throws FileError
template <class Scalar, class Mixer = CausalSelfAttention<Scalar>>
DeltaTransformer<Scalar, Mixer> read_transformer(const SafetensorsFile& file) {
  const auto settings = transformer_settings<typename Mixer::Settings>(file);
  const std::string prefix = detail::parameter_prefix(file);
  detail::check_tensors(file, settings.layers, prefix, [&](Index layer, const auto& f) {
    detail::for_each_transformer_tensor(settings, layer, f);
  });
  try {
    DeltaTransformer<Scalar, Mixer> model(settings);
    load_transformer(model, file, prefix);
    return model;
  } catch (const std::invalid_argument& error) {
    throw FileError(file.file(), error.what());
  }
}

/// Writes the model as the authors' code would, whole or not at all.
/// @throws FileError, or std::invalid_argument if the authors' code has no such model.
template <class Scalar, class Mixer>
void save_transformer(const DeltaTransformer<Scalar, Mixer>& model, const std::string& path) {
  detail::save_by_names(
      model, path, transformer_metadata(model.settings),
      [&](std::string_view name) { return transformer_name(model.settings, name); },
      [](std::string_view theirs) { return theirs == "input_embed.conv.weight"; });
}

}  // namespace ddl
