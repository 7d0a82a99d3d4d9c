// kernel/simd: rows of activations -> tiles for kernel/simd/gemm_f32.h and for the int8 kernels.
#pragma once

#include "kernel/kernel.h"
#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

// 8 x 8 transpose: in-lane interleaves, then an exchange of 128-bit halves.
LOWBIT_INLINE void Transpose8(const float* const (&rows)[8], size_t at, float* out) {
  __m256 pairs[8], quads[8];
  LOWBIT_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    const __m256 low = _mm256_loadu_ps(rows[2 * i] + at), high = _mm256_loadu_ps(rows[2 * i + 1] + at);
    pairs[2 * i] = _mm256_unpacklo_ps(low, high);
    pairs[2 * i + 1] = _mm256_unpackhi_ps(low, high);
  }
  LOWBIT_UNROLL(2)
  for (int i = 0; i < 2; ++i) {
    quads[4 * i] = _mm256_shuffle_ps(pairs[4 * i], pairs[4 * i + 2], 0x44);
    quads[4 * i + 1] = _mm256_shuffle_ps(pairs[4 * i], pairs[4 * i + 2], 0xee);
    quads[4 * i + 2] = _mm256_shuffle_ps(pairs[4 * i + 1], pairs[4 * i + 3], 0x44);
    quads[4 * i + 3] = _mm256_shuffle_ps(pairs[4 * i + 1], pairs[4 * i + 3], 0xee);
  }
  LOWBIT_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * 8, _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * 8, _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31));
  }
}

void PackRows(const float* x, size_t ldx, int rows, int k, float* out) {
  static_assert(kRowTile == 8);
  static const float kZeros[8] = {};
  const size_t columns = static_cast<size_t>(k), whole = columns / 8 * 8;
  for (int row = 0; row < rows; row += kRowTile, out += columns * kRowTile) {
    const int present = rows - row < kRowTile ? rows - row : kRowTile;
    for (size_t s = 0; s < whole; s += 8) {
      const float* at[8];
      LOWBIT_UNROLL(8)
      for (int i = 0; i < 8; ++i) at[i] = i < present ? x + static_cast<size_t>(row + i) * ldx + s : kZeros;
      Transpose8(at, 0, out + s * kRowTile);
    }
    for (size_t s = whole; s < columns; ++s) {
      for (int i = 0; i < kRowTile; ++i)
        out[s * kRowTile + static_cast<size_t>(i)] = i < present ? x[static_cast<size_t>(row + i) * ldx + s] : 0.0f;
    }
  }
}

}  // namespace
}  // namespace lowbit
