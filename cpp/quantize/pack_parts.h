// quantize/pack_parts: from the plain numbers of a method to parts that the engine runs.
#pragma once

#include <vector>

#include "base/status.h"
#include "part/part.h"
#include "quantize/linear_parts.h"

namespace lowbit {

// Parts of the linear in the order affine, low-rank, sparse; each owns its bytes. stored_bytes are those of the lowbit container.
// INVALID_ARGUMENT naming `name` for sizes that do not belong together, rows that are not covered exactly once, values that their stored
// type does not hold exactly.
Result<std::vector<Part>> PackParts(const char* name, const LinearParts& linear);

}  // namespace lowbit
