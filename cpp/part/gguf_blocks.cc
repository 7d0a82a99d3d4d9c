// part/gguf_blocks: GGUF quantised blocks -> affine panels (packed.h).
// Every block type here is an affine grid: w = scale * (code - 2^(bits-1)) or w = scale * code + minimum per 16, 32 or 256 columns.
// K-quants (256 columns) store 4 to 8 bit multipliers of one f16 scale; the product is formed here, once, in f32, where it is
// exact (11 + 8 bits), and so is scale * code (at most 23 bits): packing loses nothing.
// Codes are moved as words of 4 columns, 16 rows at a time, and never one by one: the nibbles of Q4_0 to Q5_1 already lie as plane 4
// wants them (column i low, column i + 16 high), so that these are a transposition of words; the other planes take a few masks and
// shifts per word. Block layouts: GGUF v3, docs/formats.md; d and dmin are f16, little endian.
#include <cstring>

#include "base/half.h"
#include "part/lanes.h"
#include "part/layout.h"
#include "part/pack_common.h"
#include "part/packer.h"

namespace lowbit {
namespace {

constexpr size_t kMaxBlockBytes = 256;
constexpr size_t kLine = 64;

// Where a block of 16 rows goes: its super-scales (K-quants), the scale record of its first group, its first sub-block.
struct Target {
  uint8_t* super;
  uint8_t* record;
  uint8_t* lines;
};

using Blocks = const uint8_t* const[kPanelRows];

// The 16-bit field of every row at `offset`, stored as 16 lanes of f16.
void HalfRecord(Blocks blocks, size_t offset, uint8_t* record) {
  uint16_t halves[kPanelRows];
  for (size_t r = 0; r < kPanelRows; ++r) halves[r] = HalfWordAt(blocks[r] + offset);
  std::memcpy(record, halves, sizeof(halves));
}

// kWords words of every row, each one line.
template <size_t kWords>
void CopyWords(Blocks blocks, size_t offset, uint8_t* lines) {
  Lanes words[kWords];
  Gather<kWords>(blocks, offset, words);
  std::memcpy(lines, words, sizeof(words));
}

// 32 bits of every row, bit c of column c -> the line of plane 1: bit t of byte i is column 4t + i.
void BitPlane(Blocks blocks, size_t offset, uint8_t* line) {
  Lanes bits[1], out;
  Gather<1>(blocks, offset, bits);
  for (int r = 0; r < kPanelRows; ++r) {
    uint32_t word = 0;
    for (int t = 0; t < 8; ++t) {
      const uint32_t nibble = bits[0][r] >> (4 * t) & 15;
      word |= (nibble * 0x00204081u & 0x01010101u) << t;  // bit i of the nibble to bit 0 of byte i
    }
    out[r] = word;
  }
  StoreLine(out, line);
}

// Plane 4 of one sub-block from 8 words of codes that lie in the low (shift 0) or high (shift 4) nibbles of their bytes.
void NibblePlane(const Lanes* words, int shift, uint8_t* lines) {
  for (int j = 0; j < 4; ++j) {
    Lanes line;
    for (int r = 0; r < kPanelRows; ++r) {
      line[r] = (words[j][r] >> shift & 0x0f0f0f0fu) | (words[j + 4][r] >> shift & 0x0f0f0f0fu) << 4;
    }
    StoreLine(line, lines + kLine * static_cast<size_t>(j));
  }
}

// Plane 2 of one sub-block from 8 words with the codes at bits [shift, shift + 2) of their bytes.
void CrumbPlane(const Lanes* words, int shift, uint8_t* lines) {
  for (int j = 0; j < 2; ++j) {
    Lanes line;
    for (int r = 0; r < kPanelRows; ++r) {
      uint32_t word = 0;
      for (int t = 0; t < 4; ++t) word |= (words[j + 2 * t][r] >> shift & 0x03030303u) << (2 * t);
      line[r] = word;
    }
    StoreLine(line, lines + kLine * static_cast<size_t>(j));
  }
}

// Plane 1 of one sub-block from 8 words with the code at bit `shift` of their bytes.
void LowBitPlane(const Lanes* words, int shift, uint8_t* line) {
  Lanes out;
  for (int r = 0; r < kPanelRows; ++r) {
    uint32_t word = 0;
    for (int t = 0; t < 8; ++t) word |= (words[t][r] >> shift & 0x01010101u) << t;
    out[r] = word;
  }
  StoreLine(out, line);
}

// Q4_0, 18 bytes: d, 16 bytes of nibbles; w = d * (q - 8).
void PackQ4_0(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 0, to.record);
  CopyWords<4>(blocks, 2, to.lines);
}

// Q4_1, 20 bytes: d, m, 16 bytes of nibbles; w = d * q + m.
void PackQ4_1(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 0, to.record);
  HalfRecord(blocks, 2, to.record + 32);
  CopyWords<4>(blocks, 4, to.lines);
}

