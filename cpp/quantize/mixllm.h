// quantize/mixllm: two widths in one matrix, by output row.
#pragma once

#include <span>

#include "quantize/quantize_parts.h"

namespace lowbit {

// Arguments as QuantizeParts, checked; hessian usable. Two AffineCodes, that of high_bits (symmetric) first; one where all rows agree.
Result<LinearParts> QuantizeMixllm(const char* name, std::span<const float> w, int n, int k, const HessianView& hessian,
                                   const PartsOptions& options, const KernelTable& kernels, Pool& pool);

}  // namespace lowbit
