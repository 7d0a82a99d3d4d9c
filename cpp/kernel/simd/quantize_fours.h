// kernel/simd: activations -> int8 tiles on x86, four groups of 32 columns of a row at a time: a group alone waits for its own
// maximum, quotient and sum. The results are those of quantize_rows.h, bit for bit.
#pragma once

#include "kernel/kernel.h"
#include "kernel/simd/compiler.h"
#include "kernel/simd/quantize_rows.h"

namespace lowbit {
namespace {

constexpr int kTogether = 4;

// Four groups, quantised.
struct Quantized4 {
  // Bytes of each group, its quads in the order 0 2 4 6 1 3 5 7 (in which vpackssdw and vpacksswb leave them).
  __m256i quads[kTogether];
  __m128 scale;           // of each group
  __m128i first, second;  // sums of the first and the last 16 columns of each group
};

// The largest value of each of four vectors.
LOWBIT_INLINE __m128 MaxOfEach(const __m256 (&v)[kTogether]) {
  const __m256 pairs0 = _mm256_max_ps(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
  const __m256 pairs1 = _mm256_max_ps(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
  const __m256 all = _mm256_max_ps(_mm256_shuffle_ps(pairs0, pairs1, 0x44), _mm256_shuffle_ps(pairs0, pairs1, 0xee));
  return _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}

LOWBIT_INLINE Quantized4 QuantizeFour(const float* x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 most[kTogether];
  LOWBIT_UNROLL(4)
  for (int j = 0; j < kTogether; ++j) {
    most[j] = _mm256_setzero_ps();
    LOWBIT_UNROLL(4)
    for (int i = 0; i < 4; ++i)  // this order of operands drops NaN
      most[j] = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + j * kSubBlock + i * 8)), most[j]);
  }
  Quantized4 out;
  const __m128 magnitude = MaxOfEach(most), least = _mm_set1_ps(kLeastMagnitude);
  out.scale = _mm_div_ps(magnitude, _mm_set1_ps(127.0f));
  alignas(16) float inverses[kTogether];
  _mm_store_ps(inverses, _mm_and_ps(_mm_div_ps(_mm_set1_ps(127.0f), magnitude), _mm_cmpge_ps(magnitude, least)));
  __m128i sums[kTogether];
  LOWBIT_UNROLL(4)
  for (int j = 0; j < kTogether; ++j) {
    const __m256 inverse = _mm256_set1_ps(inverses[j]);
    __m256i q[4];
    LOWBIT_UNROLL(4)
    for (int i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + j * kSubBlock + i * 8), inverse));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    out.quads[j] = _mm256_max_epi8(bytes, _mm256_set1_epi8(-127));
    const __m256i quad_sums = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), out.quads[j]), _mm256_set1_epi16(1));
    sums[j] = _mm_add_epi32(_mm256_castsi256_si128(quad_sums), _mm256_extracti128_si256(quad_sums, 1));
  }
  const __m128 low = _mm_castsi128_ps(_mm_hadd_epi32(sums[0], sums[1])), high = _mm_castsi128_ps(_mm_hadd_epi32(sums[2], sums[3]));
  out.first = _mm_castps_si128(_mm_shuffle_ps(low, high, 0x88));
  out.second = _mm_castps_si128(_mm_shuffle_ps(low, high, 0xdd));
  return out;
}

// Writes the numbers of the first `count` groups.
LOWBIT_INLINE void Scatter(float* to, size_t stride, __m128 v, int count) {
  alignas(16) float lanes[kTogether];
  _mm_store_ps(lanes, v);
  LOWBIT_UNROLL(4)
  for (int j = 0; j < count; ++j) to[static_cast<size_t>(j) * stride] = lanes[j];
}
LOWBIT_INLINE void Scatter(int32_t* to, size_t stride, __m128i v, int count) {
  alignas(16) int32_t lanes[kTogether];
  _mm_store_si128(reinterpret_cast<__m128i*>(lanes), v);
  LOWBIT_UNROLL(4)
  for (int j = 0; j < count; ++j) to[static_cast<size_t>(j) * stride] = lanes[j];
}

