// SPDX-License-Identifier: MIT
#include "ddl/op/rewrite.hpp"

#include <limits>
#include <vector>

#include "ddl/train/gradient_check.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/executors.hpp"
#include "support/op_data.hpp"

using namespace ddl::test;
using ddl::Dynamic;
using ddl::Edit;
using ddl::EditGradient;
using ddl::Index;
using ddl::Matrix;
using ddl::Random;
using ddl::Rewrite;
using ddl::Vector;
using Real = long double;

namespace {

constexpr Rewrite kinds[] = {Rewrite::delta, Rewrite::write_only, Rewrite::additive};

// The tokens of a batch go through every pair of a gate and a length of kt; k_eps is comparable to the
// smallest.
constexpr double gates[] = {0, 1e-6, 1, 2 - 1e-6, 2};
constexpr double lengths[] = {1e-3, 1, 1e3};
constexpr double k_eps = 1e-3;
constexpr int every_token = 15;
double gate_of(Index n) { return gates[n % 5]; }
double length_of(Index n) { return lengths[n / 5 % 3]; }

/// What goes into a rewrite and, G, comes back to it; and what comes out.
template <class Scalar, int Rows = Dynamic, int Cols = Dynamic, int Tokens = Dynamic>
struct Problem {
  using Wide = ddl::Accum<Scalar>;

  Matrix<Scalar, Rows, Dynamic> X, G, Y, dX;
  Matrix<Wide, Cols, Tokens> v;
  Edit<Scalar, Rows, Cols, Tokens> edit;
  EditGradient<Scalar, Rows, Cols, Tokens> gradient;

  Problem(Index d, Index m, Index tokens, std::uint64_t seed = 1) : Y(d, tokens * m) {
    Random random(seed);
    X = random_matrix<Matrix<Scalar>>(random, d, tokens * m);
    G = dX = random_matrix<Matrix<Scalar>>(random, d, tokens * m);
    v = random_matrix<Matrix<Wide>>(random, m, tokens);
    edit.resize(d, m, tokens);
    gradient.resize(d, m, tokens);
    for (Index n = 0; n < tokens; ++n) {
      edit.direction.col(n) =
          (length_of(n) * random_matrix<Vector<double>>(random, d)).template cast<Scalar>();
      edit.beta(n) = static_cast<Wide>(gate_of(n));
    }
  }
  /// The same numbers in another scalar.
  template <class Other>
  explicit Problem(const Problem<Other>& p)
      : X(p.X.template cast<Scalar>()),
        G(p.G.template cast<Scalar>()),
        Y(X),
        dX(G),
        v(p.v.template cast<Wide>()) {
    edit.resize(X.rows(), v.rows(), v.cols());
    edit.direction = p.edit.direction.template cast<Scalar>();
    edit.beta = p.edit.beta.template cast<Wide>();
  }

  template <class E = ddl::Serial>
  void forward(Rewrite kind, double eps = k_eps, const E& executor = {}) {
    ddl::rewrite_forward(kind, X, edit, v, Y, eps, executor);
  }
  template <class E = ddl::Serial>
  void backward(Rewrite kind, const E& executor = {}) {
    dX = G;
    ddl::rewrite_backward(kind, X, edit, dX, gradient, executor);
  }
};

/// The widest form of every scalar.
template <class Derived>
Matrix<Real> wide(const Eigen::MatrixBase<Derived>& x) {
  return widen(x).template cast<Real>();
}

/// dkt / s, that is, the gradient with respect to kt in units of its length: no token drowns the others.
template <class P, class Slope>
Matrix<Real> per_length(const P& p, const Slope& dkt) {
  Matrix<Real> slope = wide(dkt);
  for (Index n = 0; n < slope.cols(); ++n)
    if (p.edit.scale(n) > 0) slope.col(n) /= static_cast<Real>(p.edit.scale(n));
  return slope;
}

/// The textbook, one token at a time, in long double.
struct Textbook {
  Matrix<Real> Y, dX, dkt, dv, dbeta, k, readout, correction;

