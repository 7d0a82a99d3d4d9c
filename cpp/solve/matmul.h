// solve/matmul: products of dense row-major f32 matrices on gemm_f32, rows of the result cut over the pool.
#pragma once

#include "base/pool.h"
#include "base/status.h"
#include "kernel/kernel.h"

namespace lowbit {

// c[m][n] = a b, a[m][k], b[k][n], all dense. c must not overlap the others. OUT_OF_MEMORY when packing space is refused.
// The order of summation depends on k alone.
Status Multiply(const float* a, const float* b, int m, int k, int n, float* c, const KernelTable& kernels, Pool& pool);
// c[m][n] = a^T b, a[k][m], b[k][n].
Status MultiplyTransposed(const float* a, const float* b, int m, int k, int n, float* c, const KernelTable& kernels, Pool& pool);

}  // namespace lowbit
