// SPDX-License-Identifier: MIT
#include "ddl/op/delta_update.hpp"

#include <limits>
#include <utility>
#include <vector>

#include "ddl/train/gradient_check.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/executors.hpp"
#include "support/op_data.hpp"

using namespace ddl::test;
using ddl::Dynamic;
using ddl::EditInputs;
using ddl::EditTape;
using ddl::Index;
using ddl::Matrix;
using ddl::Random;
using ddl::UpdateRule;
using ddl::Vector;
using Real = long double;

namespace {

constexpr UpdateRule rules[] = {UpdateRule::delta, UpdateRule::write_only, UpdateRule::additive};

// The tokens of a batch go through every pair of a gate and a length of kt; k_eps is comparable to the
// smallest.
constexpr double gates[] = {0, 1e-6, 1, 2 - 1e-6, 2};
constexpr double lengths[] = {1e-3, 1, 1e3};
constexpr double k_eps = 1e-3;
constexpr int every_token = 15;
double gate_of(Index n) { return gates[n % 5]; }
double length_of(Index n) { return lengths[n / 5 % 3]; }

/// What goes into an update and, G, comes back to it; and what comes out.
template <class Scalar, int Rows = Dynamic, int Cols = Dynamic, int Tokens = Dynamic>
struct Problem {
  using Wide = ddl::Accum<Scalar>;

  Matrix<Scalar, Rows, Dynamic> X, G, Y, dX;
  EditInputs<Scalar, Rows, Cols, Tokens> inputs, gradient;
  EditTape<Scalar, Rows, Cols, Tokens> tape;

  Problem(Index d, Index m, Index tokens, std::uint64_t seed = 1) : Y(d, tokens * m) {
    Random random(seed);
    X = random_matrix<Matrix<Scalar>>(random, d, tokens * m);
    G = dX = random_matrix<Matrix<Scalar>>(random, d, tokens * m);
    inputs.resize(d, m, tokens);
    inputs.value = random_matrix<Matrix<Wide>>(random, m, tokens);
    for (Index n = 0; n < tokens; ++n) {
      inputs.direction.col(n) =
          (length_of(n) * random_matrix<Vector<double>>(random, d)).template cast<Scalar>();
      inputs.beta(n) = static_cast<Wide>(gate_of(n));
    }
  }
  /// The same numbers in another scalar.
  template <class Other>
  explicit Problem(const Problem<Other>& p)
      : X(p.X.template cast<Scalar>()), G(p.G.template cast<Scalar>()), Y(X), dX(G) {
    inputs.direction = p.inputs.direction.template cast<Scalar>();
    inputs.beta = p.inputs.beta.template cast<Wide>();
    inputs.value = p.inputs.value.template cast<Wide>();
  }

  template <class E = ddl::Serial>
  void forward(UpdateRule rule, double eps = k_eps, const E& executor = {}) {
    ddl::delta_update_forward(rule, X, inputs, tape, Y, eps, executor);
  }
  template <class E = ddl::Serial>
  void backward(UpdateRule rule, const E& executor = {}) {
    dX = G;
    ddl::delta_update_backward(rule, X, inputs, tape, dX, gradient, executor);
  }
};

/// The widest form of every scalar.
template <class Derived>
Matrix<Real> wide(const Eigen::MatrixBase<Derived>& x) {
  return widen(x).template cast<Real>();
}

/// dkt / s, that is, the gradient with respect to kt in units of its length: no token drowns the others.
template <class P, class Grad>
Matrix<Real> per_length(const P& p, const Grad& dkt) {
  Matrix<Real> grad = wide(dkt);
  for (Index n = 0; n < grad.cols(); ++n)
    if (p.tape.inverse_norm(n) > 0) grad.col(n) /= static_cast<Real>(p.tape.inverse_norm(n));
  return grad;
}

/// The textbook, one token at a time, in long double.
struct Textbook {
  Matrix<Real> Y, dX, dkt, dv, dbeta, k, read;

