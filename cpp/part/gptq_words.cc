// part/gptq_words: Hugging Face GPTQ tensors <-> codes: packs straight from the words of a file, and writes such words.
//
// One linear layer of n outputs and k inputs, `bits` wide codes (2, 3, 4, 8), groups = ceil(k / group_size):
//   qweight [k*bits/32, n] int32: down each column an LSB-first stream of k codes. With 3 bits a code may cross a word
//                          border (32 codes in 3 words), otherwise a word holds 32/bits whole codes.
//   qzeros  [groups, n*bits/32] int32: along each row the same stream of n zero points, each minus zero_offset.
//   scales  [groups, n]; g_idx [k]: the group of each input column.
//   w[row][column] = scale[g][row] * (code - zero[g][row]) with g = g_idx[column]
// zero_offset is 1 in files of checkpoint_format "gptq" (v1) and 0 in "gptq_v2". As in AutoGPTQ, a stored zero plus offset
// wraps to `bits` bits for 2, 4 and 8 bits and does not for 3, where 8 is a valid zero point. So a v1 file cannot hold the
// 3-bit zero point 0: writers of such zeros need v2.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "part/lanes.h"
#include "part/layout.h"
#include "part/pack_common.h"
#include "part/packer.h"
#include "part/word_stream.h"

namespace lowbit {
namespace {

// Checked dimensions as sizes, and readers of single fields.
struct Reader {
  GptqTensors t;
  size_t n, k, groups, bits;

  int Zero(size_t group, size_t row) const {
    const size_t bit = row * bits, word = group * (n * bits / 32) + bit / 32, shift = bit % 32;
    uint32_t value = WordOf(t.qzeros.data(), word) >> shift;
    if (shift + bits > 32) value |= WordOf(t.qzeros.data(), word + 1) << (32 - shift);
    const uint32_t mask = (1u << bits) - 1;
    const uint32_t zero = (value & mask) + static_cast<uint32_t>(t.zero_offset);
    return static_cast<int>(bits == 3 ? zero : zero & mask);
  }

  float Scale(size_t index) const { return FloatAt(t.scales.data(), t.scales_dtype, index); }  // group * n + row

