// SPDX-License-Identifier: MIT
#include "ddl/io/checkpoint.hpp"

#include <array>
#include <chrono>
#include <cstdio>

#include "ddl/core/thread_pool.hpp"
#include "ddl/io/json_lines.hpp"
#include "ddl/train/schedule.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/toy_data.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

namespace {

template <class Scalar>
using ToyRun = TrainingRun<DeltaResNet<Scalar>>;

const WarmupCosine schedule({.peak = 1e-2, .warmup = 5, .steps = 40});

template <class Scalar>
void train(ToyRun<Scalar>& run, ToyData<Scalar>& data, Index steps, Index threads = 1) {
  const ThreadPool pool(threads);
  fit_on(pool, run, data, {.steps = steps, .learning_rate = schedule});
}

template <class Scalar>
bool same(const ToyRun<Scalar>& a, const ToyRun<Scalar>& b) {
  bool equal = a.step == b.step && a.optimizer.steps == b.optimizer.steps;
  for_each_parameter([&](const ParameterPath&, const auto& p, const auto& q) { equal = equal && p == q; }, a,
                     b);
  return equal;
}

}  // namespace

TEMPLATE_TEST_CASE(
    "a run that is saved and goes on in a new process is the run that never stopped, bit for bit",
    "[io][checkpoint]", float, double) {
  const Index threads = GENERATE(1, 4);
  const TemporaryFolder folder;
  ToyRun<TestType> whole(toy_net<TestType>(), {.beta2 = 0.95, .weight_decay = 0.1});
  ToyData<TestType> whole_data;
  train(whole, whole_data, 40, threads);

  const int status = in_another_process([&] {
    ToyRun<TestType> half(toy_net<TestType>(), {.beta2 = 0.95, .weight_decay = 0.1});
    ToyData<TestType> data;
    train(half, data, 20, threads);
    save_checkpoint(folder / "half", half, data, {{"depth", 2}});
  });
  REQUIRE(status == 0);

  const Checkpoint checkpoint(folder / "half");
  CHECK(checkpoint.settings().at("depth") == 2);
  ToyRun<TestType> resumed(toy_net<TestType>());
  ToyData<TestType> data;
  checkpoint.restore(resumed, data);
  CHECK(resumed.step == 20);
  train(resumed, data, 40, threads);
  CHECK(same(resumed, whole));
  CHECK(resumed.optimizer.settings.beta2 == 0.95);
}

#if DDL_TEST_POSIX
TEST_CASE("a process killed at any moment of a save leaves the last checkpoint whole", "[io][checkpoint]") {
  using Clock = std::chrono::steady_clock;
  const TemporaryFolder folder;
  ToyRun<float> run(toy_net<float>(6));
  ToyData<float> data;
  const auto start = Clock::now();
  save_checkpoint(folder / "run", run, data);
  const auto one_save = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count();
  Random random(5);
  Index saved = 0, torn = 0;
  for (int kill = 0; kill < 200; ++kill) {
    std::array<int, 2> ready{};
    REQUIRE(::pipe(ready.data()) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      for (;;) {  // saves for as long as it lives
        ++run.step;
        if (::write(ready[1], "", 1) != 1) ::_exit(1);
        save_checkpoint(folder / "run", run, data);
      }
    }
    char byte = 0;
    REQUIRE(::read(ready[0], &byte, 1) == 1);
    ::usleep(static_cast<useconds_t>(random.below(3 * one_save)));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ::close(ready[0]);
    ::close(ready[1]);
    REQUIRE(WIFSIGNALED(status));
    REQUIRE_NOTHROW(Checkpoint(folder / "run").restore(run, data));
    REQUIRE(run.step >= saved);
    saved = run.step;
    torn += folder.count() > 1;
    for (int i = 0; folder.count() > 1; ++i) std::remove((folder / ("run.tmp" + std::to_string(i))).c_str());
  }
  CHECK(saved > 0);
  CHECK(torn > 20);  // that many were in the middle of a save
}
#endif

TEST_CASE("the newest checkpoints are kept, and what a killed process left is cleared away",
          "[io][checkpoint]") {
  const TemporaryFolder folder;
  const std::string place = folder / "a/b";
  ToyRun<double> run(toy_net<double>());
  ToyData<double> data;
  fit(run, data, {.steps = 23}, Checkpoints(place, 5, 2, {{"seed", 1}}));
  CHECK(checkpoints_in(place) == std::vector<std::string>{place + "/checkpoint-000000020.safetensors",
                                                          place + "/checkpoint-000000023.safetensors"});
  CHECK(Checkpoint(checkpoints_in(place).back()).settings().at("seed") == 1);
  write_file(place + "/checkpoint-000000025.safetensors.tmp0", "half");
  write_file(place + "/mine", "not ours");
  const Checkpoints again(place, 5, 2);
  CHECK(std::distance(std::filesystem::directory_iterator(place), {}) == 3);
  CHECK(checkpoints_in(folder / "nowhere").empty());
  CHECK_THROWS_AS(Checkpoints(place, 0), std::invalid_argument);
  CHECK_THROWS_AS(Checkpoints(place, 1, 0), std::invalid_argument);
  CHECK_THROWS_AS(Checkpoints(place + "/mine", 1), FileError);
}

