// SPDX-License-Identifier: MIT
#include "ddl/data/batch_sampler.hpp"

#include <set>

#include "support/allocations.hpp"
#include "support/catch.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

using Order = std::vector<Index>;

Order next(BatchSampler& batches) {
  const auto samples = batches.next();
  return {samples.begin(), samples.end()};
}

Order epoch(BatchSampler& batches) {
  Order order;
  do
    for (const Index sample : batches.next()) order.push_back(sample);
  while (batches.position().batch != 0);
  return order;
}

Order sorted(Order order) {
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace

TEST_CASE("every sample is visited once in an epoch, in another order each time", "[data][batch_sampler]") {
  BatchSampler batches(10, {.batch_size = 4, .seed = 3});
  CHECK(batches.batches_per_epoch() == 3);
  const Order all = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  std::set<Order> orders = {all};
  for (std::uint64_t e = 0; e < 20; ++e) {
    CHECK(batches.position() == BatchPosition{e, 0});
    const Order order = epoch(batches);
    CHECK(sorted(order) == all);
    orders.insert(order);
  }
  CHECK(orders.size() == 21);
  BatchSampler other(10, {.batch_size = 4, .seed = 4});
  CHECK(orders.insert(epoch(other)).second);
}

TEST_CASE("the order of an epoch is not that of a neighbour of its seed", "[data][batch_sampler]") {
  BatchSampler a(50, {.seed = 7}), b(50, {.seed = 8});
  const Order first = epoch(a), second = epoch(a), other_first = epoch(b), other_second = epoch(b);
  CHECK(second != other_first);
  CHECK(first != other_second);
}

TEST_CASE("the order is the same under every compiler", "[data][batch_sampler]") {
  BatchSampler batches(8, {.batch_size = 8, .seed = 1});
  CHECK(next(batches) == Order{4, 5, 6, 0, 1, 3, 2, 7});
  CHECK(next(batches) == Order{1, 5, 2, 4, 7, 0, 3, 6});
}

TEST_CASE("each place of an epoch gets each sample equally often", "[data][batch_sampler]") {
  BatchSampler batches(4, {.batch_size = 4});
  Eigen::Matrix4i counts = Eigen::Matrix4i::Zero();
  for (int e = 0; e < 4000; ++e) {
    const auto samples = batches.next();
    for (Index i = 0; i < 4; ++i) ++counts(i, samples[static_cast<std::size_t>(i)]);
  }
  CHECK((counts.array() - 1000).abs().maxCoeff() < 140);  // five deviations
}

TEST_CASE("the last batch is short, or left out", "[data][batch_sampler]") {
  const bool keep_short = GENERATE(true, false);
  BatchSampler batches(10, {.batch_size = 4, .keep_short = keep_short});
  CHECK(batches.batches_per_epoch() == (keep_short ? 3 : 2));
  CHECK(batches.next().size() == 4);
  CHECK(batches.next().size() == 4);
  if (keep_short) CHECK(batches.next().size() == 2);
  CHECK(batches.position() == BatchPosition{1, 0});
  BatchSampler even(8, {.batch_size = 4, .keep_short = keep_short});
  CHECK(even.batches_per_epoch() == 2);
  BatchSampler one(3, {.batch_size = 3, .keep_short = keep_short});
  CHECK(epoch(one).size() == 3);
}

TEST_CASE("samples come in their own order if they are not shuffled", "[data][batch_sampler]") {
  BatchSampler batches(5, {.batch_size = 2, .shuffle = false});
  for (int e = 0; e < 2; ++e) {
    CHECK(next(batches) == Order{0, 1});
    CHECK(next(batches) == Order{2, 3});
    CHECK(next(batches) == Order{4});
  }
}

TEST_CASE("settings and position are all there is to save", "[data][batch_sampler]") {
  const BatchSettings settings{.batch_size = 3, .seed = 11};
  BatchSampler batches(10, settings);
  std::vector<BatchPosition> positions;
  std::vector<Order> orders;
  for (int i = 0; i < 13; ++i) {
    positions.push_back(batches.position());
    orders.push_back(next(batches));
  }
  BatchSampler resumed(10, settings);
  for (const std::size_t i : {5u, 0u, 12u, 4u, 3u, 6u}) {  // back and forth, within an epoch and across
    resumed.seek(positions[i]);
    CHECK(resumed.position() == positions[i]);
    CHECK(next(resumed) == orders[i]);
  }
}

TEST_CASE("no batch allocates, and no gather after the largest", "[data][batch_sampler]") {
  Dataset<float> data{.inputs = Matrix<float>::Random(7, 10),
                      .labels = std::vector<int>(10, 1),
                      .targets = Matrix<float>::Random(2, 10)};
  const auto view = data.view();
  BatchSampler batches(10, {.batch_size = 4});
  Batch<float> batch;
  batch.gather(view, batches.next());
  CHECK(allocations_in([&] {
          for (int i = 0; i < 10; ++i) batch.gather(view, batches.next());
        }) == 0);
}

TEST_CASE("a batch is the chosen samples side by side", "[data][batch_sampler]") {
  Dataset<double> data{.inputs = Matrix<double>::Random(3, 6), .labels = {0, 1, 2, 3, 4, 5}};
  Batch<double> batch;
  SECTION("with labels and targets") {
    data.targets = Matrix<double>::Random(2, 6);
    const auto view = batch.gather(data.view(), Order{4, 0, 4});
    CHECK(view.size() == 3);
    CHECK(view.inputs.col(0) == data.inputs.col(4));
    CHECK(view.inputs.col(1) == data.inputs.col(0));
    CHECK(view.inputs.col(2) == data.inputs.col(4));
    CHECK(std::vector(view.labels.begin(), view.labels.end()) == std::vector{4, 0, 4});
    CHECK(view.targets.col(0) == data.targets.col(4));
    CHECK(view.targets.col(1) == data.targets.col(0));
    const auto shorter = batch.gather(data.view(), Order{5});
    CHECK(shorter.inputs == data.inputs.col(5));
    CHECK(shorter.labels.size() == 1);
  }
  SECTION("with labels alone, then with none") {
    CHECK(batch.gather(data.view(), Order{1, 2}).targets.rows() == 0);
    data.labels.clear();
    CHECK(batch.gather(data.view(), Order{1, 2}).labels.empty());
  }
  SECTION("of a part of the data") {
    const auto rest = data.split(4).second;
    CHECK(batch.gather(rest, Order{1}).inputs == data.inputs.col(5));
    CHECK(batch.gather(rest, Order{1}).labels[0] == 5);
    CHECK_THROWS_WITH(batch.gather(rest, Order{0, 2}), "ddl::Batch::gather: a sample is 2, expected 0 to 1");
    CHECK_THROWS_AS(batch.gather(rest, Order{-1}), std::invalid_argument);
  }
}

TEST_CASE("batches that cannot be are refused", "[data][batch_sampler][errors]") {
  CHECK_THROWS_WITH(BatchSampler(0, {}), "ddl::BatchSampler: samples is 0, expected at least 1");
  CHECK_THROWS_WITH(BatchSampler(5, {.batch_size = 0}),
                    "ddl::BatchSampler: batch_size is 0, expected at least 1");
  CHECK_THROWS_WITH(
      BatchSampler(5, {.batch_size = 6, .keep_short = false}),
      "ddl::BatchSampler: batch_size is 6, expected at most 5, the number of samples, where short "
      "batches are left "
      "out");
  CHECK(BatchSampler(5, {.batch_size = 6}).next().size() == 5);
  BatchSampler batches(5, {.batch_size = 2});
  batches.next();
  CHECK_THROWS_WITH(batches.seek({0, 3}), "ddl::BatchSampler::seek: batch is 3, expected 0 to 2");
  CHECK_THROWS_AS(batches.seek({0, -1}), std::invalid_argument);
  CHECK(batches.position() == BatchPosition{0, 1});
}
