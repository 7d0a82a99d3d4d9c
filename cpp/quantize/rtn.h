// quantize/rtn: round to nearest, the baseline and the fallback of every other method. No calibration data.
#pragma once

#include <span>

#include "quantize/method.h"

namespace lowbit {

// A result with its shape and tables allocated, codes and grids not yet filled.
QuantizedLinear EmptyResult(int n, int k, const QuantizeOptions& options);

// Fills codes, scales and zeros: grid of quantize/grid.h per row and group. w [n][k] finite, options valid; importance [k] of the range
// search, or null.
Result<QuantizedLinear> QuantizeRtn(std::span<const float> w, int n, int k, const QuantizeOptions& options, const float* importance,
                                    Pool& pool);

}  // namespace lowbit
