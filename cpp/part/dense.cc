// part/dense: F32, F16 and BF16 matrices -> dense panels (packed.h). Values are moved, never converted.
#include <cstring>
#include <vector>

#include "part/lanes.h"
#include "part/layout.h"
#include "part/pack_common.h"
#include "part/packer.h"

namespace lowbit {
namespace {

// Whether no element of `count` has an all-ones exponent. `exponents` selects the exponent bits of every element in a Word.
template <typename Word>
bool AllFinite(const uint8_t* row, size_t count, Word exponents) {
  Word bad = 0;
  for (size_t i = 0; i < count; ++i) {
    Word value;
    std::memcpy(&value, row + i * sizeof(Word), sizeof(Word));
    bad |= static_cast<Word>((value & exponents) == exponents);
  }
  return bad == 0;
}

// `words` 32-bit words of every row -> one line of 16 lanes per word.
void TransposeWords(const uint8_t* const rows[kPanelRows], size_t words, uint8_t* out) {
  constexpr size_t kTile = 16;  // 16 rows x 64 bytes: 16 source and 16 destination lines, well inside L1
  size_t w = 0;
  for (; w + kTile <= words; w += kTile) {
    Lanes tile[kTile];
    Gather<kTile>(rows, w * 4, tile);
    std::memcpy(out + w * sizeof(Lanes), tile, sizeof(tile));
  }
  for (; w < words; ++w) {
    Lanes lanes[1];
    Gather<1>(rows, w * 4, lanes);
    StoreLine(lanes[0], out + w * sizeof(Lanes));
  }
}

// As TransposeWords for 16-bit elements: a word is two columns, whose half lines of 16 elements follow one another.
void TransposeHalves(const uint8_t* const rows[kPanelRows], size_t words, uint8_t* out) {
  constexpr size_t kTile = 8;
  const auto split = [](const Lanes& pair, uint8_t* line) {
    uint32_t halves[kPanelRows];  // 8 words of the first column, 8 of the second, two rows each
    for (int i = 0; i < kPanelRows / 2; ++i) {
      halves[i] = (pair[2 * i] & 0xffffu) | pair[2 * i + 1] << 16;
      halves[i + kPanelRows / 2] = pair[2 * i] >> 16 | (pair[2 * i + 1] & 0xffff0000u);
    }
    std::memcpy(line, halves, sizeof(halves));
  };
  size_t w = 0;
  for (; w + kTile <= words; w += kTile) {
    Lanes tile[kTile];
    Gather<kTile>(rows, w * 4, tile);
    for (size_t i = 0; i < kTile; ++i) split(tile[i], out + (w + i) * sizeof(Lanes));
  }
  for (; w < words; ++w) {
    Lanes lanes[1];
    Gather<1>(rows, w * 4, lanes);
    split(lanes[0], out + w * sizeof(Lanes));
  }
}

class DenseRows final : public Packer {
 public:
  // transposed: `rows` holds the k columns instead, n elements each.
  DenseRows(const char* name, DType dtype, PackedKind kind, const uint8_t* rows, int n, int k, const RowMap& map, bool transposed)
      : Packer(name),
        dtype_(dtype),
        rows_(rows),
        transposed_(transposed),
        row_bytes_(static_cast<size_t>(k) * static_cast<size_t>(Info(dtype).block_bytes)),
        map_(map) {
    part_.kind = PartKind::kDense;
    part_.view.kind = kind;
    part_.view.n = n;
    part_.view.k = k;
    part_.view.panel_bytes = PackedPanelBytes(part_.view);
    part_.stored_bytes = static_cast<size_t>(n) * row_bytes_;
  }

