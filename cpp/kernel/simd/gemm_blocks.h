// kernel/simd: how the int8 GEMM cuts the columns of a weight, and its scratch.
//
// A pass unpacks up to kGemmColumns columns of a few panels to one byte per code and f32 scale lines, then sweeps every tile of
// activations, so the cost of unpacking is shared and the inner kernel does not know the bit width.
#pragma once

#include "kernel/kernel.h"
#include "kernel/simd/compiler.h"
#include "kernel/simd/planes.h"
#include "kernel/simd/units.h"

namespace lowbit {
namespace {

constexpr int kMaxBlocks = kGemmColumns / kSubBlock;
// [quad][panel of the pass][64]: codes; then the scale lines.
constexpr size_t kCodeScratch = static_cast<size_t>(kGemmColumns) * kPanelRows;

// One pass over sub-blocks [block, block + blocks).
struct Pass {
  int block, blocks;
  int run;  // sub-blocks per activation scale; passes begin at a multiple of it
};

// Scale lines per activation group and panel: for each record (two if kHalves) the scales, then, if kOffsets, what is added
// per unit of sum(x). `lines` counts f32 lines of 16.
constexpr int ScaleLines(bool offsets, bool halves) { return (offsets ? 2 : 1) * (halves ? 2 : 1); }

// Writes panel `slot` of `slots` of a pass: codes to [quad][slots][64], scales to [group][lines][slots][16].
// `centre` is subtracted from the zero point, for rooms that make the codes signed (8 bits on AVX2); it is 0 otherwise.
template <int kBits, bool kOffsets, bool kHalves>
void UnpackPass(const PackedView& w, const PanelLayout& layout, int panel, const Pass& pass, int slot, int slots, float centre,
                uint8_t* codes_out, float* scales_out) {
  const bool meta_f32 = w.meta_f32, zero_point = w.affine == AffineKind::kZeroPoint;
  const size_t quad_bytes = static_cast<size_t>(slots) * 64, line_floats = static_cast<size_t>(slots) * kPanelRows;
  int in_group = pass.block % layout.group_blocks;
  GroupCursor cursor = GroupAt(layout, w.data + static_cast<size_t>(panel) * w.panel_bytes, pass.block / layout.group_blocks);
  const uint8_t* codes = cursor.codes + static_cast<size_t>(in_group) * layout.block_bytes;
  uint8_t* out = codes_out + static_cast<size_t>(slot) * 64;
  float* line = scales_out + static_cast<size_t>(slot) * kPanelRows;
  for (int block = 0; block < pass.blocks; ++block) {
    if (block % pass.run == 0) {
      LOWBIT_UNROLL(2)
      for (int h = 0; h < (kHalves ? 2 : 1); ++h) {
        const uint8_t* record = cursor.meta + static_cast<size_t>(h) * layout.record_bytes;
        LOWBIT_UNROLL(2)
        for (int row0 = 0; row0 < kPanelRows; row0 += kLanes) {
          const Float scales = LoadScales(record, meta_f32, row0);
          Store(line + row0, scales);
          if constexpr (kOffsets) {
            const Float offsets = LoadOffsets(record, meta_f32, zero_point, row0, scales);
            Store(line + line_floats + row0, centre == 0 ? offsets : Fma(scales, Set(centre), offsets));
          }
        }
        line += line_floats * (kOffsets ? 2 : 1);
      }
    }
    LOWBIT_UNROLL(2)
    for (int row0 = 0; row0 < kPanelRows; row0 += kLanes) {
      LOWBIT_UNROLL(8)
      for (int i = 0; i < 8; ++i) {
        const int t = QuadOrder<kBits>(i);
        const Int quad = Quad<kBits>(codes + 4 * row0, t);
        std::memcpy(out + static_cast<size_t>(t) * quad_bytes + 4 * row0, &quad, sizeof(quad));
      }
    }
    out += 8 * quad_bytes;
    codes += layout.block_bytes;
    if (++in_group == layout.group_blocks && block + 1 < pass.blocks) {
      in_group = 0;
      NextGroup(layout, codes, cursor);
      codes = cursor.codes;
    }
  }
}

using UnpackFunction = void (*)(const PackedView&, const PanelLayout&, int, const Pass&, int, int, float, uint8_t*, float*);

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
