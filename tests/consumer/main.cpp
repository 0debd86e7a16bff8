// SPDX-License-Identifier: MIT
// An outside program of two translation units that both include ddl.
#include <iostream>

#include <ddl/ddl.hpp>

double determinant_of_a_reflection();  // other.cpp

int main() {
  const Eigen::VectorXd k = Eigen::VectorXd::Constant(4, 0.5);
  const ddl::DeltaOperator projection(k, 1.0);
  const Eigen::VectorXd kept = projection * k;
  std::cout << "projection: |A k| = " << kept.norm()
            << "\nreflection: det A = " << determinant_of_a_reflection() << '\n';
  return kept.norm() < 1e-4 && determinant_of_a_reflection() < -0.999 ? 0 : 1;
}