  template <class P>
  Textbook(UpdateRule rule, const P& p, double eps = k_eps) {
    const Matrix<Real> X = wide(p.X), G = wide(p.G), v = wide(p.inputs.value), kt = wide(p.inputs.direction),
                       beta = wide(p.inputs.beta);
    const Index m = v.rows(), tokens = v.cols();
    Y = dX = X;
    k = dkt = kt;
    read = dv = v;
    dbeta = beta;
    for (Index n = 0; n < tokens; ++n) {
      const Real b = beta(n), e = static_cast<ddl::Accum<typename decltype(p.X)::Scalar>>(eps);
      const Real root = std::sqrt(kt.col(n).squaredNorm() + e * e), s = root > 0 ? 1 / root : 0;
      k.col(n) = s * kt.col(n);
      const Vector<Real> kn = k.col(n);
      const auto Xn = X.middleCols(n * m, m), Gn = G.middleCols(n * m, m);
      const Vector<Real> u = Xn.transpose().lazyProduct(kn), g = Gn.transpose().lazyProduct(kn);
      const Vector<Real> r = rule == UpdateRule::delta ? Vector<Real>(v.col(n) - u) : Vector<Real>(v.col(n));
      auto Yn = Y.middleCols(n * m, m), dXn = dX.middleCols(n * m, m);
      if (rule == UpdateRule::additive) {
        Yn = Xn.colwise() + kt.col(n);
        dXn = Gn;
        dkt.col(n) = Gn.rowwise().sum();
        dv.col(n).setZero();
        dbeta(n) = 0;
      } else {
        Yn = Xn + (b * kn).lazyProduct(r.transpose());
        Vector<Real> dk = b * Gn.lazyProduct(r);
        dXn = Gn;
        if (rule == UpdateRule::delta) {
          dk -= b * Xn.lazyProduct(g);
          dXn -= (b * kn).lazyProduct(g.transpose());
        }
        dkt.col(n) = s * (dk - kn * kn.dot(dk));
        dv.col(n) = b * g;
        dbeta(n) = g.dot(r);
      }
      read.col(n) = u;
    }
  }
};

/// Everything that check_gradients may vary. z is kt in units of its length.
struct Inputs {
  using Scalar = double;
  Matrix<double> X, z, v, beta;
  static constexpr auto parameters() {
    using ddl::parameter;
    return std::tuple(parameter("X", &Inputs::X), parameter("kt", &Inputs::z), parameter("v", &Inputs::v),
                      parameter("beta", &Inputs::beta));
  }
};

}  // namespace

TEMPLATE_TEST_CASE_SIG("forward and backward are the textbook's, token by token", "[op][delta_update][grad]",
                       ((class Scalar, int Rows, int Cols), Scalar, Rows, Cols), (float, Dynamic, Dynamic),
                       (double, Dynamic, Dynamic), (long double, Dynamic, Dynamic),
                       (Eigen::half, Dynamic, Dynamic), (Eigen::bfloat16, Dynamic, Dynamic), (double, 17, 5),
                       (double, 8, 1), (float, 1, 3)) {
  constexpr double tolerance = tolerance_of<Scalar>();
  constexpr int tokens = Rows == Dynamic ? Dynamic : every_token;
  for (const Index d : {1, 3, 8, 17, 64})
    for (const Index m : {1, 2, 3, 4, 5, 8}) {
      if ((Rows != Dynamic && Rows != d) || (Cols != Dynamic && Cols != m)) continue;
      for (const UpdateRule rule : rules) {
        CAPTURE(d, m, name_of(rule));
        Problem<Scalar, Rows, Cols, tokens> p(d, m, every_token);
        p.forward(rule);
        p.backward(rule);
        const Textbook expected(rule, p);
        CHECK(error(wide(p.Y), expected.Y) <= tolerance);
        CHECK(error(wide(p.dX), expected.dX) <= tolerance);
        CHECK(error(per_length(p, p.gradient.direction), per_length(p, expected.dkt)) <=
              derivative_tolerance_of<Scalar>());
        // These live in the accumulation type, but dv and dbeta come from the stored X and G.
        constexpr double exact = identity_tolerance<ddl::Accum<Scalar>>;
        CHECK(error(wide(p.gradient.value), expected.dv) <= exact);
        CHECK(error(wide(p.gradient.beta), expected.dbeta) <= exact);
        if (rule == UpdateRule::additive) continue;
        CHECK(error(wide(p.tape.read), expected.read) <= exact);
        Matrix<Real> k = wide(p.inputs.direction);
        for (Index n = 0; n < every_token; ++n) k.col(n) *= static_cast<Real>(p.tape.inverse_norm(n));
        CHECK(error(k, expected.k) <= exact);
      }
    }
}

