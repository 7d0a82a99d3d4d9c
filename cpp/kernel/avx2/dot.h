// kernel/avx2: dot products of unsigned codes and int8 activations without VNNI.
//
// vpmaddubsw adds two products in int16 with saturation. |activation| <= 127, so a pair of b-bit codes gives at most
// 2 * (2^b - 1) * 127: up to 4 bits eight such sums fit int16 (30480), up to 6 bits two (32004), at 7 bits one (32258). Codes of
// 8 bits are made signed, and |w| * sign(x, w) stays within 2 * 128 * 127 = 32512; the sum is then that of (code - 128).
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

enum class DotMode { kEight, kPairs, kSingle, kSigned };

constexpr DotMode DotModeFor(int bits) {
  return bits <= 4 ? DotMode::kEight : bits <= 6 ? DotMode::kPairs : bits == 7 ? DotMode::kSingle : DotMode::kSigned;
}
// What kSigned subtracts from each code.
constexpr int kSignedCentre = 128;
constexpr int Centre(DotMode mode) { return mode == DotMode::kSigned ? kSignedCentre : 0; }

// int16 sums of pairs -> int32 sums of quads.
LOWBIT_INLINE Int Widen(Int words) { return _mm256_madd_epi16(words, _mm256_set1_epi16(1)); }

// totals[i][h] = sum over quads 0..kQuads-1 of weight(t, h) . x(t, i), for half panels h and rows i.
template <DotMode kMode, int kQuads, int kRows, class Weight, class Activation>
LOWBIT_INLINE void DotQuads(Int (&totals)[kRows][2], Weight weight, Activation activation) {
  if constexpr (kMode == DotMode::kEight) {
    Int words[kRows][2];
    LOWBIT_UNROLL(8)
    for (int t = 0; t < kQuads; ++t) {
      const Int low = weight(t, 0), high = weight(t, 1);
      LOWBIT_UNROLL(4)
      for (int i = 0; i < kRows; ++i) {
        const Int x = activation(t, i), first = _mm256_maddubs_epi16(low, x), second = _mm256_maddubs_epi16(high, x);
        words[i][0] = t == 0 ? first : _mm256_add_epi16(words[i][0], first);
        words[i][1] = t == 0 ? second : _mm256_add_epi16(words[i][1], second);
        LOWBIT_PIN(words[i][0]);
        LOWBIT_PIN(words[i][1]);
      }
    }
    LOWBIT_UNROLL(4)
    for (int i = 0; i < kRows; ++i) {
      totals[i][0] = Widen(words[i][0]);
      totals[i][1] = Widen(words[i][1]);
    }
  } else {
    constexpr int kStep = kMode == DotMode::kPairs ? 2 : 1;
    LOWBIT_UNROLL(8)
    for (int t = 0; t < kQuads; t += kStep) {
      Int weights[2][kStep], magnitudes[2];
      LOWBIT_UNROLL(2)
      for (int h = 0; h < 2; ++h) {
        LOWBIT_UNROLL(2)
        for (int s = 0; s < kStep; ++s) weights[h][s] = weight(t + s, h);
        if constexpr (kMode == DotMode::kSigned) {
          weights[h][0] = _mm256_xor_si256(weights[h][0], _mm256_set1_epi8(-128));
          magnitudes[h] = _mm256_abs_epi8(weights[h][0]);
        }
      }
      LOWBIT_UNROLL(4)
      for (int i = 0; i < kRows; ++i) {
        LOWBIT_UNROLL(2)
        for (int h = 0; h < 2; ++h) {
          Int words;
          if constexpr (kMode == DotMode::kSigned)
            words = _mm256_maddubs_epi16(magnitudes[h], _mm256_sign_epi8(activation(t, i), weights[h][0]));
          else
            words = _mm256_maddubs_epi16(weights[h][0], activation(t, i));
          if constexpr (kStep == 2) words = _mm256_add_epi16(words, _mm256_maddubs_epi16(weights[h][1], activation(t + 1, i)));
          totals[i][h] = t == 0 ? Widen(words) : AddInt(totals[i][h], Widen(words));
          LOWBIT_PIN(totals[i][h]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lowbit
