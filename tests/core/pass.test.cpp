// SPDX-License-Identifier: MIT
#include "ddl/core/pass.hpp"

#include <vector>

#include "support/catch.hpp"

using namespace ddl;

TEST_CASE("a pass tells the sequences of a batch, of one length and of several", "[core][pass]") {
  const std::vector<Index> thirds = {0, 3, 6, 9}, uneven = {0, 5, 6, 9};
  const auto all_of = [](const Pass& pass) {
    std::vector<std::vector<Index>> all;
    for (Index s = 0; s < pass.sequences("test", 9); ++s) {
      const TokenRange tokens = pass.sequence(s);
      CHECK(tokens.sequence == s);
      CHECK(tokens.length() == tokens.end - tokens.begin);
      all.push_back({tokens.begin, tokens.end});
      for (Index n = tokens.begin; n < tokens.end; ++n) {
        CHECK(pass.sequence_of(n).sequence == s);
        CHECK(pass.sequence_of(n).begin == tokens.begin);
        CHECK(pass.sequence_of(n).end == tokens.end);
      }
    }
    return all;
  };
  CHECK(all_of({Serial{}, 3}) == std::vector<std::vector<Index>>{{0, 3}, {3, 6}, {6, 9}});
  CHECK(all_of({Serial{}, thirds}) == all_of({Serial{}, 3}));
  CHECK(all_of({Serial{}, uneven}) == std::vector<std::vector<Index>>{{0, 5}, {5, 6}, {6, 9}});
  CHECK(Pass(Serial{}, 3).longest() == 3);
  CHECK(Pass(Serial{}, uneven).longest() == 5);
  CHECK(Pass(Serial{}, 3).length() == 3);
  CHECK(Pass().sequences("test", 9) == 9);
  CHECK(Pass(Serial{}, std::vector<Index>{0}).sequences("test", 0) == 0);
}

TEST_CASE("sequences that do not fill the batch are refused by name", "[core][pass][errors]") {
  const auto refused = [](const std::vector<Index>& offsets, const std::string& message) {
    CHECK_THROWS_WITH(Pass(Serial{}, offsets).sequences("test", 9), "test: offsets is " + message);
  };
  refused({0, 4, 8}, "from 0 to 8, expected from 0 to the batch's 9 tokens");
  refused({1, 4, 9}, "from 1 to 9, expected from 0 to the batch's 9 tokens");
  refused({0, 4, 4, 9}, "4 after 4, expected increasing numbers");
  refused({0, 6, 4, 9}, "4 after 6, expected increasing numbers");
  refused({0, 10, 9}, "9 after 10, expected increasing numbers");
  refused({0}, "from 0 to 0, expected from 0 to the batch's 9 tokens");
  CHECK_THROWS_WITH(Pass(Serial{}, std::vector<Index>{}),
                    "ddl::Pass: offsets is empty, expected the first columns of the sequences, and N");
  CHECK_THROWS_WITH(Pass(Serial{}, 4).sequences("test", 9),
                    "test: the length of a sequence is 4, expected a divisor of the batch's 9 tokens");
  const std::vector<Index> uneven = {0, 5, 9};
  CHECK_THROWS_WITH(Pass(Serial{}, uneven).length(),
                    "ddl::Pass: the batch is one of sequences of different lengths, expected one length");
}