TEST_CASE("backward is the gradient of forward", "[op][delta_update][grad]") {
  const std::pair<Index, Index> sizes[] = {{1, 1}, {1, 4},  {3, 2},  {3, 8}, {8, 3},
                                           {8, 5}, {17, 1}, {17, 4}, {64, 1}};
  for (const auto& [d, m] : sizes)
    for (const UpdateRule rule : rules) {
      CAPTURE(d, m, name_of(rule));
      Problem<double> p(d, m, every_token);
      Inputs inputs{p.X, p.inputs.direction, p.inputs.value, p.inputs.beta};
      for (Index n = 0; n < every_token; ++n) inputs.z.col(n) /= length_of(n);
      p.forward(rule);
      p.backward(rule);
      Inputs gradient{p.dX, p.gradient.direction, p.gradient.value, p.gradient.beta};
      for (Index n = 0; n < every_token; ++n) gradient.z.col(n) *= length_of(n);
      const auto loss = [&] {
        p.X = inputs.X;
        p.inputs.value = inputs.v;
        p.inputs.beta = inputs.beta;
        for (Index n = 0; n < every_token; ++n) p.inputs.direction.col(n) = length_of(n) * inputs.z.col(n);
        p.forward(rule);
        return p.G.cwiseProduct(p.Y).sum();
      };
      const auto report = ddl::check_gradients(inputs, gradient, loss,
                                               {.step = 1e-4, .allow_zero = rule == UpdateRule::additive});
      INFO(report.message());
      CHECK(report.passes(gradient_tolerance));
    }
}

TEST_CASE("the result may take the place of the state", "[op][delta_update]") {
  for (const UpdateRule rule : rules) {
    Problem<double> p(17, 5, every_token);
    p.forward(rule);
    const Matrix<double> apart = p.Y;
    Matrix<double> state = p.X;
    ddl::delta_update_forward(rule, state, p.inputs, p.tape, state, k_eps);
    CHECK(state == apart);
  }
}

TEMPLATE_TEST_CASE("rows of a larger matrix, off alignment, give the same bits", "[op][delta_update]", float,
                   double) {
  constexpr Index d = 17, m = 3;
  for (const UpdateRule rule : rules) {
    Problem<TestType> p(d, m, every_token);
    if (rule == UpdateRule::additive)
      p.inputs.direction /= TestType(1e3);  // Y - kt loses what |kt| rounds away
    p.forward(rule);
    p.backward(rule);
    const auto within = [](const auto& x) {
      Matrix<TestType> larger = Matrix<TestType>::Constant(x.rows() + 3, x.cols(), TestType(-77));
      larger.middleRows(1, x.rows()) = x;
      return larger;
    };
    Matrix<TestType> X = within(p.X), Y = within(p.G), dX = within(p.G);
    auto Y_rows = Y.middleRows(1, d), dX_rows = dX.middleRows(1, d);
    const auto inputs = p.inputs;
    auto tape = p.tape;
    auto gradient = p.gradient;
    ddl::delta_update_forward(rule, X.middleRows(1, d), inputs, tape, Y_rows, k_eps);
    ddl::delta_update_backward(rule, X.middleRows(1, d), inputs, tape, dX_rows, gradient);
    CHECK(Y == within(p.Y));
    CHECK(dX == within(p.dX));
    CHECK(gradient.direction == p.gradient.direction);
    CHECK(gradient.value == p.gradient.value);
    CHECK(gradient.beta == p.gradient.beta);
    ddl::delta_update_inverse(rule, inputs, tape, Y_rows);
    CHECK(error(Y, X) <= identity_tolerance<TestType>);
  }
}

