// SPDX-License-Identifier: MIT
/// @file  The token embedding.
#pragma once

#include <span>
#include <tuple>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/parameters.hpp"
#include "ddl/core/pass.hpp"
#include "ddl/core/random.hpp"

namespace ddl {

/// The embedding x_n = row token_n of W;  x: d x N, W: vocabulary x d (PyTorch's shape).
template <class Scalar_, int Rows = Dynamic>
struct TokenEmbedding {
  using Scalar = Scalar_;
  using Input = ConstBatchRef<Scalar, Rows>;

  Matrix<Scalar, Dynamic, Rows> weight;  ///< W

  static constexpr auto parameters() { return std::tuple(parameter("weight", &TokenEmbedding::weight)); }

  TokenEmbedding() = default;
  /// Weights drawn from a normal distribution.
  /// @throws std::invalid_argument if a size is below 1 or differs from the fixed one.
  TokenEmbedding(Index vocabulary, Index width, Random& random, double deviation = 0.02) {
    check_positive("ddl::TokenEmbedding", "vocabulary", vocabulary);
    check_positive("ddl::TokenEmbedding", "width", width);
    check_fixed("ddl::TokenEmbedding", "width", width, Rows);
    weight.resize(vocabulary, width);
    random.fill_normal(weight, deviation);
  }

  Index vocabulary() const noexcept { return weight.rows(); }  ///< the number of tokens there are
  Index width() const noexcept { return weight.cols(); }       ///< the size d of an embedded token

  /// The rows of W that belong to the tokens.
  /// @throws std::invalid_argument if a shape does not fit or a token is not in the vocabulary; nothing is
  /// written then.
  void forward(std::span<const int> tokens, BatchRef<Scalar, Rows> x, const Pass& pass = {}) const {
    check("ddl::TokenEmbedding::forward", "x", tokens, x);
    for_ranges(pass.executor, x.cols(), columns_per_piece(width()), [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n)
        x.col(n) = weight.row(tokens[static_cast<std::size_t>(n)]).transpose();
    });
  }

  /// dW's row token_n += dx_n, in the order of n: a token may come more than once.
  void backward(std::span<const int> tokens, const Input& dx, TokenEmbedding& gradient,
                const Pass& pass = {}) const {
    check("ddl::TokenEmbedding::backward", "dx", tokens, dx);
    for_ranges(pass.executor, width(), rows_per_piece(dx.cols()), [&](Index begin, Index end) {
      for (Index n = 0; n < dx.cols(); ++n)
        gradient.weight.row(tokens[static_cast<std::size_t>(n)]).segment(begin, end - begin) +=
            dx.col(n).segment(begin, end - begin).transpose();
    });
  }

 private:
  template <class X>
  void check(const char* where, const char* what, std::span<const int> tokens, const X& x) const {
    check_shape(where, what, x, width(), static_cast<Index>(tokens.size()));
    for (std::size_t n = 0; n < tokens.size(); ++n)
      if (tokens[n] < 0 || tokens[n] >= vocabulary())
        fail(where, "token " + std::to_string(n), std::to_string(tokens[n]),
             "0 to " + std::to_string(vocabulary() - 1));
  }
};

}  // namespace ddl