  // Whether every zero point is 2^(bits-1): the stored words are then all alike (3 bits: in threes).
  bool Symmetric() const {
    const uint32_t zero = (1u << (bits - 1)) - static_cast<uint32_t>(t.zero_offset);
    uint64_t stream[2] = {0, 0};  // 96 bits hold 32 fields of 3 bits, or whole words of the others
    for (size_t field = 0; field * bits < 96; ++field) {
      for (size_t b = 0; b < bits && field * bits + b < 96; ++b) {
        const size_t bit = field * bits + b;
        stream[bit / 64] |= static_cast<uint64_t>(zero >> b & 1) << bit % 64;
      }
    }
    const uint32_t expected[3] = {static_cast<uint32_t>(stream[0]), static_cast<uint32_t>(stream[0] >> 32),
                                  static_cast<uint32_t>(stream[1])};
    const size_t period = bits == 3 ? 3 : 1;  // n * 3 / 32 words per group are a multiple of 3
    uint32_t different = 0;
    for (size_t w = 0; w < t.qzeros.size(); w += period) {
      for (size_t i = 0; i < period; ++i) different |= WordOf(t.qzeros.data(), w + i) ^ expected[i];
    }
    return different == 0;
  }
};

Status CheckCount(const char* name, const char* tensor, size_t received, size_t expected) {
  if (received == expected) return Status::Ok();
  return Error(Code::kCorruptFile,
               "GPTQ tensor %s of %s holds %zu values where its layer needs %zu; check bits and group_size in the quantization config",
               tensor, name, received, expected);
}

Status CheckTensors(const char* name, const GptqTensors& t) {
  LOWBIT_RETURN_IF_ERROR(CheckPackShape(name, t.n, t.k));
  if (t.bits != 2 && t.bits != 3 && t.bits != 4 && t.bits != 8) {
    return Error(Code::kUnsupported, "Expected 2, 3, 4 or 8 for bits of GPTQ layer %s but received %d", name, t.bits);
  }
  if (t.zero_offset != 0 && t.zero_offset != 1) {
    return Error(Code::kInvalidArgument, "Expected 0 or 1 for zero_offset of GPTQ layer %s but received %d", name, t.zero_offset);
  }
  if (t.group_size < 1)
    return Error(Code::kInvalidArgument, "Expected positive integer for group_size of GPTQ layer %s but received %d", name, t.group_size);
  if (t.group_size < t.k && t.group_size % 16 != 0) {
    return Error(Code::kUnsupported, "GPTQ layer %s has group_size %d; only multiples of 16 and whole rows can be packed", name,
                 t.group_size);
  }
  if (t.scales_dtype != DType::kF16 && t.scales_dtype != DType::kBF16 && t.scales_dtype != DType::kF32) {
    return Error(Code::kUnsupported, "GPTQ scales of %s have element type %s; expected F16, BF16 or F32", name, Info(t.scales_dtype).name);
  }
  const size_t n = static_cast<size_t>(t.n), k = static_cast<size_t>(t.k), bits = static_cast<size_t>(t.bits),
               group_size = static_cast<size_t>(t.group_size);
  if (k * bits % 32 != 0 || n * bits % 32 != 0) {
    return Error(Code::kUnsupported, "GPTQ layer %s is %d x %d; with %d bits both must fill whole 32-bit words", name, t.n, t.k, t.bits);
  }
  const size_t groups = (k + group_size - 1) / group_size;
  LOWBIT_RETURN_IF_ERROR(CheckCount(name, "qweight", t.qweight.size(), k * bits / 32 * n));
  LOWBIT_RETURN_IF_ERROR(CheckCount(name, "qzeros", t.qzeros.size(), groups * (n * bits / 32)));
  LOWBIT_RETURN_IF_ERROR(CheckCount(name, "scales", t.scales.size() / static_cast<size_t>(Info(t.scales_dtype).block_bytes), groups * n));
  if (!t.g_idx.empty()) LOWBIT_RETURN_IF_ERROR(CheckCount(name, "g_idx", t.g_idx.size(), k));
  return Status::Ok();
}

// 16 rows at one word row of qweight; padding rows (index < 0) give 0.
void LoadWords(const int32_t* words, const int rows[kPanelRows], bool contiguous, Lanes& out) {
  if (contiguous) {
    std::memcpy(out, reinterpret_cast<const uint8_t*>(words + rows[0]), sizeof(out));
    return;
  }
  for (int r = 0; r < kPanelRows; ++r) out[r] = rows[r] < 0 ? 0 : WordOf(words, static_cast<size_t>(rows[r]));
}

class GptqWords final : public Packer {
 public:
  GptqWords(const char* name, const Reader& reader, const RowMap& map, bool symmetric, bool half, std::vector<int32_t> order)
      : Packer(name), reader_(reader), map_(map) {
    const GptqTensors& t = reader.t;
    part_.kind = PartKind::kAffine;
    part_.permutation = std::move(order);
    part_.view.kind = PackedKind::kAffine;
    part_.view.n = t.n;
    part_.view.k = t.k;
    part_.view.bits = t.bits;
    // a group of 48 columns, say, becomes three packed groups of 16 with the same scale
    part_.view.group_size = t.group_size >= t.k             ? (t.k + kSubBlock - 1) / kSubBlock * kSubBlock
                            : t.group_size % kSubBlock == 0 ? t.group_size
                                                            : 16;
    part_.view.affine = symmetric ? AffineKind::kSymmetric : AffineKind::kZeroPoint;
    part_.view.meta = half ? MetaKind::kF16 : MetaKind::kF32;
    part_.view.panel_bytes = PackedPanelBytes(part_.view);
    part_.stored_bytes = reader.n * reader.k * reader.bits / 8 +
                         reader.groups * reader.n * static_cast<size_t>(Info(t.scales_dtype).block_bytes) +
                         reader.groups * reader.n * reader.bits / 8;
  }

  Status Pack(int panel0, int panel1, uint8_t* panels) const override {
    // A word row of the file holds all rows of the weight, so that a panel reads 64 bytes of each: several panels side by side use
    // what the memory system fetches around them.
    constexpr int kTile = 8;
    for (int p = panel0; p < panel1; p += kTile) {
      const int count = panel1 - p < kTile ? panel1 - p : kTile;
      PackTile(p, count, panels + static_cast<size_t>(p - panel0) * part_.view.panel_bytes);
    }
    return Status::Ok();
  }

 private:
  struct Rows {
    int index[kPanelRows];  // of the file; -1 for padding
    bool contiguous;
  };

