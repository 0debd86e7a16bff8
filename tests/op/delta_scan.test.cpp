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
    ddl::for_each_parameter([&](const ddl::ParameterPath& path, const auto& x) { add(path.str(), x); }, gradient);
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

  Problem(Index d, Index m, std::vector<Index> offsets_, double mean_decay = 0, const DeltaScanSettings& s = {},
          std::uint64_t seed = 1)
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
    ddl::delta_scan_backward(settings, offsets, inputs, tape, doutput, results.dinitial, results.gradient, executor);
    return results;
  }
  const Results<Scalar>& infer() {
    results.last = initial;
    results.output.resize(doutput.rows(), doutput.cols());
    ddl::delta_scan_infer(settings, offsets, inputs, results.last, results.output);
    return results;
  }
};

/// The definition with dense matrices, in long double, all states stored; the decay's gradient from where it stands.
Results<long double> by_definition(const Problem<long double>& p) {
  using Real = long double;
  using Dense = Matrix<Real>;
  const auto& x = p.inputs;
  const Index HK = p.settings.key_heads, HV = p.settings.value_heads.value_or(HK), n = p.settings.edits;
  const Index d = x.query.rows() / HK, m = x.value.rows() / (n * HV);
  const Real scale = static_cast<Real>(p.settings.output_scale.value_or(1 / std::sqrt(double(d))));
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
          X = (Dense::Identity(d, d) - x.beta(e * HV + h, t) * k * k.transpose()) * X +
              x.beta(e * HV + h, t) * k * v.transpose();
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
          const Dense read = decayed.back();
          const Matrix<Real, ddl::Dynamic, 1> r = v - read.transpose() * k, y = H.transpose() * k;
          gradient.value.col(t).segment((e * HV + h) * m, m) = beta * y;
          gradient.beta(e * HV + h, t) = y.dot(r);
          gradient.key.col(t).segment((e * HK + hk) * d, d) += beta * (H * r - read * y);
          H -= beta * k * y.transpose();
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

}  // namespace

TEMPLATE_TEST_CASE("a scan and its gradients are the definition's", "[op][delta_scan][grad]", float, double,
                   long double) {
  const double tolerance = 40 * ddl::test::identity_tolerance<TestType>;
  for (const double decay : {0.0, 0.1, 3.0})
    for (const Index d : {1, 3, 16, 33})
      for (const Index m : {1, 2, 16, 70}) {
        CAPTURE(decay, d, m);
        Problem<TestType> p(d, m, {0, 5, 5, 28}, decay, {.chunk = 7});
        check_same(p.run(), by_definition(Problem<long double>(p)), tolerance);
      }
}

TEST_CASE("scratch", "[op][delta_scan][grad]") {
  for (const auto kernel : {ScanKernel::recurrent, ScanKernel::chunked})
  for (const double decay : {0.0, 0.1, 3.0})
    for (const auto map : {ddl::HeadMap::blocks, ddl::HeadMap::cyclic}) {
      for (const Index chunk : {1, 7, 10, 16, 100}) {
        CAPTURE(decay, chunk, int(kernel));
        auto settings = many(3, map);
        settings.chunk = chunk;
        settings.kernel = kernel;
        Problem<double> p(9, 5, {0, 5, 5, 28}, decay, settings);
        check_same(p.run(), by_definition(Problem<long double>(p)), 1e-13);
      }
    }
}
