// SPDX-License-Identifier: MIT
#include "ddl/op/direction.hpp"

#include <complex>

#include "ddl/op/delta_operator.hpp"
#include "support/catch.hpp"
#include "support/op_data.hpp"

using namespace ddl::test;
using ddl::Index;

namespace {

/// The largest relative error of direction_scale over lengths |kt| and k_eps, against long double.
template <class Scalar>
double worst_scale(std::initializer_list<double> lengths, std::initializer_list<double> epsilons) {
  using Real = ddl::RealOf<ddl::Accum<Scalar>>;
  Worst worst;
  ddl::Random random(1);
  for (const Index d : {1, 2, 7, 300})
    for (const double length : lengths)
      for (const double eps : epsilons) {
        using Long =
            std::conditional_t<Eigen::NumTraits<Scalar>::IsComplex, std::complex<long double>, long double>;
        auto direction = random_matrix<ddl::Vector<Long>>(random, d);
        direction *= static_cast<long double>(length) / direction.norm();
        const ddl::Vector<Scalar> kt = direction.template cast<Scalar>();
        const long double norm = widen(kt).template cast<Long>().norm(), k_eps = static_cast<Real>(eps);
        const Real s = ddl::direction_scale(kt, Real(widen(kt).squaredNorm()), static_cast<Real>(eps));
        const long double root = std::sqrt(norm * norm + k_eps * k_eps);
        worst.add(
            static_cast<double>(root > 0 ? std::abs(static_cast<long double>(s) * root - 1) : std::abs(s)));
      }
  return worst;
}

}  // namespace

TEST_CASE("a direction is scaled right where its squared length under- or overflows", "[op][direction]") {
  const auto lengths = {0.0, 1e-20, 1e-6, 1.0, 1e18};
  const auto epsilons = {0.0, 1e-5, 1e-30, 1.0};
  CHECK(worst_scale<float>(lengths, epsilons) <= identity_tolerance<float>);
  CHECK(worst_scale<float>({1e-36, 1e36}, epsilons) <= identity_tolerance<float>);
  CHECK(worst_scale<double>(lengths, epsilons) <= identity_tolerance<double>);
  CHECK(worst_scale<double>({1e-300, 1e300}, epsilons) <= identity_tolerance<double>);
  CHECK(worst_scale<long double>(lengths, epsilons) <= identity_tolerance<long double>);
  CHECK(worst_scale<std::complex<double>>(lengths, epsilons) <= identity_tolerance<double>);
  CHECK(worst_scale<Eigen::half>({0.0, 1e-6, 1.0, 6e4}, epsilons) <= identity_tolerance<float>);
  CHECK(worst_scale<Eigen::bfloat16>(lengths, epsilons) <= identity_tolerance<float>);
}

TEMPLATE_TEST_CASE("a direction of any length is normalised with any k_eps", "[op][direction]", float,
                   double) {
  using Real = TestType;
  using Long = long double;
  ddl::Random random(2);
  auto lengths = lengths_of_any_size<Real>();
  for (const Real length : lengths)
    for (const Real k_eps : lengths) {
      CAPTURE(length, k_eps);
      const ddl::Vector<Real> kt = length * random_matrix<ddl::Vector<Real>>(random, 70).normalized();
      const ddl::Vector<Long> exact = kt.template cast<Long>();
      const Long root = std::hypot(exact.norm(), static_cast<Long>(k_eps));
      const ddl::Vector<Long> expected = root > 0 ? ddl::Vector<Long>(exact / root) : 0 * exact;

      const auto unit = ddl::detail::normalizer(kt.data(), kt.size(), kt.squaredNorm(), k_eps);
      const ddl::Vector<Real> scaled = unit.power * kt, k = unit.scale * scaled;
      CHECK(error(k, expected) <= identity_tolerance<Real>);
      CHECK(error(ddl::DeltaOperator<Real>(kt, 1, k_eps).direction(), expected) <= identity_tolerance<Real>);

      const Real s = ddl::direction_scale(kt, kt.squaredNorm(), k_eps);
      const bool representable = root > 0 && 1 / root <= static_cast<Long>(std::numeric_limits<Real>::max());
      CHECK(ddl::is_finite(s));
      CHECK((s > 0) == representable);
    }
}

TEST_CASE("the zero direction is scaled by zero, or by the inverse of k_eps", "[op][direction]") {
  const Eigen::Vector3f zero = Eigen::Vector3f::Zero();
  CHECK(ddl::direction_scale(zero, 0.0f, 0.0f) == 0);
  CHECK(ddl::direction_scale(zero, 0.0f, 0.5f) == 2);
}