// Q5_0, 22 bytes: d, 32 fifth bits, 16 bytes of nibbles; w = d * (q - 16).
void PackQ5_0(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 0, to.record);
  CopyWords<4>(blocks, 6, to.lines);
  BitPlane(blocks, 2, to.lines + 4 * kLine);
}

// Q5_1, 24 bytes: d, m, 32 fifth bits, 16 bytes of nibbles; w = d * q + m.
void PackQ5_1(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 0, to.record);
  HalfRecord(blocks, 2, to.record + 32);
  CopyWords<4>(blocks, 8, to.lines);
  BitPlane(blocks, 4, to.lines + 4 * kLine);
}

// Q8_0, 34 bytes: d, 32 int8; w = d * q. The code is q + 128.
void PackQ8_0(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 0, to.record);
  Lanes words[8];
  Gather<8>(blocks, 2, words);
  for (Lanes& word : words) {
    for (uint32_t& lane : word) lane ^= 0x80808080u;
  }
  std::memcpy(to.lines, words, sizeof(words));
}

// The f16 field of every row at `offset`, negated: what K-quants call a minimum is taken away.
void NegatedHalfRecord(Blocks blocks, size_t offset, uint8_t* record) {
  uint16_t halves[kPanelRows];
  for (size_t r = 0; r < kPanelRows; ++r) halves[r] = HalfWordAt(blocks[r] + offset) ^ 0x8000u;
  std::memcpy(record, halves, sizeof(halves));
}

// Crumbs of Q2_K, Q3_K and Q6_K, 64 bytes from `offset`: per 128 columns 32 bytes, columns 32s..32s+31 in bits 2s and 2s+1.
void CrumbPlanes(Blocks blocks, size_t offset, size_t sub_block_bytes, uint8_t* lines) {
  for (size_t half = 0; half < 2; ++half) {
    Lanes words[8];
    Gather<8>(blocks, offset + 32 * half, words);
    for (size_t s = 0; s < 4; ++s) CrumbPlane(words, static_cast<int>(2 * s), lines + (4 * half + s) * sub_block_bytes);
  }
}

// Q2_K, 84 bytes: 16 x (low nibble scale, high nibble minimum), 64 bytes of crumbs, d, dmin; w = d*sc*q - dmin*m per 16.
void PackQ2K(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 80, to.super);
  NegatedHalfRecord(blocks, 82, to.super + 32);
  for (size_t g = 0; g < 16; ++g) {
    uint8_t* record = to.record + g * 32;
    for (size_t r = 0; r < kPanelRows; ++r) {
      record[r] = blocks[r][g] & 15;
      record[kPanelRows + r] = blocks[r][g] >> 4;
    }
  }
  CrumbPlanes(blocks, 16, 2 * kLine, to.lines);
}

// Q3_K, 110 bytes: 32 bytes of third bits (bit i of byte j: column 32i + j), 64 bytes of crumbs, 16 six-bit scales in 12 bytes,
// d; w = d * (sc - 32) * (q - 4) per 16. Scale g: low nibble g (bytes 0-7: low nibbles 0-7, high nibbles 8-15), two high bits in
// byte 8 + g%4 at bit 2*(g/4).
void PackQ3K(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 108, to.super);
  for (size_t g = 0; g < 16; ++g) {
    for (size_t r = 0; r < kPanelRows; ++r) {
      const uint8_t* packed = blocks[r] + 96;
      const int low = packed[g % 8] >> (g / 8 * 4) & 15, high = packed[8 + g % 4] >> (g / 4 * 2) & 3;
      to.record[g * kPanelRows + r] = static_cast<uint8_t>((low | high << 4) - 32);
    }
  }
  CrumbPlanes(blocks, 32, 3 * kLine, to.lines);
  Lanes third[8];
  Gather<8>(blocks, 0, third);
  for (size_t s = 0; s < 8; ++s) LowBitPlane(third, static_cast<int>(s), to.lines + (3 * s + 2) * kLine);
}

