// kernel/avx2: the vocabulary of 8 lanes that the shared templates of kernel/simd are written in.
// LOWBIT_AVX2 is defined when this file is compiled for the instruction set; otherwise the room compiles to nothing but a
// null table.
#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define LOWBIT_AVX2 1

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

constexpr int kLanes = 8;
using Float = __m256;
using Int = __m256i;

// How many lanes of memory an access may touch: all, or the first `count` (0..8; loads fill the rest with zero).
struct All {};
struct First {
  int count;
};
LOWBIT_INLINE Int Mask(First part) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(part.count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }

LOWBIT_INLINE Float Zero() { return _mm256_setzero_ps(); }
LOWBIT_INLINE Float Set(float value) { return _mm256_set1_ps(value); }
LOWBIT_INLINE Float Load(const float* p, All = {}) { return _mm256_loadu_ps(p); }
LOWBIT_INLINE Float Load(const float* p, First part) { return _mm256_maskload_ps(p, Mask(part)); }
LOWBIT_INLINE void Store(float* p, Float v, All = {}) { _mm256_storeu_ps(p, v); }
LOWBIT_INLINE void Store(float* p, Float v, First part) { _mm256_maskstore_ps(p, Mask(part), v); }
LOWBIT_INLINE Float LoadHalf(const void* p, All = {}) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
LOWBIT_INLINE Float LoadInt8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
LOWBIT_INLINE Float LoadHalf(const void* p, First part) {
  uint16_t values[8] = {};
  std::memcpy(values, p, static_cast<size_t>(part.count) * sizeof(uint16_t));
  return LoadHalf(values);
}
LOWBIT_INLINE __m128i ToHalf(Float v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
LOWBIT_INLINE void StoreHalf(void* p, Float v, All = {}) { _mm_storeu_si128(static_cast<__m128i*>(p), ToHalf(v)); }
LOWBIT_INLINE void StoreHalf(void* p, Float v, First part) {
  uint16_t values[8];
  StoreHalf(values, v);
  std::memcpy(p, values, static_cast<size_t>(part.count) * sizeof(uint16_t));
}

LOWBIT_INLINE Float Add(Float a, Float b) { return _mm256_add_ps(a, b); }
LOWBIT_INLINE Float Sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
LOWBIT_INLINE Float Mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
LOWBIT_INLINE Float Div(Float a, Float b) { return _mm256_div_ps(a, b); }
LOWBIT_INLINE Float Fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
LOWBIT_INLINE Float Fms(Float a, Float b, Float c) { return _mm256_fmsub_ps(a, b, c); }
LOWBIT_INLINE Float Fnma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a*b
LOWBIT_INLINE Float Max(Float a, Float b) { return _mm256_max_ps(a, b); }                  // b where either is NaN
LOWBIT_INLINE Float Min(Float a, Float b) { return _mm256_min_ps(a, b); }
LOWBIT_INLINE Float Abs(Float a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
LOWBIT_INLINE Float CopySign(Float magnitude, Float sign) { return _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f))); }
LOWBIT_INLINE float SquareRoot(float a) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(a))); }
LOWBIT_INLINE Float RoundEven(Float a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// In two steps, so that results below the normal range and 2^128 (before the product overflows) come out right.
LOWBIT_INLINE Float ScaleByPowerOfTwo(Float a, Float whole) {
  const Int exponent = _mm256_cvtps_epi32(whole), half = _mm256_srai_epi32(exponent, 1), bias = _mm256_set1_epi32(127);
  const Int first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const Int second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(exponent, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
LOWBIT_INLINE Float SelectLess(Float a, Float b, Float yes, Float no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
LOWBIT_INLINE float SumLanes(Float a) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps(sum, sum, 1)));
}
LOWBIT_INLINE float MaxLanes(Float a) {
  __m128 most = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_shuffle_ps(most, most, 1)));
}

LOWBIT_INLINE Int ZeroInt() { return _mm256_setzero_si256(); }
LOWBIT_INLINE Int SetInt(int32_t value) { return _mm256_set1_epi32(value); }
LOWBIT_INLINE Int SetByte(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
LOWBIT_INLINE Int LoadLine(const uint8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }  // aligned
LOWBIT_INLINE void StoreLine(uint8_t* p, Int a) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), a); }        // aligned
LOWBIT_INLINE Int BitsOf(Float a) { return _mm256_castps_si256(a); }
LOWBIT_INLINE Float FloatOfBits(Int a) { return _mm256_castsi256_ps(a); }
LOWBIT_INLINE Int And(Int a, Int b) { return _mm256_and_si256(a, b); }
LOWBIT_INLINE Int BitSelect(Int mask, Int yes, Int no) {
  return _mm256_or_si256(_mm256_and_si256(mask, yes), _mm256_andnot_si256(mask, no));
}
LOWBIT_INLINE Int ShiftLeft16(Int a, int count) { return _mm256_slli_epi16(a, count); }
LOWBIT_INLINE Int ShiftRight16(Int a, int count) { return _mm256_srli_epi16(a, count); }
LOWBIT_INLINE Int ShiftLeft32(Int a, int count) { return _mm256_slli_epi32(a, count); }
LOWBIT_INLINE Int ShiftRight32(Int a, int count) { return _mm256_srli_epi32(a, count); }
LOWBIT_INLINE Int AddInt(Int a, Int b) { return _mm256_add_epi32(a, b); }
LOWBIT_INLINE Int MaxUnsigned(Int a, Int b) { return _mm256_max_epu32(a, b); }
LOWBIT_INLINE uint32_t MaxUnsignedLanes(Int a) {
  __m128i most = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(most, _mm_shuffle_epi32(most, 0xb1))));
}
LOWBIT_INLINE int32_t SumLanesInt(Int a) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}
LOWBIT_INLINE Float ToFloat(Int a) { return _mm256_cvtepi32_ps(a); }
LOWBIT_INLINE Int RoundToInt(Float a) { return _mm256_cvtps_epi32(a); }
LOWBIT_INLINE void StoreBytes(int8_t* p, Int a) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

// x at the columns (u16) of kLanes lanes.
LOWBIT_INLINE Float Gather(const float* x, const void* columns) {
  return _mm256_i32gather_ps(x, _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(columns))), 4);
}

// Four int8 activations in every lane.
LOWBIT_INLINE Int Broadcast4(const void* p) {
  int32_t value;
  std::memcpy(&value, p, sizeof(value));
  return _mm256_set1_epi32(value);
}

}  // namespace
}  // namespace lowbit
#endif
