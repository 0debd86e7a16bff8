// SPDX-License-Identifier: MIT
#include "ddl/data/supervised.hpp"
#include "ddl/train/fit.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"

using namespace ddl;
using namespace ddl::test;

TEST_CASE("no step allocates once every size of batch has been seen", "[train][fit][memory]") {
  const bool keep_short = GENERATE(true, false);
  using Net = DeltaResNet<float>;
  Dataset<float> data;
  data.inputs.resize(2, 100);
  Random random(1);
  random.fill_normal(data.inputs, 1);
  for (int n = 0; n < 100; ++n) data.labels.push_back(n % 3);
  TrainingRun<Net> run(Net({.inputs = 2, .outputs = 3, .width = 8, .depth = 2}, 1));
  SupervisedBatches<float> batches(data.view(), {.batch_size = 32, .keep_short = keep_short});
  const Index epoch = batches.sampler().batches_per_epoch();
  long before = 0, allocated = 0, steps = 0;
  fit(run, batches, {.steps = 6 * epoch}, [&](const auto& context) {
    if (context.report.step > epoch) {
      allocated += allocation_count - before;
      ++steps;
    }
    before = allocation_count;
  });
  CHECK(steps == 5 * epoch);
  CHECK(before > 0);
  CHECK(allocated == 0);
}