// 8 six-bit scales and 8 six-bit minima in 12 bytes behind d and dmin, as Q4_K and Q5_K hold them.
void ScalesAndMinima(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 0, to.super);
  NegatedHalfRecord(blocks, 2, to.super + 32);
  for (size_t r = 0; r < kPanelRows; ++r) {
    const uint8_t* s = blocks[r] + 4;
    for (size_t j = 0; j < 8; ++j) {
      const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
      const int minimum = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
      to.record[j * 32 + r] = static_cast<uint8_t>(scale);
      to.record[j * 32 + kPanelRows + r] = static_cast<uint8_t>(minimum);
    }
  }
}

// Per 64 columns 32 bytes from `offset`: low nibbles are the first 32 columns, high nibbles the next 32.
void WideNibbles(Blocks blocks, size_t offset, size_t sub_block_bytes, uint8_t* lines) {
  for (size_t i = 0; i < 4; ++i) {
    Lanes words[8];
    Gather<8>(blocks, offset + 32 * i, words);
    NibblePlane(words, 0, lines + 2 * i * sub_block_bytes);
    NibblePlane(words, 4, lines + (2 * i + 1) * sub_block_bytes);
  }
}

// Q4_K, 144 bytes: d, dmin, 12 bytes of scales and minima, 128 bytes of nibbles; w = d*sc*q - dmin*m per 32.
void PackQ4K(Blocks blocks, const Target& to) {
  ScalesAndMinima(blocks, to);
  WideNibbles(blocks, 16, 4 * kLine, to.lines);
}

// Q5_K, 176 bytes: as Q4_K with 32 bytes of fifth bits (bit i of byte j: column 32i + j) before the nibbles.
void PackQ5K(Blocks blocks, const Target& to) {
  ScalesAndMinima(blocks, to);
  WideNibbles(blocks, 48, 5 * kLine, to.lines);
  Lanes fifth[8];
  Gather<8>(blocks, 16, fifth);
  for (size_t s = 0; s < 8; ++s) LowBitPlane(fifth, static_cast<int>(s), to.lines + (5 * s + 4) * kLine);
}

// Q6_K, 210 bytes: 128 bytes of low nibbles, 64 bytes of high crumbs, 16 int8 scales, d; w = d * sc * (q - 32) per 16.
// Per 128 columns: 64 bytes hold the nibbles of columns 0-63 (low) and 64-127 (high), 32 bytes the crumbs as in Q2_K.
void PackQ6K(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 208, to.super);
  for (size_t g = 0; g < 16; ++g) {
    for (size_t r = 0; r < kPanelRows; ++r) to.record[g * kPanelRows + r] = blocks[r][192 + g];
  }
  for (size_t i = 0; i < 4; ++i) {  // 32 bytes of nibbles: columns 128 * (i / 2) + 32 * (i % 2) and those 64 further
    Lanes words[8];
    Gather<8>(blocks, 32 * i, words);
    uint8_t* lines = to.lines + (4 * (i / 2) + i % 2) * 6 * kLine;
    NibblePlane(words, 0, lines);
    NibblePlane(words, 4, lines + 12 * kLine);
  }
  CrumbPlanes(blocks, 128, 6 * kLine, to.lines + 4 * kLine);
}

// IQ4_NL, 18 bytes as Q4_0; w = d * value[q] with 16 fixed whole numbers, which become 8-bit codes around 128.
void PackIQ4NL(Blocks blocks, const Target& to) {
  constexpr uint8_t kCodes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
  HalfRecord(blocks, 0, to.record);
  for (size_t r = 0; r < kPanelRows; ++r) {
    const uint8_t* nibbles = blocks[r] + 2;
    for (size_t c = 0; c < 16; ++c) {  // column c and column c + 16, which lies 4 lines further
      uint8_t* out = to.lines + (c / 4) * kLine + 4 * r + c % 4;
      out[0] = kCodes[nibbles[c] & 15];
      out[4 * kLine] = kCodes[nibbles[c] >> 4];
    }
  }
}

