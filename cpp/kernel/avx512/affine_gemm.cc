// kernel/avx512: y = x W^T for many int8 rows (prefill): kernel/simd/affine_gemm.h compiled for this instruction set.
#include "kernel/avx512/lanes.h"

#ifdef LOWBIT_AVX512
#include "kernel/avx512/dot.h"
#include "kernel/avx512/internal.h"
#include "kernel/simd/affine_gemm.h"

namespace lowbit {

void avx512::AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                        uint8_t* scratch) {
  GemmPanels<kGemmTile>(w, x, y, ldy, panel0, panel1, accumulate, scratch);
}

}  // namespace lowbit
#endif
