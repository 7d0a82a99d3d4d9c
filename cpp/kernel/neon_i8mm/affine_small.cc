// kernel/neon_i8mm: decode kernels with USDOT. Everything is in kernel/neon/affine_small.h.
#include "kernel/neon/lanes.h"

#if defined(LOWBIT_NEON) && defined(__ARM_FEATURE_MATMUL_INT8)
#include "kernel/neon/affine_small.h"
#include "kernel/neon/internal.h"

namespace lowbit {

void neon_i8mm::AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  Small(w, x, y, ldy, panel0, panel1, accumulate);
}

}  // namespace lowbit
#endif
