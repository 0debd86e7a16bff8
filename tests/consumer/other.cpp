// SPDX-License-Identifier: MIT
#include <ddl/ddl.hpp>

double determinant_of_a_reflection();
double determinant_of_a_reflection() {
  const Eigen::VectorXd k = Eigen::VectorXd::Constant(4, 0.5);
  return ddl::DeltaOperator(k, 2.0).determinant();
}
