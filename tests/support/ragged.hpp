// SPDX-License-Identifier: MIT
/// @file  Sequences of different lengths in one batch, against each of them alone.
#pragma once

#include <vector>

#include "support/layer_suite.hpp"

namespace ddl::test {

/// A pass over sequences of 1, 70, 3 and 5 tokens is to be what the passes over each of them are: outputs,
/// and with random cotangents the gradients of inputs and parameters. `columns`: of x, of each token.
template <class Layer>
void check_ragged(const Layer& layer, Index columns = 1) {
  using Part = typename Layer::Part;
  const std::vector<Index> offsets = {0, 1, 71, 74, 79};
  Random random(8);
  const Part part = [&] {
    Part made = layer.make(small_width, random);
    for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p, 0.5); }, made);
    return made;
  }();
  typename Layer::X x(layer.x_rows(small_width), 79 * columns);
  const Index y_columns = layer.y_cols(79) / 79;
  typename Layer::Y y(layer.y_rows(small_width), 79 * y_columns), dy(y.rows(), y.cols());
  fill(random, x);
  fill(random, dy);
  const auto run = [&](const auto& in, auto& out, auto out_gradient, auto& in_gradient, Part& gradient,
                       const ddl::Pass& pass) {
    typename Layer::Tape tape;
    layer.forward(part, in, out, tape, pass);
    layer.backward(part, in, out, out_gradient, in_gradient, tape, gradient, pass);
  };
  typename Layer::X dx = Layer::X::Zero(x.rows(), x.cols());
  Part gradient = zeros_like(part), expected_gradient = zeros_like(part);
  run(x, y, dy, dx, gradient, {Serial{}, offsets});
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    CAPTURE(s);
    const Index begin = offsets[s], count = offsets[s + 1] - begin;
    const typename Layer::X own_x = x.middleCols(begin * columns, count * columns);
    const typename Layer::Y own_dy = dy.middleCols(begin * y_columns, count * y_columns);
    typename Layer::X own_dx = Layer::X::Zero(own_x.rows(), own_x.cols());
    typename Layer::Y own_y(own_dy.rows(), own_dy.cols());
    run(own_x, own_y, own_dy, own_dx, expected_gradient, {Serial{}, count});
    CHECK(relative_error(y.middleCols(begin * y_columns, count * y_columns).eval(), own_y) <= 1e-12);
    CHECK(relative_error(dx.middleCols(begin * columns, count * columns).eval(), own_dx) <= 1e-12);
  }
  for_each_parameter(
      [](const ParameterPath& path, const auto& g, const auto& expected) {
        INFO(path.str());
        CHECK(expected.norm() > 0);
        CHECK(relative_error(g, expected) <= 1e-12);
      },
      gradient, expected_gradient);
}

}  // namespace ddl::test
