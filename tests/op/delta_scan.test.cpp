// SPDX-License-Identifier: MIT
#include "ddl/op/delta_scan.hpp"

#include <cmath>
#include <string>
#include <vector>

#include "ddl/core/thread_pool.hpp"
#include "ddl/train/gradient_check.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/executors.hpp"
#include "support/op_data.hpp"

using ddl::DeltaScanInputs;
using ddl::DeltaScanSettings;
using ddl::DeltaScanTape;
using ddl::Index;
using ddl::Matrix;
using ddl::Random;
using ddl::ScanKernel;
using ddl::test::error;

namespace {

/// Everything that a scan returns.
template <class Scalar>
struct Results {
  Matrix<Scalar> output, last, dinitial;
  DeltaScanInputs<Scalar> gradient;

  std::vector<std::pair<std::string, Matrix<long double>>> tensors() const {
    std::vector<std::pair<std::string, Matrix<long double>>> all;
    const auto add = [&](const std::string& name, const auto& x) {
      all.emplace_back(name, x.template cast<long double>());
    };
    add("output", output);
    add("last", last);
    add("dinitial", dinitial);
    ddl::for_each_parameter([&](const ddl::ParameterPath& path, const auto& x) { add(path.str(), x); },
                            gradient);
    return all;
  }
};

/// A scan of random inputs, unit keys and betas from 0 to 2, both ends among them; `mean_decay` 0: no decay.
template <class Scalar>
struct Problem {
  DeltaScanSettings settings;
  std::vector<Index> offsets;
  DeltaScanInputs<Scalar> inputs;
  Matrix<Scalar> initial, doutput, dlast;
  DeltaScanTape<Scalar> tape;
  Results<Scalar> results;

  Problem(Index d, Index m, std::vector<Index> offsets_, double mean_decay = 0,
          const DeltaScanSettings& s = {}, std::uint64_t seed = 1)
      : settings(s), offsets(std::move(offsets_)) {
    Random random(seed);
    const Index N = offsets.back(), HK = s.key_heads, HV = s.value_heads.value_or(HK), n = s.edits;
    const auto fill = [&](Matrix<Scalar>& x, Index rows, Index cols) {
      x.resize(rows, cols);
      random.fill_normal(x, 1);
    };
    fill(inputs.query, HK * d, N);
    fill(inputs.key, n * HK * d, N);
    inputs.key.reshaped(d, n * HK * N).colwise().normalize();
    inputs.query.reshaped(d, HK * N).colwise().normalize();
    fill(inputs.value, n * HV * m, N);
    fill(inputs.beta, n * HV, N);
    inputs.beta = inputs.beta.array().tanh() + Scalar(1);
    if (inputs.beta.size() > 0) inputs.beta.data()[0] = 0, inputs.beta.data()[inputs.beta.size() - 1] = 2;
    if (mean_decay != 0) {
      fill(inputs.log_decay, HV, N);
      inputs.log_decay = -static_cast<Scalar>(mean_decay) * inputs.log_decay.array().square();
    }
    const Index states = (static_cast<Index>(offsets.size()) - 1) * HV * d;
    fill(initial, m, states);
    fill(dlast, m, states);
    fill(doutput, HV * m, N);
  }
  template <class Other>
  explicit Problem(const Problem<Other>& p) : settings(p.settings), offsets(p.offsets) {
    inputs.query = p.inputs.query.template cast<Scalar>();
    inputs.key = p.inputs.key.template cast<Scalar>();
    inputs.value = p.inputs.value.template cast<Scalar>();
    inputs.beta = p.inputs.beta.template cast<Scalar>();
    inputs.log_decay = p.inputs.log_decay.template cast<Scalar>();
    initial = p.initial.template cast<Scalar>();
    doutput = p.doutput.template cast<Scalar>();
    dlast = p.dlast.template cast<Scalar>();
  }