  template <class P>
  Textbook(Rewrite kind, const P& p, double eps = k_eps) {
    const Matrix<Real> X = wide(p.X), G = wide(p.G), v = wide(p.v), kt = wide(p.edit.direction),
                       beta = wide(p.edit.beta);
    const Index m = v.rows(), tokens = v.cols();
    Y = dX = X;
    k = dkt = kt;
    readout = correction = dv = v;
    dbeta = beta;
    for (Index n = 0; n < tokens; ++n) {
      const Real b = beta(n), e = static_cast<ddl::Accum<typename decltype(p.X)::Scalar>>(eps);
      const Real root = std::sqrt(kt.col(n).squaredNorm() + e * e), s = root > 0 ? 1 / root : 0;
      k.col(n) = s * kt.col(n);
      const Vector<Real> kn = k.col(n);
      const auto Xn = X.middleCols(n * m, m), Gn = G.middleCols(n * m, m);
      const Vector<Real> u = Xn.transpose().lazyProduct(kn), g = Gn.transpose().lazyProduct(kn);
      const Vector<Real> r = kind == Rewrite::delta ? Vector<Real>(v.col(n) - u) : Vector<Real>(v.col(n));
      auto Yn = Y.middleCols(n * m, m), dXn = dX.middleCols(n * m, m);
      if (kind == Rewrite::additive) {
        Yn = Xn.colwise() + kt.col(n);
        dXn = Gn;
        dkt.col(n) = Gn.rowwise().sum();
        dv.col(n).setZero();
        dbeta(n) = 0;
      } else {
        Yn = Xn + (b * kn).lazyProduct(r.transpose());
        Vector<Real> dk = b * Gn.lazyProduct(r);
        dXn = Gn;
        if (kind == Rewrite::delta) {
          dk -= b * Xn.lazyProduct(g);
          dXn -= (b * kn).lazyProduct(g.transpose());
        }
        dkt.col(n) = s * (dk - kn * kn.dot(dk));
        dv.col(n) = b * g;
        dbeta(n) = g.dot(r);
      }
      readout.col(n) = kind == Rewrite::delta ? u : Vector<Real>::Zero(m);
      correction.col(n) = r;
    }
  }
};

/// Everything that check_gradients may vary. z is kt in units of its length.
struct Inputs {
  using Scalar = double;
  Matrix<double> X, z, v, beta;
  static constexpr auto parameters() {
    using ddl::field;
    return std::tuple(parameter("X", &Inputs::X), parameter("kt", &Inputs::z), parameter("v", &Inputs::v),
                      parameter("beta", &Inputs::beta));
  }
};

}  // namespace

TEMPLATE_TEST_CASE_SIG("forward and backward are the textbook's, token by token", "[op][rewrite][grad]",
                       ((class Scalar, int Rows, int Cols), Scalar, Rows, Cols), (float, Dynamic, Dynamic),
                       (double, Dynamic, Dynamic), (long double, Dynamic, Dynamic),
                       (Eigen::half, Dynamic, Dynamic), (Eigen::bfloat16, Dynamic, Dynamic), (double, 17, 5),
                       (double, 8, 1), (float, 1, 3)) {
  constexpr double tolerance = tolerance_of<Scalar>();
  constexpr int tokens = Rows == Dynamic ? Dynamic : every_token;
  for (const Index d : {1, 3, 8, 17, 64})
    for (const Index m : {1, 2, 3, 4, 5, 8}) {
      if ((Rows != Dynamic && Rows != d) || (Cols != Dynamic && Cols != m)) continue;
      for (const Rewrite kind : kinds) {
        CAPTURE(d, m, name_of(kind));
        Problem<Scalar, Rows, Cols, tokens> p(d, m, every_token);
        p.forward(kind);
        p.backward(kind);
        const Textbook expected(kind, p);
        CHECK(error(wide(p.Y), expected.Y) <= tolerance);
        CHECK(error(wide(p.dX), expected.dX) <= tolerance);
        CHECK(error(per_length(p, p.gradient.direction), per_length(p, expected.dkt)) <=
              slope_tolerance_of<Scalar>());
        // These live in the accumulation type, but dv and dbeta come from the stored X and G.
        constexpr double exact = identity_tolerance<ddl::Accum<Scalar>>;
        CHECK(error(wide(p.gradient.value), expected.dv) <= exact);
        CHECK(error(wide(p.gradient.beta), expected.dbeta) <= exact);
        if (kind == Rewrite::additive) continue;
        CHECK(error(wide(p.edit.readout), expected.readout) <= exact);
        CHECK(error(wide(p.edit.correction), expected.correction) <= exact);
        Matrix<Real> k = wide(p.edit.direction);
        for (Index n = 0; n < every_token; ++n) k.col(n) *= static_cast<Real>(p.edit.scale(n));
        CHECK(error(k, expected.k) <= exact);
      }
    }
}

