// SPDX-License-Identifier: MIT
#include "ddl/io/safetensors.hpp"

#include <chrono>
#include <cmath>
#include <locale>
#include <optional>
#include <set>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/tolerance.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;
using namespace std::string_literals;

namespace {

constexpr std::uint64_t two_to_63 = std::uint64_t{1} << 63;

/// The eight bytes before the header.
std::string length(std::uint64_t n) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(n >> (8 * i) & 255);
  return text;
}
/// A file of this header and this many bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes = 0) {
  return length(header.size()) + header + std::string(data_bytes, '\0');
}
/// One entry of a header.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}";
}
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{" + entry("a", dtype, shape, offsets) + "}";
}
/// A header with an entry "a" of these fields.
std::string fields(std::initializer_list<std::string> all) {
  std::string header;
  for (const std::string& field : all) {
    header += header.empty() ? R"({"a":{)" : ",";
    header += field;
  }
  return header + "}}";
}
/// A file of one U8 tensor for each range: t0, t1, ...
std::string ranges(const std::vector<std::pair<std::uint64_t, std::uint64_t>>& all, std::size_t data_bytes) {
  std::string header;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto [begin, end] = all[i];
    header +=
        (i == 0 ? "{" : ",") + entry("t" + std::to_string(i), "U8", "[" + std::to_string(end - begin) + "]",
                                     "[" + std::to_string(begin) + "," + std::to_string(end) + "]");
  }
  return file_of(header + "}", data_bytes);
}

SafetensorsFile open(const std::string& bytes, Strict strict = Strict::no) {
  return SafetensorsFile(FileContents("bad.safetensors", as_bytes(bytes)), strict);
}

struct Bad {
  int group;  ///< as the rules are numbered in the format's list of bad input
  std::string bytes;
  std::string tensor;    ///< the name that the message has, if the rule is about a tensor
  std::string rule;      ///< what the message says
  bool lenient = false;  ///< it stands in a field that Strict::yes refuses first
};