  void PackTile(int panel0, int count, uint8_t* panels) const {
    const AffineLayout layout(part_.view);
    Rows rows[8];
    for (int i = 0; i < count; ++i) {
      const int row0 = (panel0 + i) * kPanelRows;
      for (int r = 0; r < kPanelRows; ++r) rows[i].index[r] = SourceRow(map_, part_.view.n, row0 + r);
      rows[i].contiguous = map_.empty() && row0 + kPanelRows <= part_.view.n;
    }
    const auto store = reader_.bits == 2   ? StoreWords<2>
                       : reader_.bits == 3 ? StoreWords<3>
                       : reader_.bits == 4 ? StoreWords<4>
                                           : StoreWords<8>;
    const size_t words = reader_.k * reader_.bits / 32;
    for (size_t s = 0; s < layout.sub_blocks; ++s) {
      const size_t first = s * reader_.bits, present = std::min(reader_.bits, words - first);
      for (int i = 0; i < count; ++i) {
        uint8_t* lines = panels + static_cast<size_t>(i) * part_.view.panel_bytes + layout.SubBlockOffset(s);
        if (!part_.permutation.empty()) {
          Lanes quads[8] = {};
          Permuted(s, rows[i], quads);
          StoreSubBlock(quads, part_.view.bits, lines);
          continue;
        }
        Lanes lanes[8] = {};
        for (size_t w = 0; w < present; ++w) {
          LoadWords(reader_.t.qweight.data() + (first + w) * reader_.n, rows[i].index, rows[i].contiguous, lanes[w]);
        }
        store(lanes, lines);
      }
    }
    for (size_t packed_group = 0; packed_group < layout.groups; ++packed_group) {
      const size_t column = packed_group * static_cast<size_t>(part_.view.group_size);
      if (column >= reader_.k) continue;
      const size_t group = column / static_cast<size_t>(reader_.t.group_size);
      for (int i = 0; i < count; ++i) {
        StoreMeta(group, rows[i], panels + static_cast<size_t>(i) * part_.view.panel_bytes + layout.RecordOffset(packed_group));
      }
    }
  }

  void StoreMeta(size_t group, const Rows& rows, uint8_t* record) const {
    if (rows.contiguous && reader_.t.scales_dtype == DType::kF16 && part_.view.affine == AffineKind::kSymmetric) {
      std::memcpy(record, reader_.t.scales.data() + (group * reader_.n + static_cast<size_t>(rows.index[0])) * 2, kPanelRows * 2);
      return;
    }
    float scales[kPanelRows] = {}, zeros[kPanelRows] = {};
    for (int r = 0; r < kPanelRows; ++r) {
      if (rows.index[r] < 0) continue;
      const size_t row = static_cast<size_t>(rows.index[r]);
      scales[r] = reader_.Scale(group * reader_.n + row);
      if (part_.view.affine == AffineKind::kZeroPoint) zeros[r] = static_cast<float>(reader_.Zero(group, row));
    }
    StoreRecord(part_.view, scales, zeros, record);
  }

  // 32 columns anywhere, four at a time: one quad. Padding columns repeat a real one and are masked away.
  void Permuted(size_t sub_block, const Rows& rows, Lanes* quads) const {
    const size_t begin = sub_block * kSubBlock, count = std::min(reader_.k - begin, size_t(kSubBlock));
    for (size_t c = 0; c < count; c += 4) {
      Lanes low[4], high[4];
      uint32_t shift[4], up[4], mask[4];  // the code is (low >> shift | high << up) & mask
      for (size_t i = 0; i < 4; ++i) {
        const size_t bit = static_cast<size_t>(part_.permutation[begin + std::min(c + i, count - 1)]) * reader_.bits;
        const int32_t* words = reader_.t.qweight.data() + bit / 32 * reader_.n;
        shift[i] = static_cast<uint32_t>(bit % 32);
        mask[i] = c + i < count ? (1u << reader_.bits) - 1 : 0;
        LoadWords(words, rows.index, rows.contiguous, low[i]);
        const bool crosses = shift[i] + reader_.bits > 32;  // 3 bits only
        up[i] = crosses ? 32 - shift[i] : 0;
        if (crosses)
          LoadWords(words + reader_.n, rows.index, rows.contiguous, high[i]);
        else
          std::memset(high[i], 0, sizeof(Lanes));
      }
      Lanes& quad = quads[c / 4];
      if (reader_.bits != 3) {
        for (int r = 0; r < kPanelRows; ++r) {
          quad[r] = (low[0][r] >> shift[0] & mask[0]) | (low[1][r] >> shift[1] & mask[1]) << 8 | (low[2][r] >> shift[2] & mask[2]) << 16 |
                    (low[3][r] >> shift[3] & mask[3]) << 24;
        }
        continue;
      }
      for (int r = 0; r < kPanelRows; ++r) {
        uint32_t word = 0;
        for (size_t i = 0; i < 4; ++i) word |= ((low[i][r] >> shift[i] | high[i][r] << up[i]) & mask[i]) << (8 * i);
        quad[r] = word;
      }
    }
  }

