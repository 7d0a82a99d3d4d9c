// quantize/finequant: see finequant.h.
#include "quantize/finequant.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "quantize/rtn.h"

namespace lowbit {
namespace {

double StepSize(std::span<const float> w, int n, int k, int group_size) {
  double sum = 0;
  int64_t groups = 0;
  for (size_t r = 0; r < size_t(n); ++r) {
    for (int first = 0; first < k; first += group_size, ++groups) {
      float largest = 0;
      for (int c = first; c < std::min(k, first + group_size); ++c) largest = std::max(largest, std::fabs(w[r * k + c]));
      sum += double(largest) * largest;
    }
  }
  return std::sqrt(sum / static_cast<double>(groups));
}

}  // namespace

int ChooseGroupSize(std::span<const float> w, int n, int k, int start, const FinequantOptions& options) {
  int group_size = std::min(start, k);
  double step = StepSize(w, n, k, group_size);
  for (;;) {
    const int half = static_cast<int>(std::bit_floor(static_cast<uint32_t>(group_size) / 2));
    if (half < options.min_group) return group_size;
    const double finer = StepSize(w, n, k, half);
    if (!(finer < options.alpha * step)) return group_size;
    group_size = half;
    step = finer;
  }
}

Result<LinearParts> QuantizeFinequant(std::span<const float> w, int n, int k, const PartsOptions& options, Pool& pool) {
  QuantizeOptions chosen = options.base;
  chosen.sym = true;
  chosen.group_size = ChooseGroupSize(w, n, k, options.base.group_size < 0 ? k : options.base.group_size, options.finequant);
  LOWBIT_ASSIGN_OR_RETURN(QuantizedLinear q, QuantizeRtn(w, n, k, chosen, nullptr, pool));
  return FromQuantized(std::move(q));
}

}  // namespace lowbit
