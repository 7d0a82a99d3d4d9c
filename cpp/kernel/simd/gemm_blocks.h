// kernel/simd: how the int8 GEMM cuts the columns of a weight, and its scratch.
//
// A pass unpacks up to kPassColumns columns of one or two panels to one byte per code and f32 scale lines, then sweeps every tile of
// activations, so the cost of unpacking is shared and the inner kernel does not know the bit width.
#pragma once

#include "kernel/kernel.h"
#include "kernel/simd/compiler.h"
#include "kernel/simd/pass.h"
#include "kernel/simd/planes.h"
#include "kernel/simd/units.h"

namespace lowbit {
namespace {

constexpr int kMaxBlocks = kPassColumns / kSubBlock;
// Codes, 128 KB for two panels or two parts, and starts of sums; then the scale lines.
constexpr size_t kStartScratch = 2 * static_cast<size_t>(kMaxBlocks) * 64;
constexpr size_t kCodeScratch = 2 * static_cast<size_t>(kPassColumns) * kPanelRows + kStartScratch;

// One pass over sub-blocks [block, block + blocks).
struct Pass {
  int block, blocks;
};

// f32 lines of 16 per scale group (at the two halves of 32 columns: kHalves) and panel: the scales, then, if offsets, what is added
// per unit of sum(x).
constexpr int ScaleLines(bool offsets, bool halves) { return (offsets ? 2 : 1) * (halves ? 2 : 1); }
static_assert(kCodeScratch + 2 * kMaxBlocks * ScaleLines(true, true) * size_t(kPanelRows) * sizeof(float) <= kGemmScratchBytes);

// Writes panel `slot` of `slots` of a pass: codes to [quad][parts][slots][64], with a line [slots][64] of starts behind the quads of a
// scale group or, at most, a sub-block, where the mode of the dot products has them; scales to [group][lines][slots][16]. A group that
// began in an earlier pass has its lines in both.
template <int kBits, bool kOffsets, bool kHalves>
void UnpackPass(const PackedView& w, const PanelLayout& layout, int panel, const Pass& pass, int slot, int slots, uint8_t* codes_out,
                float* scales_out) {
  const bool symmetric = w.affine == AffineKind::kSymmetric;
  const size_t part_bytes = static_cast<size_t>(slots) * 64, line_floats = static_cast<size_t>(slots) * kPanelRows;
  constexpr DotMode kMode = GemmModeFor(kBits);
  constexpr int kFlushes = kHalves ? 2 : 1, kQuads = 8 / kFlushes, kParts = CodeParts(kMode);
  constexpr bool kStarts = Centre(kMode) != 0;
  const size_t quad_bytes = part_bytes * kParts, flush_bytes = kQuads * quad_bytes + (kStarts ? part_bytes : 0);
  const Float symmetric_zero = Set(static_cast<float>(-(1 << (kBits - 1)))), centre = Set(static_cast<float>(Centre(kMode)));
  int in_group = pass.block % layout.group_blocks;
  GroupCursor cursor = GroupAt(layout, w.data + static_cast<size_t>(panel) * w.panel_bytes, pass.block / layout.group_blocks);
  const uint8_t* codes = cursor.codes + static_cast<size_t>(in_group) * layout.block_bytes;
  uint8_t* out = codes_out + static_cast<size_t>(slot) * 64;
  float* line = scales_out + static_cast<size_t>(slot) * kPanelRows;
  for (int block = 0; block < pass.blocks; ++block) {
    if (block == 0 || in_group == 0) {
      LOWBIT_UNROLL(2)
      for (int h = 0; h < (kHalves ? 2 : 1); ++h) {
        const Record record = HalfOf(layout.record_bytes, cursor.record, h);
        LOWBIT_UNROLL(2)
        for (int row0 = 0; row0 < kPanelRows; row0 += kLanes) {
          const Float scales = LoadScales(record, w.meta, row0);
          Store(line + row0, scales);
          if constexpr (kOffsets) {
            const Float offsets = symmetric ? Mul(scales, symmetric_zero) : LoadOffsets(record, w.meta, layout.zero_point, row0, scales);
            Store(line + line_floats + row0, kStarts ? Fma(scales, centre, offsets) : offsets);
          }
        }
        line += line_floats * (kOffsets ? 2 : 1);
      }
    }
    LOWBIT_UNROLL(2)
    for (int row0 = 0; row0 < kPanelRows; row0 += kLanes) {
      Int starts[2] = {ZeroInt(), ZeroInt()};
      uint8_t* at = out + 4 * row0;
      LOWBIT_UNROLL(8)
      for (int i = 0; i < 8; ++i) {
        const int t = QuadOrder<kBits>(i), flush = t / kQuads;
        StoreCodes<kMode>(at + static_cast<size_t>(flush) * flush_bytes + static_cast<size_t>(t % kQuads) * quad_bytes, part_bytes,
                          Quad<kBits>(codes + 4 * row0, t), starts[flush]);
      }
      if constexpr (kStarts) {
        LOWBIT_UNROLL(2)
        for (int flush = 0; flush < kFlushes; ++flush)
          StoreLine(at + static_cast<size_t>(flush) * flush_bytes + kQuads * quad_bytes, starts[flush]);
      }
    }
    out += kFlushes * flush_bytes;
    codes += layout.block_bytes;
    if (++in_group == layout.group_blocks && block + 1 < pass.blocks) {
      in_group = 0;
      NextGroup(layout, codes, cursor);
      codes = cursor.codes;
    }
  }
}

using UnpackFunction = void (*)(const PackedView&, const PanelLayout&, int, const Pass&, int, int, uint8_t*, float*);

template <int kBits>
LOWBIT_INLINE UnpackFunction UnpackForKind(bool offsets, bool halves) {
  if (halves) return offsets ? UnpackPass<kBits, true, true> : UnpackPass<kBits, false, true>;
  return offsets ? UnpackPass<kBits, true, false> : UnpackPass<kBits, false, false>;
}

UnpackFunction UnpackFor(int bits, bool offsets, bool halves) {
  switch (bits) {
    case 1:
      return UnpackForKind<1>(offsets, halves);
    case 2:
      return UnpackForKind<2>(offsets, halves);
    case 3:
      return UnpackForKind<3>(offsets, halves);
    case 4:
      return UnpackForKind<4>(offsets, halves);
    case 5:
      return UnpackForKind<5>(offsets, halves);
    case 6:
      return UnpackForKind<6>(offsets, halves);
    case 7:
      return UnpackForKind<7>(offsets, halves);
    default:
      return UnpackForKind<8>(offsets, halves);
  }
}

}  // namespace
}  // namespace lowbit