  template <ddl::Executor E = ddl::Serial>
  const Results<Scalar>& forward(const E& executor = {}) {
    results.last = initial;
    results.output.resize(doutput.rows(), doutput.cols());
    ddl::delta_scan_forward(settings, offsets, inputs, results.last, results.output, tape, executor);
    return results;
  }
  template <ddl::Executor E = ddl::Serial>
  const Results<Scalar>& run(const E& executor = {}) {
    forward(executor);
    results.dinitial = dlast;
    ddl::delta_scan_backward(settings, offsets, inputs, tape, doutput, results.dinitial, results.gradient,
                             executor);
    return results;
  }
  const Results<Scalar>& infer() {
    results.last = initial;
    results.output.resize(doutput.rows(), doutput.cols());
    ddl::delta_scan_infer(settings, offsets, inputs, results.last, results.output);
    return results;
  }
};

/// The definition with dense matrices, in long double, all states stored; the decay's gradient from where it
/// stands.
Results<long double> by_definition(const Problem<long double>& p) {
  using Real = long double;
  using Dense = Matrix<Real>;
  const auto& x = p.inputs;
  const Index HK = p.settings.key_heads, HV = p.settings.value_heads.value_or(HK), n = p.settings.edits;
  const Index d = x.query.rows() / HK, m = x.value.rows() / (n * HV);
  const Real scale = static_cast<Real>(p.settings.output_scale.value_or(1 / std::sqrt(double(d))));
  const bool reads = p.settings.update == ddl::UpdateRule::delta;
  Results<Real> all;
  auto& gradient = all.gradient;
  gradient.resize_like(x);
  ddl::set_zero(gradient);
  all.output.setZero(p.doutput.rows(), p.doutput.cols());
  all.last = p.initial;
  all.dinitial = p.dlast;
  for (std::size_t s = 0; s + 1 < p.offsets.size(); ++s)
    for (Index h = 0; h < HV; ++h) {
      const Index hk = p.settings.head_map == ddl::HeadMap::blocks ? h / (HV / HK) : h % HK;
      const Index place = (static_cast<Index>(s) * HV + h) * d;
      std::vector<Dense> before, decayed;  // of each edit
      Dense X = p.initial.middleCols(place, d).transpose();
      for (Index t = p.offsets[s]; t < p.offsets[s + 1]; ++t) {
        for (Index e = 0; e < n; ++e) {
          before.push_back(X);
          if (e == 0 && x.has_decay()) X *= std::exp(x.log_decay(h, t));
          decayed.push_back(X);
          const auto k = x.key.col(t).segment((e * HK + hk) * d, d);
          const auto v = x.value.col(t).segment((e * HV + h) * m, m);
          if (reads) X -= x.beta(e * HV + h, t) * k * k.transpose() * X;
          X += x.beta(e * HV + h, t) * k * v.transpose();
        }
        all.output.col(t).segment(h * m, m) = scale * X.transpose() * x.query.col(t).segment(hk * d, d);
      }
      all.last.middleCols(place, d) = X.transpose();
      Dense H = p.dlast.middleCols(place, d).transpose();
      for (Index t = p.offsets[s + 1]; t-- > p.offsets[s];) {
        const auto q = x.query.col(t).segment(hk * d, d);
        const auto dout = p.doutput.col(t).segment(h * m, m);
        gradient.query.col(t).segment(hk * d, d) += scale * X * dout;
        H += scale * q * dout.transpose();
        for (Index e = n; e-- > 0;) {
          const auto k = x.key.col(t).segment((e * HK + hk) * d, d);
          const auto v = x.value.col(t).segment((e * HV + h) * m, m);
          const Real beta = x.beta(e * HV + h, t);
          const Dense read = Real(reads) * decayed.back();
          const Matrix<Real, ddl::Dynamic, 1> r = v - read.transpose() * k, y = H.transpose() * k;
          gradient.value.col(t).segment((e * HV + h) * m, m) = beta * y;
          gradient.beta(e * HV + h, t) = y.dot(r);
          gradient.key.col(t).segment((e * HK + hk) * d, d) += beta * (H * r - read * y);
          if (reads) H -= beta * k * y.transpose();
          X = before.back();
          if (e == 0 && x.has_decay()) {
            H *= std::exp(x.log_decay(h, t));
            gradient.log_decay(h, t) = H.cwiseProduct(X).sum();
          }
          before.pop_back();
          decayed.pop_back();
        }
      }
      all.dinitial.middleCols(place, d) = H.transpose();
    }
  return all;
}

template <class A, class B>
void check_same(const Results<A>& given, const Results<B>& expected, double tolerance) {
  const auto a = given.tensors(), b = expected.tensors();
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    INFO(a[i].first);
    CHECK(error(a[i].second, b[i].second) <= tolerance);
  }
}

