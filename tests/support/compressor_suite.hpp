// SPDX-License-Identifier: MIT
/// @file  The suite for compressors.
#pragma once

#include "support/layer_suite.hpp"

namespace ddl::test {

template <template <class, int, int> class Compressor, int Channels>
struct CompressorOf {
  template <class Scalar, bool Fixed>
  struct Layer : LayerBase<Compressor<Scalar, size<Fixed>(small_width), size<Fixed>(Channels)>,
                           size<Fixed>(small_width)> {
    using Cache = typename Layer::Part::template Cache<size<Fixed>(small_samples)>;
    typename Layer::Part::Settings settings;

    static Index x_cols(Index samples) { return samples * Channels; }
    static bool adds() { return true; }
    auto make(Index width, Random& random) const {
      return typename Layer::Part(settings, width, Channels, random);
    }
    static void forward(const auto& part, const auto& x, auto& y, auto& cache, const Order& order) {
      divide(cache, y.cols());
      y = part.forward(x, cache, order);
      if (part.output(x, cache) != y) FAIL("output is not what forward returned");
    }
  };
};

template <template <class, int, int> class Compressor, int Channels>
void check_compressor(const typename Compressor<double, Dynamic, Dynamic>::Settings& settings) {
  check_layer<CompressorOf<Compressor, Channels>::template Layer>(settings);
}

}  // namespace ddl::test