  const Reader reader_;
  const RowMap map_;
};

}  // namespace

Result<std::unique_ptr<Packer>> GptqPacker(const char* name, const GptqTensors& tensors, const RowMap& map) {
  LOWBIT_RETURN_IF_ERROR(CheckTensors(name, tensors));
  LOWBIT_RETURN_IF_ERROR(CheckRowMap(name, map, tensors.n));
  const size_t k = static_cast<size_t>(tensors.k), group_size = static_cast<size_t>(tensors.group_size);
  const Reader reader{tensors, static_cast<size_t>(tensors.n), k, (k + group_size - 1) / group_size, static_cast<size_t>(tensors.bits)};
  LOWBIT_ASSIGN_OR_RETURN(const bool half, ScalesFitHalf(name, "GPTQ scales", tensors.scales, tensors.scales_dtype, reader.n, false));
  LOWBIT_ASSIGN_OR_RETURN(std::vector<int32_t> order, ColumnOrder(name, "GPTQ tensor g_idx", tensors.g_idx, k, group_size));
  return std::unique_ptr<Packer>(std::make_unique<GptqWords>(name, reader, map, reader.Symmetric(), half, std::move(order)));
}

Result<Part> PackGptq(const char* name, const GptqTensors& tensors, const RowMap& map) { return PackWhole(GptqPacker(name, tensors, map)); }

void WriteGptqWords(int n, int k, int bits, int groups, int zero_offset, std::span<const uint8_t> codes, std::span<const uint8_t> zeros,
                    std::span<int32_t> qweight, std::span<int32_t> qzeros) {
  const size_t rows = static_cast<size_t>(n), columns = static_cast<size_t>(k), width = static_cast<size_t>(bits);
  const uint32_t mask = (1u << width) - 1;
  const size_t weight_words = columns * width / 32, zero_words = rows * width / 32;
  std::fill(qzeros.begin(), qzeros.end(), 0);
  // 16 rows at a time, so that every touched line of qweight is filled before it leaves the cache
  for (size_t row0 = 0; row0 < rows; row0 += kPanelRows) {
    const size_t row_end = std::min(rows, row0 + kPanelRows);
    for (size_t column = 0; column < columns; column += kSubBlock) {
      const size_t first = column * width / 32, count = std::min(width, weight_words - first),
                   length = std::min(size_t(kSubBlock), columns - column);
      for (size_t row = row0; row < row_end; ++row) {
        uint32_t words[9] = {};
        const uint8_t* source = codes.data() + row * columns + column;
        for (size_t c = 0; c < length; ++c) {
          const uint64_t field = static_cast<uint64_t>(source[c] & mask) << (c * width % 32);
          words[c * width / 32] |= static_cast<uint32_t>(field);
          words[c * width / 32 + 1] |= static_cast<uint32_t>(field >> 32);
        }
        for (size_t w = 0; w < count; ++w) qweight[(first + w) * rows + row] = static_cast<int32_t>(words[w]);
      }
    }
  }
  for (size_t row = 0; row < rows; ++row) {
    for (size_t g = 0; g < static_cast<size_t>(groups); ++g) {
      const uint32_t stored = static_cast<uint32_t>(zeros[row * static_cast<size_t>(groups) + g]) - static_cast<uint32_t>(zero_offset);
      const uint64_t field = static_cast<uint64_t>(stored & mask) << (row * width % 32);
      const size_t word = g * zero_words + row * width / 32;
      qzeros[word] |= static_cast<int32_t>(static_cast<uint32_t>(field));
      if (field >> 32 != 0) qzeros[word + 1] |= static_cast<int32_t>(static_cast<uint32_t>(field >> 32));
    }
  }
}

}  // namespace lowbit