TEMPLATE_TEST_CASE("the inverse takes 200 layers back", "[op][delta_update]", float, double) {
  for (const UpdateRule rule : rules) {
    const Problem<TestType> first(16, 4, every_token);
    std::vector<std::pair<EditInputs<TestType>, EditTape<TestType>>> edits;
    Matrix<TestType> state = first.X;
    for (std::uint64_t layer = 0; layer < 200; ++layer) {
      Problem<TestType> p(16, 4, every_token, layer);
      for (Index n = 0; n < every_token; ++n)  // the additive control writes kt itself
        p.inputs.direction.col(n) /= static_cast<TestType>(length_of(n));
      ddl::delta_update_forward(rule, state, p.inputs, p.tape, state, k_eps);
      edits.emplace_back(p.inputs, p.tape);
    }
    CHECK_FALSE(relative_error(state, first.X) <= 0.1);
    for (auto edit = edits.rbegin(); edit != edits.rend(); ++edit)
      ddl::delta_update_inverse(rule, edit->first, edit->second, state);
    CAPTURE(name_of(rule));
    CHECK(relative_error(state, first.X) <= reversible_tolerance<TestType>);
  }
}

TEMPLATE_TEST_CASE("backward from the result is backward from the state, and recovers it",
                   "[op][delta_update][grad]", float, double) {
  constexpr double tolerance = identity_tolerance<TestType>;
  for (const UpdateRule rule : rules)
    for (const Index m : {1, 4, 5}) {
      CAPTURE(name_of(rule), m);
      Problem<TestType> p(17, m, every_token);
      if (rule == UpdateRule::additive)
        p.inputs.direction /= TestType(1e3);  // Y - kt loses what |kt| rounds away
      p.forward(rule);
      p.backward(rule);
      Matrix<TestType> state = p.Y, grad = p.G;
      EditInputs<TestType> gradient;
      ddl::delta_update_backward_reversible(rule, state, p.inputs, p.tape, grad, gradient);
      CHECK(error(state, p.X) <= tolerance);
      CHECK(grad == p.dX);
      CHECK(error(per_length(p, gradient.direction), per_length(p, p.gradient.direction)) <= tolerance);
      CHECK(gradient.value == p.gradient.value);
      CHECK(gradient.beta == p.gradient.beta);
    }
}

TEST_CASE("float agrees with double for kt of any length", "[op][delta_update][grad]") {
  constexpr Index d = 33, m = 4, tokens = 5;
  const double kt_lengths[tokens] = {0, 1e-20, 1e-6, 1, 1e18};
  for (const UpdateRule rule : {UpdateRule::delta, UpdateRule::write_only})
    for (const double eps : {0.0, 1e-5}) {
      Problem<float> single(d, m, tokens);
      for (Index n = 0; n < tokens; ++n) {
        single.inputs.direction.col(n).normalize();
        single.inputs.direction.col(n) *= static_cast<float>(kt_lengths[n]);
        single.inputs.beta(n) = 1.7f;
      }
      Problem<double> twice(single);
      single.forward(rule, eps);
      twice.forward(rule, eps);
      single.backward(rule);
      twice.backward(rule);
      CAPTURE(name_of(rule), eps);
      CHECK(error(single.Y.cast<double>(), twice.Y) <= float_tolerance);
      CHECK(error(single.dX.cast<double>(), twice.dX) <= float_tolerance);
      CHECK(error(single.gradient.value.cast<double>(), twice.gradient.value) <= float_tolerance);
      CHECK(error(single.gradient.beta.cast<double>(), twice.gradient.beta) <= float_tolerance);
      for (Index n = 0; n < tokens; ++n) {
        CAPTURE(kt_lengths[n]);
        const Eigen::VectorXd given = single.gradient.direction.col(n).cast<double>(),
                              grad = twice.gradient.direction.col(n);
        if (grad.isZero(0))
          CHECK(given.isZero(0));
        else
          CHECK(relative_error(given, grad) <= float_tolerance);
      }
    }
}

