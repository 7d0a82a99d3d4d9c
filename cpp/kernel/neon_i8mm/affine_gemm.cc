// kernel/neon_i8mm: prefill kernels with SMMLA. Everything is in kernel/neon/affine_gemm.h.
#include "kernel/neon/lanes.h"

#if defined(LOWBIT_NEON) && defined(__ARM_FEATURE_MATMUL_INT8)
#include "kernel/neon/affine_gemm.h"

namespace lowbit {

void neon_i8mm::AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                           uint8_t* scratch) {
  Gemm(w, x, y, ldy, panel0, panel1, accumulate, scratch);
}

}  // namespace lowbit
#endif
