// kernel/simd: the kernel table of an x86 instruction set: everything but the int8 products is the same code for its lanes.
#pragma once

#include "kernel/simd/dense_gemv.h"
#include "kernel/simd/gemm_f32.h"
#include "kernel/simd/pack_rows.h"
#include "kernel/simd/pass.h"
#include "kernel/simd/quantize_fours.h"
#include "kernel/simd/table.h"

namespace lowbit {
namespace {

constexpr KernelTable X86Table(const char* name, int gemm_tile, decltype(KernelTable::affine_small) affine_small,
                               decltype(KernelTable::affine_gemm) affine_gemm) {
  return TableOf(name, gemm_tile, kPassColumns, QuantizeRowsByFours, affine_small, affine_gemm);
}

}  // namespace
}  // namespace lowbit
