// SPDX-License-Identifier: MIT
#include "ddl/io/checkpoint.hpp"

#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "ddl/core/thread_pool.hpp"
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
  fit(run, data, {.steps = 23}, Checkpoints(place, {.every = 5, .keep = 2}, {{"seed", 1}}));
  CHECK(checkpoints_in(place) == std::vector<std::string>{place + "/checkpoint-000000020.safetensors",
                                                          place + "/checkpoint-000000023.safetensors"});
  CHECK(Checkpoint(checkpoints_in(place).back()).settings().at("seed") == 1);
  write_file(place + "/checkpoint-000000025.safetensors.tmp0", "half");
  const std::vector<std::string> others = {"/mine",
                                           "/checkpoint-best.safetensors",
                                           "/checkpoint-000000099.safetensors.bak",
                                           "/checkpoint-99999.safetensors",
                                           "/checkpoint-000000099.safetensors.tmp",
                                           "/checkpoint-000000099.safetensors.tmpx",
                                           "/checkpoint--00000001.safetensors"};
  for (const auto& name : others) write_file(place + name, "not ours");
  {
    Checkpoints again(place, {.every = 1, .keep = 1, .resume = true}, {{"seed", 1}});
    CHECK(again.resume(run, data));
    fit(run, data, {.steps = 25}, again);
  }
  CHECK(checkpoints_in(place) == std::vector<std::string>{place + "/checkpoint-000000025.safetensors"});
  for (const auto& name : others) CHECK(read_file(place + name) == "not ours");
  CHECK(std::distance(std::filesystem::directory_iterator(place), {}) ==
        static_cast<std::ptrdiff_t>(others.size()) + 2);  // and the lock
  CHECK(checkpoints_in(folder / "nowhere").empty());
  CHECK_THROWS_AS(Checkpoints(place, {.every = 0}), std::invalid_argument);
  CHECK_THROWS_AS(Checkpoints(place, {.keep = 0}), std::invalid_argument);
  CHECK_THROWS_AS(Checkpoints(place + "/mine"), FileError);
}

TEST_CASE("checkpoints are in the order of their steps, beyond nine digits, too", "[io][checkpoint]") {
  const TemporaryFolder folder;
  for (const std::string step : {"1000000000", "999999999", "0999999998", "000000007"})
    write_file(folder / ("checkpoint-" + step + ".safetensors"), "");
  CHECK(checkpoints_in(folder / "") ==
        std::vector<std::string>{folder / "checkpoint-000000007.safetensors",
                                 folder / "checkpoint-999999999.safetensors",
                                 folder / "checkpoint-1000000000.safetensors"});
}

TEST_CASE("a folder of checkpoints belongs to one run", "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyData<double> data;
  ToyRun<double> longer(toy_net<double>()), run(toy_net<double>());
  const CheckpointSettings resuming{.every = 4, .resume = true};
  {
    Checkpoints checkpoints(folder / "c", resuming);  // an empty folder may be resumed
    CHECK_FALSE(checkpoints.resume(longer, data));
    CHECK_THAT(error_of([&] { Checkpoints(folder / "c", resuming); }), ContainsSubstring("is locked"));
    fit(longer, data, {.steps = 30}, checkpoints);
  }
  CHECK_THAT(error_of([&] { Checkpoints(folder / "c", {.every = 4}); }),
             ContainsSubstring("holds checkpoints of an earlier run, the newest is ") &&
                 ContainsSubstring("checkpoint-000000030.safetensors"));
  Checkpoints forgotten(folder / "c", resuming);
  CHECK_THAT(error_of([&] { fit(run, data, {.steps = 8}, forgotten); }),
             ContainsSubstring("is of a later step than this run, which begins after step 0"));
  CHECK(run.step == 0);
  CHECK(forgotten.resume(run, data));
  CHECK(run.step == 30);
}

#if DDL_TEST_POSIX
TEST_CASE("the lock of a folder ends with its process, however that ends", "[io][checkpoint]") {
  const TemporaryFolder folder;
  const int status = in_another_process([&] {
    const Checkpoints checkpoints(folder / "c");
    ::raise(SIGKILL);
  });
  CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
  CHECK_NOTHROW(Checkpoints(folder / "c"));
}
#endif

TEST_CASE("what cannot be saved is refused before the first step", "[io][checkpoint]") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(Checkpoints(folder / "c", {}, {{"width", 3}, {"data", "caf\xe9.csv"}}),
                    ContainsSubstring("ddl::Checkpoints: the setting \"data\" is ") &&
                        ContainsSubstring("expected text in UTF-8"));
  CHECK(folder.count() == 0);
  write_file(folder / "file", "");
  CHECK_THAT(error_of([&] { Checkpoints(folder / "file/c"); }), ContainsSubstring("cannot make this folder"));
}