// TQ1_0, 54 bytes: 32 and 16 bytes of five ternary digits, 4 bytes of four, d; w = d * q - d. Digit t of byte m of a run of `width`
// bytes is column t * width + m of that run; byte b holds digit t as b * 3^t mod 256, times 3, divided by 256.
void PackTQ10(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 52, to.record);
  NegatedHalfRecord(blocks, 52, to.record + 32);
  alignas(kLine) uint8_t codes[kPanelRows][256];
  for (size_t r = 0; r < kPanelRows; ++r) {
    uint8_t* out = codes[r];
    const auto digits = [&](size_t offset, size_t width, int count) {
      for (int t = 0, power = 1; t < count; ++t, power *= 3) {
        for (size_t m = 0; m < width; ++m) *out++ = static_cast<uint8_t>((blocks[r][offset + m] * power & 255) * 3 >> 8);
      }
    };
    digits(0, 32, 5);
    digits(32, 16, 5);
    digits(48, 4, 4);
  }
  const uint8_t* rows[kPanelRows];
  for (size_t r = 0; r < kPanelRows; ++r) rows[r] = codes[r];
  for (size_t s = 0; s < 8; ++s) {
    Lanes words[8];
    Gather<8>(rows, 32 * s, words);
    CrumbPlane(words, 0, to.lines + 2 * s * kLine);
  }
}

// TQ2_0, 66 bytes: 64 bytes of crumbs as in Q2_K, d; w = d * q - d.
void PackTQ20(Blocks blocks, const Target& to) {
  HalfRecord(blocks, 64, to.record);
  NegatedHalfRecord(blocks, 64, to.record + 32);
  CrumbPlanes(blocks, 0, 2 * kLine, to.lines);
}

struct BlockFormat {
  DType dtype;
  int bits;
  int group_size;
  AffineKind affine;
  MetaKind meta;
  int halves[2];  // offsets of the f16 fields; twice the same where there is one
  uint8_t empty;  // the byte whose code is 0, where there is one
  void (*pack)(Blocks blocks, const Target& to);
};

constexpr BlockFormat kFormats[] = {
    {DType::kQ4_0, 4, 32, AffineKind::kSymmetric, MetaKind::kF16, {0, 0}, 0, PackQ4_0},
    {DType::kQ4_1, 4, 32, AffineKind::kMinimum, MetaKind::kF16, {0, 2}, 0, PackQ4_1},
    {DType::kQ5_0, 5, 32, AffineKind::kSymmetric, MetaKind::kF16, {0, 0}, 0, PackQ5_0},
    {DType::kQ5_1, 5, 32, AffineKind::kMinimum, MetaKind::kF16, {0, 2}, 0, PackQ5_1},
    {DType::kQ8_0, 8, 32, AffineKind::kSymmetric, MetaKind::kF16, {0, 0}, 0x80, PackQ8_0},
    {DType::kQ2_K, 2, 16, AffineKind::kMinimum, MetaKind::kCoded, {80, 82}, 0, PackQ2K},
    {DType::kQ3_K, 3, 16, AffineKind::kSymmetric, MetaKind::kCoded, {108, 108}, 0, PackQ3K},
    {DType::kQ4_K, 4, 32, AffineKind::kMinimum, MetaKind::kCoded, {0, 2}, 0, PackQ4K},
    {DType::kQ5_K, 5, 32, AffineKind::kMinimum, MetaKind::kCoded, {0, 2}, 0, PackQ5K},
    {DType::kQ6_K, 6, 16, AffineKind::kSymmetric, MetaKind::kCoded, {208, 208}, 0, PackQ6K},
    {DType::kIQ4_NL, 8, 32, AffineKind::kSymmetric, MetaKind::kF16, {0, 0}, 0, PackIQ4NL},
    {DType::kTQ1_0, 2, 256, AffineKind::kMinimum, MetaKind::kF16, {52, 52}, 0, PackTQ10},
    {DType::kTQ2_0, 2, 256, AffineKind::kMinimum, MetaKind::kF16, {64, 64}, 0, PackTQ20},
};

