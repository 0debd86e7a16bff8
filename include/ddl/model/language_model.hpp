// SPDX-License-Identifier: MIT
/// @file  A Transformer whose token mixer is chosen at run time.
#pragma once

#include "ddl/model/delta_transformer.hpp"
#include "ddl/nn/delta_rule.hpp"

namespace ddl {

/// The token mixer that the settings choose.
template <class Scalar>
using LanguageMixer = VariantPart<CausalSelfAttention<Scalar>, DeltaRule<Scalar>>;

/// A DeltaTransformer whose mixer is causal self-attention or the delta rule over time, as the settings say.
/// Any mixer combines with any update rule and compressor. The default, attention, is the paper's model.
///
///     ddl::LanguageModel<float> model({.layers = 4, .width = 256, .mixer = ddl::DeltaRuleSettings{.heads = 4}}, seed);
///
/// The models of flash-linear-attention (DeltaNet, Gated DeltaNet, Gated DeltaProduct) have plain residuals,
/// `.update = UpdateRule::additive` and one value channel.
///
/// A program that needs one mixer alone compiles faster with DeltaTransformer<Scalar, Mixer>. A mixer of a
/// user's own becomes a choice the same way: DeltaTransformer<Scalar, VariantPart<..., OwnMixer>>.
template <class Scalar>
using LanguageModel = DeltaTransformer<Scalar, LanguageMixer<Scalar>>;

/// Settings of a LanguageModel of any scalar.
using LanguageModelSettings = DeltaTransformerSettings<std::variant<AttentionSettings, DeltaRuleSettings>>;

}  // namespace ddl
