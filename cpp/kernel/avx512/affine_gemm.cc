// kernel/avx512: y = x W^T for many int8 rows (prefill).
//
// Two panels (32 outputs) of up to kGemmColumns columns are unpacked to bytes, then every tile of 6 activation rows runs over
// them: 12 vpdpbusd per two weight lines and six broadcasts. Every 32 columns the int32 sums become f32 with the scales of
// weight and activation: 24 operations on the multiply pipes after 96, so the bound is 80 % of the vpdpbusd rate. Where a weight
// group is wider, only the activation scale is applied every 32 columns and the weight scale once per group: 12 after 96.
#include "kernel/avx512/lanes.h"

#ifdef LOWBIT_AVX512
#include "kernel/avx512/internal.h"
#include "kernel/simd/gemm_blocks.h"

namespace lowbit {
namespace {

struct TileArgs {
  const uint8_t* codes;  // [quad][panels][64]
  const float* scales;   // [group][lines][panels][16]
  const int8_t* q;       // [quad][rows]{4}
  const float* scale;    // [group][rows]
  const float* offset;   // [group][rows], or [2 group][rows] for halves
  const int32_t* bias;
  int blocks, run;
  int group_blocks, in_group;  // wide tiles: sub-blocks per weight group, and how many of the first came in an earlier pass
  float* y;
  size_t ldy;
  __mmask16 last_mask;  // columns of the last panel
  bool add;
};

// Stands for the corrections of sub-blocks that have none.
struct Zeros {
  int32_t bias[avx512::kGemmTile];
  float offset[avx512::kGemmTile];
};
constexpr Zeros kZeros = {};

// y is asked for early and added at the end: loading it first would stall on strides that are powers of two.
template <int kRows, int kPanels>
LOWBIT_INLINE void PrefetchTile(const TileArgs& args) {
  LOWBIT_UNROLL(6)
  for (int i = 0; i < kRows; ++i) {
    LOWBIT_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) {
      _mm_prefetch(reinterpret_cast<const char*>(args.y + static_cast<size_t>(i) * args.ldy + p * kPanelRows), _MM_HINT_T0);
    }
  }
}

template <int kRows, int kPanels>
LOWBIT_INLINE void StoreTile(const TileArgs& args, const Float (&sums)[kRows][kPanels]) {
  LOWBIT_UNROLL(6)
  for (int i = 0; i < kRows; ++i) {
    float* y = args.y + static_cast<size_t>(i) * args.ldy;
    LOWBIT_UNROLL(2)
    for (int p = 0; p < kPanels; ++p, y += kPanelRows) {
      const __mmask16 mask = p + 1 == kPanels ? args.last_mask : static_cast<__mmask16>(0xffff);
      _mm512_mask_storeu_ps(y, mask, args.add ? Add(sums[i][p], _mm512_maskz_loadu_ps(mask, y)) : sums[i][p]);
    }
  }
}

template <int kRows, int kPanels>
LOWBIT_INLINE void DotQuad(const uint8_t* codes, const int8_t* q, Int (&dots)[kRows][kPanels]) {
  Int weights[kPanels];
  LOWBIT_UNROLL(2)
  for (int p = 0; p < kPanels; ++p) weights[p] = LoadLine(codes + 64 * p);
  LOWBIT_UNROLL(6)
  for (int i = 0; i < kRows; ++i) {
    const Int x = Broadcast4(q + 4 * i);
    LOWBIT_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) dots[i][p] = _mm512_dpbusd_epi32(dots[i][p], weights[p], x);
  }
}

