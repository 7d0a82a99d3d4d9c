// engine/divergence: KL(P || Q) = sum p_i (a_i - b_i) - log Z_a + log Z_b with logits a of the reference, b of the model.
#include "engine/divergence.h"

#include <algorithm>
#include <cmath>

namespace lowbit {
namespace {

constexpr size_t kBlock = 256;  // products added up in f32 before they meet the sum in double

size_t First(std::span<const float> logits, float value) {
  return static_cast<size_t>(std::find(logits.begin(), logits.end(), value) - logits.begin());
}

}  // namespace

Divergence Diverge(const KernelTable& kernels, std::span<const float> reference, std::span<const float> logits,
                   std::vector<float>* scratch) {
  const size_t count = reference.size();
  scratch->resize(count);
  float* p = scratch->data();
  const float top = kernels.max(reference.data(), count), other_top = kernels.max(logits.data(), count);
  std::copy(logits.begin(), logits.end(), p);
  const double other_log = std::log(static_cast<double>(kernels.exp_sum(p, count, other_top)));
  std::copy(reference.begin(), reference.end(), p);
  const double total = static_cast<double>(kernels.exp_sum(p, count, top));
  // Both sides without their maximum: differences of logits keep their low bits.
  double moved = 0;
  for (size_t first = 0; first < count; first += kBlock) {
    float sum = 0;
    for (size_t i = first; i < std::min(count, first + kBlock); ++i) sum += p[i] * ((reference[i] - top) - (logits[i] - other_top));
    moved += sum;
  }
  Divergence found;
  found.kl = moved / total - std::log(total) + other_log;
  found.same_top = First(reference, top) == First(logits, other_top);
  return found;
}

}  // namespace lowbit
