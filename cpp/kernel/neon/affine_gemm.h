// kernel/neon: y = x W^T for many int8 rows (prefill).
// Included by neon/affine_gemm.cc (SDOT) and neon_i8mm/affine_gemm.cc (SMMLA), into an anonymous namespace each.
//
// One panel of up to kGemmColumns columns is unpacked to signed bytes (zero point or 128 taken away, so no sum needs a start), then
// every tile of 4 activation rows runs over it with 16 registers of int32 sums. Every 32 columns these become f32 with the scales of
// weight and activation; where a weight group is wider, only the activation scale is applied every 32 columns and the weight scale
// once per group. The 4 x 16 f32 sums of a tile live in the first-level cache.
//
// Vector instructions on paper, per 4 x 16 x 32 products (2048):
//            dots             shuffles  scaling, 32 / wider groups   products per instruction
//   SDOT     128 of 16            0     48 / 32                      11.6 / 12.8
//   SMMLA     64 of 32            8     48 / 32                      17.1 / 19.7
// so SMMLA pays (cores that have it start as many of them per cycle as SDOTs). Loads: 5 per 16 SDOTs, 10 per 16 SMMLAs, and 48
// loads and stores of f32 sums. Speed was never measured: the developers have no ARM machine.
#pragma once

#include "kernel/kernel.h"
#include "kernel/neon/dot.h"
#include "kernel/neon/internal.h"
#include "kernel/simd/planes.h"
#include "kernel/simd/units.h"