// Where the next group of a row goes.
struct GroupPlace {
  int8_t* q;
  size_t meta, half;
};

// Writes the first `count` groups of a row to a tile of `rows` rows.
LOWBIT_INLINE void WriteGroups(const Quantized4& values, int count, const QuantizedRows& out, int zero_code, int rows, GroupPlace* at) {
  const __m128i zero = _mm_set1_epi32(-zero_code);
  const size_t stride = static_cast<size_t>(rows), groups = static_cast<size_t>(count);
  int8_t* q = at->q;
  LOWBIT_UNROLL(4)
  for (int j = 0; j < count; ++j) {
    if (rows == 1) {
      const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_permutevar8x32_epi32(values.quads[j], order));
      q += kSubBlock;
    } else {
      alignas(32) int32_t quads[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(quads), values.quads[j]);
      LOWBIT_UNROLL(8)
      for (int t = 0; t < 8; ++t, q += 4 * stride) std::memcpy(q, &quads[t / 2 + t % 2 * 4], 4);
    }
  }
  const __m128i sum = _mm_add_epi32(values.first, values.second);
  Scatter(out.scale + at->meta, stride, values.scale, count);
  Scatter(out.scale_sum + at->meta, stride, _mm_mul_ps(values.scale, _mm_cvtepi32_ps(sum)), count);
  Scatter(out.bias + at->meta, stride, _mm_mullo_epi32(sum, zero), count);
  if (out.half_scale_sum != nullptr) {
    Scatter(out.half_scale_sum + at->half, 2 * stride, _mm_mul_ps(values.scale, _mm_cvtepi32_ps(values.first)), count);
    Scatter(out.half_scale_sum + at->half + stride, 2 * stride, _mm_mul_ps(values.scale, _mm_cvtepi32_ps(values.second)), count);
    Scatter(out.half_bias + at->half, 2 * stride, _mm_mullo_epi32(values.first, zero), count);
    Scatter(out.half_bias + at->half + stride, 2 * stride, _mm_mullo_epi32(values.second, zero), count);
  }
  *at = {q, at->meta + groups * stride, at->half + 2 * groups * stride};
}

// KernelTable::quantize_rows.
void QuantizeRowsByFours(const float* x, size_t ldx, const QuantizedRows& out, int zero_code, int row0, int row1) {
  constexpr int kColumns = kTogether * kSubBlock;
  if (out.group != kSubBlock) return QuantizeRows(x, ldx, out, zero_code, row0, row1);
  for (int row = row0; row < row1; ++row) {
    const int tile = row / out.tile * out.tile, rows = out.m - tile < out.tile ? out.m - tile : out.tile;
    const size_t lane = static_cast<size_t>(row - tile), tile0 = static_cast<size_t>(tile), groups = static_cast<size_t>(out.groups);
    const float* columns = x + static_cast<size_t>(row) * ldx;
    GroupPlace at = {out.q + tile0 * static_cast<size_t>(out.k_padded) + 4 * lane, tile0 * groups + lane, tile0 * 2 * groups + lane};
    int left = out.k;
    for (; left >= kColumns; left -= kColumns, columns += kColumns)
      WriteGroups(QuantizeFour(columns), kTogether, out, zero_code, rows, &at);
    if (left > 0) {
      alignas(32) float padded[kColumns] = {};
      // by the vectors that are read back: a store of another size would not be forwarded
      for (int i = 0; i < left / 8; ++i) _mm256_store_ps(padded + 8 * i, _mm256_loadu_ps(columns + 8 * i));
      for (int i = left / 8 * 8; i < left; ++i) padded[i] = columns[i];
      WriteGroups(QuantizeFour(padded), (left + kSubBlock - 1) / kSubBlock, out, zero_code, rows, &at);
    }
  }
}

}  // namespace
}  // namespace lowbit
