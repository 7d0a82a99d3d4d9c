// test/native: the sampling chain against its definitions.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "check.h"
#include "kernel_tables.h"

using namespace lowbit;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int Draw(std::vector<float> logits, const SampleOptions& options, int64_t position = 0, std::vector<int32_t> history = {}) {
  SampleBuffer buffer;
  const Result<int> token = Sample(*RefKernels(), logits, history, position, options, &buffer);
  return token.ok() ? token.value() : -1;
}

// Frequencies of `draws` positions.
std::vector<double> Frequencies(const std::vector<float>& logits, const SampleOptions& options, int draws) {
  std::vector<double> f(logits.size());
  for (int i = 0; i < draws; ++i) {
    const int t = Draw(logits, options, i);
    if (t >= 0) f[static_cast<size_t>(t)] += 1.0 / draws;
  }
  return f;
}

}  // namespace

LOWBIT_TEST(SamplerGreedyTakesLowestOnTies) {
  EXPECT(Draw({1, 3, 3, 2}, {}) == 1);
  EXPECT(Draw({-kInfinity, -5, -kInfinity}, {}) == 1);
}

LOWBIT_TEST(SamplerFollowsSoftmax) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  for (float temperature : {0.5f, 1.0f, 2.0f}) {
    SampleOptions o;
    o.temperature = temperature;
    o.seed = 7;
    const int draws = 20000;
    const std::vector<double> f = Frequencies(logits, o, draws);
    double total = 0;
    for (float l : logits) total += std::exp(l / temperature);
    // Five standard deviations of a binomial share.
    for (size_t i = 0; i < logits.size(); ++i) {
      const double p = std::exp(logits[i] / temperature) / total;
      EXPECT_NEAR(f[i], p, 5 * std::sqrt(p * (1 - p) / draws));
    }
  }
}

LOWBIT_TEST(SamplerFilters) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  SampleOptions o;
  o.temperature = 1;
  o.top_k = 2;
  std::vector<double> f = Frequencies(logits, o, 2000);
  EXPECT(f[2] == 0 && f[3] == 0 && f[1] > 0.2);
  o = {};
  o.temperature = 1;
  o.top_p = 0.6f;  // 0.5 alone is not enough, so two stay
  f = Frequencies(logits, o, 2000);
  EXPECT(f[2] == 0 && f[3] == 0 && f[1] > 0.2);
  o = {};
  o.temperature = 1;
  o.min_p = 0.25f;  // 0.25 * 0.5 = 0.125: 0.15 stays
  f = Frequencies(logits, o, 4000);
  EXPECT(f[3] == 0 && f[2] > 0.05);
  o = {};
  o.temperature = 1;
  o.top_p = 0.0f;  // at least one token always stays
  EXPECT(Draw(logits, o) == 0);
  o.top_p = 1.0f;
  o.top_k = 100;  // more than there are
  EXPECT(Draw(logits, o) >= 0);
}

LOWBIT_TEST(SamplerPenalty) {
  SampleOptions o;
  o.repeat_penalty = 2;
  EXPECT(Draw({4, 3, -1}, o, 0, {0, 0}) == 1);  // 4 / 2 < 3, counted once
  EXPECT(Draw({-1, -1.5f}, o, 0, {0}) == 1);    // negative logits are multiplied
  EXPECT(Draw({4, 3}, o, 0, {7, -3}) == 0);     // ids outside the row are ignored
}

LOWBIT_TEST(SamplerIsAFunctionOfSeedAndPosition) {
  const std::vector<float> logits(50, 0.0f);
  SampleOptions o;
  o.temperature = 1;
  int same = 0;
  for (int i = 0; i < 100; ++i) {
    o.seed = 1;
    const int a = Draw(logits, o, i);
    EXPECT(a == Draw(logits, o, i));
    o.seed = 2;
    same += a == Draw(logits, o, i);
  }
  EXPECT(same < 20);
}

LOWBIT_TEST(SamplerRefusesNonFinite) {
  std::vector<float> nan = {1, std::nanf(""), 2}, none = {-kInfinity, -kInfinity}, infinite = {1, kInfinity};
  SampleBuffer buffer;
  for (const KernelTable* table : lowbit_test::Tables())
    for (auto* logits : {&nan, &none, &infinite})
      EXPECT_ERROR(Sample(*table, *logits, {}, 3, {}, &buffer).status(), Code::kInvalidArgument, "position 3");
}

