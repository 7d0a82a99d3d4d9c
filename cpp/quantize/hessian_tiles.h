// quantize/hessian_tiles: a Hessian cut into sets of columns, packed for products with many rows of codes or errors at once.
#pragma once

#include <cstdint>
#include <vector>

#include "base/alloc.h"
#include "quantize/method.h"

namespace lowbit {

class HessianTiles {
 public:
  // One set per element of `columns`; a column may be in one set only. OUT_OF_MEMORY when k*k floats are refused.
  static Result<HessianTiles> Pack(const HessianView& hessian, std::vector<std::vector<int32_t>> columns, Pool& pool);

  int sets() const { return static_cast<int>(columns_.size()); }
  const std::vector<int32_t>& columns(int set) const { return columns_[set]; }
  int largest() const { return largest_; }  // columns of the largest set

  // out[lines][kGridRows] (+)= H[first, first + lines) x set * x, x [columns of the set][kGridRows]; first a multiple of kRowTile.
  void Multiply(int set, int first, int lines, const float* x, float* out, bool accumulate, const KernelTable& kernels) const;

 private:
  std::vector<std::vector<int32_t>> columns_;
  std::vector<size_t> offsets_;
  int largest_ = 0;
  Block tiles_;
};

}  // namespace lowbit