TEST_CASE("checkpoints that another run has left in the folder do not crowd out the new ones",
          "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyData<double> data;
  ToyRun<double> longer(toy_net<double>()), run(toy_net<double>());
  fit(longer, data, {.steps = 30}, Checkpoints(folder / "c", 10, 3));
  fit(run, data, {.steps = 8}, Checkpoints(folder / "c", 4, 1));
  const auto all = checkpoints_in(folder / "c");
  REQUIRE(all.size() == 4);
  CHECK(all.front() == folder / "c/checkpoint-000000008.safetensors");
}

TEST_CASE("the last good checkpoint stays where a loss is not finite", "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyRun<double> run(toy_net<double>());
  ToyData<double> data;
  const FitSettings settings{.steps = 30, .non_finite = NonFinite::stop};
  const auto poison = [&](const auto& seen) { data.poison = seen.report.step == 12 ? std::nan("") : 0; };
  const auto result = fit(run, data, settings, Checkpoints(folder / "c", 10), poison);
  CHECK(result.ending == Ending::not_finite);
  const auto saved = checkpoints_in(folder / "c");
  REQUIRE(saved.size() == 2);  // step 10, and what was good when the run ended
  TrainingRun<DeltaResNet<double>> restored(toy_net<double>());
  Checkpoint(saved.back()).restore(restored, data);
  CHECK(restored.step == 12);
  CHECK(same(restored, run));
}

TEST_CASE("the model of a checkpoint can be had alone", "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyRun<double> run(toy_net<double>());
  ToyData<double> data;
  train(run, data, 3);
  save_checkpoint(folder / "run", run, data);
  auto model = toy_net<double>(), deeper = toy_net<double>(3);
  const Checkpoint checkpoint(folder / "run");
  checkpoint.restore_model(model);
  for_each_parameter([](const ParameterPath&, const auto& p, const auto& q) { CHECK(p == q); }, model,
                     run.model);
  CHECK_THAT(error_of([&] { checkpoint.restore_model(deeper); }),
             ContainsSubstring("has no tensor \"model.blocks.2."));
}

TEST_CASE("a checkpoint with a flipped bit, or cut short, is refused or says the same", "[io][checkpoint]") {
  const TemporaryFolder folder;
  const auto small_net = [](std::uint64_t seed) {
    return DeltaResNet<float>({.inputs = 2, .outputs = 1, .width = 2, .value_channels = 2, .depth = 1}, seed);
  };
  ToyRun<float> run(small_net(3));
  ToyData<float> data;
  train(run, data, 3);
  save_checkpoint(folder / "run", run, data, {{"depth", 1}});
  const std::string good = read_file(folder / "run");
  const ToyRun<float> before(small_net(4));
  const auto untouched = ToyData<float>().state();
  ToyRun<float> restored = before;
  ToyData<float> position;
  const auto restore = [&](const std::string& bytes) {
    restored = before;
    position = {};
    return error_of([&] {
      const Checkpoint checkpoint(SafetensorsFile(FileContents("bad", as_bytes(bytes))));
      checkpoint.restore(restored, position);
      REQUIRE(checkpoint.settings() == nlohmann::json({{"depth", 1}}));
    });
  };
  REQUIRE(restore(good) == "no error");
  REQUIRE(same(restored, run));
  std::size_t harmless = 0;
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << at % 7));
    CAPTURE(at, good.substr(at < 20 ? 0 : at - 20, 40));
    const bool refused = restore(bad) != "no error";
    harmless += !refused;
    REQUIRE(same(restored, refused ? before : run));
    REQUIRE(position.state() == (refused ? untouched : data.state()));
  }
  CHECK(harmless < 8);  // blanks that fill the header
  for (std::size_t size = 0; size < good.size(); ++size) {
    CAPTURE(size);
    REQUIRE(restore(good.substr(0, size)) != "no error");
    REQUIRE(same(restored, before));
  }
}