std::vector<Bad> bad_files() {
  const std::string x_dtype = R"("dtype":"I32")", x_shape = R"("shape":[2,2])",
                    x_offsets = R"("data_offsets":[0,16])";
  const std::string good = one("I32", "[2,2]", "[0,16]");
  std::vector<Bad> all;
  const auto add = [&](int group, std::string bytes, std::string tensor, std::string rule,
                       bool lenient = false) {
    all.push_back({group, std::move(bytes), std::move(tensor), std::move(rule), lenient});
  };
  const auto not_json = [&](int group, const std::string& header, const std::string& rule) {
    add(group, file_of(header), "", "the header is not JSON" + rule);
  };

  for (std::size_t n = 0; n < 8; ++n) add(1, std::string(n, '\0'), "", "bytes long, expected at least the 8");
  add(2, length(60), "", "said to be 60 bytes long, expected at most 0, the rest of the file");
  add(3, length(1000) + std::string(80, ' '), "",
      "said to be 1000 bytes long, expected at most 80, the rest");
  for (const std::uint64_t n : {0xffffff000000003cu, ~std::uint64_t{0}, ~std::uint64_t{7}, two_to_63})
    add(4, length(n) + good, "", "said to be " + std::to_string(n) + " bytes long, expected at most");
  add(4, length(100'000'001) + good, "", "said to be 100000001 bytes long");
  add(4, length(100'000'000) + good, "", "expected at most " + std::to_string(good.size()) + ", the rest");
  not_json(5, "", ": it ends too early");
  add(6, length(good.size() - 1) + good + std::string(16, '\0'), "", "not JSON");
  add(6, length(good.size() + 1) + good + std::string(16, '\0'), "", "not JSON: it has a zero byte");
  add(6, length(good.size() + 1) + good + std::string(16, '\xff'), R"("a")", "expected begin <= end <= 15");
  for (const auto& text : {"\xff"s, "\xc0\x80"s, "\xed\xa0\x80"s, "\xe2\x82"s}) {
    not_json(7, text, "");
    not_json(7, "{\"" + text + "\":1}", ": unexpected ");
    add(7, file_of("{" + entry("a", text, "[1]", "[0,1]") + "}", 1), R"("a")", "not JSON: unexpected ");
  }
  not_json(8, "{", ": it ends too early");
  for (const auto& text : {"[]"s, "[1]"s})
    add(9, file_of(text), "", "the header is a list, expected an object");
  add(9, file_of("\"x\""), "", "the header is a string, expected an object");
  add(9, file_of("1"), "", "the header is a number, expected an object");
  add(9, file_of("null"), "", "the header is null, expected an object");
  add(9, file_of("true"), "", "the header is a boolean, expected an object");
  for (const auto& text : {"{}{}"s, "{},"s})
    not_json(9, text, ": unexpected " + detail::in_quotes(text.substr(2)) + " at byte 2");
  not_json(9, "{}\0"s, ": it has a zero byte");
  not_json(9, "\xef\xbb\xbf{}", ": it begins with a byte order mark");
  for (const auto& text :
       {R"({"__metadata__":{},})"s, R"({/*c*/})"s, "{}//c"s, R"({'a':{}})"s, R"({a:{}})"s, "{\"a\n\":1}"s,
        "{\"\\\"\n\":1}"s, "{\"a\x01\":1}"s, R"({"\x":1})"s, R"({"\ud800":1})"s, R"({"\udc00":1})"s,
        R"({"a" "b"})"s, R"({"a":})"s, R"({"a)"s, R"({"a":tru})"s, R"({"a":NaN})"s, R"({"a":+1})"s})
    not_json(10, text, ": ");
  for (const auto& text : {"NaN"s, "Infinity"s, "01"s, "+1"s, "1."s, ".5"s, "1e999"s, "'x'"s, "tru"s,
                           "\"\t\""s, R"("\x")"s, R"("\ud800")"s, "[1,]"s, "{\"x\":1,}"s})
    add(10, file_of(R"({"a":{"other":)" + text + "}}"), R"("a")", "is not JSON", true);
  for (const auto& text : {R"([0,16,])"s, R"([0 16])"s, R"([0,016])"s, R"([0,16)"s})
    add(10, file_of(one("I32", "[2,2]", text), 16), R"("a")", "not JSON");
  const std::string deep(100'000, '['), ped(100'000, ']');
  add(11, file_of(R"({"a":{"other":)" + deep + ped + "}}"), R"("a")", "nested deeper than 128", true);
  add(11, file_of(R"({"a":{"other":)" + deep), R"("a")", "nested deeper than 128", true);
  add(11, file_of(deep), "", "the header is a list");
  std::string attack = "{";
  for (int i = 0; i < 1000; ++i)
    attack += (i > 0 ? "," : "") + entry("w" + std::to_string(i), "F32", "[2,2]", "[0,16]");
  add(12, file_of(attack + "}", 16), R"("w)", "data_offsets begins at 0, expected 16");
  add(13, file_of(fields({x_shape, x_offsets}), 16), R"("a")", "has no dtype");
  add(13, file_of(fields({x_dtype, x_offsets}), 16), R"("a")", "has no shape");
  add(13, file_of(fields({x_dtype, x_shape}), 16), R"("a")", "has no data_offsets");
  add(13, file_of(fields({R"("dtype":null)"})), R"("a")", "dtype is null, expected a string");
  for (const std::string field : {"shape", "data_offsets"})
    add(13, file_of(fields({"\"" + field + "\":null"})), R"("a")", field + " is null, expected a list");
  add(13, file_of(R"({"a":null})"), R"("a")", "is null, expected an object");
  add(14, file_of(fields({R"("dtype":5)", x_shape, x_offsets}), 16), R"("a")",
      "dtype is a number, expected a string");
  for (const auto& [text, rule] : std::vector<std::pair<std::string, std::string>>{
           {"[-1]", "shape holds a negative number"},
           {"[-0]", "shape holds a negative number"},
           {"[2.0]", "shape holds a fraction"},
           {"[1e2]", "shape holds a fraction"},
           {R"(["2"])", "shape holds a string"},
           {"[true]", "shape holds a boolean"},
           {"[18446744073709551616]", "shape holds a fraction or a number above 2^64 - 1"},
           {"[[2]]", "shape holds a list"},
           {"[{}]", "shape holds an object"},
           {"[null]", "shape holds null"},
           {"2", "shape is a number"},
           {"{}", "shape is an object"},
           {R"("2")", "shape is a string"}})
    add(15, file_of(one("I32", text, "[0,16]"), 16), R"("a")", rule);
  std::string ones = "[1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  add(15, file_of(one("U8", ones + "]", "[0,1]"), 1), R"("a")", "shape has more than 64 entries");
  for (const auto& [text, rule] :
       std::vector<std::pair<std::string, std::string>>{{"[]", "data_offsets has 0 entries, expected 2"},
                                                        {"[0]", "data_offsets has 1 entries"},
                                                        {"[0,16,16]", "data_offsets has 3 entries"},
                                                        {"[-1,15]", "data_offsets holds a negative number"},
                                                        {"[0,16.0]", "data_offsets holds a fraction"},
                                                        {"[0,[16]]", "data_offsets holds a list"},
                                                        {"16", "data_offsets is a number"},
                                                        {"{}", "data_offsets is an object"}})
    add(16, file_of(one("I32", "[2,2]", text), 16), R"("a")", rule);
  add(17, file_of(one("I32", "[2,2]", "[16,0]"), 16), R"("a")",
      "data_offsets is [16, 0], expected begin <= end <= 16");
  add(17, file_of(one("U8", "[18446744073709551615]", "[1,0]"), 16), R"("a")", "data_offsets is [1, 0]");
  add(18, file_of(one("U8", "[4]", "[1,5]"), 5), R"("a")", "begins at 1, expected 0");
  add(18, ranges({{0, 4}, {5, 8}}, 8), R"("t1")", "begins at 5, expected 4");
  add(18, ranges({{0, 4}, {3, 8}}, 8), R"("t1")", "begins at 3, expected 4");
  add(18, ranges({{0, 8}, {0, 8}}, 8), R"("t1")", "begins at 0, expected 8");
  add(18, ranges({{0, 8}, {2, 4}}, 8), R"("t1")", "begins at 2, expected 8");
  add(19, ranges({{0, 16}, {8, 8}}, 16), R"("t1")", "begins at 8, expected 16");
  add(20, file_of(one("I32", "[2,2]", "[0,4]"), 4), R"("a")",
      "has 4 bytes of data, expected 16 for I32 of shape [2, 2]");
  add(20, file_of(one("U8", "[1]", "[0,0]")), R"("a")",
      "has 0 bytes of data, expected 1 for U8 of shape [1]");
  add(20, file_of(one("F64", "[4]", "[0,16]"), 16), R"("a")",
      "has 16 bytes of data, expected 32 for F64 of shape [4]");
  add(20, file_of(one("U8", "[]", "[0,0]")), R"("a")", "has 0 bytes of data, expected 1 for U8 of shape []");
  add(21, file_of(one("I32", "[2,18446744073709551614]", "[0,16]"), 16), R"("a")", "overflows 64 bits");
  add(21, file_of(one("I32", "[2,9223372036854775807]", "[0,16]"), 16), R"("a")", "overflows 64 bits");
  add(22, file_of(one("U8", "[4294967296,4294967296]", "[0,0]")), R"("a")", "overflows 64 bits");
  add(22, file_of(one("F64", "[2305843009213693952]", "[0,0]")), R"("a")", "overflows 64 bits");
  add(23, file_of(one("U8", "[9223372036854775808,2,0]", "[0,0]")), R"("a")", "overflows 64 bits");
  add(24, file_of(one("F4", "[1,3]", "[0,1]"), 1), R"("a")", "takes 12 bits, expected whole bytes");
  add(24, file_of(one("F6_E2M3", "[1]", "[0,1]"), 1), R"("a")", "takes 6 bits, expected whole bytes");
  add(24, file_of(one("F6_E3M2", "[1]", "[0,1]"), 1), R"("a")", "takes 6 bits, expected whole bytes");
  const std::uint64_t huge = (std::uint64_t{1} << 61) - 1;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> eight;
  for (std::uint64_t i = 0; i < 8; ++i) eight.emplace_back(i * huge, (i + 1) * huge);
  add(25, ranges(eight, 16), R"("t0")", "expected begin <= end <= 16, where the file ends");
  add(26, file_of(good, 17), "", "the tensors end at byte 16 of the data, expected 17, where the file ends");
  add(26, file_of(good, 50), "", "the tensors end at byte 16 of the data, expected 50");
  add(26, file_of(good, 15), R"("a")", "data_offsets is [0, 16], expected begin <= end <= 15");
  add(26, file_of(good, 14), R"("a")", "expected begin <= end <= 14");
  add(26, file_of("{}", 4), "", "the tensors end at byte 0 of the data, expected 4");
  for (const auto& [text, kind] : std::vector<std::pair<std::string, std::string>>{
           {"1", "a number"}, {"null", "null"}, {"{}", "an object"}, {"[]", "a list"}, {"true", "a boolean"}})
    add(27, file_of(R"({"__metadata__":{"k":)" + text + "}}"), "",
        R"(__metadata__ key "k" is )" + kind + ", expected a string");
  add(27, file_of(R"({"__metadata__":[]})"), "", "__metadata__ is a list, expected an object");
  add(27, file_of(R"({"__metadata__":"x"})"), "", "__metadata__ is a string, expected an object");
  add(28, file_of(R"({"__metadata__":{},"__metadata__":{}})"), "", "__metadata__ stands twice");
  add(28, file_of(R"({"__metadata__":null,"__metadata__":{}})"), "", "__metadata__ stands twice");
  add(28, file_of(R"({"__metadata__":{"k":"1","\u006b":"2"}})"), "", R"(__metadata__ key "k" stands twice)");
  for (const std::string& field : {x_dtype, x_shape, x_offsets})
    add(28, file_of(fields({x_dtype, x_shape, x_offsets, field}), 16), R"("a")", "has two fields ");
  for (const std::string name : {"a", R"(\u0061)"})
    for (const std::string range : {"[0,0]", "[0,1]"})
      add(29,
          file_of("{" + entry("a", "U8", range == "[0,0]" ? "[0]" : "[1]", range) + "," +
                      entry(name, "U8", range == "[0,0]" ? "[0]" : "[1]", range) + "}",
                  1),
          R"("a")", "stands twice");
  add(30, file_of(R"({"a":["F32",[1],[0,4]]})", 4), R"("a")", "is a list, expected an object");
  for (const auto& [text, kind] : std::vector<std::pair<std::string, std::string>>{
           {"1", "a number"}, {R"("x")", "a string"}, {"true", "a boolean"}})
    add(30, file_of(R"({"a":)" + text + "}"), R"("a")", "is " + kind + ", expected an object");
  add(32, file_of(R"({"__metadata__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1), "",
      R"(__metadata__ key "shape" is a list, expected a string)");
  add(32, file_of("{" + entry(std::string(1'000'000, 'n'), "U8", "[2]", "[0,1]") + "}", 1), "\"nnn",
      "has 1 bytes of data, expected 2");
  add(32, file_of("{" + entry(R"(\u001b\u0000../x)", "U8", "[2]", "[0,1]") + "}", 1), R"("\x1b\x00../x")",
      "has 1 bytes of data");
  return all;
}

}  // namespace