TEMPLATE_TEST_CASE("every pass is the textbook's for kt and k_eps of any size", "[op][delta_update][grad]",
                   float, double) {
  using Limits = std::numeric_limits<TestType>;
  constexpr Index d = 70, m = 5;
  const auto all = lengths_of_any_size<TestType>();
  const Index tokens = static_cast<Index>(all.size());
  for (const UpdateRule rule : {UpdateRule::delta, UpdateRule::write_only})
    for (const TestType eps : all) {
      Problem<TestType> p(d, m, tokens);
      for (Index n = 0; n < tokens; ++n) {
        p.inputs.direction.col(n) *= 1 / p.inputs.direction.col(n).norm();
        p.inputs.direction.col(n) *= all[static_cast<std::size_t>(n)];
        p.inputs.beta(n) = TestType(1.7);
      }
      CAPTURE(name_of(rule), eps);
      p.forward(rule, static_cast<double>(eps));
      p.backward(rule);
      const Textbook expected(rule, p, static_cast<double>(eps));
      constexpr double tolerance = identity_tolerance<TestType>;
      CHECK(error(wide(p.Y), expected.Y) <= tolerance);
      CHECK(error(wide(p.dX), expected.dX) <= tolerance);
      CHECK(error(wide(p.gradient.value), expected.dv) <= tolerance);
      CHECK(error(wide(p.gradient.beta), expected.dbeta) <= tolerance);
      CHECK(ddl::all_finite(p.tape.inverse_norm));
      for (Index n = 0; n < tokens; ++n) {
        CAPTURE(all[static_cast<std::size_t>(n)]);
        const Vector<Real> given = wide(p.gradient.direction.col(n)), wanted = expected.dkt.col(n);
        const Real largest = wanted.cwiseAbs().maxCoeff();
        // Where 1 / |kt| overflows, so does the gradient; below the normal numbers it has few digits.
        if (largest <= Real((Limits::max)()) && largest >= Real((Limits::min)()) / Real(Limits::epsilon()))
          CHECK(relative_error(given, wanted) <= derivative_tolerance<TestType>);
        CHECK((given.array() == given.array()).all());  // no NaN
      }
      Matrix<TestType> state = p.Y, grad = p.G;
      EditInputs<TestType> gradient;
      ddl::delta_update_backward_reversible(rule, state, p.inputs, p.tape, grad, gradient);
      CHECK(error(state, p.X) <= tolerance);
      CHECK(grad == p.dX);
      state = p.Y;
      ddl::delta_update_inverse(rule, p.inputs, p.tape, state);
      CHECK(error(state, p.X) <= tolerance);
    }
}

TEMPLATE_TEST_CASE("the zero direction writes nothing and breaks nothing", "[op][delta_update][grad]", float,
                   double, Eigen::half) {
  for (const UpdateRule rule : rules)
    for (const double eps : {0.0, ddl::default_k_eps}) {
      Problem<TestType> p(9, 3, every_token);
      p.inputs.direction.setZero();
      p.forward(rule, eps);
      p.backward(rule);
      CAPTURE(name_of(rule), eps);
      CHECK(p.Y == p.X);
      CHECK(p.dX == p.G);
      CHECK((p.gradient.value.array() == 0).all());
      CHECK((p.gradient.beta.array() == 0).all());
      if (!std::is_same_v<TestType, Eigen::half>) {  // 1 / k_eps is too large a gradient for half
        const Textbook expected(rule, p, eps);
        CHECK(error(wide(p.gradient.direction), expected.dkt) <= tolerance_of<TestType>());
      }
    }
}

