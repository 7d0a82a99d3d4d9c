// engine/encode_weight: a weight of a loaded model as a file of another format stores it.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model.h"

namespace lowbit {

struct EncodedWeight {
  std::vector<uint8_t> bytes;
  double error = 0;  // sum of squared differences from the weight as the model holds it; 0 = every value is the same
  double norm = 0;   // sum of its squares
};

// Rows [begin, end) as F32, F16, BF16, or a block type of part/gguf_encode.h, in the row order of the Hugging Face checkpoint. Codes on a
// grid that the block type holds, such as 4-bit symmetric GPTQ codes as Q4_0, are carried over; everything else is rounded on grids whose
// ranges are searched (quantize/block_grid.h). No row's bytes depend on the others of the call. INVALID_ARGUMENT for other types, rows that
// are no whole number of blocks, and a begin that is no multiple of 16.
Result<EncodedWeight> EncodeWeight(Model& model, int weight, DType dtype, int begin, int end, const Progress& progress);

}  // namespace lowbit