namespace {

// The chain of sampler.h by its definition: everything sorted, everything in double. The uniform draw is taken out of the sampler
// by asking it for a token of a flat distribution.
std::vector<std::pair<double, int>> KeptByDefinition(const std::vector<float>& logits, const SampleOptions& o) {
  std::vector<std::pair<double, int>> kept;
  for (size_t i = 0; i < logits.size(); ++i) kept.push_back({logits[i], static_cast<int>(i)});
  std::sort(kept.begin(), kept.end(), [](auto a, auto b) { return a.first > b.first || (a.first == b.first && a.second < b.second); });
  const double best = kept[0].first;
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < kept.size()) kept.resize(static_cast<size_t>(o.top_k));
  if (o.top_p < 1) {
    double total = 0, sum = 0;
    for (auto& c : kept) total += std::exp(c.first - best);
    size_t count = 0;
    while (count < kept.size() && (count == 0 || sum < o.top_p * total)) sum += std::exp(kept[count++].first - best);
    kept.resize(count);
  }
  if (o.min_p > 0) std::erase_if(kept, [&](auto& c) { return c.first < best + std::log(static_cast<double>(o.min_p)); });
  for (auto& c : kept) c.first = std::exp((c.first - best) / o.temperature);
  return kept;
}

}  // namespace

// Over a vocabulary that needs several bands, and over every table: the token must be the one whose share of the sorted mass holds
// the draw. The draw itself is read off a flat distribution of as many tokens as resolve it to 1/4096; draws nearer than that (and
// the rounding of the total in f32, 1e-5) to a border are left out.
LOWBIT_TEST(SamplerMatchesItsDefinition) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> logits(3000);
  for (float& l : logits) l = 12 * normal(random);
  logits[7] = logits[2999];
  const std::vector<float> flat(4096, 0.0f);
  struct Case {
    float temperature;
    int top_k;
    float top_p, min_p;
  };
  for (const KernelTable* table : lowbit_test::Tables())
    for (const Case& c : std::vector<Case>{{1, 0, 1, 0},
                                           {30, 0, 1, 0},
                                           {8, 0, 0.9f, 0},
                                           {20, 40, 1, 0},
                                           {20, 0, 1, 0.001f},
                                           {20, 200, 0.999f, 0.0001f},
                                           {0.1f, 0, 1, 0},
                                           {40, 2900, 1, 0}}) {
      SampleOptions o{.temperature = c.temperature, .top_k = c.top_k, .top_p = c.top_p, .min_p = c.min_p, .seed = 3};
      const auto kept = KeptByDefinition(logits, o);
      double total = 0;
      for (auto& k : kept) total += k.first;
      SampleBuffer buffer;
      int compared = 0;
      bool same = true;
      for (int position = 0; position < 300; ++position) {
        std::vector<float> copy = flat;
        const double draw = Sample(*table, copy, {}, position, {.temperature = 1, .seed = 3}, &buffer).value() / 4096.0;
        double below = 0;
        size_t i = 0;
        while (i + 1 < kept.size() && below + kept[i].first <= draw * total) below += kept[i++].first;
        const double from = below / total, to = (below + kept[i].first) / total;
        if (draw + 1.0 / 4096 + 1e-5 > to || draw - 1e-5 < from) continue;
        copy = logits;
        same &= Sample(*table, copy, {}, position, o, &buffer).value() == kept[i].second;
        ++compared;
      }
      lowbit_test::Report(same && compared > 20, *table,
                          "t " + std::to_string(c.temperature) + " k " + std::to_string(c.top_k) + " of " + std::to_string(compared));
    }
}

LOWBIT_TEST(SamplerArgMaxOverBlocks) {
  std::vector<float> logits(10000, -3.0f);
  for (size_t at : {size_t(0), size_t(127), size_t(128), size_t(2048), size_t(9999)}) {
    std::vector<float> copy = logits;
    copy[at] = 1;
    if (at < 9000) copy[9001] = 1;  // a later equal one
    SampleBuffer buffer;
    for (const KernelTable* table : lowbit_test::Tables()) EXPECT(Sample(*table, copy, {}, 0, {}, &buffer).value() == static_cast<int>(at));
  }
}
