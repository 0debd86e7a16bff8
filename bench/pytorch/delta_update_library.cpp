// SPDX-License-Identifier: MIT
/// @file  The batched delta update behind a C interface, for compare_delta_update.py.
#include <ddl/core/thread_pool.hpp>
#include <ddl/op/delta_update.hpp>

namespace {

struct Updater {
  ddl::ThreadPool pool;
  ddl::EditInputs<float> inputs, gradient;
  ddl::EditTape<float> tape;

  /// States of m x d, row-major, of every token.
  Eigen::Map<ddl::Matrix<float>> states(float* data) const {
    return {data, inputs.direction.rows(), inputs.value.size()};
  }
};

}  // namespace

extern "C" {

Updater* ddl_make(long threads, long N, long d, long m) {
  auto* updater = new Updater{ddl::ThreadPool(threads), {}, {}, {}};
  updater->inputs.resize(d, m, N);
  updater->gradient.resize(d, m, N);
  return updater;
}
void ddl_free(Updater* updater) { delete updater; }

float* ddl_direction(Updater* updater) { return updater->inputs.direction.data(); }
float* ddl_beta(Updater* updater) { return updater->inputs.beta.data(); }
float* ddl_value(Updater* updater) { return updater->inputs.value.data(); }
float* ddl_direction_gradient(Updater* updater) { return updater->gradient.direction.data(); }
float* ddl_value_gradient(Updater* updater) { return updater->gradient.value.data(); }
float* ddl_beta_gradient(Updater* updater) { return updater->gradient.beta.data(); }

/// Y = update(X). X, Y: N x m x d, row-major.
void ddl_forward(Updater* updater, float* X, float* Y) {
  ddl::delta_update_forward(ddl::UpdateRule::delta, updater->states(X), updater->inputs, updater->tape,
                            updater->states(Y), ddl::default_k_eps, updater->pool);
}
/// dX from dL/dY, in place. X, dX: N x m x d, row-major.
void ddl_backward(Updater* updater, float* X, float* dX) {
  ddl::delta_update_backward(ddl::UpdateRule::delta, updater->states(X), updater->inputs, updater->tape,
                             updater->states(dX), updater->gradient, updater->pool);
}
}
