// kernel/avxvnni: the functions that its translation units give to the table in kernels.cc. Not for other rooms.
#pragma once

#include "kernel/kernel.h"

namespace lowbit::avxvnni {
#ifdef LOWBIT_AVXVNNI_EVEX
inline namespace evex {
#endif

// Rows of a tile of the int8 GEMM: 6 x 2 halves of a panel of int32 sums, 2 vectors of codes and a broadcast = 15 of 16 registers.
// Twelve sums cover the latency of two vpdpbusd a cycle (4 cycles on Zen 5, 5 on Golden Cove).
constexpr int kGemmTile = 6;

void AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate);
void AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                uint8_t* scratch);

#ifdef LOWBIT_AVXVNNI_EVEX
}  // namespace evex
#endif
}  // namespace lowbit::avxvnni
