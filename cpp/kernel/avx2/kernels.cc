// kernel/avx2: the table for processors with AVX2, FMA and F16C.
#include "kernel/avx2/lanes.h"

#ifdef LOWBIT_AVX2
#include "kernel/avx2/internal.h"
#include "kernel/simd/table_x86.h"

namespace lowbit {
namespace {

constexpr KernelTable kTable = X86Table("avx2", avx2::kGemmTile, avx2::AffineSmall, avx2::AffineGemm);

}  // namespace

const KernelTable* Avx2Kernels() { return &kTable; }

}  // namespace lowbit
#else
#include "kernel/kernel.h"

namespace lowbit {

const KernelTable* Avx2Kernels() { return nullptr; }

}  // namespace lowbit
#endif