TEST_CASE("every kind of bad file is refused by name, tensor and rule", "[io][safetensors]") {
  const TemporaryFolder folder;
  const std::string path = folder / "bad.safetensors";
  std::set<int> groups;
  for (const Bad& bad : bad_files()) {
    groups.insert(bad.group);
    CAPTURE(bad.group, bad.bytes.substr(0, 200));
    write_file(path, bad.bytes);
    for (const Strict strict : {Strict::no, Strict::yes}) {
      const std::string message = error_of([&] { open(bad.bytes, strict); });
      CHECK(message.starts_with("bad.safetensors: "));
      if (!bad.tensor.empty()) CHECK_THAT(message, ContainsSubstring("tensor " + bad.tensor));
      CHECK_THAT(message,
                 ContainsSubstring(bad.lenient && strict == Strict::yes ? "unknown field" : bad.rule));
      CHECK(message.size() < 1000);
      CHECK_THAT(message, !ContainsSubstring("last read"));  // megabytes of the file might follow
      CHECK_THAT(message, !ContainsSubstring("json.exception") && !ContainsSubstring("parse error"));
      for (const Access access : {Access::read, Access::map})
        CHECK(error_of([&] { SafetensorsFile(path, strict, access); }) == folder / message);
    }
  }
  for (int group = 1; group <= 30; ++group) CHECK(groups.contains(group));
  CHECK(groups.contains(32));  // 31 and the rest are below
}

TEST_CASE("a header may have a hundred million bytes, and no more", "[io][safetensors]") {
  const TemporaryFolder folder;
  write_file(folder / "file", length(100'000'001));
  std::filesystem::resize_file(folder / "file", 300'000'000);  // a hole, of which only the length is read
  CHECK_THAT(error_of([&] { SafetensorsFile(folder / "file", Strict::no, Access::map); }),
             ContainsSubstring("100000001 bytes long, expected at most 100000000, the format's limit"));
}

