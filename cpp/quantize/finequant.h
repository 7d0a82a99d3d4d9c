// quantize/finequant: plain rounding with a group size that follows from the weight.
#pragma once

#include "quantize/quantize_parts.h"

namespace lowbit {

// The granularity: A(g) is the root mean square of max |w| over the groups of g columns, to which the error of rounding is proportional.
// From `start` (k for the whole row) g is halved, to the largest power of two that is at most half of it, while A(g/2) / A(g) < alpha and
// g/2 >= min_group. Kim et al. 2023 (FineQuant) describe the idea, a group size per matrix so that outliers do not take a whole column's
// range; constants and criterion are ours.
int ChooseGroupSize(std::span<const float> w, int n, int k, int start, const FinequantOptions& options);

// Arguments as QuantizeParts, checked. base.group_size is the start; sym does not count (symmetric), mse does.
Result<LinearParts> QuantizeFinequant(std::span<const float> w, int n, int k, const PartsOptions& options, Pool& pool);

}  // namespace lowbit
