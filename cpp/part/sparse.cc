// part/sparse: single weights in compressed rows, added to what the other parts of a linear have in their places (outliers of SpQR).
// In memory [row_offsets][columns][values], each from a 64-byte boundary; values as f32, so that no product has to convert them.
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "part/layout.h"
#include "part/part.h"

namespace lowbit {
namespace {

int32_t IntAt(std::span<const int32_t> values, size_t i) {
  int32_t value;
  std::memcpy(&value, reinterpret_cast<const uint8_t*>(values.data()) + 4 * i, 4);
  return value;
}

size_t Aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

Result<Part> PackSparse(const char* name, int n, int k, std::span<const int32_t> row_offsets, std::span<const int32_t> columns,
                        const uint8_t* values) {
  LOWBIT_RETURN_IF_ERROR(CheckPackShape(name, n, k));
  const size_t rows = static_cast<size_t>(n), count = columns.size();
  if (row_offsets.size() != rows + 1 || IntAt(row_offsets, 0) != 0 || static_cast<size_t>(IntAt(row_offsets, rows)) != count)
    return Error(Code::kCorruptFile, "The row offsets of the sparse weights of %s do not lead from 0 to their number, %zu", name, count);
  const size_t offset_bytes = Aligned((rows + 1) * 4), column_bytes = Aligned(count * 4);
  LOWBIT_ASSIGN_OR_RETURN(Block storage, Block::Allocate(offset_bytes + 2 * column_bytes + 64, MemoryClass::kWeights, name));
  int32_t* to_offsets = storage.as<int32_t>();
  int32_t* to_columns = reinterpret_cast<int32_t*>(storage.data() + offset_bytes);
  float* to_values = reinterpret_cast<float*>(storage.data() + offset_bytes + column_bytes);
  to_offsets[0] = 0;
  for (size_t r = 0; r < rows; ++r) {
    const int32_t begin = to_offsets[r], end = IntAt(row_offsets, r + 1);
    if (end < begin || static_cast<size_t>(end) > count)
      return Error(Code::kCorruptFile, "The row offsets of the sparse weights of %s fall at row %zu", name, r);
    to_offsets[r + 1] = end;
    int32_t last = -1;
    for (int32_t i = begin; i < end; ++i) {
      const int32_t column = IntAt(columns, static_cast<size_t>(i));
      uint16_t half;
      std::memcpy(&half, values + 2 * static_cast<size_t>(i), 2);
      const float value = HalfToFloat(half);
      if (column <= last || column >= k || !std::isfinite(value))
        return Error(Code::kCorruptFile,
                     "Sparse weight %d of %s, in row %zu, has column %d and value %g; columns must rise within a row and stay below %d", i,
                     name, r, column, static_cast<double>(value), k);
      to_columns[i] = last = column;
      to_values[i] = value;
    }
  }
  Part part;
  part.kind = PartKind::kSparse;
  part.view.n = n;
  part.view.k = k;
  part.sparse = {to_offsets, to_columns, to_values};
  part.stored_bytes = (rows + 1) * 4 + count * (k <= 65536 ? 4 : 6);
  part.storage = std::move(storage);
  return part;
}

}  // namespace lowbit
