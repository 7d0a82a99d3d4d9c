// solve/hessian: accumulates X^T X of a linear layer's inputs, lower triangle, f32.
// Tokens go through in chunks: the chunk is copied into transposed panels [k/16][tokens][16], which serve as both
// operands of gemm_f32, and tiles of the triangle run on the pool. Every element of the sum is formed by one task, chunk
// after chunk, so the result does not depend on the number of threads.
#include "solve/hessian.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "solve/pack.h"

namespace lowbit {
namespace {

constexpr int kMaxColumns = 1 << 17;  // no published layer is wider; bounds k*k*4 bytes to 64 GiB
constexpr int kChunkTokens = 1024;    // tokens per pass over the triangle
constexpr int kStep = 256;            // tokens per GEMM call: a 144-column tile of panels is 144 KiB, within L2
constexpr int kTile = 144;            // columns and rows of one task: three strips of the AVX-512 GEMM
constexpr int kPackTokens = 32;       // tokens per packing task

}  // namespace

Result<Hessian> Hessian::Create(int k, const char* name) {
  if (k < 1 || k > kMaxColumns)
    return Error(Code::kInvalidArgument, "Expected integer between 1 and %d for the input columns of %s but received %d of type number",
                 kMaxColumns, name, k);
  Hessian hessian;
  hessian.k_ = k;
  LOWBIT_ASSIGN_OR_RETURN(hessian.matrix_, Block::Allocate(size_t(k) * k * sizeof(float), MemoryClass::kScratch, name));
  LOWBIT_ASSIGN_OR_RETURN(hessian.panels_, Block::Allocate(PanelFloats(kChunkTokens, k) * sizeof(float), MemoryClass::kScratch, name));
  return hessian;
}

Status Hessian::Add(const float* x, size_t ldx, int64_t tokens, const KernelTable& kernels, Pool& pool) {
  if (finished_) return Error(Code::kInternal, "a Hessian of %d columns was added to after Finish", k_);
  std::vector<const float*> rows;
  rows.reserve(kChunkTokens);
  struct Tile {
    int row, column;
  };
  std::vector<Tile> tiles;
  for (int row = 0; row < k_; row += kTile)
    for (int column = 0; column <= row; column += kTile) tiles.push_back({row, column});
  float* matrix = matrix_.as<float>();
  float* panels = panels_.as<float>();

  for (int64_t next = 0; next < tokens;) {
    rows.clear();
    for (; next < tokens && rows.size() < size_t(kChunkTokens); ++next) {
      const float* row = x + next * ldx;
      if (kernels.all_finite(row, k_)) {
        rows.push_back(row);
      } else {
        ++dropped_;
      }
    }
    const int count = static_cast<int>(rows.size());
    if (count == 0) continue;
    const size_t panel_stride = size_t(count) * kPanelRows;
    pool.Run((count + kPackTokens - 1) / kPackTokens, [&](int task, int) {
      for (int t = task * kPackTokens; t < std::min(count, (task + 1) * kPackTokens); ++t) {
        float* out = panels + size_t(t) * kPanelRows;
        for (int c = 0; c < k_; c += kPanelRows, out += panel_stride) {
          const int width = std::min(kPanelRows, k_ - c);
          std::memcpy(out, rows[t] + c, width * sizeof(float));
          std::fill(out + width, out + kPanelRows, 0.0f);
        }
      }
    });
    const bool first_chunk = tokens_ == 0;
    pool.Run(static_cast<int>(tiles.size()), [&](int task, int) {
      const Tile tile = tiles[task];
      for (int s = 0; s < count; s += kStep) {
        for (int row = tile.row; row < std::min(k_, tile.row + kTile); row += kPanelRows) {
          // Sixteen rows at a time: the two tiles of 8 rows lie side by side in a line of a panel.
          const int height = std::min(kPanelRows, k_ - row);
          const int columns = std::min(row + height, tile.column + kTile) - tile.column;
          kernels.gemm_f32(panels + (row / kPanelRows) * panel_stride + size_t(s) * kPanelRows, kRowTile, kPanelRows,
                           panels + (tile.column / kPanelRows) * panel_stride + size_t(s) * kPanelRows, panel_stride, kPanelRows, height,
                           columns, std::min(kStep, count - s), matrix + size_t(row) * k_ + tile.column, k_, !(first_chunk && s == 0));
        }
      }
    });
    tokens_ += count;
  }
  return Status::Ok();
}

void Hessian::Finish() {
  if (finished_) return;
  finished_ = true;
  panels_ = Block();
  const float factor = tokens_ > 0 ? static_cast<float>(2.0 / static_cast<double>(tokens_)) : 0.0f;
  float* matrix = matrix_.as<float>();
  constexpr int kMirror = 64;  // mirrored in squares: one side of the copy walks down a column
  for (int i0 = 0; i0 < k_; i0 += kMirror) {
    for (int j0 = 0; j0 <= i0; j0 += kMirror) {
      for (int i = i0; i < std::min(k_, i0 + kMirror); ++i) {
        for (int j = j0; j < std::min(i + 1, j0 + kMirror); ++j) {
          const float value = matrix[size_t(i) * k_ + j] * factor;
          matrix[size_t(i) * k_ + j] = value;
          matrix[size_t(j) * k_ + i] = value;
        }
      }
    }
  }
}

}  // namespace lowbit
