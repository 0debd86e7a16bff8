// SPDX-License-Identifier: MIT
/// @file  Compiled with -ffast-math, under which std::isfinite is always true.
#include <Eigen/Core>

#include "ddl/io/json_lines.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;

TEST_CASE("numbers that are not finite become null under -ffast-math", "[io][json_lines]") {
  const TemporaryFolder folder;
  const double nan = Eigen::numext::bit_cast<double>(std::uint64_t{0x7ff8000000000000});
  const double infinity = Eigen::numext::bit_cast<double>(std::uint64_t{0x7ff0000000000000});
  JsonLines(folder / "log").write({{"a", nan}, {"b", {1.5, infinity, {{"c", nan}}}}, {"d", -infinity}});
  CHECK(read_file(folder / "log") == "{\"a\":null,\"b\":[1.5,null,{\"c\":null}],\"d\":null}\n");
}
