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

#include "base/half.h"
#include "part/layout.h"
#include "part/pack_common.h"
#include "part/part.h"

namespace lowbit {
namespace {

// Mapped files promise no alignment.
uint32_t WordAt(const int32_t* words, size_t index) {
  uint32_t word;
  std::memcpy(&word, reinterpret_cast<const uint8_t*>(words) + index * sizeof(word), sizeof(word));
  return word;
}

// Checked dimensions as sizes, and readers of single fields.
struct Reader {
  const GptqTensors* t;
  size_t n, k, groups, bits;

  int Zero(size_t group, size_t row) const {
    const size_t bit = row * bits, word = group * (n * bits / 32) + bit / 32, shift = bit % 32;
    uint32_t value = WordAt(t->qzeros.data(), word) >> shift;
    if (shift + bits > 32) value |= WordAt(t->qzeros.data(), word + 1) << (32 - shift);
    const uint32_t mask = (1u << bits) - 1;
    const uint32_t zero = (value & mask) + static_cast<uint32_t>(t->zero_offset);
    return static_cast<int>(bits == 3 ? zero : zero & mask);
  }

  float Scale(size_t group, size_t row) const {
    const size_t index = group * n + row;
    if (t->scales_dtype == DType::kF32) {
      float value;
      std::memcpy(&value, t->scales.data() + index * 4, 4);
      return value;
    }
    uint16_t value;
    std::memcpy(&value, t->scales.data() + index * 2, 2);
    return t->scales_dtype == DType::kF16 ? HalfToFloat(value) : Bfloat16ToFloat(value);
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

// The column order in which groups are contiguous; empty when that is the order of the file.
Result<std::vector<int32_t>> ColumnOrder(const char* name, const GptqTensors& t, size_t groups) {
  const size_t k = static_cast<size_t>(t.k), group_size = static_cast<size_t>(t.group_size);
  std::vector<int32_t> order;
  std::vector<size_t> members(groups, 0);
  bool trivial = true;
  for (size_t c = 0; c < t.g_idx.size(); ++c) {
    const int32_t g = t.g_idx[c];
    if (g < 0 || static_cast<size_t>(g) >= groups) {
      return Error(Code::kCorruptFile, "GPTQ tensor g_idx of %s assigns column %zu to group %d, but there are %zu groups", name, c, g,
                   groups);
    }
    ++members[static_cast<size_t>(g)];
    trivial = trivial && static_cast<size_t>(g) == c / group_size;
  }
  if (trivial) return order;
  for (size_t g = 0; g < groups; ++g) {
    const size_t expected = std::min(group_size, k - g * group_size);
    if (members[g] != expected) {
      return Error(Code::kUnsupported,
                   "GPTQ tensor g_idx of %s assigns %zu columns to group %zu; groups of %zu columns are supported (%zu in this one)", name,
                   members[g], g, group_size, expected);
    }
  }
  // counting sort, stable: columns of one group keep their order
  std::vector<size_t> next(groups);
  for (size_t g = 0; g < groups; ++g) next[g] = g * group_size;
  order.resize(k);
  for (size_t c = 0; c < k; ++c) order[next[static_cast<size_t>(t.g_idx[c])]++] = static_cast<int32_t>(c);
  return order;
}

// 16 rows at one word row of qweight; padding rows (index < 0) give 0.
void LoadWords(const int32_t* words, const int rows[kPanelRows], bool contiguous, uint32_t out[kPanelRows]) {
  if (contiguous) {
    std::memcpy(out, reinterpret_cast<const uint8_t*>(words + rows[0]), kPanelRows * sizeof(uint32_t));
    return;
  }
  for (int r = 0; r < kPanelRows; ++r) out[r] = rows[r] < 0 ? 0 : WordAt(words, static_cast<size_t>(rows[r]));
}

// The code that starts at bit `shift` of `low` (and continues in `high`), as byte `place` / 8 of each quad.
void AddColumn(const uint32_t* low, const uint32_t* high, size_t shift, size_t bits, size_t place, uint32_t* quad) {
  const uint32_t mask = (1u << bits) - 1;
  if (shift + bits <= 32) {
    for (int r = 0; r < kPanelRows; ++r) quad[r] |= (low[r] >> shift & mask) << place;
  } else {
    for (int r = 0; r < kPanelRows; ++r) quad[r] |= ((low[r] >> shift | high[r] << (32 - shift)) & mask) << place;
  }
}

// 32 columns in file order: their words are `bits` consecutive word rows. kBits is a constant so that shifts are, too.
template <size_t kBits>
void SubBlockInOrder(const Reader& reader, size_t sub_block, const int rows[kPanelRows], bool contiguous, uint32_t quads[8][kPanelRows]) {
  uint32_t words[kBits + 1][kPanelRows] = {};  // the extra row is read, never used, by the last column
  const size_t first = sub_block * kBits, total = reader.k * kBits / 32, count = std::min(kBits, total - first);
  for (size_t w = 0; w < count; ++w) LoadWords(reader.t->qweight.data() + (first + w) * reader.n, rows, contiguous, words[w]);
  for (size_t t = 0; t < 8; ++t) {
    uint32_t quad[kPanelRows] = {};
    for (size_t i = 0; i < 4; ++i) {
      const size_t bit = (t * 4 + i) * kBits;
      AddColumn(words[bit / 32], words[bit / 32 + 1], bit % 32, kBits, i * 8, quad);
    }
    std::memcpy(quads[t], quad, sizeof(quad));
  }
}

// 32 columns anywhere.
void SubBlockPermuted(const Reader& reader, std::span<const int32_t> columns, const int rows[kPanelRows], bool contiguous,
                      uint32_t quads[8][kPanelRows]) {
  for (size_t c = 0; c < columns.size(); ++c) {
    const size_t bit = static_cast<size_t>(columns[c]) * reader.bits, shift = bit % 32;
    const int32_t* words = reader.t->qweight.data() + bit / 32 * reader.n;
    uint32_t low[kPanelRows], high[kPanelRows] = {};
    LoadWords(words, rows, contiguous, low);
    if (shift + reader.bits > 32) LoadWords(words + reader.n, rows, contiguous, high);
    AddColumn(low, high, shift, reader.bits, c % 4 * 8, quads[c / 4]);
  }
}

}  // namespace

Result<Part> PackGptq(const char* name, const GptqTensors& tensors, const RowMap& map) {
  LOWBIT_RETURN_IF_ERROR(CheckTensors(name, tensors));
  LOWBIT_RETURN_IF_ERROR(CheckRowMap(name, map, tensors.n));
  const size_t n = static_cast<size_t>(tensors.n), k = static_cast<size_t>(tensors.k), group_size = static_cast<size_t>(tensors.group_size);
  const Reader reader{&tensors, n, k, (k + group_size - 1) / group_size, static_cast<size_t>(tensors.bits)};
  bool symmetric = true, half = true;
  for (size_t g = 0; g < reader.groups; ++g) {
    for (size_t row = 0; row < n; ++row) {
      const float scale = reader.Scale(g, row);
      if (!std::isfinite(scale)) {
        return Error(
            Code::kCorruptFile,
            "GPTQ scales of %s hold a value that is not finite at group %zu, row %zu; download the file again or use another checkpoint",
            name, g, row);
      }
      half = half && (tensors.scales_dtype == DType::kF16 || FitsHalf(scale));
      symmetric = symmetric && reader.Zero(g, row) == 1 << (tensors.bits - 1);
    }
  }

  Part part;
  part.kind = PartKind::kAffine;
  LOWBIT_ASSIGN_OR_RETURN(part.permutation, ColumnOrder(name, tensors, reader.groups));
  part.view.kind = PackedKind::kAffine;
  part.view.n = tensors.n;
  part.view.k = tensors.k;
  part.view.bits = tensors.bits;
  // a group of 48 columns, say, becomes three packed groups of 16 with the same scale
  part.view.group_size = group_size >= k               ? (tensors.k + kSubBlock - 1) / kSubBlock * kSubBlock
                         : group_size % kSubBlock == 0 ? tensors.group_size
                                                       : 16;
  part.view.affine = symmetric ? AffineKind::kSymmetric : AffineKind::kZeroPoint;
  part.view.meta_f32 = !half;
  LOWBIT_RETURN_IF_ERROR(AllocatePanels(name, part));
  part.stored_bytes = n * k * reader.bits / 8 + reader.groups * n * static_cast<size_t>(Info(tensors.scales_dtype).block_bytes) +
                      reader.groups * n * reader.bits / 8;

  const AffineLayout layout(part.view);
  const auto sub_block_in_order = tensors.bits == 2   ? SubBlockInOrder<2>
                                  : tensors.bits == 3 ? SubBlockInOrder<3>
                                  : tensors.bits == 4 ? SubBlockInOrder<4>
                                                      : SubBlockInOrder<8>;
  for (size_t row0 = 0; row0 < n; row0 += kPanelRows) {
    int rows[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) rows[r] = SourceRow(map, tensors.n, static_cast<int>(row0) + r);
    const bool contiguous = map.empty() && row0 + kPanelRows <= n;
    uint8_t* panel = part.storage.data() + row0 / kPanelRows * part.view.panel_bytes;
    for (size_t s = 0; s < layout.sub_blocks; ++s) {
      uint32_t quads[8][kPanelRows] = {};
      if (part.permutation.empty()) {
        sub_block_in_order(reader, s, rows, contiguous, quads);
      } else {
        const size_t count = std::min(size_t(kSubBlock), k - s * kSubBlock);
        SubBlockPermuted(reader, std::span<const int32_t>(part.permutation).subspan(s * kSubBlock, count), rows, contiguous, quads);
      }
      StoreSubBlock(quads, tensors.bits, panel + layout.SubBlockOffset(s));
    }
    for (size_t packed_group = 0; packed_group < layout.groups; ++packed_group) {
      const size_t column = packed_group * static_cast<size_t>(part.view.group_size);
      if (column >= k) continue;
      float scales[kPanelRows] = {}, zeros[kPanelRows] = {};
      for (int r = 0; r < kPanelRows; ++r) {
        if (rows[r] < 0) continue;
        scales[r] = reader.Scale(column / group_size, static_cast<size_t>(rows[r]));
        zeros[r] = static_cast<float>(reader.Zero(column / group_size, static_cast<size_t>(rows[r])));
      }
      StoreRecord(part.view, scales, zeros, panel + layout.RecordOffset(packed_group));
    }
  }
  return part;
}

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
