// quantize/proxy_error: how far a quantised linear is from its weight, as its calibration inputs see it.
#pragma once

#include <span>
#include <vector>

#include "quantize/method.h"

namespace lowbit {

// Per row r: error[r] = d H d^T with d = W_r - Q_r, weight[r] = W_r H W_r^T; squared norms when hessian.data is null.
struct RowErrors {
  std::vector<double> error, weight;
};
Result<RowErrors> ErrorsOfRows(const QuantizedLinear& q, std::span<const float> w, const HessianView& hessian, const KernelTable& kernels,
                               Pool& pool);

// tr((W-Q) H (W-Q)^T) / tr(W H W^T) with the Hessian as given (undamped); |W-Q|^2 / |W|^2 when hessian.data is null.
// 0 when W contributes nothing. Both: one GEMM of 2n rows over half of H; OUT_OF_MEMORY when scratch is refused.
Result<double> RelativeError(const QuantizedLinear& q, std::span<const float> w, const HessianView& hessian, const KernelTable& kernels,
                             Pool& pool);

}  // namespace lowbit
