// solve/matmul: see matmul.h.
#include "solve/matmul.h"

#include <algorithm>

#include "base/alloc.h"
#include "solve/pack.h"

namespace lowbit {
namespace {

constexpr int kTaskRows = 64;  // rows of the result per task; 1536 steps of them are 384 KiB

template <typename PackRows>
Status Product(const float* b, int m, int k, int n, float* c, const KernelTable& kernels, Pool& pool, const PackRows& pack) {
  LOWBIT_ASSIGN_OR_RETURN(Block panels, Block::Allocate(PanelFloats(k, n) * sizeof(float), MemoryClass::kScratch, "a matrix product"));
  PackColumnPanels(b, n, k, n, panels.as<float>());
  const size_t task_floats = TileFloats(k, kTaskRows);
  LOWBIT_ASSIGN_OR_RETURN(Block tiles,
                          Block::Allocate(task_floats * pool.threads() * sizeof(float), MemoryClass::kScratch, "a matrix product"));
  pool.Run((m + kTaskRows - 1) / kTaskRows, [&](int task, int worker) {
    const int first = task * kTaskRows, rows = std::min(kTaskRows, m - first);
    float* own = tiles.as<float>() + worker * task_floats;
    pack(first, rows, own);
    kernels.gemm_f32(own, size_t(k) * kRowTile, kRowTile, panels.as<float>(), size_t(k) * kPanelRows, kPanelRows, rows, n, k,
                     c + size_t(first) * n, n, false);
  });
  return Status::Ok();
}

}  // namespace

Status Multiply(const float* a, const float* b, int m, int k, int n, float* c, const KernelTable& kernels, Pool& pool) {
  return Product(b, m, k, n, c, kernels, pool,
                 [&](int first, int rows, float* out) { kernels.pack_rows(a + size_t(first) * k, k, rows, k, out); });
}

Status MultiplyTransposed(const float* a, const float* b, int m, int k, int n, float* c, const KernelTable& kernels, Pool& pool) {
  return Product(b, m, k, n, c, kernels, pool, [&](int first, int rows, float* out) { PackColumnTiles(a + first, m, k, rows, out); });
}

}  // namespace lowbit
