// SPDX-License-Identifier: MIT
#include "ddl/io/csv.hpp"

#include <clocale>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"

using namespace ddl;
using namespace ddl::test;
using Catch::Matchers::ContainsSubstring;
using namespace std::string_literals;
using Names = std::vector<std::string>;

namespace {

Dataset<double> parse(const std::string& text, const CsvSettings& settings = {}) {
  return parse_csv<double>(text, "NAME", settings);
}

/// The inputs of a file with columns a and b.
Matrix<double> pairs(std::initializer_list<double> values) {
  return Eigen::Map<const Matrix<double>>(values.begin(), 2, static_cast<Index>(values.size() / 2));
}

}  // namespace

TEST_CASE("a column becomes labels, the others features", "[io][csv]") {
  const auto data = parse("a,kind,b\n2,cat,3\n6.5,dog,7e2\n", {.label = "kind"});
  CHECK(data.inputs == pairs({2, 3, 6.5, 700}));
  CHECK(data.targets.size() == 0);
  CHECK(data.labels == std::vector{0, 1});
  CHECK(data.class_names == Names{"cat", "dog"});
  CHECK(data.view().size() == 2);
  const auto labels = parse("kind\ncat\ncat\n", {.label = "kind"});
  CHECK(labels.inputs.rows() == 0);
  CHECK(labels.size() == 2);
}

TEST_CASE("line ends, blank lines, a byte order mark and blanks change nothing", "[io][csv]") {
  const std::string text =
      GENERATE(as<std::string>(), "a,b\n1,2\n3,4\n", "a,b\n1,2\n3,4", "a,b\r\n1,2\r\n3,4\r\n",
               "\xef\xbb\xbf"
               "a,b\n1,2\n3,4",
               "\n\r\na,b\n\n1,2\n\r\n\n3,4\n\n", " a , b \n 1,2 \n3 ,  4\n", "\"a\",\"b\"\n\"1\",2\n3,\"4\"",
               " \"a\" ,b\r\n1,2\r\n3, \"4\" \r\n", "a,b\n+1,2\n3,+4e0");
  CAPTURE(text);
  const auto data = parse(text);
  CHECK(data.inputs == pairs({1, 2, 3, 4}));
  CHECK(data.labels.empty());
  CHECK(data.class_names.empty());
}

TEST_CASE("the delimiter is the header's first", "[io][csv]") {
  for (const std::string delimiter : {",", ";", "\t"})
    CHECK(parse("a" + delimiter + "b\n1" + delimiter + "2").inputs == pairs({1, 2}));
  CHECK(parse("\"x,y,z\";b\n1;2\n").inputs == pairs({1, 2}));
  CHECK(parse("a;b,c;d\n1;2;3\n", {.label = "b,c"}).class_names == Names{"2"});
  CHECK(parse("\r\n\r\na;b\n1;2\n").inputs == pairs({1, 2}));
  CHECK(parse("a\n1\n2\n").inputs == Eigen::RowVector2d(1, 2));
}

TEST_CASE("quoted fields hold delimiters and quotes", "[io][csv]") {
  const std::string text =
      "kind,\"a \"\"x\"\", b\"\n\"x,y\",1\n\"\"\"\",2\n\"q\"\"\"\"r \",3\np\"q,4\n\"\"\"p\"\"\",5\n";
  CHECK(parse(text, {.label = "kind"}).class_names == Names{"\"", "\"p\"", "p\"q", "x,y", "q\"\"r"});
  const TemporaryFolder folder;
  write_file(folder / "x.csv", text);
  CHECK(read_csv_names(folder / "x.csv") == Names{"kind", "a \"x\", b"});
}

TEST_CASE("names are whatever the header holds", "[io][csv]") {
  const TemporaryFolder folder;
  const std::string header = "petal length, \"sepal, in cm\" ,\"kind \"\"of\"\" iris, by name\"";
  write_file(folder / "x.csv", header + "\r\n1,2,a\n");
  const Names names = read_csv_names(folder / "x.csv");
  CHECK(names == Names{"petal length", "sepal, in cm", "kind \"of\" iris, by name"});
  CHECK(read_csv<double>(folder / "x.csv", {.label = names.back()}).inputs == pairs({1, 2}));
  write_file(folder / "x.csv", "\n");
  CHECK_THROWS_WITH(read_csv_names(folder / "x.csv"),
                    folder / "x.csv: is empty, expected the names of columns");
}

