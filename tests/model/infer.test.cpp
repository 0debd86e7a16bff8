// SPDX-License-Identifier: MIT
/// @file  Inference in real time: no allocation and no exception, whatever the input is; what does not fit
/// ends the program with a message.
#include <algorithm>
#include <csignal>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "ddl/model/delta_resnet.hpp"
#include "ddl/nn/attention.hpp"
#include "ddl/nn/delta_rule.hpp"
#include "ddl/residual/token_convolution_compressor.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/sequences.hpp"
#include "support/tolerance.hpp"

#if __has_include(<sys/wait.h>) && __has_include(<unistd.h>)
#include <sys/wait.h>
#include <unistd.h>
#define DDL_TEST_FORKS 1
#else
#define DDL_TEST_FORKS 0
#endif

using namespace ddl;
using ddl::test::allocations_in;

namespace {

constexpr int width = 16, channels = 2, inputs = 6;

template <class Net>
Net net_of(Index depth = 2) {
  return Net({.inputs = inputs, .outputs = 3, .width = width, .value_channels = channels, .depth = depth}, 1);
}

using DynamicNet = DeltaResNet<float>;
using FixedNet = DeltaResNet<float, width, channels>;

#if DDL_TEST_FORKS
/// What f() prints to stderr when it ends the program; "it returned" if it does not.
template <class F>
std::string last_words(const F& f) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // Catch2's handler for SIGABRT would report a failed test.
    std::signal(SIGABRT, SIG_DFL);
    dup2(ends[1], STDERR_FILENO);
    f();
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[256];
  for (ssize_t count; (count = read(ends[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(count));
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "it returned" : text;
}
#endif

}  // namespace

TEMPLATE_TEST_CASE("infer takes an input of any strides and any expression, and never allocates",
                   "[model][infer]", DynamicNet, FixedNet) {
  using Net = TestType;
  const auto net = net_of<Net>();
  auto state = net.make_state();
  const Matrix<float> frames = Matrix<float>::Random(20, inputs);  // a frame is a row
  const Eigen::Matrix<float, 20, inputs, Eigen::RowMajor> rows = frames;
  const Vector<float> x = frames.row(3);
  const Vector<double> in_double = x.cast<double>();
  const Matrix<float> weight = Matrix<float>::Random(inputs, inputs);
  const Eigen::Map<const Vector<float>, 0, Eigen::InnerStride<>> strided(frames.data() + 3, inputs,
                                                                         Eigen::InnerStride<>(20));
  const float* raw = rows.data() + 3 * inputs;
  auto tape = net.make_tape(Memory::inference);
  const auto check = [&](const char* name, const auto& input) {
    CAPTURE(name);
    const Vector<float> plain = input;
    const Matrix<float> expected = net.forward(plain, tape);
    const Matrix<float, Eigen::Dynamic, 1>* logits = nullptr;
    static_assert(noexcept(net.infer(input, state)));
    state.logits.setZero();
    CHECK(allocations_in([&] { logits = &net.infer(input, state); }) == 0);
    CHECK(*logits == expected);
    CHECK_FALSE(logits->isZero());
  };
  check("a vector", x);
  check("a fixed vector", Eigen::Matrix<float, inputs, 1>(x));
  check("a row of a frame buffer", frames.row(3));
  check("a row of a row-major frame buffer, doubled", 2.0f * rows.row(3));
  check("a row vector", Eigen::RowVectorXf(frames.row(3)));
  check("a row of a frame buffer, transposed", frames.row(3).transpose());
  check("a row of a row-major one", rows.row(3).transpose());
  check("a map", Eigen::Map<const Vector<float>>(raw, inputs));
  check("a map with a stride", strided);
  check("a map of an unaligned array", Eigen::Map<const Vector<float>>(raw + 1, inputs));
  check("a segment of a column", Matrix<float>(frames.transpose()).col(3).segment(0, inputs));
  check("every other entry", Vector<float>(frames.reshaped())(Eigen::seqN(3, inputs, 2)));
  check("a reversed vector", x.reverse());
  check("a scaled vector", x * 2.0f);
  check("a normalised vector", (x.array() - 0.5f).matrix() / 3.0f);
  check("doubles", in_double.cast<float>());
  check("a constant", Vector<float>::Constant(inputs, 0.25f));
}

TEMPLATE_TEST_CASE("infer of one sample allocates nothing on a thread that has not run it before",
                   "[model][infer]", Mlp<float>, CausalSelfAttention<float>, DeltaRule<float>) {
  using Block = DeltaResidualBlock<float, Dynamic, Dynamic, TestType>;
  const DeltaResNet<float, Dynamic, Dynamic, Block> net(
      {.inputs = 3, .outputs = 2, .width = 8, .value_channels = 2, .depth = 2}, 1);
  auto state = net.make_state();
  const Vector<float> x = Vector<float>::Ones(3);
  long count = -1;
  std::thread([&] { count = allocations_in([&] { net.infer(x, state); }); }).join();
  CHECK(count == 0);
}

TEST_CASE("infer takes the same for several samples", "[model][infer]") {
  const auto net = net_of<DynamicNet>();
  const Matrix<float> frames = Matrix<float>::Random(4, inputs);
  auto state = net.make_state<Dynamic>(4);
  auto expected = net.make_tape(Memory::inference);
  const Matrix<float> x = frames.transpose();
  net.forward(x, expected);
  long count = allocations_in([&] { net.infer(frames.transpose(), state); });
  CHECK(count == 0);
  CHECK(state.logits == expected.logits);
  net.forward(2 * x, expected);
  count = allocations_in([&] { net.infer(2 * frames.transpose(), state); });
  CHECK(count == 0);
  CHECK(state.logits == expected.logits);
}

TEST_CASE("a net of parts that look along sequences continues them as its pass over all of them",
          "[model][infer]") {
  using Block = DeltaResidualBlock<double, Dynamic, Dynamic, CausalSelfAttention<double>, LinearGate<double>,
                                   LinearValue<double>, TokenConvolutionCompressor<double>>;
  DeltaResNet<double, Dynamic, Dynamic, Block> net(
      {.inputs = 3, .outputs = 2, .width = 8, .value_channels = 2, .depth = 2}, 1);
  Random random(2);  // a convolution starts at the newest token alone
  for_each_parameter([&](const ParameterPath&, auto& p) { random.fill_normal(p, 0.4); }, net);
  const Index sequences = 2, length = 7, count = GENERATE(1, 2);
  CAPTURE(count);
  Matrix<double> x(3, sequences * length), logits(2, sequences * length);
  random.fill_normal(x, 1);
  auto tape = net.make_tape();
  const Matrix<double> expected = net.forward(x, tape, {Serial{}, length});
  auto state = net.make_state<Dynamic>(sequences, length);
  for (int run = 0; run < 2; ++run) {
    logits.setZero();
    for (Index p = 0; p < length; p += count) {
      CHECK(state.position == p);
      const Index here = (std::min)(count, length - p);
      test::put_chunk(logits, 1, length, p, here, net.infer(test::chunk_of(x, 1, length, p, here), state));
    }
    CHECK(test::error(logits, expected) <= 1e-12);
    state.reset();
  }
}

TEST_CASE("a net may be fed its own output", "[model][infer]") {
  const DynamicNet net({.inputs = 3, .outputs = 3, .width = width, .depth = 2}, 1);
  auto state = net.make_state(), other = net.make_state();
  Vector<float> x = Vector<float>::Ones(3);
  net.infer(x, state);
  x = state.logits;
  const Matrix<float> expected = net.infer(x, other);
  CHECK(net.infer(state.logits, state) == expected);
}

#if DDL_TEST_FORKS
TEMPLATE_TEST_CASE("infer ends the program with a message where input or state do not fit", "[model][infer]",
                   DynamicNet, FixedNet) {
  using Net = TestType;
  const auto net = net_of<Net>();
  const auto deeper = net_of<Net>(5);
  auto state = net.make_state();
  auto several = net.template make_state<Dynamic>(4);
  typename Net::template State<1> none;
  const Net empty;
  const Vector<float> x = Vector<float>::Ones(inputs);
  const auto says = [](const std::string& words, const char* what) {
    CAPTURE(words);
    CHECK_THAT(words, Catch::Matchers::ContainsSubstring("ddl::DeltaResNet::infer: "));
    CHECK_THAT(words, Catch::Matchers::ContainsSubstring(what));
  };
  says(last_words([&] { net.infer(Vector<float>::Ones(5), state); }), "x is 5 x 1, expected 6 x 1");
  says(last_words([&] { net.infer(Vector<float>::Ones(60000), state); }), "x is 60000 x 1, expected 6 x 1");
  says(last_words([&] { net.infer(Eigen::RowVectorXf::Ones(5), state); }), "x is 5 x 1, expected 6 x 1");
  says(last_words([&] { net.infer(Matrix<float>::Ones(1, 6), state); }), "x is 1 x 6, expected 6 x 1");
  says(last_words([&] { net.infer(Vector<float>(), state); }), "x is 0 x 1, expected 6 x 1");
  says(last_words([&] { net.infer(Matrix<float>::Ones(6, 4), state); }), "x is 6 x 4, expected 6 x 1");
  says(last_words([&] { net.infer(x.transpose(), several); }), "x is 1 x 6, expected 6 x 6");
  says(last_words([&] { net.infer(x, several); }),
       "the number of tokens is 1, expected a multiple of the 4 sequences");
  says(last_words([&] { deeper.infer(x, state); }), "the state is made for a model of");
  says(last_words([&] { net.infer(x, none); }), "the state is default-constructed");
  says(last_words([&] { empty.infer(x, state); }), "the model is empty (default-constructed or moved from)");
  CHECK(last_words([&] { net.infer(x, state); }) == "it returned");
}

TEST_CASE("infer ends the program where attention has kept as many samples as the state has room for",
          "[model][infer]") {
  using Block = DeltaResidualBlock<float, Dynamic, Dynamic, CausalSelfAttention<float>>;
  const DeltaResNet<float, Dynamic, Dynamic, Block> net(
      {.inputs = 3, .outputs = 2, .width = 8, .value_channels = 2, .depth = 1}, 1);
  const Vector<float> x = Vector<float>::Ones(3);
  const auto after = [&](auto state, Index samples) {
    return last_words([&] {
      for (Index n = 0; n < samples; ++n) net.infer(x, state);
    });
  };
  CHECK(after(net.make_state(), 1024) == "it returned");
  CHECK_THAT(after(net.make_state(), 1025),
             Catch::Matchers::ContainsSubstring(
                 "1025 tokens long, expected at most the capacity of the state, 1024"));
  CHECK(after(net.make_state(1, 1025), 1025) == "it returned");
}
#endif
