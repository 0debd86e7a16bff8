// SPDX-License-Identifier: MIT
#include "ddl/io/sharded_safetensors.hpp"

#include "ddl/io/weights.hpp"
#include "ddl/nn/linear.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;
using nlohmann::json;

static_assert(TensorSource<SafetensorsFile> && TensorSource<ShardedSafetensors>);
static_assert(!TensorSource<SafetensorsWriter> && !TensorSource<std::string>);

namespace {

const std::string index_name = "model.safetensors.index.json";

/// A layer in two files of a folder: the weight of 6 floats in the first, the bias of 2 in the second.
struct Shards {
  TemporaryFolder folder;
  Random random{1};
  Linear<float> layer{3, 2, random};
  json index = {{"metadata", {{"total_size", 32}}},
                {"weight_map", {{"weight", "1.safetensors"}, {"bias", "2.safetensors"}}}};

  Shards() {
    save("1.safetensors", {"weight"});
    save("2.safetensors", {"bias"});
    save_index();
  }
  void save(const std::string& file, const std::vector<std::string>& tensors,
            const Metadata& metadata = {{"format", "pt"}}) const {
    SafetensorsWriter writer;
    writer.metadata = metadata;
    for (const std::string& name : tensors)
      name == "weight" ? writer.add(name, layer.weight) : writer.add(name, layer.bias);
    writer.save(folder / file);
  }
  void save_index() const { write_file(folder / index_name, index.dump()); }
  std::string path() const { return folder / index_name; }
  std::string problem(const std::string& path) const {
    try {
      const ShardedSafetensors weights(path);
    } catch (const FileError& error) {
      return error.what();
    }
    return "none";
  }
  /// What is wrong with the index once it is this. Paths in the folder begin with "./".
  std::string problem() const {
    save_index();
    return relative(problem(path()));
  }
  std::string relative(std::string text) const {
    const std::string before = folder / "";
    for (std::size_t at = 0; (at = text.find(before, at)) != text.npos;)
      text.replace(at, before.size(), "./");
    return text;
  }
};

}  // namespace

TEST_CASE("shards are one set of tensors", "[io][shards]") {
  const Shards shards;
  const Access access = GENERATE(Access::read, Access::map);
  const auto by_folder = GENERATE(true, false);
  const ShardedSafetensors weights(by_folder ? shards.folder / "." : shards.path(), Strict::yes, access);
  CHECK(weights.names() == std::vector<std::string>{"bias", "weight"});
  CHECK(weights.metadata() == Metadata{{"format", "pt"}});
  CHECK(weights.contains("bias"));
  CHECK_FALSE(weights.contains("other"));
  CHECK(weights.tensor("weight").shape == TensorShape{2, 3});
  CHECK(weights.bytes("weight").size() == 24);
  CHECK(weights.read<float>("bias") == shards.layer.bias);
  CHECK(weights.read_matrix<float>("weight") == shards.layer.weight);
  CHECK(weights.shard("bias").file().ends_with("/2.safetensors"));
  CHECK_THROWS_WITH(weights.tensor("other"), weights.file() + ": tensor \"other\": is not in the file");

  const auto copy = std::make_unique<ShardedSafetensors>(weights);
  Random random(2);
  Linear<float> layer(3, 2, random);
  load_parameters(layer, *copy);
  CHECK(layer.weight == shards.layer.weight);
  CHECK(layer.bias == shards.layer.bias);
}

TEST_CASE("one file is a set of tensors, too, and comes before an index in its folder", "[io][shards]") {
  Shards shards;
  shards.save("model.safetensors", {"bias"}, {{"only", "this"}});
  for (const std::string& path : {shards.folder / "model.safetensors", shards.folder / "."}) {
    const ShardedSafetensors weights(path);
    CHECK(weights.names() == std::vector<std::string>{"bias"});
    CHECK(weights.metadata() == Metadata{{"only", "this"}});
    CHECK(weights.file().ends_with("/model.safetensors"));
  }
  const ShardedSafetensors weights(shards.path());
  CHECK(weights.names().size() == 2);
  const TemporaryFolder empty;
  CHECK(shards.problem(empty / ".")
            .ends_with(
                "is a folder, expected \"model.safetensors\" or \"model.safetensors.index.json\" in it"));
  CHECK_THAT(shards.problem(empty / "none"), ContainsSubstring("none: cannot open"));
}

