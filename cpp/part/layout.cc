// part/layout: offsets, sub-blocks and scale records of packed.h, and the slow, obvious decoder that tests compare with.
#include "part/layout.h"

#include <cstring>

#include "base/half.h"
#include "part/part.h"

namespace lowbit {
namespace {

constexpr int kPlanes[] = {8, 4, 2, 1};

size_t DivideUp(size_t value, size_t unit) { return (value + unit - 1) / unit; }

template <typename T>
T Read(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

}  // namespace

const char* PartKindName(PartKind kind) {
  static constexpr const char* kNames[] = {
#define LOWBIT_PART(id, name) name,
#include "part/parts.def"
#undef LOWBIT_PART
  };
  return kNames[static_cast<size_t>(kind)];
}

Status CheckPackShape(const char* name, int n, int k) {
  for (const auto& [value, what] : {std::pair<int, const char*>{n, "rows"}, {k, "columns"}}) {
    if (value < 1 || value > kMaxDimension) {
      return Error(Code::kInvalidArgument, "Expected integer between 1 and %d for the number of %s of %s but received %d", kMaxDimension,
                   what, name, value);
    }
  }
  return Status::Ok();
}

AffineLayout::AffineLayout(const PackedView& format) {
  const bool symmetric = format.affine == AffineKind::kSymmetric;
  sub_blocks = DivideUp(static_cast<size_t>(format.k), kSubBlock);
  groups = DivideUp(sub_blocks * kSubBlock, static_cast<size_t>(format.group_size));
  record_bytes = size_t(kPanelRows) * (format.meta_f32 ? 4 : 2) * (symmetric ? 1 : 2);
  unit_records = format.group_size == 16 || record_bytes < 64 ? 2 : 1;
  unit_sub_blocks = static_cast<size_t>(format.group_size) * unit_records / kSubBlock;
  meta_bytes = unit_records * record_bytes;
  sub_block_bytes = size_t(64) * static_cast<size_t>(format.bits);
  unit_bytes = meta_bytes + unit_sub_blocks * sub_block_bytes;
  panel_bytes = DivideUp(sub_blocks, unit_sub_blocks) * meta_bytes + sub_blocks * sub_block_bytes;
}

void StoreSubBlock(const uint32_t quads[8][kPanelRows], int bits, uint8_t* lines) {
  int shift = 0;
  for (const int width : kPlanes) {
    if ((bits & width) == 0) continue;
    const uint32_t mask = 0x01010101u * ((1u << width) - 1);
    for (int line = 0; line < width; ++line, lines += 64) {
      uint32_t words[kPanelRows] = {};
      for (int field = 0; field < 8 / width; ++field) {
        const uint32_t* quad = quads[line + field * width];
        for (int r = 0; r < kPanelRows; ++r) words[r] |= ((quad[r] >> shift) & mask) << (field * width);
      }
      std::memcpy(lines, words, sizeof(words));
    }
    shift += width;
  }
}

void LoadSubBlock(const uint8_t* lines, int bits, uint32_t quads[8][kPanelRows]) {
  int shift = 0;
  for (const int width : kPlanes) {
    if ((bits & width) == 0) continue;
    const uint32_t mask = 0x01010101u * ((1u << width) - 1);
    for (int line = 0; line < width; ++line, lines += 64) {
      uint32_t words[kPanelRows];
      std::memcpy(words, lines, sizeof(words));
      for (int field = 0; field < 8 / width; ++field) {
        uint32_t* quad = quads[line + field * width];
        for (int r = 0; r < kPanelRows; ++r) {
          const uint32_t piece = ((words[r] >> (field * width)) & mask) << shift;
          quad[r] = shift == 0 ? piece : quad[r] | piece;
        }
      }
    }
    shift += width;
  }
}

void StoreRecord(const PackedView& format, const float scales[kPanelRows], const float seconds[kPanelRows], uint8_t* record) {
  const int vectors = format.affine == AffineKind::kSymmetric ? 1 : 2;
  for (int v = 0; v < vectors; ++v) {
    const float* source = v == 0 ? scales : seconds;
    if (format.meta_f32) {
      std::memcpy(record, source, kPanelRows * sizeof(float));
      record += kPanelRows * sizeof(float);
      continue;
    }
    uint16_t halves[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) halves[r] = FloatToHalf(source[r]);
    std::memcpy(record, halves, sizeof(halves));
    record += sizeof(halves);
  }
}

void LoadRecord(const PackedView& format, const uint8_t* record, float scales[kPanelRows], float seconds[kPanelRows]) {
  const size_t lane = format.meta_f32 ? 4 : 2;
  for (size_t r = 0; r < kPanelRows; ++r) {
    const uint8_t* scale = record + r * lane;
    const uint8_t* second = scale + kPanelRows * lane;
    scales[r] = format.meta_f32 ? Read<float>(scale) : HalfToFloat(Read<uint16_t>(scale));
    if (format.affine == AffineKind::kSymmetric) {
      seconds[r] = static_cast<float>(1 << (format.bits - 1));
    } else {
      seconds[r] = format.meta_f32 ? Read<float>(second) : HalfToFloat(Read<uint16_t>(second));
    }
  }
}

size_t PackedPanelBytes(const PackedView& format) {
  const size_t k = static_cast<size_t>(format.k);
  switch (format.kind) {
    case PackedKind::kAffine:
      return AffineLayout(format).panel_bytes;
    case PackedKind::kDenseF32:
      return k * kPanelRows * 4;
    case PackedKind::kDenseF16:
    case PackedKind::kDenseBf16:
      return DivideUp(k, 2) * 2 * kPanelRows * 2;
  }
  return 0;
}

size_t PackedBytes(const PackedView& format) { return DivideUp(static_cast<size_t>(format.n), kPanelRows) * PackedPanelBytes(format); }

int CodeAt(const PackedView& view, int row, int column) {
  const AffineLayout layout(view);
  const uint8_t* panel = view.data + static_cast<size_t>(row / kPanelRows) * view.panel_bytes;
  const uint8_t* lines = panel + layout.SubBlockOffset(static_cast<size_t>(column / kSubBlock));
  const int quad = column % kSubBlock / 4;
  const int byte = row % kPanelRows * 4 + column % 4;
  int code = 0, shift = 0;
  for (const int width : kPlanes) {
    if ((view.bits & width) == 0) continue;
    const int field = lines[quad % width * 64 + byte] >> (quad / width * width);
    code |= (field & ((1 << width) - 1)) << shift;
    shift += width;
    lines += width * 64;
  }
  return code;
}

float WeightAt(const PackedView& view, int row, int column) {
  const uint8_t* panel = view.data + static_cast<size_t>(row / kPanelRows) * view.panel_bytes;
  const size_t r = static_cast<size_t>(row % kPanelRows), c = static_cast<size_t>(column);
  switch (view.kind) {
    case PackedKind::kDenseF32:
      return Read<float>(panel + (c * kPanelRows + r) * 4);
    case PackedKind::kDenseF16:
      return HalfToFloat(Read<uint16_t>(panel + (c * kPanelRows + r) * 2));
    case PackedKind::kDenseBf16:
      return Bfloat16ToFloat(Read<uint16_t>(panel + ((c / 2 * kPanelRows + r) * 2 + c % 2) * 2));
    case PackedKind::kAffine:
      break;
  }
  float scales[kPanelRows], seconds[kPanelRows];
  LoadRecord(view, panel + AffineLayout(view).RecordOffset(c / static_cast<size_t>(view.group_size)), scales, seconds);
  const float code = static_cast<float>(CodeAt(view, row, column));
  return view.affine == AffineKind::kMinimum ? scales[r] * code + seconds[r] : scales[r] * (code - seconds[r]);
}

}  // namespace lowbit