TEST_CASE("backward is the gradient of forward", "[op][rewrite][grad]") {
  const std::pair<Index, Index> sizes[] = {{1, 1}, {1, 4},  {3, 2},  {3, 8}, {8, 3},
                                           {8, 5}, {17, 1}, {17, 4}, {64, 1}};
  for (const auto& [d, m] : sizes)
    for (const Rewrite kind : kinds) {
      CAPTURE(d, m, name_of(kind));
      Problem<double> p(d, m, every_token);
      Inputs inputs{p.X, p.edit.direction, p.v, p.edit.beta};
      for (Index n = 0; n < every_token; ++n) inputs.z.col(n) /= length_of(n);
      p.forward(kind);
      p.backward(kind);
      Inputs gradient{p.dX, p.gradient.direction, p.gradient.value, p.gradient.beta};
      for (Index n = 0; n < every_token; ++n) gradient.z.col(n) *= length_of(n);
      const auto loss = [&] {
        p.X = inputs.X;
        p.v = inputs.v;
        p.edit.beta = inputs.beta;
        for (Index n = 0; n < every_token; ++n) p.edit.direction.col(n) = length_of(n) * inputs.z.col(n);
        p.forward(kind);
        return p.G.cwiseProduct(p.Y).sum();
      };
      const auto report = ddl::check_gradients(inputs, gradient, loss,
                                               {.step = 1e-4, .allow_zero = kind == Rewrite::additive});
      INFO(report.message());
      CHECK(report.passes(gradient_tolerance));
    }
}

TEST_CASE("the result may take the place of the state", "[op][rewrite]") {
  for (const Rewrite kind : kinds) {
    Problem<double> p(17, 5, every_token);
    p.forward(kind);
    const Matrix<double> apart = p.Y;
    Matrix<double> state = p.X;
    ddl::rewrite_forward(kind, state, p.edit, p.v, state, k_eps);
    CHECK(state == apart);
  }
}

TEMPLATE_TEST_CASE("rows of a larger matrix, off alignment, give the same bits", "[op][rewrite]", float,
                   double) {
  constexpr Index d = 17, m = 3;
  for (const Rewrite kind : kinds) {
    Problem<TestType> p(d, m, every_token);
    if (kind == Rewrite::additive) p.edit.direction /= TestType(1e3);  // Y - kt loses what |kt| rounds away
    p.forward(kind);
    p.backward(kind);
    const auto within = [](const auto& x) {
      Matrix<TestType> larger = Matrix<TestType>::Constant(x.rows() + 3, x.cols(), TestType(-77));
      larger.middleRows(1, x.rows()) = x;
      return larger;
    };
    Matrix<TestType> X = within(p.X), Y = within(p.G), dX = within(p.G), v = within(p.v);
    auto Y_rows = Y.middleRows(1, d), dX_rows = dX.middleRows(1, d);
    auto edit = p.edit;
    auto gradient = p.gradient;
    ddl::rewrite_forward(kind, X.middleRows(1, d), edit, v.middleRows(1, m), Y_rows, k_eps);
    ddl::rewrite_backward(kind, X.middleRows(1, d), edit, dX_rows, gradient);
    CHECK(Y == within(p.Y));
    CHECK(dX == within(p.dX));
    CHECK(gradient.direction == p.gradient.direction);
    CHECK(gradient.value == p.gradient.value);
    CHECK(gradient.beta == p.gradient.beta);
    ddl::rewrite_rewind(kind, edit, Y_rows);
    CHECK(error(Y, X) <= identity_tolerance<TestType>);
  }
}

TEMPLATE_TEST_CASE("rewinding takes 200 layers back", "[op][rewrite]", float, double) {
  for (const Rewrite kind : kinds) {
    const Problem<TestType> first(16, 4, every_token);
    std::vector<Edit<TestType>> edits;
    Matrix<TestType> state = first.X;
    for (std::uint64_t layer = 0; layer < 200; ++layer) {
      Problem<TestType> p(16, 4, every_token, layer);
      for (Index n = 0; n < every_token; ++n)  // the additive control writes kt itself
        p.edit.direction.col(n) /= static_cast<TestType>(length_of(n));
      ddl::rewrite_forward(kind, state, p.edit, p.v, state, k_eps);
      edits.push_back(p.edit);
    }
    CHECK_FALSE(relative_error(state, first.X) <= 0.1);
    for (auto edit = edits.rbegin(); edit != edits.rend(); ++edit) ddl::rewrite_rewind(kind, *edit, state);
    CAPTURE(name_of(kind));
    CHECK(relative_error(state, first.X) <= rewind_tolerance<TestType>);
  }
}

