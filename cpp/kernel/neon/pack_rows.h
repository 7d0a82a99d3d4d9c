// kernel/neon: rows of activations -> tiles of kRowTile rows for gemm_f32.h, by 4 x 4 transposes.
#pragma once

#include "kernel/kernel.h"
#include "kernel/neon/lanes.h"

namespace lowbit {
namespace {

// Four rows of four columns, to four lines of kRowTile floats.
LOWBIT_INLINE void Transpose4(const float* const (&rows)[4], float* out) {
  const Float a = Load(rows[0]), b = Load(rows[1]), c = Load(rows[2]), d = Load(rows[3]);
  const Float ac_low = vzip1q_f32(a, c), ac_high = vzip2q_f32(a, c), bd_low = vzip1q_f32(b, d), bd_high = vzip2q_f32(b, d);
  Store(out, vzip1q_f32(ac_low, bd_low));
  Store(out + kRowTile, vzip2q_f32(ac_low, bd_low));
  Store(out + 2 * kRowTile, vzip1q_f32(ac_high, bd_high));
  Store(out + 3 * kRowTile, vzip2q_f32(ac_high, bd_high));
}

void PackRows(const float* x, size_t ldx, int rows, int k, float* out) {
  static const float kZeros[4] = {};
  const size_t columns = static_cast<size_t>(k), whole = columns / 4 * 4;
  for (int row = 0; row < rows; row += kRowTile, out += columns * kRowTile) {
    const int present = rows - row < kRowTile ? rows - row : kRowTile;
    for (size_t s = 0; s < whole; s += 4) {
      LOWBIT_UNROLL(2)
      for (int half = 0; half < kRowTile; half += 4) {
        const float* at[4];
        LOWBIT_UNROLL(4)
        for (int i = 0; i < 4; ++i) at[i] = half + i < present ? x + static_cast<size_t>(row + half + i) * ldx + s : kZeros;
        Transpose4(at, out + s * kRowTile + half);
      }
    }
    for (size_t s = whole; s < columns; ++s) {
      for (int i = 0; i < kRowTile; ++i)
        out[s * kRowTile + static_cast<size_t>(i)] = i < present ? x[static_cast<size_t>(row + i) * ldx + s] : 0.0f;
    }
  }
}

}  // namespace
}  // namespace lowbit
