// kernel/simd: y = x W^T for few int8 rows (decode). Bound by reading the weights once, front to back, or, from about four rows on,
// by the dot products.
// Included after the lanes.h and the dot.h of a room, which gives the dot product and constants about it.
//
// Per sub-block: load `bits` lines, unpack to 8 quads of 16 rows, a dot product per vector and activation row against dword
// broadcasts. The lanes of a sum are outputs, so there is no horizontal add. Up to eight activation rows go together; more take a
// panel again, from cache. What a row gives does not depend on the rows beside it.
#pragma once

#include "kernel/kernel.h"
#include "kernel/simd/compiler.h"
#include "kernel/simd/planes.h"
#include "kernel/simd/units.h"

namespace lowbit {
namespace {

// Far enough to cover the latency of memory, near enough to stay in the first-level cache; spread over the sub-blocks because
// a burst of requests overruns the miss queue (measured on Zen 5: none .85-.94 of the read rate, 4 KB .95-.99, 8 KB .90).
constexpr size_t kPrefetchAhead = 4096;

struct SmallArgs {
  const PackedView& w;
  const QuantizedRows& x;
  const PanelLayout layout;
  float* y;
  size_t ldy;
  bool accumulate;
};

LOWBIT_INLINE void Prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchAhead), _MM_HINT_T0); }

// One operand of the dot products of quad t.
template <int kBits>
LOWBIT_INLINE Int QuadPart(const uint8_t* codes, int t, int part) {
  if constexpr (CodeParts(DotModeFor(kBits)) == 2)
    return part == 0 ? LowNibbles(codes + 64 * t) : HighNibbles(codes + 64 * t);
  else
    return Quad<kBits>(codes, t);
}

// Rows [row0, row0 + kRows) of x, panels [panel0, panel1).
template <int kBits, int kRows, bool kOffsets, bool kHalves>
void SmallPanels(const SmallArgs& args, int row0, int panel0, int panel1) {
  constexpr DotMode kMode = DotModeFor(kBits);
  constexpr int kFlushes = kHalves ? 2 : 1, kQuads = 8 / kFlushes, kVectors = kPanelRows / kLanes;
  constexpr int kWidth = kRows <= 2 ? kVectors : 1;  // vectors that share a broadcast
  const PackedView& w = args.w;
  const QuantizedRows& x = args.x;
  const PanelLayout& layout = args.layout;
  const bool meta_f32 = w.meta_f32, zero_point = w.affine == AffineKind::kZeroPoint;
  const ptrdiff_t rows = x.m, quad = 4 * rows;
  const size_t record_bytes = layout.record_bytes, meta_bytes = layout.meta_bytes;
  const int unit_groups = layout.paired ? 2 : 1, group_blocks = layout.group_blocks;
  for (int panel = panel0; panel < panel1; ++panel) {
    Float sums[kRows][kVectors];
    LOWBIT_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      LOWBIT_UNROLL(2)
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Zero();
    }
    const int8_t* q = x.q + 4 * row0;
    const float* scale = x.scale + row0;
    const float* offset = (kHalves ? x.half_scale_sum : x.scale_sum) + row0;
    const int32_t* bias = (kHalves ? x.half_bias : x.bias) + row0;
    const uint8_t* codes = w.data + static_cast<size_t>(panel) * w.panel_bytes;
    for (int left = layout.blocks; left > 0;) {
      const uint8_t* record = codes;
      codes += meta_bytes;
      Prefetch(record);
      for (int group = unit_groups; group > 0 && left > 0; --group, record += record_bytes) {
        int blocks = left < group_blocks ? left : group_blocks;
        left -= blocks;
        // sums over the group, without its scale
        Float dots[kRows][kVectors];
        float corrections[kRows];
        const auto flush = [&](const uint8_t* at) {
          LOWBIT_UNROLL(2)
          for (int v = 0; v < kVectors; ++v) {
            const Float scales = LoadScales(at, meta_f32, v * kLanes);
            Float offsets = Zero();
            if constexpr (kOffsets) offsets = LoadOffsets(at, meta_f32, zero_point, v * kLanes, scales);
            LOWBIT_UNROLL(8)
            for (int i = 0; i < kRows; ++i) {
              sums[i][v] = Fma(dots[i][v], scales, sums[i][v]);
              if constexpr (kOffsets) sums[i][v] = Fma(offsets, Set(corrections[i]), sums[i][v]);
            }
          }
        };
        LOWBIT_UNROLL(8)
        for (int i = 0; i < kRows; ++i) {
          corrections[i] = 0;
          LOWBIT_UNROLL(2)
          for (int v = 0; v < kVectors; ++v) dots[i][v] = Zero();
        }
        do {
          LOWBIT_UNROLL(8)
          for (int line = 0; line < kBits; ++line) Prefetch(codes + 64 * line);
          const int8_t* q3 = q + 3 * quad;  // every quad is one addressing mode away from q, q3 or q6
          const int8_t* q6 = q3 + 3 * quad;
          const auto quad_at = [&](int t) { return t == 6 ? q6 : t == 3 || t == 5 || t == 7 ? q3 + (t - 3) * quad : q + t * quad; };
          LOWBIT_UNROLL(2)
          for (int half = 0; half < kFlushes; ++half) {
            const auto index = [&](int t) { return kHalves ? half * kQuads + t : QuadOrder<kBits>(t); };
            for (int first = 0; first < kVectors; first += kWidth) {
              // unrolled, the broadcasts of both halves of a panel would be merged, and kept in memory
              if constexpr (kWidth < kVectors) LOWBIT_HIDE(first);
              DotQuads<kMode, kQuads, kRows, kWidth, !kOffsets>(
                  [&](int i) { return Broadcast4(bias + i); },
                  [&](int t, int v, int part) { return QuadPart<kBits>(codes + 4 * kLanes * (first + v), index(t), part); },
                  [&](int t, int i) { return Broadcast4(quad_at(index(t)) + 4 * i); },
                  [&](int i, int v, Int total) {
                    Float& sum = dots[i][first + v];
                    sum = kHalves ? Mul(ToFloat(total), Set(scale[i])) : Fma(ToFloat(total), Set(scale[i]), sum);
                  });
            }
            LOWBIT_UNROLL(8)
            for (int i = 0; i < kRows; ++i) {
              if constexpr (kOffsets) corrections[i] = kHalves ? offset[i] : corrections[i] + offset[i];
            }
            if constexpr (kHalves) flush(record + static_cast<size_t>(half) * record_bytes);
            offset += rows;
            bias += rows;
          }
          scale += rows;
          codes += 64 * kBits;
          q = q6 + 2 * quad;
        } while (--blocks > 0);
        if constexpr (!kHalves) flush(record);
      }
    }
    const int columns = w.n - panel * kPanelRows;
    float* y = args.y + static_cast<size_t>(row0) * args.ldy + static_cast<size_t>(panel) * kPanelRows;
    const auto finish = [&](float* at, Float sum, auto part) { Store(at, args.accumulate ? Add(sum, Load(at, part)) : sum, part); };
    LOWBIT_UNROLL(8)
    for (int i = 0; i < kRows; ++i, y += args.ldy) {
      LOWBIT_UNROLL(2)
      for (int v = 0; v < kVectors; ++v) {
        const int count = columns - v * kLanes;
        finish(y + v * kLanes, sums[i][v], First{count < 0 ? 0 : count < kLanes ? count : kLanes});
      }
    }
  }
}

