// SPDX-License-Identifier: MIT
#include "ddl/residual/channel_convolution_compressor.hpp"

#include "ddl/residual/block.hpp"
#include "support/compressor_suite.hpp"

using namespace ddl;
using namespace ddl::test;

static_assert(CompressorPart<ChannelConvolutionCompressor<float>> &&
              CompressorPart<ChannelConvolutionCompressor<double, 8, 2>, 8>);

TEST_CASE("the channel convolution passes the suite", "[residual][channel_convolution][grad]") {
  SECTION("as wide as the channels") { check_compressor<ChannelConvolutionCompressor, 4>({}); }
  SECTION("narrower") { check_compressor<ChannelConvolutionCompressor, 3>({2}); }
  SECTION("one channel") { check_compressor<ChannelConvolutionCompressor, 1>({}); }
}

TEST_CASE("the channel convolution is a convolution along a padded row, then a weighted sum",
          "[residual][channel_convolution]") {
  const Index K = GENERATE(Index(1), Index(2), Index(3), Index(4), Index(5));
  const Index m = K + GENERATE(Index(0), Index(1), Index(4));
  CAPTURE(K, m);
  Random random(1);
  ChannelConvolutionCompressor<double> convolution(5, m, {K}, random);
  for_each_parameter([&](const ParameterPath&, auto& p) { fill(random, p); }, convolution);
  Matrix<double> X(5, 2 * m), expected(5, 2);
  fill(random, X);
  for (Index n = 0; n < 2; ++n)
    for (Index i = 0; i < 5; ++i) {
      Vector<double> padded = Vector<double>::Zero(m + K - 1);
      padded.segment((K - 1) / 2, m) = X.row(i).segment(n * m, m).transpose();
      expected(i, n) = 0;
      for (Index j = 0; j < m; ++j)
        expected(i, n) += convolution.read[j] * convolution.weight.row(i).dot(padded.segment(j, K));
    }
  ChannelConvolutionCompressor<double>::Tape<> tape;
  CHECK(error(convolution.forward(X, tape), expected) <= identity_tolerance<double>);
}

TEST_CASE("the channel convolution starts at the mean, for every kernel", "[residual][channel_convolution]") {
  const std::optional<Index> kernel = GENERATE(std::optional<Index>(), std::optional<Index>(1),
                                               std::optional<Index>(2), std::optional<Index>(4));
  Random random(1);
  Matrix<double> X(5, 4);
  fill(random, X);
  const ChannelConvolutionCompressor<double> convolution(5, 4, {kernel}, random);
  ChannelConvolutionCompressor<double>::Tape<> tape;
  CHECK(error(convolution.forward(X, tape), X.rowwise().mean()) <= identity_tolerance<double>);
  CHECK(convolution.weight.cols() == kernel.value_or(4));
}

TEST_CASE("the channel convolution refuses a kernel below 1 or wider than the channels",
          "[residual][channel_convolution][errors]") {
  Random random(1);
  CHECK_THROWS_WITH(ChannelConvolutionCompressor<double>(5, 3, {-1}, random),
                    "ddl::ChannelConvolutionCompressor: kernel is -1, expected 1 to the 3 value channels");
  CHECK_THROWS_WITH(ChannelConvolutionCompressor<double>(5, 3, {0}, random),
                    "ddl::ChannelConvolutionCompressor: kernel is 0, expected 1 to the 3 value channels");
  CHECK_THROWS_WITH(ChannelConvolutionCompressor<double>(5, 3, {4}, random),
                    "ddl::ChannelConvolutionCompressor: kernel is 4, expected 1 to the 3 value channels");
}
