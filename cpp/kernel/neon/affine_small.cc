// kernel/neon: decode kernels with SDOT. Everything is in kernel/neon/affine_small.h.
#include "kernel/neon/lanes.h"

#ifdef LOWBIT_NEON
#include "kernel/neon/affine_small.h"
#include "kernel/neon/internal.h"

namespace lowbit {

void neon::AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  Small(w, x, y, ldy, panel0, panel1, accumulate);
}

}  // namespace lowbit
#endif