using SmallFunction = void (*)(const SmallArgs&, int, int, int);

// The function for the most rows that go together, but no more than `left`; sets how many. Fewer variants where groups are halves:
// they are for three formats of GGUF.
template <int kBits, bool kHalves>
LOWBIT_INLINE SmallFunction SmallForRows(int left, bool offsets, int* rows) {
  constexpr int kMost = kHalves ? 4 : MostRows(DotModeFor(kBits));
  if constexpr (kMost == 8) {
    if (left >= 8) {
      *rows = 8;
      return offsets ? SmallPanels<kBits, 8, true, kHalves> : SmallPanels<kBits, 8, false, kHalves>;
    }
  }
  if (left >= 4) {
    *rows = 4;
    return offsets ? SmallPanels<kBits, 4, true, kHalves> : SmallPanels<kBits, 4, false, kHalves>;
  }
  if constexpr (!kHalves) {
    if (left >= 2) {
      *rows = 2;
      return offsets ? SmallPanels<kBits, 2, true, kHalves> : SmallPanels<kBits, 2, false, kHalves>;
    }
  }
  *rows = 1;
  return offsets ? SmallPanels<kBits, 1, true, kHalves> : SmallPanels<kBits, 1, false, kHalves>;
}

template <int kBits = 8>
LOWBIT_INLINE SmallFunction SmallFor(int bits, int left, bool offsets, bool halves, int* rows) {
  if constexpr (kBits > 1) {
    if (bits < kBits) return SmallFor<kBits - 1>(bits, left, offsets, halves, rows);
  }
  return halves ? SmallForRows<kBits, true>(left, offsets, rows) : SmallForRows<kBits, false>(left, offsets, rows);
}

// KernelTable::affine_small.
LOWBIT_INLINE void SmallRows(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  const SmallArgs args{w, x, LayoutOf(w), y, ldy, accumulate};
  const bool offsets = w.affine != AffineKind::kSymmetric;
  // groups of rows: [0, kSmallRows) in steps of at least one
  SmallFunction functions[kSmallRows];
  int row0[kSmallRows], groups = 0;
  for (int row = 0, rows; row < x.m; row += rows, ++groups) {
    functions[groups] = SmallFor(w.bits, x.m - row, offsets, args.layout.halves, &rows);
    row0[groups] = row;
  }
  if (groups == 1) return functions[0](args, 0, panel0, panel1);
  for (int panel = panel0; panel < panel1; ++panel) {
    for (int g = 0; g < groups; ++g) functions[g](args, row0[g], panel, panel + 1);
  }
}

}  // namespace
}  // namespace lowbit
