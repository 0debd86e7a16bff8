// SPDX-License-Identifier: MIT
#include "ddl/residual/compressor.hpp"

#include "support/compressor_suite.hpp"

using namespace ddl;
using namespace ddl::test;

TEST_CASE("every compressor passes the suite", "[residual][compressor][grad]") {
  SECTION("identity") { check_compressor<ChannelCompressor, 1>({Compression::identity}); }
  SECTION("channel mix of one channel") {
    check_compressor<ChannelCompressor, 1>({Compression::channel_mix});
  }
  SECTION("mean of three channels") { check_compressor<ChannelCompressor, 3>({Compression::mean}); }
  SECTION("channel mix of three channels") {
    check_compressor<ChannelCompressor, 3>({Compression::channel_mix});
  }
}

TEST_CASE("the automatic compressor is the identity for one channel and a channel mix for more",
          "[residual][compressor]") {
  Random random(1);
  CHECK(ChannelCompressor<float>(5, 1, {}, random).compression == Compression::identity);
  CHECK(parameter_count(ChannelCompressor<float>(5, 1, {}, random)) == 0);
  CHECK(ChannelCompressor<float>(5, 3, {}, random).compression == Compression::channel_mix);
  CHECK(parameter_count(ChannelCompressor<float>(5, 3, {}, random)) == 15);
}

TEST_CASE("the channel mix starts as the mean over the channels", "[residual][compressor]") {
  Random random(1);
  Matrix<double> X(5, 6);
  fill(random, X);
  Matrix<double> mean(5, 2);
  mean << X.leftCols(3).rowwise().mean(), X.rightCols(3).rowwise().mean();
  const Compression kind = GENERATE(Compression::mean, Compression::channel_mix);
  const ChannelCompressor<double> compressor(5, 3, {kind}, random);
  ChannelCompressor<double>::Tape<> tape;
  CHECK(error(compressor.forward(X, tape), mean) <= identity_tolerance<double>);
}

TEST_CASE("the identity compressor is a view of the state", "[residual][compressor]") {
  Random random(1);
  const ChannelCompressor<double> compressor(5, 1, {}, random);
  ChannelCompressor<double>::Tape<> tape;
  const Matrix<double> X = Matrix<double>::Ones(5, 4);
  CHECK(compressor.forward(X, tape).data() == X.data());
  CHECK(tape.x.size() == 0);
}

TEST_CASE("the identity compressor refuses more than one channel", "[residual][compressor][errors]") {
  Random random(1);
  CHECK_THROWS_WITH(ChannelCompressor<double>(5, 2, {Compression::identity}, random),
                    "ddl::ChannelCompressor: value_channels is 2, expected 1, for an identity compressor");
  CHECK_THROWS_AS(ChannelCompressor<double>(5, 2, {Compression::identity}, random), std::invalid_argument);
}
