// solve/triangular: inverse of a lower triangular matrix, in place, block row by block row.
// X_i = -L_ii^-1 (L_i,0..i-1 X_0..i-1): the rows above are finished already, and block columns are independent tasks.
#include <algorithm>
#include <limits>

#include "base/alloc.h"
#include "solve/cholesky.h"
#include "solve/pack.h"
#include "solve/small.h"

namespace lowbit {
namespace {

constexpr int kColumns = 96;  // columns of one task: two strips of the AVX-512 GEMM, four of the AVX2 one
constexpr int kSteps = 256;   // rows of X packed at a time: 96 KiB per task

}  // namespace

void InvertLower(float* l, int n, const KernelTable& kernels, Pool& pool) {
  const size_t square = size_t(kSolveBlock) * kSolveBlock;
  const size_t row_floats = TileFloats(std::max(0, n - 1), std::min(n, kSolveBlock));
  const size_t task_floats = size_t(kColumns) * (kSteps + kSolveBlock);
  auto scratch = Block::Allocate((2 * square + row_floats + pool.threads() * task_floats) * sizeof(float), MemoryClass::kScratch,
                                 "triangular inverse");
  if (!scratch.ok()) {  // no memory: say so in the only way this signature has; a NaN never passes for a result
    std::fill(l, l + size_t(n) * n, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  float* inverse = scratch.value().as<float>();  // L_ii^-1
  float* inverse_tiles = inverse + square;       // -L_ii^-1 as A operand
  float* row_tiles = inverse_tiles + square;     // L_i,0..i-1 as A operand
  float* task_scratch = row_tiles + row_floats;

  for (int i0 = 0; i0 < n; i0 += kSolveBlock) {
    const int nb = std::min(kSolveBlock, n - i0);
    float* block_row = l + size_t(i0) * n;
    InvertLowerSmall(block_row + i0, n, nb, inverse);
    kernels.pack_rows(inverse, nb, nb, nb, inverse_tiles);
    kernels.scale(inverse_tiles, inverse_tiles, TileFloats(nb, nb), -1);
    if (i0 > 0) kernels.pack_rows(block_row, n, nb, i0, row_tiles);
    for (int i = 0; i < nb; ++i) {
      std::copy(inverse + size_t(i) * nb, inverse + size_t(i) * nb + nb, block_row + size_t(i) * n + i0);
      std::fill(block_row + size_t(i) * n + i0 + nb, block_row + size_t(i + 1) * n, 0.0f);
    }
    pool.Run((i0 + kColumns - 1) / kColumns, [&](int task, int worker) {
      const int j0 = task * kColumns, columns = std::min(kColumns, i0 - j0);
      float* panels = task_scratch + worker * task_floats;
      float* product = panels + size_t(kColumns) * kSteps;  // [nb][kColumns]
      for (int s0 = j0; s0 < i0; s0 += kSteps) {            // X is zero above its diagonal
        const int steps = std::min(kSteps, i0 - s0);
        PackColumnPanels(l + size_t(s0) * n + j0, n, steps, columns, panels);
        kernels.gemm_f32(row_tiles + size_t(s0) * kRowTile, size_t(i0) * kRowTile, kRowTile, panels, size_t(steps) * kPanelRows, kPanelRows,
                         nb, columns, steps, product, kColumns, s0 > j0);
      }
      kernels.gemm_f32(inverse_tiles, size_t(nb) * kRowTile, kRowTile, product, kPanelRows, kColumns, nb, columns, nb, block_row + j0, n,
                       false);
    });
  }
}

}  // namespace lowbit