TEMPLATE_TEST_CASE("backward from the result is backward from the state, and recovers it",
                   "[op][rewrite][grad]", float, double) {
  constexpr double tolerance = identity_tolerance<TestType>;
  for (const Rewrite kind : kinds)
    for (const Index m : {1, 4, 5}) {
      CAPTURE(name_of(kind), m);
      Problem<TestType> p(17, m, every_token);
      if (kind == Rewrite::additive) p.edit.direction /= TestType(1e3);  // Y - kt loses what |kt| rounds away
      p.forward(kind);
      p.backward(kind);
      Matrix<TestType> state = p.Y, slope = p.G;
      EditGradient<TestType> gradient;
      ddl::rewrite_backward_rewind(kind, state, p.edit, slope, gradient);
      CHECK(error(state, p.X) <= tolerance);
      CHECK(slope == p.dX);
      CHECK(error(per_length(p, gradient.direction), per_length(p, p.gradient.direction)) <= tolerance);
      CHECK(gradient.value == p.gradient.value);
      CHECK(gradient.beta == p.gradient.beta);
    }
}

TEST_CASE("float agrees with double for kt of any length", "[op][rewrite][grad]") {
  constexpr Index d = 33, m = 4, tokens = 5;
  const double kt_lengths[tokens] = {0, 1e-20, 1e-6, 1, 1e18};
  for (const Rewrite kind : {Rewrite::delta, Rewrite::write_only})
    for (const double eps : {0.0, 1e-5}) {
      Problem<float> single(d, m, tokens);
      for (Index n = 0; n < tokens; ++n) {
        single.edit.direction.col(n).normalize();
        single.edit.direction.col(n) *= static_cast<float>(kt_lengths[n]);
        single.edit.beta(n) = 1.7f;
      }
      Problem<double> twice(single);
      single.forward(kind, eps);
      twice.forward(kind, eps);
      single.backward(kind);
      twice.backward(kind);
      CAPTURE(name_of(kind), eps);
      CHECK(error(single.Y.cast<double>(), twice.Y) <= float_tolerance);
      CHECK(error(single.dX.cast<double>(), twice.dX) <= float_tolerance);
      CHECK(error(single.gradient.value.cast<double>(), twice.gradient.value) <= float_tolerance);
      CHECK(error(single.gradient.beta.cast<double>(), twice.gradient.beta) <= float_tolerance);
      for (Index n = 0; n < tokens; ++n) {
        CAPTURE(kt_lengths[n]);
        const Eigen::VectorXd given = single.gradient.direction.col(n).cast<double>(),
                              slope = twice.gradient.direction.col(n);
        if (slope.isZero(0))
          CHECK(given.isZero(0));
        else
          CHECK(relative_error(given, slope) <= float_tolerance);
      }
    }
}

TEMPLATE_TEST_CASE("every pass is the textbook's for kt and k_eps of any size", "[op][rewrite][grad]", float,
                   double) {
  using Limits = std::numeric_limits<TestType>;
  constexpr Index d = 70, m = 5;
  const auto all = lengths_of_any_size<TestType>();
  const Index tokens = static_cast<Index>(all.size());
  for (const Rewrite kind : {Rewrite::delta, Rewrite::write_only})
    for (const TestType eps : all) {
      Problem<TestType> p(d, m, tokens);
      for (Index n = 0; n < tokens; ++n) {
        p.edit.direction.col(n) *= 1 / p.edit.direction.col(n).norm();
        p.edit.direction.col(n) *= all[static_cast<std::size_t>(n)];
        p.edit.beta(n) = TestType(1.7);
      }
      CAPTURE(name_of(kind), eps);
      p.forward(kind, static_cast<double>(eps));
      p.backward(kind);
      const Textbook expected(kind, p, static_cast<double>(eps));
      constexpr double tolerance = identity_tolerance<TestType>;
      CHECK(error(wide(p.Y), expected.Y) <= tolerance);
      CHECK(error(wide(p.dX), expected.dX) <= tolerance);
      CHECK(error(wide(p.gradient.value), expected.dv) <= tolerance);
      CHECK(error(wide(p.gradient.beta), expected.dbeta) <= tolerance);
      CHECK(ddl::all_finite(p.edit.scale));
      for (Index n = 0; n < tokens; ++n) {
        CAPTURE(all[static_cast<std::size_t>(n)]);
        const Vector<Real> given = wide(p.gradient.direction.col(n)), slope = expected.dkt.col(n);
        const Real largest = slope.cwiseAbs().maxCoeff();
        // Where 1 / |kt| overflows, so does the gradient; below the normal numbers it has few digits.
        if (largest <= Real(Limits::max()) && largest >= Real(Limits::min()) / Real(Limits::epsilon()))
          CHECK(relative_error(given, slope) <= slope_tolerance<TestType>);
        CHECK((given.array() == given.array()).all());  // no NaN
      }
      Matrix<TestType> state = p.Y, slope = p.G;
      EditGradient<TestType> gradient;
      ddl::rewrite_backward_rewind(kind, state, p.edit, slope, gradient);
      CHECK(error(state, p.X) <= tolerance);
      CHECK(slope == p.dX);
      state = p.Y;
      ddl::rewrite_rewind(kind, p.edit, state);
      CHECK(error(state, p.X) <= tolerance);
    }
}

