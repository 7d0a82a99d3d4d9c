// engine/sampler: the chain behind sampler.h. The vocabulary is never sorted as a whole.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace lowbit {
namespace {

// SplitMix64 (Steele, Lea and Flood 2014) of a counter: every (seed, position) has its own draw.
double UniformDraw(uint64_t seed, int64_t position) {
  uint64_t z = seed + 0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(position) + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

struct Candidate {
  float logit;
  int id;
};

// Larger logit first; the lower id first on ties, so that every platform draws the same token.
bool Before(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

void Penalise(std::span<float> logits, std::span<const int32_t> history, float penalty) {
  std::vector<int32_t> seen(history.begin(), history.end());
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  for (int32_t id : seen) {
    if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
    float& l = logits[static_cast<size_t>(id)];
    l = l > 0 ? l / penalty : l * penalty;
  }
}

}  // namespace

Result<int> Sample(std::span<float> logits, std::span<const int32_t> history, int64_t position, const SampleOptions& options) {
  if (options.repeat_penalty != 1) Penalise(logits, history, options.repeat_penalty);
  float best = -std::numeric_limits<float>::infinity();
  int best_id = -1;
  bool nan = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    nan |= std::isnan(logits[i]);
    if (logits[i] > best) {
      best = logits[i];
      best_id = static_cast<int>(i);
    }
  }
  if (nan || best_id < 0 || !std::isfinite(best))
    return Error(Code::kInvalidArgument,
                 "The model produced logits that are not finite at position %lld; its weights are damaged or its values overflow",
                 static_cast<long long>(position));
  if (options.temperature <= 0) return best_id;

  // Everything that min-p alone would drop can go before sorting. Without a filter, tokens below e^-40 of the best one
  // could not be drawn from 2^53 outcomes either.
  const float inverse = 1.0f / options.temperature;
  float floor = best - 40.0f * std::max(1.0f, options.temperature);
  std::vector<Candidate> kept;
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] >= floor) kept.push_back({logits[i], static_cast<int>(i)});
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < kept.size()) {
    std::nth_element(kept.begin(), kept.begin() + options.top_k - 1, kept.end(), Before);
    kept.resize(static_cast<size_t>(options.top_k));
  }
  if (options.top_p < 1) {
    std::sort(kept.begin(), kept.end(), Before);
    double total = 0;
    for (const Candidate& c : kept) total += std::exp(static_cast<double>(c.logit - best));
    double mass = 0;
    size_t count = 0;
    while (count < kept.size()) {
      mass += std::exp(static_cast<double>(kept[count++].logit - best));
      if (mass >= options.top_p * total) break;
    }
    kept.resize(count);
  }
  if (options.min_p > 0) {
    floor = best + std::log(options.min_p);
    kept.erase(std::remove_if(kept.begin(), kept.end(), [&](const Candidate& c) { return c.logit < floor; }), kept.end());
  }
  std::sort(kept.begin(), kept.end(), Before);
  std::vector<double> mass(kept.size());
  double total = 0;
  for (size_t i = 0; i < kept.size(); ++i) mass[i] = total += std::exp(static_cast<double>(kept[i].logit - best) * inverse);
  const double draw = UniformDraw(options.seed, position) * total;
  for (size_t i = 0; i < kept.size(); ++i)
    if (draw < mass[i]) return kept[i].id;
  return kept.back().id;
}

}  // namespace lowbit