/// Several heads, edits and sequences, of which one is empty.
DeltaScanSettings many(Index edits = 2, ddl::HeadMap map = ddl::HeadMap::blocks) {
  return {.key_heads = 2, .value_heads = 6, .head_map = map, .edits = edits};
}

const ScanKernel kernels[] = {ScanKernel::recurrent, ScanKernel::chunked};

/// After T edits in a row: 2 eps each, as in sequence_tolerance, for a sum of several.
template <class Scalar>
constexpr double scan_tolerance = 4 * ddl::test::sequence_tolerance<Scalar>(30);

}  // namespace

TEMPLATE_TEST_CASE("a scan and its gradients are the definition's", "[op][delta_scan][grad]", float, double,
                   long double) {
  for (const ScanKernel kernel : kernels)
    for (const double decay : {0.0, 0.1, 3.0})
      for (const Index d : {1, 3, 16, 33})
        for (const Index m : {1, 2, 16, 70}) {
          CAPTURE(int(kernel), decay, d, m);
          Problem<TestType> p(d, m, {0, 5, 5, 28}, decay, {.kernel = kernel, .chunk = 7});
          check_same(p.run(), by_definition(Problem<long double>(p)), scan_tolerance<TestType>);
        }
}

TEST_CASE("chunks of any length, edits of a token and maps of heads give the definition's scan",
          "[op][delta_scan][grad]") {
  for (const ScanKernel kernel : kernels)
    for (const double decay : {0.0, 0.1, 3.0})
      for (const ddl::HeadMap map : {ddl::HeadMap::blocks, ddl::HeadMap::cyclic})
        for (const Index edits : {1, 3})
          for (const Index chunk : {1, 7, 16, 23, 100}) {
            CAPTURE(int(kernel), decay, int(map), edits, chunk);
            DeltaScanSettings settings = many(edits, map);
            settings.kernel = kernel;
            settings.chunk = chunk;
            settings.output_scale = 0.7;
            Problem<double> p(9, 5, {0, 5, 5, 28}, decay, settings);
            check_same(p.run(), by_definition(Problem<long double>(p)), scan_tolerance<double>);
          }
}

TEST_CASE("a scan that only writes, and its gradients, are the definition's", "[op][delta_scan][grad]") {
  for (const double decay : {0.0, 0.1, 3.0})
    for (const Index edits : {1, 3}) {
      CAPTURE(decay, edits);
      DeltaScanSettings settings = many(edits);
      settings.chunk = 7;
      settings.update = ddl::UpdateRule::write_only;
      Problem<double> p(9, 5, {0, 5, 5, 28}, decay, settings);
      check_same(p.run(), by_definition(Problem<long double>(p)), scan_tolerance<double>);
    }
}

TEST_CASE("n edits a token are n tokens of one edit that are read at the last", "[op][delta_scan]") {
  const Index n = 3, T = 11;
  for (const ScanKernel kernel : kernels)
    for (const double decay : {0.0, 0.5}) {
      CAPTURE(int(kernel), decay);
      Problem<double> p(6, 4, {0, T}, decay, {.key_heads = 2, .edits = n, .kernel = kernel});
      Problem<double> single(6, 4, {0, n * T}, decay, {.key_heads = 2, .kernel = kernel});
      single.inputs.key = p.inputs.key.reshaped(12, n * T);
      single.inputs.value = p.inputs.value.reshaped(8, n * T);
      single.inputs.beta = p.inputs.beta.reshaped(2, n * T);
      single.initial = p.initial;
      for (Index t = 0; t < T; ++t) {
        single.inputs.query.col(n * t + n - 1) = p.inputs.query.col(t);
        if (decay == 0) continue;
        single.inputs.log_decay.middleCols(n * t, n).setZero();
        single.inputs.log_decay.col(n * t) = p.inputs.log_decay.col(t);
      }
      p.forward();
      single.forward();
      CHECK(error(single.results.last, p.results.last) <= scan_tolerance<double>);
      for (Index t = 0; t < T; ++t)
        CHECK(error(single.results.output.col(n * t + n - 1), p.results.output.col(t)) <=
              scan_tolerance<double>);
    }
}

