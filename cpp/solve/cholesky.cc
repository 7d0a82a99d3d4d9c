// solve/cholesky: blocked factorisation and the factor of the inverse that GPTQ walks along.
// Everything outside the diagonal blocks is gemm_f32; work is cut by shape alone, so the result does not depend on the
// number of threads. Triangular solves multiply by the inverse of a diagonal block (fine for damped Hessians, whose
// condition is at most k / damp_percent).
#include "solve/cholesky.h"

#include <algorithm>

#include "base/alloc.h"
#include "solve/pack.h"
#include "solve/small.h"

namespace lowbit {
namespace {

constexpr int kRows = 64;       // rows of one task of the panel step
constexpr int kTileRows = 128;  // the trailing update is cut into tiles of 128 x 240: 184 KiB of operands, within L2
constexpr int kTileColumns = 240;

struct Tile {
  int row, column;
};

}  // namespace

// Right-looking: factor the diagonal block, solve the panel under it, update the rest of the triangle. Also returns n
// when the system refuses scratch memory.
int Cholesky(float* a, int n, const KernelTable& kernels, Pool& pool) {
  const int below_first = std::max(0, n - kSolveBlock);
  const size_t square = size_t(kSolveBlock) * kSolveBlock, task_floats = size_t(kRows) * kSolveBlock;
  const size_t panel_floats = PanelFloats(kSolveBlock, below_first);
  const size_t tile_floats = TileFloats(kSolveBlock, PadTo(below_first, kRows));
  auto scratch = Block::Allocate((2 * square + tile_floats + panel_floats + pool.threads() * task_floats) * sizeof(float),
                                 MemoryClass::kScratch, "Cholesky panels");
  if (!scratch.ok()) return n;
  float* inverse = scratch.value().as<float>();  // of the diagonal block
  float* inverse_panels = inverse + square;      // its transpose as B operand
  float* minus_tiles = inverse_panels + square;  // -L21 as A operand
  float* panels = minus_tiles + tile_floats;     // L21^T as B operand
  float* task_scratch = panels + panel_floats;

  std::vector<Tile> tiles;
  for (int j0 = 0; j0 < n; j0 += kSolveBlock) {
    const int nb = std::min(kSolveBlock, n - j0), i0 = j0 + nb, below = n - i0;
    float* diagonal = a + size_t(j0) * n + j0;
    const int failed = CholeskySmall(diagonal, n, nb);
    if (failed >= 0) return j0 + failed;
    for (int i = j0; i < i0; ++i) std::fill(a + size_t(i) * n + i0, a + size_t(i + 1) * n, 0.0f);
    if (below == 0) break;

    InvertLowerSmall(diagonal, n, nb, inverse);
    PackRowPanels(inverse, nb, nb, nb, inverse_panels);
    const int row_tasks = (below + kRows - 1) / kRows;
    pool.Run(row_tasks, [&](int task, int worker) {
      const int first = task * kRows, rows = std::min(kRows, below - first);
      float* block = a + size_t(i0 + first) * n + j0;
      float* packed = task_scratch + worker * task_floats;
      kernels.pack_rows(block, n, rows, nb, packed);
      kernels.gemm_f32(packed, size_t(nb) * kRowTile, kRowTile, inverse_panels, size_t(nb) * kPanelRows, kPanelRows, rows, nb, nb, block, n,
                       false);
      float* minus = minus_tiles + size_t(first) * nb;
      kernels.pack_rows(block, n, rows, nb, minus);
      kernels.scale(minus, minus, TileFloats(nb, rows), -1);
      PackRowPanels(block, n, rows, nb, panels + size_t(first) * nb);
    });

    tiles.clear();
    for (int row = 0; row < below; row += kTileRows)
      for (int column = 0; column < std::min(row + kTileRows, below); column += kTileColumns) tiles.push_back({row, column});
    pool.Run(static_cast<int>(tiles.size()), [&](int task, int) {
      const Tile tile = tiles[task];
      const int rows = std::min(kTileRows, below - tile.row);
      const int columns = std::min(kTileColumns, std::min(tile.row + kTileRows, below) - tile.column);
      kernels.gemm_f32(minus_tiles + size_t(tile.row) * nb, size_t(nb) * kRowTile, kRowTile, panels + size_t(tile.column) * nb,
                       size_t(nb) * kPanelRows, kPanelRows, rows, columns, nb, a + size_t(i0 + tile.row) * n + i0 + tile.column, n, true);
    });
  }
  return -1;
}

int InverseFactor(float* h, int n, const KernelTable& kernels, Pool& pool) {
  const size_t count = size_t(n) * n;
  std::reverse(h, h + count);  // J h J: both axes run backwards
  const int failed = Cholesky(h, n, kernels, pool);
  if (failed >= 0) return failed;
  InvertLower(h, n, kernels, pool);
  std::reverse(h, h + count);
  return -1;
}

}  // namespace lowbit
