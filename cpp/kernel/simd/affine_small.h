// kernel/simd: y = x W^T for few int8 rows (decode). Bound by reading the weights once, front to back, or, from about four rows on,
// by the dot products.
// Included after the lanes.h and the dot.h of a room, which gives the dot product and constants about it.
//
// Per sub-block: load `bits` lines, unpack to 8 quads of 16 rows, a dot product per vector and activation row against dword
// broadcasts. The lanes of a sum are outputs, so there is no horizontal add. Up to eight activation rows go together; more take a
// panel again, from cache. 512-bit rooms take four rows and two panels instead: half the broadcasts, each of which occupies a load
// port as long as a dot product does the multiplier. What a row gives depends neither on the rows nor on the panels beside it.
#pragma once

#include "kernel/kernel.h"
#include "kernel/simd/compiler.h"
#include "kernel/simd/planes.h"
#include "kernel/simd/row_values.h"
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

// Vectors of outputs that go together. With many rows, 256-bit rooms have registers for one: they take a panel twice, which costs
// little, as the dot products and not the memory are then the limit.
constexpr int kPanelVectors = kPanelRows / kLanes;
constexpr int SmallWidth(int rows, bool pair) { return pair ? 2 * kPanelVectors : rows <= 2 ? kPanelVectors : 1; }

