// allocate/evolve: mutation within the budget, selection in two stages.
#include "allocate/evolve.h"

#include <algorithm>
#include <cmath>

#include "allocate/choose.h"

namespace lowbit {
namespace {

// Most items that one mutation changes; wider jumps are hardly ever better (EvoPress, appendix B).
constexpr int kMostChanges = 10;
constexpr int kMostAttempts = 1000;

// SplitMix64 (Steele et al. 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  size_t Below(size_t count) {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return static_cast<size_t>((z ^ (z >> 31)) % count);
  }

 private:
  uint64_t state_;
};

class Mutation {
 public:
  Mutation(std::span<const Item> items, int64_t budget, uint64_t seed) : items_(items), budget_(budget), random_(seed) {
    for (const Item& item : items) hulls_.push_back(LowerHull(item));
  }

  // Another choice within the budget; false when a thousand attempts found none.
  bool From(const std::vector<int>& parent, std::vector<int>* child) {
    for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
      *child = parent;
      const size_t ups = std::min(1 + random_.Below(3), 1 + random_.Below(3));
      for (size_t i = 0; i < ups; ++i) Step(child, 1);
      int64_t bytes = Bytes(*child);
      for (int downs = 0; bytes > budget_ && downs < kMostChanges; ++downs) bytes += Step(child, -1);
      if (bytes <= budget_ && *child != parent) return true;
    }
    return false;
  }

  int64_t Bytes(const std::vector<int>& choice) const {
    int64_t bytes = 0;
    for (size_t i = 0; i < items_.size(); ++i) bytes += items_[i][static_cast<size_t>(choice[i])].bytes;
    return bytes;
  }

 private:
  // Moves a random item one step up or down its hull and says by how many bytes.
  int64_t Step(std::vector<int>* choice, int direction) {
    for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
      const size_t i = random_.Below(items_.size());
      const std::vector<int>& hull = hulls_[i];
      const Item& item = items_[i];
      const int64_t bytes = item[static_cast<size_t>((*choice)[i])].bytes;
      // The choice may lie beside the hull: the next one that is larger, or the last one that is smaller.
      const auto larger = [&](int c) { return item[static_cast<size_t>(c)].bytes > bytes; };
      const auto smaller = [&](int c) { return item[static_cast<size_t>(c)].bytes < bytes; };
      int to = -1;
      if (direction > 0) {
        const auto found = std::find_if(hull.begin(), hull.end(), larger);
        if (found != hull.end()) to = *found;
      } else {
        const auto found = std::find_if(hull.rbegin(), hull.rend(), smaller);
        if (found != hull.rend()) to = *found;
      }
      if (to < 0) continue;
      (*choice)[i] = to;
      return item[static_cast<size_t>(to)].bytes - bytes;
    }
    return 0;
  }

  std::span<const Item> items_;
  const int64_t budget_;
  Random random_;
  std::vector<std::vector<int>> hulls_;
};

struct Trial {
  std::vector<int> candidates;
  double fitness = INFINITY;
};

double Ranked(double fitness) { return std::isnan(fitness) ? INFINITY : fitness; }

}  // namespace

Result<Evolved> Evolve(std::span<const Item> items, int64_t budget, const Choice& start, const EvolveOptions& options,
                       const Fitness& fitness) {
  if (options.generations < 0 || options.generations > 10000 || options.offspring < 1 || options.offspring > 1024 ||
      options.survivors < 1 || options.survivors > options.offspring)
    return Error(Code::kInvalidArgument, "An evolution cannot have %d generations of %d offspring with %d survivors", options.generations,
                 options.offspring, options.survivors);
  Mutation mutation(items, budget, options.seed);
  if (start.candidate.size() != items.size() || mutation.Bytes(start.candidate) > budget)
    return Error(Code::kInvalidArgument, "An evolution begins with a choice for %zu items within %lld bytes", items.size(),
                 static_cast<long long>(budget));
  Evolved found;
  LOWBIT_ASSIGN_OR_RETURN(const double first, fitness(start.candidate, /*quick=*/false));
  found.before = first;
  Trial parent{start.candidate, Ranked(first)};
  for (int generation = 0; generation < options.generations; ++generation) {
    std::vector<Trial> trials;
    for (int o = 0; o < options.offspring; ++o) {
      Trial trial;
      if (!mutation.From(parent.candidates, &trial.candidates)) break;
      const auto same = [&](const Trial& other) { return other.candidates == trial.candidates; };
      if (std::any_of(trials.begin(), trials.end(), same)) continue;
      LOWBIT_ASSIGN_OR_RETURN(const double quick, fitness(trial.candidates, /*quick=*/true));
      trial.fitness = Ranked(quick);
      trials.push_back(std::move(trial));
    }
    if (trials.empty()) break;  // a single choice fits
    std::stable_sort(trials.begin(), trials.end(), [](const Trial& a, const Trial& b) { return a.fitness < b.fitness; });
    trials.resize(std::min(trials.size(), static_cast<size_t>(options.survivors)));
    for (Trial& trial : trials) {
      LOWBIT_ASSIGN_OR_RETURN(const double whole, fitness(trial.candidates, /*quick=*/false));
      if (Ranked(whole) >= parent.fitness) continue;
      parent = {std::move(trial.candidates), whole};
      ++found.improvements;
    }
  }
  found.choice.bytes = mutation.Bytes(parent.candidates);
  found.choice.loss = parent.fitness;
  found.choice.candidate = std::move(parent.candidates);
  return found;
}

}  // namespace lowbit
