// kernel/avx512: the table for processors with AVX-512 F, BW, DQ, VL and VNNI. Everything but the int8 products comes from the
// templates of kernel/simd, compiled here for 16 lanes.
#include "kernel/avx512/lanes.h"

#ifdef LOWBIT_AVX512
#include "kernel/avx512/internal.h"
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
    .name = "avx512",
    .gemm_tile = avx512::kGemmTile,
    .gemm_f32 = GemmF32,
    .unpack_panel = UnpackPanel,
    .pack_rows = PackRows,
    .dense_gemv = DenseGemv,
    .quantize_rows = QuantizeRows,
    .affine_small = avx512::AffineSmall,
    .affine_gemm = avx512::AffineGemm,
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

const KernelTable* Avx512Kernels() { return &kTable; }

}  // namespace lowbit
#else
#include "kernel/kernel.h"

namespace lowbit {

const KernelTable* Avx512Kernels() { return nullptr; }

}  // namespace lowbit
#endif
