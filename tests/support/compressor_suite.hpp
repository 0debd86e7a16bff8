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
    using Tape = typename Layer::Part::template Tape<size<Fixed>(small_samples)>;
    typename Layer::Part::Settings settings;

    static Index x_cols(Index samples) { return samples * Channels; }
    auto make(Index width, Random& random) const {
      return typename Layer::Part(width, Channels, settings, random);
    }
    static void forward(const auto& part, const auto& x, auto& y, auto& tape, const ddl::Pass& pass) {
      y = part.forward(x, tape, pass);
      if (part.output(x, tape) != y) FAIL("output is not what forward returned");
    }
    static void backward(const auto& part, const auto& x, const auto&, const auto& dy, auto& dx, auto& tape,
                         auto& gradient, const ddl::Pass& pass) {
      part.backward(x, dy, dx, tape, gradient, pass);
    }
  };
};

template <template <class, int, int> class Compressor, int Channels>
void check_compressor(const typename Compressor<double, Dynamic, Dynamic>::Settings& settings) {
  check_layer<CompressorOf<Compressor, Channels>::template Layer>(settings);
}

}  // namespace ddl::test
