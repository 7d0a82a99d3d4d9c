// quantize/awq: activation-aware weight scaling.
#pragma once

#include "quantize/quantize_parts.h"

namespace lowbit {

// Lin et al. 2023, section 3.2, for one linear by itself: of AwqOptions::grid ratios the one whose codes have the least
// tr((W-Q) H (W-Q)^T), which is what the published search measures on outputs; ratio 0 is plain rounding, so the result is never worse.
// Then the published search for smaller ranges ("auto-clip") by group, weighed with H of its columns. The input scale of the result is what
// an implementation that runs whole blocks folds into the layer before. Arguments as QuantizeParts, checked; hessian usable.
Result<LinearParts> QuantizeAwq(std::span<const float> w, int n, int k, const LayerStatistics& stats, const PartsOptions& options,
                                const KernelTable& kernels, Pool& pool);

}  // namespace lowbit
