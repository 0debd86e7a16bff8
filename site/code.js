// SPDX-License-Identifier: MIT
/**
 * @file The C++ program that does what the part "depth" does, for the settings shown. Under node, `node code.js JSON`
 * prints it for the settings in JSON, as the test that compiles it does.
 */

/** Statements that place point n, of class `label`, by data set. They are those of playground.hpp. */
const placements = {
  spirals: `    const double radius = 0.1 + 0.85 * std::sqrt(random.uniform());
    const double angle = 12 * radius + 3.14159265 * label;
    const double x = radius * std::cos(angle) + 0.02 * random.normal();
    const double y = radius * std::sin(angle) + 0.02 * random.normal();`,
  circles: `    const double radius = label ? random.uniform(0.65, 0.95) : 0.5 * std::sqrt(random.uniform());
    const double angle = random.uniform(0, 6.2831853);
    const double x = radius * std::cos(angle), y = radius * std::sin(angle);`,
  xor: `    const double x = random.uniform(0.05, 0.95) * (random.uniform() < 0.5 ? -1 : 1);
    const double y = random.uniform(0.05, 0.95) * ((x < 0) == (label == 0) ? -1 : 1);`,
};

const drawn = (data) => `// Two classes of points in the square from -1 to 1.
ddl::Dataset<float> points(ddl::Index count, std::uint64_t seed) {
  ddl::Dataset<float> data;
  data.inputs.resize(2, count);
  ddl::Random random(seed);
  for (ddl::Index n = 0; n < count; ++n) {
    const int label = static_cast<int>(n % 2);
${placements[data]}
    data.inputs.col(n) << static_cast<float>(x), static_cast<float>(y);
    data.labels.push_back(label);
  }
  return data;
}`;

const given = (points, labels) => `// Your points and their classes.
ddl::Dataset<float> points() {
  constexpr float xy[] = {
${Array.from(labels, (_, n) => `      ${literal(points[2 * n])}, ${literal(points[2 * n + 1])},`).join('\n')}
  };
  ddl::Dataset<float> data;
  data.inputs = Eigen::Map<const Eigen::Matrix2Xf>(xy, 2, ${labels.length});
  data.labels = {${Array.from(labels).join(', ')}};
  return data;
}`;

/** The shortest float literal that is read back as the same number. */
function literal(x) {
  const number = Math.fround(x);
  let text = '';
  for (let digits = 1; Math.fround(Number(text || NaN)) !== number; ++digits) text = String(Number(number.toPrecision(digits)));
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
}

/**
 * The program. It trains as many steps as asked for and prints the loss and the accuracy that the page shows then, up to
 * rounding.
 * @param {object} settings  as for Engine.reset
 * @param {number} steps
 * @returns {string}
 */
export function program(settings, steps) {
  const own = settings.data === 'own';
  return `// g++ -std=c++20 -O2 -I ddl/include -I /usr/include/eigen3 playground.cpp -o playground
#include <cmath>
#include <cstdint>
#include <cstdio>

#include <ddl/ddl.hpp>

${own ? given(settings.points, settings.labels) : drawn(settings.data)}

int main() {
  const auto train = ${own ? 'points()' : 'points(400, 1)'};
${own ? '' : '  const auto test = points(400, 2);\n'}
  ddl::TrainingRun run(ddl::DeltaResNet<float>({.inputs = 2,
                                                .outputs = 2,
                                                .width = ${settings.width},
                                                .value_channels = ${settings.channels},
                                                .depth = ${settings.depth},
                                                .block = {.update = ddl::UpdateRule::${settings.update}}},
                                               /*seed=*/${settings.seed}),
                       {.learning_rate = ${settings.learningRate}});
  ddl::SupervisedBatches<float> batches(train.view(), {.batch_size = ${settings.batch}, .seed = ${settings.seed}});
  ddl::fit(run, batches, {.steps = ${steps}}, ddl::ProgressBar());

  const auto result = ddl::evaluate(run.model, ${own ? 'train' : 'test'}.view());
  std::printf("loss %.4f, %.1f %% correct\\n", result.loss, 100 * result.accuracy);
}
`;
}

if (typeof process === 'object' && process.argv?.[1] === new URL(import.meta.url).pathname) {
  const {steps = 500, ...settings} = JSON.parse(process.argv[2]);
  process.stdout.write(program(settings, steps));
}