TEST_CASE("a write that reads nothing does not mind what the state holds", "[op][delta_update]") {
  Problem<float> p(9, 3, 1);
  p.X.setConstant(1e20f);
  p.inputs.direction.setConstant(1e25f);
  p.forward(UpdateRule::write_only);
  CHECK(p.Y == p.X);  // it drowns the write
}

TEST_CASE("the order of the pieces leaves no trace", "[op][delta_update]") {
  constexpr Index d = 64, m = 4, tokens = 1200;  // more than a cache holds: the sweeps ask ahead
  REQUIRE(ddl::columns_per_piece(d * m) < tokens);
  for (const UpdateRule rule : rules) {
    Problem<float> forwards(d, m, tokens), backwards(d, m, tokens);
    forwards.forward(rule);
    backwards.forward(rule, k_eps, Backwards());
    CHECK(forwards.Y == backwards.Y);
    forwards.backward(rule);
    backwards.backward(rule, Backwards());
    CHECK(forwards.dX == backwards.dX);
    CHECK(forwards.gradient.direction == backwards.gradient.direction);
    CHECK(forwards.gradient.value == backwards.gradient.value);
    CHECK(forwards.gradient.beta == backwards.gradient.beta);
    const Textbook expected(rule, forwards);
    CHECK(error(wide(forwards.Y), expected.Y) <= identity_tolerance<float>);
    CHECK(error(wide(forwards.dX), expected.dX) <= identity_tolerance<float>);
    CHECK(error(per_length(forwards, forwards.gradient.direction), per_length(forwards, expected.dkt)) <=
          derivative_tolerance<float>);
    Matrix<float> undone = forwards.Y, undone_too = forwards.Y;
    ddl::delta_update_inverse(rule, forwards.inputs, forwards.tape, undone);
    ddl::delta_update_inverse(rule, backwards.inputs, backwards.tape, undone_too, Backwards());
    CHECK(undone == undone_too);
  }
}

TEST_CASE("neither direction of an update allocates", "[op][delta_update]") {
  Problem<float> dynamic(64, 4, 100);
  Problem<double, 8, 4, every_token> fixed(8, 4, every_token);
  dynamic.forward(UpdateRule::delta);  // sizes the tape
  dynamic.backward(UpdateRule::delta);
  for (const UpdateRule rule : rules)
    CHECK(allocations_in([&] {
            dynamic.forward(rule);
            dynamic.backward(rule);
            ddl::delta_update_backward_reversible(rule, dynamic.Y, dynamic.inputs, dynamic.tape, dynamic.dX,
                                                  dynamic.gradient);
            ddl::delta_update_inverse(rule, dynamic.inputs, dynamic.tape, dynamic.Y);
            fixed.forward(rule);
            fixed.backward(rule);
          }) == 0);
}

TEST_CASE("an empty batch stays one", "[op][delta_update]") {
  for (const UpdateRule rule : rules) {
    Problem<double> p(4, 2, 0);
    CHECK_NOTHROW(p.forward(rule));
    CHECK_NOTHROW(p.backward(rule));
    CHECK(p.gradient.direction.cols() == 0);
  }
}

