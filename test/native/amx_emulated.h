// test/native: the kernels of kernel/amx over emulated tile instructions.
#pragma once

#include "kernel/kernel.h"

namespace lowbit_test {

// AVX-512's table with kernel/amx/affine_gemm.cc, compiled over test/native/amx_emulation.h; null where that cannot be compiled.
const lowbit::KernelTable* EmulatedAmxKernels();

// The bf16 product of kernel/amx likewise, for a table that has those of AVX-512.
void EmulateAmxBf16(lowbit::KernelTable* table);

// Uses that a processor would refuse: shapes that do not fit, tiles without configuration. Of all threads.
int& TileFaults();
// Whether the last call left tiles configured.
bool& TilesInUse();

// The emulation itself on one product of 3 x 5 with 2 quads, against the definition; and that wrong shapes are noticed.
bool EmulationIsRight();

}  // namespace lowbit_test
