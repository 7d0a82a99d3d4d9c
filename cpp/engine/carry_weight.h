// engine/carry_weight: the codes of a quantised weight as tensors of another format, bit for bit; rounds nothing.
#pragma once

#include <string>
#include <vector>

#include "engine/model.h"
#include "quantize/container_tensors.h"

namespace lowbit {

enum class CarryFormat : uint8_t { kGptq, kLowbit };

struct CarriedWeight {
  // What the format has no exact place for, as the object of "has"; empty: it holds the weight. Then, of its first part:
  std::string misfit;
  int bits = 0, group_size = 0;  // k for the whole row
  bool symmetric = true;         // all zero points are 2^(bits-1)
  bool ordered = false;          // columns are not in the order of their groups
  int least_zero = 0, largest_zero = 0;
  std::vector<StoredTensor> tensors;
};

// zero_offset: 1 for version 1 of a GPTQ checkpoint, 0 for version 2. `tensors` false: only what is said of it. A weight of a lazy model is
// in memory for the call only. INVALID_ARGUMENT for zero points that the version does not hold, CANCELLED, what loading a weight returns.
Result<CarriedWeight> CarryWeight(Model& model, int weight, CarryFormat format, int zero_offset, bool tensors, const Progress& progress);

}  // namespace lowbit
