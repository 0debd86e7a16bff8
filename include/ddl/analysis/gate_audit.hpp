// SPDX-License-Identifier: MIT
/// @file  What a trained stack does with its gates, over a data set: read off the edits that each pass leaves
/// behind, without another pass and without keeping samples.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/analysis/spectrum.hpp"
#include "ddl/core/pass.hpp"
#include "ddl/nn/product.hpp"
#include "ddl/op/delta_update.hpp"

namespace ddl {

/// Mean, deviation and range of finite values, none of which is kept, and their histogram if there are bins.
struct Distribution {
  double low = 0, high = 0;        ///< the range of the histogram
  std::vector<Index> counts = {};  ///< in equal bins over [low, high]; the end bins take what lies beyond
  Index count = 0;                 ///< the number of values
  double mean = 0, squares = 0;    ///< sum of (x - mean)^2
  /// The lowest value; the largest number if there is none.
  double smallest = (std::numeric_limits<double>::max)(),
         largest = std::numeric_limits<double>::lowest();  ///< the highest value likewise

  Distribution() = default;
  /// A histogram of `bins` equal bins over [low_, high_].
  Distribution(double low_, double high_, Index bins)
      : low(low_), high(high_), counts(static_cast<std::size_t>(bins)) {}

  /// Adds a value, which is finite.
  void add(double x) {
    const double step = x - mean;
    mean += step / static_cast<double>(++count);
    squares += step * (x - mean);
    smallest = (std::min)(smallest, x);
    largest = (std::max)(largest, x);
    if (counts.empty()) return;
    const double last = static_cast<double>(counts.size() - 1);
    ++counts[static_cast<std::size_t>(std::clamp((x - low) / (high - low) * (last + 1), 0.0, last))];
  }

  /// The sample standard deviation; 0 for fewer than two values.
  double deviation() const { return count > 1 ? std::sqrt(squares / static_cast<double>(count - 1)) : 0; }

  /// The value below which `share` of all lie, to within a bin; NaN if there are no values or no bins.
  /// @throws std::invalid_argument unless share is in [0, 1].
  double quantile(double share) const {
    check_range("ddl::Distribution::quantile", "share", share, share >= 0 && share <= 1, "in [0, 1]");
    const double width = (high - low) / static_cast<double>(counts.size());
    double left = share * static_cast<double>(count);
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const double here = static_cast<double>(counts[i]);
      if (here > 0 && left <= here)
        return std::clamp(low + width * (static_cast<double>(i) + left / here), smallest, largest);
      left -= here;
    }
    return std::numeric_limits<double>::quiet_NaN();
  }

  /// Adds the values of another distribution with the same bins.
  void merge(const Distribution& other) {
    if (other.count == 0) return;
    const double mine = static_cast<double>(count), its = static_cast<double>(other.count);
    const double step = other.mean - mean;
    squares += other.squares + step * step * mine * its / (mine + its);
    mean += step * its / (mine + its);
    count += other.count;
    smallest = (std::min)(smallest, other.smallest);
    largest = (std::max)(largest, other.largest);
    for (std::size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  }
};

/// One layer over all samples (tokens). A sample in which something is not finite, or overflows in double,
/// only counts as not_finite.
///
/// Under the delta rule |after| = |1 - beta |k|^2| |before|, so a gate inside (0, 2) always reduces the
/// discrepancy; what is learned is by how much. Under the write-only control it may as well grow.
struct LayerAudit {
  Index samples = 0;                  ///< finite ones
  Index not_finite = 0;               ///< samples that are left out of all other figures
  Distribution beta;                  ///< over [0, 2]
  std::array<Index, 4> regimes = {};  ///< samples by Regime, that is by beta |k|^2
  Distribution before, after;         ///< |k^T X - v| and |k^T Y - v|, without a histogram
  Index reduced = 0;                  ///< samples with after < before
  /// |cos| of the angle to the direction of the layer before, over [0, 1]: k and -k are one line. Samples
  /// with a direction of 0 have none, nor has the first layer.
  Distribution cosine;
  /// Of the d x (N m) matrix of all that was written, beta k r^T side by side over the samples (r is v in the
  /// write-only control); NaN if the sum of its squares overflows, or no sample was finite.
  double effective_rank = 0, stable_rank = 0;  ///< see the functions of these names

