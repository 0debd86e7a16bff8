// SPDX-License-Identifier: MIT
/// @file  The playground's computations without a browser. Without arguments: numbers for browser.mjs to
/// compare with, as JSON. With the settings of the part depth and a number of steps: what the program that
/// the page shows should print.
#include "../../site/playground.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

template <class Numbers>
std::string json(const Numbers& numbers) {
  std::string text;
  for (const auto number : numbers) text += (text.empty() ? "[" : ",") + ddl::number_text(double(number));
  return text.empty() ? "[]" : text + "]";
}

playground::Depth depth(const std::string& data, const playground::DepthSettings& settings) {
  return {settings, playground::points(data, 400, 1), playground::points(data, 400, 2)};
}

void print_numbers() {
  std::printf("{");
  const Eigen::VectorXf direction = Eigen::Vector3f(1, 2, -2);
  const Eigen::MatrixXf points = Eigen::Matrix3f::Identity();
  const auto edited = playground::edit(direction, 1.5f, 0.25f, points);
  std::printf("\"edit\": %s,\n", json(edited.points.reshaped()).c_str());

  for (const auto rule : {ddl::UpdateRule::delta, ddl::UpdateRule::write_only, ddl::UpdateRule::additive})
    for (const char* data : {"spirals", "circles", "xor"})
      std::printf("\"%s %s\": %s,\n", data, name_of(rule),
                  json(depth(data, {.update = rule}).train(20)).c_str());

  for (const bool negative : {false, true}) {
    const auto losses = [&](playground::TimeSettings settings) {
      settings.negative_eigenvalues = negative;
      return json(playground::Time(settings).train(10));
    };
    std::printf("\"parity %d\": %s,\n", negative ? 2 : 1, losses({.task = "parity"}).c_str());
    std::printf("\"S3 %d\": %s,\n", negative ? 2 : 1,
                losses({.task = "S3", .edits = 4, .steps = 600}).c_str());
  }

  const auto rewound = playground::rewind({});
  std::printf("\"rewind\": %s, \"stateBytes\": %ld, \"editBytes\": %ld}\n",
              json(rewound.states[10].reshaped()).c_str(), long(rewound.state_bytes),
              long(rewound.edit_bytes));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 1) {
    print_numbers();
    return 0;
  }
  if (argc != 10) {
    std::fprintf(stderr, "usage: %s [DATA DEPTH WIDTH CHANNELS UPDATE LEARNING_RATE BATCH SEED STEPS]\n",
                 argv[0]);
    return 2;
  }
  const auto number = [&](int i) { return std::atol(argv[i]); };
  auto net = depth(argv[1], {.depth = number(2),
                             .width = number(3),
                             .channels = number(4),
                             .update = playground::update_rule(argv[5]),
                             .learning_rate = std::atof(argv[6]),
                             .batch = number(7),
                             .seed = std::uint64_t(number(8))});
  net.train(number(9));
  const auto test = net.test().test;
  std::printf("loss %.4f, %.1f %% correct\n", test.loss, 100 * test.accuracy);
}