// Rows [row0, row0 + kRows) of x, panels [panel0, panel1); kPair: two at a time, of which there must be an even number.
template <int kBits, int kRows, bool kOffsets, bool kHalves, bool kPair>
void SmallPanels(const SmallArgs& args, int row0, int panel0, int panel1) {
  constexpr DotMode kMode = DotModeFor(kBits);
  constexpr int kFlushes = kHalves ? 2 : 1, kQuads = 8 / kFlushes, kWidth = SmallWidth(kRows, kPair);
  // Where there are registers for it, the weight scale is applied once per group.
  constexpr bool kGroupSums = kLanes == 16 && !kHalves;
  const PackedView& w = args.w;
  const QuantizedRows& x = args.x;
  const PanelLayout& layout = args.layout;
  const bool zero_point = layout.zero_point;
  const MetaKind meta = w.meta;
  const ptrdiff_t rows = x.m, quad = 4 * rows;
  const size_t meta_bytes = layout.meta_bytes, step = layout.step;
  const int unit_groups = layout.unit_groups, group_blocks = layout.group_blocks;
  // Where the panel of vector v of outputs begins behind that of vector 0.
  const size_t panel_bytes = w.panel_bytes;
  const auto panel_of = [=](int v) { return static_cast<size_t>(v / kPanelVectors) * panel_bytes; };
  for (int vector = panel0 * kPanelVectors; vector < panel1 * kPanelVectors; vector += kWidth) {
    const int panel = vector / kPanelVectors, lane0 = vector % kPanelVectors * kLanes;
    Float sums[kRows][kWidth];
    LOWBIT_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      LOWBIT_UNROLL(2)
      for (int v = 0; v < kWidth; ++v) sums[i][v] = Zero();
    }
    const int8_t* q = x.q + 4 * row0;
    const float* scale = x.scale + row0;
    const float* offset = (kHalves ? x.half_scale_sum : x.scale_sum) + row0;
    const int32_t* bias = (kHalves ? x.half_bias : x.bias) + row0;
    const uint8_t* codes = w.data + static_cast<size_t>(panel) * w.panel_bytes;
    for (int left = layout.blocks; left > 0;) {
      Record record = UnitAt(layout, codes).record;
      const auto record_of = [&](int half, int v) {
        return Record{record.at + static_cast<size_t>(half) * layout.record_bytes + panel_of(v), record.super + panel_of(v)};
      };
      const auto lane_of = [&](int v) { return lane0 + v % kPanelVectors * kLanes; };
      for (size_t at = 0; at < meta_bytes; at += 64) Prefetch(codes + at);
      codes += meta_bytes;
      for (int group = unit_groups; group > 0 && left > 0; --group, record.at += step) {
        int blocks = left < group_blocks ? left : group_blocks;
        left -= blocks;
        Float scales[kFlushes][kWidth];
        LOWBIT_UNROLL(2)
        for (int half = 0; half < kFlushes; ++half) {
          LOWBIT_UNROLL(2)
          for (int v = 0; v < kWidth; ++v) scales[half][v] = LoadScales(record_of(half, v), meta, lane_of(v));
        }
        Float dots[kRows][kWidth];  // kGroupSums: over the group, without its scale
        LOWBIT_UNROLL(8)
        for (int i = 0; i < kRows; ++i) {
          LOWBIT_UNROLL(2)
          for (int v = 0; v < kWidth; ++v) dots[i][v] = Zero();
        }
        RowSums<kRows> corrections[kFlushes];
        LOWBIT_UNROLL(2)
        for (int half = 0; half < kFlushes; ++half) corrections[half].Clear();
        do {
          LOWBIT_UNROLL(8)
          for (int line = 0; line < kBits; ++line) Prefetch(codes + 64 * line);
          if constexpr (kPair) {
            LOWBIT_UNROLL(8)
            for (int line = 0; line < kBits; ++line) Prefetch(codes + panel_bytes + 64 * line);
          }
          const int8_t* q3 = q + 3 * quad;  // every quad is one addressing mode away from q, q3 or q6
          const int8_t* q6 = q3 + 3 * quad;
          const auto quad_at = [=](int t) { return t == 6 ? q6 : t == 3 || t == 5 || t == 7 ? q3 + (t - 3) * quad : q + t * quad; };
          const uint8_t* lines = codes + 4 * lane0;
          LOWBIT_UNROLL(2)
          for (int half = 0; half < kFlushes; ++half) {
            const auto index = [=](int t) { return kHalves ? half * kQuads + t : QuadOrder<kBits>(t); };
            DotQuads<kMode, kQuads, kRows, kWidth, !kOffsets>(
                [=](int i) { return Broadcast4(bias + i); },
                [=](int t, int v, int p) { return QuadPart<kBits>(lines + panel_of(v) + 4 * kLanes * (v % kPanelVectors), index(t), p); },
                [=](int t, int i) { return Broadcast4(quad_at(index(t)) + 4 * i); },
                [&](int i, int v, Int total) {
                  if constexpr (kGroupSums)
                    dots[i][v] = Fma(ToFloat(total), Set(scale[i]), dots[i][v]);
                  else
                    sums[i][v] = Fma(ToFloat(total), Mul(scales[half][v], Set(scale[i])), sums[i][v]);
                });
            if constexpr (kOffsets) corrections[half].Add(offset);
            offset += rows;
            bias += rows;
          }
          scale += rows;
          codes += 64 * kBits;
          q = q6 + 2 * quad;
        } while (--blocks > 0);
        if constexpr (kGroupSums) {
          LOWBIT_UNROLL(8)
          for (int i = 0; i < kRows; ++i) {
            LOWBIT_UNROLL(2)
            for (int v = 0; v < kWidth; ++v) sums[i][v] = Fma(dots[i][v], scales[0][v], sums[i][v]);
          }
        }
        if constexpr (kOffsets) {
          LOWBIT_UNROLL(2)
          for (int half = 0; half < kFlushes; ++half) {
            corrections[half].Finish();
            LOWBIT_UNROLL(2)
            for (int v = 0; v < kWidth; ++v) {
              const Float offsets = LoadOffsets(record_of(half, v), meta, zero_point, lane_of(v), scales[half][v]);
              LOWBIT_UNROLL(8)
              for (int i = 0; i < kRows; ++i) sums[i][v] = Fma(offsets, corrections[half].At(i), sums[i][v]);
            }
          }
        }
      }
    }
    const int columns = w.n - panel * kPanelRows - lane0;
    float* y = args.y + static_cast<size_t>(row0) * args.ldy + static_cast<size_t>(panel) * kPanelRows + lane0;
    LOWBIT_UNROLL(8)
    for (int i = 0; i < kRows; ++i, y += args.ldy) {
      LOWBIT_UNROLL(2)
      for (int v = 0; v < kWidth; ++v) {
        const int count = columns - v * kLanes;
        const First lanes{count < 0 ? 0 : count < kLanes ? count : kLanes};
        Store(y + v * kLanes, args.accumulate ? Add(sums[i][v], Load(y + v * kLanes, lanes)) : sums[i][v], lanes);
      }
    }
  }
}

