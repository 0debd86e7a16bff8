// SPDX-License-Identifier: MIT
/// @file  A classifier of points, trained from scratch: is a point inside the circle?
#include <cstdio>

#include <ddl/ddl.hpp>

int main() {
  ddl::Dataset<float> data;
  data.inputs = Eigen::MatrixXf::Random(2, 1000);
  for (const auto& x : data.inputs.colwise()) data.labels.push_back(x.norm() < 0.8f);

  ddl::TrainingRun run(ddl::DeltaResNet<float>(
      {.inputs = 2, .outputs = 2, .width = 16, .value_channels = 2, .depth = 4}, /*seed=*/1));
  ddl::SupervisedBatches<float> batches(data.view(), {.batch_size = 64});
  ddl::fit(run, batches, {.steps = 500}, ddl::ProgressBar());
  std::printf("%.1f %% correct\n", 100 * ddl::evaluate(run.model, data.view()).accuracy);
}
