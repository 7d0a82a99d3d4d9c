// kernel/avx512: the functions that its translation units give to the table in kernels.cc. Not for other rooms.
#pragma once

#include "kernel/kernel.h"

namespace lowbit::avx512 {

// Rows of a tile of the int8 GEMM: 6 x 2 panels of int32 sums, as many f32 sums, 2 weight lines and a broadcast = 27 registers.
constexpr int kGemmTile = 6;

void AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate);
void AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                uint8_t* scratch);

}  // namespace lowbit::avx512
