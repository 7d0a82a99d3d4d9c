// solve/hessian: second moments of a linear layer's input.
// H = (2/T) sum over tokens of x x^T, [k, k] (GPTQ, Frantar et al. 2022, section 3; the factor only scales the loss).
#pragma once

#include <cstdint>
#include <vector>

#include "base/alloc.h"
#include "base/pool.h"
#include "base/status.h"
#include "kernel/kernel.h"

namespace lowbit {

// What a token counts for. Its squared input in H means that tokens with large inputs count for more, in models with attention sinks the
// first one for as much as all others together.
enum class TokenWeights : uint8_t {
  kMagnitude,  // as published
  kEqual,      // inputs scaled to a root mean square of 1 first; a row of zeros stays one
};

class Hessian {
 public:
  // bf16: inputs are rounded to bf16 and multiplied twice as fast, sums stay f32; needs a table with bf16 products. The result is
  // the exact Gram matrix of inputs that are at most 2^-8 off, so it is as positive definite as any other.
  static Result<Hessian> Create(int k, const char* name, bool bf16 = false, TokenWeights weights = TokenWeights::kMagnitude);

  // Adds rows x[tokens][ldx] (columns 0..k-1). Rows that hold a non-finite value are left out and counted.
  // Blocked SYRK of the lower triangle on gemm_f32 or gemm_bf16; tiles of the triangle run on the pool.
  Status Add(const float* x, size_t ldx, int64_t tokens, const KernelTable& kernels, Pool& pool);

  // Scales by 2/T and mirrors the lower triangle. Call once, after the last Add.
  void Finish(Pool& pool);

  int k() const { return k_; }
  int64_t tokens() const { return tokens_; }                 // rows accumulated
  int64_t dropped_rows() const { return dropped_; }          // rows left out
  const float* data() const { return matrix_.as<float>(); }  // [k][k]

 private:
  struct Tile {
    int row, column, side;
  };
  void Pack(const std::vector<const float*>& rows, uint8_t* bad, const KernelTable& kernels, Pool& pool);
  void AddTileF32(const Tile& tile, int count, bool first, const KernelTable& kernels);
  void AddTileBf16(const Tile& tile, int count, bool first, const KernelTable& kernels);

  int k_ = 0;
  bool bf16_ = false;
  TokenWeights weights_ = TokenWeights::kMagnitude;
  int64_t tokens_ = 0, dropped_ = 0;
  bool finished_ = false;
  Block matrix_;
  Block panels_;             // packed transposed rows of one chunk: f32 or bf16
  Block scaled_;             // kEqual: [threads] rows of one packing task, behind k ones
  std::vector<Tile> tiles_;  // of the lower triangle
};

}  // namespace lowbit
