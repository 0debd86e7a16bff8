// SPDX-License-Identifier: MIT
/// @file  RMSNorm.
/// @source Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
#pragma once

#include <cmath>
#include <tuple>

#include "ddl/nn/part.hpp"
#include "ddl/op/direction.hpp"

namespace ddl {

/// Settings of an RmsNorm.
struct RmsNormSettings {
  double eps = 1e-5;  ///< inside the root
};

/// The norm y = w * x / sqrt(mean(x^2) + eps), per column; x, y: d x N, w: d.
template <class Scalar_, int Rows = Dynamic>
struct RmsNorm {
  using Scalar = Scalar_;
  using Input = ConstBatchRef<Scalar, Rows>;

  using Settings = RmsNormSettings;
  static constexpr PartKind kind = PartKind::norm;

  /// What backward needs of forward.
  template <int Tokens = Dynamic>
  struct Tape {
    Matrix<Scalar, 1, Tokens> inverse_rms;  ///< 1 / sqrt(mean(x^2) + eps)
  };

  Vector<Scalar, Rows> weight;  ///< w
  double eps = 1e-5;            ///< inside the root

  static constexpr auto parameters() { return std::tuple(vector_parameter("weight", &RmsNorm::weight)); }

  RmsNorm() = default;
  /// The constructor of a part, whose two sizes are one here.
  RmsNorm(Index in, [[maybe_unused]] Index out, const Settings& settings, Random&)
      : RmsNorm(in, settings.eps) {
    eigen_assert(in == out);
  }
  /// @throws std::invalid_argument if the width is below 1 or eps is not a number above 0.
  explicit RmsNorm(Index width, double eps_ = 1e-5) : eps(eps_) {
    check_positive("ddl::RmsNorm", "width", width);
    check_fixed("ddl::RmsNorm", "width", width, Rows);
    check_range("ddl::RmsNorm", "eps", eps, eps > 0, "a number above 0");
    weight.setOnes(width);
  }

  /// y from x.
  /// @throws std::invalid_argument if a shape does not fit.
  template <int Tokens>
  void forward(const Input& x, BatchRef<Scalar, Rows> y, Tape<Tokens>& tape, const Pass& pass = {}) const {
    check_shape("ddl::RmsNorm::forward", "x", x, weight.size(), x.cols());
    check_shape("ddl::RmsNorm::forward", "y", y, weight.size(), x.cols());
    tape.inverse_rms.resize(1, x.cols());
    for_ranges(pass.executor, x.cols(), columns_per_piece(x.rows()), [&](Index begin, Index end) {
      using std::sqrt;
      const Scalar root = sqrt(Scalar(x.rows())), total_eps = root * sqrt(Scalar(eps));
      for (Index n = begin; n < end; ++n) {
        // direction_scale, as the sum of squares can over- or underflow
        const Scalar s = root * direction_scale(x.col(n), Scalar(column(x, n).square().sum()), total_eps);
        tape.inverse_rms(n) = s;
        column(y, n) = s * column(x, n) * column(weight, 0);
      }
    });
  }

  /// With h = w dy, z = s x:  dx += s (h - (h.z) z / d),  dw += z dy.
  template <int Tokens>
  void backward(const Input& x, const Input&, const Input& dy, BatchRef<Scalar, Rows> dx,
                const Tape<Tokens>& tape, RmsNorm& gradient, const Pass& pass = {}) const {
    for_ranges(pass.executor, x.rows(), rows_per_piece(x.cols()), [&](Index begin, Index end) {
      for (Index n = 0; n < x.cols(); ++n)
        column(gradient.weight, 0, begin, end - begin) +=
            tape.inverse_rms(n) * column(x, n, begin, end - begin) * column(dy, n, begin, end - begin);
    });
    for_ranges(pass.executor, x.cols(), columns_per_piece(x.rows()), [&](Index begin, Index end) {
      const auto w = column(weight, 0);
      for (Index n = begin; n < end; ++n) {
        const Scalar s = tape.inverse_rms(n);
        const Scalar hz = (w * column(dy, n) * (s * column(x, n))).sum();
        column(dx, n) += s * (w * column(dy, n) - (hz / Scalar(x.rows())) * (s * column(x, n)));
      }
    });
  }
};

/// No norm: y = x.
template <class Scalar_, int Rows = Dynamic>
struct NoNorm {
  using Scalar = Scalar_;
  using Input = ConstBatchRef<Scalar, Rows>;
  /// There are none.
  struct Settings {};
  static constexpr PartKind kind = PartKind::norm;
  /// Backward needs nothing.
  template <int Tokens = Dynamic>
  struct Tape {};

  static constexpr auto parameters() { return std::tuple(); }

  NoNorm() = default;
  /// The constructor of a part.
  NoNorm(Index, Index, const Settings&, Random&) {}

  /// Y = x.
  template <int Tokens>
  void forward(const Input& x, BatchRef<Scalar, Rows> y, Tape<Tokens>&, const Pass& = {}) const {
    y = x;
  }
  /// Dx += dy.
  template <int Tokens>
  void backward(const Input&, const Input&, const Input& dy, BatchRef<Scalar, Rows> dx, const Tape<Tokens>&,
                NoNorm&, const Pass& = {}) const {
    dx += dy;
  }
};

}  // namespace ddl
