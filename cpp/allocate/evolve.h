// allocate/evolve: a choice made better by trial, because losses of weights do not simply add up (EvoPress, Sieberling et al. 2024).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "allocate/item.h"
#include "base/status.h"

namespace lowbit {

struct EvolveOptions {
  int generations = 20;  // 0 to 10,000
  int offspring = 8;     // of a generation, 1 to 1,024
  int survivors = 2;     // of them, which the second, longer trial sees; 1 to offspring
  uint64_t seed = 0;
};

// What a choice costs the model: with quick, on a part of the data. Lower is better; no number is worse than any.
using Fitness = std::function<Result<double>(std::span<const int> candidates, bool quick)>;

struct Evolved {
  Choice choice;      // loss: its fitness on all data
  double before = 0;  // that of the choice it began with
  int improvements = 0;
};

// (1 + lambda) search: each generation makes `offspring` other choices within `budget` by a few steps along the lower hulls of the items,
// some up and as many down as that takes; the best `survivors` of the quick trial are tried on all data, and the best one takes the
// parent's place if it is better. The same seed gives the same result. `start` is within the budget. Errors are those of `fitness`, and
// INVALID_ARGUMENT for options out of range.
Result<Evolved> Evolve(std::span<const Item> items, int64_t budget, const Choice& start, const EvolveOptions& options,
                       const Fitness& fitness);

}  // namespace lowbit
