#include <cstdio>
#include <vector>

#include <ddl/ddl.hpp>

int main() {
  // The operator: I - beta k k^T, kept as (k, beta).
  const Eigen::VectorXf k = Eigen::VectorXf::LinSpaced(1000, -1, 1);
  Eigen::MatrixXf X = Eigen::MatrixXf::Ones(1000, 4);
  const ddl::DeltaOperator A(k, 2.0f);  // a reflection
  Eigen::MatrixXf Y = A * X;            // never 1000 x 1000
  A.apply_in_place(Y);                  // and back again
  std::printf("reflected twice, off by %g\n", (Y - X).norm());

  // The network: two inputs, two classes (is the point inside the circle?), trained from scratch.
  ddl::DeltaResNet<float> net({.inputs = 2, .outputs = 2, .width = 16, .value_channels = 2, .depth = 4},
                              /*seed=*/1);
  auto tape = net.make_tape();           // every buffer of a training step
  auto gradient = ddl::zeros_like(net);  // same type as net
  ddl::AdamW optimizer(net, {.learning_rate = 1e-2});

  ddl::Random random(2);
  Eigen::MatrixXf x(2, 64), dlogits(2, 64);
  std::vector<int> labels(64);
  for (int step = 0; step <= 300; ++step) {
    for (int n = 0; n < 64; ++n) {
      x.col(n) << float(random.uniform(-1, 1)), float(random.uniform(-1, 1));
      labels[std::size_t(n)] = x.col(n).norm() < 0.8f;
    }
    const auto& logits = net.forward(x, tape);
    const double loss = ddl::softmax_cross_entropy(logits, labels, dlogits);
    if (step % 100 == 0)
      std::printf("step %3d  loss %.3f  correct %d of 64\n", step, loss,
                  int(ddl::correct_predictions(logits, labels)));
    ddl::set_zero(gradient);
    net.backward(dlogits, tape, gradient);
    optimizer.step(net, gradient);
  }
}
