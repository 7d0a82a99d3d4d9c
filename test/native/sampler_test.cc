// test/native: the sampling chain against its definitions.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"

using namespace lowbit;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int Draw(std::vector<float> logits, const SampleOptions& options, int64_t position = 0, std::vector<int32_t> history = {}) {
  const Result<int> token = Sample(logits, history, position, options);
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
  for (auto* logits : {&nan, &none, &infinite}) EXPECT_ERROR(Sample(*logits, {}, 3, {}).status(), Code::kInvalidArgument, "position 3");
}
