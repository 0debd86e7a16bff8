// SPDX-License-Identifier: MIT
#include "ddl/core/parameters.hpp"

#include <cstdlib>
#include <memory>

#include "support/allocations.hpp"
#include "support/catch.hpp"

namespace {

using ddl::Index;
using ddl::parameter;
using ddl::ParameterPath;
using ddl::vector_parameter;

struct Leaf {
  using Scalar = double;
  Eigen::MatrixXd weight;
  Eigen::VectorXd bias;
  static constexpr auto parameters() {
    return std::tuple(parameter("weight", &Leaf::weight), vector_parameter("bias", &Leaf::bias));
  }
};

struct Norm {
  using Scalar = double;
  Eigen::Vector3d gain;
  static constexpr auto parameters() { return std::tuple(vector_parameter("gain", &Norm::gain)); }
};

struct Block {
  using Scalar = double;
  Leaf leaf;
  std::optional<Norm> norm;
  std::variant<Leaf, Norm> gate;
  static constexpr auto parameters() {
    return std::tuple(parameter("leaf", &Block::leaf), parameter("norm", &Block::norm),
                      parameter("gate", &Block::gate));
  }
};

struct Net {
  using Scalar = double;
  Eigen::MatrixXd embedding;
  std::vector<Block> blocks;
  std::optional<Leaf> head;
  static constexpr auto parameters() {
    return std::tuple(parameter("embedding", &Net::embedding), parameter("blocks", &Net::blocks),
                      parameter("head", &Net::head));
  }
};

struct Biases {
  using Scalar = double;
  std::vector<Eigen::VectorXd> all;
  static constexpr auto parameters() { return std::tuple(vector_parameter("all", &Biases::all)); }
};

Leaf leaf(Index rows, Index cols) { return {Eigen::MatrixXd::Ones(rows, cols), Eigen::VectorXd::Ones(rows)}; }

/// Two blocks with a norm and a gate of either kind; an empty bias; no head.
Net net() {
  Net made{Eigen::MatrixXd::Ones(2, 5), {}, std::nullopt};
  made.blocks.push_back({leaf(3, 2), Norm{Eigen::Vector3d::Ones()}, leaf(1, 4)});
  made.blocks.push_back({leaf(2, 2), std::nullopt, Norm{Eigen::Vector3d::Ones()}});
  made.blocks[1].leaf.bias.resize(0);
  return made;
}

std::vector<std::string> listing(const auto& model) {
  std::vector<std::string> lines;
  ddl::for_each_parameter(
      [&](const ParameterPath& path, const auto& p) {
        lines.push_back(path.str() + (path.is_vector() ? ", vector of " : ", matrix of ") +
                        std::to_string(p.size()));
      },
      model);
  return lines;
}

}  // namespace

TEST_CASE("the walk visits every parameter that is not empty, in order, under its dotted name",
          "[core][parameters]") {
  CHECK(listing(net()) ==
        std::vector<std::string>{"embedding, matrix of 10", "blocks.0.leaf.weight, matrix of 6",
                                 "blocks.0.leaf.bias, vector of 3", "blocks.0.norm.gain, vector of 3",
                                 "blocks.0.gate.weight, matrix of 4", "blocks.0.gate.bias, vector of 1",
                                 "blocks.1.leaf.weight, matrix of 4", "blocks.1.gate.gain, vector of 3"});
  CHECK(ddl::parameter_count(net()) == 34);
  CHECK(listing(Eigen::Matrix2d(Eigen::Matrix2d::Ones())) == std::vector<std::string>{", matrix of 4"});
}

TEST_CASE("a list of vectors is a list of vectors to the walk", "[core][parameters]") {
  CHECK(listing(Biases{{Eigen::VectorXd::Ones(2)}}) == std::vector<std::string>{"all.0, vector of 2"});
}

TEST_CASE("models are walked side by side", "[core][parameters]") {
  Net a = net();
  const Net b = net();
  Net c = net();
  ddl::for_each_parameter(
      [](const ParameterPath&, auto& x, const auto& y, auto& z) { z = x + 2 * y, x *= 5; }, a, b, c);
  ddl::for_each_parameter(
      [](const ParameterPath& path, const auto& x, const auto& y, const auto& z) {
        CAPTURE(path.str());
        CHECK((x.array() == 5).all());
        CHECK((y.array() == 1).all());
        CHECK((z.array() == 3).all());
      },
      a, b, c);
}