TEST_CASE("a file without a header does not lose its first sample", "[io][csv][errors]") {
  const std::string problem = "NAME: begins with a line of numbers, expected a header: the names of columns";
  CHECK_THROWS_WITH(parse("5.1,3.5,setosa\n4.9,3,setosa\n", {.label = "setosa"}), problem);
  CHECK_THROWS_WITH(parse("1,2\n3,4\n"), problem);
  CHECK_THROWS_WITH(parse("1\n3\n"), problem);
  CHECK_THROWS_WITH(parse("1,-2e3\n3,4\n", {.label = "1"}), problem);
  // What cannot be a sample is a header.
  CHECK(parse("a,1990,2000\n1,2,3\n").inputs == Eigen::Vector3d(1, 2, 3));
  CHECK(parse("1990,a\n2,3\n", {.label = "1990"}).size() == 1);
  CHECK(parse("1990\n2\n", {.label = "1990"}).size() == 1);
}

TEST_CASE("classes are numbered shorter names first, or as they are known", "[io][csv]") {
  const std::string text = "kind,a\n10,0\nb,0\n9,0\nB,0\n-1,0\n10,0\n9,0\n";
  const auto sorted = parse(text, {.label = "kind"});
  CHECK(sorted.class_names == Names{"9", "B", "b", "-1", "10"});
  CHECK(sorted.labels == std::vector{4, 2, 0, 1, 3, 4, 0});
  const auto known = parse(text, {.label = "kind", .class_names = {"b", "z", "9", "10", "B", "-1"}});
  CHECK(known.class_names == Names{"b", "z", "9", "10", "B", "-1"});
  CHECK(known.labels == std::vector{3, 0, 2, 4, 5, 3, 2});
  CHECK(known.class_count() == 6);
  CHECK_THROWS_WITH(parse(text, {.label = "kind", .class_names = {"b", "10"}}),
                    "NAME: line 4, column \"kind\" is \"9\", expected one of class_names");
  CHECK_THROWS_WITH(parse(text, {.label = "kind", .class_names = {"b", "b"}}),
                    ContainsSubstring("class_names is a list with a name twice, expected different names"));
}

TEST_CASE("numbers are read to the last bit, whatever the locale", "[io][csv]") {
  const char* const german = std::setlocale(LC_ALL, "de_DE.UTF-8");  // where there is one
  const auto x =
      parse("a,b\n0.1,1e-308\n-1.7976931348623157e308,123456789.123456789\n5e-324,1e-400\n").inputs;
  CHECK(x == pairs({0.1, 1e-308, -1.7976931348623157e308, 123456789.123456789, 5e-324, 0}));
  CHECK(parse("a,b\n.5,5.\n+1.e+0,-0e9\n1e-99999999999999999999,0000000000000000000001\n").inputs ==
        pairs({0.5, 5, 1, 0, 0, 1}));
  if (german) std::setlocale(LC_ALL, "C");
  CHECK(parse_csv<float>("a\n0.1\n", "x").inputs(0, 0) == 0.1f);
  CHECK(parse_csv<Eigen::half>("a\n65504\n", "x").inputs(0, 0) == Eigen::half(65504.f));
  CHECK_THROWS_AS(parse_csv<float>("a\n1e39\n", "x"), std::runtime_error);
  CHECK_THROWS_AS(parse_csv<Eigen::half>("a\n70000\n", "x"), std::runtime_error);
}

