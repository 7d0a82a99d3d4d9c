// kernel/neon: the int8 dot instructions of the unit that includes this: SDOT, or USDOT and SMMLA where the compiler may use the
// 8-bit matrix extension (neon_i8mm/).
#pragma once

#include "kernel/neon/codes.h"
#include "kernel/neon/lanes.h"

namespace lowbit {
namespace {

// Activations of kRows rows (1..4) for one quad of columns, a dword per row; unused dwords are zero. Reads 4 * kRows bytes.
template <int kRows>
LOWBIT_INLINE int8x16_t LoadRowQuads(const int8_t* q) {
  if constexpr (kRows == 4) return vld1q_s8(q);
  int32_t last = 0;
  std::memcpy(&last, q + 4 * (kRows - 1), sizeof(last));
  const int8x8_t single = vreinterpret_s8_s32(vset_lane_s32(last, vdup_n_s32(0), 0));
  if constexpr (kRows == 1) return vcombine_s8(single, vdup_n_s8(0));
  return vcombine_s8(vld1_s8(q), kRows == 2 ? vdup_n_s8(0) : single);
}

// ---- decode: one weight register (4 rows x 4 columns) times dword kLane of an activation register ---------------------------

#if defined(__ARM_FEATURE_MATMUL_INT8)
// USDOT takes the codes as they are.
constexpr int DotCentre(int) { return 0; }
template <int kLane>
LOWBIT_INLINE Int DotLane(Int sum, Codes codes, int8x16_t x) {
  return vusdotq_laneq_s32(sum, codes, x, kLane);
}
#else
// SDOT takes signed bytes: codes of up to 7 bits are, codes of 8 bits become (code - 128).
constexpr int DotCentre(int bits) { return bits == 8 ? 128 : 0; }
template <int kLane>
LOWBIT_INLINE Int DotLane(Int sum, Codes codes, int8x16_t x) {
  return vdotq_laneq_s32(sum, vreinterpretq_s8_u8(codes), x, kLane);
}
#endif

// ---- prefill: 16 rows of signed codes times kRows rows, kStepColumns columns -------------------------------------------------
// kWeightVectors registers of weights and kRowVectors of activations give their product of int32 registers. Lanes:
//   SDOT   4 weight rows of one activation row
//   SMMLA  {x0 w0, x0 w1, x1 w0, x1 w1} for a pair of activation rows and a pair of weight rows

#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int kStepColumns = 8;
constexpr int kWeightVectors = 8;
template <int kRows>
constexpr int kRowVectors = (kRows + 1) / 2;

// Two quads of 4 rows as the bytes of two row pairs: at [octet][8 pairs]{2 rows x 8 columns}.
LOWBIT_INLINE void StoreSigned(uint8_t* out, int t, int j, Codes even, Codes odd) {
  const uint32x4_t first = vreinterpretq_u32_u8(even), second = vreinterpretq_u32_u8(odd);
  vst1q_u8(out + 64 * t + 32 * j, vreinterpretq_u8_u32(vzip1q_u32(first, second)));
  vst1q_u8(out + 64 * t + 32 * j + 16, vreinterpretq_u8_u32(vzip2q_u32(first, second)));
}
// Lines of 16 scales (or offsets) in the order of the sums.
constexpr int kLineFloats = 2 * kPanelRows;
LOWBIT_INLINE void StoreLine(float* line, int row0, Float v) {
  Store(line + 2 * row0, vcombine_f32(vget_low_f32(v), vget_low_f32(v)));
  Store(line + 2 * row0 + 4, vcombine_f32(vget_high_f32(v), vget_high_f32(v)));
}

template <int kRows>
LOWBIT_INLINE void DotStep(Int (&dots)[kRowVectors<kRows>][kWeightVectors], const uint8_t* codes, const int8_t* q) {
  const int32x4_t even = vreinterpretq_s32_s8(LoadRowQuads<kRows>(q)), odd = vreinterpretq_s32_s8(LoadRowQuads<kRows>(q + 4 * kRows));
  const int8x16_t x[2] = {vreinterpretq_s8_s32(vzip1q_s32(even, odd)), vreinterpretq_s8_s32(vzip2q_s32(even, odd))};
  LOWBIT_UNROLL(8)
  for (int w = 0; w < kWeightVectors; ++w) {
    const int8x16_t weights = vreinterpretq_s8_u8(vld1q_u8(codes + 16 * w));
    LOWBIT_UNROLL(2)
    for (int i = 0; i < kRowVectors<kRows>; ++i) dots[i][w] = vmmlaq_s32(dots[i][w], x[i], weights);
  }
}

// One number per activation row, in the lanes that its sums have.
template <int kRows>
LOWBIT_INLINE void LoadFactors(const float* p, Float (&factors)[kRowVectors<kRows>]) {
  Float v;
  if constexpr (kRows == 4)
    v = Load(p);
  else
    v = Load(p, First{kRows});
  factors[0] = vzip1q_f32(v, v);
  if constexpr (kRows > 2) factors[1] = vzip2q_f32(v, v);
}

// Outputs 4v..4v+3 of one activation row.
LOWBIT_INLINE Float RowSums(const float (*sums)[kWeightVectors][4], int row, int v) {
  const float* pair = sums[row / 2][2 * v] + row % 2 * 2;
  return vcombine_f32(vld1_f32(pair), vld1_f32(pair + 4));
}
#else
constexpr int kStepColumns = 4;
constexpr int kWeightVectors = 4;
template <int kRows>
constexpr int kRowVectors = kRows;

// Two quads of 4 rows, at [quad][16 rows]{4 columns}.
LOWBIT_INLINE void StoreSigned(uint8_t* out, int t, int j, Codes even, Codes odd) {
  vst1q_u8(out + 64 * t + 16 * j, even);
  vst1q_u8(out + 64 * (t + 1) + 16 * j, odd);
}
constexpr int kLineFloats = kPanelRows;
LOWBIT_INLINE void StoreLine(float* line, int row0, Float v) { Store(line + row0, v); }

template <int kRows>
LOWBIT_INLINE void DotStep(Int (&dots)[kRowVectors<kRows>][kWeightVectors], const uint8_t* codes, const int8_t* q) {
  const int8x16_t x = LoadRowQuads<kRows>(q);
  LOWBIT_UNROLL(4)
  for (int w = 0; w < kWeightVectors; ++w) {
    const int8x16_t weights = vreinterpretq_s8_u8(vld1q_u8(codes + 16 * w));
    dots[0][w] = vdotq_laneq_s32(dots[0][w], weights, x, 0);
    if constexpr (kRows > 1) dots[1][w] = vdotq_laneq_s32(dots[1][w], weights, x, 1);
    if constexpr (kRows > 2) dots[2][w] = vdotq_laneq_s32(dots[2][w], weights, x, 2);
    if constexpr (kRows > 3) dots[3][w] = vdotq_laneq_s32(dots[3][w], weights, x, 3);
  }
}

template <int kRows>
LOWBIT_INLINE void LoadFactors(const float* p, Float (&factors)[kRowVectors<kRows>]) {
  LOWBIT_UNROLL(4)
  for (int i = 0; i < kRows; ++i) factors[i] = Set(p[i]);
}

LOWBIT_INLINE Float RowSums(const float (*sums)[kWeightVectors][4], int row, int v) { return Load(sums[row][v]); }
#endif

}  // namespace
}  // namespace lowbit
