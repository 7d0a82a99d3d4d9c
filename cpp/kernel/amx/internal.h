// kernel/amx: the functions that its translation units give to the table in kernel/amx_table.cc. Not for other rooms.
#pragma once

#include "kernel/kernel.h"

// A test compiles the products a second time, over emulated tiles, beside those of the engine.
#ifdef LOWBIT_AMX_EMULATION
#define amx amx_emulated
#endif

namespace lowbit::amx {

constexpr int kGemmTile = 16;

void AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                uint8_t* scratch);
// KernelTable::gemm_bf16; needs AMX-BF16.
void GemmBf16(const uint16_t* a, size_t a_stride, const uint16_t* b, size_t b_stride, int m, int n, int pairs, float* c, size_t ldc,
              bool accumulate);

}  // namespace lowbit::amx
