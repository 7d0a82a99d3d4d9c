// solve/hessian: accumulates X^T X of a linear layer's inputs, lower triangle, f32 sums.
// Tokens go through in chunks: the chunk is copied into transposed panels (f32 [k/16][tokens][16], bf16 [k/16][tokens/2][16]{2}),
// which serve as both operands of the product, and tiles of the triangle run on the pool. Every element of the sum is formed by
// one task, chunk after chunk, so the result does not depend on the number of threads. Products of a chunk are added up in
// registers, at most 256 tokens at a time, before they meet the total: small contributions are not lost one by one.
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
constexpr int kSmallTile = 96;        // for narrow layers, whose few tiles would leave a thread waiting
constexpr int kNarrow = 1024;
constexpr int kPackTokens = 32;         // tokens per packing task; even, so that pairs stay together
constexpr float kLeastSquare = 1e-30f;  // added to the mean square of a row that is scaled: a row of zeros stays finite
constexpr int kMirror = 64;             // mirrored in squares: one side of the copy walks down a column

}  // namespace

Result<Hessian> Hessian::Create(int k, const char* name, bool bf16, TokenWeights weights) {
  if (k < 1 || k > kMaxColumns)
    return Error(Code::kInvalidArgument, "Expected integer between 1 and %d for the input columns of %s but received %d of type number",
                 kMaxColumns, name, k);
  Hessian hessian;
  hessian.k_ = k;
  hessian.bf16_ = bf16;
  hessian.weights_ = weights;
  const size_t element = bf16 ? sizeof(uint16_t) : sizeof(float);
  LOWBIT_ASSIGN_OR_RETURN(hessian.matrix_, Block::Allocate(size_t(k) * k * sizeof(float), MemoryClass::kScratch, name));
  LOWBIT_ASSIGN_OR_RETURN(hessian.panels_, Block::Allocate(PanelFloats(kChunkTokens, k) * element, MemoryClass::kScratch, name));
  const int side = k < kNarrow ? kSmallTile : kTile;
  for (int row = 0; row < k; row += side)
    for (int column = 0; column <= row; column += side) hessian.tiles_.push_back({row, column, side});
  return hessian;
}

Status Hessian::Add(const float* x, size_t ldx, int64_t tokens, const KernelTable& kernels, Pool& pool) {
  if (finished_) return Error(Code::kInternal, "a Hessian of %d columns was added to after Finish", k_);
  if (bf16_ && kernels.gemm_bf16 == nullptr) return Error(Code::kInternal, "the kernels %s have no bf16 products", kernels.name);
  if (weights_ == TokenWeights::kEqual) {
    const size_t floats = (1 + size_t(pool.threads()) * kPackTokens) * k_;
    if (scaled_.size() < floats * sizeof(float)) {
      LOWBIT_ASSIGN_OR_RETURN(scaled_, Block::Allocate(floats * sizeof(float), MemoryClass::kScratch, "scaled calibration rows"));
      std::fill(scaled_.as<float>(), scaled_.as<float>() + k_, 1.0f);
    }
  }
  std::vector<const float*> rows;
  std::vector<uint8_t> bad;
  for (int64_t next = 0; next < tokens; next += kChunkTokens) {
    const int count = static_cast<int>(std::min<int64_t>(kChunkTokens, tokens - next));
    rows.resize(size_t(count));
    for (int t = 0; t < count; ++t) rows[t] = x + static_cast<size_t>(next + t) * ldx;
    // Checked where they are read; rows that are not finite are so rare that the others are then packed once more.
    bad.assign(size_t(count), 0);
    Pack(rows, bad.data(), kernels, pool);
    if (std::find(bad.begin(), bad.end(), 1) != bad.end()) {
      size_t good = 0;
      for (int t = 0; t < count; ++t)
        if (!bad[t]) rows[good++] = rows[t];
      rows.resize(good);
      dropped_ += count - static_cast<int64_t>(good);
      if (good == 0) continue;
      Pack(rows, nullptr, kernels, pool);
    }
    const int kept = static_cast<int>(rows.size());
    const bool first = tokens_ == 0;
    pool.Run(static_cast<int>(tiles_.size()), [&](int task, int) {
      if (bf16_)
        AddTileBf16(tiles_[task], kept, first, kernels);
      else
        AddTileF32(tiles_[task], kept, first, kernels);
    });
    tokens_ += kept;
  }
  return Status::Ok();
}