const BlockFormat* FindFormat(DType dtype) {
  for (const BlockFormat& format : kFormats) {
    if (format.dtype == dtype) return &format;
  }
  return nullptr;
}

class GgufBlocks final : public Packer {
 public:
  GgufBlocks(const char* name, const BlockFormat& format, const uint8_t* rows, int n, int k, const RowMap& map)
      : Packer(name), format_(format), rows_(rows), map_(map) {
    const DTypeInfo& info = Info(format.dtype);
    block_bytes_ = static_cast<size_t>(info.block_bytes);
    blocks_ = static_cast<size_t>(k / info.block_values);
    part_.kind = PartKind::kAffine;
    part_.view.kind = PackedKind::kAffine;
    part_.view.n = n;
    part_.view.k = k;
    part_.view.bits = format.bits;
    part_.view.group_size = format.group_size;
    part_.view.affine = format.affine;
    part_.view.meta = format.meta;
    part_.view.panel_bytes = PackedPanelBytes(part_.view);
    part_.stored_bytes = static_cast<size_t>(n) * blocks_ * block_bytes_;
  }

  Status Pack(int panel0, int panel1, uint8_t* panels) const override {
    const AffineLayout layout(part_.view);
    const size_t sub_blocks = static_cast<size_t>(Info(format_.dtype).block_values / kSubBlock);
    const size_t groups = static_cast<size_t>(Info(format_.dtype).block_values / format_.group_size);
    uint8_t empty[kMaxBlockBytes];
    std::memset(empty, format_.empty, sizeof(empty));
    for (const int offset : format_.halves) std::memset(empty + offset, 0, 2);
    for (int p = panel0; p < panel1; ++p, panels += part_.view.panel_bytes) {
      const uint8_t* blocks[kPanelRows];
      size_t step[kPanelRows];
      for (int r = 0; r < kPanelRows; ++r) {
        const int row = SourceRow(map_, part_.view.n, p * kPanelRows + r);
        blocks[r] = row < 0 ? empty : rows_ + static_cast<size_t>(row) * blocks_ * block_bytes_;
        step[r] = row < 0 ? 0 : block_bytes_;
      }
      uint32_t infinite = 0;
      for (size_t b = 0; b < blocks_; ++b) {
        const Target to = {panels + layout.SuperOffset(b * groups), panels + layout.RecordOffset(b * groups),
                           panels + layout.SubBlockOffset(b * sub_blocks)};
        format_.pack(blocks, to);
        for (int r = 0; r < kPanelRows; ++r) {
          for (const int offset : format_.halves) infinite |= (HalfWordAt(blocks[r] + offset) & 0x7c00u) == 0x7c00u;
          blocks[r] += step[r];
        }
      }
      if (infinite != 0) {
        return Error(Code::kCorruptFile,
                     "Tensor %s holds a block scale that is not finite near row %d; download the file again or use another checkpoint",
                     name(), p * kPanelRows);
      }
    }
    return Status::Ok();
  }

 private:
  const BlockFormat& format_;
  const uint8_t* rows_;
  const RowMap map_;
  size_t blocks_, block_bytes_;  // of one row
};

}  // namespace

Result<std::unique_ptr<Packer>> GgufPacker(const char* name, DType dtype, const uint8_t* rows, int n, int k, const RowMap& map) {
  const BlockFormat* format = FindFormat(dtype);
  if (format == nullptr)
    return Error(Code::kUnsupported, "Tensor %s has element type %s, which is not a GGUF block type that can be packed", name,
                 Info(dtype).name);
  LOWBIT_RETURN_IF_ERROR(CheckPackShape(name, n, k));
  LOWBIT_RETURN_IF_ERROR(CheckRowMap(name, map, n));
  if (k % Info(dtype).block_values != 0) {
    return Error(Code::kCorruptFile, "Tensor %s has %d columns, but a row of %s holds a multiple of %zu", name, k, Info(dtype).name,
                 static_cast<size_t>(Info(dtype).block_values));
  }
  return std::unique_ptr<Packer>(std::make_unique<GgufBlocks>(name, *format, rows, n, k, map));
}

Result<Part> PackGguf(const char* name, DType dtype, const uint8_t* rows, int n, int k, const RowMap& map) {
  return PackWhole(GgufPacker(name, dtype, rows, n, k, map));
}

}  // namespace lowbit
