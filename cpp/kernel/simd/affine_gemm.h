// kernel/simd: y = x W^T for many int8 rows (prefill).
// Included after the lanes.h and the dot.h of a room, which gives the dot product and constants about it.
//
// A pass unpacks two vectors of outputs (256-bit rooms: one panel; 512-bit: two) to bytes, then every tile of kTileRows rows of
// activations runs over it: per quad of columns two vectors of codes, kTileRows broadcasts and 2 * kTileRows dot products. Every 32
// columns the int32 sums become f32 with the scale of the activation. Where a weight group is wider, its scale is applied once per
// group (kWide): 2 * kTileRows multiplications less per 32 columns, on the same ports as the dot products.
#pragma once

#include "kernel/kernel.h"
#include "kernel/simd/compiler.h"
#include "kernel/simd/gemm_blocks.h"
#include "kernel/simd/row_values.h"

namespace lowbit {
namespace {

enum class TileKind { kPlain, kHalves, kWide };  // a scale group is 32 columns, 16, or more than 32

struct TileArgs {
  const uint8_t* codes;  // [quad][parts][vectors][4 kLanes], behind the quads of a flush a line of starts where the mode has them
  const float* scales;   // [group][lines][vectors][kLanes]
  const int8_t* q;       // [quad][rows]{4}
  const float* scale;    // [sub-block][rows]
  const float* offset;   // [sub-block][rows], or [2 sub-block][rows] for halves
  const int32_t* bias;
  int blocks;
  int group_blocks, in_group;  // sub-blocks per scale group, and how many of the first came in an earlier pass
  float* y;
  size_t ldy;
  int last_lanes;  // columns of the last vector; not positive where only the vector before it has some
  bool add;
};

// y is asked for early and added at the end: loading it first would stall on strides that are powers of two.
template <int kRows, int kVectors>
LOWBIT_INLINE void PrefetchTile(const TileArgs& args) {
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    LOWBIT_UNROLL(2)
    for (int v = 0; v < kVectors; v += kPanelRows / kLanes) LOWBIT_PREFETCH(args.y + static_cast<size_t>(i) * args.ldy + v * kLanes);
  }
}

template <int kRows, int kVectors>
LOWBIT_INLINE void StoreTile(const TileArgs& args, const Float (&sums)[kRows][kVectors]) {
  const auto finish = [&](float* at, Float sum, auto part) { Store(at, args.add ? Add(sum, Load(at, part)) : sum, part); };
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    float* y = args.y + static_cast<size_t>(i) * args.ldy;
    if constexpr (kVectors == 2) {
      const int first_lanes = args.last_lanes + kLanes;
      if (first_lanes >= kLanes)
        finish(y, sums[i][0], All{});
      else
        finish(y, sums[i][0], First{first_lanes});
    }
    float* last = y + (kVectors - 1) * kLanes;
    if (args.last_lanes >= kLanes)
      finish(last, sums[i][kVectors - 1], All{});
    else if (args.last_lanes > 0)
      finish(last, sums[i][kVectors - 1], First{args.last_lanes});
  }
}

