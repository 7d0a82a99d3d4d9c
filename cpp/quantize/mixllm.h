// quantize/mixllm: two widths in one matrix, by output row.
#pragma once

#include <span>
#include <vector>

#include "quantize/quantize_parts.h"

namespace lowbit {

// What rounding to base.bits costs each row: d H d^T, d = Q(w_r) - w_r by plain rounding; hessian.data null: |d|^2. Zheng et al. 2024
// (MixLLM), section 3, score rows by the loss they move, |g d + (g d)^2 / 2| with the loss's gradient g. Without gradients this is the
// error of the layer's output, to be weighed by what a unit of it costs the loss (RowScores::weight).
Result<std::vector<double>> ScoreRows(std::span<const float> w, int n, int k, const HessianView& hessian, const QuantizeOptions& base,
                                      const KernelTable& kernels, Pool& pool);

// The rows of a whole model that share one budget.
struct RowScores {
  std::vector<double> scores;  // of each row, at least 0; others (NaN) come last
  int k = 0;                   // columns: a wide row costs more
  double weight = 1;           // of this linear's scores against the others'
};
// Rows of each linear to store at high_bits, ascending: by score * weight per byte, falling, as many as extra_bytes hold beyond low_bits
// everywhere; a row that does not fit is passed over. Ties by linear, then row.
std::vector<std::vector<int32_t>> SelectRows(std::span<const RowScores> linears, int low_bits, int high_bits, double extra_bytes);

// Arguments as QuantizeParts, checked; hessian usable. Two AffineCodes, that of high_bits (symmetric) first; one where all rows agree.
Result<LinearParts> QuantizeMixllm(const char* name, std::span<const float> w, int n, int k, const HessianView& hessian,
                                   const PartsOptions& options, const KernelTable& kernels, Pool& pool);

}  // namespace lowbit