TEST_CASE("two halves with the state handed over are the whole, in inference as well", "[op][delta_scan]") {
  for (const ScanKernel kernel : kernels)
    for (const double decay : {0.0, 0.5})
      for (const Index first : {0, 1, 10, 29}) {
        CAPTURE(int(kernel), decay, first);
        DeltaScanSettings settings = many();
        settings.kernel = kernel;
        Problem<double> whole(9, 5, {0, 30}, decay, settings);
        whole.forward();
        Problem<double> half(9, 5, {0, first}, decay, settings), rest(9, 5, {0, 30 - first}, decay, settings);
        const auto cut = [&](Problem<double>& part, Index begin, Index count) {
          part.inputs.query = whole.inputs.query.middleCols(begin, count);
          part.inputs.key = whole.inputs.key.middleCols(begin, count);
          part.inputs.value = whole.inputs.value.middleCols(begin, count);
          part.inputs.beta = whole.inputs.beta.middleCols(begin, count);
          if (decay != 0) part.inputs.log_decay = whole.inputs.log_decay.middleCols(begin, count);
        };
        cut(half, 0, first);
        cut(rest, first, 30 - first);
        half.initial = whole.initial;
        rest.initial = half.infer().last;
        rest.infer();
        CHECK(error(rest.results.last, whole.results.last) <= scan_tolerance<double>);
        CHECK(error(half.results.output, whole.results.output.leftCols(first)) <= scan_tolerance<double>);
        CHECK(error(rest.results.output, whole.results.output.rightCols(30 - first)) <=
              scan_tolerance<double>);
      }
}

TEST_CASE("backward is the gradient of forward", "[op][delta_scan][grad]") {
  for (const ScanKernel kernel : kernels)
    for (const double decay : {0.0, 0.5})
      for (const Index edits : {1, 2}) {
        CAPTURE(int(kernel), decay, edits);
        DeltaScanSettings settings = many(edits);
        settings.kernel = kernel;
        settings.chunk = 4;
        Problem<double> p(3, 2, {0, 2, 7}, decay, settings);
        p.inputs.log_decay.array() -= 0.01;  // differences must not take it above 0
        p.run();
        const auto loss = [&] {
          p.forward();
          return p.results.output.cwiseProduct(p.doutput).sum() + p.results.last.cwiseProduct(p.dlast).sum();
        };
        const auto gradient = p.results.gradient;
        const Matrix<double> dinitial = p.results.dinitial;
        const auto inputs = ddl::check_gradients(p.inputs, gradient, loss, {.allow_zero = decay == 0});
        INFO(inputs.message());
        CHECK(inputs.passes(ddl::test::gradient_tolerance));
        const auto initial = ddl::check_gradients(p.initial, dinitial, loss);
        INFO(initial.message());
        CHECK(initial.passes(ddl::test::gradient_tolerance));
      }
}

TEST_CASE("a long scan in float agrees with double", "[op][delta_scan][grad]") {
  // beta 2 keeps the norm of what is written: nothing fades. beta 1 erases what was written under a key:
  // going back writes it again from r. Every state is taken back from the last.
  for (const ScanKernel kernel : kernels)
    for (const auto& [decay, beta] :
         {std::pair(0.0, 2.f), {0.0, 1.f}, {0.0, 0.999f}, {0.01, 2.f}, {1.0, 2.f}}) {
      CAPTURE(int(kernel), decay, beta);
      Problem<float> p(32, 16, {0, 2000}, decay, {.kernel = kernel});
      p.inputs.beta.setConstant(beta);
      p.inputs.value *= 0.1f;
      Problem<double> twice(p);
      check_same(p.run(), twice.run(), ddl::test::float_tolerance);
    }
}

TEST_CASE("a reflection that writes nothing keeps the norm of the state", "[op][delta_scan]") {
  for (const ScanKernel kernel : kernels) {
    Problem<float> p(32, 16, {0, 4000}, 0, {.kernel = kernel});
    p.inputs.beta.setConstant(2);
    p.inputs.value.setZero();
    p.forward();
    CHECK(std::abs(p.results.last.norm() / p.initial.norm() - 1) <= ddl::test::float_tolerance);
    CHECK_FALSE(error(p.results.last, p.initial) <= 0.1);
  }
}

TEST_CASE("what was written last under a key is read under it", "[op][delta_scan]") {
  const Index d = 8, m = 5;
  Problem<double> p(d, m, {0, 2 * d}, 0, {.output_scale = 1});
  p.inputs.beta.setOnes();
  for (Index t = 0; t < 2 * d; ++t) p.inputs.key.col(t) = Eigen::VectorXd::Unit(d, t % d);
  p.inputs.query = p.inputs.key;
  p.forward();
  CHECK(error(p.results.output, p.inputs.value) <= scan_tolerance<double>);
}