TEST_CASE("a dtype that is not known is refused when it is read, or at once if strict", "[io][safetensors]") {
  const std::string dtype = GENERATE(as<std::string>(), "F33", "f32", "", "F", "F322", "F3");
  const std::string bytes =
      file_of("{" + entry("a", dtype, "[3]", "[0,5]") + "," + entry("b", "U8", "[1]", "[5,6]") + "}", 6);
  const SafetensorsFile file = open(bytes);
  CHECK(file.tensor("a").dtype == dtype);
  CHECK(file.bytes("a").size() == 5);
  CHECK(file.read<int>("b") == Vector<int>::Zero(1));
  const std::string start = R"(bad.safetensors: tensor "a": has )";
  CHECK_THAT(error_of([&] { file.read<float>("a"); }),
             ContainsSubstring(start + "dtype \"" + dtype + "\", expected F64"));
  CHECK(error_of([&] { open(bytes, Strict::yes); }) == start + "the unknown dtype \"" + dtype + "\"");
}

TEST_CASE("a field that is not known is ignored, or refused if strict", "[io][safetensors]") {
  const std::string value = GENERATE(as<std::string>(), "1", "null", "[[],{\"dtype\":[1]}]",
                                     "{\"shape\":{\"shape\":[]},\"a\":[{}]}");
  const std::string bytes = file_of(R"({"a":{"other":)" + value + R"(,"dtype":"U8","other":)" + value +
                                        R"(,"shape":[1],"data_offsets":[0,1],"x":)" + value + "}}",
                                    1);
  CHECK(open(bytes).names() == std::vector<std::string>{"a"});
  CHECK(error_of([&] { open(bytes, Strict::yes); }) ==
        R"(bad.safetensors: tensor "a": has the unknown field "other")");
}

TEST_CASE("what looks odd and is good is accepted", "[io][safetensors]") {
  const auto names = [](const std::string& bytes) { return open(bytes, Strict::yes).names(); };
  using Names = std::vector<std::string>;
  CHECK(names(file_of("{}\r \t\n")).empty());
  CHECK(names(file_of("\t\n{\n}\r ")).empty());
  CHECK(names(file_of(R"({"__metadata__":null})")).empty());
  CHECK(names(file_of(one("I32", "[]", "[0,4]"), 4)) == Names{"a"});
  CHECK(names(file_of(one("I32", "[2,0]", "[0, 0]"))) == Names{"a"});
  CHECK(names(file_of(one("U8", "[0,9223372036854775808,2]", "[0,0]"))) ==
        Names{"a"});  // order matters: group 23
  CHECK(names(file_of(one("F4", "[1,2]", "[0,1]"), 1)) == Names{"a"});
  CHECK(names(file_of(one("F6_E2M3", "[4]", "[0,3]"), 3)) == Names{"a"});
  CHECK(names(ranges({{0, 0}, {8, 16}, {0, 8}, {16, 16}, {8, 8}, {0, 0}}, 16)).size() == 6);
  const std::string nothing = R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  CHECK(names(file_of("{\"" + nothing + "}")) == Names{""});
  CHECK(names(file_of(R"({"\u0000\n)" + nothing + R"(,"../x)" + nothing + R"(,"\ud83d\ude00)" + nothing +
                      "}")) == Names{"\0\n"s, "../x", "\xf0\x9f\x98\x80"});
  CHECK(names(file_of("{\"" + std::string(1'000'000, 'n') + nothing + "}"))[0].size() == 1'000'000);
  CHECK(names(file_of("{\"a\\\\" + nothing + ",\n\"a\\\"\\\\" + nothing + "\t}")) == Names{"a\"\\", "a\\"});

  std::string header = "{";
  std::size_t at = 0;
  for (const detail::Dtype& dtype : detail::dtypes) {  // an odd number of each, or a byte's worth
    const std::size_t bytes = dtype.bits % 8 == 0 ? 3 * dtype.bits / 8 : dtype.bits;
    header += (at ? "," : "") + entry(std::string(dtype.name), std::string(dtype.name),
                                      dtype.bits % 8 == 0 ? "[3]" : "[8]",
                                      "[" + std::to_string(at) + "," + std::to_string(at + bytes) + "]");
    at += bytes;
  }
  CHECK(names(file_of(header + "}", at)).size() == detail::dtypes.size());
  for (const detail::Dtype& dtype : detail::dtypes) {
    const SafetensorsFile file = open(file_of(header + "}", at));
    CHECK(file.bytes(dtype.name).size() == (dtype.bits % 8 == 0 ? 3 * dtype.bits / 8 : dtype.bits));
  }
}

