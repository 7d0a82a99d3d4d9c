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

LOWBIT_INLINE void Prefetch(const uint8_t* p) { LOWBIT_PREFETCH(p + kPrefetchAhead); }

// One operand of the dot products of quad t.
template <int kBits>
LOWBIT_INLINE Int QuadPart(const uint8_t* codes, int t, int part) {
  if constexpr (CodeParts(DotModeFor(kBits)) == 2)
    return part == 0 ? LowNibbles(codes + 64 * t) : HighNibbles(codes + 64 * t);
  else
    return Quad<kBits>(codes, t);
}

// Rows [row0, row0 + kRows) of x, panels [panel0, panel1). kTight: groups of 16 with f16 records, where what surrounds the products of a
// sub-block would cost more than they do if the layout were not known beforehand.
template <int kBits, int kRows, bool kOffsets, bool kHalves, bool kTight = false>
void SmallPanels(const SmallArgs& args, int row0, int panel0, int panel1) {
  constexpr DotMode kMode = DotModeFor(kBits);
  constexpr int kFlushes = kHalves ? 2 : 1, kQuads = 8 / kFlushes, kVectors = kPanelRows / kLanes;
  // Vectors of outputs that go together. With many rows, 256-bit rooms have registers for one: they take a panel twice, which costs
  // little, as the dot products and not the memory are then the limit.
  constexpr int kWidth = kRows <= 2 ? kVectors : 1;
  // Where there are registers for it, the weight scale is applied once per group.
  constexpr bool kGroupSums = kLanes == 16 && !kHalves;
  const PackedView& w = args.w;
  const QuantizedRows& x = args.x;
  const PanelLayout& layout = args.layout;
  const bool zero_point = layout.zero_point;
  const MetaKind meta = kTight ? MetaKind::kF16 : w.meta;
  const ptrdiff_t rows = kTight && kRows == 1 ? 1 : x.m, quad = 4 * rows;
  const size_t record_bytes = kTight ? (kOffsets ? 64 : 32) : layout.record_bytes;
  const size_t meta_bytes = kTight ? 2 * record_bytes : layout.meta_bytes, step = kTight ? 0 : layout.step;
  const int unit_groups = kTight ? 1 : layout.unit_groups, group_blocks = kTight ? 1 : layout.group_blocks;
  const int end = panel1 * (kVectors / kWidth);
  for (int part = panel0 * (kVectors / kWidth); part < end; ++part) {
    const int panel = part / (kVectors / kWidth), lane0 = part % (kVectors / kWidth) * kLanes;
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
      Record record = kTight ? Record{codes, nullptr} : UnitAt(layout, codes).record;
      for (size_t at = 0; at < meta_bytes; at += 64) Prefetch(codes + at);
      codes += meta_bytes;
      for (int group = unit_groups; group > 0 && left > 0; --group, record.at += step) {
        int blocks = kTight || left >= group_blocks ? group_blocks : left;
        left -= blocks;
        Float scales[kFlushes][kWidth];
        LOWBIT_UNROLL(2)
        for (int half = 0; half < kFlushes; ++half) {
          LOWBIT_UNROLL(2)
          for (int v = 0; v < kWidth; ++v) scales[half][v] = LoadScales(HalfOf(record_bytes, record, half), meta, lane0 + v * kLanes);
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
          const int8_t* q3 = q + 3 * quad;  // every quad is one addressing mode away from q, q3 or q6
          const int8_t* q6 = q3 + 3 * quad;
          const auto quad_at = [=](int t) { return t == 6 ? q6 : t == 3 || t == 5 || t == 7 ? q3 + (t - 3) * quad : q + t * quad; };
          const uint8_t* lines = codes + 4 * lane0;
          LOWBIT_UNROLL(2)
          for (int half = 0; half < kFlushes; ++half) {
            const auto index = [=](int t) { return kHalves ? half * kQuads + t : QuadOrder<kBits>(t); };
            DotQuads<kMode, kQuads, kRows, kWidth, !kOffsets>(
                [=](int i) { return Broadcast4(bias + i); },
                [=](int t, int v, int p) { return QuadPart<kBits>(lines + 4 * kLanes * v, index(t), p); },
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
              const Float offsets = LoadOffsets(HalfOf(record_bytes, record, half), meta, zero_point, lane0 + v * kLanes, scales[half][v]);
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

// The function for the most rows that go together, but no more than `left`; sets how many. Fewer variants where groups are halves:
// they are for three formats of GGUF.
template <int kBits, bool kHalves>
LOWBIT_INLINE SmallFunction SmallForRows(int left, bool offsets, bool tight, int* rows) {
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
  if constexpr (kHalves && kBits <= 4) {
    if (tight) return offsets ? SmallPanels<kBits, 1, true, true, true> : SmallPanels<kBits, 1, false, true, true>;
  }
  return offsets ? SmallPanels<kBits, 1, true, kHalves> : SmallPanels<kBits, 1, false, kHalves>;
}

template <int kBits = 8>
LOWBIT_INLINE SmallFunction SmallFor(int bits, int left, bool offsets, bool halves, bool tight, int* rows) {
  if constexpr (kBits > 1) {
    if (bits < kBits) return SmallFor<kBits - 1>(bits, left, offsets, halves, tight, rows);
  }
  return halves ? SmallForRows<kBits, true>(left, offsets, tight, rows) : SmallForRows<kBits, false>(left, offsets, tight, rows);
}

// KernelTable::affine_small.
LOWBIT_INLINE void SmallRows(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  const SmallArgs args{w, x, LayoutOf(w), y, ldy, accumulate};
  const bool offsets = w.affine != AffineKind::kSymmetric, tight = w.meta == MetaKind::kF16 && x.m == 1;
  // groups of rows: [0, kSmallRows) in steps of at least one
  SmallFunction functions[kSmallRows];
  int row0[kSmallRows], groups = 0;
  for (int row = 0, rows; row < x.m; row += rows, ++groups) {
    functions[groups] = SmallFor(w.bits, x.m - row, offsets, args.layout.halves, tight, &rows);
    row0[groups] = row;
  }
  if (groups == 1) return functions[0](args, 0, panel0, panel1);
  for (int panel = panel0; panel < panel1; ++panel) {
    for (int g = 0; g < groups; ++g) functions[g](args, row0[g], panel, panel + 1);
  }
}

}  // namespace
}  // namespace lowbit
