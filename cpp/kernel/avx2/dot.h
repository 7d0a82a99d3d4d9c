// kernel/avx2: dot products of unsigned codes and int8 activations without VNNI.
//
// vpmaddubsw adds two products in int16 with saturation. |activation| <= 127, so a pair of b-bit codes gives at most
// 2 * (2^b - 1) * 127: up to 4 bits eight such sums fit int16 (30480), up to 6 bits two (32004), at 7 bits one (32258). Codes of 8
// bits do not fit:
//   kNibbles: low and high nibbles are summed apart, each as 4-bit codes are. Cheap to unpack, for few rows.
//   kSigned: |w| * (x or, where w = code - 128 is negative, ~x = -x - 1): at most 2 * 127 * 128 = 32512 and at least -32768. What the -1
//     takes away, the sum of |w| over negative w, belongs to the weights and is added as the sum starts. For GEMM.
//
// Instructions per 32 products, and how many of them want one of the two multiplier ports: kEight 2 and 1, kPairs 2.5 and 1.5, kSingle
// 3 and 2, kNibbles and kSigned 4 and 2. So 8-bit codes reach at most half the rate of vpmaddubsw and vpaddw, and 46 % with the scaling
// of every 32 columns. The other ways are not better: vpmaddwd on int16 takes 4 and 2, and activations of twice the size; vpsignb
// instead of the exclusive or 4 and 3.
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

enum class DotMode { kEight, kPairs, kSingle, kNibbles, kSigned };

constexpr DotMode DotModeFor(int bits) {
  return bits <= 4 ? DotMode::kEight : bits <= 6 ? DotMode::kPairs : bits == 7 ? DotMode::kSingle : DotMode::kNibbles;
}
constexpr DotMode GemmModeFor(int bits) { return bits == 8 ? DotMode::kSigned : DotModeFor(bits); }
// Operands that a code is split into: low and high nibble, or magnitude and flip mask.
constexpr int CodeParts(DotMode mode) { return mode == DotMode::kNibbles || mode == DotMode::kSigned ? 2 : 1; }
// What is subtracted from each code; a mode that subtracts has a vector of starts behind its codes.
constexpr int Centre(DotMode mode) { return mode == DotMode::kSigned ? 128 : 0; }
// A start of the sums costs an addition; where scales are applied once per wide group, an offset then is cheaper.
constexpr bool kFreeStart = false;
// Activation rows that DotQuads takes with one vector of codes before sums leave the registers.
constexpr int MostRows(DotMode mode) { return mode == DotMode::kNibbles ? 4 : 8; }

// int16 sums of pairs, times `factor` -> int32 sums of quads.
LOWBIT_INLINE Int Widen(Int words, int factor) { return _mm256_madd_epi16(words, _mm256_set1_epi16(static_cast<int16_t>(factor))); }

// Writes the operands of DotQuads for a quad of codes, `part_bytes` apart; adds to the vector of starts.
template <DotMode kMode>
LOWBIT_INLINE void StoreCodes(uint8_t* out, size_t part_bytes, Int codes, Int& starts) {
  if constexpr (kMode == DotMode::kSigned) {
    const Int w = _mm256_xor_si256(codes, _mm256_set1_epi8(-128)), flip = _mm256_cmpgt_epi8(ZeroInt(), w), magnitude = _mm256_abs_epi8(w);
    StoreLine(out, magnitude);
    StoreLine(out + part_bytes, flip);
    starts = AddInt(starts, Widen(_mm256_maddubs_epi16(And(magnitude, flip), _mm256_set1_epi8(1)), 1));
  } else {
    StoreLine(out, codes);
  }
}