TEST_CASE("a shape that does not fit an update is refused by name", "[op][delta_update]") {
  constexpr UpdateRule delta = UpdateRule::delta;
  Problem<double> p(4, 2, 3);
  Matrix<double> tall(5, 6), broad(4, 7);
  const auto refused = [](const auto& attempt, const std::string& message) {
    CHECK_THROWS_WITH(attempt(), Catch::Matchers::ContainsSubstring(message));
  };
  refused([&] { ddl::delta_update_forward(delta, tall, p.inputs, p.tape, p.Y); },
          "delta_update_forward: X is 5 x 6, expected 4 x 6");
  refused([&] { ddl::delta_update_forward(delta, broad, p.inputs, p.tape, p.Y); },
          "delta_update_forward: X is 4 x 7, expected 4 x 6");
  refused([&] { ddl::delta_update_forward(delta, p.X, p.inputs, p.tape, p.Y, -1); },
          "delta_update_forward: k_eps is -1, expected a number of at least 0");
  auto more_values = p.inputs;
  more_values.value.resize(2, 4);
  refused([&] { ddl::delta_update_forward(delta, p.X, more_values, p.tape, p.Y); },
          "delta_update_forward: v is 2 x 4, expected 2 x 3");
  refused([&] { ddl::delta_update_forward(delta, p.X, p.inputs, p.tape, broad); },
          "delta_update_forward: Y is 4 x 7, expected 4 x 6");
  auto short_gate = p.inputs;
  short_gate.beta.resize(1, 2);
  refused([&] { ddl::delta_update_forward(delta, p.X, short_gate, p.tape, p.Y); },
          "beta is 1 x 2, expected 1 x 3");
  refused([&] { ddl::delta_update_backward(delta, p.X, short_gate, p.tape, p.dX, p.gradient); },
          "delta_update_backward: beta is 1 x 2, expected 1 x 3");
  refused([&] { ddl::delta_update_inverse(delta, short_gate, p.tape, p.Y); },
          "delta_update_inverse: beta is 1 x 2, expected 1 x 3");
  refused([&] { ddl::delta_update_backward(delta, tall, p.inputs, p.tape, p.dX, p.gradient); },
          "delta_update_backward: X is 5 x 6, expected 4 x 6");
  refused([&] { ddl::delta_update_backward(delta, p.X, p.inputs, p.tape, broad, p.gradient); },
          "delta_update_backward: dX is 4 x 7, expected 4 x 6");
  refused([&] { ddl::delta_update_backward_reversible(delta, p.Y, p.inputs, p.tape, broad, p.gradient); },
          "delta_update_backward_reversible: dX is 4 x 7, expected 4 x 6");
  refused([&] { ddl::delta_update_inverse(delta, p.inputs, p.tape, tall); },
          "delta_update_inverse: X is 5 x 6, expected 4 x 6");
  p.forward(delta);
  auto short_tape = p.tape;
  short_tape.inverse_norm.resize(1, 2);
  refused([&] { ddl::delta_update_backward(delta, p.X, p.inputs, short_tape, p.dX, p.gradient); },
          "delta_update_backward: inverse_norm is 1 x 2, expected 1 x 3");
  short_tape = p.tape;
  short_tape.read.resize(1, 3);
  refused([&] { ddl::delta_update_inverse(delta, p.inputs, short_tape, p.Y); },
          "delta_update_inverse: read is 1 x 3, expected 2 x 3");
  CHECK(std::string(ddl::name_of(UpdateRule::write_only)) == "write_only");
}

TEST_CASE("a batch too large for a cache gives the bits of the same update in place, aligned or not",
          "[op][delta_update]") {
  // 16 MiB of states: stored past the caches where the columns of Y are aligned
  const Index d = GENERATE(Index(256), Index(257)), m = 4, N = 4096;
  Random random(21);
  Matrix<float> X(d, N * m);
  random.fill_normal(X, 1);
  EditInputs<float> inputs;
  EditTape<float> tape;
  inputs.resize(d, m, N);
  random.fill_normal(inputs.value, 1);
  random.fill_normal(inputs.direction, 1);
  inputs.beta.setConstant(1.5f);
  Vector<float> room(X.size() + 16);
  for (const Index offset : {0, 1, 8}) {
    Eigen::Map<Matrix<float>> Y(room.data() + offset, d, N * m);
    Y.setConstant(7);
    ddl::delta_update_forward(UpdateRule::delta, X, inputs, tape, Y);
    Matrix<float> in_place = X;
    ddl::delta_update_forward(UpdateRule::delta, in_place, inputs, tape, in_place);
    CHECK((Y == in_place));  // millions of entries are not printed
  }
}