TEST_CASE("a hostile checkpoint changes nothing", "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyRun<double> run(toy_net<double>()), other = run;
  ToyData<double> data;
  save_checkpoint(folder / "run", run, data);
  const Checkpoint checkpoint(folder / "run");
  ++other.step;
  const ToyRun<double> before = other;
  const auto with = [&](const std::string& key, const std::string& value, bool checksums = true) {
    SafetensorsWriter writer;
    writer.checksums = checksums;
    writer.metadata = checkpoint.file().metadata();
    writer.metadata[key] = value;
    for_each_parameter(
        [&](const ParameterPath& place, const auto& p) { writer.add(place.str(), p, place.is_vector()); },
        run);
    const std::string message = error_of(
        [&] { Checkpoint(SafetensorsFile(FileContents("bad", writer.bytes()))).restore(other, data); });
    CHECK(same(other, message == "no error" ? run : before));
    other = before;
    return message;
  };
  CHECK(with("nothing", "else") == "no error");
  CHECK_THAT(with("nothing", "else", false), ContainsSubstring("has no checksums, expected those"));
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  for (const std::string key : {"run", "data", "settings"}) {
    CHECK_THAT(with(key, deep), ContainsSubstring("metadata " + key + " is nested deeper than 128 levels"));
    CHECK_THAT(with(key, R"({"a":1,"a":1})"),
               ContainsSubstring("metadata " + key + " has the key \"a\" twice"));
    CHECK_THAT(with(key, R"([1)"), ContainsSubstring("metadata " + key + " is not JSON: it ends too early"));
  }
  for (const std::string numbers : {"[]", "7", "null", "{}", R"({"step":1})", R"({"step":1,"optimizer":[]})"})
    CHECK_THAT(with("run", numbers), ContainsSubstring("bad: metadata run: "));
  CHECK_THAT(with("data", "[0,0,0,0]"), ContainsSubstring("ddl::Random: the state is zero"));
  for (const std::string position : {"[1,2,3,1.5]", "[1,2,3,18446744073709551616]", "[1,2,3,\"4\"]", "{}"})
    CHECK_THAT(with("data", position), ContainsSubstring("bad: metadata data: "));
}

TEST_CASE("a checkpoint of another shape, scalar, version or kind of data changes nothing",
          "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyRun<double> run(toy_net<double>());
  ToyData<double> data;
  train(run, data, 3);
  save_checkpoint(folder / "run", run, data);
  const Checkpoint checkpoint(folder / "run");

  ToyRun<double> deeper(toy_net<double>(3)), other(toy_net<double>());
  const ToyRun<double> before = deeper;
  CHECK_THAT(error_of([&] { checkpoint.restore(deeper, data); }),
             ContainsSubstring("missing: tensor \"model.blocks.2."));
  CHECK(same(deeper, before));

  ToyRun<float> single(toy_net<float>());
  ToyData<float> single_data;
  CHECK_THAT(error_of([&] { checkpoint.restore(single, single_data); }),
             ContainsSubstring("metadata scalar is \"F64\", expected \"F32\""));

  struct OtherData : ToyData<double> {
    void restore(std::span<const std::uint64_t>) { throw std::invalid_argument("these are other data"); }
  } other_data;
  CHECK_THAT(error_of([&] { checkpoint.restore(other, other_data); }),
             ContainsSubstring("these are other data"));
  CHECK(other.step == 0);

  const auto with = [&](const std::string& key, const std::string& value) {
    Metadata metadata = checkpoint.file().metadata();
    metadata[key] = value;
    if (value.empty()) metadata.erase(key);
    save_parameters(run, folder / "bad", metadata);
    return error_of([&] { Checkpoint(folder / "bad").restore(other, data); });
  };
  CHECK(with("nothing", "else") == "no error");
  CHECK_THAT(with("version", "2"), ContainsSubstring("metadata version is \"2\", expected \"1\""));
  CHECK_THAT(with("format", "pt"),
             ContainsSubstring("metadata format is \"pt\", expected \"ddl checkpoint\""));
  CHECK_THAT(with("format", ""), ContainsSubstring("is no checkpoint: its metadata lack format"));
  CHECK_THAT(with("run", "{"), ContainsSubstring("metadata run is not JSON"));
  CHECK_THAT(with("run", "{}"), ContainsSubstring("key 'optimizer' not found"));
  CHECK_THAT(with("data", "[1, 2]"), ContainsSubstring("a toy's state is four words"));
  CHECK_THAT(with("data", "7"), ContainsSubstring("type must be array"));
}

TEST_CASE("a log has one JSON object a line", "[io][checkpoint][json_lines]") {
  const TemporaryFolder folder;
  ToyRun<double> run(toy_net<double>());
  ToyData<double> data;
  {
    JsonLines log(folder / "log", 2);
    log.write({{"event", "begin"}});
    fit(run, data, {.steps = 5}, log);
  }
  std::istringstream lines(read_file(folder / "log"));
  std::vector<nlohmann::json> all;
  for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line));
  REQUIRE(all.size() == 3);
  CHECK(all[0].at("event") == "begin");
  CHECK(all[2].at("step") == 4);
  CHECK(all[2].at("correct").is_null());
  CHECK(all[2].at("loss").get<double>() > 0);
  JsonLines(folder / "log").write({{"event", "end"}});
  CHECK_THAT(read_file(folder / "log"), ContainsSubstring("begin") && ContainsSubstring("end"));
  CHECK_THAT(error_of([&] { JsonLines(folder / "none/log"); }),
             ContainsSubstring("cannot open for appending"));
  CHECK_THROWS_AS(JsonLines(folder / "other", 0), std::invalid_argument);
  CHECK(folder.count() == 1);
}