// A tile of kRows rows and kVectors * kLanes outputs over one pass.
template <DotMode kMode, int kRows, int kVectors, bool kOffsets, TileKind kKind>
void Tile(const TileArgs& args) {
  constexpr bool kHalves = kKind == TileKind::kHalves, kWide = kKind == TileKind::kWide;
  constexpr int kFlushes = kHalves ? 2 : 1, kQuads = 8 / kFlushes, kParts = CodeParts(kMode);
  constexpr int kVectorBytes = 4 * kLanes, kPartBytes = kVectors * kVectorBytes, kQuadBytes = kParts * kPartBytes;
  constexpr int kFlushBytes = kQuads * kQuadBytes + (Centre(kMode) != 0 ? kPartBytes : 0);
  constexpr int kLine = kVectors * kLanes;
  constexpr bool kStart = !kOffsets && Centre(kMode) == 0;  // a zero point in the middle is what Centre subtracts
  PrefetchTile<kRows, kVectors>(args);
  Float sums[kRows][kVectors];
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    LOWBIT_UNROLL(2)
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Zero();
  }
  const uint8_t* codes = args.codes;
  const float* lines = args.scales;
  const int8_t* q = args.q;
  const float* scale = args.scale;
  const float* offset = args.offset;
  const int32_t* bias = args.bias;
  const auto dot = [&](auto sink) {
    DotQuads<kMode, kQuads, kRows, kVectors, kStart>(
        [&](int i) { return Broadcast4(bias + i); },
        [&](int t, int v, int part) { return LoadLine(codes + t * kQuadBytes + part * kPartBytes + v * kVectorBytes); },
        [&](int t, int i) { return Broadcast4(q + 4 * (t * kRows + i)); }, sink);
    codes += kFlushBytes;
    q += kQuads * 4 * kRows;
    bias += kRows;
  };
  if constexpr (!kWide) {
    for (int block = args.blocks; block > 0; --block, scale += kRows) {
      LOWBIT_UNROLL(2)
      for (int flush = 0; flush < kFlushes; ++flush) {
        dot([&](int i, int v, Int total) {
          sums[i][v] = Fma(ToFloat(total), Mul(Load(lines + v * kLanes), Set(scale[i])), sums[i][v]);
          if constexpr (kOffsets) sums[i][v] = Fma(Load(lines + kLine + v * kLanes), Set(offset[i]), sums[i][v]);
        });
        lines += ScaleLines(kOffsets, false) * kLine;
        offset += kRows;
      }
    }
  } else {
    // The sums of a group are kept in registers as far as these reach; those of the row are touched once per group.
    for (int left = args.blocks, ahead = args.group_blocks - args.in_group; left > 0; ahead = args.group_blocks) {
      const int blocks = left < ahead ? left : ahead;
      left -= blocks;
      Float group[kRows][kVectors];
      LOWBIT_UNROLL(8)
      for (int i = 0; i < kRows; ++i) {
        LOWBIT_UNROLL(2)
        for (int v = 0; v < kVectors; ++v) group[i][v] = Zero();
      }
      RowSums<kRows> corrections;
      corrections.Clear();
      for (int block = blocks; block > 0; --block) {
        dot([&](int i, int v, Int total) { group[i][v] = Fma(ToFloat(total), Set(scale[i]), group[i][v]); });
        if constexpr (kOffsets) corrections.Add(offset);
        scale += kRows;
        offset += kRows;
      }
      corrections.Finish();
      LOWBIT_UNROLL(8)
      for (int i = 0; i < kRows; ++i) {
        LOWBIT_UNROLL(2)
        for (int v = 0; v < kVectors; ++v) {
          sums[i][v] = Fma(group[i][v], Load(lines + v * kLanes), sums[i][v]);
          if constexpr (kOffsets) sums[i][v] = Fma(Load(lines + kLine + v * kLanes), corrections.At(i), sums[i][v]);
        }
      }
      lines += ScaleLines(kOffsets, false) * kLine;
    }
  }
  StoreTile<kRows, kVectors>(args, sums);
}

// Whether wide groups of symmetric weights, too, are summed from 0 and corrected once per group.
constexpr bool WideOffsets(DotMode mode) { return !kFreeStart && Centre(mode) == 0; }

using TileFunction = void (*)(const TileArgs&);

template <DotMode kMode, int kRows, int kVectors>
LOWBIT_INLINE TileFunction TileForKind(bool offsets, TileKind kind) {
  switch (kind) {
    case TileKind::kPlain:
      return offsets ? Tile<kMode, kRows, kVectors, true, TileKind::kPlain> : Tile<kMode, kRows, kVectors, false, TileKind::kPlain>;
    case TileKind::kHalves:
      return offsets ? Tile<kMode, kRows, kVectors, true, TileKind::kHalves> : Tile<kMode, kRows, kVectors, false, TileKind::kHalves>;
    default:
      if constexpr (WideOffsets(kMode))
        return Tile<kMode, kRows, kVectors, true, TileKind::kWide>;
      else
        return offsets ? Tile<kMode, kRows, kVectors, true, TileKind::kWide> : Tile<kMode, kRows, kVectors, false, TileKind::kWide>;
  }
}

// Tiles of exactly `rows` <= kRows rows.
template <DotMode kMode, int kRows, int kVectors>
LOWBIT_INLINE TileFunction TileForRows(int rows, bool offsets, TileKind kind) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return TileForRows<kMode, kRows - 1, kVectors>(rows, offsets, kind);
  }
  return TileForKind<kMode, kRows, kVectors>(offsets, kind);
}

