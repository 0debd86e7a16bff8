// SPDX-License-Identifier: MIT
#include "ddl/io/json_lines.hpp"

#include <limits>
#include <sstream>
#include <vector>

#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/toy_data.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("a log has one JSON object a line", "[io][json_lines]") {
  const TemporaryFolder folder;
  TrainingRun<DeltaResNet<double>> run(toy_net<double>());
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
  CHECK(all[2].at("accuracy").is_null());
  CHECK(all[2].at("loss").get<double>() > 0);
  JsonLines(folder / "log").write({{"event", "end"}});
  CHECK_THAT(read_file(folder / "log"), ContainsSubstring("begin") && ContainsSubstring("end"));
  CHECK_THAT(error_of([&] { JsonLines(folder / "none/log"); }),
             ContainsSubstring("cannot open for appending"));
  CHECK_THROWS_AS(JsonLines(folder / "other", 0), std::invalid_argument);
  CHECK(folder.count() == 1);
}

TEST_CASE("bytes that are not UTF-8 do not end a log", "[io][json_lines]") {
  const TemporaryFolder folder;
  JsonLines(folder / "log").write({{"name", "caf\xe9"}});
  CHECK(read_file(folder / "log") == "{\"name\":\"caf\xef\xbf\xbd\"}\n");
}

#if DDL_TEST_POSIX
TEST_CASE("a log that cannot be written ends with a warning, and the run goes on", "[io][json_lines]") {
  const TemporaryFolder folder;
  TrainingRun<DeltaResNet<double>> run(toy_net<double>());
  ToyData<double> data;
  JsonLines full(folder / "full");
  {
    const FullDisk disk(10);
    fit(run, data, {.steps = 3}, full);
  }
  CHECK_FALSE(full.is_complete());
  CHECK(run.step == 3);

  const auto ignored = ::signal(SIGPIPE, SIG_IGN);
  const std::string pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  JsonLines closed(pipe);
  closed.write({{"a", 1}});
  CHECK(closed.is_complete());
  ::close(reader);
  fit(run, data, {.steps = 6}, closed);
  CHECK_FALSE(closed.is_complete());
  CHECK(run.step == 6);
  ::signal(SIGPIPE, ignored);
}

TEST_CASE("a log is not opened in the place of a closed standard stream", "[io][json_lines]") {
  const TemporaryFolder folder;
  const int status = in_another_process([&] {
    for (int stream = 0; stream < 3; ++stream) ::close(stream);
    JsonLines log(folder / "log");
    log.write({{"a", 1}});
    for (int stream = 0; stream < 3; ++stream)
      if (::write(stream, "text", 4) != -1) ::_exit(2);
    log.write({{"b", 2}});
  });
  CHECK(status == 0);
  CHECK(read_file(folder / "log") == "{\"a\":1}\n{\"b\":2}\n");
}
#endif
