// part/pack_common: what the packers of this room share: checks of row map, scales and groups, the panels' memory. Internal to part/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "part/lanes.h"
#include "part/part.h"

namespace lowbit {

// INVALID_ARGUMENT unless the map is empty or has n entries in [0, n).
Status CheckRowMap(const char* name, const RowMap& map, int n);

// Source row of packed row `row`; -1 for the padding rows of the last panel.
inline int SourceRow(const RowMap& map, int n, int row) {
  if (row >= n) return -1;
  return map.empty() ? row : map[static_cast<size_t>(row)];
}

// Allocates zeroed panels for part.view (its format must be complete) and points the view at them.
Status AllocatePanels(const char* name, Part& part);

// Whether f16 holds exactly this value.
bool FitsHalf(float value);

// Word `index` of a mapped file, which promises no alignment.
inline uint32_t WordOf(const int32_t* words, size_t index) {
  return WordAt(reinterpret_cast<const uint8_t*>(words) + index * sizeof(uint32_t));
}

// Element `index` of an array of F32, F16 or BF16.
float FloatAt(const uint8_t* values, DType dtype, size_t index);

// Whether f16 holds all scales. CORRUPT_FILE naming `name` and the place when one is not finite; `minor` scales follow one another
// before the next group begins, or the next row where rows_first. `what`: "GPTQ scales", for messages.
Result<bool> ScalesFitHalf(const char* name, const char* what, std::span<const uint8_t> scales, DType dtype, size_t minor, bool rows_first);

// The column order in which groups are contiguous; empty when that is the order of the file or g_idx is empty. g_idx [k]: the group of
// each column. CORRUPT_FILE for a group that does not exist, UNSUPPORTED for groups of unequal size. `what`: "GPTQ tensor g_idx", for
// messages.
Result<std::vector<int32_t>> ColumnOrder(const char* name, const char* what, std::span<const int32_t> g_idx, size_t k, size_t group_size);

}  // namespace lowbit