template <int kRows, int kPanels, bool kOffsets, bool kHalves>
void Tile(const TileArgs& args) {
  constexpr int kFlushes = kHalves ? 2 : 1, kQuads = 8 / kFlushes;
  Float sums[kRows][kPanels];
  PrefetchTile<kRows, kPanels>(args);
  LOWBIT_UNROLL(6)
  for (int i = 0; i < kRows; ++i) {
    LOWBIT_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) sums[i][p] = Zero();
  }
  const uint8_t* codes = args.codes;
  const float* lines = args.scales;
  const int8_t* q = args.q;
  const float* scale = args.scale;
  const float* offset = args.offset;
  const int32_t* bias = args.bias;
  for (int block = args.blocks, left_in_run = args.run; block > 0; --block) {
    // the corrections for a whole activation group go with its first sub-block
    const bool starts = left_in_run == args.run;
    LOWBIT_UNROLL(2)
    for (int flush = 0; flush < kFlushes; ++flush) {
      const int32_t* start = starts ? bias + flush * kRows : kZeros.bias;
      Int dots[kRows][kPanels];
      LOWBIT_UNROLL(6)
      for (int i = 0; i < kRows; ++i) {
        LOWBIT_UNROLL(2)
        for (int p = 0; p < kPanels; ++p) dots[i][p] = kOffsets ? ZeroInt() : Broadcast4(start + i);
      }
      LOWBIT_UNROLL(8)
      for (int t = 0; t < kQuads; ++t, codes += 64 * kPanels, q += 4 * kRows) DotQuad<kRows, kPanels>(codes, q, dots);
      const float* record = lines + flush * 16 * kPanels * (kOffsets ? 2 : 1);
      const float* correction = starts ? offset + flush * kRows : kZeros.offset;
      LOWBIT_UNROLL(6)
      for (int i = 0; i < kRows; ++i) {
        const Float factor = Set(scale[i]);
        LOWBIT_UNROLL(2)
        for (int p = 0; p < kPanels; ++p) {
          sums[i][p] = Fma(ToFloat(dots[i][p]), Mul(Load(record + 16 * p), factor), sums[i][p]);
          if constexpr (kOffsets) sums[i][p] = Fma(Load(record + 16 * (kPanels + p)), Set(correction[i]), sums[i][p]);
        }
      }
    }
    if (--left_in_run > 0) continue;
    left_in_run = args.run;
    lines += 16 * kPanels * ScaleLines(kOffsets, kHalves);
    scale += kRows;
    offset += kRows * kFlushes;
    bias += kRows * kFlushes;
  }
  StoreTile<kRows, kPanels>(args, sums);
}

// The same for weight groups of at least two sub-blocks, one activation scale per sub-block and no halves. The sums of a group are
// kept in registers; those of the row live in the first-level cache, where they are touched once per group.
template <int kRows, int kPanels, bool kOffsets>
void WideTile(const TileArgs& args) {
  Float sums[kRows][kPanels];
  PrefetchTile<kRows, kPanels>(args);
  LOWBIT_UNROLL(6)
  for (int i = 0; i < kRows; ++i) {
    LOWBIT_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) sums[i][p] = Zero();
  }
  const uint8_t* codes = args.codes;
  const float* lines = args.scales;
  const int8_t* q = args.q;
  const float* scale = args.scale;
  const float* offset = args.offset;
  const int32_t* bias = args.bias;
  const __mmask8 lanes = static_cast<__mmask8>((1 << kRows) - 1);
  for (int left = args.blocks, ahead = args.group_blocks - args.in_group; left > 0; ahead = args.group_blocks) {
    const int blocks = left < ahead ? left : ahead;
    left -= blocks;
    Float group[kRows][kPanels];
    LOWBIT_UNROLL(6)
    for (int i = 0; i < kRows; ++i) {
      LOWBIT_UNROLL(2)
      for (int p = 0; p < kPanels; ++p) group[i][p] = Zero();
    }
    __m256 corrections = _mm256_setzero_ps();
    for (int block = blocks; block > 0; --block) {
      Int dots[kRows][kPanels];
      LOWBIT_UNROLL(6)
      for (int i = 0; i < kRows; ++i) {
        LOWBIT_UNROLL(2)
        for (int p = 0; p < kPanels; ++p) dots[i][p] = kOffsets ? ZeroInt() : Broadcast4(bias + i);
      }
      LOWBIT_UNROLL(8)
      for (int t = 0; t < 8; ++t, codes += 64 * kPanels, q += 4 * kRows) DotQuad<kRows, kPanels>(codes, q, dots);
      LOWBIT_UNROLL(6)
      for (int i = 0; i < kRows; ++i) {
        const Float factor = Set(scale[i]);
        LOWBIT_UNROLL(2)
        for (int p = 0; p < kPanels; ++p) group[i][p] = Fma(ToFloat(dots[i][p]), factor, group[i][p]);
      }
      if constexpr (kOffsets) corrections = _mm256_add_ps(corrections, _mm256_maskz_loadu_ps(lanes, offset));
      scale += kRows;
      offset += kRows;
      bias += kRows;
    }
    alignas(32) float correction[8];
    _mm256_store_ps(correction, corrections);
    LOWBIT_UNROLL(6)
    for (int i = 0; i < kRows; ++i) {
      LOWBIT_UNROLL(2)
      for (int p = 0; p < kPanels; ++p) {
        sums[i][p] = Fma(group[i][p], Load(lines + 16 * p), sums[i][p]);
        if constexpr (kOffsets) sums[i][p] = Fma(Load(lines + 16 * (kPanels + p)), Set(correction[i]), sums[i][p]);
      }
    }
    lines += static_cast<ptrdiff_t>(blocks) * 16 * kPanels * ScaleLines(kOffsets, false);
  }
  StoreTile<kRows, kPanels>(args, sums);
}

