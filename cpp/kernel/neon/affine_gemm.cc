// kernel/neon: prefill kernels with SDOT. Everything is in kernel/neon/affine_gemm.h.
#include "kernel/neon/lanes.h"

#ifdef LOWBIT_NEON
#include "kernel/neon/affine_gemm.h"

namespace lowbit {

void neon::AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                      uint8_t* scratch) {
  Gemm(w, x, y, ldy, panel0, panel1, accumulate, scratch);
}

}  // namespace lowbit
#endif
