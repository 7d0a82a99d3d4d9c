// solve/small: see small.h. Loops run along rows so that any compiler vectorises them.
#include "solve/small.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace lowbit {

int CholeskySmall(float* a, size_t ld, int n) {
  // Right-looking on the transpose (r = L^T, upper): every update is a row minus a multiple of a row.
  alignas(64) float r[kSolveBlock * kSolveBlock];
  for (int i = 0; i < n; ++i)
    for (int j = 0; j <= i; ++j) r[j * kSolveBlock + i] = a[i * ld + j];
  for (int j = 0; j < n; ++j) {
    float* pivot_row = r + j * kSolveBlock;
    const float pivot = pivot_row[j];
    if (!(pivot > 0) || !std::isfinite(pivot)) return j;
    const float root = std::sqrt(pivot), inverse = 1 / root;
    pivot_row[j] = root;
    for (int t = j + 1; t < n; ++t) pivot_row[t] *= inverse;
    for (int i = j + 1; i < n; ++i) {
      float* row = r + i * kSolveBlock;
      const float factor = pivot_row[i];
      for (int t = i; t < n; ++t) row[t] -= factor * pivot_row[t];
    }
  }
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) a[i * ld + j] = r[j * kSolveBlock + i];
    for (int j = i + 1; j < n; ++j) a[i * ld + j] = 0;
  }
  return -1;
}

void InvertLowerSmall(const float* l, size_t ld, int n, float* out) {
  // Row i of the inverse = (e_i - sum over s < i of l_is * row s) / l_ii.
  for (int i = 0; i < n; ++i) {
    float* row = out + size_t(i) * n;
    std::memset(row, 0, n * sizeof(float));
    for (int s = 0; s < i; ++s) {
      const float factor = l[i * ld + s];
      const float* known = out + size_t(s) * n;
      for (int j = 0; j <= s; ++j) row[j] -= factor * known[j];
    }
    const float inverse = 1 / l[i * ld + i];
    for (int j = 0; j < i; ++j) row[j] *= inverse;
    row[i] = inverse;
  }
}

}  // namespace lowbit
