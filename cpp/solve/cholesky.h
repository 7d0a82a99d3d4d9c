// solve/cholesky: blocked Cholesky and triangular inverse on our own f32 GEMM (docs/architecture.md, decision 8).
#pragma once

#include <vector>

#include "base/pool.h"
#include "base/status.h"
#include "kernel/kernel.h"

namespace lowbit {

// In place: a [n][n] symmetric positive definite (lower triangle read) -> lower L with a = L L^T; the strict upper
// triangle becomes zero. Returns the first failing column (non-positive or non-finite pivot), n when scratch memory was
// refused, or -1 on success.
int Cholesky(float* a, int n, const KernelTable& kernels, Pool& pool);

// In place: lower triangular L -> L^-1.
void InvertLower(float* l, int n, const KernelTable& kernels, Pool& pool);

// h [n][n] symmetric positive definite -> upper U with h^-1 = U^T U, in place (lower triangle becomes zero). With J the
// exchange matrix, J h J = M M^T gives U = (J M J)^-1: one factorisation and one triangular inverse instead of the
// published three. Returns as Cholesky does; on failure the content of h is unspecified.
int InverseFactor(float* h, int n, const KernelTable& kernels, Pool& pool);

}  // namespace lowbit
