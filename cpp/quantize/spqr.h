// quantize/spqr: the sparse-quantised representation.
#pragma once

#include "quantize/quantize_parts.h"

namespace lowbit {

// Dettmers et al. 2023 (SpQR), algorithm 1: GPTQ's column loop with groups of 16 columns, whose grids are fitted without the weights that
// spoil them (leave one out), scales and zeros that are 3-bit codes over 16 rows, and weights whose error stays above the threshold stored
// as the f16 difference to what their code gives. It differs from the published code where that contradicts itself or loses precision: an
// outlier has the nearest code, not that of zero, and its difference is added (the published kernels add, the published loader replaces);
// second-level steps are rounded to f16 before codes are chosen; scales that are all alike keep their value. damp_percent is the base's.
// Arguments as QuantizeParts, checked; hessian usable.
Result<LinearParts> QuantizeSpqr(std::span<const float> w, int n, int k, const HessianView& hessian, const PartsOptions& options,
                                 const KernelTable& kernels, Pool& pool);

}  // namespace lowbit
