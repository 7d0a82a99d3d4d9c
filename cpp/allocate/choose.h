// allocate/choose: one candidate per weight, so that the sum of losses is least and the sum of bytes within a budget: the multiple-choice
// knapsack of AdaQuant's integer programme (Hubara et al. 2020).
#pragma once

#include <cstdint>
#include <span>

#include "allocate/item.h"
#include "base/status.h"

namespace lowbit {

// The better of ChooseGreedy and a dynamic programme over sizes (SPDY, Frantar and Alistarh 2022). Sizes are rounded up to a unit of at
// most a hundred thousandth of the budget while the table stays below 64 million entries; with sizes that are multiples of the unit the
// result is the optimum. INVALID_ARGUMENT when even the smallest candidates take more than `budget`, for items without candidates and
// losses that are not finite numbers.
Result<Choice> Choose(std::span<const Item> items, int64_t budget);

// Steps along the lower convex hulls of the items, the steepest first: the optimum of the relaxed problem, less at most one step. Errors as
// Choose.
Result<Choice> ChooseGreedy(std::span<const Item> items, int64_t budget);

// Indices of the candidates of an item on the lower convex hull of (bytes, loss), from the smallest to the best.
std::vector<int> LowerHull(const Item& item);

}  // namespace lowbit