TEST_CASE("the metadata of an index and of its shards are one", "[io][shards]") {
  Shards shards;
  shards.save("1.safetensors", {"weight"}, {{"format", "pt"}, {"a", "1"}});
  shards.save("2.safetensors", {"bias"}, {{"format", "pt"}, {"b", "2"}});
  shards.index["metadata"]["tied"] = "weight";
  shards.save_index();
  CHECK(ShardedSafetensors(shards.path()).metadata() ==
        Metadata{{"a", "1"}, {"b", "2"}, {"format", "pt"}, {"tied", "weight"}});
  shards.index["metadata"]["b"] = "3";
  CHECK(shards.problem() ==
        R"(./2.safetensors: metadata "b" is "2", expected "3" as in another file of "./)" + index_name +
            "\"");
  shards.index.erase("metadata");
  CHECK(shards.problem() == "none");
  shards.index["metadata"] = 1;
  CHECK(shards.problem() == "./" + index_name + ": metadata is 1, expected a JSON object");
}

TEST_CASE("a shard is a file in the folder of the index", "[io][shards][errors]") {
  Shards shards;
  shards.save("other.bin", {"bias"});
  std::filesystem::create_directory(detail::path_of(shards.folder / "sub"));
  shards.save("sub/2.safetensors", {"bias"});
  for (const json& name : {json("../2.safetensors"), json("/etc/x.safetensors"), json("sub/2.safetensors"),
                           json("./2.safetensors"), json("sub\\2.safetensors"), json("c:2.safetensors"),
                           json(std::string("2.safetensors\0.safetensors", 26)), json("other.bin"),
                           json(".."), json(""), json(2), json(nullptr), json::array({"2.safetensors"})}) {
    shards.index["weight_map"]["bias"] = name;
    INFO(name);
    CHECK(shards.problem() == "./" + index_name + ": tensor \"bias\": is said to be in " + name.dump() +
                                  ", expected the name of a .safetensors file in the same folder");
  }
  shards.index["weight_map"]["bias"] = "3.safetensors";
  CHECK_THAT(shards.problem(), StartsWith("./3.safetensors: cannot open"));
  std::filesystem::create_directory(detail::path_of(shards.folder / "3.safetensors"));
  CHECK(shards.problem() == "./3.safetensors: is a folder, expected a regular file");
}

TEST_CASE("every tensor is in the shard that the index names, and in no other", "[io][shards][errors]") {
  Shards shards;
  const std::string tensor = "./" + index_name + ": tensor ";
  shards.index["weight_map"]["bias"] = "1.safetensors";
  CHECK(shards.problem() == tensor + "\"bias\": is not in \"./1.safetensors\", its shard");
  shards.index["weight_map"]["bias"] = "2.safetensors";
  shards.index["weight_map"]["other"] = "2.safetensors";
  CHECK(shards.problem() == tensor + "\"other\": is not in \"./2.safetensors\", its shard");
  shards.index["weight_map"].erase("other");
  shards.save("2.safetensors", {"bias", "weight"});
  CHECK(shards.problem() ==
        tensor + "\"weight\": is in \"./2.safetensors\" and in \"./1.safetensors\", expected one of them");
  shards.index["weight_map"].erase("weight");
  CHECK(shards.problem() == tensor + "\"weight\": is in \"./2.safetensors\" and not in the index");
}

TEST_CASE("an index that is not what the format asks for is refused", "[io][shards][errors]") {
  Shards shards;
  const std::string file = "./" + index_name + ": ";
  for (const json& size :
       {json(31), json(33), json(-32), json("32"), json(nullptr), json(32.5), json(1e300)}) {
    shards.index["metadata"]["total_size"] = size;
    CHECK(shards.problem() ==
          file + "metadata total_size is " + size.dump() + ", expected 32, the bytes of all tensors");
  }
  shards.index["metadata"]["total_size"] = 32.0;  // as some programs write it
  CHECK(shards.problem() == "none");
  for (const json& map : {json(nullptr), json::array({"1.safetensors"}), json("x")}) {
    shards.index["weight_map"] = map;
    CHECK(shards.problem() == file + "weight_map is " + map.dump() + ", expected a JSON object");
  }
  shards.index.erase("weight_map");
  CHECK(shards.problem() == file + "weight_map is missing, expected a JSON object");

  const auto problem = [&](const std::string& text) {
    write_file(shards.path(), text);
    return shards.relative(shards.problem(shards.path()));
  };
  CHECK_THAT(problem(""), StartsWith(file + "is not JSON"));
  CHECK_THAT(problem("{\"weight_map\":{}"), StartsWith(file + "is not JSON"));
  CHECK(problem("[]") == file + "is [], expected a JSON object");
  CHECK(problem(R"({"weight_map":{"bias":"2.safetensors","bias":"1.safetensors"}})") ==
        file + "has the key \"bias\" twice");
  CHECK(problem("{\"x\":" + std::string(100'000, '[')) == file + "is nested deeper than 128 levels");
  std::filesystem::resize_file(detail::path_of(shards.path()), (std::size_t{32} << 20) + 1);
  CHECK(shards.relative(shards.problem(shards.path())) ==
        file + "is 33554433 bytes long, expected at most 33554432");
}
