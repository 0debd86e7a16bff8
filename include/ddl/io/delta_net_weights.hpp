// SPDX-License-Identifier: MIT
/// @file  DeltaNet, Gated DeltaNet and Gated DeltaProduct in safetensors files, under the names and settings
/// of flash-linear-attention (fla).
/// @source github.com/fla-org/flash-linear-attention: the names of parameters and settings, and their
/// defaults.
///
/// The settings are a JSON object, in the metadata under `config` or in a config.json beside the file. Its
/// `model_type`, or else the metadata's `model`, is delta_net, gated_deltanet or gated_deltaproduct.
/// docs/weights.md lists the names, shapes and formulas.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "ddl/io/foreign_weights.hpp"
#include "ddl/io/model_config.hpp"
#include "ddl/model/delta_transformer.hpp"
#include "ddl/nn/delta_rule.hpp"

namespace ddl {

/// Settings of the models of fla. The context has no limit, as the state of the mixer has a constant size.
/// @tparam MixerSettings  DeltaRuleSettings, or a variant that has them: LanguageModelSettings::Mixer.
/// @param model_type  what the model is, if the config does not say: it may be empty.
/// @throws std::invalid_argument if a setting has a value that is not provided for. Keys that are not known
/// do not matter: what they would add to a model shows in its tensors.
template <class MixerSettings = DeltaRuleSettings>
DeltaTransformerSettings<MixerSettings> delta_net_settings(const nlohmann::json& config,
                                                           const std::string& model_type = {}) {
  constexpr const char* where = "ddl::delta_net_settings";
  detail::ConfigReader from(where, config, detail::Null::is_the_default);
  const nlohmann::json type = from.take("model_type", model_type);
  const bool plain = type == "delta_net", gated = type == "gated_deltanet";
  if (!plain && !gated && type != "gated_deltaproduct")
    fail(where, "model_type", detail::json_text(type), "delta_net, gated_deltanet or gated_deltaproduct");

  from.only("use_short_conv", true);
  from.only("conv_bias", false);
  from.only("attn", nullptr);
  const nlohmann::json activation = from.take("hidden_act", "swish");
  if (activation != "swish" && activation != "silu")
    fail(where, "hidden_act", detail::json_text(activation), "swish or silu");
  if (plain) {
    from.only("qk_norm", "l2");
    from.only("qk_activation", "silu");
    from.only("use_beta", true);
  }

  constexpr double largest = detail::ConfigReader::largest;
  const auto size = [&](const char* key, double ratio, double value) {  // what a ratio of sizes makes
    check_range(where, key, ratio, value >= 1 && value <= largest,
                "a number that makes the size 1 to 2147483647");
    return static_cast<Index>(value);
  };
  constexpr Index most_heads = 1 << 16;  // the product of heads, edits and a size is a 64-bit number
  DeltaTransformerSettings<MixerSettings> to;
  to.vocabulary = from.number("vocab_size", Index(32000));
  to.context = detail::ConfigReader::largest;
  to.layers = from.number("num_hidden_layers", Index(plain ? 24 : 21), 0);
  to.width = from.number("hidden_size", Index(2048));
  to.norm_eps = from.number("norm_eps", 1e-6);
  to.tie_embeddings = from.flag("tie_word_embeddings", false);
  to.update = UpdateRule::additive;
  const double ratio = from.number("hidden_ratio", 4.0);
  const nlohmann::json hidden = from.take("intermediate_size", nullptr);
  to.mlp.hidden =
      hidden.is_null()
          ? size("hidden_ratio", ratio, 256 * std::ceil(std::floor(double(to.width) * ratio * 2 / 3) / 256))
          : detail::json_integer(where, "intermediate_size", hidden, 1, detail::ConfigReader::largest);

  DeltaRuleSettings mixer;
  mixer.heads = from.number("num_heads", Index(plain ? 16 : 6), 1, most_heads);
  mixer.convolution = from.number("conv_size", Index(4));
  mixer.negative_eigenvalues = from.flag("allow_neg_eigval", false);
  mixer.norm_eps = to.norm_eps;
  const auto per_head = [&](const char* key) {
    const double expand = from.number(key, 1.0);
    const Index all = size(key, expand, std::floor(double(to.width) * expand));
    if (all % mixer.heads != 0)
      fail(where, key, "such that all heads have " + std::to_string(all),
           "a multiple of the " + std::to_string(mixer.heads) + " heads");
    return all / mixer.heads;
  };
  if (plain) {
    mixer.head_dim = per_head("expand_k");
    mixer.value_dim = per_head("expand_v");
  } else {
    mixer.head_dim = from.number("head_dim", Index(256));
    const double expand = from.number("expand_v", 2.0), dim = double(*mixer.head_dim) * expand;
    mixer.value_dim = size("expand_v", expand, std::round(dim));
    check_range(where, "expand_v", expand, std::abs(dim - std::round(dim)) <= 1e-9 * dim,
                "a number that makes head_dim times it whole");
    mixer.value_heads = from.number("num_v_heads", mixer.heads, 1, most_heads);
  }
  mixer.output_gate = from.flag(plain || gated ? "use_gate" : "use_output_gate", !plain);
  mixer.decay = gated || (!plain && from.flag("use_forget_gate", false));
  if (!plain && !gated) mixer.edits = from.number("num_householder", Index(1), 1, most_heads);
  to.mixer = mixer;
  return to;
}

/// The settings of a file, from its metadata or a config.json beside it. @throws FileError
template <class MixerSettings = DeltaRuleSettings, TensorSource Source>
DeltaTransformerSettings<MixerSettings> delta_net_settings(const Source& source) {
  const nlohmann::json config = read_model_config(source);
  const auto model = source.metadata().find("model");
  try {
    return delta_net_settings<MixerSettings>(config, model == source.metadata().end() ? "" : model->second);
  } catch (const std::invalid_argument& error) {
    throw FileError(source.file(), error.what());
  }
}

/// The inverse of delta_net_settings: the contents of a config.json. @throws std::invalid_argument if fla has
/// no such model.
template <class MixerSettings>
nlohmann::json delta_net_config(const DeltaTransformerSettings<MixerSettings>& settings) {
  const auto expect = [](bool true_of_it, const char* what, const char* expected) {
    if (!true_of_it) fail("ddl::delta_net_config", what, "none of fla's models", expected);
  };
  const auto* chosen = detail::chosen<DeltaRuleSettings>(settings.mixer);
  expect(chosen, "this mixer", "the delta rule over time");
  expect(settings.update == UpdateRule::additive, "this update rule", "additive");
  expect(settings.value_channels == 1 && !settings.expansion.kernel &&
             std::holds_alternative<CompressorSettings>(settings.compressor),
         "a state that is expanded and compressed", "one value channel");
  expect(chosen->update == UpdateRule::delta, "this mixer's update rule", "delta");
  expect(chosen->convolution.has_value(), "a mixer without short convolutions", "with them");
  expect(chosen->norm_eps == settings.norm_eps, "a mixer's norm_eps of its own", "the model's");

  const DeltaRuleSettings& mixer = *chosen;
  check_positive("ddl::delta_net_config", "heads", mixer.heads);
  const Index value_heads = mixer.value_heads.value_or(mixer.heads),
              head_dim = mixer.head_dim.value_or(settings.width / mixer.heads),
              value_dim = mixer.value_dim.value_or(head_dim);
  const bool plain = mixer.edits == 1 && !mixer.decay && value_heads == mixer.heads;
  const bool gated = mixer.edits == 1 && mixer.decay;
  const auto expand = [](Index size, Index from) {  // so that int(from * expand) is the size
    const double ratio = double(size) / double(from);
    return double(from) * ratio < double(size) ? std::nextafter(ratio, 2 * ratio) : ratio;
  };
  nlohmann::json config = {{"model_type", plain   ? "delta_net"
                                          : gated ? "gated_deltanet"
                                                  : "gated_deltaproduct"},
                           {"vocab_size", settings.vocabulary},
                           {"num_hidden_layers", settings.layers},
                           {"hidden_size", settings.width},
                           {"intermediate_size", settings.mlp.hidden.value_or(8 * settings.width / 3)},
                           {"norm_eps", settings.norm_eps},
                           {"tie_word_embeddings", settings.tie_embeddings},
                           {"num_heads", mixer.heads},
                           {"conv_size", *mixer.convolution},
                           {"allow_neg_eigval", mixer.negative_eigenvalues},
                           {plain || gated ? "use_gate" : "use_output_gate", mixer.output_gate}};
  if (plain) {
    config["expand_k"] = expand(mixer.heads * head_dim, settings.width);
    config["expand_v"] = expand(mixer.heads * value_dim, settings.width);
  } else {
    config["head_dim"] = head_dim;
    config["expand_v"] = expand(value_dim, head_dim);
    config["num_v_heads"] = value_heads;
  }
  if (!plain && !gated) {
    config["num_householder"] = mixer.edits;
    config["use_forget_gate"] = mixer.decay;
  }
  return config;
}

/// fla's name for a parameter:
/// "layers.1.mixer.sublayer.q_proj.weight" -> "model.layers.1.attn.q_proj.weight".
inline std::string delta_net_name(std::string_view name) {
  constexpr std::string_view layers = "layers.";
  if (!name.starts_with(layers)) {
    const std::array<std::pair<std::string, std::string>, 3> beginnings = {
        {{"embedding.", "model.embeddings."}, {"norm.", "model.norm."}, {"head.", "lm_head."}}};
    return detail::renamed(name, beginnings);
  }
  const std::array<std::pair<std::string, std::string>, 6> beginnings = {
      {{"mixer.norm.", "attn_norm."},
       {"mixer.sublayer.", "attn."},
       {"mlp.norm.", "mlp_norm."},
       {"mlp.sublayer.c_fc1.", "mlp.gate_proj."},
       {"mlp.sublayer.c_fc2.", "mlp.up_proj."},
       {"mlp.sublayer.c_proj.", "mlp.down_proj."}}};
  const std::size_t dot = name.find('.', layers.size());
  return "model." + std::string(name.substr(0, dot + 1)) + detail::renamed(name.substr(dot + 1), beginnings);
}

/// Fills the model from the tensors PREFIX + fla's names, converted to its scalar, or leaves it as it was.
/// @throws FileError if one is missing or of another shape, a tensor PREFIXmodel.* or PREFIXlm_head.* belongs
/// to nothing, or the head is tied, and lm_head.weight is there and not the embedding.
template <class Scalar, class Mixer, TensorSource Source>
void load_delta_net(DeltaTransformer<Scalar, Mixer>& model, const Source& source,
                    const std::string& prefix = {}) {
  detail::load_by_names(model, source, prefix, delta_net_name, [&](std::string_view theirs) {
    const bool of_a_model = theirs.starts_with("model.") || theirs.starts_with("lm_head.");
    return !of_a_model || (model.settings.tie_embeddings && theirs == "lm_head.weight");
  });
}

namespace detail {

/// Calls f(name, shape) for every tensor of layer `layer` under fla's names, or for those outside of the
/// layers if it is below 0. The settings are those that delta_net_settings gives.
template <class MixerSettings, class F>
void for_each_delta_net_tensor(const DeltaTransformerSettings<MixerSettings>& settings, Index layer,
                               const F& f) {
  const auto size = [](Index n) { return static_cast<std::uint64_t>(n); };
  const DeltaRuleSettings& mixer = *chosen<DeltaRuleSettings>(settings.mixer);
  const std::uint64_t d = size(settings.width), hidden = size(*settings.mlp.hidden),
                      edits = size(mixer.edits), value_heads = size(mixer.value_heads.value_or(mixer.heads)),
                      keys = size(mixer.heads) * size(*mixer.head_dim),
                      values = value_heads * size(*mixer.value_dim), kernel = size(*mixer.convolution);
  if (layer < 0) {
    f("model.embeddings.weight", TensorShape{size(settings.vocabulary), d});
    f("model.norm.weight", TensorShape{d});
    if (!settings.tie_embeddings) f("lm_head.weight", TensorShape{size(settings.vocabulary), d});
    return;
  }
  const std::string h = "model.layers." + std::to_string(layer) + ".", attn = h + "attn.";
  f(h + "attn_norm.weight", TensorShape{d});
  f(attn + "q_proj.weight", TensorShape{keys, d});
  f(attn + "k_proj.weight", TensorShape{edits * keys, d});
  f(attn + "v_proj.weight", TensorShape{edits * values, d});
  f(attn + "b_proj.weight", TensorShape{edits * value_heads, d});
  f(attn + "q_conv1d.weight", TensorShape{keys, kernel});
  f(attn + "k_conv1d.weight", TensorShape{edits * keys, kernel});
  f(attn + "v_conv1d.weight", TensorShape{edits * values, kernel});
  if (mixer.decay) {
    f(attn + "a_proj.weight", TensorShape{value_heads, d});
    f(attn + "A_log", TensorShape{value_heads});
    f(attn + "dt_bias", TensorShape{value_heads});
  }
  if (mixer.output_gate) f(attn + "g_proj.weight", TensorShape{values, d});
  f(attn + "o_norm.weight", TensorShape{size(*mixer.value_dim)});
  f(attn + "o_proj.weight", TensorShape{d, values});
  f(h + "mlp_norm.weight", TensorShape{d});
  f(h + "mlp.gate_proj.weight", TensorShape{hidden, d});
  f(h + "mlp.up_proj.weight", TensorShape{hidden, d});
  f(h + "mlp.down_proj.weight", TensorShape{d, hidden});
}

}  // namespace detail

/// The model that a file, or a folder of shards, holds; its parameters' names with or without "param.".
///
///     auto model = ddl::read_delta_net<float>(ddl::ShardedSafetensors("folder"));     // with the folder's config.json
///
/// @tparam Mixer  DeltaRule, or a part that chooses it, as LanguageModel's. @throws FileError
template <class Scalar, class Mixer = DeltaRule<Scalar>, TensorSource Source>
DeltaTransformer<Scalar, Mixer> read_delta_net(const Source& source) {
  const auto settings = delta_net_settings<typename Mixer::Settings>(source);
  const std::string prefix = detail::parameter_prefix(source);
  detail::check_tensors(source, settings.layers, prefix, [&](Index layer, const auto& f) {
    detail::for_each_delta_net_tensor(settings, layer, f);
  });
  try {
    DeltaTransformer<Scalar, Mixer> model(settings);
    load_delta_net(model, source, prefix);
    return model;
  } catch (const std::invalid_argument& error) {
    throw FileError(source.file(), error.what());
  }
}

/// Writes the model under fla's names, whole or not at all, with delta_net_config in the metadata. Hugging
/// Face's from_pretrained reads the settings from a config.json: write delta_net_config there.
/// @throws FileError, or std::invalid_argument if fla has no such model.
template <class Scalar, class Mixer>
void save_delta_net(const DeltaTransformer<Scalar, Mixer>& model, const std::string& path) {
  const nlohmann::json config = delta_net_config(model.settings);
  detail::save_by_names(
      model, path,
      {{"format", "pt"}, {"model", config.at("model_type").get<std::string>()}, {"config", config.dump()}},
      delta_net_name,
      [](std::string_view theirs) { return theirs.find("_conv1d.") != std::string_view::npos; });
}

}  // namespace ddl
