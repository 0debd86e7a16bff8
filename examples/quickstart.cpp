// SPDX-License-Identifier: MIT
/// @file  The Delta operator on one vector: three regimes of the gate, and an exact overwrite.
///
///     g++ -std=c++20 -O2 -Iinclude -I/usr/include/eigen3 examples/quickstart.cpp -o quickstart &&
///     ./quickstart
#include <cstdio>

#include <ddl/ddl.hpp>

namespace {

void print(const char* label, const Eigen::MatrixXd& X) {
  std::printf("  %-24s", label);
  for (const double x : X.reshaped()) std::printf("%7.3f", x);
  std::printf("\n");
}

}  // namespace

int main() {
  const Eigen::Vector3d k(2, 1, 2);  // any length: the operator normalises it
  const Eigen::Vector3d x(3, 0, 6);

  std::printf("A = I - beta k k^T acts on x along k alone. It is kept as (k, beta), never as a matrix.\n\n");
  print("k / |k|", k.normalized());
  print("x", x);

  for (const double beta : {0.0, 1.0, 2.0}) {
    const ddl::DeltaOperator A(k, beta);
    std::printf("\nbeta = %g: %s, eigenvalue along k %g, determinant %g\n", beta, name_of(A.regime()),
                A.eigenvalues()[1].value, A.determinant());
    print("A x", A * x);
    print("A (A x)", A * (A * x));
  }

  std::printf("\nRead, compare, write: X <- X + beta k (v - X^T k)^T, here on a state of 3 x 2.\n\n");
  Eigen::Matrix<double, 3, 2> X;
  X << 3, 1, 0, 1, 6, 1;
  const Eigen::Vector2d v(10, -1);
  print("target v", v);
  print("read X^T k before", X.transpose() * k.normalized());
  const ddl::DeltaOperator write(k, 1.0);
  write.update_in_place(X, v);
  print("read X^T k after", X.transpose() * k.normalized());
  std::printf("\nAt beta = 1 the old content along k is gone and v stands there exactly.\n");
}
