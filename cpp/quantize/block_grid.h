// quantize/block_grid: grids of GGUF block types (part/gguf_encode.h). They are chosen from the weights alone and before any code, 256
// columns of a K-quant at once, so that GPTQ and rounding can share them; GPTQ then solves codes on the grid that is stored, products of
// super-scales included.
#pragma once

#include <span>

#include "quantize/method.h"

namespace lowbit {

// Fills scales, zeros or minima and the super-scales of q, whose block_type is set (EmptyResult). w [n][k] finite; columns with dead[c]
// count as zero (null: none). Without `search` the whole range of a group is covered: symmetric types put the largest weight on their
// outermost code (8 bit: on +-127), the others span [minimum, maximum]. With it, some fifteen ranges per group compete by sum h (w -
// w_hat)^2 with the best scale (and minimum) for their codes in closed form, h = importance [k], or 1 where null.
void FitBlockGrids(std::span<const float> w, const uint8_t* dead, const float* importance, bool search, Pool& pool, QuantizedLinear* q);

// Codes by rounding on grids that are filled.
void RoundOnGrids(std::span<const float> w, Pool& pool, QuantizedLinear* q);

// The blocks of q as GGUF stores them, in the row order of q.
Result<std::vector<uint8_t>> BlocksOf(const char* name, const QuantizedLinear& q);

}  // namespace lowbit
