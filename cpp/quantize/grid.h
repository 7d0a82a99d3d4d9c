// quantize/grid: the affine quantiser of GPTQ and RTN and its range search. No calibration data, no threads.
//   w_hat = scale * (code - zero), code = clamp(round(w / scale) + zero, 0, 2^bits - 1), rounding half to even.
//   Symmetric: zero = 2^(bits-1), range [-m, m] with m = max |w|. Asymmetric: range [min(0, w), max(0, w)], integer zero.
// Codes come from the scale as fitted, as in the reference code, and errors from the scale as stored (f16), so that what is
// optimised is what is stored (the reference code: what is fitted; GridRule::classic). The largest weight of a symmetric group lies exactly
// between two codes: a scale rounded before would decide by chance which of them all such weights get. Works on tiles [columns][kGridRows]:
// one row of the weight per lane, so that every loop runs across rows.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

// Rows handled together: one strip of the AVX-512 GEMM, two of the AVX2 one; 1536 columns of them are 288 KiB and stay in
// L2 during a GPTQ solve.
constexpr int kGridRows = 48;

struct GridRule {
  int bits = 4;
  bool sym = true;
  double mse = 0;  // exponent p of the range search over sum h |w_hat - w|^p; 0 = the full range
  // As the reference code: searched scales are not rounded, and a symmetric group without negative weights has half of the range.
  bool classic = false;
};

// x to the nearest f16 value, at least 2^-22 (below, f16 has fewer than three bits left and ends at zero; so for x <= 0; NaN stays) and at
// most the largest finite one.
float RoundScale(float x);

// tile [columns][kGridRows] -> scale[kGridRows] (representable in f16, at least 2^-22), zero[kGridRows] (integers in
// [0, 2^bits - 1]). Range search as in GPTQ's reference code: 80 candidates, the range times 1 - i/100, first best wins.
// fitted, when given, receives the scales before rounding (searched ones are rounded unless classic) and decides the zero.
// importance [columns], when given, is h in the search, at least 0 and finite; else h is 1, as when all of it is 0.
void FitGrid(const float* tile, int columns, const GridRule& rule, float* scale, float* zero, float* fitted = nullptr,
             const float* importance = nullptr);

// One column of kGridRows weights onto the grids: codes by the fitted scale, w_hat by the stored one; w_hat may be w.
void QuantizeColumn(const float* w, const float* fitted, const float* scale, const float* zero, int bits, uint8_t* codes, float* w_hat);

// The same for w_hat = scale * code + minimum, scale at least 0; where it is 0 every code is as good.
void QuantizeAffineColumn(const float* w, const float* scale, const float* minimum, int bits, uint8_t* codes, float* w_hat);

// Copies columns columns[0..count) (or first..first+count when columns is null) of up to kGridRows rows of row-major
// w[][k] into a tile; lanes beyond `rows` become zero.
void LoadTile(const float* w, int k, int rows, const int32_t* columns, int first, int count, float* tile);

// Sum of |x|^p as the search computes it, p in [1, 8]: each power has a relative error below 1e-4 between 2^(-125/p) and
// 2^(125/p); zero counts as 2^-125. For tests.
float PowerSum(const float* x, int count, double p);

}  // namespace lowbit
