// quantize/linear_parts: what a method makes of one dense weight [n, k]: the terms of y = sum of part(x * input_scale) + bias.
// Plain numbers in row-major order, not yet packed: writers store them (docs/formats.md, "lowbit container") and the engine packs
// them (part/). Every value here is what the stored file will dequantise to: scales and values are rounded before codes are chosen.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "part/part.h"
#include "quantize/method.h"

namespace lowbit {

// Scales that are codes themselves (SpQR, Dettmers et al. 2023, section 3.3). A tile is 16 consecutive rows of the codes by one group
// of columns: scale = f16(scale_step * (scale_code - scale_zero)), zero = zero_step * (zero_code - zero_zero), with codes of `bits`
// bits; then minimum = f16(-scale * zero). Empty vectors: the scales are stored as they are.
struct CodedScales {
  int bits = 0;                                                     // 3
  std::vector<uint8_t> scale_codes, zero_codes;                     // [rows][groups]
  std::vector<float> scale_step, scale_zero, zero_step, zero_zero;  // [ceil(rows/16)][groups], exact in f16
};

// Codes on a grid: w = scale * code + minimum, scale * (code - zero point), or scale * (code - 2^(bits-1)), as AffineKind says.
struct AffineCodes {
  std::vector<int32_t> rows;  // output rows that the codes stand for, ascending, without repeats; empty = all n
  int bits = 0;               // 2, 3, 4, 5, 6, 8
  int group_size = 0;         // 16, a multiple of 32, or k for the whole row; the last group may be short
  int groups = 0;             // ceil(k / group_size)
  // [k] group of each column, group_size columns in each (the last may have fewer): GPTQ's desc_act and SpQR's act_order. Empty: c /
  // group_size.
  std::vector<int32_t> g_idx;
  AffineKind affine = AffineKind::kSymmetric;
  std::vector<uint8_t> codes;  // [rows][k]
  std::vector<float> scales;   // [rows][groups], exact in f16
  std::vector<float> seconds;  // [rows][groups]: minima, exact in f16, or zero points, integers 0 to 255; empty for kSymmetric
  CodedScales coded;           // of which scales and seconds are the decoded values; kMinimum only

  int GroupOf(int column) const { return g_idx.empty() ? column / group_size : g_idx[column]; }
  int Rows(int n) const { return rows.empty() ? n : static_cast<int>(rows.size()); }
};

// B (A x): a [rank, k], b [n, rank], row-major, every value exact in f16. rank 0 = none.
struct LowRank {
  int rank = 0;
  std::vector<float> a, b;
};

// Single weights, added to what the other parts have in their places: CSR with row_offsets [n + 1], columns ascending within a row,
// values exact in f16. Empty row_offsets = none.
struct SparseWeights {
  std::vector<int32_t> row_offsets;
  std::vector<int32_t> columns;
  std::vector<float> values;
};

struct LinearParts {
  int n = 0, k = 0;
  // [k], finite and positive, exact in f32: the parts see x * input_scale (AWQ and SmoothQuant: 1 / s). Empty = ones.
  std::vector<float> input_scale;
  std::vector<AffineCodes> affine;  // their rows cover 0 to n - 1 exactly once
  LowRank low_rank;
  SparseWeights sparse;
  // Report:
  double error = 0;                    // tr((W-Q) H (W-Q)^T) / tr(W H W^T), undamped H; relative squared weight error without H
  double damp_percent = 0;             // what was finally used; 0 without a Hessian
  int dead_columns = 0;                // columns whose Hessian diagonal was zero
  double scale_ratio = 0;              // AWQ: the exponent found
  std::vector<std::string> fallbacks;  // what was done in place of what was asked for, in words; empty normally
};

// w_hat [n][k] row-major, as a sum of all parts that includes input_scale: y = w_hat x. Sums are f32, in the order affine, sparse, low
// rank. Rows are cut over the pool.
void DequantizeParts(const LinearParts& parts, std::span<float> out, Pool& pool);
// The same for the codes alone, without input_scale: out rows that the codes do not stand for stay.
void DequantizeCodes(const AffineCodes& codes, int n, int k, std::span<float> out, Pool& pool);

// Codes on one grid as parts, and back. The way back is UNSUPPORTED for what a GPTQ checkpoint has no place for, and says what that is
// and where it can go: more than one part, an input scale, minima, coded scales, groups of 16.
LinearParts FromQuantized(QuantizedLinear q);
Result<QuantizedLinear> AsGptq(const char* name, const LinearParts& parts);

// Bits that the parts take up in a file: codes, scales, zero points or minima, low rank, sparse values with their columns, indices.
// For bits per weight; headers, names and alignment not included.
double StoredBits(const LinearParts& parts);

}  // namespace lowbit
