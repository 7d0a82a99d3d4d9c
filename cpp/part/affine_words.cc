// part/affine_words: tensors of AWQ and compressed-tensors checkpoints -> affine panels, straight from the words of a file. Both are
// matrices of small unsigned numbers in 32-bit words and scales; they differ in where a number lies. The byte layouts are in
// docs/formats.md ("AWQ", "compressed-tensors"), checked against AutoAWQ's gemm.py and compressed-tensors 0.12 and 0.18.
//
//   w[row][column] = scale[row, g] * (code - zero[row, g]), g = g_idx[column] or column / group_size
//
// The codes of compressed-tensors are signed; stored with 2^(bits-1) added, as are its zero points, so that the same formula holds.
#include <algorithm>
#include <cstring>

#include "part/lanes.h"
#include "part/layout.h"
#include "part/pack_common.h"
#include "part/packer.h"
#include "part/word_stream.h"

namespace lowbit {
namespace {

// Row 8 w + i of a column is nibble kAwqNibble[i] of word w: a word holds its rows in the order 0 2 4 6 1 3 5 7.
constexpr uint32_t kAwqNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
constexpr size_t kAwqRows = 8;

// Lines of fields: field i of line l lies in the words l * line_stride + w * word_stride, w = 0, 1, ...
struct FieldLines {
  const int32_t* words = nullptr;
  size_t line_stride = 0, word_stride = 0, bits = 0;
  WordLayout layout = WordLayout::kStream;

  uint32_t operator()(size_t line, size_t index) const {
    const int32_t* from = words + line * line_stride;
    const uint32_t mask = (1u << bits) - 1;
    if (layout == WordLayout::kAwq) return WordOf(from, index / kAwqRows * word_stride) >> 4 * kAwqNibble[index % kAwqRows] & mask;
    if (layout == WordLayout::kPadded) {
      const size_t per_word = 32 / bits;
      return WordOf(from, index / per_word * word_stride) >> index % per_word * bits & mask;
    }
    const size_t bit = index * bits, word = bit / 32, shift = bit % 32;
    uint32_t value = WordOf(from, word * word_stride) >> shift;
    if (shift + bits > 32) value |= WordOf(from, (word + 1) * word_stride) << (32 - shift);
    return value & mask;
  }
};

// Words that hold `count` fields.
size_t WordsOf(WordLayout layout, size_t count, size_t bits) {
  if (layout == WordLayout::kAwq) return count / kAwqRows;
  if (layout == WordLayout::kPadded) return (count + 32 / bits - 1) / (32 / bits);
  return (count * bits + 31) / 32;
}

// Checked dimensions as sizes, and readers of single values.
struct Reader {
  WordTensors t;
  size_t n, k, groups, bits, scale_count;
  FieldLines codes, zeros;  // codes: a line is a column of kAwq and a row otherwise; zeros: a line is a group

  explicit Reader(const WordTensors& tensors) : t(tensors) {
    n = static_cast<size_t>(t.n);
    k = static_cast<size_t>(t.k);
    bits = static_cast<size_t>(t.bits);
    const size_t group_size = static_cast<size_t>(t.group_size);
    groups = (k + group_size - 1) / group_size;
    scale_count = t.scales.size() / static_cast<size_t>(Info(t.scales_dtype).block_bytes);
    if (awq()) {
      codes = {t.codes.data(), n / kAwqRows, 1, bits, t.layout};
      zeros = {t.zeros.data(), n / kAwqRows, 1, bits, t.layout};
    } else {
      codes = {t.codes.data(), WordsOf(t.layout, k, bits), 1, bits, t.layout};
      zeros = {t.zeros.data(), 1, groups, bits, t.layout};
    }
  }

