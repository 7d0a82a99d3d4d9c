// engine/sampler: the chain behind sampler.h. A vocabulary has 50 to 250 thousand entries and a step a few milliseconds, so
// it is passed over with vector kernels and never sorted: the filters and the draw only ever look at the most probable tokens, which
// are collected and sorted in bands of falling logits, as many as are needed, from blocks whose maximum reaches the band.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lowbit {
namespace {

// Entries whose maximum is taken at once: few enough that most blocks of a band can be left out, enough to pay for the call.
constexpr size_t kBlock = 128;
// Width in logits of a band, and how many there are before everything left comes at once. Wide enough that one or two do for most
// draws, narrow enough that the step into the mass of improbable tokens does not sort many more than are needed.
constexpr float kBand = 2;
constexpr int kBands = 16;

// Below it exp((logit - best) / temperature) is 0 or 1 for all logits that f32 can tell apart.
constexpr float kLowestTemperature = 1e-6f;

// SplitMix64 (Steele, Lea and Flood 2014) of a counter: every (seed, position) has its own draw.
double UniformDraw(uint64_t seed, int64_t position) {
  uint64_t z = seed + 0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(position) + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

// Larger logit first; the lower id first on ties, so that every platform draws the same token.
bool Before(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

void Penalise(std::span<float> logits, std::span<const int32_t> history, float penalty, std::vector<int32_t>* seen) {
  seen->assign(history.begin(), history.end());
  std::sort(seen->begin(), seen->end());
  seen->erase(std::unique(seen->begin(), seen->end()), seen->end());
  for (int32_t id : *seen) {
    if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
    float& l = logits[static_cast<size_t>(id)];
    l = l > 0 ? l / penalty : l * penalty;
  }
}

// The first of the largest logits; -1 when none is above minus infinity. Fills `maxima`.
int ArgMax(const KernelTable& kernels, std::span<const float> logits, std::vector<float>* maxima) {
  maxima->clear();
  for (size_t begin = 0; begin < logits.size(); begin += kBlock)
    maxima->push_back(kernels.max(logits.data() + begin, std::min(kBlock, logits.size() - begin)));
  const auto best = std::max_element(maxima->begin(), maxima->end());  // the first of equal ones
  if (best == maxima->end() || !(*best > -std::numeric_limits<float>::infinity())) return -1;
  const auto block = logits.begin() + (best - maxima->begin()) * static_cast<ptrdiff_t>(kBlock);
  return static_cast<int>(std::find(block, logits.end(), *best) - logits.begin());
}

// The tokens in falling order of their logits, sorted as far as somebody looked.
class Ranking {
 public:
  Ranking(std::span<const float> logits, float best, const std::vector<float>& maxima, std::vector<Candidate>* storage)
      : logits_(logits), maxima_(maxima), list_(*storage), best_(best), above_(std::numeric_limits<float>::infinity()) {
    list_.clear();
  }

  // Makes entry i available; false when there are no more tokens.
  bool Reach(size_t i) {
    while (i >= list_.size() && !complete_) NextBand();
    return i < list_.size();
  }
  const Candidate& operator[](size_t i) const { return list_[i]; }

 private:
  void NextBand() {
    ++bands_;
    const float floor = bands_ <= kBands ? best_ - kBand * static_cast<float>(bands_) : -std::numeric_limits<float>::infinity();
    complete_ = !(floor > -std::numeric_limits<float>::infinity());
    const size_t sorted = list_.size();
    for (size_t block = 0; block < maxima_.size(); ++block) {
      if (maxima_[block] < floor) continue;
      const size_t begin = block * kBlock, end = std::min(begin + kBlock, logits_.size());
      for (size_t i = begin; i < end; ++i)
        if (logits_[i] >= floor && logits_[i] < above_) list_.push_back({logits_[i], static_cast<int>(i)});
    }
    std::sort(list_.begin() + static_cast<ptrdiff_t>(sorted), list_.end(), Before);
    above_ = floor;
  }

  std::span<const float> logits_;
  const std::vector<float>& maxima_;
  std::vector<Candidate>& list_;
  float best_, above_;  // every token with a logit of at least above_ is in the list
  int bands_ = 0;
  bool complete_ = false;
};

// Sum over the vocabulary of exp((logit - best) * inverse), up to rounding in f32.
double TotalMass(const KernelTable& kernels, std::span<const float> logits, float best, float inverse, std::vector<float>* masses) {
  masses->assign(logits.begin(), logits.end());
  if (inverse != 1) kernels.scale(masses->data(), masses->data(), masses->size(), inverse);
  return static_cast<double>(kernels.exp_sum(masses->data(), masses->size(), best * inverse));
}

}  // namespace

Result<int> Sample(const KernelTable& kernels, std::span<float> logits, std::span<const int32_t> history, int64_t position,
                   const SampleOptions& options, SampleBuffer* buffer) {
  if (options.repeat_penalty != 1) {
    const size_t back = options.repeat_last_n < 0 ? history.size() : std::min(history.size(), static_cast<size_t>(options.repeat_last_n));
    Penalise(logits, history.last(back), options.repeat_penalty, &buffer->seen);
  }
  const bool finite = kernels.all_finite(logits.data(), logits.size());
  const bool nan = !finite && std::any_of(logits.begin(), logits.end(), [](float l) { return std::isnan(l); });
  const int best_id = nan ? -1 : ArgMax(kernels, logits, &buffer->block_maxima);
  if (best_id < 0 || !std::isfinite(logits[static_cast<size_t>(best_id)]))
    return Error(Code::kInvalidArgument,
                 "The model produced logits that are not finite at position %lld; its weights are damaged or its values overflow",
                 static_cast<long long>(position));
  if (!(options.temperature >= kLowestTemperature)) return best_id;

  const float best = logits[static_cast<size_t>(best_id)], inverse = 1.0f / options.temperature;
  const auto mass = [&](const Candidate& c, double factor) { return std::exp(static_cast<double>(c.logit - best) * factor); };
  Ranking ranking(logits, best, buffer->block_maxima, &buffer->candidates);
  // Every filter keeps a prefix of the ranking; `limit` is its length so far.
  size_t limit = options.top_k > 0 ? std::min(logits.size(), static_cast<size_t>(options.top_k)) : logits.size();
  const bool all = limit == logits.size() && !(options.top_p < 1) && !(options.min_p > 0);
  if (limit < logits.size() && !ranking.Reach(limit - 1)) limit = logits.size();
  if (options.top_p < 1) {
    double total = 0;
    if (limit < logits.size())
      for (size_t i = 0; i < limit; ++i) total += mass(ranking[i], 1);
    else
      total = TotalMass(kernels, logits, best, 1, &buffer->masses);
    double sum = 0;
    size_t count = 0;
    while (count < limit && ranking.Reach(count)) {
      sum += mass(ranking[count++], 1);
      if (sum >= options.top_p * total) break;
    }
    limit = count;
  }
  if (options.min_p > 0) {
    const float floor = best + std::log(options.min_p);
    size_t count = 0;
    while (count < limit && ranking.Reach(count) && !(ranking[count].logit < floor)) ++count;
    limit = count;
  }

  double total = 0;
  if (all)
    total = TotalMass(kernels, logits, best, inverse, &buffer->masses);
  else
    for (size_t i = 0; i < limit && ranking.Reach(i); ++i) total += mass(ranking[i], inverse);
  const double draw = UniformDraw(options.seed, position) * total;
  double sum = 0;
  int last = best_id;
  for (size_t i = 0; i < limit && ranking.Reach(i); ++i) {
    const double m = mass(ranking[i], inverse);
    if (m > 0) last = ranking[i].id;  // the total is rounded: a draw just below it may pass every token
    sum += m;
    if (draw < sum) break;
  }
  return last;
}

}  // namespace lowbit