using TileFunction = void (*)(const TileArgs&);

enum class TileKind { kPlain, kHalves, kWide };

template <int kRows, int kPanels>
LOWBIT_INLINE TileFunction TileForKind(bool offsets, TileKind kind) {
  switch (kind) {
    case TileKind::kPlain:
      return offsets ? Tile<kRows, kPanels, true, false> : Tile<kRows, kPanels, false, false>;
    case TileKind::kHalves:
      return offsets ? Tile<kRows, kPanels, true, true> : Tile<kRows, kPanels, false, true>;
    default:
      return offsets ? WideTile<kRows, kPanels, true> : WideTile<kRows, kPanels, false>;
  }
}

template <int kPanels>
LOWBIT_INLINE TileFunction TileForRows(int rows, bool offsets, TileKind kind) {
  switch (rows) {
    case 1:
      return TileForKind<1, kPanels>(offsets, kind);
    case 2:
      return TileForKind<2, kPanels>(offsets, kind);
    case 3:
      return TileForKind<3, kPanels>(offsets, kind);
    case 4:
      return TileForKind<4, kPanels>(offsets, kind);
    case 5:
      return TileForKind<5, kPanels>(offsets, kind);
    default:
      return TileForKind<avx512::kGemmTile, kPanels>(offsets, kind);
  }
}

TileFunction TileFor(int rows, int panels, bool offsets, TileKind kind) {
  return panels == 2 ? TileForRows<2>(rows, offsets, kind) : TileForRows<1>(rows, offsets, kind);
}

}  // namespace

void avx512::AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                        uint8_t* scratch) {
  static_assert(2 * (kCodeScratch + kMaxBlocks * ScaleLines(true, true) * size_t(kPanelRows) * sizeof(float)) <= kGemmScratchBytes);
  const PanelLayout layout = LayoutOf(w);
  const bool offsets = w.affine != AffineKind::kSymmetric, halves = layout.halves;
  const bool wide = layout.group_blocks > 1 && x.group == kSubBlock;
  const TileKind kind = halves ? TileKind::kHalves : wide ? TileKind::kWide : TileKind::kPlain;
  const UnpackFunction unpack = UnpackFor(w.bits, offsets, halves);
  float* scale_lines = reinterpret_cast<float*>(scratch + 2 * kCodeScratch);
  Pass pass{0, 0, x.group / kSubBlock};
  const int most_blocks = kMaxBlocks / pass.run * pass.run;
  const size_t group_records = halves ? 2 : 1;
  for (; pass.block < layout.blocks; pass.block += pass.blocks) {
    pass.blocks = layout.blocks - pass.block < most_blocks ? layout.blocks - pass.block : most_blocks;
    const size_t column = static_cast<size_t>(pass.block) * kSubBlock, group = static_cast<size_t>(pass.block / pass.run);
    for (int panel = panel0; panel < panel1; panel += 2) {
      const int panels = panel1 - panel < 2 ? 1 : 2;
      for (int p = 0; p < panels; ++p) unpack(w, layout, panel + p, pass, p, panels, 0, scratch, scale_lines);
      const int last_columns = w.n - (panel + panels - 1) * kPanelRows;
      TileArgs args{};
      args.codes = scratch;
      args.scales = scale_lines;
      args.blocks = pass.blocks;
      args.run = pass.run;
      args.group_blocks = layout.group_blocks;
      args.in_group = pass.block % layout.group_blocks;
      args.ldy = ldy;
      args.last_mask = last_columns >= kPanelRows ? static_cast<__mmask16>(0xffff) : Mask(First{last_columns});
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
        TileFor(rows, panels, offsets, kind)(args);
      }
    }
  }
}

}  // namespace lowbit
#endif