TEMPLATE_TEST_CASE("the zero direction writes nothing and breaks nothing", "[op][rewrite][grad]", float,
                   double, Eigen::half) {
  for (const Rewrite kind : kinds)
    for (const double eps : {0.0, ddl::default_k_eps}) {
      Problem<TestType> p(9, 3, every_token);
      p.edit.direction.setZero();
      p.forward(kind, eps);
      p.backward(kind);
      CAPTURE(name_of(kind), eps);
      CHECK(p.Y == p.X);
      CHECK(p.dX == p.G);
      CHECK((p.gradient.value.array() == 0).all());
      CHECK((p.gradient.beta.array() == 0).all());
      if (!std::is_same_v<TestType, Eigen::half>) {  // 1 / k_eps is too large a slope for half
        const Textbook expected(kind, p, eps);
        CHECK(error(wide(p.gradient.direction), expected.dkt) <= tolerance_of<TestType>());
      }
    }
}

TEST_CASE("a write that reads nothing does not mind what the state holds", "[op][rewrite]") {
  Problem<float> p(9, 3, 1);
  p.X.setConstant(1e20f);
  p.edit.direction.setConstant(1e25f);
  p.forward(Rewrite::write_only);
  CHECK(p.Y == p.X);  // it drowns the write
}

TEST_CASE("the order of the pieces leaves no trace", "[op][rewrite]") {
  constexpr Index d = 64, m = 4, tokens = 1200;  // more than a cache holds: the sweeps ask ahead
  REQUIRE(ddl::columns_per_piece(d * m) < tokens);
  for (const Rewrite kind : kinds) {
    Problem<float> forwards(d, m, tokens), backwards(d, m, tokens);
    forwards.forward(kind);
    backwards.forward(kind, k_eps, Backwards());
    CHECK(forwards.Y == backwards.Y);
    forwards.backward(kind);
    backwards.backward(kind, Backwards());
    CHECK(forwards.dX == backwards.dX);
    CHECK(forwards.gradient.direction == backwards.gradient.direction);
    CHECK(forwards.gradient.value == backwards.gradient.value);
    CHECK(forwards.gradient.beta == backwards.gradient.beta);
    const Textbook expected(kind, forwards);
    CHECK(error(wide(forwards.Y), expected.Y) <= identity_tolerance<float>);
    CHECK(error(wide(forwards.dX), expected.dX) <= identity_tolerance<float>);
    CHECK(error(per_length(forwards, forwards.gradient.direction), per_length(forwards, expected.dkt)) <=
          slope_tolerance<float>);
    Matrix<float> undone = forwards.Y, undone_too = forwards.Y;
    ddl::rewrite_rewind(kind, forwards.edit, undone);
    ddl::rewrite_rewind(kind, backwards.edit, undone_too, Backwards());
    CHECK(undone == undone_too);
  }
}

TEST_CASE("neither direction of a rewrite allocates", "[op][rewrite]") {
  Problem<float> dynamic(64, 4, 100);
  Problem<double, 8, 4, every_token> fixed(8, 4, every_token);
  for (const Rewrite kind : kinds)
    CHECK(allocations_in([&] {
            dynamic.forward(kind);
            dynamic.backward(kind);
            ddl::rewrite_backward_rewind(kind, dynamic.Y, dynamic.edit, dynamic.dX, dynamic.gradient);
            ddl::rewrite_rewind(kind, dynamic.edit, dynamic.Y);
            fixed.forward(kind);
            fixed.backward(kind);
          }) == 0);
}

