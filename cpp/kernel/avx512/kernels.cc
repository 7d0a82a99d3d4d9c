// kernel/avx512: the table for processors with AVX-512 F, BW, DQ, VL and VNNI.
#include "kernel/avx512/lanes.h"

#ifdef LOWBIT_AVX512
#include "kernel/avx512/internal.h"
#include "kernel/simd/table_x86.h"

namespace lowbit {
namespace {

constexpr KernelTable kTable = X86Table("avx512", avx512::kGemmTile, avx512::AffineSmall, avx512::AffineGemm);

}  // namespace

const KernelTable* Avx512Kernels() { return &kTable; }

}  // namespace lowbit
#else
#include "kernel/kernel.h"

namespace lowbit {

const KernelTable* Avx512Kernels() { return nullptr; }

}  // namespace lowbit
#endif
