// quantize/hessian_energy: see hessian_energy.h. Rows go through in chunks of kGridRows, transposed, so that H is the A operand; by
// symmetry only the part of H above the diagonal blocks is multiplied, and counted twice.
#include "quantize/hessian_energy.h"

#include <algorithm>

#include "quantize/grid.h"
#include "solve/pack.h"

namespace lowbit {
namespace {

constexpr int kColumns = 128;  // columns of H per GEMM call

// A sum per lane over at most kColumns lines, then over the lanes in double: independent additions, fixed order.
void AddProducts(const float* a, const float* b, int lines, double factor, int rows, double* energy) {
  for (int first = 0; first < lines; first += kColumns) {
    float sums[kGridRows] = {};
    for (int c = first; c < std::min(lines, first + kColumns); ++c)
      for (int i = 0; i < kGridRows; ++i) sums[i] += a[size_t(c) * kGridRows + i] * b[size_t(c) * kGridRows + i];
    for (int i = 0; i < rows; ++i) energy[i] += factor * sums[i];
  }
}

}  // namespace

Result<HessianEnergy> HessianEnergy::Pack(const HessianView& hessian, int k, Pool& pool) {
  HessianEnergy packed;
  packed.k_ = k;
  packed.weighted_ = hessian.data != nullptr;
  if (!packed.weighted_) return packed;
  // Columns [j0, j1) of H need its rows [0, j1) only.
  const int blocks = (k + kColumns - 1) / kColumns;
  packed.offsets_.assign(blocks + 1, 0);
  for (int b = 0; b < blocks; ++b) {
    const int j1 = std::min(k, (b + 1) * kColumns);
    packed.offsets_[b + 1] = packed.offsets_[b] + TileFloats(j1, j1 - b * kColumns);
  }
  LOWBIT_ASSIGN_OR_RETURN(packed.tiles_,
                          Block::Allocate(packed.offsets_[blocks] * sizeof(float), MemoryClass::kScratch, "the error of a layer"));
  pool.Run(blocks, [&](int b, int) {
    const int j0 = b * kColumns, j1 = std::min(k, j0 + kColumns);
    PackColumnTiles(hessian.data + j0, k, j1, j1 - j0, packed.tiles_.as<float>() + packed.offsets_[b]);
  });
  return packed;
}

Result<std::vector<double>> HessianEnergy::Rows(int n, const LoadRows& load, const KernelTable& kernels, Pool& pool) const {
  const int k = k_, chunks = (n + kGridRows - 1) / kGridRows, blocks = (k + kColumns - 1) / kColumns;
  const size_t line = kGridRows, task_floats = size_t(k) * line + (weighted_ ? size_t(kColumns) * line : 0);
  LOWBIT_ASSIGN_OR_RETURN(Block scratch,
                          Block::Allocate(task_floats * pool.threads() * sizeof(float), MemoryClass::kScratch, "the error of a layer"));
  std::vector<double> found(n, 0);
  pool.Run(chunks, [&](int chunk, int worker) {
    float* lanes = scratch.as<float>() + worker * task_floats;
    float* product = lanes + size_t(k) * line;  // [kColumns][kGridRows]
    const int row0 = chunk * kGridRows, rows = std::min(kGridRows, n - row0);
    if (rows < kGridRows) std::fill(lanes, lanes + size_t(k) * line, 0.0f);
    load(row0, rows, lanes);
    double* energy = found.data() + row0;
    if (!weighted_) {
      AddProducts(lanes, lanes, k, 1, rows, energy);
      return;
    }
    for (int b = 0; b < blocks; ++b) {
      const int j0 = b * kColumns, j1 = std::min(k, j0 + kColumns);
      const float* block = tiles_.as<float>() + offsets_[b];
      const float* own = lanes + size_t(j0) * line;
      if (j0 > 0) {
        kernels.gemm_f32(block, size_t(j1) * kRowTile, kRowTile, lanes, kPanelRows, line, j1 - j0, kGridRows, j0, product, line, false);
        AddProducts(product, own, j1 - j0, 2, rows, energy);
      }
      kernels.gemm_f32(block + size_t(j0) * kRowTile, size_t(j1) * kRowTile, kRowTile, own, kPanelRows, line, j1 - j0, kGridRows, j1 - j0,
                       product, line, false);
      AddProducts(product, own, j1 - j0, 1, rows, energy);
    }
  });
  return found;
}

HessianEnergy::LoadRows Difference(const float* a, const float* b, int k) {
  return [a, b, k](int row0, int rows, float* lanes) {
    // kColumns lines at a time: all rows of them fit the first caches.
    for (int first = 0; first < k; first += kColumns) {
      const int end = std::min(k, first + kColumns);
      for (int r = 0; r < rows; ++r) {
        const size_t row = size_t(row0 + r) * k;
        for (int c = first; c < end; ++c) lanes[size_t(c) * kGridRows + r] = b == nullptr ? a[row + c] : a[row + c] - b[row + c];
      }
    }
  };
}

double Sum(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum;
}

}  // namespace lowbit
