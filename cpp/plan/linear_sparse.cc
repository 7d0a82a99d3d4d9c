// plan/linear_sparse: products with sparse weights. About one weight in a hundred is sparse, so that plain loops do: few rows are read as
// they are (three loads per weight, four independent sums), many in tiles of kRowTile, one weight for the whole tile.
#include <algorithm>

#include "plan/linear.h"

namespace lowbit {
namespace {

// In a fixed order that knows nothing of other rows.
float Dot(const SparseView& w, int32_t begin, int32_t end, const float* x) {
  float sum[4] = {0, 0, 0, 0};
  int32_t i = begin;
  for (; i + 4 <= end; i += 4)
    for (int lane = 0; lane < 4; ++lane) sum[lane] += w.values[i + lane] * x[w.columns[i + lane]];
  for (; i < end; ++i) sum[0] += w.values[i] * x[w.columns[i]];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// The same sums for the rows of a tile.
void DotTile(const SparseView& w, int32_t begin, int32_t end, const float* tile, float out[kRowTile]) {
  float sum[4][kRowTile] = {};
  int32_t i = begin;
  const auto add = [&](int lane, int32_t at) {
    const float value = w.values[at];
    const float* x = tile + static_cast<size_t>(w.columns[at]) * kRowTile;
    for (int r = 0; r < kRowTile; ++r) sum[lane][r] += value * x[r];
  };
  for (; i + 4 <= end; i += 4)
    for (int lane = 0; lane < 4; ++lane) add(lane, i + lane);
  for (; i < end; ++i) add(0, i);
  for (int r = 0; r < kRowTile; ++r) out[r] = (sum[0][r] + sum[1][r]) + (sum[2][r] + sum[3][r]);
}

}  // namespace

void MultiplySparse(const Product& product, const float* x, size_t ldx, const float* packed, int m, int panel0, int panel1, float* y,
                    size_t ldy) {
  const SparseView& w = product.sparse;
  const int row1 = std::min(product.w.n, panel1 * kPanelRows);
  if (x != nullptr) {
    for (int n = panel0 * kPanelRows; n < row1; ++n)
      for (int r = 0; r < m; ++r)
        y[static_cast<size_t>(r) * ldy + static_cast<size_t>(n)] =
            Dot(w, w.row_offsets[n], w.row_offsets[n + 1], x + static_cast<size_t>(r) * ldx);
    return;
  }
  const size_t tile_floats = static_cast<size_t>(product.w.k) * kRowTile;
  for (int tile = 0; tile * kRowTile < m; ++tile) {
    const int rows = std::min(kRowTile, m - tile * kRowTile);
    float sums[kRowTile];
    for (int n = panel0 * kPanelRows; n < row1; ++n) {
      DotTile(w, w.row_offsets[n], w.row_offsets[n + 1], packed + static_cast<size_t>(tile) * tile_floats, sums);
      for (int r = 0; r < rows; ++r) y[static_cast<size_t>(tile * kRowTile + r) * ldy + static_cast<size_t>(n)] = sums[r];
    }
  }
}

}  // namespace lowbit
