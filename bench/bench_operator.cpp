// SPDX-License-Identifier: MIT
/// @file  The operator A = I - beta k k^T on a d x m matrix, beside the dense d x d matrix and Eigen's
/// HouseholderSequence of one reflector (beta = 2, so that all three are one map). The cost of ours is linear
/// in d: see the fitted complexity. One thread.
#include <Eigen/Householder>
#include <ddl/op/delta_operator.hpp>

#include "support.hpp"

namespace {

using bench::Index;
using Eigen::MatrixXf;
using Eigen::VectorXf;

/// Both ways of applying, in place and X -> Y, beside the same of the others.
void apply(benchmark::State& state, bool in_place, Index m) {
  const Index d = state.range(0);
  const VectorXf k = bench::random_matrix<float>(d, 1, 1);
  const ddl::DeltaOperator A(k, 2.0f);
  const MatrixXf dense = A.dense();
  const MatrixXf v = k / k[0];  // Eigen's reflector is I - h v v^T with v[0] = 1, which it does not store
  const VectorXf h = VectorXf::Constant(1, 2 / v.squaredNorm());
  const auto reflector = Eigen::householderSequence(v, h).setLength(1);

  const MatrixXf X = bench::random_matrix<float>(d, m, 2);
  MatrixXf ours = X, by_dense = X, by_reflector = X, Y(d, m);
  Eigen::RowVectorXf workspace(m);
  const auto apply_ours = [&] {
    if (in_place)
      A.apply_in_place(ours);
    else
      ours = A * X;
  };
  const auto apply_dense = [&] {
    if (in_place) {
      Y.noalias() = dense * by_dense;
      by_dense.swap(Y);  // the dense formula has no in-place form
    } else {
      by_dense.noalias() = dense * X;
    }
  };
  const auto apply_reflector = [&] {
    if (!in_place) by_reflector = X;
    reflector.applyThisOnTheLeft(by_reflector, workspace);
  };

  apply_ours();
  apply_dense();
  apply_reflector();
  const float tolerance = 1e-4f * X.norm();
  if (!((ours - by_dense).norm() <= tolerance && (ours - by_reflector).norm() <= tolerance))
    return state.SkipWithError("the three results differ");
  bench::paired(state, apply_ours, {{"dense", apply_dense}, {"householder", apply_reflector}});
  state.SetComplexityN(d);
}

}  // namespace

int main(int argc, char** argv) {
  for (const bool in_place : {true, false})
    for (const Index m : {1, 4})
      bench::add((in_place ? "apply_in_place/m:" : "product/m:") + std::to_string(m),
                 [=](benchmark::State& state) { apply(state, in_place, m); })
          ->ArgName("d")
          ->RangeMultiplier(2)
          ->Range(16, 4096)
          ->Complexity(benchmark::oN);
  return bench::run(argc, argv);
}
