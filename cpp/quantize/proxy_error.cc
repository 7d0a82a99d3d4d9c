// quantize/proxy_error: see proxy_error.h.
#include "quantize/proxy_error.h"

#include <algorithm>

#include "quantize/grid.h"
#include "quantize/hessian_energy.h"

namespace lowbit {
namespace {

constexpr int kColumns = 128;  // lines written at a time: all rows of them fit the first caches

// Lines [k][kGridRows] of W - Q.
void LoadErrors(const QuantizedLinear& q, const float* w, int row0, int rows, float* lanes) {
  for (int first = 0; first < q.k; first += kColumns) {
    const int end = std::min(q.k, first + kColumns);
    for (int r = 0; r < rows; ++r) {
      const size_t row = row0 + r;
      const float* scales = q.scales.data() + row * q.groups;
      const uint8_t* zeros = q.zeros.data() + row * q.groups;
      const float* minima = q.minima.empty() ? nullptr : q.minima.data() + row * q.groups;
      for (int c = first; c < end; ++c) {
        const int group = q.GroupOf(c);
        const int code = q.codes[row * q.k + c];
        const float w_hat = minima == nullptr ? scales[group] * static_cast<float>(code - int(zeros[group]))
                                              : scales[group] * static_cast<float>(code) + minima[group];
        lanes[size_t(c) * kGridRows + r] = w[row * q.k + c] - w_hat;
      }
    }
  }
}

}  // namespace

Result<RowErrors> ErrorsOfRows(const QuantizedLinear& q, std::span<const float> w, const HessianView& hessian, const KernelTable& kernels,
                               Pool& pool) {
  LOWBIT_ASSIGN_OR_RETURN(const HessianEnergy energy, HessianEnergy::Pack(hessian, q.k, pool));
  RowErrors found;
  const auto load = [&](int row0, int rows, float* lanes) { LoadErrors(q, w.data(), row0, rows, lanes); };
  LOWBIT_ASSIGN_OR_RETURN(found.error, energy.Rows(q.n, load, kernels, pool));
  LOWBIT_ASSIGN_OR_RETURN(found.weight, energy.Rows(q.n, Difference(w.data(), nullptr, q.k), kernels, pool));
  return found;
}

Result<double> RelativeError(const QuantizedLinear& q, std::span<const float> w, const HessianView& hessian, const KernelTable& kernels,
                             Pool& pool) {
  LOWBIT_ASSIGN_OR_RETURN(const RowErrors rows, ErrorsOfRows(q, w, hessian, kernels, pool));
  const double error = Sum(rows.error), weight = Sum(rows.weight);
  return weight == 0 && error == 0 ? 0.0 : error / weight;
}

}  // namespace lowbit