  bool awq() const { return t.layout == WordLayout::kAwq; }
  uint32_t Code(size_t row, size_t column) const { return awq() ? codes(column, row) : codes(row, column); }
  float Scale(size_t group, size_t row) const {
    return FloatAt(t.scales.data(), t.scales_dtype, scale_count == 1 ? 0 : awq() ? group * n + row : row * groups + group);
  }
  int Zero(size_t group, size_t row) const {
    const int middle = 1 << (bits - 1);
    if (!t.byte_zeros.empty()) return middle + t.byte_zeros[row * groups + group];
    return t.zeros.empty() ? middle : static_cast<int>(zeros(group, row));
  }
  bool Symmetric() const {
    if (t.byte_zeros.empty() && t.zeros.empty()) return true;
    for (size_t g = 0; g < groups; ++g)
      for (size_t row = 0; row < n; ++row)
        if (Zero(g, row) != 1 << (bits - 1)) return false;
    return true;
  }
};

Status CheckCount(const char* name, const char* tensor, size_t received, size_t expected) {
  if (received == expected) return Status::Ok();
  return Error(Code::kCorruptFile,
               "The packed %s of %s hold %zu values where the layer needs %zu; check bits and group size in the quantization config",
               tensor, name, received, expected);
}

Status CheckTensors(const char* name, const WordTensors& t) {
  LOWBIT_RETURN_IF_ERROR(CheckPackShape(name, t.n, t.k));
  const bool awq = t.layout == WordLayout::kAwq;
  if (awq ? t.bits != 4 : t.bits < 1 || t.bits > 8)
    return Error(Code::kUnsupported, "Expected %s for bits of %s but received %d", awq ? "4" : "integer between 1 and 8", name, t.bits);
  if (t.group_size < 1)
    return Error(Code::kInvalidArgument, "Expected positive integer for group_size of %s but received %d", name, t.group_size);
  if (t.group_size < t.k && t.group_size % 16 != 0)
    return Error(Code::kUnsupported, "%s has group_size %d; only multiples of 16 and whole rows can be packed", name, t.group_size);
  if (t.scales_dtype != DType::kF16 && t.scales_dtype != DType::kBF16 && t.scales_dtype != DType::kF32)
    return Error(Code::kUnsupported, "The scales of %s have element type %s; expected F16, BF16 or F32", name, Info(t.scales_dtype).name);
  if (awq && t.n % static_cast<int>(kAwqRows) != 0)
    return Error(Code::kUnsupported, "AWQ layer %s has %d rows, which do not fill words of 8", name, t.n);
  if (!t.zeros.empty() && !t.byte_zeros.empty()) return Error(Code::kInvalidArgument, "%s has two kinds of zero points", name);
  const size_t n = static_cast<size_t>(t.n), k = static_cast<size_t>(t.k), bits = static_cast<size_t>(t.bits);
  const size_t groups = (k + static_cast<size_t>(t.group_size) - 1) / static_cast<size_t>(t.group_size);
  LOWBIT_RETURN_IF_ERROR(CheckCount(name, "codes", t.codes.size(), awq ? k * (n / kAwqRows) : n * WordsOf(t.layout, k, bits)));
  if (!t.zeros.empty() || awq) {
    LOWBIT_RETURN_IF_ERROR(CheckCount(name, "zero points", t.zeros.size(), groups * WordsOf(t.layout, n, bits)));
  }
  if (!t.byte_zeros.empty()) {
    LOWBIT_RETURN_IF_ERROR(CheckCount(name, "zero points", t.byte_zeros.size(), groups * n));
    const int half = 1 << (t.bits - 1);
    for (size_t i = 0; i < t.byte_zeros.size(); ++i) {
      if (t.byte_zeros[i] >= -half && t.byte_zeros[i] < half) continue;
      return Error(Code::kCorruptFile, "Zero point %zu of %s is %d, which %d bits do not hold", i, name, t.byte_zeros[i], t.bits);
    }
  }
  const size_t scales = t.scales.size() / static_cast<size_t>(Info(t.scales_dtype).block_bytes);
  if (scales != 1 || groups != 1) LOWBIT_RETURN_IF_ERROR(CheckCount(name, "scales", scales, groups * n));
  if (!t.g_idx.empty()) LOWBIT_RETURN_IF_ERROR(CheckCount(name, "column groups", t.g_idx.size(), k));
  return Status::Ok();
}

class AffineWords final : public Packer {
 public:
  AffineWords(const char* name, const Reader& reader, const RowMap& map, bool half, std::vector<int32_t> order)
      : Packer(name), reader_(reader), map_(map) {
    const WordTensors& t = reader.t;
    part_.kind = PartKind::kAffine;
    part_.permutation = std::move(order);
    PackedView& view = part_.view;
    view.kind = PackedKind::kAffine;
    view.n = t.n;
    view.k = t.k;
    view.bits = t.bits;
    // a group of 48 columns, say, becomes three packed groups of 16 with the same scale
    view.group_size = t.group_size >= t.k             ? (t.k + kSubBlock - 1) / kSubBlock * kSubBlock
                      : t.group_size % kSubBlock == 0 ? t.group_size
                                                      : 16;
    view.affine = reader.Symmetric() ? AffineKind::kSymmetric : AffineKind::kZeroPoint;
    view.meta = half ? MetaKind::kF16 : MetaKind::kF32;
    view.panel_bytes = PackedPanelBytes(view);
    part_.stored_bytes = t.codes.size_bytes() + t.scales.size() + t.zeros.size_bytes() + t.byte_zeros.size_bytes();
  }

  Status Pack(int panel0, int panel1, uint8_t* panels) const override {
    const AffineLayout layout(part_.view);
    for (int p = panel0; p < panel1; ++p) {
      uint8_t* panel = panels + static_cast<size_t>(p - panel0) * part_.view.panel_bytes;
      int rows[kPanelRows];
      for (int r = 0; r < kPanelRows; ++r) rows[r] = SourceRow(map_, part_.view.n, p * kPanelRows + r);
      for (size_t s = 0; s < layout.sub_blocks; ++s) PackSubBlock(s, rows, panel + layout.SubBlockOffset(s));
      for (size_t g = 0; g < layout.groups; ++g) {
        const size_t column = g * static_cast<size_t>(part_.view.group_size);
        if (column < reader_.k) PackRecord(column / static_cast<size_t>(reader_.t.group_size), rows, panel + layout.RecordOffset(g));
      }
    }
    return Status::Ok();
  }

