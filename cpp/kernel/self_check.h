// kernel/self_check: for kernels whose instructions few machines of the developers have. Where they are met, on a user's machine, small
// products are compared with the exact ones before the table may be chosen.
#pragma once

#include "kernel/kernel.h"

namespace lowbit {

// True when affine_gemm of the table gives exactly the integers it must, for two panels, a whole and a short tile of rows and two scale
// groups. Allocates kGemmScratchBytes and little more for its duration. Runs the instructions of the table: ask
// for the processor's features first.
bool GemmIsRight(const KernelTable& table);
// The same for gemm_bf16, over several blocks of columns and rows and columns that fill no block.
bool Bf16GemmIsRight(const KernelTable& table);

}  // namespace lowbit
