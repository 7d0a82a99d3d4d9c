// quantize/proxy_error: how far a quantised linear is from its weight, as its calibration inputs see it.
#pragma once

#include <span>

#include "quantize/method.h"

namespace lowbit {

// tr((W-Q) H (W-Q)^T) / tr(W H W^T) with the Hessian as given (undamped); |W-Q|^2 / |W|^2 when hessian.data is null.
// 0 when W contributes nothing. One GEMM of 2n rows over half of H. OUT_OF_MEMORY when scratch is refused.
Result<double> RelativeError(const QuantizedLinear& q, std::span<const float> w, const HessianView& hessian, const KernelTable& kernels,
                             Pool& pool);

}  // namespace lowbit
