// SPDX-License-Identifier: MIT
#include "ddl/io/model_config.hpp"

#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;
using nlohmann::json;

namespace {

void save(const std::string& path, const Metadata& metadata) {
  SafetensorsWriter writer;
  writer.metadata = metadata;
  writer.save(path);
}

}  // namespace

TEST_CASE("a model's config is in the metadata or in the folder", "[io][config]") {
  const TemporaryFolder folder;
  const std::string file = folder / "model.safetensors";
  save(file, {});
  CHECK_THROWS_WITH(read_model_config(file), ContainsSubstring("/config.json: cannot open"));
  write_file(folder / "config.json", R"({"hidden_size": 8, "num_v_heads": null})");
  const json beside = {{"hidden_size", 8}, {"num_v_heads", nullptr}};
  CHECK(read_model_config(file) == beside);
  CHECK(read_model_config(folder / ".") == beside);
  CHECK(read_model_config(SafetensorsFile(file)) == beside);
  write_file(folder / "some.index.json", R"({"weight_map": {}})");
  CHECK(read_model_config(folder / "some.index.json") == beside);
  save(file, {{"config", R"({"hidden_size": 9})"}});
  CHECK(read_model_config(file) == json{{"hidden_size", 9}});
}

TEST_CASE("a config that is not a JSON object of bounded size is refused", "[io][config][errors]") {
  const TemporaryFolder folder;
  const std::string file = folder / "model.safetensors", config = folder / "config.json";
  const auto check = [&](const std::string& text, const std::string& problem) {
    INFO(problem);
    save(file, {{"config", text}});
    CHECK_THROWS_WITH(read_model_config(file), file + ": metadata config " + problem);
    save(file, {});
    write_file(config, text);
    CHECK_THROWS_WITH(read_model_config(file), config + ": " + problem);
    CHECK_THROWS_AS(read_model_config(file), FileError);
  };
  check("", "is not JSON: it ends too early");
  check("[1]", "is [1], expected a JSON object");
  check("null", "is null, expected a JSON object");
  check("{\"a\":1,\"a\":2}", "has the key \"a\" twice");
  check(std::string(100'000, '['), "is nested deeper than 128 levels");
  std::filesystem::resize_file(detail::path_of(config), (std::size_t{1} << 20) + 1);
  CHECK_THROWS_WITH(read_model_config(file), config + ": is 1048577 bytes long, expected at most 1048576");
}
