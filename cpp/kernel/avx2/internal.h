// kernel/avx2: the functions that its translation units give to the table in kernels.cc. Not for other rooms.
#pragma once

#include "kernel/kernel.h"

namespace lowbit::avx2 {

// Rows of a tile of the int8 GEMM: 4 x 2 halves of a panel of int16 or int32 sums fill half of the 16 registers. Five or six rows need
// 2 % fewer instructions, but leave sums in memory and a rest of most numbers of rows.
constexpr int kGemmTile = 4;

void AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate);
void AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                uint8_t* scratch);

}  // namespace lowbit::avx2
