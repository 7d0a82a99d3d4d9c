// part/pack_common: what every packer of this room does first: check the row map, allocate the panels. Internal to part/.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
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

}  // namespace lowbit
