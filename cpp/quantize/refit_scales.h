// quantize/refit_scales: the best scales for codes that are already chosen.
#pragma once

#include <span>

#include "quantize/method.h"

namespace lowbit {

// Minimises (w_r - w_hat_r) H (w_r - w_hat_r)^T over all scales of a row r at once, codes and zero points as they are: with C_r [groups][k]
// the codes less their zero points, each group in a row of its own, (C H C^T) s = C H w^T (decoupleQ, Guo et al. 2024, the step for
// continuous variables). Minima stay, too. Not for scales that are multiples of super-scales. Scales are rounded to f16 again, and a row
// keeps its old ones unless the new ones lower its error.
//
// w [n][k], hessian.data finite and undamped; its zero rows (dead columns) count for nothing. One GEMM of k*k*n multiply-adds and a
// Cholesky factorisation of groups x groups per row. Returns the number of rows with new scales; OUT_OF_MEMORY when scratch is refused.
Result<int> RefitScales(QuantizedLinear* q, std::span<const float> w, const HessianView& hessian, const KernelTable& kernels, Pool& pool);

}  // namespace lowbit
