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

void Part::MoveStorage(uint8_t* to) {
  const uint8_t* from = storage.data();
  std::memcpy(to, from, storage.size());
  if (view.data != nullptr) view.data = to + (view.data - from);
  if (inner.data != nullptr) inner.data = to + (inner.data - from);
  if (sparse.lines != nullptr) {
    for (const int32_t** ints : {&sparse.starts, &sparse.shared, &sparse.counts})
      *ints = reinterpret_cast<const int32_t*>(to + (reinterpret_cast<const uint8_t*>(*ints) - from));
    sparse.owners = to + (sparse.owners - from);
    sparse.lines = to + (sparse.lines - from);
  }
  storage = Block();
}

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

Status CheckFormat(const char* name, const PackedView& format) {
  LOWBIT_RETURN_IF_ERROR(CheckPackShape(name, format.n, format.k));
  if (format.kind == PackedKind::kDenseF32 || format.kind == PackedKind::kDenseF16 || format.kind == PackedKind::kDenseBf16) {
    return Status::Ok();
  }
  const int whole_row = (format.k + kSubBlock - 1) / kSubBlock * kSubBlock;
  const bool group =
      format.group_size == 16 || (format.group_size >= kSubBlock && format.group_size % kSubBlock == 0 && format.group_size <= whole_row);
  const bool affine =
      format.affine == AffineKind::kSymmetric || format.affine == AffineKind::kMinimum || format.affine == AffineKind::kZeroPoint;
  const bool coded = format.meta == MetaKind::kCoded && format.group_size <= kSubBlock && format.k % kSuperBlock == 0 &&
                     format.affine != AffineKind::kZeroPoint;
  const bool meta = coded || format.meta == MetaKind::kF16 || format.meta == MetaKind::kF32;
  if (format.kind == PackedKind::kAffine && group && affine && meta && format.bits >= 1 && format.bits <= 8) return Status::Ok();
  return Error(Code::kInvalidArgument, "There is no packed format of kind %d with %d bits and groups of %d columns, as %s has it",
               static_cast<int>(format.kind), format.bits, format.group_size, name);
}

AffineLayout::AffineLayout(const PackedView& format) {
  const bool symmetric = format.affine == AffineKind::kSymmetric, coded = format.meta == MetaKind::kCoded;
  sub_blocks = DivideUp(static_cast<size_t>(format.k), kSubBlock);
  groups = DivideUp(sub_blocks * kSubBlock, static_cast<size_t>(format.group_size));
  super_bytes = coded ? 64 : 0;
  record_bytes = size_t(kPanelRows) * (coded ? 1 : format.meta == MetaKind::kF32 ? 4 : 2) * (symmetric ? 1 : 2);
  unit_records = coded ? static_cast<size_t>(kSuperBlock / format.group_size) : format.group_size == 16 || record_bytes < 64 ? 2 : 1;
  unit_sub_blocks = static_cast<size_t>(format.group_size) * unit_records / kSubBlock;
  meta_bytes = super_bytes + unit_records * record_bytes;
  sub_block_bytes = size_t(64) * static_cast<size_t>(format.bits);
  unit_bytes = meta_bytes + unit_sub_blocks * sub_block_bytes;
  panel_bytes = DivideUp(sub_blocks, unit_sub_blocks) * meta_bytes + sub_blocks * sub_block_bytes;
}

namespace {

// The lines of one plane: `width` bits of every code from bit `shift` on. Widths are constants so that the loops are unrolled.
template <int kWidth>
uint8_t* StorePlane(const uint32_t quads[8][kPanelRows], int shift, uint8_t* lines) {
  constexpr uint32_t kMask = 0x01010101u * ((1u << kWidth) - 1);
  for (int line = 0; line < kWidth; ++line, lines += 64) {
    uint32_t words[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      uint32_t word = 0;
      for (int field = 0; field < 8 / kWidth; ++field) word |= ((quads[line + field * kWidth][r] >> shift) & kMask) << (field * kWidth);
      words[r] = word;
    }
    std::memcpy(lines, words, sizeof(words));
  }
  return lines;
}

}  // namespace

void StoreSubBlock(const uint32_t quads[8][kPanelRows], int bits, uint8_t* lines) {
  if (bits & 8) lines = StorePlane<8>(quads, 0, lines);
  if (bits & 4) lines = StorePlane<4>(quads, 0, lines);
  if (bits & 2) lines = StorePlane<2>(quads, bits & 4, lines);
  if (bits & 1) StorePlane<1>(quads, bits & 6, lines);
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
    if (format.meta == MetaKind::kF32) {
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

void LoadRecord(const PackedView& format, const AffineLayout& layout, const uint8_t* panel, size_t group, float scales[kPanelRows],
                float seconds[kPanelRows]) {
  const uint8_t* record = panel + layout.RecordOffset(group);
  const uint8_t* super = panel + layout.SuperOffset(group);
  const auto value = [&](size_t i) {  // number i of the record: 16 scales, 16 seconds
    if (format.meta == MetaKind::kF32) return Read<float>(record + 4 * i);
    if (format.meta == MetaKind::kF16) return HalfToFloat(Read<uint16_t>(record + 2 * i));
    return HalfToFloat(Read<uint16_t>(super + 2 * i)) * static_cast<float>(static_cast<int8_t>(record[i]));
  };
  const bool symmetric = format.affine == AffineKind::kSymmetric;
  for (size_t r = 0; r < kPanelRows; ++r) {
    scales[r] = value(r);
    seconds[r] = symmetric ? static_cast<float>(1 << (format.bits - 1)) : value(kPanelRows + r);
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
  LoadRecord(view, AffineLayout(view), panel, c / static_cast<size_t>(view.group_size), scales, seconds);
  const float code = static_cast<float>(CodeAt(view, row, column));
  return view.affine == AffineKind::kMinimum ? scales[r] * code + seconds[r] : scales[r] * (code - seconds[r]);
}

}  // namespace lowbit
