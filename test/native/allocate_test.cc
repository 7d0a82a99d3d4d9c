// test/native: sharing out a budget, against published numbers, brute force and the conditions of an optimum.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "allocate/choose.h"
#include "allocate/closed_form.h"
#include "allocate/evolve.h"
#include "check.h"

using namespace lowbit;

namespace {

// Items whose losses fall by about four per bit, of different sizes and sensitivities, as weights of a model are.
std::vector<Item> RandomItems(int count, int candidates, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<Item> items;
  for (int i = 0; i < count; ++i) {
    const double size = 1000 + std::floor(9000 * uniform(random)), sensitivity = std::exp(4 * uniform(random));
    Item item;
    for (int c = 0; c < candidates; ++c)
      item.push_back({static_cast<int64_t>(size * (2 + c)), sensitivity * std::pow(4, -c) * (0.7 + 0.6 * uniform(random))});
    std::shuffle(item.begin(), item.end(), random);
    items.push_back(std::move(item));
  }
  return items;
}

int64_t SmallestBytes(const std::vector<Item>& items) {
  int64_t sum = 0;
  for (const Item& item : items)
    sum += std::min_element(item.begin(), item.end(), [](auto& a, auto& b) { return a.bytes < b.bytes; })->bytes;
  return sum;
}

double BruteForce(const std::vector<Item>& items, size_t i, int64_t left) {
  if (left < 0) return INFINITY;
  if (i == items.size()) return 0;
  double best = INFINITY;
  for (const Alternative& c : items[i]) best = std::min(best, c.loss + BruteForce(items, i + 1, left - c.bytes));
  return best;
}

void ExpectConsistent(const std::vector<Item>& items, const Choice& choice, int64_t budget) {
  int64_t bytes = 0;
  double loss = 0;
  EXPECT(choice.candidate.size() == items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const Alternative& c = items[i][static_cast<size_t>(choice.candidate[i])];
    bytes += c.bytes;
    loss += c.loss;
  }
  EXPECT(bytes == choice.bytes && bytes <= budget);
  EXPECT_NEAR(choice.loss, loss, 1e-9 * (1 + loss));
}

}  // namespace

LOWBIT_TEST(AllocateClosedFormIsThePublishedExample) {
  // Four equal weights, mean 3: widths 4.5 3.5 2.5 1.5, each loss 0.0078125 (BAQ, worked example of the closed form).
  const std::vector<double> losses = {4, 1, 0.25, 0.0625}, parameters(4, 1.0);
  const auto bits = ClosedFormBits(losses, parameters, 3, {0, 16});
  EXPECT(bits.ok());
  const std::vector<double> expected = {4.5, 3.5, 2.5, 1.5};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(bits.value()[i], expected[i], 1e-9);
    EXPECT_NEAR(losses[i] * std::exp2(-2 * bits.value()[i]), 0.0078125, 1e-9);
  }
}

LOWBIT_TEST(AllocateClosedFormSharesOutWhatLimitsLeave) {
  // Weights of different sizes with limits: the mean is met, and all that are not at a limit lose the same per parameter.
  const std::vector<double> losses = {1e6, 3, 40, 0.5, 0, 7e-9}, parameters = {100, 10, 500, 30, 20, 60};
  const BitsRange range{2, 8};
  const auto bits = ClosedFormBits(losses, parameters, 4, range);
  EXPECT(bits.ok());
  double mean = 0, level = -1;
  for (size_t i = 0; i < losses.size(); ++i) {
    const double b = bits.value()[i];
    EXPECT(b >= 2 && b <= 8);
    mean += parameters[i] * b;
    if (b <= 2 + 1e-9 || b >= 8 - 1e-9) continue;
    const double each = losses[i] / parameters[i] * std::exp2(-2 * b);
    if (level < 0) level = each;
    EXPECT_NEAR(each / level, 1, 1e-9);
  }
  EXPECT_NEAR(mean, 4 * 720, 1e-6);
  EXPECT(level > 0);
  EXPECT_NEAR(bits.value()[4], 2, 1e-9);  // costs nothing
  // Nothing to tell weights apart by: all alike.
  EXPECT_NEAR(ClosedFormBits(std::vector<double>{0, 0}, std::vector<double>{1, 3}, 3, range).value()[1], 3, 1e-12);
}

LOWBIT_TEST(AllocateClosedFormRefusesWhatHasNoAnswer) {
  const std::vector<double> one = {1}, two = {1, 1};
  EXPECT_ERROR(ClosedFormBits(one, two, 3, {}).status(), Code::kInvalidArgument, "as many");
  EXPECT_ERROR(ClosedFormBits(one, one, 9, {}).status(), Code::kInvalidArgument, "9 bits");
  EXPECT_ERROR(ClosedFormBits(std::vector<double>{NAN}, one, 3, {}).status(), Code::kInvalidArgument, "loss of nan");
  EXPECT_ERROR(ClosedFormBits(one, std::vector<double>{0}, 3, {}).status(), Code::kInvalidArgument, "0 parameters");
}

LOWBIT_TEST(AllocateHullHasFallingGains) {
  const Item item = {{40, 1}, {10, 8}, {20, 7.5}, {30, 2}, {35, 2}, {50, 1}};
  EXPECT((LowerHull(item) == std::vector<int>{1, 3, 0}));
}

