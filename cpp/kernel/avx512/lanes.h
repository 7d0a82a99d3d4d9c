// kernel/avx512: the vocabulary of 16 lanes that the shared templates of kernel/simd are written in.
// LOWBIT_AVX512 is defined when this file is compiled for the instruction set; otherwise the room compiles to nothing but a
// null table.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#define LOWBIT_AVX512 1

// GCC 12 takes the deliberately undefined operand of its own intrinsics for a mistake.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

constexpr int kLanes = 16;
using Float = __m512;
using Int = __m512i;

// How many lanes of memory an access may touch: all, or the first `count` (0..16; loads fill the rest with zero).
struct All {};
struct First {
  int count;
};
LOWBIT_INLINE __mmask16 Mask(First part) { return static_cast<__mmask16>((1u << part.count) - 1); }

LOWBIT_INLINE Float Zero() { return _mm512_setzero_ps(); }
LOWBIT_INLINE Float Set(float value) { return _mm512_set1_ps(value); }
LOWBIT_INLINE Float Load(const float* p, All = {}) { return _mm512_loadu_ps(p); }
LOWBIT_INLINE Float Load(const float* p, First part) { return _mm512_maskz_loadu_ps(Mask(part), p); }
LOWBIT_INLINE void Store(float* p, Float v, All = {}) { _mm512_storeu_ps(p, v); }
LOWBIT_INLINE void Store(float* p, Float v, First part) { _mm512_mask_storeu_ps(p, Mask(part), v); }
LOWBIT_INLINE Float LoadHalf(const void* p, All = {}) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
LOWBIT_INLINE Float LoadInt8(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
LOWBIT_INLINE Float LoadHalf(const void* p, First part) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(Mask(part), p)); }
LOWBIT_INLINE __m256i ToHalf(Float v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
LOWBIT_INLINE void StoreHalf(void* p, Float v, All = {}) { _mm256_storeu_si256(static_cast<__m256i*>(p), ToHalf(v)); }
LOWBIT_INLINE void StoreHalf(void* p, Float v, First part) { _mm256_mask_storeu_epi16(p, Mask(part), ToHalf(v)); }

LOWBIT_INLINE Float Add(Float a, Float b) { return _mm512_add_ps(a, b); }
LOWBIT_INLINE Float Sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
LOWBIT_INLINE Float Mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
LOWBIT_INLINE Float Div(Float a, Float b) { return _mm512_div_ps(a, b); }
LOWBIT_INLINE Float Fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
LOWBIT_INLINE Float Fms(Float a, Float b, Float c) { return _mm512_fmsub_ps(a, b, c); }
LOWBIT_INLINE Float Fnma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a*b
LOWBIT_INLINE Float Max(Float a, Float b) { return _mm512_max_ps(a, b); }                  // b where either is NaN
LOWBIT_INLINE Float Min(Float a, Float b) { return _mm512_min_ps(a, b); }
LOWBIT_INLINE Float Abs(Float a) { return _mm512_abs_ps(a); }
LOWBIT_INLINE Float CopySign(Float magnitude, Float sign) { return _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f))); }
LOWBIT_INLINE float SquareRoot(float a) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(a))); }
LOWBIT_INLINE Float RoundEven(Float a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
LOWBIT_INLINE Float ScaleByPowerOfTwo(Float a, Float whole) { return _mm512_scalef_ps(a, whole); }
LOWBIT_INLINE Float SelectLess(Float a, Float b, Float yes, Float no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
LOWBIT_INLINE float SumLanes(Float a) { return _mm512_reduce_add_ps(a); }
LOWBIT_INLINE float MaxLanes(Float a) { return _mm512_reduce_max_ps(a); }

LOWBIT_INLINE Int ZeroInt() { return _mm512_setzero_si512(); }
LOWBIT_INLINE Int SetInt(int32_t value) { return _mm512_set1_epi32(value); }
LOWBIT_INLINE Int SetByte(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
LOWBIT_INLINE Int LoadLine(const uint8_t* p) { return _mm512_load_si512(p); }  // aligned
LOWBIT_INLINE void StoreLine(uint8_t* p, Int a) { _mm512_store_si512(p, a); }  // aligned
LOWBIT_INLINE Int BitsOf(Float a) { return _mm512_castps_si512(a); }
LOWBIT_INLINE Float FloatOfBits(Int a) { return _mm512_castsi512_ps(a); }
LOWBIT_INLINE Int And(Int a, Int b) { return _mm512_and_si512(a, b); }
LOWBIT_INLINE Int BitSelect(Int mask, Int yes, Int no) { return _mm512_ternarylogic_epi32(mask, yes, no, 0xCA); }
LOWBIT_INLINE Int ShiftLeft16(Int a, int count) { return _mm512_slli_epi16(a, static_cast<unsigned>(count)); }
LOWBIT_INLINE Int ShiftRight16(Int a, int count) { return _mm512_srli_epi16(a, static_cast<unsigned>(count)); }
LOWBIT_INLINE Int ShiftLeft32(Int a, int count) { return _mm512_slli_epi32(a, static_cast<unsigned>(count)); }
LOWBIT_INLINE Int ShiftRight32(Int a, int count) { return _mm512_srli_epi32(a, static_cast<unsigned>(count)); }
LOWBIT_INLINE Int AddInt(Int a, Int b) { return _mm512_add_epi32(a, b); }
LOWBIT_INLINE Int MaxUnsigned(Int a, Int b) { return _mm512_max_epu32(a, b); }
LOWBIT_INLINE uint32_t MaxUnsignedLanes(Int a) { return _mm512_reduce_max_epu32(a); }
LOWBIT_INLINE int32_t SumLanesInt(Int a) { return _mm512_reduce_add_epi32(a); }
LOWBIT_INLINE Float ToFloat(Int a) { return _mm512_cvtepi32_ps(a); }
LOWBIT_INLINE Int RoundToInt(Float a) { return _mm512_cvtps_epi32(a); }
LOWBIT_INLINE void StoreBytes(int8_t* p, Int a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a)); }

// x at the columns (u16) of kLanes lanes.
LOWBIT_INLINE Float Gather(const float* x, const void* columns) {
  return _mm512_i32gather_ps(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(columns))), x, 4);
}

// Four int8 activations in every lane.
LOWBIT_INLINE Int Broadcast4(const void* p) {
  int32_t value;
  std::memcpy(&value, p, sizeof(value));
  return _mm512_set1_epi32(value);
}

}  // namespace
}  // namespace lowbit
#endif