TEST_CASE("decays of any strength, one after the other, lose no digits", "[op][delta_scan][grad]") {
  for (const ScanKernel kernel : kernels)
    for (const Index edits : {1, 2}) {
      CAPTURE(int(kernel), edits);
      Problem<float> p(17, 6, {0, 50}, 0.1, {.edits = edits, .kernel = kernel, .chunk = 16});
      const float strong[] = {0, -50, -1e4f, -1e4f, -3, -1e-3f, -100, -1e30f};
      for (Index t = 0; t < 50; ++t)
        if (t % 3 == 0) p.inputs.log_decay(0, t) = strong[t / 3 % 8];
      check_same(p.run(), by_definition(Problem<long double>(p)), 4 * scan_tolerance<float>);
      p.inputs.log_decay.setConstant(-1e4f);
      check_same(p.run(), by_definition(Problem<long double>(p)), scan_tolerance<float>);
      p.inputs.log_decay.setZero();
      const auto faded = p.run();
      p.inputs.log_decay.resize(0, 0);
      p.run();
      CHECK(error(faded.output, p.results.output) <= scan_tolerance<float>);
      CHECK(error(faded.gradient.key, p.results.gradient.key) <= scan_tolerance<float>);
    }
}

TEST_CASE("edits that stretch the state are right in the recurrent kernel and refused by the chunked one",
          "[op][delta_scan][grad]") {
  Problem<float> p(12, 5, {0, 40}, 0, {.edits = 2, .chunk = 16});
  const float lengths[] = {1.6f, 1.3f, 1.5f, 0.7f, 1.6f};
  for (Index t = 0; t < 40; ++t) p.inputs.key.col(t) *= lengths[t % 5];
  p.inputs.beta *= 1.2f;
  const Results<long double> expected = by_definition(Problem<long double>(p));
  CHECK(expected.last.norm() > 1e3 * p.initial.norm());
  const auto given = p.run().tensors(), wanted = expected.tensors();
  CHECK(p.tape.starts.size() > 0);
  for (std::size_t i = 0; i < given.size(); ++i) {
    INFO(given[i].first);
    if (wanted[i].second.size() > 0)
      CHECK(ddl::test::relative_error(given[i].second, wanted[i].second) <= ddl::test::float_tolerance);
  }
  p.settings.kernel = ScanKernel::chunked;
  CHECK_THROWS_WITH(p.run(), Catch::Matchers::ContainsSubstring("the growth of the state within a chunk"));
  p.inputs.beta.setConstant(0.5f);  // 0.5 1.6^2 < 2
  check_same(p.run(), by_definition(Problem<long double>(p)), scan_tolerance<float>);
}

TEST_CASE("an edit that stretches the state loses no digits of its own gradient, wherever its chunk begins",
          "[op][delta_scan][grad]") {
  const Index chunk = 16;
  for (const double decay : {0.0, 0.1})
    for (const float length : {30.f, 300.f, 3000.f})
      for (const Index longest : {Index(0), chunk, chunk + 1}) {
        CAPTURE(decay, length, longest);
        Problem<float> p(16, 5, {0, 40}, decay, {.kernel = ScanKernel::recurrent, .chunk = chunk});
        p.inputs.key.col(longest) *= length;
        p.inputs.beta(0, longest) = 1;
        const Results<long double> expected = by_definition(Problem<long double>(p));
        p.run();
        for (Index t = 0; t < 40; ++t) {
          if (expected.gradient.key.col(t).isZero(0)) continue;  // a beta of 0
          CAPTURE(t);
          CHECK(ddl::test::relative_error(p.results.gradient.key.col(t), expected.gradient.key.col(t)) <=
                ddl::test::float_tolerance);
        }
      }
}

TEST_CASE("states are stored only where they cannot be taken back", "[op][delta_scan]") {
  Problem<float> p(16, 16, {0, 500}, 0);
  p.forward();
  CHECK(p.tape.starts.size() == 0);
  Problem<float> slow(16, 16, {0, 500}, 1e-4);
  slow.forward();
  CHECK(slow.tape.starts.size() == 0);
  Problem<float> fast(16, 16, {0, 500}, 1);
  fast.forward();
  CHECK(fast.tape.starts.size() > 0);
}

