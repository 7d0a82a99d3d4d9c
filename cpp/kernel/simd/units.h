// kernel/simd: where the scale records and code lines of an affine panel lie (part/packed.h), as cheap arithmetic for kernels.
#pragma once

#include "kernel/simd/compiler.h"
#include "part/packed.h"

namespace lowbit {
namespace {

struct PanelLayout {
  int blocks;           // sub-blocks of 32 columns
  int group_blocks;     // sub-blocks that one scale record speaks for; 1 for group_size 16
  bool halves;          // group_size 16: two records per sub-block, which count as one group
  bool zero_point;      // the second value of a record is a zero point, not a minimum
  int unit_groups;      // groups whose meta lies in front of the first of them
  size_t block_bytes;   // code lines of a sub-block
  size_t super_bytes;   // super-scales in front of the records of a unit (coded)
  size_t record_bytes;  // one scale record
  size_t step;          // from the record of a group to the next of the unit
  size_t meta_bytes;    // meta in front of a unit
};

LOWBIT_INLINE PanelLayout LayoutOf(const PackedView& w) {
  PanelLayout layout;
  const bool single = w.affine == AffineKind::kSymmetric;
  layout.blocks = (w.k + kSubBlock - 1) / kSubBlock;
  layout.halves = w.group_size == 16;
  layout.group_blocks = layout.halves ? 1 : w.group_size / kSubBlock;
  layout.zero_point = w.affine == AffineKind::kZeroPoint;
  const bool coded = w.meta == MetaKind::kCoded, pairs = single && w.meta == MetaKind::kF16 && !layout.halves;
  layout.unit_groups = coded ? kSuperBlock / kSubBlock : pairs ? 2 : 1;
  layout.block_bytes = static_cast<size_t>(w.bits) * 64;
  layout.super_bytes = coded ? 64 : 0;
  layout.record_bytes = (single ? 16u : 32u) * (coded ? 1u : w.meta == MetaKind::kF32 ? 4u : 2u);
  layout.step = layout.record_bytes * (layout.halves ? 2 : 1);
  layout.meta_bytes = layout.super_bytes + layout.step * static_cast<size_t>(layout.unit_groups);
  return layout;
}

// A scale record, and the super-scales of its unit where it is coded.
struct Record {
  const uint8_t* at;
  const uint8_t* super;
};

// The record of columns 0-15 (half 0) or 16-31 of a sub-block where groups have 16.
LOWBIT_INLINE Record HalfOf(size_t record_bytes, const Record& record, int half) {
  return {record.at + static_cast<size_t>(half) * record_bytes, record.super};
}

// Walks over the scale groups of one panel.
struct GroupCursor {
  Record record;         // of the group (the first of two for group_size 16)
  const uint8_t* codes;  // its first sub-block
  int left;              // groups of the unit behind this one
};

LOWBIT_INLINE GroupCursor UnitAt(const PanelLayout& layout, const uint8_t* unit) {
  return {{unit + layout.super_bytes, unit}, unit + layout.meta_bytes, layout.unit_groups - 1};
}

LOWBIT_INLINE GroupCursor GroupAt(const PanelLayout& layout, const uint8_t* panel, int group) {
  const size_t group_bytes = layout.block_bytes * static_cast<size_t>(layout.group_blocks);
  const size_t unit = static_cast<size_t>(group / layout.unit_groups), inside = static_cast<size_t>(group % layout.unit_groups);
  GroupCursor cursor = UnitAt(layout, panel + unit * (layout.meta_bytes + static_cast<size_t>(layout.unit_groups) * group_bytes));
  cursor.record.at += inside * layout.step;
  cursor.codes += inside * group_bytes;
  cursor.left -= static_cast<int>(inside);
  return cursor;
}

// `codes_end` is where the codes of the current group end.
LOWBIT_INLINE void NextGroup(const PanelLayout& layout, const uint8_t* codes_end, GroupCursor& cursor) {
  if (cursor.left == 0) {
    cursor = UnitAt(layout, codes_end);
  } else {
    cursor.record.at += layout.step;
    cursor.codes = codes_end;
    --cursor.left;
  }
}

// Lanes row0.. (a multiple of kLanes) of the scales (index 0) or of what comes second (1).
LOWBIT_INLINE Float LoadMeta(const Record& record, MetaKind meta, int index, int row0) {
  const int lane = index * kPanelRows + row0;
  switch (meta) {
    case MetaKind::kF32:
      return Load(reinterpret_cast<const float*>(record.at) + lane);
    case MetaKind::kCoded:
      return Mul(LoadHalf(record.super + 2 * lane), LoadInt8(record.at + lane));
    default:
      return LoadHalf(record.at + 2 * lane);
  }
}
LOWBIT_INLINE Float LoadScales(const Record& record, MetaKind meta, int row0) { return LoadMeta(record, meta, 0, row0); }
// What is added per unit of sum(x): the minimum, or -scale*zero.
LOWBIT_INLINE Float LoadOffsets(const Record& record, MetaKind meta, bool zero_point, int row0, Float scales) {
  const Float seconds = LoadMeta(record, meta, 1, row0);
  return zero_point ? Fnma(scales, seconds, Zero()) : seconds;
}

}  // namespace
}  // namespace lowbit
