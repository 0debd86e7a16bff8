// SPDX-License-Identifier: MIT
#include "ddl/core/batch.hpp"

#include "support/catch.hpp"

TEST_CASE("sizes multiply, and Dynamic with anything is Dynamic", "[core][batch]") {
  STATIC_REQUIRE(ddl::times(3, 4) == 12);
  STATIC_REQUIRE(ddl::times(ddl::Dynamic, 4) == ddl::Dynamic);
  STATIC_REQUIRE(ddl::times(4, ddl::Dynamic) == ddl::Dynamic);
}

TEST_CASE("matrices are column-major unless Eigen allows only row-major", "[core][batch]") {
  STATIC_REQUIRE_FALSE(ddl::Matrix<float>::IsRowMajor);
  STATIC_REQUIRE_FALSE(ddl::Matrix<float, 3, 1>::IsRowMajor);
  STATIC_REQUIRE_FALSE(ddl::Matrix<float, 1, 1>::IsRowMajor);
  STATIC_REQUIRE(ddl::Matrix<float, 1, ddl::Dynamic>::IsRowMajor);
}

TEST_CASE("a run is a piece of a column, of a row vector too", "[core][batch]") {
  Eigen::MatrixXd x = Eigen::VectorXd::LinSpaced(12, 0, 11).reshaped(4, 3);
  const auto inner = x.middleRows(1, 3);
  const ddl::Matrix<double, 1> row = Eigen::RowVector3d(5, 6, 7);
  CHECK(ddl::column(inner, 2).matrix() == x.col(2).tail(3));
  CHECK(ddl::column(inner, 1, 1, 2).matrix() == x.col(1).tail(2));
  CHECK(ddl::column(row, 2)(0) == 7);
  ddl::column(x, 0).setConstant(-1);
  CHECK((x.array() == -1).count() == 4);
}

TEST_CASE("an optional vector of fixed size lives in place, full or empty", "[core][batch]") {
  STATIC_REQUIRE(sizeof(ddl::OptionalVector<double, 8>) <= 8 * sizeof(double) + 2 * sizeof(ddl::Index));
  ddl::OptionalVector<double, 8> v;
  CHECK(v.size() == 0);
  v.resize(8);
  CHECK(v.size() == 8);
}