  /// `count` over the finite samples, such as the share of a regime; 0 without samples.
  double share(Index count) const {
    return samples > 0 ? static_cast<double>(count) / static_cast<double>(samples) : 0;
  }
  /// The mean discrepancy after the edit in units of that before it; NaN if there was none.
  double ratio() const { return after.mean / before.mean; }
};

/// The end-to-end shortcut A_L .. A_1 of one sample, its directions and gates as they were.
struct ShortcutSpectrum {
  Index sample = 0;           ///< its place in the order of adding
  Spectrum<double> spectrum;  ///< of its A_L .. A_1
};

/// Settings of a GateAudit.
struct GateAuditSettings {
  Index bins = 40;  ///< bins of the histograms of beta and of cosines
  /// Samples whose spectrum is wanted, by their place in the order of adding.
  std::vector<Index> shortcuts = {};
};

/// Gathers a LayerAudit for every block of a net from the edits of forward passes:
///
///     ddl::GateAudit audit(net);
///     auto tape = net.make_tape(ddl::Memory::reversible_recompute);   // which keeps the edits, and nothing else
///     for (const auto& x : batches) {
///       net.forward(x, tape);
///       audit.add(net, tape);
///     }
///     for (const ddl::LayerAudit& layer : audit.layers()) print(layer.beta.mean);
///
/// All sums are in double. Memory: d x d doubles a layer.
///
/// What was written spans the same as the columns of W = [beta_n k_n r_n^T]_n. W grows with the data, W W^T =
/// sum beta^2 |r|^2 k k^T does not, and the roots of its eigenvalues are W's singular values.
class GateAudit {
 public:
  using Settings = GateAuditSettings;

  /// For any stack of `depth` edits of states with `width` rows.
  /// @throws std::invalid_argument if a size is out of range, or for the additive control, which has no
  /// gates.
  GateAudit(UpdateRule rule, Index depth, Index width, Settings settings = {})
      : rule_(rule), width_(width), settings_(std::move(settings)) {
    constexpr const char* where = "ddl::GateAudit";
    if (rule == UpdateRule::additive)
      fail(where, "the update rule", "additive, which has no gates", "delta or write_only");
    if (depth < 0) fail(where, "depth", std::to_string(depth), "at least 0");
    check_positive(where, "width", width);
    check_positive(where, "bins", settings_.bins);
    LayerAudit empty;
    empty.beta = {0, 2, settings_.bins};
    empty.cosine = {0, 1, settings_.bins};
    layers_.assign(static_cast<std::size_t>(depth), empty);
    written_.assign(layers_.size(), Matrix<double>::Zero(width, width));
  }
  /// For the blocks of a DeltaResNet or a DeltaTransformer, in the order of a pass.
  /// @throws std::invalid_argument also if the update rules of the blocks differ.
  template <class Net>
  requires requires(const Net& net) { net.layers; }
  explicit GateAudit(const Net& net, Settings settings = {})
      : GateAudit(rule_of(net), block_count(net), net.width(), std::move(settings)) {}

  /// The samples added so far, those not finite included.
  Index samples() const noexcept { return samples_; }
  /// In the order of settings.shortcuts and of batches; a sample with a direction or gate that is not finite
  /// has none. In the write-only control the shortcut is the identity.
  const std::vector<ShortcutSpectrum>& shortcuts() const noexcept { return shortcuts_; }

