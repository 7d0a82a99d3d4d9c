// test/native: the search of prompt lookup against its definition, and the budget.
#include "engine/prompt_lookup.h"

#include <algorithm>
#include <random>
#include <vector>

#include "check.h"

using namespace lowbit;

namespace {

std::vector<int32_t> Guesses(const std::vector<int32_t>& text, int ngram, int count) {
  std::vector<int32_t> guesses = {99};
  LookUp(text, ngram, count, &guesses);
  return guesses;
}

// Longest match first, then the latest place; every place tried.
std::vector<int32_t> ByDefinition(const std::vector<int32_t>& text, int ngram, int count) {
  for (size_t match = static_cast<size_t>(ngram); match >= static_cast<size_t>(std::min(2, ngram)); --match) {
    if (text.size() <= match) continue;
    for (size_t begin = text.size() - match; begin-- > 0;) {
      if (!std::equal(text.end() - static_cast<ptrdiff_t>(match), text.end(), text.begin() + static_cast<ptrdiff_t>(begin))) continue;
      std::vector<int32_t> all = text;
      for (int i = 0; i < count; ++i) all.push_back(all[begin + match + static_cast<size_t>(i)]);
      return {all.end() - count, all.end()};
    }
  }
  return {};
}

}  // namespace

LOWBIT_TEST(LookUpFindsTheLatestLongestMatch) {
  EXPECT((Guesses({1, 2, 3, 4, 1, 2, 5, 6, 1, 2}, 2, 2) == std::vector<int32_t>{5, 6}));
  EXPECT((Guesses({8, 1, 2, 3, 4, 1, 2, 5, 6, 8, 1, 2}, 3, 2) == std::vector<int32_t>{3, 4}));  // longer before later
  EXPECT((Guesses({1, 2, 1, 2}, 3, 5) == std::vector<int32_t>{1, 2, 1, 2, 1}));                 // a period goes on
  EXPECT((Guesses({7, 7}, 1, 3) == std::vector<int32_t>{7, 7, 7}));
  EXPECT(Guesses({1, 2, 3, 2}, 2, 4).empty());  // one equal token is not enough
  EXPECT(Guesses({1, 2, 3, 4}, 3, 4).empty());
  EXPECT(Guesses({}, 3, 4).empty());
  EXPECT(Guesses({1}, 1, 4).empty());
  EXPECT(Guesses({1, 1, 1}, 1, 0).empty());
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> text(random() % 30);
    for (int32_t& token : text) token = static_cast<int32_t>(random() % 3);
    const int ngram = 1 + static_cast<int>(random() % 5), count = 1 + static_cast<int>(random() % 7);
    EXPECT(Guesses(text, ngram, count) == ByDefinition(text, ngram, count));
  }
}

LOWBIT_TEST(GuessBudgetFollowsSuccess) {
  GuessBudget budget(7);
  EXPECT(budget.Count() == 7);
  budget.Learn(7, 7);
  EXPECT(budget.Count() == 7);
  budget.Learn(7, 4);
  EXPECT(budget.Count() == 7);
  for (int expected : {3, 1}) {
    budget.Learn(budget.Count(), 0);
    EXPECT(budget.Count() == expected);
  }
  // Wrong for good: fewer and fewer tries.
  int tries = 0;
  for (int step = 0; step < 320; ++step) {
    const int count = budget.Count();
    EXPECT(count <= 1);
    if (count > 0) budget.Learn(count, 0);
    tries += count;
  }
  EXPECT(tries > 10 && tries < 30);
  // And back.
  while (budget.Count() == 0) {
  }
  for (int expected : {2, 4, 7}) {
    budget.Learn(expected == 7 ? 4 : expected / 2, expected == 7 ? 4 : expected / 2);
    EXPECT(budget.Count() == expected);
  }
}
