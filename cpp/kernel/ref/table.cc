// kernel/ref/table: the portable functions as one KernelTable.
#include "kernel/ref/ref.h"

namespace lowbit {

const KernelTable* RefKernels() {
  static constexpr KernelTable kTable = {
      .name = "ref",
      .gemm_tile = 8,
      .gemm_f32 = ref::GemmF32,
      .unpack_panel = ref::UnpackPanel,
      .pack_rows = ref::PackRows,
      .dense_gemv = ref::DenseGemv,
      .sparse_few = ref::SparseFew,
      .quantize_rows = ref::QuantizeRows,
      .affine_small = ref::AffineSmall,
      .affine_gemm = ref::AffineGemm,
      .scores_f16 = ref::ScoresF16,
      .values_f16 = ref::ValuesF16,
      .rms_norm = ref::RmsNorm,
      .add = ref::Add,
      .silu_mul = ref::SiluMul,
      .gelu_tanh_mul = ref::GeluTanhMul,
      .softcap = ref::Softcap,
      .rope_half = ref::RopeHalf,
      .exp_sum = ref::ExpSum,
      .max = ref::Max,
      .scale = ref::Scale,
      .f32_to_f16 = ref::F32ToF16,
      .f16_to_f32 = ref::F16ToF32,
      .all_finite = ref::AllFinite,
  };
  return &kTable;
}

}  // namespace lowbit