TEST_CASE("memory follows from the bytes that are there, not from what they claim", "[io][safetensors]") {
  std::vector<std::string> files;
  for (Bad& bad : bad_files()) files.push_back(std::move(bad.bytes));
  const std::string million(1'000'000, '\n'), letters(1'000'000, 'n');
  for (const std::string& header :
       {million + "x", "{" + million + "x", "{\"" + letters, "{\"" + letters + "\":x",
        "{\"a\":{\"dtype\":\"" + letters + "\x01", "[" + letters, std::string(1'000'000, '1')})
    files.push_back(file_of(header));
  std::string list = "[1", keys = "{", entries = "{";
  for (int i = 0; i < 300'000; ++i) list += ",1";
  for (int i = 0; i < 100'000; ++i) {
    keys += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":\"\"";
    entries += (i > 0 ? "," : "") + entry(std::to_string(i), "U8", "[]", "[0,1]");
  }
  files.push_back(file_of(R"({"a":{"other":)" + list + "]}}"));
  files.push_back(file_of(one("U8", list + "]", "[0,1]")));
  files.push_back(file_of(R"({"__metadata__":)" + keys + "}}", 1));
  files.push_back(file_of(entries + "}", 1));
  for (const std::string& bytes : files) {
    CAPTURE(bytes.size(), bytes.substr(0, 100));
    const FileContents contents("bad.safetensors", as_bytes(bytes));
    std::string message;
    const HeapUse use = heap_use_of([&] { message = error_of([&] { SafetensorsFile{contents}; }); });
    CHECK(message != "no error");
    // The parser's buffers grow by doubling; strings and nodes of many small entries take more than their
    // text.
    CHECK(use.largest <= 2 * bytes.size() + 4096);
    CHECK(use.peak <= 16 * bytes.size() + 16384);
  }
}

TEST_CASE("a million tensors take n log n", "[io][safetensors]") {
  std::string header = "{", good = "{";
  for (int i = 0; i < 1'000'000; ++i) {
    const std::string name = std::to_string(i * 7919LL % 1'000'003);
    header += (i > 0 ? "," : "") + entry(name, "F32", "[2,2]", "[0,16]");
    good += (i > 0 ? "," : "") + entry(name, "U8", "[0]", "[0,0]");
  }
  const auto start = std::chrono::steady_clock::now();
  CHECK_THAT(error_of([&] { open(file_of(header + "}", 16)); }),
             ContainsSubstring("begins at 0, expected 16"));
  CHECK(open(file_of(good + "}")).names().size() == 1'000'000);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::minutes(2));  // n^2 would take hours
}

TEST_CASE("elements are converted, from whatever address", "[io][safetensors]") {
  const auto check = [](const std::string& dtype, const std::string& data,
                        const std::vector<double>& expected) {
    CAPTURE(dtype);
    const std::string shape = "[" + std::to_string(expected.size()) + "]",
                      range = "[1," + std::to_string(1 + data.size()) + "]";
    for (int shift = 0; shift < 8; ++shift) {  // blanks move the data
      const std::string header = "{" + entry("odd", "U8", "[1]", "[0,1]") + "," +
                                 entry("a", dtype, shape, range) + "}" +
                                 std::string(static_cast<std::size_t>(shift), ' ');
      const SafetensorsFile file = open(file_of(header) + "x" + data);
      const auto matches = [&]<class Scalar>(Scalar) {
        const Vector<Scalar> values = file.read<Scalar>("a");
        REQUIRE(values.size() == static_cast<Index>(expected.size()));
        for (Index i = 0; i < values.size(); ++i)
          CHECK(static_cast<double>(values(i)) == static_cast<double>(static_cast<Scalar>(static_cast<float>(
                                                      expected[static_cast<std::size_t>(i)]))));
      };
      matches(double{});
      matches(float{});
      matches(static_cast<long double>(0));
      matches(Eigen::half{});
      matches(Eigen::bfloat16{});
      if (dtype[0] == 'F' || dtype == "BF16") {
        CHECK_THAT(error_of([&] { file.read<int>("a"); }),
                   ContainsSubstring(R"(tensor "a": element 0, )" + dtype + ", does not fit"));
      } else {
        matches(std::int16_t{});
        matches(std::int64_t{});
      }
    }
  };
  check("F64", "\0\0\0\0\0\0\xf8\x3f\0\0\0\0\0\0\0\xc0"s, {1.5, -2});
  check("F32", "\0\0\xc0\x3f\0\0\0\xc0"s, {1.5, -2});
  check("F16", "\x00\x3e\x00\xc0"s, {1.5, -2});
  check("BF16", "\xc0\x3f\x00\xc0"s, {1.5, -2});
  check("I64", "\2\1\0\0\0\0\0\0\xfe\xff\xff\xff\xff\xff\xff\xff"s, {258, -2});
  check("U64", "\2\1\0\0\0\0\0\0"s, {258});
  check("I32", "\2\1\0\0\xfe\xff\xff\xff"s, {258, -2});
  check("U32", "\2\1\0\0"s, {258});
  check("I16", "\2\1\xfe\xff"s, {258, -2});
  check("U16", "\2\1\0\x40"s, {258, 16384});
  check("I8", "\2\xfe"s, {2, -2});
  check("U8", "\2\xfe"s, {2, 254});
  check("BOOL", "\0\1\2"s, {0, 1, 1});
}

TEST_CASE("an element that does not fit its integer is an error", "[io][safetensors]") {
  const SafetensorsFile file =
      open(file_of("{" + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "I16", "[1]", "[2,4]") + "}") +
           "\1\x80\xff\xff");
  CHECK(file.read<std::uint8_t>("a") == (Vector<std::uint8_t>(2) << 1, 128).finished());
  CHECK(error_of([&] { file.read<std::int8_t>("a"); }) ==
        R"(bad.safetensors: tensor "a": element 1, U8, does not fit the integer type it is read as)");
  CHECK_THAT(error_of([&] { file.read<std::uint64_t>("b"); }),
             ContainsSubstring("element 0, I16, does not fit"));
  CHECK(error_of([&] { file.read<bool>("a"); }) != "no error");
}

TEST_CASE("numbers keep their bits when they keep their type", "[io][safetensors]") {
  const auto check = []<class Scalar>(Scalar, const std::string& dtype, const std::string& data) {
    const std::string count = std::to_string(data.size() / sizeof(Scalar));
    const std::string header = one(dtype, "[" + count + "]", "[0," + std::to_string(data.size()) + "]");
    SafetensorsWriter writer;
    writer.add("a", open(file_of(header) + data).read<Scalar>("a"));
    CHECK(as_text(writer.bytes()).ends_with(data));
  };  // of each a signalling NaN, -infinity and a denormal number
  check(double{}, "F64", "\1\0\0\0\0\0\xf0\x7f\0\0\0\0\0\0\xf0\xff\1\0\0\0\0\0\0\0"s);
  check(float{}, "F32", "\1\0\xa0\x7f\0\0\x80\xff\1\0\0\0"s);
  check(Eigen::half{}, "F16", "\1\x7c\0\xfc\1\0"s);
  check(Eigen::bfloat16{}, "BF16", "\x81\x7f\x80\xff\1\0"s);
}

