// part/dense: F32, F16 and BF16 matrices -> dense panels (packed.h). Values are moved, never converted.
#include <cstring>

#include "part/layout.h"
#include "part/pack_common.h"
#include "part/part.h"

namespace lowbit {
namespace {

// Columns transposed at a time: 16 rows x 16 columns of 4 bytes are 16 source and 16 destination lines, well inside L1.
constexpr size_t kTile = 16;

// True when no element has an all-ones exponent. `exponents` selects the exponent bits of every element in a Word.
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

// rows[r][c] -> out[c][r] for whole elements of a line; a null row is padding and stays zero.
template <typename Word>
void Transpose(const uint8_t* const rows[kPanelRows], size_t count, uint8_t* out) {
  for (size_t begin = 0; begin < count; begin += kTile) {
    const size_t columns = count - begin < kTile ? count - begin : kTile;
    for (size_t r = 0; r < kPanelRows; ++r) {
      if (rows[r] == nullptr) continue;
      for (size_t c = begin; c < begin + columns; ++c) {
        std::memcpy(out + (c * kPanelRows + r) * sizeof(Word), rows[r] + c * sizeof(Word), sizeof(Word));
      }
    }
  }
}

}  // namespace

Result<Part> PackDense(const char* name, DType dtype, const uint8_t* rows, int n, int k, const RowMap& map) {
  LOWBIT_RETURN_IF_ERROR(CheckPackShape(name, n, k));
  LOWBIT_RETURN_IF_ERROR(CheckRowMap(name, map, n));
  Part part;
  part.kind = PartKind::kDense;
  part.view.n = n;
  part.view.k = k;
  switch (dtype) {
    case DType::kF32:
      part.view.kind = PackedKind::kDenseF32;
      break;
    case DType::kF16:
      part.view.kind = PackedKind::kDenseF16;
      break;
    case DType::kBF16:
      part.view.kind = PackedKind::kDenseBf16;
      break;
    default:
      return Error(Code::kUnsupported, "Tensor %s has element type %s, which is not a dense weight type; expected F32, F16 or BF16", name,
                   Info(dtype).name);
  }
  const size_t columns = static_cast<size_t>(k), element = static_cast<size_t>(Info(dtype).block_bytes), row_bytes = columns * element;
  LOWBIT_RETURN_IF_ERROR(AllocatePanels(name, part));
  part.stored_bytes = static_cast<size_t>(n) * row_bytes;

  for (int panel = 0; panel * kPanelRows < n; ++panel) {
    const uint8_t* sources[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      const int row = SourceRow(map, n, panel * kPanelRows + r);
      sources[r] = row < 0 ? nullptr : rows + static_cast<size_t>(row) * row_bytes;
      if (row < 0) continue;
      const bool finite = dtype == DType::kF32   ? AllFinite<uint32_t>(sources[r], columns, 0x7f800000u)
                          : dtype == DType::kF16 ? AllFinite<uint16_t>(sources[r], columns, 0x7c00)
                                                 : AllFinite<uint16_t>(sources[r], columns, 0x7f80);
      if (!finite)
        return Error(Code::kCorruptFile,
                     "Tensor %s holds a value that is not finite in row %d; download the file again or use another checkpoint", name, row);
    }
    uint8_t* out = part.storage.data() + static_cast<size_t>(panel) * part.view.panel_bytes;
    if (dtype == DType::kF32) {
      Transpose<uint32_t>(sources, columns, out);
    } else if (dtype == DType::kF16) {
      Transpose<uint16_t>(sources, columns, out);
    } else {
      Transpose<uint32_t>(sources, columns / 2, out);  // pairs of columns stay together
      for (size_t r = 0; r < kPanelRows && columns % 2 != 0; ++r) {
        if (sources[r] != nullptr) std::memcpy(out + (columns / 2 * kPanelRows + r) * 4, sources[r] + (columns - 1) * 2, 2);
      }
    }
  }
  return part;
}

}  // namespace lowbit
