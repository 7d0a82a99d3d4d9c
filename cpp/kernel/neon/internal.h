// kernel/neon: the functions that its translation units, and those of neon_i8mm/, give to the tables in kernels.cc. Not for other rooms.
#pragma once

#include "kernel/kernel.h"

namespace lowbit {

namespace neon {

// Rows of a tile of the int8 GEMM: four rows' dwords are one register of activations, and 16 x 4 int32 sums half of the 32 registers.
constexpr int kGemmTile = 4;

void AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate);
void AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                uint8_t* scratch);

}  // namespace neon

namespace neon_i8mm {

void AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate);
void AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                uint8_t* scratch);

}  // namespace neon_i8mm

}  // namespace lowbit
