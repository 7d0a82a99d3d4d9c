// kernel/avx2: the table for processors with AVX2, FMA and F16C. Everything but the int8 products comes from the templates of
// kernel/simd, compiled here for 8 lanes.
#include "kernel/avx2/lanes.h"

#ifdef LOWBIT_AVX2
#include "kernel/avx2/internal.h"
#include "kernel/simd/attend.h"
#include "kernel/simd/dense_gemv.h"
#include "kernel/simd/gemm_f32.h"
#include "kernel/simd/pack_rows.h"
#include "kernel/simd/quantize_rows.h"
#include "kernel/simd/unpack_panel.h"
#include "kernel/simd/vector_ops.h"

namespace lowbit {
namespace {

constexpr KernelTable kTable = {
    .name = "avx2",
    .gemm_tile = avx2::kGemmTile,
    .gemm_f32 = GemmF32,
    .unpack_panel = UnpackPanel,
    .pack_rows = PackRows,
    .dense_gemv = DenseGemv,
    .quantize_rows = QuantizeRows,
    .affine_small = avx2::AffineSmall,
    .affine_gemm = avx2::AffineGemm,
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

}  // namespace

const KernelTable* Avx2Kernels() { return &kTable; }

}  // namespace lowbit
#else
#include "kernel/kernel.h"

namespace lowbit {

const KernelTable* Avx2Kernels() { return nullptr; }

}  // namespace lowbit
#endif
