// SPDX-License-Identifier: MIT
/// @file  Checks the DDL Transformer and the DeltaNet family against files of reference numbers
/// (reference.hpp). For each file, in double and in float, and each group of tensors it prints the largest
/// relative RMS error and PASS or FAIL. A file of numbers in float is held to the tolerances of float by
/// both. The status is 1 if anything failed, if a setting is unknown, or if a tensor is missing, misshapen or
/// not read.
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "reference.hpp"

namespace {

struct Tolerances {
  double values, gradients;
};

template <class Scalar>
bool verify(const ddl::SafetensorsFile& file, const char* scalar, const Tolerances& tolerances) {
  const reference::Errors errors = reference::Reference<Scalar>(file).errors();
  bool passed = true;
  const auto report = [&](const char* group, double error, double tolerance) {
    const bool pass = error <= tolerance;
    std::printf("%s  %-6s  %-9s  %9.2e  (at most %.0e)  %s\n", file.file().c_str(), scalar, group, error,
                tolerance, pass ? "PASS" : "FAIL");
    passed = passed && pass;
  };
  report("logits", errors.logits, tolerances.values);
  if (errors.hidden) report("hidden", *errors.hidden, tolerances.values);
  report("loss", errors.loss, tolerances.values);
  report("gradients", errors.gradients, tolerances.gradients);
  report("tokens", errors.tokens, 0);
  return passed;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Checks the DDL Transformer and the DeltaNet family against files of reference numbers");
  std::vector<std::string> files;
  Tolerances in_double{1e-11, 1e-10}, in_float{2e-5, 1e-4};
  app.add_option("files", files, "safetensors files of reference numbers")->required();
  app.add_option("--double", in_double.values, "largest error in double")->capture_default_str();
  app.add_option("--double-gradients", in_double.gradients, "of gradients in double")->capture_default_str();
  app.add_option("--float", in_float.values, "largest error in float")->capture_default_str();
  app.add_option("--float-gradients", in_float.gradients, "of gradients in float")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  bool passed = true;
  for (const std::string& name : files) {
    try {
      const ddl::SafetensorsFile file(name);
      passed &= verify<double>(file, "double", reference::is_rounded(file) ? in_float : in_double);
      passed &= verify<float>(file, "float", in_float);
    } catch (const std::exception& error) {
      std::printf("%s  FAIL\n", error.what());
      passed = false;
    }
  }
  std::printf("%s\n", passed ? "all PASS" : "FAIL");
  return passed ? 0 : 1;
}
