// part/gguf_encode: codes and scales on the grid of a GGUF block type -> its blocks, the inverse of gguf_decode.cc. Chooses no scale and no
// code (quantize/block_grid.h does). Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K.
//
// Per row and group of columns: w = scale * code + minimum where the type has minima, else w = scale * (code - zero) with scale >= 0 and
// zero = 2^(bits-1), or one less: the latter is what the type stores as a negative scale, codes counted from the other end.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"

namespace lowbit {

struct BlockType {
  DType dtype;
  int bits;
  int group_size;  // columns that share a scale: 16 or 32
  bool has_minimum;
  bool coded;       // K-quants: 256 columns share f16 super-scales, of which scales and minima are small multiples
  int scale_codes;  // the largest multiple; 0 unless coded
};
// Null for types that are not written.
const BlockType* FindBlockType(DType dtype);

struct BlockCodes {
  int n = 0, k = 0;                                     // k a multiple of the block
  std::span<const uint8_t> codes;                       // [n][k]
  std::span<const float> scales;                        // [n][groups], exact in f16, at least 0; unused where coded
  std::span<const uint8_t> zeros;                       // [n][groups], of types without minima
  std::span<const float> minima;                        // [n][groups], exact in f16; unused where coded
  std::span<const float> super_scales, super_minima;    // [n][k / 256], exact in f16, at least 0: scale = super_scale * scale_code
  std::span<const uint8_t> scale_codes, minimum_codes;  // [n][groups]; minimum = -super_minimum * minimum_code
};

// out: n * k / block values * block bytes. INVALID_ARGUMENT naming `name` for a type without writer, a k that is no whole number of blocks
// or tables of another size; values out of range are the caller's mistake and INTERNAL.
Status EncodeBlocks(const char* name, DType dtype, const BlockCodes& source, std::vector<uint8_t>* out);

// f32 -> F32, F16 (nearest even) or BF16. INVALID_ARGUMENT for other types, UNSUPPORTED when a finite value overflows F16.
Status EncodeDense(const char* name, DType dtype, std::span<const float> values, std::vector<uint8_t>* out);

}  // namespace lowbit