// Rows -> transposed panels. Sets bad[t] for rows that are not finite, unless null.
void Hessian::Pack(const std::vector<const float*>& rows, uint8_t* bad, const KernelTable& kernels, Pool& pool) {
  const int count = static_cast<int>(rows.size());
  const size_t stride = bf16_ ? size_t(count + 1) / 2 * 2 * kPanelRows : size_t(count) * kPanelRows;
  pool.Run((count + kPackTokens - 1) / kPackTokens, [&](int task, int worker) {
    const int begin = task * kPackTokens, end = std::min(count, begin + kPackTokens);
    for (int t = begin; t < end && bad != nullptr; ++t) bad[t] = !kernels.all_finite(rows[t], k_);
    const float* own[kPackTokens];
    std::copy(rows.begin() + begin, rows.begin() + end, own);
    if (weights_ == TokenWeights::kEqual) {
      float* scaled = scaled_.as<float>() + (1 + size_t(worker) * kPackTokens) * k_;
      for (int t = 0; t < end - begin; ++t, scaled += k_) {
        kernels.rms_norm(own[t], scaled_.as<float>(), scaled, size_t(k_), kLeastSquare);
        own[t] = scaled;
      }
    }
    if (bf16_) {
      kernels.pack_columns_bf16(own, end - begin, k_, panels_.as<uint16_t>() + size_t(begin) * kPanelRows, stride);
      return;
    }
    for (int t = begin; t < end; ++t) {
      float* out = panels_.as<float>() + size_t(t) * kPanelRows;
      for (int c = 0; c < k_; c += kPanelRows, out += stride) {
        const int width = std::min(kPanelRows, k_ - c);
        std::memcpy(out, own[t - begin] + c, width * sizeof(float));
        std::fill(out + width, out + kPanelRows, 0.0f);
      }
    }
  });
}

void Hessian::AddTileF32(const Tile& tile, int count, bool first, const KernelTable& kernels) {
  const float* panels = panels_.as<float>();
  const size_t stride = size_t(count) * kPanelRows;
  for (int s = 0; s < count; s += kStep) {
    // Sixteen rows at a time: the two tiles of 8 rows lie side by side in a line of a panel.
    for (int row = tile.row; row < std::min(k_, tile.row + tile.side); row += kPanelRows) {
      const int height = std::min(kPanelRows, k_ - row);
      const int columns = std::min(row + height, tile.column + tile.side) - tile.column;
      kernels.gemm_f32(panels + (row / kPanelRows) * stride + size_t(s) * kPanelRows, kRowTile, kPanelRows,
                       panels + (tile.column / kPanelRows) * stride + size_t(s) * kPanelRows, stride, kPanelRows, height, columns,
                       std::min(kStep, count - s), matrix_.as<float>() + size_t(row) * k_ + tile.column, k_, !(first && s == 0));
    }
  }
}

void Hessian::AddTileBf16(const Tile& tile, int count, bool first, const KernelTable& kernels) {
  const uint16_t* panels = panels_.as<uint16_t>();
  const int pairs = (count + 1) / 2;
  const size_t stride = size_t(pairs) * 2 * kPanelRows;
  const int end = std::min(k_, tile.row + tile.side);
  const int step = tile.row == tile.column ? kPanelRows : tile.side;  // panel by panel along the diagonal
  for (int row = tile.row; row < end; row += step) {
    const int height = std::min(step, end - row);
    const int columns = std::min(row + height, tile.column + tile.side) - tile.column;
    kernels.gemm_bf16(panels + (row / kPanelRows) * stride, stride, panels + (tile.column / kPanelRows) * stride, stride, height, columns,
                      pairs, matrix_.as<float>() + size_t(row) * k_ + tile.column, k_, !first);
  }
}

void Hessian::Finish(Pool& pool) {
  if (finished_) return;
  finished_ = true;
  panels_ = Block();
  scaled_ = Block();
  const float factor = tokens_ > 0 ? static_cast<float>(2.0 / static_cast<double>(tokens_)) : 0.0f;
  float* matrix = matrix_.as<float>();
  const int bands = (k_ + kMirror - 1) / kMirror;
  pool.Run(bands, [&](int task, int) {
    const int i0 = (bands - 1 - task) * kMirror;  // longest first
    for (int j0 = 0; j0 <= i0; j0 += kMirror) {
      for (int i = i0; i < std::min(k_, i0 + kMirror); ++i) {
        for (int j = j0; j < std::min(i + 1, j0 + kMirror); ++j) {
          const float value = matrix[size_t(i) * k_ + j] * factor;
          matrix[size_t(i) * k_ + j] = value;
          matrix[size_t(j) * k_ + i] = value;
        }
      }
    }
  });
}

}  // namespace lowbit
