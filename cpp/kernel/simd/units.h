// kernel/simd: where the scale records and code lines of an affine panel lie (part/packed.h), as cheap arithmetic for kernels.
#pragma once

#include "kernel/simd/compiler.h"
#include "part/packed.h"

namespace lowbit {
namespace {

struct PanelLayout {
  int blocks;           // sub-blocks of 32 columns
  int group_blocks;     // sub-blocks that one scale record speaks for; 1 for group_size 16
  bool halves;          // group_size 16: two records per sub-block
  bool paired;          // f16 symmetric: two groups share the meta line in front of the first
  size_t block_bytes;   // code lines of a sub-block
  size_t record_bytes;  // one scale record
  size_t meta_bytes;    // meta in front of a unit
};

LOWBIT_INLINE PanelLayout LayoutOf(const PackedView& w) {
  PanelLayout layout;
  const bool single = w.affine == AffineKind::kSymmetric;
  layout.blocks = (w.k + kSubBlock - 1) / kSubBlock;
  layout.halves = w.group_size == 16;
  layout.group_blocks = layout.halves ? 1 : w.group_size / kSubBlock;
  layout.paired = single && !w.meta_f32 && !layout.halves;
  layout.block_bytes = static_cast<size_t>(w.bits) * 64;
  layout.record_bytes = (single ? 32u : 64u) * (w.meta_f32 ? 2u : 1u);
  layout.meta_bytes = layout.record_bytes * (layout.halves || layout.paired ? 2 : 1);
  return layout;
}

// Walks over the scale groups of one panel.
struct GroupCursor {
  const uint8_t* meta;   // record of the group (both records for group_size 16)
  const uint8_t* codes;  // its first sub-block
  bool second;           // of a pair
};

LOWBIT_INLINE GroupCursor GroupAt(const PanelLayout& layout, const uint8_t* panel, int group) {
  const size_t group_bytes = layout.block_bytes * static_cast<size_t>(layout.group_blocks), g = static_cast<size_t>(group);
  if (!layout.paired) {
    const uint8_t* meta = panel + g * (layout.meta_bytes + group_bytes);
    return {meta, meta + layout.meta_bytes, false};
  }
  const uint8_t* meta = panel + g / 2 * (layout.meta_bytes + 2 * group_bytes);
  return {meta + g % 2 * layout.record_bytes, meta + layout.meta_bytes + g % 2 * group_bytes, g % 2 == 1};
}

// `codes_end` is where the codes of the current group end.
LOWBIT_INLINE void NextGroup(const PanelLayout& layout, const uint8_t* codes_end, GroupCursor& cursor) {
  if (layout.paired && !cursor.second) {
    cursor.meta += layout.record_bytes;
    cursor.codes = codes_end;
    cursor.second = true;
  } else {
    cursor.meta = codes_end;
    cursor.codes = codes_end + layout.meta_bytes;
    cursor.second = false;
  }
}

// Scales and, for kinds that have one, the second value of lanes row0.. (a multiple of kLanes).
LOWBIT_INLINE Float LoadScales(const uint8_t* record, bool meta_f32, int row0) {
  return meta_f32 ? Load(reinterpret_cast<const float*>(record) + row0) : LoadHalf(record + 2 * row0);
}
LOWBIT_INLINE Float LoadSeconds(const uint8_t* record, bool meta_f32, int row0) {
  return meta_f32 ? Load(reinterpret_cast<const float*>(record) + kPanelRows + row0) : LoadHalf(record + 32 + 2 * row0);
}
// What is added per unit of sum(x): the minimum, or -scale*zero.
LOWBIT_INLINE Float LoadOffsets(const uint8_t* record, bool meta_f32, bool zero_point, int row0, Float scales) {
  const Float seconds = LoadSeconds(record, meta_f32, row0);
  return zero_point ? Fnma(scales, seconds, Zero()) : seconds;
}

}  // namespace
}  // namespace lowbit
