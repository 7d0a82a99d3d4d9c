// quantize/spqr_grid: grids of SpQR's groups: leave-one-out, min-max ranges, and scales that are codes themselves. No calibration data
// beyond the weights of columns, no threads. Lanes as in quantize/grid.h.
#pragma once

#include <cstdint>

#include "quantize/grid.h"

namespace lowbit {

constexpr int kSpqrGroup = 16;  // columns of a group, and rows that share second-level steps
constexpr int kSpqrTiles = kGridRows / kSpqrGroup;
constexpr int kSpqrCodedBits = 3;

struct SpqrGrid {
  float scale[kGridRows], minimum[kGridRows];  // as decoded, exact in f16
  uint8_t scale_code[kGridRows], zero_code[kGridRows];
  float scale_step[kSpqrTiles], scale_zero[kSpqrTiles], zero_step[kSpqrTiles], zero_zero[kSpqrTiles];
};

// tile [columns][kGridRows], at most kSpqrGroup columns, of which lanes [0, rows) count. pivots [columns] are the diagonal of U: an error e
// of column c costs (e / pivots[c])^2. threshold: what leaving a weight out must gain before the grid is fitted without it; infinity = none
// is left out. coded: scales and zeros in kSpqrCodedBits bits; else scale and minimum in f16.
void FitSpqrGrid(const float* tile, int columns, int rows, int bits, const float* pivots, double threshold, bool coded, SpqrGrid* grid);

// One column: code = clamp(round((w - minimum) / scale)), w_hat = scale * code + minimum; a scale of zero has code 0. w_hat may be w.
void QuantizeOnMinimum(const float* w, const float* scale, const float* minimum, int bits, uint8_t* codes, float* w_hat);

}  // namespace lowbit
