// part/sum: a weight as one dense matrix again, from its parts. For solves, exports and tests; no product goes through here.
#include <algorithm>

#include "part/part.h"

namespace lowbit {
namespace {

// fn(row, column, value) for every element of a matrix in panels, in packed order.
template <typename Fn>
void ForEach(const PackedView& view, UnpackPanel unpack, const Fn& fn) {
  const size_t k = static_cast<size_t>(view.k);
  std::vector<float> panel(k * kPanelRows);
  for (int p = 0; p < PanelCount(view); ++p) {
    unpack(view, p, 0, view.k, panel.data());
    const size_t row0 = static_cast<size_t>(p) * kPanelRows, rows = std::min<size_t>(kPanelRows, static_cast<size_t>(view.n) - row0);
    for (size_t j = 0; j < k; ++j)
      for (size_t r = 0; r < rows; ++r) fn(row0 + r, j, panel[j * kPanelRows + r]);
  }
}

void AddLowRank(const Part& part, size_t k, UnpackPanel unpack, const std::vector<float>& scale, float* out) {
  const size_t rank = static_cast<size_t>(part.inner.n);
  std::vector<float> a(rank * k);
  ForEach(part.inner, unpack, [&](size_t i, size_t j, float value) { a[i * k + j] = scale.empty() ? value : value * scale[j]; });
  ForEach(part.view, unpack, [&](size_t r, size_t i, float value) {
    float* row = out + r * k;
    const float* from = a.data() + i * k;
    for (size_t j = 0; j < k; ++j) row[j] += value * from[j];
  });
}

}  // namespace

std::vector<float> SumOfParts(std::span<const Part> parts, int n, int k, UnpackPanel unpack) {
  const size_t width = static_cast<size_t>(k);
  std::vector<float> sum(static_cast<size_t>(n) * width, 0.0f);
  for (const Part& part : parts) {
    const std::vector<float>& scale = part.input_scale;
    if (part.kind == PartKind::kLowRank) {
      AddLowRank(part, width, unpack, scale, sum.data());
    } else if (part.kind == PartKind::kSparse) {
      for (const SparseWeight& w : SparseWeightsOf(part.sparse)) {
        const size_t j = static_cast<size_t>(w.column);
        sum[static_cast<size_t>(w.row) * width + j] += scale.empty() ? w.value : w.value * scale[j];
      }
    } else {
      ForEach(part.view, unpack, [&](size_t i, size_t j, float value) {
        const size_t row = part.rows.empty() ? i : static_cast<size_t>(part.rows[i]);
        const size_t column = part.permutation.empty() ? j : static_cast<size_t>(part.permutation[j]);
        sum[row * width + column] += scale.empty() ? value : value * scale[column];
      });
    }
  }
  return sum;
}

}  // namespace lowbit
