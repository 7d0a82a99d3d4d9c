// kernel/amx: the function that its translation unit gives to the table in kernel/amx_table.cc. Not for other rooms.
#pragma once

#include "kernel/kernel.h"

// A test compiles affine_gemm.cc a second time, over emulated tiles, beside the one of the engine.
#ifdef LOWBIT_AMX_EMULATION
#define amx amx_emulated
#endif

namespace lowbit::amx {

constexpr int kGemmTile = 16;

void AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                uint8_t* scratch);

}  // namespace lowbit::amx