template <int kRows, int kVectors, int kBits = 8>
LOWBIT_INLINE TileFunction TileForBits(int bits, int rows, bool offsets, TileKind kind) {
  if constexpr (kBits > 1) {
    if (bits < kBits) return TileForBits<kRows, kVectors, kBits - 1>(bits, rows, offsets, kind);
  }
  return TileForRows<GemmModeFor(kBits), kRows, kVectors>(rows, offsets, kind);
}

// KernelTable::affine_gemm for tiles of kTileRows rows.
template <int kTileRows>
LOWBIT_INLINE void GemmPanels(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                              uint8_t* scratch) {
  constexpr int kPanels = 2 * kLanes / kPanelRows;  // of a pass
  const PanelLayout layout = LayoutOf(w);
  const bool symmetric = w.affine == AffineKind::kSymmetric, halves = layout.halves;
  const TileKind kind = halves ? TileKind::kHalves : layout.group_blocks > 1 ? TileKind::kWide : TileKind::kPlain;
  const bool offsets = !symmetric || (kind == TileKind::kWide && WideOffsets(GemmModeFor(w.bits)));
  const UnpackFunction unpack = UnpackFor(w.bits, offsets, halves);
  const int rest = x.m % kTileRows;
  float* scale_lines = reinterpret_cast<float*>(scratch + kCodeScratch);
  const float* corrections = halves ? x.half_scale_sum : x.scale_sum;
  const int32_t* biases = halves ? x.half_bias : x.bias;
  const size_t k_padded = static_cast<size_t>(x.k_padded), records = static_cast<size_t>(x.groups) * (halves ? 2 : 1);
  // passes of equal width, as far as groups allow
  const int passes = (layout.blocks + kMaxBlocks - 1) / kMaxBlocks, width = (layout.blocks + passes - 1) / passes;
  const int whole_groups = (width + layout.group_blocks - 1) / layout.group_blocks * layout.group_blocks;
  const int most_blocks = whole_groups <= kMaxBlocks ? whole_groups : width;
  Pass pass{0, 0};
  for (; pass.block < layout.blocks; pass.block += pass.blocks) {
    pass.blocks = layout.blocks - pass.block < most_blocks ? layout.blocks - pass.block : most_blocks;
    const size_t block = static_cast<size_t>(pass.block);
    for (int panel = panel0; panel < panel1; panel += kPanels) {
      const int panels = panel1 - panel < kPanels ? panel1 - panel : kPanels;
      for (int p = 0; p < panels; ++p) unpack(w, layout, panel + p, pass, p, panels, scratch, scale_lines);
      const bool two = panels * kPanelRows == 2 * kLanes;
      TileArgs args{};
      args.codes = scratch;
      args.scales = scale_lines;
      args.blocks = pass.blocks;
      args.group_blocks = layout.group_blocks;
      args.in_group = pass.block % layout.group_blocks;
      args.ldy = ldy;
      args.last_lanes = w.n - panel * kPanelRows - (two ? kLanes : 0);
      args.add = accumulate || pass.block > 0;
      const auto tile_for = [&](int rows) {
        if constexpr (kPanels == 2) {
          if (!two) return TileForBits<kTileRows, 1>(w.bits, rows, offsets, kind);
        }
        return TileForBits<kTileRows, 2>(w.bits, rows, offsets, kind);
      };
      const auto run = [&](TileFunction tile, int row, int rows) {
        const size_t r0 = static_cast<size_t>(row), count = static_cast<size_t>(rows);
        args.q = x.q + r0 * k_padded + block * kSubBlock * count;
        args.scale = x.scale + r0 * static_cast<size_t>(x.groups) + block * count;
        args.offset = corrections + r0 * records + block * (halves ? 2 : 1) * count;
        args.bias = biases + r0 * records + block * (halves ? 2 : 1) * count;
        args.y = y + r0 * ldy + static_cast<size_t>(panel) * kPanelRows;
        tile(args);
      };
      const TileFunction whole = tile_for(kTileRows);
      for (int row = 0; row < x.m - rest; row += kTileRows) run(whole, row, kTileRows);
      if (rest > 0) run(tile_for(rest), x.m - rest, rest);
    }
  }
}

}  // namespace
}  // namespace lowbit
