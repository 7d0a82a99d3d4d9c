// kernel/amx: one panel of packed codes -> left operands of the tile products, and f32 scale lines.
//
// A sub-block becomes [16 lines][32 columns] of signed codes: line 4 j + c holds weight row 4 c + j, because that is how an 8 x 16
// transpose of dwords falls out of unpacks and permutes.
#pragma once

#include "kernel/amx/tiles.h"
#include "kernel/kernel.h"
#include "kernel/simd/planes.h"
#include "kernel/simd/units.h"

namespace lowbit {
namespace {

constexpr int kMaxBlocks = kGemmColumns / kSubBlock;
constexpr size_t kBlockBytes = size_t(kSubBlock) * kPanelRows;
constexpr size_t kCodeScratch = size_t(kMaxBlocks) * kBlockBytes;

constexpr int LineOfRow(int row) { return row % 4 * 4 + row / 4; }

// One pass over sub-blocks [block, block + blocks).
struct Pass {
  int block, blocks;
  int run;  // sub-blocks per activation scale; passes begin at a multiple of it
};

// Scale lines per activation group: for each record (two if halves) the scales, then, if offsets, what is added per unit of sum(x).
constexpr int ScaleLines(bool offsets, bool halves) { return (offsets ? 2 : 1) * (halves ? 2 : 1); }

// One sub-block of packed codes.
template <int kBits>
LOWBIT_INLINE void UnpackBlock(const uint8_t* codes, Int centre, uint8_t* out) {
  const Int low_rows = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high_rows = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  Int halves[2][4];  // [columns 0-15, 16-31][j]: 16 columns of rows j, 4 + j, 8 + j, 12 + j
  LOWBIT_UNROLL(2)
  for (int h = 0; h < 2; ++h) {
    Int q[4];
    LOWBIT_UNROLL(4)
    for (int t = 0; t < 4; ++t) q[t] = _mm512_sub_epi8(Quad<kBits>(codes, 4 * h + t), centre);
    const Int a = _mm512_unpacklo_epi32(q[0], q[1]), b = _mm512_unpackhi_epi32(q[0], q[1]);
    const Int c = _mm512_unpacklo_epi32(q[2], q[3]), d = _mm512_unpackhi_epi32(q[2], q[3]);
    halves[h][0] = _mm512_unpacklo_epi64(a, c);
    halves[h][1] = _mm512_unpackhi_epi64(a, c);
    halves[h][2] = _mm512_unpacklo_epi64(b, d);
    halves[h][3] = _mm512_unpackhi_epi64(b, d);
  }
  LOWBIT_UNROLL(4)
  for (int j = 0; j < 4; ++j, out += 128) {
    _mm512_store_si512(out, _mm512_permutex2var_epi64(halves[0][j], low_rows, halves[1][j]));
    _mm512_store_si512(out + 64, _mm512_permutex2var_epi64(halves[0][j], high_rows, halves[1][j]));
  }
}

// One panel of a pass: codes to [block][16 lines][32 columns], scales to [group][lines][16 rows].
template <int kBits>
void UnpackPass(const PackedView& w, const PanelLayout& layout, int panel, const Pass& pass, uint8_t* out, float* line) {
  const bool symmetric = w.affine == AffineKind::kSymmetric;
  // what makes the codes signed: the zero point where it is the same for all, else 128, which the offsets give back
  const int centre = symmetric ? 1 << (kBits - 1) : kBits == 8 ? 128 : 0;
  const Int centres = SetByte(centre);
  int in_group = pass.block % layout.group_blocks;
  GroupCursor cursor = GroupAt(layout, w.data + static_cast<size_t>(panel) * w.panel_bytes, pass.block / layout.group_blocks);
  const uint8_t* codes = cursor.codes + static_cast<size_t>(in_group) * layout.block_bytes;
  for (int block = 0; block < pass.blocks; ++block, out += kBlockBytes) {
    if (block % pass.run == 0) {
      for (int h = 0; h < (layout.halves ? 2 : 1); ++h) {
        const Record record = HalfOf(layout.record_bytes, cursor.record, h);
        const Float scales = LoadScales(record, w.meta, 0);
        Store(line, scales);
        line += kPanelRows;
        if (symmetric) continue;
        Store(line, Fma(scales, Set(static_cast<float>(centre)), LoadOffsets(record, w.meta, layout.zero_point, 0, scales)));
        line += kPanelRows;
      }
    }
    UnpackBlock<kBits>(codes, centres, out);
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

}  // namespace
}  // namespace lowbit