  /// Adds the samples of the last forward pass with the tape.
  /// @throws std::invalid_argument if the tape does not keep the edits of all blocks; nothing is added then.
  template <class Net, class Tape>
  void add(const Net& net, const Tape& tape, const ExecutorRef& executor = {}) {
    using Layer = typename Net::Layer;
    using Scalar = typename Net::Scalar;
    constexpr int Rows = Layer::width_at_compile_time, Cols = Layer::channels_at_compile_time;
    struct Edit {
      const EditInputs<Scalar, Rows, Cols>& inputs;
      const EditTape<Scalar, Rows, Cols>& tape;
    };
    std::vector<Edit> edits;
    net.for_each_edit(tape, [&](const auto&, const auto& edit) {
      edits.push_back({edit.inputs, edit.tape});
    });
    add_edits(edits, executor);
  }
  /// The same for a range of edits, one a block, each with `inputs` (EditInputs) and `tape` (EditTape).
  /// @throws std::invalid_argument if a number or a shape does not fit; nothing is added then.
  template <class Edits>
  void add_edits(const Edits& edits, const ExecutorRef& executor = {}) {
    check(edits);
    if (layers_.empty()) return;
    const Index N = edits.front().inputs.beta.size();
    for (const Index sample : settings_.shortcuts)
      if (sample >= samples_ && sample - samples_ < N) add_shortcut(edits, sample);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      add_samples(edits[l], l);
      add_product(weighted_, weighted_.transpose(), written_[l], executor);
      k_.swap(previous_k_);
    }
    samples_ += N;
  }