 private:
  void PackSubBlock(size_t sub_block, const int rows[kPanelRows], uint8_t* lines) const {
    const size_t begin = sub_block * kSubBlock, count = std::min(reader_.k - begin, size_t(kSubBlock));
    if (part_.permutation.empty() && reader_.t.layout == WordLayout::kStream && count == kSubBlock) {
      const auto store = reader_.bits == 2   ? StoreWords<2>
                         : reader_.bits == 3 ? StoreWords<3>
                         : reader_.bits == 4 ? StoreWords<4>
                         : reader_.bits == 8 ? StoreWords<8>
                                             : nullptr;
      if (store != nullptr) {  // 32 columns of a row are `bits` words side by side
        Lanes words[8] = {};
        for (int r = 0; r < kPanelRows; ++r) {
          if (rows[r] < 0) continue;
          const int32_t* from = reader_.t.codes.data() + static_cast<size_t>(rows[r]) * reader_.codes.line_stride;
          for (size_t w = 0; w < reader_.bits; ++w) words[w][r] = WordOf(from, sub_block * reader_.bits + w);
        }
        store(words, lines);
        return;
      }
    }
    uint32_t quads[8][kPanelRows] = {};
    const bool contiguous = reader_.awq() && map_.empty() && rows[kPanelRows - 1] >= 0;
    for (size_t c = 0; c < count; ++c) {
      const size_t column = part_.permutation.empty() ? begin + c : static_cast<size_t>(part_.permutation[begin + c]);
      uint32_t* quad = quads[c / 4];
      const size_t shift = c % 4 * 8;
      if (contiguous) {  // two words are the 16 rows of a column
        const int32_t* from = reader_.t.codes.data() + column * reader_.codes.line_stride + static_cast<size_t>(rows[0]) / kAwqRows;
        const uint32_t words[2] = {WordOf(from, 0), WordOf(from, 1)};
        for (size_t r = 0; r < size_t(kPanelRows); ++r) quad[r] |= (words[r / kAwqRows] >> 4 * kAwqNibble[r % kAwqRows] & 15u) << shift;
        continue;
      }
      for (int r = 0; r < kPanelRows; ++r)
        if (rows[r] >= 0) quad[r] |= reader_.Code(static_cast<size_t>(rows[r]), column) << shift;
    }
    StoreSubBlock(quads, part_.view.bits, lines);
  }

  void PackRecord(size_t group, const int rows[kPanelRows], uint8_t* record) const {
    float scales[kPanelRows] = {}, zeros[kPanelRows] = {};
    for (int r = 0; r < kPanelRows; ++r) {
      if (rows[r] < 0) continue;
      const size_t row = static_cast<size_t>(rows[r]);
      scales[r] = reader_.Scale(group, row);
      if (part_.view.affine == AffineKind::kZeroPoint) zeros[r] = static_cast<float>(reader_.Zero(group, row));
    }
    StoreRecord(part_.view, scales, zeros, record);
  }

  const Reader reader_;
  const RowMap map_;
};

}  // namespace

Result<std::unique_ptr<Packer>> WordPacker(const char* name, const WordTensors& tensors, const RowMap& map) {
  LOWBIT_RETURN_IF_ERROR(CheckTensors(name, tensors));
  LOWBIT_RETURN_IF_ERROR(CheckRowMap(name, map, tensors.n));
  const Reader reader(tensors);
  LOWBIT_ASSIGN_OR_RETURN(const bool half, ScalesFitHalf(name, "The scales", tensors.scales, tensors.scales_dtype,
                                                         reader.awq() ? reader.n : reader.groups, !reader.awq()));
  // compressed-tensors fills the groups of columns that nothing reordered with -1
  const bool unset = std::all_of(tensors.g_idx.begin(), tensors.g_idx.end(), [](const int32_t& g) { return WordOf(&g, 0) == 0xffffffffu; });
  const std::span<const int32_t> g_idx = unset ? std::span<const int32_t>() : tensors.g_idx;
  LOWBIT_ASSIGN_OR_RETURN(std::vector<int32_t> order,
                          ColumnOrder(name, "Tensor weight_g_idx", g_idx, reader.k, static_cast<size_t>(tensors.group_size)));
  return std::unique_ptr<Packer>(std::make_unique<AffineWords>(name, reader, map, half, std::move(order)));
}

Result<Part> PackWords(const char* name, const WordTensors& tensors, const RowMap& map) {
  return PackWhole(WordPacker(name, tensors, map));
}

}  // namespace lowbit