TEST_CASE("an empty batch stays one", "[op][rewrite]") {
  for (const Rewrite kind : kinds) {
    Problem<double> p(4, 2, 0);
    CHECK_NOTHROW(p.forward(kind));
    CHECK_NOTHROW(p.backward(kind));
    CHECK(p.gradient.direction.cols() == 0);
  }
}

TEST_CASE("a shape that does not fit a rewrite is refused by name", "[op][rewrite]") {
  constexpr Rewrite delta = Rewrite::delta;
  Problem<double> p(4, 2, 3);
  Matrix<double> tall(5, 6), broad(4, 7), v(2, 4);
  const auto refused = [](const auto& attempt, const std::string& message) {
    CHECK_THROWS_WITH(attempt(), Catch::Matchers::ContainsSubstring(message));
  };
  refused([&] { ddl::rewrite_forward(delta, tall, p.edit, p.v, p.Y); },
          "rewrite_forward: X is 5 x 6, expected 4 x 6");
  refused([&] { ddl::rewrite_forward(delta, broad, p.edit, p.v, p.Y); },
          "rewrite_forward: X is 4 x 7, expected 4 x 6");
  refused([&] { ddl::rewrite_forward(delta, p.X, p.edit, p.v, p.Y, -1); },
          "rewrite_forward: k_eps is -1, expected a number of at least 0");
  refused([&] { ddl::rewrite_forward(delta, p.X, p.edit, v, p.Y); },
          "rewrite_forward: v is 2 x 4, expected 2 x 3");
  refused([&] { ddl::rewrite_forward(delta, p.X, p.edit, p.v, broad); },
          "rewrite_forward: Y is 4 x 7, expected 4 x 6");
  auto short_gate = p.edit;
  short_gate.beta.resize(1, 2);
  refused([&] { ddl::rewrite_forward(delta, p.X, short_gate, p.v, p.Y); }, "beta is 1 x 2, expected 1 x 3");
  refused([&] { ddl::rewrite_backward(delta, p.X, short_gate, p.dX, p.gradient); },
          "rewrite_backward: beta is 1 x 2, expected 1 x 3");
  refused([&] { ddl::rewrite_rewind(delta, short_gate, p.Y); },
          "rewrite_rewind: beta is 1 x 2, expected 1 x 3");
  refused([&] { ddl::rewrite_backward(delta, tall, p.edit, p.dX, p.gradient); },
          "rewrite_backward: X is 5 x 6, expected 4 x 6");
  refused([&] { ddl::rewrite_backward(delta, p.X, p.edit, broad, p.gradient); },
          "rewrite_backward: dX is 4 x 7, expected 4 x 6");
  refused([&] { ddl::rewrite_backward_rewind(delta, p.Y, p.edit, broad, p.gradient); },
          "rewrite_backward_rewind: dX is 4 x 7, expected 4 x 6");
  refused([&] { ddl::rewrite_rewind(delta, p.edit, tall); }, "rewrite_rewind: X is 5 x 6, expected 4 x 6");
  CHECK(std::string(ddl::name_of(Rewrite::write_only)) == "write_only");
}

TEST_CASE("a batch too large for a cache gives the bits of the same rewrite in place, aligned or not",
          "[op][rewrite]") {
  // 16 MiB of states: stored past the caches where the columns of Y are aligned
  const Index d = GENERATE(Index(256), Index(257)), m = 4, N = 4096;
  Random random(21);
  Matrix<float> X(d, N * m), v(m, N);
  random.fill_normal(X, 1);
  random.fill_normal(v, 1);
  ddl::Edit<float> edit;
  edit.resize(d, m, N);
  random.fill_normal(edit.direction, 1);
  edit.beta.setConstant(1.5f);
  Vector<float> room(X.size() + 16);
  for (const Index offset : {0, 1, 8}) {
    Eigen::Map<Matrix<float>> Y(room.data() + offset, d, N * m);
    Y.setConstant(7);
    ddl::rewrite_forward(Rewrite::delta, X, edit, v, Y);
    Matrix<float> in_place = X;
    ddl::rewrite_forward(Rewrite::delta, in_place, edit, v, in_place);
    CHECK((Y == in_place));  // millions of entries are not printed
  }
}