  /// Adds another audit of the same net, as if its samples had been added after those here; its shortcuts
  /// stay those it chose. @throws std::invalid_argument if it is of another kind, size or number of bins.
  void merge(const GateAudit& other) {
    const auto text = [](const GateAudit& a) {
      return std::string(name_of(a.rule_)) + ", " + std::to_string(a.layers_.size()) + " layers of " +
             std::to_string(a.width_) + ", " + std::to_string(a.settings_.bins) + " bins";
    };
    if (text(other) != text(*this))
      fail("ddl::GateAudit::merge", "the other audit", text(other), text(*this));
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      LayerAudit& to = layers_[l];
      const LayerAudit& from = other.layers_[l];
      to.samples += from.samples;
      to.not_finite += from.not_finite;
      to.beta.merge(from.beta);
      for (std::size_t i = 0; i < to.regimes.size(); ++i) to.regimes[i] += from.regimes[i];
      to.before.merge(from.before);
      to.after.merge(from.after);
      to.reduced += from.reduced;
      to.cosine.merge(from.cosine);
      written_[l] += other.written_[l];
    }
    for (ShortcutSpectrum shortcut : other.shortcuts_) {
      shortcut.sample += samples_;
      shortcuts_.push_back(std::move(shortcut));
    }
    samples_ += other.samples_;
  }

  /// The figures so far; the ranks take an eigenvalue problem of d x d a layer.
  std::vector<LayerAudit> layers() const {
    std::vector<LayerAudit> result = layers_;
    for (std::size_t l = 0; l < result.size(); ++l) {
      result[l].effective_rank = result[l].stable_rank = std::numeric_limits<double>::quiet_NaN();
      const bool none_finite = result[l].samples == 0 && result[l].not_finite > 0;
      if (none_finite || !all_finite(written_[l])) continue;
      const Vector<double> values = written_values(written_[l]);
      result[l].effective_rank = effective_rank(values);
      result[l].stable_rank = stable_rank(values);
    }
    return result;
  }

 private:
  template <class Net>
  static UpdateRule rule_of(const Net& net) {
    std::optional<UpdateRule> first;
    net.for_each_block([&](const auto& block) {
      if (!first) first = block.update;
      if (block.update != *first)
        fail("ddl::GateAudit", "the update rule of a block", name_of(block.update),
             std::string(name_of(*first)) + " as in the first block");
    });
    return first.value_or(UpdateRule::delta);
  }
  template <class Net>
  static Index block_count(const Net& net) {
    Index count = 0;
    net.for_each_block([&](const auto&) { ++count; });
    return count;
  }

  template <class Edits>
  void check(const Edits& edits) const {
    constexpr const char* where = "ddl::GateAudit::add";
    if (edits.size() != layers_.size())
      fail(where, "the number of edits", std::to_string(edits.size()),
           std::to_string(layers_.size()) + ", one a block");
    for (const auto& edit : edits) {
      const auto& first = edits.front().inputs;
      check_shape(where, "direction", edit.inputs.direction, width_, first.direction.cols());
      check_shape(where, "v", edit.inputs.value, first.value.rows(), edit.inputs.direction.cols());
      detail::check_tape(where, edit.inputs, edit.tape);
    }
  }

  template <class Edits>
  void add_shortcut(const Edits& edits, Index sample) {
    const Index n = sample - samples_;
    DeltaProduct<double> product(width_);
    for (const auto& edit : edits) {
      const Vector<double> k = static_cast<double>(edit.tape.inverse_norm(n)) *
                               edit.inputs.direction.col(n).template cast<double>();
      const double beta = static_cast<double>(edit.inputs.beta(n));
      if (!is_finite(k.squaredNorm()) || !is_finite(beta)) return;
      if (rule_ == UpdateRule::delta) product.push(DeltaOperator<double>::as_given(k, beta));
    }
    shortcuts_.push_back({sample, spectrum(product)});
  }

  /// Adds an edit to layer l but for the ranks of its writes, and leaves the columns beta |r| k in weighted_.
  template <class Edit>
  void add_samples(const Edit& edit, std::size_t l) {
    LayerAudit& layer = layers_[l];
    const Index N = edit.inputs.direction.cols(), m = edit.inputs.value.rows();
    k_.resize(width_, N);
    weighted_.resize(width_, N);
    for (Index n = 0; n < N; ++n) {
      auto k = k_.col(n);
      k = static_cast<double>(edit.tape.inverse_norm(n)) *
          edit.inputs.direction.col(n).template cast<double>();
      const double beta = static_cast<double>(edit.inputs.beta(n)), k2 = k.squaredNorm();
      double before2 = 0, after2 = 0, write2 = 0;
      for (Index j = 0; j < m; ++j) {
        const double v = static_cast<double>(edit.inputs.value(j, n));
        const double u = static_cast<double>(edit.tape.read(j, n));
        const double before = u - v, write = rule_ == UpdateRule::delta ? v - u : v;
        const double after = before + beta * k2 * write;  // k^T Y = k^T X + beta |k|^2 r^T
        before2 += before * before;
        after2 += after * after;
        write2 += write * write;
      }
      weighted_.col(n) = beta * std::sqrt(write2) * k;
      if (!is_finite(beta) || !is_finite(k2) || !is_finite(before2) || !is_finite(after2) ||
          !is_finite(write2)) {
        ++layer.not_finite;
        k.setZero();
        weighted_.col(n).setZero();
        continue;
      }
      ++layer.samples;
      layer.beta.add(beta);
      // In the precision of the edit: a reflection of a float net is off 2 by rounding in float.
      using Real = std::remove_cvref_t<decltype(edit.inputs.beta(n))>;
      ++layer.regimes[static_cast<std::size_t>(regime_of(static_cast<Real>(beta * k2)))];
      layer.before.add(std::sqrt(before2));
      layer.after.add(std::sqrt(after2));
      layer.reduced += after2 < before2;
      if (l == 0) continue;
      const double norms = std::sqrt(k2) * previous_k_.col(n).norm();
      if (norms > 0) layer.cosine.add((std::min)(1.0, std::abs(k.dot(previous_k_.col(n)) / norms)));
    }
  }

  /// W's singular values from W W^T. Eigenvalues below its rounding are none.
  static Vector<double> written_values(const Matrix<double>& second_moment) {
    Vector<double> values =
        Eigen::SelfAdjointEigenSolver<Matrix<double>>(second_moment, Eigen::EigenvaluesOnly).eigenvalues();
    const double rounding = static_cast<double>(values.size()) * std::numeric_limits<double>::epsilon() *
                            values[values.size() - 1];
    for (double& value : values) value = value > rounding ? std::sqrt(value) : 0;
    return values;
  }

  UpdateRule rule_;
  Index width_;
  Settings settings_;
  Index samples_ = 0;
  std::vector<LayerAudit> layers_;
  std::vector<Matrix<double>> written_;  ///< sum beta^2 |r|^2 k k^T
  std::vector<ShortcutSpectrum> shortcuts_;
  Matrix<double> k_, previous_k_, weighted_;  ///< of one batch, d x N
};

}  // namespace ddl
