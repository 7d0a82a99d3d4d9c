// solve/small: the diagonal blocks of the blocked factorisations, without blocking or threads.
#pragma once

#include <cstddef>

namespace lowbit {

// Columns of one block step in solve/. 128 steps per GEMM call hide the loads of C; the unblocked part stays below 3 %.
constexpr int kSolveBlock = 128;

// In place, n <= kSolveBlock, row stride ld: lower triangle read -> L, strict upper triangle zero. Returns the first
// column whose pivot is not positive and finite, or -1.
int CholeskySmall(float* a, size_t ld, int n);

// out[n][n] (dense, row-major) = l^-1 for lower triangular l with row stride ld, n <= kSolveBlock; upper triangle zero.
void InvertLowerSmall(const float* l, size_t ld, int n, float* out);

}  // namespace lowbit
