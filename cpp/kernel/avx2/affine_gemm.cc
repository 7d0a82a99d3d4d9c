// kernel/avx2: y = x W^T for many int8 rows (prefill).
//
// One panel of up to kGemmColumns columns is unpacked to bytes, then every tile of 4 activation rows runs over it. The 4 x 16 f32
// sums of a tile live in the first-level cache: 16 registers cannot hold them beside the integer sums.
#include "kernel/avx2/lanes.h"

#ifdef LOWBIT_AVX2
#include "kernel/avx2/dot.h"
#include "kernel/avx2/internal.h"
#include "kernel/simd/gemm_blocks.h"

namespace lowbit {
namespace {

struct TileArgs {
  const uint8_t* codes;  // [quad][64]
  const float* scales;   // [group][lines][16]
  const int8_t* q;       // [quad][rows]{4}
  const float* scale;    // [group][rows]
  const float* offset;   // [group][rows], or [2 group][rows] for halves
  const int32_t* bias;
  int blocks, run;
  float* y;
  size_t ldy;
  int columns;  // of this panel
  bool add;
};

template <DotMode kMode, int kRows, bool kOffsets, bool kHalves>
void Tile(const TileArgs& args) {
  constexpr bool kBias = !kOffsets && kMode != DotMode::kSigned;
  constexpr int kFlushes = kHalves ? 2 : 1, kQuads = 8 / kFlushes;
  alignas(32) float sums[kRows][kPanelRows] = {};
  const uint8_t* codes = args.codes;
  const float* lines = args.scales;
  const int8_t* q = args.q;
  const float* scale = args.scale;
  const float* offset = args.offset;
  const int32_t* bias = args.bias;
  int left_in_run = args.run;
  for (int block = args.blocks; block > 0; --block) {
    const bool run_ends = --left_in_run == 0 || block == 1;
    LOWBIT_UNROLL(2)
    for (int flush = 0; flush < kFlushes; ++flush) {
      Int totals[kRows][2];
      DotQuads<kMode, kQuads>(
          totals, [&](int t, int h) { return LoadLine(codes + 64 * t + 32 * h); },
          [&](int t, int i) { return Broadcast4(q + 4 * (t * kRows + i)); });
      codes += 64 * kQuads;
      q += 4 * kRows * kQuads;
      const float* record = lines + flush * 16 * (kOffsets ? 2 : 1);
      LOWBIT_UNROLL(2)
      for (int h = 0; h < 2; ++h) {
        const Float scales = Load(record + 8 * h);
        LOWBIT_UNROLL(4)
        for (int i = 0; i < kRows; ++i) {
          Int total = totals[i][h];
          // the correction for the whole activation group, once
          if (kBias && run_ends) total = AddInt(total, Broadcast4(bias + i));
          Float sum = Fma(ToFloat(total), Mul(scales, Set(scale[i])), Load(&sums[i][8 * h]));
          if (kOffsets && run_ends) sum = Fma(Load(record + 16 + 8 * h), Set(offset[i]), sum);
          Store(&sums[i][8 * h], sum);
        }
      }
      if (run_ends) {
        offset += kRows;
        bias += kRows;
      }
    }
    if (run_ends) {
      scale += kRows;
      lines += 16 * ScaleLines(kOffsets, kHalves);
      left_in_run = args.run;
    }
  }
  const auto finish = [&](float* at, Float sum, auto part) { Store(at, args.add ? Add(sum, Load(at, part)) : sum, part); };
  LOWBIT_UNROLL(4)
  for (int i = 0; i < kRows; ++i) {
    float* y = args.y + static_cast<size_t>(i) * args.ldy;
    LOWBIT_UNROLL(2)
    for (int h = 0; h < 2; ++h) {
      const int count = args.columns - 8 * h;
      if (count >= kLanes)
        finish(y + 8 * h, Load(&sums[i][8 * h]), All{});
      else if (count > 0)
        finish(y + 8 * h, Load(&sums[i][8 * h]), First{count});
    }
  }
}

using TileFunction = void (*)(const TileArgs&);

template <DotMode kMode, int kRows>
LOWBIT_INLINE TileFunction TileForKind(bool offsets, bool halves) {
  if (halves) return offsets ? Tile<kMode, kRows, true, true> : Tile<kMode, kRows, false, true>;
  return offsets ? Tile<kMode, kRows, true, false> : Tile<kMode, kRows, false, false>;
}

template <DotMode kMode>
LOWBIT_INLINE TileFunction TileForRows(int rows, bool offsets, bool halves) {
  switch (rows) {
    case 1:
      return TileForKind<kMode, 1>(offsets, halves);
    case 2:
      return TileForKind<kMode, 2>(offsets, halves);
    case 3:
      return TileForKind<kMode, 3>(offsets, halves);
    default:
      return TileForKind<kMode, avx2::kGemmTile>(offsets, halves);
  }
}

TileFunction TileFor(DotMode mode, int rows, bool offsets, bool halves) {
  switch (mode) {
    case DotMode::kEight:
      return TileForRows<DotMode::kEight>(rows, offsets, halves);
    case DotMode::kPairs:
      return TileForRows<DotMode::kPairs>(rows, offsets, halves);
    case DotMode::kSingle:
      return TileForRows<DotMode::kSingle>(rows, offsets, halves);
    default:
      return TileForRows<DotMode::kSigned>(rows, offsets, halves);
  }
}

}  // namespace

void avx2::AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                      uint8_t* scratch) {
  static_assert(kCodeScratch + kMaxBlocks * ScaleLines(true, true) * size_t(kPanelRows) * sizeof(float) <= kGemmScratchBytes);
  const PanelLayout layout = LayoutOf(w);
  const bool offsets = w.affine != AffineKind::kSymmetric, halves = layout.halves;
  const DotMode mode = DotModeFor(w.bits);
  const UnpackFunction unpack = UnpackFor(w.bits, offsets, halves);
  float* scale_lines = reinterpret_cast<float*>(scratch + kCodeScratch);
  Pass pass{0, 0, x.group / kSubBlock};
  const int most_blocks = kMaxBlocks / pass.run * pass.run;
  const size_t group_records = halves ? 2 : 1;
  for (; pass.block < layout.blocks; pass.block += pass.blocks) {
    pass.blocks = layout.blocks - pass.block < most_blocks ? layout.blocks - pass.block : most_blocks;
    const size_t column = static_cast<size_t>(pass.block) * kSubBlock, group = static_cast<size_t>(pass.block / pass.run);
    for (int panel = panel0; panel < panel1; ++panel) {
      unpack(w, layout, panel, pass, 0, 1, static_cast<float>(Centre(mode)), scratch, scale_lines);
      TileArgs args{};
      args.codes = scratch;
      args.scales = scale_lines;
      args.blocks = pass.blocks;
      args.run = pass.run;
      args.ldy = ldy;
      args.columns = w.n - panel * kPanelRows;
      args.add = accumulate || pass.block > 0;
      for (int row = 0; row < x.m; row += kGemmTile) {
        const int rows = x.m - row < kGemmTile ? x.m - row : kGemmTile;
        const size_t r0 = static_cast<size_t>(row), count = static_cast<size_t>(rows);
        const size_t record = (r0 * static_cast<size_t>(x.groups) + group * count) * group_records;
        args.q = x.q + r0 * static_cast<size_t>(x.k_padded) + column * count;
        args.scale = x.scale + r0 * static_cast<size_t>(x.groups) + group * count;
        args.offset = (halves ? x.half_scale_sum : x.scale_sum) + record;
        args.bias = (halves ? x.half_bias : x.bias) + record;
        args.y = y + r0 * ldy + static_cast<size_t>(panel) * kPanelRows;
        TileFor(mode, rows, offsets, halves)(args);
      }
    }
  }
}

}  // namespace lowbit
#endif
