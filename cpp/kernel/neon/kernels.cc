// kernel/neon: the tables for ARMv8.2-A with dot products, without and with the 8-bit matrix extension. Vector operations, unpacking
// and quantising come from the templates of kernel/simd, compiled here for 4 lanes.
#include "kernel/neon/lanes.h"

#ifdef LOWBIT_NEON
#include "kernel/neon/dense_gemv.h"
#include "kernel/neon/gemm_f32.h"
#include "kernel/neon/internal.h"
#include "kernel/neon/pack_rows.h"
#include "kernel/simd/quantize_rows.h"
#include "kernel/simd/table.h"

namespace lowbit {
namespace {

constexpr KernelTable kTable = TableOf("neon", neon::kGemmTile, 0, QuantizeRows, neon::AffineSmall, neon::AffineGemm);
#ifdef LOWBIT_HAVE_NEON_I8MM
constexpr KernelTable kI8mmTable = TableOf("neon-i8mm", neon::kGemmTile, 0, QuantizeRows, neon_i8mm::AffineSmall, neon_i8mm::AffineGemm);
#endif

}  // namespace

const KernelTable* NeonKernels() { return &kTable; }
#ifdef LOWBIT_HAVE_NEON_I8MM
const KernelTable* NeonI8mmKernels() { return &kI8mmTable; }
#endif

}  // namespace lowbit
#else
#include "kernel/kernel.h"

namespace lowbit {

const KernelTable* NeonKernels() { return nullptr; }
#ifdef LOWBIT_HAVE_NEON_I8MM
const KernelTable* NeonI8mmKernels() { return nullptr; }
#endif

}  // namespace lowbit
#endif
