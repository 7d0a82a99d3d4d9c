// quantize/coordinate_descent: better codes for scales that are already chosen.
#pragma once

#include <span>

#include "quantize/method.h"

namespace lowbit {

// Lowers (w_r - w_hat_r) H (w_r - w_hat_r)^T of every row by changing one code at a time to the best value that it can have beside the
// others, column after column, `sweeps` times or until nothing changes (QuantEase, Behdin et al. 2023). Scales and zero points stay.
// Columns whose Hessian diagonal is zero keep their codes.
//
// w [n][k], hessian.data finite and undamped. One GEMM of k*k*n multiply-adds, and one more per sweep. OUT_OF_MEMORY when scratch is
// refused. Returns how many codes changed, counted once per change.
Result<int64_t> DescendCodes(QuantizedLinear* q, std::span<const float> w, const HessianView& hessian, int sweeps,
                             const KernelTable& kernels, Pool& pool);

}  // namespace lowbit