using SmallFunction = void (*)(const SmallArgs&, int, int, int);

// Whether the room takes two panels where there are four rows or more.
constexpr bool kPairs = kLanes == 16;

// The function for the most rows that go together, but no more than `left`; sets how many. pair: for two panels, where the room has such
// functions for so many rows. Fewer variants where groups are halves: they are for three formats of GGUF.
template <int kBits, bool kHalves>
LOWBIT_INLINE SmallFunction SmallForRows(int left, bool offsets, bool pair, int* rows) {
  constexpr int kMost = kHalves || kPairs ? 4 : MostRows(DotModeFor(kBits));
  if constexpr (kMost == 8) {
    if (left >= 8) {
      *rows = 8;
      return offsets ? SmallPanels<kBits, 8, true, kHalves, false> : SmallPanels<kBits, 8, false, kHalves, false>;
    }
  }
  if (left >= 4) {
    *rows = 4;
    if constexpr (kPairs) {
      if (pair) return offsets ? SmallPanels<kBits, 4, true, kHalves, true> : SmallPanels<kBits, 4, false, kHalves, true>;
    }
    return offsets ? SmallPanels<kBits, 4, true, kHalves, false> : SmallPanels<kBits, 4, false, kHalves, false>;
  }
  if constexpr (!kHalves) {
    if (left >= 2) {
      *rows = 2;
      return offsets ? SmallPanels<kBits, 2, true, kHalves, false> : SmallPanels<kBits, 2, false, kHalves, false>;
    }
  }
  *rows = 1;
  return offsets ? SmallPanels<kBits, 1, true, kHalves, false> : SmallPanels<kBits, 1, false, kHalves, false>;
}

template <int kBits = 8>
LOWBIT_INLINE SmallFunction SmallFor(int bits, int left, bool offsets, bool halves, bool pair, int* rows) {
  if constexpr (kBits > 1) {
    if (bits < kBits) return SmallFor<kBits - 1>(bits, left, offsets, halves, pair, rows);
  }
  return halves ? SmallForRows<kBits, true>(left, offsets, pair, rows) : SmallForRows<kBits, false>(left, offsets, pair, rows);
}

// Panels [panel0, panel1) for all rows, each panel or pair of panels for one group of rows after the other while it is in cache.
LOWBIT_INLINE void SmallRange(const SmallArgs& args, int panel0, int panel1, bool pair) {
  const PackedView& w = args.w;
  const bool offsets = w.affine != AffineKind::kSymmetric;
  SmallFunction functions[kSmallRows];
  int row0[kSmallRows], groups = 0;
  for (int row = 0, rows; row < args.x.m; row += rows, ++groups) {
    functions[groups] = SmallFor(w.bits, args.x.m - row, offsets, args.layout.halves, pair, &rows);
    row0[groups] = row;
  }
  if (groups == 1) return functions[0](args, 0, panel0, panel1);
  const int step = pair ? 2 : 1;
  for (int panel = panel0; panel < panel1; panel += step) {
    for (int g = 0; g < groups; ++g) functions[g](args, row0[g], panel, panel + step);
  }
}

// KernelTable::affine_small.
LOWBIT_INLINE void SmallRows(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  const SmallArgs args{w, x, LayoutOf(w), y, ldy, accumulate};
  const int pairs_end = kPairs && x.m >= 4 ? panel1 - (panel1 - panel0) % 2 : panel0;
  if (pairs_end > panel0) SmallRange(args, panel0, pairs_end, true);
  if (panel1 > pairs_end) SmallRange(args, pairs_end, panel1, false);
}

}  // namespace
}  // namespace lowbit
