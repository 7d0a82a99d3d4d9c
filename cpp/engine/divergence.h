// engine/divergence: how far the prediction of one model is from that of another.
#pragma once

#include <span>
#include <vector>

#include "kernel/kernel.h"

namespace lowbit {

struct Divergence {
  double kl = 0;          // Kullback-Leibler divergence of the prediction from the reference, in nats; NaN where an input is not finite
  bool same_top = false;  // both find the same token likeliest, the first of equal ones
};

// reference and logits [vocab], as many of each. `scratch` keeps its memory between calls.
Divergence Diverge(const KernelTable& kernels, std::span<const float> reference, std::span<const float> logits,
                   std::vector<float>* scratch);

}  // namespace lowbit