  Status Pack(int panel0, int panel1, uint8_t* panels) const override {
    const size_t k = static_cast<size_t>(part_.view.k);
    // Padding rows read zeros, but only as many as there are columns in a panel of ordinary width; wider ones are cut to pieces.
    static constexpr size_t kPiece = 4096;  // bytes of a row; a whole number of words of every element type
    static constexpr uint8_t kZeros[kPiece] = {};
    std::vector<uint8_t> gathered(transposed_ ? kPanelRows * row_bytes_ : 0);
    for (int p = panel0; p < panel1; ++p, panels += part_.view.panel_bytes) {
      int rows[kPanelRows];
      const uint8_t* data[kPanelRows];
      for (int r = 0; r < kPanelRows; ++r) rows[r] = SourceRow(map_, part_.view.n, p * kPanelRows + r);
      if (transposed_) GatherColumns(rows, gathered.data());
      for (int r = 0; r < kPanelRows; ++r) {
        if (rows[r] < 0)
          data[r] = kZeros;
        else
          data[r] = transposed_ ? gathered.data() + static_cast<size_t>(r) * row_bytes_ : rows_ + static_cast<size_t>(rows[r]) * row_bytes_;
        if (rows[r] >= 0 && !Finite(data[r], k)) {
          return Error(Code::kCorruptFile,
                       "Tensor %s holds a value that is not finite in row %d; download the file again or use another checkpoint", name(),
                       rows[r]);
        }
      }
      const size_t words = row_bytes_ / 4;  // whole ones: an odd last column of 16 bits is left
      for (size_t w = 0; w < words; w += kPiece / 4) {
        const size_t count = words - w < kPiece / 4 ? words - w : kPiece / 4;
        const uint8_t* from[kPanelRows];
        for (int r = 0; r < kPanelRows; ++r) from[r] = rows[r] < 0 ? kZeros : data[r] + w * 4;
        uint8_t* to = panels + w * sizeof(Lanes);
        if (dtype_ == DType::kF16)
          TransposeHalves(from, count, to);
        else
          TransposeWords(from, count, to);  // of BF16, pairs of columns stay together
      }
      for (size_t r = 0; r < kPanelRows && row_bytes_ % 4 != 0; ++r) {
        const size_t lane = dtype_ == DType::kF16 ? 2 * r : 4 * r;
        if (rows[r] >= 0) std::memcpy(panels + words * sizeof(Lanes) + lane, data[r] + words * 4, 2);
      }
    }
    return Status::Ok();
  }

 private:
  // The rows of a panel from columns that lie one after the other.
  void GatherColumns(const int rows[kPanelRows], uint8_t* out) const {
    const size_t size = static_cast<size_t>(Info(dtype_).block_bytes), stride = static_cast<size_t>(part_.view.n) * size;
    for (size_t c = 0; c < static_cast<size_t>(part_.view.k); ++c)
      for (size_t r = 0; r < kPanelRows; ++r)
        if (rows[r] >= 0) std::memcpy(out + r * row_bytes_ + c * size, rows_ + c * stride + static_cast<size_t>(rows[r]) * size, size);
  }

  bool Finite(const uint8_t* row, size_t k) const {
    return dtype_ == DType::kF32   ? AllFinite<uint32_t>(row, k, 0x7f800000u)
           : dtype_ == DType::kF16 ? AllFinite<uint16_t>(row, k, 0x7c00)
                                   : AllFinite<uint16_t>(row, k, 0x7f80);
  }

  const DType dtype_;
  const uint8_t* rows_;
  const bool transposed_;
  const size_t row_bytes_;
  const RowMap map_;
};

Result<std::unique_ptr<Packer>> AnyDense(const char* name, DType dtype, const uint8_t* rows, int n, int k, const RowMap& map,
                                         bool transposed) {
  LOWBIT_RETURN_IF_ERROR(CheckPackShape(name, n, k));
  LOWBIT_RETURN_IF_ERROR(CheckRowMap(name, map, n));
  PackedKind kind;
  switch (dtype) {
    case DType::kF32:
      kind = PackedKind::kDenseF32;
      break;
    case DType::kF16:
      kind = PackedKind::kDenseF16;
      break;
    case DType::kBF16:
      kind = PackedKind::kDenseBf16;
      break;
    default:
      return Error(Code::kUnsupported, "Tensor %s has element type %s, which is not a dense weight type; expected F32, F16 or BF16", name,
                   Info(dtype).name);
  }
  return std::unique_ptr<Packer>(std::make_unique<DenseRows>(name, dtype, kind, rows, n, k, map, transposed));
}

}  // namespace

Result<std::unique_ptr<Packer>> DensePacker(const char* name, DType dtype, const uint8_t* rows, int n, int k, const RowMap& map) {
  return AnyDense(name, dtype, rows, n, k, map, false);
}

Result<std::unique_ptr<Packer>> TransposedPacker(const char* name, DType dtype, const uint8_t* columns, int n, int k, const RowMap& map) {
  return AnyDense(name, dtype, columns, n, k, map, true);
}

Result<Part> PackDense(const char* name, DType dtype, const uint8_t* rows, int n, int k, const RowMap& map) {
  return PackWhole(DensePacker(name, dtype, rows, n, k, map));
}

}  // namespace lowbit