LOWBIT_TEST(AllocateChooseIsOptimalAndWithinTheBudget) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const std::vector<Item> items = RandomItems(7, 4, seed);
    const int64_t least = SmallestBytes(items);
    double last = INFINITY;
    for (const double more : {0.0, 0.1, 0.4, 1.0, 3.0}) {
      const int64_t budget = least + static_cast<int64_t>(more * static_cast<double>(least));
      const auto greedy = ChooseGreedy(items, budget);
      const auto exact = Choose(items, budget);
      EXPECT(greedy.ok() && exact.ok());
      ExpectConsistent(items, greedy.value(), budget);
      ExpectConsistent(items, exact.value(), budget);
      // Sizes of at most 700,000 in units of 1/100,000 of the budget: seven roundings up cost at most 49 bytes, less than the smallest
      // difference of two sizes, so that the programme finds the optimum for a budget 49 bytes smaller or better.
      EXPECT(exact.value().loss <= BruteForce(items, 0, budget - 49) + 1e-12);
      EXPECT(exact.value().loss >= BruteForce(items, 0, budget) - 1e-12);
      EXPECT(exact.value().loss <= greedy.value().loss);
      EXPECT(exact.value().loss <= last);
      last = exact.value().loss;
    }
  }
}

LOWBIT_TEST(AllocateChooseBeatsTheBestUniformCandidate) {
  std::vector<Item> items = RandomItems(100, 5, 1);
  for (Item& item : items) std::sort(item.begin(), item.end(), [](auto& a, auto& b) { return a.bytes < b.bytes; });
  for (size_t uniform = 0; uniform < 5; ++uniform) {
    int64_t bytes = 0;
    double loss = 0;
    for (const Item& item : items) bytes += item[uniform].bytes, loss += item[uniform].loss;
    const auto chosen = Choose(items, bytes);
    EXPECT(chosen.ok() && chosen.value().loss <= loss * (1 + 1e-12));
    if (uniform > 0 && uniform < 4) EXPECT(chosen.value().loss < 0.7 * loss);  // sensitivities differ by up to e^4
  }
}

LOWBIT_TEST(AllocateChooseNamesWhatItCannotDo) {
  const std::vector<Item> items = {{{100, 1}, {200, 0}}, {{50, 1}}};
  EXPECT_ERROR(Choose(items, 149).status(), Code::kInvalidArgument, "take 150 bytes, more than the budget of 149");
  EXPECT(Choose(items, 150).ok() && Choose(items, 150).value().candidate[0] == 0);
  EXPECT(Choose(items, 250).value().candidate[0] == 1);
  EXPECT_ERROR(Choose(std::vector<Item>{{}}, 1).status(), Code::kInvalidArgument, "0 candidates");
  EXPECT_ERROR(Choose(std::vector<Item>{{{1, NAN}}}, 1).status(), Code::kInvalidArgument, "loss of nan");
  EXPECT(Choose({}, 0).ok());
}

LOWBIT_TEST(AllocateEvolutionReachesTheOptimumOfAdditiveLosses) {
  const std::vector<Item> items = RandomItems(12, 4, 7);
  const int64_t budget = SmallestBytes(items) * 2;
  const auto best = Choose(items, budget);
  // From the smallest of all, with losses that add up, it must come within a per cent of the optimum.
  Choice start;
  for (const Item& item : items) {
    start.candidate.push_back(LowerHull(item)[0]);
    start.bytes += item[static_cast<size_t>(start.candidate.back())].bytes;
  }
  int calls = 0;
  double best_seen = INFINITY;
  const Fitness fitness = [&](std::span<const int> c, bool quick) -> Result<double> {
    ++calls;
    int64_t bytes = 0;
    double loss = 0;
    for (size_t i = 0; i < items.size(); ++i)
      bytes += items[i][static_cast<size_t>(c[i])].bytes, loss += items[i][static_cast<size_t>(c[i])].loss;
    EXPECT(bytes <= budget);
    if (!quick) best_seen = std::min(best_seen, loss);
    return loss;
  };
  const EvolveOptions options{300, 16, 2, 3};
  const auto evolved = Evolve(items, budget, start, options, fitness);
  EXPECT(evolved.ok());
  ExpectConsistent(items, evolved.value().choice, budget);
  EXPECT(evolved.value().choice.loss <= 1.01 * best.value().loss);
  EXPECT(evolved.value().choice.loss == best_seen && evolved.value().improvements > 0);
  EXPECT(calls <= 1 + 300 * 18);
  const auto again = Evolve(items, budget, start, options, fitness);
  EXPECT(again.value().choice.candidate == evolved.value().choice.candidate);
  const auto none = Evolve(items, budget, start, {0, 16, 2, 3}, fitness);
  EXPECT(none.value().choice.candidate == start.candidate && none.value().choice.loss == none.value().before);
}

LOWBIT_TEST(AllocateEvolutionTakesNoNumberForTheWorstAndPassesErrorsOn) {
  const std::vector<Item> items = RandomItems(4, 3, 9);
  const int64_t budget = SmallestBytes(items) * 2;
  const Choice start = ChooseGreedy(items, budget).value();
  const Fitness nan = [&](std::span<const int> c, bool) -> Result<double> {
    return std::equal(c.begin(), c.end(), start.candidate.begin()) ? 1.0 : std::numeric_limits<double>::quiet_NaN();
  };
  EXPECT(Evolve(items, budget, start, {5, 4, 2, 1}, nan).value().choice.candidate == start.candidate);
  const Fitness broken = [](std::span<const int>, bool) -> Result<double> { return Error(Code::kCancelled, "stopped"); };
  EXPECT_ERROR(Evolve(items, budget, start, {5, 4, 2, 1}, broken).status(), Code::kCancelled, "stopped");
  EXPECT_ERROR(Evolve(items, budget, start, {5, 4, 5, 1}, nan).status(), Code::kInvalidArgument, "5 survivors");
  EXPECT_ERROR(Evolve(items, start.bytes - 1, start, {5, 4, 2, 1}, nan).status(), Code::kInvalidArgument, "begins with a choice");
}
