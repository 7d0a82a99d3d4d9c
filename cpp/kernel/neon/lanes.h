// kernel/neon: the vocabulary of 4 lanes that the shared templates of kernel/simd are written in.
// LOWBIT_NEON is defined when this file is compiled for ARMv8.2-A with dot products; otherwise the room compiles to nothing but a
// null table. Used by neon_i8mm/ too, whose units are the same with the 8-bit matrix instructions.
#pragma once

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#define LOWBIT_NEON 1

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

constexpr int kLanes = 4;
using Float = float32x4_t;
using Int = int32x4_t;

// How many lanes of memory an access may touch: all, or the first `count` (1..3; loads fill the rest with zero).
struct All {};
struct First {
  int count;
};

LOWBIT_INLINE Float Zero() { return vdupq_n_f32(0); }
LOWBIT_INLINE Float Set(float value) { return vdupq_n_f32(value); }
LOWBIT_INLINE Float Load(const float* p, All = {}) { return vld1q_f32(p); }
LOWBIT_INLINE Float Load(const float* p, First part) {
  if (part.count == 1) return vld1q_lane_f32(p, vdupq_n_f32(0), 0);
  const float32x2_t none = vdup_n_f32(0);
  return vcombine_f32(vld1_f32(p), part.count == 2 ? none : vld1_lane_f32(p + 2, none, 0));
}
LOWBIT_INLINE void Store(float* p, Float v, All = {}) { vst1q_f32(p, v); }
LOWBIT_INLINE void Store(float* p, Float v, First part) {
  if (part.count == 1) return vst1q_lane_f32(p, v, 0);
  vst1_f32(p, vget_low_f32(v));
  if (part.count == 3) vst1q_lane_f32(p + 2, v, 2);
}
LOWBIT_INLINE Float LoadHalf(const void* p, All = {}) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t*>(p))));
}
LOWBIT_INLINE Float LoadInt8(const void* p) {
  uint32_t word;
  std::memcpy(&word, p, sizeof(word));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(word)))));
}
LOWBIT_INLINE Float LoadHalf(const void* p, First part) {
  const uint16_t* from = static_cast<const uint16_t*>(p);
  const uint16_t values[4] = {from[0], part.count > 1 ? from[1] : uint16_t(0), part.count > 2 ? from[2] : uint16_t(0), 0};
  return LoadHalf(values);
}
LOWBIT_INLINE void StoreHalf(void* p, Float v, All = {}) { vst1_u16(static_cast<uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(v))); }
LOWBIT_INLINE void StoreHalf(void* p, Float v, First part) {
  uint16_t* to = static_cast<uint16_t*>(p);
  const uint16x4_t values = vreinterpret_u16_f16(vcvt_f16_f32(v));
  vst1_lane_u16(to, values, 0);
  if (part.count > 1) vst1_lane_u16(to + 1, values, 1);
  if (part.count > 2) vst1_lane_u16(to + 2, values, 2);
}

