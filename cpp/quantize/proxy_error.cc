// quantize/proxy_error: see proxy_error.h. Rows go through in chunks of kGridRows, transposed, so that H is the A operand;
// by symmetry only the part of H above the diagonal blocks is multiplied, and counted twice.
#include "quantize/proxy_error.h"

#include <algorithm>

#include "base/alloc.h"
#include "quantize/grid.h"
#include "solve/pack.h"

namespace lowbit {
namespace {

constexpr int kColumns = 128;          // columns of H per GEMM call
constexpr int kLanes = 2 * kGridRows;  // W - Q in the first half, W in the second

// Sums of the rows of one chunk.
struct Energy {
  double* error;
  double* weight;
  int rows;
};

// Lines [k][kLanes] of chunk rows, kColumns lines at a time: all rows of them fit the first caches.
void LoadLanes(const QuantizedLinear& q, const float* w, int row0, int rows, float* lanes) {
  for (int first = 0; first < q.k; first += kColumns) {
    const int end = std::min(q.k, first + kColumns);
    for (int r = 0; r < rows; ++r) {
      const size_t row = row0 + r;
      const float* scales = q.scales.data() + row * q.groups;
      const uint8_t* zeros = q.zeros.data() + row * q.groups;
      for (int c = first; c < end; ++c) {
        const int group = q.GroupOf(c);
        const float value = w[row * q.k + c];
        const float w_hat = scales[group] * static_cast<float>(int(q.codes[row * q.k + c]) - int(zeros[group]));
        lanes[size_t(c) * kLanes + r] = value - w_hat;
        lanes[size_t(c) * kLanes + kGridRows + r] = value;
      }
    }
  }
}

// A sum per lane over at most kColumns lines, then over the lanes in double: independent additions, fixed order.
void AddProducts(const float* a, const float* b, int lines, double factor, const Energy& energy) {
  for (int first = 0; first < lines; first += kColumns) {
    float sums[kLanes] = {};
    for (int c = first; c < std::min(lines, first + kColumns); ++c)
      for (int i = 0; i < kLanes; ++i) sums[i] += a[size_t(c) * kLanes + i] * b[size_t(c) * kLanes + i];
    for (int i = 0; i < energy.rows; ++i) {
      energy.error[i] += factor * sums[i];
      energy.weight[i] += factor * sums[kGridRows + i];
    }
  }
}

}  // namespace

Result<RowErrors> ErrorsOfRows(const QuantizedLinear& q, std::span<const float> w, const HessianView& hessian, const KernelTable& kernels,
                               Pool& pool) {
  const int n = q.n, k = q.k, chunks = (n + kGridRows - 1) / kGridRows, blocks = (k + kColumns - 1) / kColumns;
  // Columns [j0, j1) of H need its rows [0, j1) only.
  std::vector<size_t> offsets(blocks + 1, 0);
  for (int b = 0; b < blocks; ++b) {
    const int j1 = std::min(k, (b + 1) * kColumns);
    offsets[b + 1] = offsets[b] + TileFloats(j1, j1 - b * kColumns);
  }
  const bool weighted = hessian.data != nullptr;
  Block tiles;
  if (weighted) {
    LOWBIT_ASSIGN_OR_RETURN(tiles, Block::Allocate(offsets[blocks] * sizeof(float), MemoryClass::kScratch, "the error of a layer"));
    pool.Run(blocks, [&](int b, int) {
      const int j0 = b * kColumns, j1 = std::min(k, j0 + kColumns);
      PackColumnTiles(hessian.data + j0, k, j1, j1 - j0, tiles.as<float>() + offsets[b]);
    });
  }
  const size_t task_floats = size_t(k) * kLanes + (weighted ? size_t(kColumns) * kLanes : 0);
  LOWBIT_ASSIGN_OR_RETURN(Block scratch,
                          Block::Allocate(task_floats * pool.threads() * sizeof(float), MemoryClass::kScratch, "the error of a layer"));

  RowErrors found{std::vector<double>(n, 0), std::vector<double>(n, 0)};
  pool.Run(chunks, [&](int chunk, int worker) {
    float* lanes = scratch.as<float>() + worker * task_floats;
    float* product = lanes + size_t(k) * kLanes;  // [kColumns][kLanes]
    const int row0 = chunk * kGridRows, rows = std::min(kGridRows, n - row0);
    if (rows < kGridRows) std::fill(lanes, lanes + size_t(k) * kLanes, 0.0f);
    LoadLanes(q, w.data(), row0, rows, lanes);
    const Energy energy{found.error.data() + row0, found.weight.data() + row0, rows};
    if (!weighted) {
      AddProducts(lanes, lanes, k, 1, energy);
      return;
    }
    for (int b = 0; b < blocks; ++b) {
      const int j0 = b * kColumns, j1 = std::min(k, j0 + kColumns);
      const float* block = tiles.as<float>() + offsets[b];
      const float* own = lanes + size_t(j0) * kLanes;
      if (j0 > 0) {
        kernels.gemm_f32(block, size_t(j1) * kRowTile, kRowTile, lanes, kPanelRows, kLanes, j1 - j0, kLanes, j0, product, kLanes, false);
        AddProducts(product, own, j1 - j0, 2, energy);
      }
      kernels.gemm_f32(block + size_t(j0) * kRowTile, size_t(j1) * kRowTile, kRowTile, own, kPanelRows, kLanes, j1 - j0, kLanes, j1 - j0,
                       product, kLanes, false);
      AddProducts(product, own, j1 - j0, 1, energy);
    }
  });
  return found;
}

Result<double> RelativeError(const QuantizedLinear& q, std::span<const float> w, const HessianView& hessian, const KernelTable& kernels,
                             Pool& pool) {
  LOWBIT_ASSIGN_OR_RETURN(const RowErrors rows, ErrorsOfRows(q, w, hessian, kernels, pool));
  double error = 0, weight = 0;
  for (int r = 0; r < q.n; ++r) {
    error += rows.error[r];
    weight += rows.weight[r];
  }
  return weight == 0 && error == 0 ? 0.0 : error / weight;
}

}  // namespace lowbit