TEST_CASE("a run that is resumed with other settings is told which", "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyData<double> data;
  ToyRun<double> run(toy_net<double>()), other(toy_net<double>());
  fit(run, data, {.steps = 5},
      Checkpoints(folder / "c", {}, {{"depth", 2}, {"steps", 5}, {"name", "a"}, {"old", true}}));
  Checkpoints longer(folder / "c", {.resume = true, .may_differ = {"steps"}},
                     {{"depth", 3}, {"steps", 10}, {"name", "a"}, {"new", {1, 2}}});
  CHECK_THAT(
      error_of([&] { longer.resume(other, data); }),
      ContainsSubstring("checkpoint-000000005.safetensors: was trained with other settings: depth is 3, "
                        "expected 2; new is [1,2], expected missing; old is missing, expected true"));
  CHECK(other.step == 0);
}

TEST_CASE("settings that are no objects are told apart, too", "[io][checkpoint]") {
  CHECK(settings_difference({{"a", 1}}, {{"a", 1}}).empty());
  CHECK(settings_difference(nullptr, nullptr).empty());
  CHECK(settings_difference({{"a", 1}}, 7) == "they are {\"a\":1}, expected 7");
  CHECK(settings_difference({{"a", 1}, {"b", 2}}, {{"a", 2}, {"b", 3}}, std::vector<std::string>{"b"}) ==
        "a is 1, expected 2");
}

TEST_CASE("a run can be extended", "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyData<double> data, whole_data;
  ToyRun<double> run(toy_net<double>()), resumed(toy_net<double>()), whole(toy_net<double>());
  fit(run, data, {.steps = 5}, Checkpoints(folder / "c", {}, {{"steps", 5}}));
  Checkpoints longer(folder / "c", {.resume = true, .may_differ = {"steps"}}, {{"steps", 9}});
  CHECK(longer.resume(resumed, data));
  fit(resumed, data, {.steps = 9}, longer);
  fit(whole, whole_data, {.steps = 9});
  CHECK(same(resumed, whole));
  CHECK(Checkpoint(checkpoints_in(folder / "c").back()).settings().at("steps") == 9);
}

TEST_CASE("a damaged newest checkpoint is named, with the one before it that is whole", "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyData<double> data, resumed_data;
  ToyRun<double> run(toy_net<double>()), resumed(toy_net<double>());
  fit(run, data, {.steps = 8}, Checkpoints(folder / "c", {.every = 2, .keep = 9}));
  const auto files = checkpoints_in(folder / "c");
  REQUIRE(files.size() == 4);
  const auto damage = [](const std::string& file) {
    std::string bytes = read_file(file);
    bytes[bytes.size() - 100] ^= 1;
    write_file(file, bytes);
  };
  const auto load_model = [](const Checkpoint& checkpoint) {
    auto model = toy_net<double>();
    checkpoint.restore_model(model);
    return model;
  };
  damage(files[3]);
  write_file(files[2], read_file(files[2]).substr(0, 500));  // cut
  Checkpoints checkpoints(folder / "c", {.every = 2, .keep = 9, .resume = true});
  const auto before = resumed;
  const auto position = resumed_data.state();
  CHECK_THAT(error_of([&] { checkpoints.resume(resumed, resumed_data); }),
             ContainsSubstring("checkpoint-000000008.safetensors: ") &&
                 ContainsSubstring("; the newest whole checkpoint before it is " + files[1]));
  CHECK(same(resumed, before));
  CHECK(resumed_data.state() == position);
  try {
    load_checkpoint(folder / "c", load_model);
    FAIL("nothing was thrown");
  } catch (const DamagedCheckpoint& error) {
    CHECK(error.file() == files[3]);
    CHECK(error.whole() == files[1]);
    CHECK(checkpoints.resume(resumed, resumed_data, error.whole()));
  }
  CHECK(resumed.step == 4);
  CHECK(checkpoints_in(folder / "c") == std::vector<std::string>{files[0], files[1]});
  CHECK(std::filesystem::exists(files[3] + ".superseded0"));
  fit(resumed, resumed_data, {.steps = 8}, checkpoints);
  CHECK(same(resumed, run));
  CHECK_NOTHROW(load_checkpoint(folder / "c", load_model));
  CHECK_THAT(error_of([&] { checkpoints.resume(resumed, resumed_data, folder / "c/lock"); }),
             ContainsSubstring("is not one of the checkpoints in "));

  for (const auto& file : checkpoints_in(folder / "c")) damage(file);
  try {
    load_checkpoint(folder / "c", load_model);
    FAIL("nothing was thrown");
  } catch (const DamagedCheckpoint&) {
    FAIL("none is whole");
  } catch (const FileError& error) {
    CHECK(error.file() == checkpoints_in(folder / "c").back());
  }
}

TEST_CASE("a folder without checkpoints is said to be one", "[io][checkpoint]") {
  const TemporaryFolder folder;
  CHECK_THAT(error_of([&] { load_checkpoint(folder / "", [](const Checkpoint&) { return 0; }); }),
             ContainsSubstring("holds no checkpoint, expected checkpoint-<step>.safetensors"));
}

