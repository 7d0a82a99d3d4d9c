// kernel/neon: the tables for ARMv8.2-A with dot products, without and with the 8-bit matrix extension. Vector operations, unpacking
// and quantising come from the templates of kernel/simd, compiled here for 4 lanes.
#include "kernel/neon/lanes.h"

#ifdef LOWBIT_NEON
#include "kernel/neon/dense_gemv.h"
#include "kernel/neon/gemm_f32.h"
#include "kernel/neon/internal.h"
#include "kernel/neon/pack_rows.h"
#include "kernel/simd/attend.h"
#include "kernel/simd/quantize_rows.h"
#include "kernel/simd/unpack_panel.h"
#include "kernel/simd/vector_ops.h"

namespace lowbit {
namespace {

constexpr KernelTable Table(const char* name, decltype(KernelTable::affine_small) small, decltype(KernelTable::affine_gemm) gemm) {
  return {
      .name = name,
      .gemm_tile = neon::kGemmTile,
      .gemm_f32 = GemmF32,
      .unpack_panel = UnpackPanel,
      .pack_rows = PackRows,
      .dense_gemv = DenseGemv,
      .quantize_rows = QuantizeRows,
      .affine_small = small,
      .affine_gemm = gemm,
      .scores_f16 = ScoresF16,
      .values_f16 = ValuesF16,
      .rms_norm = RmsNorm,
      .add = AddVectors,
      .silu_mul = SiluMul,
      .gelu_tanh_mul = GeluTanhMul,
      .softcap = Softcap,
      .rope_half = RopeHalf,
      .exp_sum = ExpSum,
      .max = MaxOf,
      .scale = Scale,
      .f32_to_f16 = F32ToF16,
      .f16_to_f32 = F16ToF32,
      .all_finite = AllFinite,
  };
}

constexpr KernelTable kTable = Table("neon", neon::AffineSmall, neon::AffineGemm);
#ifdef LOWBIT_HAVE_NEON_I8MM
constexpr KernelTable kI8mmTable = Table("neon-i8mm", neon_i8mm::AffineSmall, neon_i8mm::AffineGemm);
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