TEST_CASE("a matrix is row-major in the file", "[io][safetensors]") {
  const SafetensorsFile file =
      open(file_of("{" + entry("a", "U8", "[2,3]", "[0,6]") + "," + entry("s", "U8", "[]", "[6,7]") + "," +
                   entry("t", "U8", "[1,1,1]", "[7,8]") + "," + entry("v", "U8", "[2]", "[8,10]") + "," +
                   entry("z", "U8", "[0,9223372036854775808]", "[10,10]") + "," +
                   entry("z3", "U8", "[0,3]", "[10,10]") + "}") +
           "\1\2\3\4\5\6\7\10\11\12");
  CHECK(file.read_matrix<float>("a") == (Matrix<float>(2, 3) << 1, 2, 3, 4, 5, 6).finished());
  CHECK(file.read<float>("a") == Vector<float>::LinSpaced(6, 1, 6));
  CHECK(file.read_matrix<float>("s") == Matrix<float>::Constant(1, 1, 7));
  CHECK(file.read_matrix<float>("v") == (Matrix<float>(2, 1) << 9, 10).finished());
  CHECK(file.read_matrix<float>("z3").cols() == 3);
  CHECK_THAT(error_of([&] { file.read_matrix<float>("t"); }),
             ContainsSubstring(R"(tensor "t": has shape [1, 1, 1], expected at most 2)"));
  CHECK_THAT(error_of([&] { file.read_matrix<float>("z"); }), ContainsSubstring("too large for a matrix"));
  Matrix<float, 3, 2> wrong;
  Matrix<float, 2, 2> small;
  file.read_into("a", wrong);
  CHECK(wrong == (Matrix<float>(3, 2) << 1, 2, 3, 4, 5, 6).finished());
  CHECK_THAT(error_of([&] { file.read_into("a", small); }),
             ContainsSubstring(R"(tensor "a": has 6 elements, expected 4)"));
  CHECK(error_of([&] { file.read<float>("../b"); }) ==
        R"(bad.safetensors: tensor "../b": is not in the file)");
}

TEST_CASE("files are written byte for byte as the reference writes them", "[io][safetensors]") {
  // The vectors of the reference's own tests.
  SafetensorsWriter empty, pt;
  empty.checksums = pt.checksums = false;
  CHECK(as_text(empty.bytes()) == length(8) + "{}      ");
  pt.metadata = {{"framework", "pt"}};
  CHECK(as_text(pt.bytes()) == length(40) + R"({"__metadata__":{"framework":"pt"}}     )");
  const Vector<float> six = Vector<float>::LinSpaced(6, 0, 5);
  SafetensorsWriter source;
  source.add("x", six);
  const SafetensorsFile stored = open(as_text(source.bytes()));
  const auto bytes = stored.bytes("x");
  const std::vector<std::byte> data(bytes.begin(), bytes.end());
  const std::string text = "\0\0\0\0\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40\0\0\xa0\x40"s;
  CHECK(as_text(data) == text);
  SafetensorsWriter even, odd;
  even.checksums = odd.checksums = false;
  even.add("attn.0", "F32", {1, 2, 3}, data);
  CHECK(as_text(even.bytes()) ==
        length(64) + R"({"attn.0":{"dtype":"F32","shape":[1,2,3],"data_offsets":[0,24]}})" + text);
  odd.add("attn0", "F32", {1, 1, 2, 3}, data);
  CHECK(as_text(odd.bytes()) ==
        length(72) + R"({"attn0":{"dtype":"F32","shape":[1,1,2,3],"data_offsets":[0,24]}}       )" + text);
}

TEST_CASE("the same tensors give the same bytes, the widest first", "[io][safetensors]") {
  const auto write = [](const std::vector<std::string>& names) {
    SafetensorsWriter writer;
    writer.metadata = {{"z", "\"\\\n\x01\x7f\xc3\xa9"}, {"a", ""}};
    for (const std::string& name : names) {
      if (name[0] == 'h') writer.add(name, Vector<Eigen::half>::Zero(1));
      if (name[0] == 'f') writer.add(name, Vector<float>::Ones(1));
      if (name[0] == 'd') writer.add(name, Vector<double>::Ones(1));
      if (name[0] == 'l') writer.add(name, Vector<std::int64_t>::Ones(1));
      if (name[0] == 'b') writer.add(name, Vector<bool>::Constant(1, true));
    }
    return as_text(writer.bytes());
  };
  const std::string text = write({"f2", "b", "h", "l", "f10", "d", "f1"});
  CHECK(text == write({"d", "f1", "f10", "f2", "h", "l", "b"}));
  std::string order;
  for (const std::string name : {"__metadata__", "l", "d", "f1", "f10", "f2", "h", "b"}) {
    const auto at = text.find("\"" + name + "\":{");
    REQUIRE(at != std::string::npos);
    CHECK(text.substr(0, at).find("\"" + order + "\":{") ==
          (order.empty() ? std::string::npos : text.find("\"" + order + "\":{")));
    order = name;
  }
  const SafetensorsFile file = open(text, Strict::yes);
  CHECK(file.metadata() == Metadata{{"z", "\"\\\n\x01\x7f\xc3\xa9"}, {"a", ""}});
  CHECK((text.size() - 8 - 8 - 4 * 3 - 2 - 1 - 8) % 8 == 0);  // the header and its length
}

