// SPDX-License-Identifier: MIT
/// @file  A training step of the DDL Transformer behind a C interface, for compare_transformer.py.
#include <ddl/core/thread_pool.hpp>
#include <ddl/data/language.hpp>
#include <ddl/io/transformer_weights.hpp>
#include <ddl/train/sharded_step.hpp>

namespace {

using Model = ddl::DeltaTransformer<float>;
using Step = ddl::detail::ShardedStep<Model>;

/// A batch of sequences of `length` tokens, cut into shards of whole sequences.
struct Batch {
  std::span<const int> tokens, targets;
  ddl::Index length, parts;

  void next() {}
  ddl::Index samples() const { return static_cast<ddl::Index>(tokens.size()); }
  ddl::Index shards() const { return parts; }
  ddl::LanguageShard<float> shard(ddl::Index s) const {
    const auto at = [&](ddl::Index i) {
      return static_cast<std::size_t>(ddl::detail::shard_begin(samples() / length, parts, i) * length);
    };
    const std::size_t begin = at(s), count = at(s + 1) - begin;
    return {{tokens.subspan(begin, count), length},
            targets.subspan(begin, count),
            static_cast<double>(targets.size())};
  }
};

struct Training {
  ddl::ThreadPool pool;
  Model model;
  ddl::Index shards;
  Step step;
  Model* gradient = nullptr;
};

}  // namespace

extern "C" {

/// The model of a safetensors file, to be trained on batches of so many shards. What a step keeps: 0 all, 1
/// no states (they are computed backwards), 2 no activations either.
Training* ddl_make(const char* path, long threads, int mode, long shards) {
  constexpr ddl::Memory modes[] = {ddl::Memory::training, ddl::Memory::reversible,
                                   ddl::Memory::reversible_recompute};
  const auto model = ddl::read_transformer<float>(ddl::SafetensorsFile(path));
  return new Training{ddl::ThreadPool(threads), model, shards, Step(model, shards, modes[mode], nullptr)};
}

void ddl_free(Training* training) { delete training; }

/// Forward, cross-entropy and backward on B sequences of T tokens; the gradient is set, not added to. @return
/// the loss.
float ddl_step(Training* training, const int* tokens, const int* targets, long B, long T) {
  const std::size_t N = static_cast<std::size_t>(B * T);
  Batch batch{{tokens, N}, {targets, N}, T, training->shards};
  Step::Result total;
  training->gradient = &training->step.compute(training->model, batch, total, training->pool);
  return static_cast<float>(total.loss.mean());
}

/// Writes the gradient as a checkpoint.
void ddl_save_gradient(Training* training, const char* path) {
  ddl::save_transformer(*training->gradient, path);
}
}
