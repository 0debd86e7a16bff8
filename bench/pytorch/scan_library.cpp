// SPDX-License-Identifier: MIT
/// @file  A scan of the delta rule over time behind a C interface, for compare_scan.py.
#include <ddl/core/thread_pool.hpp>
#include <ddl/op/delta_scan.hpp>

namespace {

using ddl::Index;
using Matrix = ddl::Matrix<float>;

struct Scan {
  ddl::ThreadPool pool;
  ddl::DeltaScanSettings settings;
  std::array<Index, 2> offsets;
  ddl::DeltaScanInputs<float> inputs, gradient;
  ddl::DeltaScanTape<float> tape;
  Matrix state, dstate, output, doutput;
};

}  // namespace

extern "C" {

/// One sequence of T tokens, heads of d x d.
Scan* ddl_make(long threads, long T, long heads, long d, int has_decay) {
  auto* scan = new Scan{ddl::ThreadPool(threads), {.key_heads = heads}, {0, T}, {}, {}, {}, {}, {}, {}, {}};
  scan->inputs = {Matrix(heads * d, T), Matrix(heads * d, T), Matrix(heads * d, T), Matrix(heads, T),
                  has_decay ? Matrix(heads, T) : Matrix()};
  scan->output.resize(heads * d, T);
  scan->doutput.resize(heads * d, T);
  scan->state.resize(d, heads * d);
  scan->dstate.resize(d, heads * d);
  return scan;
}
void ddl_free(Scan* scan) { delete scan; }

// T x heads x d, or T x heads, row-major
float* ddl_query(Scan* scan) { return scan->inputs.query.data(); }
float* ddl_key(Scan* scan) { return scan->inputs.key.data(); }
float* ddl_value(Scan* scan) { return scan->inputs.value.data(); }
float* ddl_beta(Scan* scan) { return scan->inputs.beta.data(); }
float* ddl_log_decay(Scan* scan) { return scan->inputs.log_decay.data(); }
float* ddl_output(Scan* scan) { return scan->output.data(); }
float* ddl_output_gradient(Scan* scan) { return scan->doutput.data(); }
// after the first backward pass
float* ddl_query_gradient(Scan* scan) { return scan->gradient.query.data(); }
float* ddl_key_gradient(Scan* scan) { return scan->gradient.key.data(); }
float* ddl_value_gradient(Scan* scan) { return scan->gradient.value.data(); }
float* ddl_beta_gradient(Scan* scan) { return scan->gradient.beta.data(); }
float* ddl_log_decay_gradient(Scan* scan) { return scan->gradient.log_decay.data(); }

void ddl_infer(Scan* scan) {
  scan->state.setZero();
  ddl::delta_scan_infer(scan->settings, scan->offsets, scan->inputs, scan->state, scan->output, scan->pool);
}
void ddl_forward_backward(Scan* scan) {
  scan->state.setZero();
  ddl::delta_scan_forward(scan->settings, scan->offsets, scan->inputs, scan->state, scan->output, scan->tape,
                          scan->pool);
  scan->dstate.setZero();
  ddl::delta_scan_backward(scan->settings, scan->offsets, scan->inputs, scan->tape, scan->doutput,
                           scan->dstate, scan->gradient, scan->pool);
}
}
