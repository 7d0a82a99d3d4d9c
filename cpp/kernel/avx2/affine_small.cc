// kernel/avx2: y = x W^T for few int8 rows (decode): kernel/simd/affine_small.h compiled for this instruction set.
#include "kernel/avx2/lanes.h"

#ifdef LOWBIT_AVX2
#include "kernel/avx2/dot.h"
#include "kernel/avx2/internal.h"
#include "kernel/simd/affine_small.h"

namespace lowbit {

void avx2::AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  SmallRows(w, x, y, ldy, panel0, panel1, accumulate);
}

}  // namespace lowbit
#endif
