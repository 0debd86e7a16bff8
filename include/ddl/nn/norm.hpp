// SPDX-License-Identifier: MIT
/// @file  RMSNorm.
/// @source Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
#pragma once

#include <cmath>
#include <tuple>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"
#include "ddl/core/parameters.hpp"
#include "ddl/op/direction.hpp"

namespace ddl {

/// y = w * x / sqrt(mean(x^2) + eps), per column; x, y: d x N, w: d.
template <class Scalar_, int Rows = Dynamic>
struct RmsNorm {
  using Scalar = Scalar_;
  using Input = ConstBatchRef<Scalar, Rows>;

  /// What the backward pass needs besides x.
  template <int Tokens = Dynamic>
  struct Cache {
    Matrix<Scalar, 1, Tokens> scale;  ///< 1 / sqrt(mean(x^2) + eps)
  };

  Vector<Scalar, Rows> weight;
  double eps = 1e-5;

  static constexpr auto parameters() { return std::tuple(vector_field("weight", &RmsNorm::weight)); }

  RmsNorm() = default;
  /// @throws std::invalid_argument if the width is below 1 or eps is not a number above 0.
  explicit RmsNorm(Index width, double eps_ = 1e-5) : eps(eps_) {
    check_positive("ddl::RmsNorm", "width", width);
    check_fixed("ddl::RmsNorm", "width", width, Rows);
    check_range("ddl::RmsNorm", "eps", eps, eps > 0, "a number above 0");
    weight.setOnes(width);
  }

  /// What a cache keeps, in scalars per sample.
  Index cache_scalars() const { return 1; }

  template <int Tokens, Executor E = Serial>
  void forward(const Input& x, BatchRef<Scalar, Rows> y, Cache<Tokens>& cache, const E& executor = {}) const {
    check_shape("ddl::RmsNorm::forward", "x", x, weight.size(), x.cols());
    check_shape("ddl::RmsNorm::forward", "y", y, weight.size(), x.cols());
    cache.scale.resize(1, x.cols());
    for_ranges(executor, x.cols(), columns_per_piece(x.rows()), [&](Index begin, Index end) {
      using std::sqrt;
      const Scalar root = sqrt(Scalar(x.rows())), total_eps = root * sqrt(Scalar(eps));
      for (Index n = begin; n < end; ++n) {
        // direction_scale, as the sum of squares can over- or underflow
        const Scalar s = root * direction_scale(x.col(n), Scalar(column(x, n).square().sum()), total_eps);
        cache.scale(n) = s;
        column(y, n) = s * column(x, n) * column(weight, 0);
      }
    });
  }

  /// With h = w dy, z = s x:  dx = s (h - (h.z) z / d),  dw += z dy.  dx may be dy.
  template <int Tokens, Executor E = Serial>
  void backward(const Input& x, const Cache<Tokens>& cache, const Input& dy, BatchRef<Scalar, Rows> dx,
                RmsNorm& gradient, const E& executor = {}) const {
    for_ranges(executor, x.rows(), 64, [&](Index begin, Index end) {
      for (Index n = 0; n < x.cols(); ++n)
        column(gradient.weight, 0, begin, end - begin) +=
            cache.scale(n) * column(x, n, begin, end - begin) * column(dy, n, begin, end - begin);
    });
    for_ranges(executor, x.cols(), columns_per_piece(x.rows()), [&](Index begin, Index end) {
      const auto w = column(weight, 0);
      for (Index n = begin; n < end; ++n) {
        const Scalar s = cache.scale(n);
        const Scalar hz = (w * column(dy, n) * (s * column(x, n))).sum();
        column(dx, n) = s * (w * column(dy, n) - (hz / Scalar(x.rows())) * (s * column(x, n)));
      }
    });
  }
};

/// No normalisation: y = x.
template <class Scalar_, int Rows = Dynamic>
struct NoNorm {
  using Scalar = Scalar_;
  using Input = ConstBatchRef<Scalar, Rows>;
  template <int Tokens = Dynamic>
  struct Cache {};

  static constexpr auto parameters() { return std::tuple(); }

  NoNorm() = default;
  explicit NoNorm(Index, double = 0) {}

  Index cache_scalars() const { return 0; }

  template <int Tokens, Executor E = Serial>
  void forward(const Input& x, BatchRef<Scalar, Rows> y, Cache<Tokens>&, const E& = {}) const {
    y = x;
  }
  template <int Tokens, Executor E = Serial>
  void backward(const Input&, const Cache<Tokens>&, const Input& dy, BatchRef<Scalar, Rows> dx, NoNorm&,
                const E& = {}) const {
    dx = dy;
  }
};

}  // namespace ddl
