// quantize/unpack_parts: the way back from parts that the engine runs to plain numbers, for writers of other formats: the inverse of
// pack_parts and of the readers of part/, exact.
#pragma once

#include <span>

#include "base/pool.h"
#include "base/status.h"
#include "part/part.h"
#include "quantize/linear_parts.h"

namespace lowbit {

// The numbers of a weight [n, k] in parts; panels are cut over the pool. Scales that are codes (K-quants, SpQR) come decoded, and so f16
// may not hold scales, minima and factors: the caller asks. UNSUPPORTED naming `name` for a dense part, which has no codes.
Result<LinearParts> UnpackParts(const char* name, int n, int k, std::span<const Part> parts, UnpackPanel unpack, Pool& pool);

}  // namespace lowbit
