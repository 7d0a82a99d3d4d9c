// allocate/item: what a budget is shared out among. Pure arithmetic over sizes and losses: this room knows no weights, formats or
// models.
#pragma once

#include <cstdint>
#include <vector>

namespace lowbit {

// One way to store a weight.
struct Alternative {
  int64_t bytes = 0;  // at least 0
  double loss = 0;    // what it costs the model, in any unit that adds up over weights; finite, at least 0
};

// A weight and the ways to store it, at least one.
using Item = std::vector<Alternative>;

struct Choice {
  std::vector<int> candidate;  // per item
  int64_t bytes = 0;
  double loss = 0;  // their sum
};

}  // namespace lowbit
