// kernel/amx: y = x W^T for many int8 rows (prefill) on the matrix tiles of AMX-INT8 (Sapphire Rapids and later). Decode and
// everything else of the table are AVX-512's. The tests run this source in emulation too (tiles.h).
//
// A product tile is 16 weight rows x 16 activation rows. Its left operand is weights, [16 rows][32 columns], made once per pass from
// the unpacked lines by an 8 x 16 transpose, signed by taking the zero point (or 128) away, so that TDPBSSD needs no correction per
// product. Its right operand is the activations as quantize_rows packs them for a tile of 16 rows: [8 quads][16 rows]{4}.
//
// Why 32 columns per tile although TDPBSSD takes 64: int32 sums may not cross an activation scale, and those stand every 32 columns
// (kernel/chooser.cc). Padding to 64 with zeros would cost the same: a TDPBSSD takes a cycle per row of its left operand, 16, whatever
// the depth. On paper, per 16 x 16 x 32 products (8192) on Sapphire Rapids:
//   matrix unit                                      16 cycles
//   scaling: 16 x (convert, multiply, fma) on 2 ports 24 cycles   (wider weight groups: 16 x (convert, fma), 16 cycles)
//   loads: 16 + 8 tile rows, 16 sums, 16 scales       28 cycles;  stores of the sums 16
// so about 290 products per cycle (410 for wider groups, where the scales are read once per group) where AVX-512 VNNI does 100 with 2 x
// 64 per cycle. 2 x 2 tiles that share operands would save loads (to 22 cycles), but not the scaling, and their 64 registers of f32
// sums do not exist: not worth it. Measured on a shared core, whole prompts of 512 tokens, it is as fast as AVX-512 VNNI for groups of 128
// and 0.85 of it for groups of 32: the stores of sums cost more than on paper. Two products are in flight, because a TDPBSSD takes 52
// cycles and its sums pass through memory.
#include "kernel/amx/tiles.h"

#ifdef LOWBIT_AMX
#include "kernel/amx/internal.h"
#include "kernel/amx/transpose.h"
#include "kernel/amx/unpack.h"