// sink(i, v, total) for rows i and vectors v of 8 outputs: total = start(i) + sum over quads t < kQuads of weight(t, v, part) .
// activation(t, i); start is left out without kStart. kSigned: weight(kQuads, v, 0) is the vector of starts.
// A sink rather than an array of totals: GCC would pass the sums through memory.
template <DotMode kMode, int kQuads, int kRows, int kWidth, bool kStart, class Start, class Weight, class Activation, class Sink>
LOWBIT_INLINE void DotQuads(Start start, Weight weight, Activation activation, Sink sink) {
  const auto finish = [&](int i, int v, Int total) { sink(i, v, kStart ? AddInt(total, start(i)) : total); };
  if constexpr (kMode == DotMode::kEight) {
    Int words[kRows][kWidth];
    LOWBIT_UNROLL(8)
    for (int t = 0; t < kQuads; ++t) {
      Int weights[kWidth];
      LOWBIT_UNROLL(2)
      for (int v = 0; v < kWidth; ++v) weights[v] = weight(t, v, 0);
      LOWBIT_UNROLL(8)
      for (int i = 0; i < kRows; ++i) {
        const Int x = activation(t, i);
        LOWBIT_UNROLL(2)
        for (int v = 0; v < kWidth; ++v) {
          const Int product = _mm256_maddubs_epi16(weights[v], x);
          words[i][v] = t == 0 ? product : _mm256_add_epi16(words[i][v], product);
          LOWBIT_PIN(words[i][v]);
        }
      }
    }
    LOWBIT_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      LOWBIT_UNROLL(2)
      for (int v = 0; v < kWidth; ++v) finish(i, v, Widen(words[i][v], 1));
    }
  } else if constexpr (kMode == DotMode::kNibbles) {
    LOWBIT_UNROLL(2)
    for (int v = 0; v < kWidth; ++v) {
      Int low[kRows], high[kRows];
      LOWBIT_UNROLL(8)
      for (int t = 0; t < kQuads; ++t) {
        const Int low_codes = weight(t, v, 0), high_codes = weight(t, v, 1);
        LOWBIT_UNROLL(4)
        for (int i = 0; i < kRows; ++i) {
          const Int x = activation(t, i), first = _mm256_maddubs_epi16(low_codes, x), second = _mm256_maddubs_epi16(high_codes, x);
          low[i] = t == 0 ? first : _mm256_add_epi16(low[i], first);
          high[i] = t == 0 ? second : _mm256_add_epi16(high[i], second);
          LOWBIT_PIN(low[i]);
          LOWBIT_PIN(high[i]);
        }
      }
      LOWBIT_UNROLL(4)
      for (int i = 0; i < kRows; ++i) finish(i, v, AddInt(Widen(low[i], 1), Widen(high[i], 16)));
    }
  } else {
    constexpr int kStep = kMode == DotMode::kPairs ? 2 : 1, kParts = kMode == DotMode::kSingle ? 1 : 2;
    Int totals[kRows][kWidth];
    LOWBIT_UNROLL(8)
    for (int t = 0; t < kQuads; t += kStep) {
      Int weights[kWidth][kParts];  // two quads, or magnitude and flip mask
      LOWBIT_UNROLL(2)
      for (int v = 0; v < kWidth; ++v) {
        weights[v][0] = weight(t, v, 0);
        if constexpr (kMode == DotMode::kPairs) weights[v][1] = weight(t + 1, v, 0);
        if constexpr (kMode == DotMode::kSigned) weights[v][1] = weight(t, v, 1);
      }
      LOWBIT_UNROLL(8)
      for (int i = 0; i < kRows; ++i) {
        LOWBIT_UNROLL(2)
        for (int v = 0; v < kWidth; ++v) {
          const Int x = activation(t, i);
          Int words = _mm256_maddubs_epi16(weights[v][0], kMode == DotMode::kSigned ? _mm256_xor_si256(x, weights[v][kParts - 1]) : x);
          if constexpr (kMode == DotMode::kPairs)
            words = _mm256_add_epi16(words, _mm256_maddubs_epi16(weights[v][1], activation(t + 1, i)));
          const Int sum = Widen(words, 1);
          if (t > 0)
            totals[i][v] = AddInt(totals[i][v], sum);
          else
            totals[i][v] = kMode == DotMode::kSigned ? AddInt(weight(kQuads, v, 0), sum) : sum;
          LOWBIT_PIN(totals[i][v]);
        }
      }
    }
    LOWBIT_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      LOWBIT_UNROLL(2)
      for (int v = 0; v < kWidth; ++v) finish(i, v, totals[i][v]);
    }
  }
}

}  // namespace
}  // namespace lowbit
