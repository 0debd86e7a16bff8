// SPDX-License-Identifier: MIT
// A block of a user's own parts: all that a part needs, and what the concepts refuse.
#include "ddl/residual/block.hpp"

#include "support/layer_suite.hpp"

using namespace ddl;
using namespace ddl::test;

namespace {

struct NoSettings {};

/// kt = w * c, entry by entry.
template <class Scalar_>
struct Scaling {
  using Scalar = Scalar_;
  using Settings = NoSettings;
  template <int Tokens = Dynamic>
  struct Cache {};

  Vector<Scalar> weight;

  static constexpr auto parameters() { return std::tuple(vector_parameter("weight", &Scaling::weight)); }

  Scaling() = default;
  Scaling(Index in, Index, const Settings&, Random&) : weight(Vector<Scalar>::Ones(in)) {}

  template <int Tokens, Executor E>
  void forward(const ConstBatchRef<Scalar>& c, BatchRef<Scalar> kt, Cache<Tokens>&, const E&) const {
    kt = weight.asDiagonal() * c;
  }
  template <int Tokens, Executor E>
  void backward(const ConstBatchRef<Scalar>& c, Cache<Tokens>&, const ConstBatchRef<Scalar>& dkt,
                BatchRef<Scalar> dc, Scaling& gradient, const E&) const {
    gradient.weight += dkt.cwiseProduct(c).rowwise().sum();
    dc = weight.asDiagonal() * dkt;
  }
};

/// One learned beta for every token.
template <class Scalar_>
struct SharedBeta {
  using Scalar = Scalar_;
  using Settings = NoSettings;
  template <int Tokens = Dynamic>
  struct Cache {};

  Vector<Scalar> beta;

  static constexpr auto parameters() { return std::tuple(vector_parameter("beta", &SharedBeta::beta)); }

  SharedBeta() = default;
  SharedBeta(const Settings&, Index, Random&) : beta(Vector<Scalar>::Ones(1)) {}

  template <int Tokens, Executor E>
  void forward(const ConstBatchRef<Scalar>&, BatchRef<Scalar, 1> out, Cache<Tokens>&, const E&) const {
    out.setConstant(beta[0]);
  }
  template <int Tokens, Executor E>
  void backward(const ConstBatchRef<Scalar>&, const ConstBatchRef<Scalar, 1>&, Cache<Tokens>&,
                BatchRef<Scalar, 1> slope, BatchRef<Scalar>, SharedBeta& gradient, const E&) const {
    gradient.beta[0] += slope.sum();
  }
};

/// v = the first m entries of the state.
template <class Scalar_>
struct FirstEntries {
  using Scalar = Scalar_;
  using Settings = NoSettings;

  static constexpr auto parameters() { return std::tuple(); }
  ValueSource reads() const { return ValueSource::compressed; }

  FirstEntries() = default;
  FirstEntries(const Settings&, Index, Index, Random&) {}

  template <Executor E>
  void forward(const ConstBatchRef<Scalar>& z, BatchRef<Scalar> v, const E&) const {
    v = z.topRows(v.rows());
  }
  template <Executor E>
  void backward(const ConstBatchRef<Scalar>&, const ConstBatchRef<Scalar>&, BatchRef<Scalar> slope,
                BatchRef<Scalar> dz, FirstEntries&, const E&) const {
    dz.topRows(slope.rows()) += slope;
  }
};

/// x = the first channel.
template <class Scalar_>
struct FirstChannel {
  using Scalar = Scalar_;
  using Settings = NoSettings;
  template <int Tokens = Dynamic>
  struct Cache {
    Matrix<Scalar> x;
  };

  Index value_channels = 1;

  static constexpr auto parameters() { return std::tuple(); }

  FirstChannel() = default;
  FirstChannel(const Settings&, Index, Index channels, Random&) : value_channels(channels) {}

  template <int Tokens, Executor E>
  ConstBatchRef<Scalar> forward(const ConstBatchRef<Scalar>& X, Cache<Tokens>& cache, const E&) const {
    cache.x.resize(X.rows(), X.cols() / value_channels);
    for (Index n = 0; n < cache.x.cols(); ++n) cache.x.col(n) = X.col(n * value_channels);
    return cache.x;
  }
  template <int Tokens>
  ConstBatchRef<Scalar> output(const ConstBatchRef<Scalar>&, const Cache<Tokens>& cache) const {
    return cache.x;
  }
  template <int Tokens, Executor E>
  void backward(const ConstBatchRef<Scalar>&, const Cache<Tokens>&, const ConstBatchRef<Scalar>& dx,
                BatchRef<Scalar> dX, FirstChannel&, const E&) const {
    for (Index n = 0; n < dx.cols(); ++n) dX.col(n * value_channels) += dx.col(n);
  }
};

template <class Scalar>
using OwnBlock = DeltaResidualBlock<Scalar, Dynamic, Dynamic, Scaling<Scalar>, SharedBeta<Scalar>,
                                    FirstEntries<Scalar>, FirstChannel<Scalar>>;

template <class Scalar, bool>
struct OwnLayer : LayerBase<OwnBlock<Scalar>, Dynamic> {
  struct Cache {
    typename OwnBlock<Scalar>::template Cache<> block;
    typename OwnBlock<Scalar>::template Workspace<> workspace;
  };
  static Index x_cols(Index samples) { return 2 * samples; }
  static Index y_cols(Index samples) { return 2 * samples; }
  auto make(Index width, Random& random) const { return OwnBlock<Scalar>(width, 2, {}, random); }
  void forward(const auto& part, const auto& x, auto& y, auto& cache, const Order& order) const {
    part.forward(x, y, cache.block, order);
  }
  void backward(const auto& part, const auto& x, const auto&, auto& cache, const auto& dy, auto& dx,
                auto& gradient, const Order& order) const {
    dx = dy;
    part.backward(x, cache.block, dx, gradient, cache.workspace, order);
  }
};

/// Every part but its backward.
struct WithoutBackward {
  using Scalar = double;
  using Settings = NoSettings;
  template <int Tokens = Dynamic>
  struct Cache {};
  static constexpr auto parameters() { return std::tuple(); }
  WithoutBackward() = default;
  WithoutBackward(Index, Index, const Settings&, Random&) {}
  template <int Tokens, Executor E>
  void forward(const ConstBatchRef<Scalar>& c, BatchRef<Scalar> kt, Cache<Tokens>&, const E&) const {
    kt = c;
  }
};

static_assert(Sublayer<Scaling<double>> && !Sublayer<WithoutBackward> && BlockPart<WithoutBackward>);
static_assert(!GatePart<WithoutBackward> && !ValuePart<WithoutBackward> && !CompressorPart<WithoutBackward>);
static_assert(GatePart<SharedBeta<double>> && !GatePart<Scaling<double>>);
static_assert(ValuePart<FirstEntries<double>> && !ValuePart<SharedBeta<double>>);
static_assert(CompressorPart<FirstChannel<double>> && !CompressorPart<FirstEntries<double>>);
static_assert(Sublayer<Mlp<float, 4, 16>, 4> && !Sublayer<Linear<float>> && !Sublayer<int>);

}  // namespace

TEST_CASE("a block of a user's own sublayer, gate, value and compressor passes the suite",
          "[residual][block][grad]") {
  check_layer<OwnLayer>();
}
