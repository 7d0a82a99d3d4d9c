// part/layout: addresses inside a packed panel, and the two primitives that move 32 x 16 codes in and out of it.
// Shared by the packers of this room and by kernel/ref; the layout itself is described in packed.h. Nothing here reads a
// file or allocates.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "part/packed.h"

namespace lowbit {

// Largest n and k of a packed matrix: every offset then fits size_t and every padded dimension fits int.
constexpr int kMaxDimension = 1 << 30;

// INVALID_ARGUMENT naming `name` unless n and k are in [1, kMaxDimension].
Status CheckPackShape(const char* name, int n, int k);

// Where things lie in one affine panel. A panel is a sequence of units; a unit is `unit_records` scale records (padded to
// whole lines, behind the super-scales where meta is coded) followed by the sub-blocks that they speak for. A record is 16 scales,
// then 16 seconds unless kSymmetric.
struct AffineLayout {
  explicit AffineLayout(const PackedView& format);

  size_t SuperOffset(size_t group) const { return group / unit_records * unit_bytes; }  // coded only
  size_t RecordOffset(size_t group) const { return group / unit_records * unit_bytes + super_bytes + group % unit_records * record_bytes; }
  size_t SubBlockOffset(size_t sub_block) const {
    return sub_block / unit_sub_blocks * unit_bytes + meta_bytes + sub_block % unit_sub_blocks * sub_block_bytes;
  }

  size_t sub_blocks;    // of 32 columns, the last may hold padding
  size_t groups;        // scale groups that hold at least one column, padding of the last sub-block included
  size_t super_bytes;   // 64 if coded, else 0
  size_t record_bytes;  // 16 to 128
  size_t unit_records;  // coded: 8 or 16; 2 for group_size 16 and for f16 symmetric; else 1
  size_t unit_sub_blocks;
  size_t meta_bytes;       // in front of the sub-blocks of a unit
  size_t sub_block_bytes;  // 64 * bits
  size_t unit_bytes;       // of a full unit; the last one of a panel may have fewer sub-blocks
  size_t panel_bytes;
};

// Writes one sub-block. quads[t][r] = the codes of columns 4t..4t+3 of row r, one per byte, first column lowest.
void StoreSubBlock(const uint32_t quads[8][kPanelRows], int bits, uint8_t* lines);

// The inverse.
void LoadSubBlock(const uint8_t* lines, int bits, uint32_t quads[8][kPanelRows]);

// One scale record of f16 or f32. `seconds` is ignored for kSymmetric. Values must be representable when the record is f16.
void StoreRecord(const PackedView& format, const float scales[kPanelRows], const float seconds[kPanelRows], uint8_t* record);

// The scales and seconds of a group, whatever kind its record is; seconds receive the zero point of kSymmetric (2^(bits-1)) too, so
// that w = scale * (code - second) holds for both kinds with a zero point.
void LoadRecord(const PackedView& format, const AffineLayout& layout, const uint8_t* panel, size_t group, float scales[kPanelRows],
                float seconds[kPanelRows]);

}  // namespace lowbit
