// SPDX-License-Identifier: MIT
#include "ddl/data/language.hpp"
#include "ddl/data/supervised.hpp"
#include "ddl/train/fit.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

/// The allocations from the end of step `first` to the end of step `steps`.
template <class Run, class Data>
long allocations_of_fit(Run& run, Data& data, Index first, Index steps) {
  long before = -1, after = -1;
  fit(run, data, {.steps = steps}, [&](const auto& context) {
    if (context.report.step == first) before = allocation_count;
    if (context.report.step == steps) after = allocation_count;
  });
  REQUIRE(before > 0);
  return after - before;
}

}  // namespace

TEST_CASE("no step allocates once every size of batch has been seen", "[train][fit][memory]") {
  const bool keep_short = GENERATE(true, false);
  const Index shards = GENERATE(1, 3);
  CAPTURE(keep_short, shards);
  using Net = DeltaResNet<float>;
  Dataset<float> data;
  data.inputs.resize(2, 100);
  Random random(1);
  random.fill_normal(data.inputs, 1);
  for (int n = 0; n < 100; ++n) data.labels.push_back(n % 3);
  TrainingRun<Net> run(Net({.inputs = 2, .outputs = 3, .width = 8, .depth = 2}, 1));
  SupervisedBatches<float> batches(data.view(),
                                   {.batch_size = 32, .keep_short = keep_short, .shards = shards});
  const Index epoch = batches.sampler().batches_per_epoch();
  CHECK(allocations_of_fit(run, batches, epoch + 1, 6 * epoch) == 0);
}

TEST_CASE("no step of a Transformer allocates after the first ones", "[train][fit][memory]") {
  const Index shards = GENERATE(1, 2);
  CAPTURE(shards);
  DeltaTransformerSettings<> settings = settings_of(Variant::cc_ec);
  settings.vocabulary = 7;
  settings.context = 12;
  settings.layers = 2;
  settings.width = 8;
  settings.mixer.heads = 2;
  std::vector<int> text;
  for (int n = 0; n < 500; ++n) text.push_back(n * 3 % 7);
  TrainingRun<DeltaTransformer<float>> run(DeltaTransformer<float>(settings, 1));
  LanguageBatches<float> batches(text, {.sequences = 4, .length = 12, .shards = shards});
  CHECK(allocations_of_fit(run, batches, 2, 12) == 0);
}