TEST_CASE("a writer refuses what no reader would take", "[io][safetensors]") {
  SafetensorsWriter writer;
  const auto add = [&](const std::string& name, const std::string& dtype, TensorShape shape,
                       std::size_t bytes) {
    try {
      writer.add(name, dtype, std::move(shape), std::vector<std::byte>(bytes));
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return "no error"s;
  };
  CHECK(add("a", "U8", {2}, 2) == "no error");
  CHECK(add("a", "U8", {2}, 2) == R"(ddl::SafetensorsWriter: tensor "a": is added twice)");
  CHECK_THAT(add("b", "U9", {2}, 2), ContainsSubstring("unknown dtype \"U9\""));
  CHECK_THAT(add("b", "U8", {2}, 3), ContainsSubstring("has 3 bytes of data, expected 2"));
  CHECK_THAT(add("b", "U8", {two_to_63, 2}, 0), ContainsSubstring("overflows"));
  CHECK_THAT(add("b", "F4", {1}, 1), ContainsSubstring("expected whole bytes"));
  CHECK_THAT(add("b", "U8", TensorShape(65, 1), 1), ContainsSubstring("more than 64 dimensions"));
  CHECK_THAT(add("__metadata__", "U8", {2}, 2), ContainsSubstring("name of the metadata"));
  CHECK_THAT(add("\xff", "U8", {2}, 2), ContainsSubstring("is not UTF-8"));
  CHECK(open(as_text(writer.bytes())).names().size() == 1);
  writer.metadata = {{"a", "\xff"}};
  CHECK_THROWS_AS(writer.bytes(), std::invalid_argument);
  writer.metadata = {{"a", std::string(detail::max_header_bytes, 'x')}};
  CHECK_THROWS_AS(writer.bytes(), std::invalid_argument);
  writer.metadata = {{"ddl.xxh64:a", "0"}};
  CHECK_THROWS_WITH(writer.bytes(), ContainsSubstring("key \"ddl.xxh64:a\" is one of the checksums'"));
}

namespace {

/// A file of three tensors with checksums.
std::string checked_file() {
  SafetensorsWriter writer;
  writer.metadata = {{"format", "pt"}, {"settings", R"({"width":3,"text":"\u00e9"})"}};
  writer.add("a", Matrix<float>::Identity(2, 3).eval());
  writer.add("b", Vector<double>::LinSpaced(3, 1, 2));
  writer.add("none", Vector<float>(0));
  return as_text(writer.bytes());
}

/// Whether two files say the same.
bool same(const SafetensorsFile& a, const SafetensorsFile& b) {
  bool equal =
      a.metadata() == b.metadata() && a.names() == b.names() && a.has_checksums() == b.has_checksums();
  if (!equal) return false;
  for (const std::string& name : a.names()) {
    const auto x = a.bytes(name), y = b.bytes(name);
    equal = equal && a.tensor(name).dtype == b.tensor(name).dtype &&
            a.tensor(name).shape == b.tensor(name).shape &&
            std::equal(x.begin(), x.end(), y.begin(), y.end());
  }
  return equal;
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const auto at = text.find(what);
  REQUIRE(at != std::string::npos);
  return text.replace(at, what.size(), with);
}

/// The file with f(its header) for its header.
template <class F>
std::string with_header(const std::string& bytes, const F& f) {
  const auto size = static_cast<std::size_t>(detail::load_little<std::uint64_t>(as_bytes(bytes).data()));
  const std::string header = f(bytes.substr(8, size));
  return length(header.size()) + header + bytes.substr(8 + size);
}

}  // namespace

TEST_CASE("every flipped bit of a file with checksums is refused or changes nothing",
          "[io][safetensors][checksum]") {
  const std::string good = checked_file();
  const SafetensorsFile original = open(good);
  REQUIRE(original.has_checksums());
  CHECK(original.metadata().size() == 2);
  int refused = 0, harmless = 0;
  for (std::size_t at = 0; at < good.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      CAPTURE(at, bit);
      std::optional<SafetensorsFile> file;
      const std::string message = error_of([&] { file = open(bad); });
      if (file) {
        ++harmless;
        REQUIRE(same(*file, original));
      } else {
        ++refused;
        REQUIRE(message.starts_with("bad.safetensors: "));
      }
    }
  CHECK(refused + harmless == static_cast<int>(8 * good.size()));
  CHECK(harmless < 100);  // white space, and letters of \u00e9
}

TEST_CASE("every cut file is refused", "[io][safetensors][checksum]") {
  const std::string good = checked_file();
  for (std::size_t size = 0; size < good.size(); ++size) {
    CAPTURE(size);
    REQUIRE(error_of([&] { open(good.substr(0, size)); }) != "no error");
  }
}

TEST_CASE("a checksum that is wrong, missing or malformed is refused by the tensor's name",
          "[io][safetensors][checksum]") {
  const std::string good = checked_file();
  const auto message = [&](const std::string& what, const std::string& with) {
    return error_of(
        [&] { open(with_header(good, [&](auto header) { return replaced(header, what, with); })); });
  };
  const auto entry_of = [&](const std::string& key) {
    const auto at = good.find("\"" + key + "\":\"");
    REQUIRE(at != std::string::npos);
    return good.substr(at, key.size() + 21);
  };
  const std::string a = entry_of("ddl.xxh64:a"), header = entry_of("ddl.xxh64");
  CHECK(message("pt", "pt") == "no error");
  CHECK_THAT(message(a, R"("ddl.xxh64:a":"0123456789abcdef")"),
             ContainsSubstring("tensor \"a\": has the checksum ") &&
                 ContainsSubstring(", expected \"0123456789abcdef\", which is in the file"));
  for (const std::string malformed : {"", "x", "0123456789ABCDEF0"})
    CHECK_THAT(message(a, R"("ddl.xxh64:a":")" + malformed + "\""),
               ContainsSubstring("tensor \"a\": has the checksum ") &&
                   ContainsSubstring("expected \"" + malformed + "\""));
  CHECK_THAT(message(a, R"("other":"x")"), ContainsSubstring("tensor \"a\": has no checksum, expected one"));
  CHECK_THAT(message(header, R"("other":"x")"),
             ContainsSubstring("the header has no checksum, expected one"));
  CHECK_THAT(message(header, R"("ddl.xxh64":"0123456789abcdef")"),
             ContainsSubstring("the header has the checksum "));
  CHECK_THAT(message("pt", "pT"), ContainsSubstring("the header has the checksum "));
  CHECK_THAT(message(R"("shape":[2,3])", R"("shape":[3,2])"),
             ContainsSubstring("the header has the checksum "));
  CHECK_THAT(message(a, a + R"(,"ddl.xxh64:c":"0123456789abcdef")"),
             ContainsSubstring("key \"ddl.xxh64:c\" is the checksum of a tensor that is not in the file"));
}

