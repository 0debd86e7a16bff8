// SPDX-License-Identifier: MIT
/// @file  A training step of the DDL Transformer behind a C interface, for compare_transformer.py.
#include <ddl/core/thread_pool.hpp>
#include <ddl/io/transformer_weights.hpp>
#include <ddl/train/loss.hpp>

namespace {

using Model = ddl::DeltaTransformer<float>;

struct Training {
  ddl::ThreadPool pool;
  Model model, gradient;
  Model::Tape tape;
  ddl::Matrix<float> dlogits;
};

}  // namespace

extern "C" {

/// The model of a safetensors file. What a step keeps: 0 all, 1 no states (they are computed backwards), 2 no activations either.
Training* ddl_make(const char* path, long threads, int mode) {
  constexpr ddl::Memory modes[] = {ddl::Memory::training, ddl::Memory::reversible,
                                   ddl::Memory::reversible_recompute};
  auto model = ddl::read_transformer<float>(ddl::SafetensorsFile(path));
  auto tape = model.make_tape(modes[mode]);
  auto gradient = ddl::zeros_like(model);
  return new Training{ddl::ThreadPool(threads), std::move(model), std::move(gradient), std::move(tape), {}};
}

void ddl_free(Training* training) { delete training; }

/// Forward, cross-entropy and backward on B sequences of T tokens; the gradient is set, not added to. @return the loss.
float ddl_step(Training* training, const int* tokens, const int* targets, long B, long T) {
  auto& [pool, model, gradient, tape, dlogits] = *training;
  const std::size_t N = static_cast<std::size_t>(B * T);
  const ddl::TokenBatch batch{{tokens, N}, T};
  const auto& logits = model.forward(batch, tape, pool);
  dlogits.resizeLike(logits);
  const double loss = ddl::softmax_cross_entropy(logits, std::span(targets, N), dlogits, pool);
  ddl::set_zero(gradient);
  model.backward(dlogits, tape, gradient, pool);
  return static_cast<float>(loss);
}

/// Writes the gradient as a checkpoint.
void ddl_save_gradient(Training* training, const char* path) {
  ddl::save_transformer(training->gradient, path);
}
}
