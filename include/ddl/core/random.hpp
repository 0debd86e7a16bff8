// SPDX-License-Identifier: MIT
/// @file  Random numbers: one seed gives one stream under every compiler and standard library.
///
/// The standard library's distributions are implementation-defined, and libm's logarithm differs between
/// systems in its last bit; so engine, distributions and that logarithm are written here with operations that
/// IEEE 754 defines exactly. (Under -ffast-math, and where std::fma rounds twice, as in mingw-w64 without
/// -mfma, last bits of normal numbers may differ.)
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <utility>

#include "ddl/core/check.hpp"

namespace ddl {

/// The generator xoshiro256++ 1.0 (Blackman and Vigna 2019), seeded through SplitMix64; a
/// UniformRandomBitGenerator.
class Random {
 public:
  using result_type = std::uint64_t;           ///< of a uniform random bit generator
  using State = std::array<std::uint64_t, 4>;  ///< the four words of xoshiro256++

  /// The stream of a seed.
  explicit Random(std::uint64_t seed = 0) noexcept {
    for (auto& word : state_) {
      seed += 0x9e3779b97f4a7c15u;
      std::uint64_t z = seed;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      word = z ^ (z >> 31);
    }
  }
  /// Continues a stream.
  /// @throws std::invalid_argument if the state is zero, from which xoshiro gives nothing but zeros.
  explicit Random(const State& state) : state_(state) {
    if (state == State{}) fail("ddl::Random", "the state", "zero", "a state that Random has had");
  }

  /// All there is to save: Random(state()) continues the stream.
  const State& state() const noexcept { return state_; }

  static constexpr result_type(min)() noexcept { return 0; }                ///< the smallest draw
  static constexpr result_type(max)() noexcept { return ~result_type{0}; }  ///< the largest draw

  /// The next 64 random bits.
  result_type operator()() noexcept {
    const std::uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0];
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  /// Uniform on [0, 1): a multiple of 2^-53.
  double uniform() noexcept { return static_cast<double>((*this)() >> 11) * 0x1p-53; }

  /// Uniform on [low, high), up to rounding.
  double uniform(double low, double high) noexcept { return std::fma(uniform(), high - low, low); }

  /// Uniform on 0 .. count - 1, without bias: the tail that does not divide evenly is drawn again.
  Index below(Index count) noexcept {
    const auto n = static_cast<std::uint64_t>(count);
    const std::uint64_t unfair = (0 - n) % n;
    std::uint64_t draw = 0;
    do draw = (*this)();
    while (draw < unfair);
    return static_cast<Index>(draw % n);
  }

  /// Standard normal, by Marsaglia's polar method. Each call draws afresh: nothing is kept but the state.
  double normal() noexcept {
    for (;;) {
      const double u = std::fma(2.0, uniform(), -1.0);
      const double v = std::fma(2.0, uniform(), -1.0);
      const double q = std::fma(u, u, v * v);
      if (q > 0 && q < 1) return u * std::sqrt(-2 * log_unit(q) / q);
    }
  }

  /// Fisher-Yates.
  template <class Container>
  void shuffle(Container& items) noexcept {
    for (Index i = static_cast<Index>(items.size()) - 1; i > 0; --i) {
      using std::swap;
      swap(items[static_cast<std::size_t>(i)], items[static_cast<std::size_t>(below(i + 1))]);
    }
  }

  template <class Derived>
  void fill_normal(Eigen::DenseBase<Derived>& x, double deviation) noexcept {
    using Scalar = typename Derived::Scalar;
    for (Index j = 0; j < x.cols(); ++j)
      for (Index i = 0; i < x.rows(); ++i)
        x.derived().coeffRef(i, j) = static_cast<Scalar>(deviation * normal());
  }

 private:
  /// log q for q in (0, 1): q = m 2^e, log m = 2 artanh((m - 1) / (m + 1)) by its series.
  static double log_unit(double q) noexcept {
    int exponent = 0;
    double m = std::frexp(q, &exponent);
    if (m < 0.70710678118654752) {
      m *= 2;
      --exponent;
    }
    const double s = (m - 1) / (m + 1);
    const double square = s * s;
    double series = 0;
    for (int term = 23; term >= 1; term -= 2) series = std::fma(series, square, 1.0 / term);
    return std::fma(static_cast<double>(exponent), 0.69314718055994531, 2 * s * series);
  }

  State state_{};
};

}  // namespace ddl