LOWBIT_INLINE Float Add(Float a, Float b) { return vaddq_f32(a, b); }
LOWBIT_INLINE Float Sub(Float a, Float b) { return vsubq_f32(a, b); }
LOWBIT_INLINE Float Mul(Float a, Float b) { return vmulq_f32(a, b); }
LOWBIT_INLINE Float Div(Float a, Float b) { return vdivq_f32(a, b); }
LOWBIT_INLINE Float Fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
LOWBIT_INLINE Float Fms(Float a, Float b, Float c) { return vfmaq_f32(vnegq_f32(c), a, b); }
LOWBIT_INLINE Float Fnma(Float a, Float b, Float c) { return vfmsq_f32(c, a, b); }  // c - a*b
// The templates count on "b where either is NaN", which fmax and fmin do not promise.
LOWBIT_INLINE Float Max(Float a, Float b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
LOWBIT_INLINE Float Min(Float a, Float b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
LOWBIT_INLINE Float Abs(Float a) { return vabsq_f32(a); }
LOWBIT_INLINE Float CopySign(Float magnitude, Float sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude); }
LOWBIT_INLINE float SquareRoot(float a) { return vget_lane_f32(vsqrt_f32(vdup_n_f32(a)), 0); }
LOWBIT_INLINE Float RoundEven(Float a) { return vrndnq_f32(a); }
// In two steps, so that results below the normal range and 2^128 (before the product overflows) come out right.
LOWBIT_INLINE Float ScaleByPowerOfTwo(Float a, Float whole) {
  const Int exponent = vcvtnq_s32_f32(whole), half = vshrq_n_s32(exponent, 1), bias = vdupq_n_s32(127);
  const Int first = vshlq_n_s32(vaddq_s32(half, bias), 23);
  const Int second = vshlq_n_s32(vaddq_s32(vsubq_s32(exponent, half), bias), 23);
  return vmulq_f32(vmulq_f32(a, vreinterpretq_f32_s32(first)), vreinterpretq_f32_s32(second));
}
LOWBIT_INLINE Float SelectLess(Float a, Float b, Float yes, Float no) { return vbslq_f32(vcltq_f32(a, b), yes, no); }
LOWBIT_INLINE float SumLanes(Float a) { return vaddvq_f32(a); }
LOWBIT_INLINE float MaxLanes(Float a) { return vmaxvq_f32(a); }

LOWBIT_INLINE Int ZeroInt() { return vdupq_n_s32(0); }
LOWBIT_INLINE Int SetInt(int32_t value) { return vdupq_n_s32(value); }
LOWBIT_INLINE Int SetByte(int value) { return vreinterpretq_s32_u8(vdupq_n_u8(static_cast<uint8_t>(value))); }
LOWBIT_INLINE Int LoadLine(const uint8_t* p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
LOWBIT_INLINE Int BitsOf(Float a) { return vreinterpretq_s32_f32(a); }
LOWBIT_INLINE Float FloatOfBits(Int a) { return vreinterpretq_f32_s32(a); }
LOWBIT_INLINE Int And(Int a, Int b) { return vandq_s32(a, b); }
LOWBIT_INLINE Int BitSelect(Int mask, Int yes, Int no) { return vbslq_s32(vreinterpretq_u32_s32(mask), yes, no); }
// Operators of the vector type: the intrinsics with an immediate want a constant that is one before the loops are unrolled.
LOWBIT_INLINE Int ShiftLeft16(Int a, int count) {
  return vreinterpretq_s32_u16(vreinterpretq_u16_s32(a) << vdupq_n_u16(static_cast<uint16_t>(count)));
}
LOWBIT_INLINE Int ShiftRight16(Int a, int count) {
  return vreinterpretq_s32_u16(vreinterpretq_u16_s32(a) >> vdupq_n_u16(static_cast<uint16_t>(count)));
}
LOWBIT_INLINE Int ShiftLeft32(Int a, int count) {
  return vreinterpretq_s32_u32(vreinterpretq_u32_s32(a) << vdupq_n_u32(static_cast<uint32_t>(count)));
}
LOWBIT_INLINE Int ShiftRight32(Int a, int count) {
  return vreinterpretq_s32_u32(vreinterpretq_u32_s32(a) >> vdupq_n_u32(static_cast<uint32_t>(count)));
}
LOWBIT_INLINE Int AddInt(Int a, Int b) { return vaddq_s32(a, b); }
LOWBIT_INLINE Int MaxUnsigned(Int a, Int b) { return vreinterpretq_s32_u32(vmaxq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b))); }
LOWBIT_INLINE uint32_t MaxUnsignedLanes(Int a) { return vmaxvq_u32(vreinterpretq_u32_s32(a)); }
LOWBIT_INLINE int32_t SumLanesInt(Int a) { return vaddvq_s32(a); }
LOWBIT_INLINE Float ToFloat(Int a) { return vcvtq_f32_s32(a); }
LOWBIT_INLINE Int RoundToInt(Float a) { return vcvtnq_s32_f32(a); }
LOWBIT_INLINE void StoreBytes(int8_t* p, Int a) {
  const int16x4_t words = vmovn_s32(a);
  const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
  const int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
  std::memcpy(p, &four, sizeof(four));
}

// x at the columns (u16) of kLanes lanes.
LOWBIT_INLINE Float Gather(const float* x, const void* columns) {
  uint16_t at[4];
  std::memcpy(at, columns, sizeof(at));
  return vld1q_lane_f32(x + at[3], vld1q_lane_f32(x + at[2], vld1q_lane_f32(x + at[1], vdupq_n_f32(x[at[0]]), 1), 2), 3);
}

}  // namespace
}  // namespace lowbit
#endif
