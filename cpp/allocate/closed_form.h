// allocate/closed_form: the real-valued widths that share out a mean width best, when a weight's loss falls by four with every bit.
#pragma once

#include <span>
#include <vector>

#include "base/status.h"

namespace lowbit {

struct BitsRange {
  double least = 1, most = 8;
};

// BAQ (Zheng et al. 2025, "equal loss") per weight instead of per column: minimises sum_i loss_i 2^(-2 R_i) subject to
// sum_i parameters_i R_i = mean_bits sum_i parameters_i. Without limits R_i = mean_bits + log2(c_i / GM(c)) / 2 with c_i = loss_i /
// parameters_i and GM their geometric mean weighted by parameters: each parameter then loses the same. Widths outside `range` are set to
// its ends and the rest is shared out among the others. losses: what a weight would cost at 0 bits, at least 0; parameters: above 0;
// mean_bits in `range`. INVALID_ARGUMENT for anything else.
Result<std::vector<double>> ClosedFormBits(std::span<const double> losses, std::span<const double> parameters, double mean_bits,
                                           BitsRange range);

}  // namespace lowbit