TEST_CASE("a model with a parameter that is not finite is not saved", "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyData<double> data;
  ToyRun<double> run(toy_net<double>());
  const auto spoil = [](const auto& context) {
    if (context.report.step == 4) context.run.model.head.weight(0, 0) = std::nan("");
  };
  const auto result = fit(run, data, {.steps = 4, .non_finite = NonFinite::stop}, spoil,
                          Checkpoints(folder / "c", {.every = 2}));
  CHECK(result.stop_reason == StopReason::not_finite);
  CHECK(checkpoints_in(folder / "c") ==
        std::vector<std::string>{folder / "c/checkpoint-000000002.safetensors"});
}

TEST_CASE("a run with another optimizer is saved and goes on", "[io][checkpoint]") {
  using Net = DeltaResNet<double>;
  using Run = TrainingRun<Net, Sgd<Net>>;
  const TemporaryFolder folder;
  const SgdSettings settings{.learning_rate = 0.05, .momentum = 0.9, .weight_decay = 0.01};
  Run whole(toy_net<double>(), settings), half(toy_net<double>(), settings), resumed(toy_net<double>());
  ToyData<double> whole_data, half_data, data;
  fit(whole, whole_data, {.steps = 20});
  fit(half, half_data, {.steps = 10});
  save_checkpoint(folder / "half", half, half_data);
  Checkpoint(folder / "half").restore(resumed, data);
  CHECK(resumed.optimizer.settings.momentum == 0.9);
  fit(resumed, data, {.steps = 20});
  for_each_parameter([](const ParameterPath&, const auto& p, const auto& q) { CHECK(p == q); }, resumed,
                     whole);
  ToyRun<double> adam(toy_net<double>());
  CHECK_THAT(error_of([&] { Checkpoint(folder / "half").restore(adam, data); }),
             ContainsSubstring("metadata run: the kind of optimizer is \"SGD\", expected \"AdamW\""));
}

TEST_CASE("the last good checkpoint stays where a loss is not finite", "[io][checkpoint]") {
  const TemporaryFolder folder;
  ToyRun<double> run(toy_net<double>());
  ToyData<double> data;
  const FitSettings settings{.steps = 30, .non_finite = NonFinite::stop};
  const auto poison = [&](const auto& context) {
    data.poison = context.report.step == 12 ? std::nan("") : 0;
  };
  const auto result = fit(run, data, settings, Checkpoints(folder / "c", {.every = 10}), poison);
  CHECK(result.stop_reason == StopReason::not_finite);
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
             ContainsSubstring("has no tensor \"model.layers.2."));
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
             ContainsSubstring("missing: tensor \"model.layers.2."));
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
  CHECK_THAT(with("version", "1"), ContainsSubstring("metadata version is \"1\", expected \"2\""));
  CHECK_THAT(with("format", "pt"),
             ContainsSubstring("metadata format is \"pt\", expected \"ddl checkpoint\""));
  CHECK_THAT(with("format", ""), ContainsSubstring("is no checkpoint: its metadata lack format"));
  CHECK_THAT(with("run", "{"), ContainsSubstring("metadata run is not JSON"));
  CHECK_THAT(with("run", "{}"), ContainsSubstring("metadata run: step is missing"));
  CHECK_THAT(with("data", "[1, 2]"), ContainsSubstring("a toy's state is four words"));
  CHECK_THAT(with("data", "7"), ContainsSubstring("metadata data: the value is 7, expected a list"));
  CHECK_THAT(with("data", "[1, 2, 3, -4]"),
             ContainsSubstring("an entry is -4, expected an integer of at least 0"));

  const auto run_with = [&](const std::string& key, const nlohmann::json& value) {
    auto numbers = nlohmann::json::parse(checkpoint.file().metadata().at("run"));
    (numbers.contains(key) ? numbers : numbers.at("optimizer"))[key] = value;
    return with("run", numbers.dump());
  };
  CHECK(run_with("step", 5) == "no error");
  for (const nlohmann::json& bad :
       {nlohmann::json(-5), nlohmann::json(1.5), nlohmann::json(1e30), nlohmann::json("3")}) {
    CHECK_THAT(run_with("step", bad),
               ContainsSubstring("metadata run: step is " + bad.dump() + ", expected an integer"));
    CHECK_THAT(run_with("steps", bad),
               ContainsSubstring("metadata run: steps is " + bad.dump() + ", expected an integer"));
  }
  CHECK_THAT(run_with("beta1", 5), ContainsSubstring("beta1 is 5, expected in [0, 1)"));
  CHECK_THAT(run_with("eps", 0), ContainsSubstring("eps is 0, expected a number above 0"));
  CHECK_THAT(run_with("learning_rate", "a"), ContainsSubstring("learning_rate is \"a\", expected a number"));
}
