// quantize/mixllm: see mixllm.h.
#include "quantize/mixllm.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "quantize/proxy_error.h"
#include "quantize/rtn.h"

namespace lowbit {
namespace {

// What rounding to base.bits costs each row: d H d^T, d = Q(w_r) - w_r by plain rounding; hessian.data null: |d|^2. Zheng et al. 2024
// (MixLLM), section 3, score rows by the loss they move, |g d + (g d)^2 / 2| with the loss's gradient g, and choose them over the whole
// model. Without gradients this is the error of the layer's output, which says nothing about other layers: each has its own share.
Result<std::vector<double>> ScoreRows(std::span<const float> w, int n, int k, const HessianView& hessian, const QuantizeOptions& base,
                                      const KernelTable& kernels, Pool& pool) {
  LOWBIT_ASSIGN_OR_RETURN(const QuantizedLinear q, QuantizeRtn(w, n, k, base, nullptr, pool));
  LOWBIT_ASSIGN_OR_RETURN(RowErrors rows, ErrorsOfRows(q, w, hessian, kernels, pool));
  return std::move(rows.error);
}

// Rows with the largest scores, ascending.
std::vector<int32_t> Largest(const std::vector<double>& scores, size_t count) {
  std::vector<int32_t> rows(scores.size());
  for (size_t r = 0; r < rows.size(); ++r) rows[r] = static_cast<int32_t>(r);
  std::stable_sort(rows.begin(), rows.end(), [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  rows.resize(count);
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace

Result<LinearParts> QuantizeMixllm(const char* name, std::span<const float> w, int n, int k, const HessianView& hessian,
                                   const PartsOptions& options, const KernelTable& kernels, Pool& pool) {
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<double> scores, ScoreRows(w, n, k, hessian, options.base, kernels, pool));
  const std::vector<int32_t> high = Largest(scores, static_cast<size_t>(std::floor(options.mixllm.fraction * n)));
  std::vector<int32_t> low;
  for (int32_t r = 0, next = 0; r < n; ++r) {
    if (next < static_cast<int32_t>(high.size()) && high[next] == r)
      ++next;
    else
      low.push_back(r);
  }

  LinearParts parts;
  parts.n = n;
  parts.k = k;
  for (const bool is_high : {true, false}) {
    const std::vector<int32_t>& rows = is_high ? high : low;
    if (rows.empty()) continue;
    std::vector<float> own(rows.size() * k);
    for (size_t i = 0; i < rows.size(); ++i) std::copy_n(w.begin() + size_t(rows[i]) * k, k, own.begin() + i * k);
    QuantizeOptions base = options.base;
    if (is_high) {
      base.bits = options.mixllm.high_bits;
      base.sym = true;
    }
    LOWBIT_ASSIGN_OR_RETURN(QuantizedLinear q,
                            Quantize(Method::kGptq, name, own, static_cast<int>(rows.size()), k, hessian, base, kernels, pool));
    LinearParts some = FromQuantized(std::move(q));
    if (rows.size() < size_t(n)) some.affine[0].rows = rows;
    parts.affine.push_back(std::move(some.affine[0]));
    parts.damp_percent = std::max(parts.damp_percent, some.damp_percent);
    parts.dead_columns = some.dead_columns;
    for (std::string& fallback : some.fallbacks)
      if (std::find(parts.fallbacks.begin(), parts.fallbacks.end(), fallback) == parts.fallbacks.end())
        parts.fallbacks.push_back(std::move(fallback));
  }
  return parts;
}

}  // namespace lowbit