TEMPLATE_TEST_CASE("the order of the pieces and the number of threads leave no trace", "[op][delta_scan]",
                   float, double) {
  const ddl::ThreadPool pool(3);
  for (const ScanKernel kernel : kernels)
    for (const double decay : {0.0, 0.5}) {
      CAPTURE(int(kernel), decay);
      // One sequence: panels are summed in shares, over several blocks.
      for (const auto& offsets : {std::vector<Index>{0, 700}, std::vector<Index>{0, 300, 300, 650}}) {
        Problem<TestType> p(8, 150, offsets, decay, {.key_heads = 1, .value_heads = 2, .kernel = kernel});
        const auto expected = p.run().tensors();
        CHECK(p.run(ddl::test::Backwards()).tensors() == expected);
        CHECK(p.run(pool).tensors() == expected);
        check_same(p.results, by_definition(Problem<long double>(p)), 10 * scan_tolerance<TestType>);
      }
    }
}

TEST_CASE("only the first of several scans allocates", "[op][delta_scan]") {
  for (const ScanKernel kernel : kernels)
    for (const double decay : {0.0, 0.5}) {
      CAPTURE(int(kernel), decay);
      Problem<float> p(64, 64, {0, 50, 150}, decay, {.key_heads = 2, .kernel = kernel});
      p.run();
      Problem<float> large(128, 128, {0, 70}, decay, {.kernel = kernel});
      large.run();
      CHECK(ddl::test::allocations_in([&] {
              p.run();
              large.run();
            }) == 0);
    }
}

TEST_CASE("tokens that are taken back leave no trace", "[op][delta_scan]") {
  DeltaScanSettings settings = many(2);
  Problem<double> p(9, 5, {0, 8, 20}, 0, settings);
  const Matrix<double> after = p.forward().last;
  Matrix<double> state = after;
  ddl::delta_scan_inverse(settings, p.offsets, p.inputs, p.tape, 0, state);
  CHECK(state == after);
  ddl::delta_scan_inverse(settings, p.offsets, p.inputs, p.tape, 8, state);
  CHECK(error(state.leftCols(6 * 9), p.initial.leftCols(6 * 9)) <= scan_tolerance<double>);
  Problem<double> shorter(9, 5, {0, 12}, 0, settings);
  shorter.inputs.query = p.inputs.query.middleCols(8, 12);
  shorter.inputs.key = p.inputs.key.middleCols(8, 12);
  shorter.inputs.value = p.inputs.value.middleCols(8, 12);
  shorter.inputs.beta = p.inputs.beta.middleCols(8, 12);
  shorter.initial = state.rightCols(6 * 9);  // after 4 of 12 tokens
  for (auto* x : {&shorter.inputs.query, &shorter.inputs.key, &shorter.inputs.value, &shorter.inputs.beta})
    *x = x->rightCols(8).eval();
  shorter.doutput = shorter.doutput.leftCols(8).eval();
  shorter.offsets = {0, 8};
  CHECK(error(shorter.forward().last, after.rightCols(6 * 9)) <= scan_tolerance<double>);
}

TEST_CASE("tokens that stretched the state are not taken back", "[op][delta_scan]") {
  DeltaScanSettings settings = many();
  Problem<float> p(9, 5, {0, 8, 20}, 0, settings);
  p.inputs.key.col(14) *= 300;
  p.inputs.beta.col(14).setOnes();
  const Matrix<float> after = p.forward().last;
  Matrix<float> state = after;
  ddl::delta_scan_inverse(settings, p.offsets, p.inputs, p.tape, 5, state);  // tokens 15 to 19, and 3 to 7
  CHECK_FALSE(state == after);
  state = after;
  CHECK_THROWS_WITH(ddl::delta_scan_inverse(settings, p.offsets, p.inputs, p.tape, 6, state),
                    Catch::Matchers::ContainsSubstring(
                        "delta_scan_inverse: the growth of the state over the last 6 tokens of sequence 1, "
                        "the product of |1 - beta |k|^2|, is e^22.8"));
  CHECK(state == after);
}

