// quantize/gptq: GPTQ with its damping, its orders and its ways out.
#pragma once

#include <span>

#include "quantize/method.h"

namespace lowbit {

// Arguments as Quantize (method.h), already checked. Fills everything of the result, fallbacks included.
Result<QuantizedLinear> QuantizeGptq(std::span<const float> w, int n, int k, const HessianView& hessian, const QuantizeOptions& options,
                                     const KernelTable& kernels, Pool& pool);

// RTN and the report's error; each reason becomes a fallback. For Quantize and for GPTQ's last resort.
Result<QuantizedLinear> QuantizeRtnWithReport(std::span<const float> w, int n, int k, const HessianView& hessian,
                                              const QuantizeOptions& options, std::vector<std::string> fallbacks,
                                              const KernelTable& kernels, Pool& pool);

}  // namespace lowbit
