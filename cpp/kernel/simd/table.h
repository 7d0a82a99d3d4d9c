// kernel/simd: a kernel table made of the templates of this folder, compiled for the lanes of the room that includes it.
// Included after the gemm_f32.h, dense_gemv.h and pack_rows.h of the instruction set.
#pragma once

#include "kernel/kernel.h"
#include "kernel/simd/attend.h"
#include "kernel/simd/sparse_few.h"
#include "kernel/simd/unpack_panel.h"
#include "kernel/simd/vector_ops.h"

namespace lowbit {
namespace {

constexpr KernelTable TableOf(const char* name, int gemm_tile, int gemm_pass, decltype(KernelTable::quantize_rows) quantize_rows,
                              decltype(KernelTable::affine_small) affine_small, decltype(KernelTable::affine_gemm) affine_gemm) {
  return {
      .name = name,
      .gemm_tile = gemm_tile,
      .gemm_pass = gemm_pass,
      .gemm_f32 = GemmF32,
      .unpack_panel = UnpackPanel,
      .pack_rows = PackRows,
      .dense_gemv = DenseGemv,
      .sparse_few = SparseFew,
      .quantize_rows = quantize_rows,
      .affine_small = affine_small,
      .affine_gemm = affine_gemm,
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

}  // namespace
}  // namespace lowbit
