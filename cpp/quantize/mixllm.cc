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

Result<std::vector<double>> ScoreRows(std::span<const float> w, int n, int k, const HessianView& hessian, const QuantizeOptions& base,
                                      const KernelTable& kernels, Pool& pool) {
  LOWBIT_ASSIGN_OR_RETURN(const QuantizedLinear q, QuantizeRtn(w, n, k, base, nullptr, pool));
  LOWBIT_ASSIGN_OR_RETURN(RowErrors rows, ErrorsOfRows(q, w, hessian, kernels, pool));
  return std::move(rows.error);
}

std::vector<std::vector<int32_t>> SelectRows(std::span<const RowScores> linears, int low_bits, int high_bits, double extra_bytes) {
  struct Candidate {
    double value;  // per byte
    int32_t linear, row;
  };
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < linears.size(); ++i) {
    const double bytes = linears[i].k * (high_bits - low_bits) / 8.0;
    for (size_t r = 0; r < linears[i].scores.size(); ++r) {
      const double value = linears[i].scores[r] * linears[i].weight / bytes;
      candidates.push_back({std::isnan(value) ? -1 : value, static_cast<int32_t>(i), static_cast<int32_t>(r)});
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.value > b.value; });
  std::vector<std::vector<int32_t>> rows(linears.size());
  for (const Candidate& candidate : candidates) {
    const double bytes = linears[candidate.linear].k * (high_bits - low_bits) / 8.0;
    if (!(bytes <= extra_bytes)) continue;
    extra_bytes -= bytes;
    rows[candidate.linear].push_back(candidate.row);
  }
  for (auto& list : rows) std::sort(list.begin(), list.end());
  return rows;
}

Result<LinearParts> QuantizeMixllm(const char* name, std::span<const float> w, int n, int k, const HessianView& hessian,
                                   const PartsOptions& options, const KernelTable& kernels, Pool& pool) {
  std::vector<int32_t> high = options.mixllm.rows;
  if (!options.mixllm.rows_given) {
    LOWBIT_ASSIGN_OR_RETURN(const std::vector<double> scores, ScoreRows(w, n, k, hessian, options.base, kernels, pool));
    high = Largest(scores, static_cast<size_t>(std::floor(options.mixllm.fraction * n)));
  }
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