namespace lowbit {
namespace {

// Tile numbers. 0, 1: sums of a whole tile of activations; 3, 4 weights; 5, 6 activations. 2 and 7: the same for the last tile of a
// matrix, which may have fewer rows and therefore another shape.
constexpr int kLastSums = 2, kLastRight = 7;

// The tiles and buffer of one of the two products in flight.
template <int kNumber>
struct Slot {
  static constexpr int kValue = kNumber;
};

struct TileArgs {
  const uint8_t* codes;  // [block][16 lines][32]
  const float* scales;   // [group][lines][16]
  const int8_t* q;       // [quad][rows]{4}
  const float* scale;    // [group][rows]
  const float* offset;   // [group][rows], or [2 group][rows] for halves
  int blocks, run, rows;
  int group_blocks, in_group;  // wide: sub-blocks per weight group, and how many of the first came in an earlier pass
  float* y;
  size_t ldy;
  __mmask16 columns;  // of this panel
  bool add;
};

// Integer sums of one product, [line of the weights][activation row]. Columns of rows that do not exist are never stored.
struct alignas(64) Products {
  int32_t lines[2][kPanelRows][16];
};

// Products of `blocks` sub-blocks (of half of one if the tiles are set up so) to lines[kSlot].
template <bool kWhole, int kSlot>
LOWBIT_INLINE void Dot(const TileArgs& args, const uint8_t* codes, const int8_t* q, int blocks, Products& products) {
  constexpr int kSums = kWhole ? kSlot : kLastSums, kLeft = 3 + kSlot, kRight = kWhole ? 5 + kSlot : kLastRight;
  const size_t line = 4 * static_cast<size_t>(args.rows);
  ZeroTile<kSums>();
  for (int block = 0; block < blocks; ++block, codes += kBlockBytes, q += 8 * line) {
    LoadTile<kLeft>(codes, kSubBlock);
    LoadTile<kRight>(q, line);
    DotTiles<kSums, kLeft, kRight>();
  }
  StoreTile<kSums>(products.lines[kSlot], 64);
}

// sums[line] += products * scale of the weight row * scales of the activations.
LOWBIT_INLINE void AddProducts(Float (&sums)[kPanelRows], const int32_t (*products)[16], const float* line, Float factors) {
  LOWBIT_UNROLL(16)
  for (int r = 0; r < kPanelRows; ++r) {
    const int l = LineOfRow(r);
    sums[l] = Fma(ToFloat(_mm512_load_si512(products[l])), Mul(Set(line[r]), factors), sums[l]);
  }
}

LOWBIT_INLINE void AddOffsets(Float (&sums)[kPanelRows], const float* line, Float factors) {
  LOWBIT_UNROLL(16)
  for (int r = 0; r < kPanelRows; ++r) sums[LineOfRow(r)] = Fma(Set(line[r]), factors, sums[LineOfRow(r)]);
}

// y[activation row][weight row] (+)= sums[line][activation row].
LOWBIT_INLINE void StoreSums(const TileArgs& args, const Float (&sums)[kPanelRows]) {
  __m512i lines[16];
  LOWBIT_UNROLL(16)
  for (int r = 0; r < kPanelRows; ++r) lines[r] = _mm512_castps_si512(sums[LineOfRow(r)]);
  Transpose16(lines);
  for (int i = 0; i < args.rows; ++i) {
    float* y = args.y + static_cast<size_t>(i) * args.ldy;
    const Float sum = _mm512_castsi512_ps(lines[i]);
    _mm512_mask_storeu_ps(y, args.columns, args.add ? Add(sum, _mm512_maskz_loadu_ps(args.columns, y)) : sum);
  }
}

// A unit is what one scale per activation row and one per weight row belong to: `run` sub-blocks, or half of one.
template <bool kWhole, bool kOffsets, bool kHalves>
void Tile(const TileArgs& args) {
  constexpr int kLine = kPanelRows * (kOffsets ? 2 : 1);
  const size_t rows = static_cast<size_t>(args.rows), unit_columns = kHalves ? 16 : static_cast<size_t>(args.run) * kSubBlock;
  const int units = kHalves ? 2 * args.blocks : (args.blocks + args.run - 1) / args.run;
  const __mmask16 lanes = static_cast<__mmask16>((1u << args.rows) - 1);
  Products products;
  Float sums[kPanelRows];
  LOWBIT_UNROLL(16)
  for (Float& sum : sums) sum = Zero();
  const auto dot = [&](auto slot, int unit) {
    const size_t u = static_cast<size_t>(unit);
    const uint8_t* codes = args.codes + (kHalves ? u / 2 * kBlockBytes + u % 2 * 16 : u * static_cast<size_t>(args.run) * kBlockBytes);
    const int left = args.blocks - unit * args.run, blocks = kHalves ? 1 : left < args.run ? left : args.run;
    Dot<kWhole, decltype(slot)::kValue>(args, codes, args.q + u * unit_columns * rows, blocks, products);
  };
  const auto add = [&](int slot, int unit) {
    const size_t u = static_cast<size_t>(unit);
    const float* line = args.scales + u * kLine;
    AddProducts(sums, products.lines[slot], line, _mm512_maskz_loadu_ps(lanes, args.scale + (kHalves ? u / 2 : u) * rows));
    if constexpr (kOffsets) AddOffsets(sums, line + kPanelRows, _mm512_maskz_loadu_ps(lanes, args.offset + u * rows));
  };
  int unit = 0;
  for (; unit + 2 <= units; unit += 2) {
    dot(Slot<0>{}, unit);
    dot(Slot<1>{}, unit + 1);
    add(0, unit);
    add(1, unit + 1);
  }
  if (unit < units) {
    dot(Slot<0>{}, unit);
    add(0, unit);
  }
  StoreSums(args, sums);
}

// The same for weight groups of at least two sub-blocks and one activation scale per sub-block: the weight's scale once per group.
template <bool kWhole, bool kOffsets>
void WideTile(const TileArgs& args) {
  const size_t rows = static_cast<size_t>(args.rows);
  const __mmask16 lanes = static_cast<__mmask16>((1u << args.rows) - 1);
  Products products;
  Float sums[kPanelRows];
  LOWBIT_UNROLL(16)
  for (Float& sum : sums) sum = Zero();
  const float* line = args.scales;
  size_t block = 0;
  for (int left = args.blocks, ahead = args.group_blocks - args.in_group; left > 0; ahead = args.group_blocks) {
    const int blocks = left < ahead ? left : ahead;
    left -= blocks;
    Float group[kPanelRows], corrections = Zero();
    LOWBIT_UNROLL(16)
    for (Float& sum : group) sum = Zero();
    const auto dot = [&](auto slot, size_t at) {
      Dot<kWhole, decltype(slot)::kValue>(args, args.codes + at * kBlockBytes, args.q + at * kSubBlock * rows, 1, products);
    };
    const auto add = [&](int slot, size_t at) {
      const Float factors = _mm512_maskz_loadu_ps(lanes, args.scale + at * rows);
      LOWBIT_UNROLL(16)
      for (int l = 0; l < kPanelRows; ++l) group[l] = Fma(ToFloat(_mm512_load_si512(products.lines[slot][l])), factors, group[l]);
      if constexpr (kOffsets) corrections = Add(corrections, _mm512_maskz_loadu_ps(lanes, args.offset + at * rows));
    };
    const size_t end = block + static_cast<size_t>(blocks);
    for (; block + 2 <= end; block += 2) {
      dot(Slot<0>{}, block);
      dot(Slot<1>{}, block + 1);
      add(0, block);
      add(1, block + 1);
    }
    if (block < end) {
      dot(Slot<0>{}, block);
      add(0, block++);
    }
    LOWBIT_UNROLL(16)
    for (int r = 0; r < kPanelRows; ++r) sums[LineOfRow(r)] = Fma(group[LineOfRow(r)], Set(line[r]), sums[LineOfRow(r)]);
    if constexpr (kOffsets) AddOffsets(sums, line + kPanelRows, corrections);
    line += static_cast<ptrdiff_t>(blocks) * kPanelRows * (kOffsets ? 2 : 1);
  }
  StoreSums(args, sums);
}

using TileFunction = void (*)(const TileArgs&);

template <bool kWhole>
LOWBIT_INLINE TileFunction TileFor(bool offsets, bool halves, bool wide) {
  if (wide) return offsets ? WideTile<kWhole, true> : WideTile<kWhole, false>;
  if (halves) return offsets ? Tile<kWhole, true, true> : Tile<kWhole, false, true>;
  return offsets ? Tile<kWhole, true, false> : Tile<kWhole, false, false>;
}

TileConfig ConfigFor(int m, bool halves) {
  const int depth = halves ? 16 : kSubBlock, last = m % amx::kGemmTile;
  TileConfig config;
  for (int slot = 0; slot < 2; ++slot) {
    config.Set(slot, kPanelRows, 4 * amx::kGemmTile);
    config.Set(3 + slot, kPanelRows, depth);
    config.Set(5 + slot, depth / 4, 4 * amx::kGemmTile);
  }
  if (last == 0) return config;
  config.Set(kLastSums, kPanelRows, 4 * last);
  config.Set(kLastRight, depth / 4, 4 * last);
  return config;
}

}  // namespace

void amx::AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                     uint8_t* scratch) {
  static_assert(kCodeScratch + kMaxBlocks * ScaleLines(true, true) * size_t(kPanelRows) * sizeof(float) <= kGemmScratchBytes);
  const PanelLayout layout = LayoutOf(w);
  const bool offsets = w.affine != AffineKind::kSymmetric, halves = layout.halves;
  const bool wide = layout.group_blocks > 1 && x.group == kSubBlock;
  const TileFunction whole = TileFor<true>(offsets, halves, wide), last = TileFor<false>(offsets, halves, wide);
  const UnpackFunction unpack = UnpackFor(w.bits);
  float* scale_lines = reinterpret_cast<float*>(scratch + kCodeScratch);
  ConfigureTiles(ConfigFor(x.m, halves));
  Pass pass{0, 0, x.group / kSubBlock};
  const int most_blocks = kMaxBlocks / pass.run * pass.run;
  for (; pass.block < layout.blocks; pass.block += pass.blocks) {
    pass.blocks = layout.blocks - pass.block < most_blocks ? layout.blocks - pass.block : most_blocks;
    const size_t column = static_cast<size_t>(pass.block) * kSubBlock, group = static_cast<size_t>(pass.block / pass.run);
    for (int panel = panel0; panel < panel1; ++panel) {
      unpack(w, layout, panel, pass, scratch, scale_lines);
      const int columns = w.n - panel * kPanelRows;
      TileArgs args{};
      args.codes = scratch;
      args.scales = scale_lines;
      args.blocks = pass.blocks;
      args.run = pass.run;
      args.group_blocks = layout.group_blocks;
      args.in_group = pass.block % layout.group_blocks;
      args.ldy = ldy;
      args.columns = columns >= kPanelRows ? static_cast<__mmask16>(0xffff) : Mask(First{columns});
      args.add = accumulate || pass.block > 0;
      for (int row = 0; row < x.m; row += kGemmTile) {
        args.rows = x.m - row < kGemmTile ? x.m - row : kGemmTile;
        const size_t r0 = static_cast<size_t>(row), count = static_cast<size_t>(args.rows);
        const size_t record = r0 * static_cast<size_t>(x.groups) + group * count;
        args.q = x.q + r0 * static_cast<size_t>(x.k_padded) + column * count;
        args.scale = x.scale + record;
        args.offset = halves ? x.half_scale_sum + 2 * record : x.scale_sum + record;
        args.y = y + r0 * ldy + static_cast<size_t>(panel) * kPanelRows;
        (args.rows == kGemmTile ? whole : last)(args);
      }
    }
  }
  ReleaseTiles();
}

}  // namespace lowbit
#endif
