// kernel/self_check: for kernels whose instructions no machine of the developers has. Where they are met for the first time, on a
// user's machine, one small product is compared with the portable kernels before the table may be chosen.
#pragma once

#include "kernel/kernel.h"

namespace lowbit {

// True when affine_gemm of the table gives exactly the integers it must, for two panels, a whole and a short tile of rows and two scale
// groups. Allocates kGemmScratchBytes and little more for its duration. Runs the instructions of the table: ask
// for the processor's features first.
bool GemmIsRight(const KernelTable& table);

}  // namespace lowbit