TEST_CASE("a program that writes the file anew in its own way keeps the checksums",
          "[io][safetensors][checksum]") {
  const std::string good = checked_file();
  const auto anew = [](const std::string& text) {  // other order, white space and escapes
    const auto header = nlohmann::json::parse(text);
    nlohmann::ordered_json other;
    for (const std::string key : {"none", "b", "__metadata__", "a"}) other[key] = header.at(key);
    return other.dump(2, ' ', true);
  };
  const std::string bytes = with_header(good, anew);
  REQUIRE(bytes != good);
  CHECK(same(open(bytes), open(good)));
}

TEST_CASE("files without checksums are read, and a copy of a file has its own",
          "[io][safetensors][checksum]") {
  SafetensorsWriter writer;
  writer.checksums = false;
  writer.metadata = {{"format", "pt"}};
  writer.add("a", Vector<float>::Ones(2));
  const SafetensorsFile plain = open(as_text(writer.bytes()));
  CHECK(!plain.has_checksums());
  const SafetensorsFile original = open(checked_file());
  SafetensorsWriter copy;
  copy.metadata = original.metadata();
  copy.add("a", Vector<float>::Ones(2));
  CHECK(open(as_text(copy.bytes())).metadata() == original.metadata());
}

TEST_CASE("the reference models' files are read, and written back alike", "[io][safetensors][golden]") {
  const TemporaryFolder folder;
  int files = 0;
  for (const auto& place : std::filesystem::directory_iterator(data_path("golden"))) {
    if (place.path().extension() != ".safetensors") continue;
    ++files;
    CAPTURE(place.path().filename().string());
    const SafetensorsFile file(place.path().string(), Strict::yes, files % 2 ? Access::map : Access::read);
    CHECK(file.metadata().contains("config"));

    // The loss is the mean over targets that are not ignored: so logits, which are [2, 11, 29], are read
    // right.
    const auto logits = file.read<double>("logits");
    const auto targets = file.read<int>("targets");
    const auto vocabulary = static_cast<Index>(file.tensor("logits").shape.at(2));
    REQUIRE(logits.size() == targets.size() * vocabulary);
    double loss = 0;
    Index count = 0;
    for (Index t = 0; t < targets.size(); ++t) {
      if (targets(t) < 0) continue;
      const auto row = logits.segment(t * vocabulary, vocabulary);
      loss += std::log(row.array().exp().sum()) - row(targets(t));
      ++count;
    }
    CHECK(std::abs(loss / static_cast<double>(count) - file.read<double>("loss")(0)) <= 1e-13);

    SafetensorsWriter writer;
    writer.checksums = false;
    writer.metadata = file.metadata();
    for (const std::string& name : file.names()) {
      const auto data = file.bytes(name);
      writer.add(name, file.tensor(name).dtype, file.tensor(name).shape, {data.begin(), data.end()});
    }
    writer.save(folder / "copy");
    const std::string original = read_file(place.path().string()), copy = read_file(folder / "copy");
    // All bytes are the same, but for the order of the metadata, which the reference does not fix.
    REQUIRE(copy.size() == original.size());
    CHECK(copy.substr(copy.find("},\"")) == original.substr(original.find("},\"")));
    const SafetensorsFile again(folder / "copy", Strict::yes);
    CHECK(again.metadata() == file.metadata());
  }
  CHECK(files == 10);
}

TEST_CASE("saving over a file that is mapped", "[io][safetensors]") {
  const TemporaryFolder folder;
  SafetensorsWriter writer;
  writer.add("a", Vector<float>::Ones(1000));
  writer.save(folder / "file");
  const SafetensorsFile old(folder / "file", Strict::yes, Access::map);
  SafetensorsWriter next;
  next.add("a", (2 * old.read<float>("a")).eval());
  next.save(folder / "file");
  CHECK(old.read<float>("a") == Vector<float>::Ones(1000));
  CHECK(SafetensorsFile(folder / "file").read<float>("a") == Vector<float>::Constant(1000, 2));
}

TEST_CASE("a locale with other digits changes nothing", "[io][safetensors]") {
  struct Grouping : std::numpunct<char> {
    char do_thousands_sep() const override { return ','; }
    char do_decimal_point() const override { return ','; }
    std::string do_grouping() const override { return "\1"; }
  };
  const auto write = [] {
    SafetensorsWriter writer;
    writer.add("a", Matrix<float>::Ones(2621, 401));
    return as_text(writer.bytes());
  };
  const std::string expected = write();
  const std::locale old = std::locale::global(std::locale(std::locale(), new Grouping));
  const std::string given = write();
  const SafetensorsFile file = open(given);
  const std::string message = error_of([&] { open(file_of(one("U8", "[123456]", "[0,1]"), 1)); });
  std::locale::global(old);
  CHECK(given == expected);
  CHECK(file.tensor("a").shape == TensorShape{2621, 401});
  CHECK_THAT(message, ContainsSubstring("[123456]"));
}
