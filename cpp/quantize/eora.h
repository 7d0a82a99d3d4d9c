// quantize/eora: the best low-rank correction of a quantised weight for its calibration inputs.
#pragma once

#include <cstdint>
#include <span>

#include "quantize/linear_parts.h"

namespace lowbit {

// EoRA (Liu et al. 2024): B A of rank r that minimises |(D - B A) S|, S S^T = H, for the error D = w - w_hat that `parts` leave. With the
// singular vectors of D S that is B A = U_r U_r^T D S S^-1 = U_r U_r^T D, so neither S nor its inverse is needed, only U_r: the leading
// eigenvectors of D H D^T. They come from subspace iteration with that product, which multiplies the error's matrix and H as they are: no
// eigendecomposition of H, no division by its small eigenvalues, and a rank-deficient H is no special case. What is left is the sum of
// the squared singular values of D S behind the r-th.
//
// w [n][k] the weight that the parts stand for in front of their input scale, hessian that of the scaled inputs (data null: identity, the
// plain error). Sets parts->low_rank, factors rounded to f16 and of like size; where they would not lower the error, it stays as it was
// and a fallback says so. OUT_OF_MEMORY when scratch is refused.
Status AddLowRank(LinearParts* parts, std::span<const float> w, const HessianView& hessian, int rank, const KernelTable& kernels,
                  Pool& pool);

}  // namespace lowbit
