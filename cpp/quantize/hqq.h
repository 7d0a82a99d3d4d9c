// quantize/hqq: half-quadratic quantisation.
#pragma once

#include "quantize/quantize_parts.h"

namespace lowbit {

// Badri and Shaji 2023 ("Half-Quadratic Quantization of Large Machine Learning Models"): the range of a group gives its scale, rounded to
// f16, and a zero that need not be an integer follows from alternating between the best codes, the shrinkage of errors that goes with
// |x|^lp_norm, and the mean that is left. Where the published loop keeps the zero of its last iteration, this one keeps each group's best
// by mean |w - w_hat|, the start (the group's minimum) included. Stored as a minimum, f16(-scale * zero), which is also what errors and
// codes are of. Arguments as QuantizeParts, checked; sym and mse do not count.
Result<LinearParts> QuantizeHqq(std::span<const float> w, int n, int k, const PartsOptions& options, Pool& pool);

}  // namespace lowbit
