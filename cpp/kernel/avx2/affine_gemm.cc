// kernel/avx2: y = x W^T for many int8 rows (prefill): kernel/simd/affine_gemm.h compiled for this instruction set.
#include "kernel/avx2/lanes.h"

#ifdef LOWBIT_AVX2
#include "kernel/avx2/dot.h"
#include "kernel/avx2/internal.h"
#include "kernel/simd/affine_gemm.h"

namespace lowbit {

void avx2::AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                      uint8_t* scratch) {
  GemmPanels<kGemmTile>(w, x, y, ldy, panel0, panel1, accumulate, scratch);
}

}  // namespace lowbit
#endif