namespace lowbit {
namespace {

constexpr int kMaxBlocks = kGemmColumns / kSubBlock;
constexpr size_t kCodeScratch = static_cast<size_t>(kGemmColumns) * kPanelRows;

// One pass over sub-blocks [block, block + blocks).
struct Pass {
  int block, blocks;
  int run;  // sub-blocks per activation scale; passes begin at a multiple of it
};

// Scale lines per activation group: for each record (two if halves) the scales, then, if offsets, what is added per unit of sum(x).
constexpr int ScaleLines(bool offsets, bool halves) { return (offsets ? 2 : 1) * (halves ? 2 : 1); }

// Unpacks one panel of a pass: signed codes in the order of the dots, scale lines to [group][lines][kLineFloats].
template <int kBits>
void UnpackPass(const PackedView& w, const PanelLayout& layout, int panel, const Pass& pass, uint8_t* out, float* line) {
  const bool symmetric = w.affine == AffineKind::kSymmetric;
  const int centre = symmetric ? 1 << (kBits - 1) : kBits == 8 ? 128 : 0;
  const Codes centres = vdupq_n_u8(static_cast<uint8_t>(centre));
  int in_group = pass.block % layout.group_blocks;
  GroupCursor cursor = GroupAt(layout, w.data + static_cast<size_t>(panel) * w.panel_bytes, pass.block / layout.group_blocks);
  const uint8_t* codes = cursor.codes + static_cast<size_t>(in_group) * layout.block_bytes;
  for (int block = 0; block < pass.blocks; ++block) {
    if (block % pass.run == 0) {
      for (int h = 0; h < (layout.halves ? 2 : 1); ++h) {
        const Record record = HalfOf(layout.record_bytes, cursor.record, h);
        for (int row0 = 0; row0 < kPanelRows; row0 += kLanes) {
          const Float scales = LoadScales(record, w.meta, row0);
          StoreLine(line, row0, scales);
          if (symmetric) continue;
          const Float offsets = LoadOffsets(record, w.meta, layout.zero_point, row0, scales);
          StoreLine(line + kLineFloats, row0, centre == 0 ? offsets : Fma(scales, Set(static_cast<float>(centre)), offsets));
        }
        line += symmetric ? kLineFloats : 2 * kLineFloats;
      }
    }
    LOWBIT_UNROLL(1)
    for (int j = 0; j < kPanelRows / kLanes; ++j) {
      LOWBIT_UNROLL(4)
      for (int t = 0; t < 8; t += 2) {
        const Codes even = vsubq_u8(QuadCodes<kBits>(codes + 16 * j, t), centres);
        StoreSigned(out, t, j, even, vsubq_u8(QuadCodes<kBits>(codes + 16 * j, t + 1), centres));
      }
    }
    out += kSubBlock * kPanelRows;
    codes += layout.block_bytes;
    if (++in_group == layout.group_blocks && block + 1 < pass.blocks) {
      in_group = 0;
      NextGroup(layout, codes, cursor);
      codes = cursor.codes;
    }
  }
}

using UnpackFunction = void (*)(const PackedView&, const PanelLayout&, int, const Pass&, uint8_t*, float*);

UnpackFunction UnpackFor(int bits) {
  switch (bits) {
    case 1:
      return UnpackPass<1>;
    case 2:
      return UnpackPass<2>;
    case 3:
      return UnpackPass<3>;
    case 4:
      return UnpackPass<4>;
    case 5:
      return UnpackPass<5>;
    case 6:
      return UnpackPass<6>;
    case 7:
      return UnpackPass<7>;
    default:
      return UnpackPass<8>;
  }
}

struct TileArgs {
  const uint8_t* codes;  // signed, in the order of DotStep
  const float* scales;   // [group][lines][kLineFloats]
  const int8_t* q;       // [quad][rows]{4}
  const float* scale;    // [group][rows]
  const float* offset;   // [group][rows], or [2 group][rows] for halves
  int blocks, run;
  int group_blocks, in_group;  // wide tiles: sub-blocks per weight group, and how many of the first came in an earlier pass
  float* y;
  size_t ldy;
  int columns;  // of this panel
  bool add;
};

template <int kRows>
using TileSums = float[kRowVectors<kRows>][kWeightVectors][4];

// Sums of zero that stay in memory: seen through, they would compete with the dots for registers, and be stored all the same.
template <int kRows>
LOWBIT_INLINE TileSums<kRows>& InMemory(TileSums<kRows>& sums) {
  float* p = &sums[0][0][0];
  LOWBIT_UNROLL(16)
  for (int i = 0; i < kRowVectors<kRows> * kWeightVectors; ++i) Store(p + 4 * i, Zero());
  asm("" : "+r"(p) : : "memory");
  return *reinterpret_cast<TileSums<kRows>*>(p);
}

template <int kRows, int kSteps>
LOWBIT_INLINE void DotBlock(Int (&dots)[kRowVectors<kRows>][kWeightVectors], const uint8_t*& codes, const int8_t*& q) {
  LOWBIT_UNROLL(4)
  for (int i = 0; i < kRowVectors<kRows>; ++i) {
    LOWBIT_UNROLL(8)
    for (int w = 0; w < kWeightVectors; ++w) dots[i][w] = ZeroInt();
  }
  // not unrolled further: GCC would interleave the quads until the sums no longer fit the registers
  LOWBIT_UNROLL(2)
  for (int s = 0; s < kSteps; ++s, codes += kPanelRows * kStepColumns, q += kRows * kStepColumns) DotStep<kRows>(dots, codes, q);
}

// sums += values * lines * factors, values(i, w) being a register.
template <int kRows, class Values>
LOWBIT_INLINE void AddScaled(TileSums<kRows>& sums, const float* line, const Float (&factors)[kRowVectors<kRows>], Values values) {
  LOWBIT_UNROLL(8)
  for (int w = 0; w < kWeightVectors; ++w) {
    const Float scales = Load(line + 4 * w);
    LOWBIT_UNROLL(4)
    for (int i = 0; i < kRowVectors<kRows>; ++i) Store(sums[i][w], Fma(values(i, w), Mul(scales, factors[i]), Load(sums[i][w])));
  }
}

// sums += lines * factors.
template <int kRows>
LOWBIT_INLINE void AddOffsets(TileSums<kRows>& sums, const float* line, const Float (&factors)[kRowVectors<kRows>]) {
  LOWBIT_UNROLL(8)
  for (int w = 0; w < kWeightVectors; ++w) {
    const Float offsets = Load(line + 4 * w);
    LOWBIT_UNROLL(4)
    for (int i = 0; i < kRowVectors<kRows>; ++i) Store(sums[i][w], Fma(offsets, factors[i], Load(sums[i][w])));
  }
}

template <int kRows>
LOWBIT_INLINE void StoreTile(const TileArgs& args, const TileSums<kRows>& sums) {
  for (int i = 0; i < kRows; ++i) {
    float* y = args.y + static_cast<size_t>(i) * args.ldy;
    for (int v = 0; v < kPanelRows / kLanes; ++v, y += kLanes) {
      const int count = args.columns - v * kLanes;
      const Float sum = RowSums(sums, i, v);
      if (count >= kLanes)
        Store(y, args.add ? Add(sum, Load(y)) : sum);
      else if (count > 0)
        Store(y, args.add ? Add(sum, Load(y, First{count})) : sum, First{count});
    }
  }
}

template <int kRows, bool kOffsets, bool kHalves>
void Tile(const TileArgs& args) {
  constexpr int kFlushes = kHalves ? 2 : 1, kSteps = kSubBlock / kStepColumns / kFlushes;
  alignas(64) TileSums<kRows> memory;
  TileSums<kRows>& sums = InMemory<kRows>(memory);
  const uint8_t* codes = args.codes;
  const float* lines = args.scales;
  const int8_t* q = args.q;
  const float* scale = args.scale;
  const float* offset = args.offset;
  for (int block = args.blocks, left_in_run = args.run; block > 0; --block) {
    const bool starts = left_in_run == args.run;
    Float factors[kRowVectors<kRows>];
    LOWBIT_UNROLL(2)
    for (int flush = 0; flush < kFlushes; ++flush) {
      Int dots[kRowVectors<kRows>][kWeightVectors];
      DotBlock<kRows, kSteps>(dots, codes, q);
      LoadFactors<kRows>(scale, factors);
      const float* record = lines + flush * kLineFloats * (kOffsets ? 2 : 1);
      AddScaled<kRows>(sums, record, factors, [&](int i, int w) { return ToFloat(dots[i][w]); });
      if constexpr (kOffsets) {  // the correction for a whole activation group, once
        if (!starts) continue;
        LoadFactors<kRows>(offset + flush * kRows, factors);
        AddOffsets<kRows>(sums, record + kLineFloats, factors);
      }
    }
    if (--left_in_run > 0) continue;
    left_in_run = args.run;
    lines += kLineFloats * ScaleLines(kOffsets, kHalves);
    scale += kRows;
    offset += kRows * kFlushes;
  }
  StoreTile<kRows>(args, sums);
}

// The same for weight groups of at least two sub-blocks, one activation scale per sub-block and no halves.
template <int kRows, bool kOffsets>
void WideTile(const TileArgs& args) {
  alignas(64) TileSums<kRows> memory;
  alignas(64) TileSums<kRows> group_memory;
  TileSums<kRows>& sums = InMemory<kRows>(memory);
  const uint8_t* codes = args.codes;
  const float* lines = args.scales;
  const int8_t* q = args.q;
  const float* scale = args.scale;
  const float* offset = args.offset;
  for (int left = args.blocks, ahead = args.group_blocks - args.in_group; left > 0; ahead = args.group_blocks) {
    const int blocks = left < ahead ? left : ahead;
    left -= blocks;
    TileSums<kRows>& group = InMemory<kRows>(group_memory);
    float corrections[kRows] = {};
    for (int block = blocks; block > 0; --block) {
      Int dots[kRowVectors<kRows>][kWeightVectors];
      DotBlock<kRows, kSubBlock / kStepColumns>(dots, codes, q);
      Float factors[kRowVectors<kRows>];
      LoadFactors<kRows>(scale, factors);
      LOWBIT_UNROLL(4)
      for (int i = 0; i < kRowVectors<kRows>; ++i) {
        LOWBIT_UNROLL(8)
        for (int w = 0; w < kWeightVectors; ++w) Store(group[i][w], Fma(ToFloat(dots[i][w]), factors[i], Load(group[i][w])));
      }
      if constexpr (kOffsets) {
        for (int i = 0; i < kRows; ++i) corrections[i] += offset[i];
      }
      scale += kRows;
      offset += kRows;
    }
    LOWBIT_UNROLL(8)
    for (int w = 0; w < kWeightVectors; ++w) {
      const Float scales = Load(lines + 4 * w);
      LOWBIT_UNROLL(4)
      for (int i = 0; i < kRowVectors<kRows>; ++i) Store(sums[i][w], Fma(Load(group[i][w]), scales, Load(sums[i][w])));
    }
    if constexpr (kOffsets) {
      Float factors[kRowVectors<kRows>];
      LoadFactors<kRows>(corrections, factors);
      AddOffsets<kRows>(sums, lines + kLineFloats, factors);
    }
    lines += static_cast<ptrdiff_t>(blocks) * kLineFloats * ScaleLines(kOffsets, false);
  }
  StoreTile<kRows>(args, sums);
}

using TileFunction = void (*)(const TileArgs&);

enum class TileKind { kPlain, kHalves, kWide };

template <int kRows>
LOWBIT_INLINE TileFunction TileForKind(bool offsets, TileKind kind) {
  switch (kind) {
    case TileKind::kPlain:
      return offsets ? Tile<kRows, true, false> : Tile<kRows, false, false>;
    case TileKind::kHalves:
      return offsets ? Tile<kRows, true, true> : Tile<kRows, false, true>;
    default:
      return offsets ? WideTile<kRows, true> : WideTile<kRows, false>;
  }
}

TileFunction TileFor(int rows, bool offsets, TileKind kind) {
  switch (rows) {
    case 1:
      return TileForKind<1>(offsets, kind);
    case 2:
      return TileForKind<2>(offsets, kind);
    case 3:
      return TileForKind<3>(offsets, kind);
    default:
      return TileForKind<neon::kGemmTile>(offsets, kind);
  }
}

LOWBIT_INLINE void Gemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                        uint8_t* scratch) {
  static_assert(kCodeScratch + kMaxBlocks * ScaleLines(true, true) * size_t(kLineFloats) * sizeof(float) <= kGemmScratchBytes);
  const PanelLayout layout = LayoutOf(w);
  const bool offsets = w.affine != AffineKind::kSymmetric, halves = layout.halves;
  const bool wide = layout.group_blocks > 1 && x.group == kSubBlock;
  const TileKind kind = halves ? TileKind::kHalves : wide ? TileKind::kWide : TileKind::kPlain;
  const UnpackFunction unpack = UnpackFor(w.bits);
  float* scale_lines = reinterpret_cast<float*>(scratch + kCodeScratch);
  Pass pass{0, 0, x.group / kSubBlock};
  const int most_blocks = kMaxBlocks / pass.run * pass.run;
  for (; pass.block < layout.blocks; pass.block += pass.blocks) {
    pass.blocks = layout.blocks - pass.block < most_blocks ? layout.blocks - pass.block : most_blocks;
    const size_t column = static_cast<size_t>(pass.block) * kSubBlock, group = static_cast<size_t>(pass.block / pass.run);
    for (int panel = panel0; panel < panel1; ++panel) {
      unpack(w, layout, panel, pass, scratch, scale_lines);
      TileArgs args{};
      args.codes = scratch;
      args.scales = scale_lines;
      args.blocks = pass.blocks;
      args.run = pass.run;
      args.group_blocks = layout.group_blocks;
      args.in_group = pass.block % layout.group_blocks;
      args.ldy = ldy;
      args.columns = w.n - panel * kPanelRows;
      args.add = accumulate || pass.block > 0;
      for (int row = 0; row < x.m; row += neon::kGemmTile) {
        const int rows = x.m - row < neon::kGemmTile ? x.m - row : neon::kGemmTile;
        const size_t r0 = static_cast<size_t>(row), count = static_cast<size_t>(rows);
        const size_t record = r0 * static_cast<size_t>(x.groups) + group * count;
        args.q = x.q + r0 * static_cast<size_t>(x.k_padded) + column * count;
        args.scale = x.scale + record;
        args.offset = halves ? x.half_scale_sum + 2 * record : x.scale_sum + record;
        args.y = y + r0 * ldy + static_cast<size_t>(panel) * kPanelRows;
        TileFor(rows, offsets, kind)(args);
      }
    }
  }
}

}  // namespace
}  // namespace lowbit
