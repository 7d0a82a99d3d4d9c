// quantize/hessian_tiles: see hessian_tiles.h. H is symmetric, so the rows of a set are its columns.
#include "quantize/hessian_tiles.h"

#include <algorithm>
#include <cstring>

#include "quantize/grid.h"
#include "solve/pack.h"

namespace lowbit {

Result<HessianTiles> HessianTiles::Pack(const HessianView& hessian, std::vector<std::vector<int32_t>> columns, Pool& pool) {
  HessianTiles packed;
  packed.columns_ = std::move(columns);
  packed.offsets_.assign(1, 0);
  for (const auto& set : packed.columns_) {
    const int count = static_cast<int>(set.size());
    packed.largest_ = std::max(packed.largest_, count);
    packed.offsets_.push_back(packed.offsets_.back() + TileFloats(count, hessian.k));
  }
  const size_t row = hessian.k, gathered = packed.largest_ * row;
  LOWBIT_ASSIGN_OR_RETURN(packed.tiles_,
                          Block::Allocate(packed.offsets_.back() * sizeof(float), MemoryClass::kScratch, "a Hessian's tiles"));
  LOWBIT_ASSIGN_OR_RETURN(Block rows,
                          Block::Allocate(gathered * pool.threads() * sizeof(float), MemoryClass::kScratch, "a Hessian's tiles"));
  pool.Run(packed.sets(), [&](int set, int worker) {
    const std::vector<int32_t>& own = packed.columns_[set];
    float* copy = rows.as<float>() + worker * gathered;
    for (size_t s = 0; s < own.size(); ++s) std::memcpy(copy + s * row, hessian.data + own[s] * row, row * sizeof(float));
    PackColumnTiles(copy, row, static_cast<int>(own.size()), hessian.k, packed.tiles_.as<float>() + packed.offsets_[set]);
  });
  return packed;
}

void HessianTiles::Multiply(int set, int first, int lines, const float* x, float* out, bool accumulate, const KernelTable& kernels) const {
  const int count = static_cast<int>(columns_[set].size());
  kernels.gemm_f32(tiles_.as<float>() + offsets_[set] + size_t(first) * count, size_t(count) * kRowTile, kRowTile, x, kPanelRows, kGridRows,
                   lines, kGridRows, count, out, kGridRows, accumulate);
}

}  // namespace lowbit
