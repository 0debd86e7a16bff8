// SPDX-License-Identifier: MIT
#include "ddl/nn/swiglu.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

template <class Scalar, bool Fixed>
struct SwiGluLayer : LayerBase<SwiGlu<Scalar, size<Fixed>(small_width), size<Fixed>(small_width + 2),
                                      size<Fixed>(small_width + 1)>,
                               size<Fixed>(small_width), size<Fixed>(small_width + 1)> {
  using Tape = typename SwiGluLayer::Part::template Tape<size<Fixed>(small_samples)>;

  Index more = 2;  ///< hidden entries than the width

  static Index y_rows(Index width) { return width + 1; }
  auto make(Index width, Random& random) const {
    return typename SwiGluLayer::Part(width, width + 1, {width + more}, random);
  }
};

}  // namespace

TEST_CASE("SwiGLU passes the suite, and its gradients hold where a column is more than one block",
          "[nn][swiglu][grad]") {
  check_layer<SwiGluLayer>();
  check_differences(SwiGluLayer<double, false>{{}, 300});
}

TEST_CASE("SwiGLU is W_p (silu(W_1 x) * W_2 x)", "[nn][swiglu]") {
  Random random(4);
  const SwiGlu<double> swiglu(3, 2, {.hidden = 300}, random);
  Matrix<double> x(3, 4), y(2, 4);
  fill(random, x);
  SwiGlu<double>::Tape<> tape;
  swiglu.forward(x, y, tape);
  const Matrix<double> g = swiglu.c_fc1.weight * x, u = swiglu.c_fc2.weight * x;
  const Matrix<double> hidden = (g.array() / (1 + (-g.array()).exp()) * u.array()).matrix();
  CHECK(error(y, (swiglu.c_proj.weight * hidden).eval()) <= identity_tolerance<double>);
}

TEST_CASE("SwiGLU has no biases, and 8/3 of the inputs for hidden width unless said", "[nn][swiglu]") {
  Random random(4);
  CHECK(SwiGlu<double>(16, 16, {}, random).c_fc1.outputs() == 42);
  CHECK(SwiGlu<double>(16, 5, {}, random).c_proj.inputs() == 42);
  CHECK(SwiGlu<double, 3, 6>(3, 3, {}, random).c_fc2.outputs() == 6);
  CHECK(parameter_count(SwiGlu<double>(3, 2, {.hidden = 5}, random)) == 15 + 15 + 10);
}

TEST_CASE("SwiGLU refuses a hidden width that does not fit", "[nn][swiglu][errors]") {
  Random random(4);
  using Fixed = SwiGlu<double, 3, 6>;
  CHECK_THROWS_WITH(SwiGlu<double>(3, 2, {.hidden = -1}, random),
                    "ddl::SwiGlu: hidden is -1, expected at least 1");
  CHECK_THROWS_WITH(SwiGlu<double>(3, 2, {.hidden = 0}, random),
                    "ddl::SwiGlu: hidden is 0, expected at least 1");
  CHECK_THROWS_WITH(Fixed(3, 3, {.hidden = 5}, random), "ddl::Linear: out is 5, expected 6 (fixed)");
}