TEST_CASE("no tokens, one token, and the smallest heads", "[op][delta_scan]") {
  for (const ScanKernel kernel : kernels)
    for (const double decay : {0.0, 0.5})
      for (const auto& offsets : {std::vector<Index>{0}, std::vector<Index>{0, 0}, std::vector<Index>{0, 1},
                                  std::vector<Index>{0, 0, 1, 1}}) {
        CAPTURE(int(kernel), decay, offsets.size());
        Problem<double> p(1, 1, offsets, decay, {.kernel = kernel});
        p.inputs.beta.setConstant(2);
        check_same(p.run(), by_definition(Problem<long double>(p)), scan_tolerance<double>);
      }
}

TEST_CASE("what does not fit a scan is refused by name", "[op][delta_scan]") {
  using P = Problem<double>;
  const auto refused = [](const auto& spoil, const std::string& message, double decay = 0) {
    P p(4, 3, {0, 2, 5}, decay, {.key_heads = 2, .value_heads = 4, .edits = 2});
    spoil(p);
    CHECK_THROWS_WITH(p.run(), Catch::Matchers::ContainsSubstring(message));
  };
  refused([](P& p) { p.inputs.query.resize(9, 5); }, "query is 9 x 5, expected a multiple of 2 rows");
  refused([](P& p) { p.inputs.key.resize(16, 4); }, "delta_scan_forward: key is 16 x 4, expected 16 x 5");
  refused([](P& p) { p.inputs.value.resize(23, 5); }, "value is 23 x 5, expected a multiple of 8 rows");
  refused([](P& p) { p.inputs.beta.resize(4, 5); }, "beta is 4 x 5, expected 8 x 5");
  refused([](P& p) { p.inputs.log_decay.resize(3, 5); }, "log_decay is 3 x 5, expected 4 x 5");
  refused([](P& p) { p.inputs.log_decay(1, 2) = 0.25; }, "log_decay is 0.25, expected at most 0", 1);
  refused([](P& p) { p.initial.resize(3, 31); }, "state is 3 x 31, expected 3 x 32");
  refused([](P& p) { p.doutput.resize(12, 4); }, "output is 12 x 4, expected 12 x 5");
  refused([](P& p) { p.dlast.resize(4, 32); }, "delta_scan_backward: dstate is 4 x 32, expected 3 x 32");
  refused(
      [](P& p) {
        p.offsets = {0, 4};
      },
      "offsets is from 0 to 4, expected an ascent from 0 to the 5 tokens");
  refused([](P& p) { p.offsets = {0, 4, 2, 5}; }, "offsets is from 0 to 5, expected an ascent");
  refused([](P& p) { p.offsets.clear(); }, "offsets is empty");
  refused([](P& p) { p.settings.value_heads = 3; },
          "value_heads is 3, expected a multiple of the 2 key heads");
  refused([](P& p) { p.settings.edits = 0; }, "edits is 0, expected at least 1");
  refused([](P& p) { p.settings.chunk = 0; }, "chunk is 0, expected at least 1");
  refused([](P& p) { p.settings.update = ddl::UpdateRule::additive; },
          "update is additive, expected delta or write_only");
  refused(
      [](P& p) {
        p.settings.update = ddl::UpdateRule::write_only;
        p.settings.kernel = ScanKernel::chunked;
      },
      "update is write_only, expected delta for the chunked kernel");

  P p(4, 3, {0, 5}, 0);
  p.run();
  CHECK_THROWS_WITH(ddl::delta_scan_backward(p.settings, p.offsets, p.inputs, p.tape, p.doutput,
                                             p.results.dinitial, p.results.gradient),
                    Catch::Matchers::ContainsSubstring("the tape is used up or never written"));
  p.forward();
  CHECK_THROWS_WITH(ddl::delta_scan_inverse(p.settings, p.offsets, p.inputs, p.tape, 6, p.results.last),
                    Catch::Matchers::ContainsSubstring("tokens is 6, expected from 0 to the 5 tokens"));
  P other(4, 3, {0, 6}, 0);
  CHECK_THROWS_WITH(ddl::delta_scan_backward(other.settings, other.offsets, other.inputs, p.tape,
                                             other.doutput, other.dlast, other.results.gradient),
                    Catch::Matchers::ContainsSubstring("the tape's error is 3 x 5, expected 3 x 6"));
  P decayed(4, 3, {0, 5}, 1);
  decayed.forward();
  CHECK_THROWS_WITH(ddl::delta_scan_inverse(decayed.settings, decayed.offsets, decayed.inputs, decayed.tape,
                                            1, decayed.results.last),
                    Catch::Matchers::ContainsSubstring("log_decay is 1 x 5, expected 0 x 0"));
}
