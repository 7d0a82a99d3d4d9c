// quantize/gptq_core: GPTQ's column loop for a given order and a given factor of the inverse Hessian. It knows nothing of
// damping, fallbacks or reports (gptq.cc).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/alloc.h"
#include "quantize/grid.h"
#include "quantize/method.h"

namespace lowbit {

// U, upper triangular with H^-1 = U^T U, as the column loop reads it, packed in place of the dense matrix. For each block
// of `block` rows [i1, i2): columns [i2, k) as tiles [(k-i2)/8][block][8], then the dense square [i1, i2) x [i1, i2).
class PackedFactor {
 public:
  // Floats the matrix handed to Pack must have room for: k dense rows of k, and what padding adds.
  static size_t Floats(int k) { return size_t(k) * (k + kRowTile) + kRowTile; }
  // u: Floats(k) floats, the first k*k hold U. OUT_OF_MEMORY when one block row of scratch is refused.
  static Result<PackedFactor> Pack(Block u, int k, int block);

  const float* Tiles(int i1) const { return u_.as<float>() + size_t(i1) * (k_ + kRowTile); }
  // Row stride Rows(i1); reading up to 7 floats beyond a row is allowed.
  const float* Square(int i1) const;
  int Rows(int i1) const;  // of the block that starts at i1

 private:
  Block u_;
  int k_ = 0, block_ = 0;
};

struct GptqProblem {
  std::span<const float> w;           // [n][k]
  const std::vector<int32_t>& order;  // [k], quantize/order.h
  const std::vector<uint8_t>& dead;   // [k] original columns whose weights count as zero
  GridRule rule;
  bool static_groups = false;   // grids from the original columns, before any update
  bool groups_by_step = false;  // group of a column = its step / group_size (desc_act), else its original place
  int block_size = 128;
  const float* importance = nullptr;  // [k] of the range search, by original column; null = none
  bool fixed_grids = false;           // scales and zeros or minima of q are filled and stay; rule only says how many bits
};

// Fills codes, scales and zeros of q (EmptyResult; only codes with fixed_grids), not g_idx. Returns the sum of squared scaled errors, which
// equals tr((W-Q) H_damped (W-Q)^T) up to rounding; NaN or infinity tell that the solve broke down.
Result<double> SolveGptq(const GptqProblem& problem, const PackedFactor& factor, const KernelTable& kernels, Pool& pool,
                         QuantizedLinear* q);

}  // namespace lowbit
