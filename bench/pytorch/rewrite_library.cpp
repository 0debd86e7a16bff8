// SPDX-License-Identifier: MIT
/// @file  The batched rewrite behind a C interface, for compare_rewrite.py.
#include <ddl/core/thread_pool.hpp>
#include <ddl/op/rewrite.hpp>

namespace {

struct Rewriter {
  ddl::ThreadPool pool;
  ddl::Edit<float> edit;
  ddl::EditGradient<float> gradient;
};

using Map = Eigen::Map<ddl::Matrix<float>>;

}  // namespace

extern "C" {

Rewriter* ddl_make(long threads, long N, long d, long m) {
  auto* rewriter = new Rewriter{ddl::ThreadPool(threads), {}, {}};
  rewriter->edit.resize(d, m, N);
  rewriter->gradient.resize(d, m, N);
  return rewriter;
}
void ddl_free(Rewriter* rewriter) { delete rewriter; }

float* ddl_direction(Rewriter* rewriter) { return rewriter->edit.direction.data(); }
float* ddl_beta(Rewriter* rewriter) { return rewriter->edit.beta.data(); }
float* ddl_direction_gradient(Rewriter* rewriter) { return rewriter->gradient.direction.data(); }
float* ddl_value_gradient(Rewriter* rewriter) { return rewriter->gradient.value.data(); }
float* ddl_beta_gradient(Rewriter* rewriter) { return rewriter->gradient.beta.data(); }

/// Y = rewrite(X), then dX from dL/dY in place. X, Y, dX: N x m x d, row-major. v: N x m.
void ddl_forward(Rewriter* rewriter, float* X, float* v, float* Y) {
  const auto d = rewriter->edit.direction.rows(), N = rewriter->edit.direction.cols(), m = rewriter->edit.correction.rows();
  ddl::rewrite_forward(ddl::Rewrite::delta, Map(X, d, N * m), rewriter->edit, Map(v, m, N), Map(Y, d, N * m),
                       ddl::default_k_eps, rewriter->pool);
}
void ddl_backward(Rewriter* rewriter, float* X, float* dX) {
  const auto d = rewriter->edit.direction.rows(), N = rewriter->edit.direction.cols(), m = rewriter->edit.correction.rows();
  ddl::rewrite_backward(ddl::Rewrite::delta, Map(X, d, N * m), rewriter->edit, Map(dX, d, N * m), rewriter->gradient,
                        rewriter->pool);
}
}