TEST_CASE("a walk over models that differ throws and says where", "[core][parameters]") {
  struct {
    void (*change)(Net&);
    const char* message;
  } const cases[] = {
      {[](Net& n) { n.blocks.pop_back(); }, "a model's blocks is a list of"},
      {[](Net& n) { n.head = leaf(2, 2); }, "a model's head is "},
      {[](Net& n) { n.blocks[0].norm.reset(); }, "a model's blocks.0.norm is "},
      {[](Net& n) { n.blocks[1].gate = leaf(3, 1); }, "a model's blocks.1.gate is alternative "},
      {[](Net& n) { n.embedding.resize(5, 2); }, "a model's embedding is "},
      {[](Net& n) { n.blocks[1].leaf.bias.setOnes(2); }, "a model's blocks.1.leaf.bias is "},
      {[](Net& n) { n.blocks[0].leaf.bias.resize(0); }, "a model's blocks.0.leaf.bias is "},
  };
  int calls = 0;
  const auto count = [&](const ParameterPath&, const auto&...) { ++calls; };
  for (const auto& c : cases) {
    const Net a = net();
    Net b = net();
    c.change(b);
    const auto says_where = Catch::Matchers::ContainsSubstring(c.message);
    CHECK_THROWS_WITH(ddl::for_each_parameter(count, a, b), says_where);
    CHECK_THROWS_WITH(ddl::for_each_parameter(count, b, a), says_where);
    CHECK_THROWS_AS(ddl::for_each_parameter(count, a, a, b), std::invalid_argument);
    CHECK(calls == 0);
    CHECK_THROWS_WITH(ddl::check_same_shapes("f", "x", a, b), Catch::Matchers::ContainsSubstring("f: x's "));
    CHECK(ddl::shape_hash(a) != ddl::shape_hash(b));
    CHECK(ddl::shape_hash(a) == ddl::shape_hash(net()));
  }
}

TEST_CASE("zeros_like has the model's shapes and none of its memory", "[core][parameters]") {
  Net original = net();
  Net zeros = ddl::zeros_like(original);
  CHECK(listing(zeros) == listing(original));
  ddl::for_each_parameter(
      [](const ParameterPath&, auto& zero, auto& p) {
        CHECK((zero.array() == 0).all());
        CHECK((p.array() == 1).all());
        zero.setConstant(7);
        CHECK((p.array() == 1).all());
      },
      zeros, original);
  original.blocks[0].leaf.weight(0) = std::numeric_limits<double>::quiet_NaN();
  ddl::set_zero(original);
  ddl::for_each_parameter([](const ParameterPath&, const auto& p) { CHECK((p.array() == 0).all()); },
                          original);
}

TEST_CASE("a walk allocates nothing", "[core][parameters]") {
  Net a = net(), b = net();
  CHECK(ddl::test::allocations_in([&] {
          ddl::for_each_parameter([](const ParameterPath&, auto& x, const auto& y) { x += y; }, a, b);
          ddl::set_zero(b);
        }) == 0);
  CHECK(a.embedding(0) == 2);
}

TEST_CASE("the allocation counter counts new, and malloc where it can", "[core][support]") {
  using ddl::test::allocations_in;
  void* volatile kept = nullptr;  // keeps the compiler from leaving the pair out
  const auto by_new = [&](std::size_t count) {
    return allocations_in([&] {
      const auto memory = std::make_unique<char[]>(count);
      kept = memory.get();
    });
  };
  CHECK(allocations_in([] {}) == 0);
  CHECK(by_new(1) == 1);
  CHECK(by_new(1000000) == 1);
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
  CHECK(allocations_in([&] {
          kept = std::malloc(10);
          kept = std::realloc(kept, 100);
          std::free(kept);
        }) == 2);
  CHECK(allocations_in([&] {
          const Eigen::VectorXd x(100);
          kept = const_cast<double*>(x.data());
        }) == 1);
#endif
}
