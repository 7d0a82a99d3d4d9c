// kernel/simd: dot products of unsigned codes and int8 activations with vpdpbusd, which adds four products to an int32 without
// saturation. Included after the Dot of a room.
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

enum class DotMode { kPlain };

constexpr DotMode DotModeFor(int) { return DotMode::kPlain; }
constexpr DotMode GemmModeFor(int) { return DotMode::kPlain; }
constexpr int CodeParts(DotMode) { return 1; }  // operands that a code is split into
constexpr int Centre(DotMode) { return 0; }     // what is subtracted from each code
constexpr bool kFreeStart = true;               // sums may start anywhere at no cost
constexpr int MostRows(DotMode) { return 8; }   // activation rows that DotQuads takes with one vector of codes

// Writes the operand of DotQuads for a quad of codes.
template <DotMode kMode>
LOWBIT_INLINE void StoreCodes(uint8_t* out, size_t, Int codes, Int&) {
  StoreLine(out, codes);
}

// sink(i, v, total) for rows i and vectors v of kLanes outputs: total = start(i) + sum over quads t < kQuads of weight(t, v, 0) .
// activation(t, i); start is left out without kStart.
template <DotMode kMode, int kQuads, int kRows, int kWidth, bool kStart, class Start, class Weight, class Activation, class Sink>
LOWBIT_INLINE void DotQuads(Start start, Weight weight, Activation activation, Sink sink) {
  // Few sums leave the latency of vpdpbusd exposed: even and odd quads then go to separate ones.
  constexpr bool kTwoChains = kRows * kWidth <= 2 && kQuads == 8;
  Int totals[kRows][kWidth], others[kRows][kWidth];
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    const Int first = kStart ? start(i) : ZeroInt();
    LOWBIT_UNROLL(2)
    for (int v = 0; v < kWidth; ++v) {
      totals[i][v] = first;
      others[i][v] = ZeroInt();
    }
  }
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
        Int& sum = kTwoChains && t % 2 == 1 ? others[i][v] : totals[i][v];
        sum = Dot(sum, weights[v], x);
      }
    }
  }
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    LOWBIT_UNROLL(2)
    for (int v = 0; v < kWidth; ++v) sink(i, v, kTwoChains ? AddInt(totals[i][v], others[i][v]) : totals[i][v]);
  }
}

}  // namespace
}  // namespace lowbit