TEST_CASE("what is no finite number is an error with its place", "[io][csv][errors]") {
  for (const std::string text :
       {"",     "x",     "nan",      "inf", "-inf",  "infinity", "1e999", "-1e999", "1e99999999999999999999",
        "0x10", "0x1p3", "1 2",      "1,5", "+-1",   "++1",      "1..",   "--1",    "1e",
        "1e+",  "e1",    ".",        ".e1", "1.5.2", "1e5.0",    "1f",    "1d5",    "1_0",
        "-",    "+",     "1\xc2\xa0"})
    CHECK_THROWS_WITH(
        parse("a;b\n1;2\n3;\"" + text + "\"\n"),
        "NAME: line 3, column \"b\" is " + detail::in_quotes(text) + ", expected a finite number");
  CHECK_THROWS_WITH(parse("a,b\n1,2\n3,\0\n"s), ContainsSubstring(R"(is "\x00")"));
  CHECK_THROWS_WITH(parse("h\xc3\xb6he,b\n\xe2\x82\xac,2\n"),
                    ContainsSubstring("column \"h\xc3\xb6he\" is \"\xe2\x82\xac\", expected"));
}

TEST_CASE("text that is no table is refused", "[io][csv][errors]") {
  const auto check = [](const std::string& text, const std::string& problem,
                        const CsvSettings& settings = {}) {
    INFO(text);
    CHECK_THROWS_WITH(parse(text, settings), "NAME: " + problem);
    CHECK_THROWS_AS(parse(text, settings), std::runtime_error);
  };
  for (const std::string text : {"", "\n", "\r\n\n", "\xef\xbb\xbf", "\xef\xbb\xbf\n"})
    check(text, "is empty, expected the names of columns");
  check("a,b\n", "has no line after the header, expected samples");
  check("a,b", "has no line after the header, expected samples");
  check("a,b\n1,2\n3\n", "line 3 has 1 fields, expected 2");
  check("a,b\n1,2\n3,4,5\n", "line 3 has 3 fields, expected 2");
  check("a,b\n1,2\n3,4,\n", "line 3 has 3 fields, expected 2");
  check("a,b\n1,", "line 2, column \"b\" is \"\", expected a finite number");
  check("a,b\r\n1,2\r\n3,x\r\n", "line 3, column \"b\" is \"x\", expected a finite number");
  check("a,b\n1,2\n", "has 0 columns \"c\", expected 1", {.label = "c"});
  check("a,b,a\n1,2,3\n", "has 2 columns \"a\", expected 1", {.label = "a"});
  check("a,b\n1,\n", "line 2, column \"b\" is \"\", expected a class", {.label = "b"});
  for (const std::string row : {"3,\"4\n\n", "3,\"4\"\"\n", "3,\"4\n5\"\n"})
    check("a,b\n1,2\n" + row, "line 3: a quote is opened and not closed in the same line");
  check("\"", "line 1: a quote is opened and not closed in the same line");
  check("a,b\n1,\"2\"x\n", "line 2, column \"b\" is \"2x\", expected a finite number");
  CHECK(parse(",a,a\n1,2,3\n").inputs == Eigen::Vector3d(1, 2, 3));  // only the label is found by its name
}

TEST_CASE("a file is read as its text is", "[io][csv]") {
  const TemporaryFolder folder;
  write_file(folder / "x.csv", "a,b\n1,2\n");
  CHECK(read_csv<double>(folder / "x.csv").inputs == pairs({1, 2}));
  CHECK_THROWS_WITH(read_csv<double>(folder / "x.csv", {.label = "c"}),
                    folder / "x.csv: has 0 columns \"c\", expected 1");
}

TEST_CASE("memory stays in proportion to the file", "[io][csv]") {
  std::string rows = "a,b\n";
  for (int i = 0; i < 100'000; ++i) rows += "1,2\n";
  CHECK(heap_use_of([&] { parse(rows); }).peak < 16 * rows.size());
  std::string columns = "c0", values = "\n1";
  for (int i = 1; i < 20'000; ++i) {
    columns += ",c" + std::to_string(i);
    values += ",1";
  }
  CHECK(parse(columns + values).inputs.rows() == 20'000);
  CHECK(heap_use_of([&] { parse(columns + values); }).peak < 32 * (columns.size() + values.size()));
}
