// SPDX-License-Identifier: MIT
// The names that the examples in doc comments use without a declaration.
#include <ddl/analysis/gate_audit.hpp>
#include <ddl/core/thread_pool.hpp>
#include <ddl/ddl.hpp>
#include <ddl/io/checkpoint.hpp>
#include <ddl/io/delta_net_weights.hpp>

using Net = ddl::DeltaResNet<float>;
using Matrix = Eigen::MatrixXf;
Net net;
ddl::DeltaTransformer<float> model;
ddl::DeltaRule<float> mixer;
ddl::AdamW<Net> optimizer(net);
Matrix x, c, y, X, Y, dY, dlogits;
std::vector<Matrix> batches, inputs, grads;
std::vector<int> labels, tokens, prompt, prompts, draft, next_tokens;
std::vector<std::vector<int>> targets;
std::vector<ddl::Index> offsets;
std::vector<Net::Tape<>> tapes;
std::vector<ddl::LossSum> losses;
int next_token = 0;
ddl::Index seed = 0, shards = 1;
double targets_of_the_batch = 1;
ddl::DatasetView<float> samples{{nullptr, 0, 0}, {}, {nullptr, 0, 0}};
ddl::BatchPosition saved;
ddl::TrainingRun run(net);
ddl::SupervisedBatches<float> data(samples, {});
ddl::ThreadPool pool(2);
ddl::Pass pass;
std::string folder;
nlohmann::json settings;
template <class T>
void print(const T&) {}
