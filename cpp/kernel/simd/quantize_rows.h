// kernel/simd: activations -> int8 tiles (QuantizedRows in kernel/kernel.h).
#pragma once

#include "kernel/kernel.h"
#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

// Largest magnitude of columns [0, count), count <= 32.
LOWBIT_INLINE Float MaxMagnitude32(const float* x, int count) {
  Float most = Zero();
  if (count == kSubBlock) {
    LOWBIT_UNROLL(8)
    for (int i = 0; i < kSubBlock; i += kLanes) most = Max(Abs(Load(x + i)), most);
  } else {
    for (int i = 0; i < count; i += kLanes) most = Max(Abs(count - i >= kLanes ? Load(x + i) : Load(x + i, First{count - i})), most);
  }
  return most;
}

// Quantises columns [0, count) of one sub-block to 32 bytes, zeros behind; sums of its two halves. NaN, which callers exclude, becomes
// -127 as in kernel/ref.
LOWBIT_INLINE void Quantize32(const float* x, int count, Float inverse, int8_t* bytes, int32_t (&half_sums)[2]) {
  Int sums[2] = {ZeroInt(), ZeroInt()};
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kSubBlock; i += kLanes) {
    const Float v = count - i >= kLanes ? Load(x + i) : count - i > 0 ? Load(x + i, First{count - i}) : Zero();
    const Int q = RoundToInt(Min(Max(Mul(v, inverse), Set(-127.0f)), Set(127.0f)));
    sums[i / 16] = AddInt(sums[i / 16], q);
    StoreBytes(bytes + i, q);
  }
  half_sums[0] = SumLanesInt(sums[0]);
  half_sums[1] = SumLanesInt(sums[1]);
}

// Row `row` from sub-block `first` on, which is a multiple of the blocks per scale.
void QuantizeColumns(const float* x, size_t ldx, const QuantizedRows& out, int zero_code, int row, int first) {
  const int blocks = out.k_padded / kSubBlock, run = out.group / kSubBlock;
  const int tile = row / out.tile * out.tile, rows = out.m - tile < out.tile ? out.m - tile : out.tile;
  const size_t stride = static_cast<size_t>(rows), lane = static_cast<size_t>(row - tile), tile0 = static_cast<size_t>(tile),
               done = static_cast<size_t>(first);
  const float* columns = x + static_cast<size_t>(row) * ldx;
  int8_t* q = out.q + tile0 * static_cast<size_t>(out.k_padded) + kSubBlock * done * stride + 4 * lane;
  size_t meta = tile0 * static_cast<size_t>(out.groups) + done / static_cast<size_t>(run) * stride + lane,
         half = tile0 * 2 * static_cast<size_t>(blocks) + 2 * done * stride + lane;
  for (int block = first; block < blocks; block += run, meta += stride) {
    const int end = blocks - block < run ? blocks : block + run;
    const auto count = [&](int b) { return out.k - b * kSubBlock < kSubBlock ? out.k - b * kSubBlock : kSubBlock; };
    Float most = Zero();
    for (int b = block; b < end; ++b) most = Max(MaxMagnitude32(columns + static_cast<size_t>(b) * kSubBlock, count(b)), most);
    const float magnitude = MaxLanes(most), scale = magnitude / 127.0f;
    const Float inverse = Set(magnitude >= kLeastMagnitude ? 127.0f / magnitude : 0.0f);
    int32_t sum = 0;
    for (int b = block; b < end; ++b) {
      alignas(32) int8_t bytes[kSubBlock];
      int32_t sums[2];
      Quantize32(columns + static_cast<size_t>(b) * kSubBlock, count(b), inverse, bytes, sums);
      if (rows == 1) {
        std::memcpy(q, bytes, kSubBlock);
        q += kSubBlock;
      } else {
        LOWBIT_UNROLL(8)
        for (int t = 0; t < 8; ++t, q += 4 * stride) std::memcpy(q, bytes + 4 * t, 4);
      }
      sum += sums[0] + sums[1];
      if (out.half_scale_sum == nullptr) continue;
      for (const int32_t part : sums) {
        out.half_scale_sum[half] = scale * static_cast<float>(part);
        out.half_bias[half] = -zero_code * part;
        half += stride;
      }
    }
    out.scale[meta] = scale;
    out.scale_sum[meta] = scale * static_cast<float>(sum);
    out.bias[meta] = -zero_code * sum;
  }
}

[[maybe_unused]] void QuantizeRows(const float* x, size_t ldx, const QuantizedRows& out, int zero_code, int row0, int row1) {
  for (int row = row0; row < row1; ++row) QuantizeColumns(x, ldx, out, zero_code, row, 0);
}

}  // namespace
}  // namespace lowbit
