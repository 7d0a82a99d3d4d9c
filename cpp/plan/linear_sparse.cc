// plan/linear_sparse: products of many rows with single weights. Few rows are the kernels' (KernelTable::sparse_few); many come in tiles of
// kRowTile, one weight for the whole tile, and of each output row only the weights that it has.
#include <algorithm>
#include <cstring>

#include "plan/linear.h"

namespace lowbit {
namespace {

// Lines of a panel whose weights are converted at a time.
constexpr int kLines = 128;
static_assert(kLines * kPanelRows * sizeof(float) <= kGemmScratchBytes);

// sums[r] += `count` weights times the rows of a tile; columns and values lie `step` places apart.
void AddProducts(const uint8_t* columns, const float* values, int step, int count, const float* tile, float sums[kRowTile]) {
  float own[kRowTile];
  std::copy_n(sums, kRowTile, own);
  for (int i = 0; i < count; ++i) {
    uint16_t column;
    std::memcpy(&column, columns + static_cast<size_t>(i) * (step == 1 ? 2 : kSparseLine), 2);
    const float value = values[i * step], *x = tile + static_cast<size_t>(column) * kRowTile;
    for (int r = 0; r < kRowTile; ++r) own[r] += value * x[r];
  }
  std::copy_n(own, kRowTile, sums);
}

}  // namespace

void MultiplySparse(const KernelTable& kernels, const Product& product, const float* packed, int m, int panel0, int panel1, float* y,
                    size_t ldy, uint8_t* scratch) {
  const SparseView& w = product.sparse;
  const size_t tile_floats = static_cast<size_t>(product.w.k) * kRowTile;
  float* values = reinterpret_cast<float*>(scratch);
  for (int panel = panel0; panel < panel1; ++panel) {
    const int row0 = panel * kPanelRows, rows = std::min(kPanelRows, w.n - row0);
    const int start = w.starts[panel], all = w.starts[panel + 1] - start, shared = w.shared[panel];
    for (int line0 = 0; line0 == 0 || line0 < all; line0 += kLines) {
      const uint8_t* lines = w.lines + static_cast<size_t>(start + line0) * kSparseLine;
      const int count = std::min(kLines, all - line0), own = std::clamp(shared - line0, 0, count);  // lines; the first that is not shared
      for (int i = 0; i < count; ++i)
        kernels.f16_to_f32(reinterpret_cast<const uint16_t*>(lines + static_cast<size_t>(i) * kSparseLine + kSparseLine / 2),
                           values + i * kPanelRows, kPanelRows);
      for (int r0 = 0; r0 < m; r0 += kRowTile) {
        const float* tile = packed + static_cast<size_t>(r0 / kRowTile) * tile_floats;
        float sums[kPanelRows][kRowTile] = {};
        for (int lane = 0; lane < rows; ++lane)
          AddProducts(lines + 2 * lane, values + lane, kPanelRows, std::clamp(w.counts[row0 + lane] - line0, 0, own), tile, sums[lane]);
        for (int i = own; i < count; ++i)
          AddProducts(lines + static_cast<size_t>(i) * kSparseLine, values + i * kPanelRows, 1, kPanelRows, tile,
                      sums[w.owners[start + line0 + i]]);
        for (int r = 0; r < std::min(kRowTile, m - r0); ++r) {
          float* to = y + static_cast<size_t>(r0 + r) * ldy + row0;
          for (int lane = 0; lane < rows; ++lane) to[lane] = line0 == 0 ? sums[lane][r] : to[lane] + sums[lane][r];
        }
      }
    }
  }
}

}  // namespace lowbit
