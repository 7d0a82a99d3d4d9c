// quantize/spqr_grid: see spqr_grid.h.
#include "quantize/spqr_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/half.h"
#include "quantize/power.h"

namespace lowbit {
namespace {

constexpr float kLargestHalf = 65504.0f;
// Values whose spread is below 1/2000 of their size count as equal: the zero of their codes would need more than f16's 11 bits.
constexpr float kLargestRatio = 2000;

float RoundToHalf(float x) { return HalfToFloat(FloatToHalf(std::clamp(x, -kLargestHalf, kLargestHalf))); }

// Range of every lane over columns, without column `left_out` (-1: none) -> scale and minimum, not rounded. Equal weights: a step of two
// over the range from -1 to 1, as the published code; their minimum is exact all the same.
void FitRange(const float* tile, int columns, int left_out, float qmax, float* scale, float* minimum) {
  float low[kGridRows], high[kGridRows];
  std::fill(low, low + kGridRows, std::numeric_limits<float>::infinity());
  std::fill(high, high + kGridRows, -std::numeric_limits<float>::infinity());
  for (int c = 0; c < columns; ++c) {
    if (c == left_out) continue;
    const float* w = tile + c * kGridRows;
    for (int r = 0; r < kGridRows; ++r) {
      low[r] = w[r] < low[r] ? w[r] : low[r];
      high[r] = w[r] > high[r] ? w[r] : high[r];
    }
  }
  for (int r = 0; r < kGridRows; ++r) {
    const bool some = high[r] > low[r];
    scale[r] = (some ? high[r] - low[r] : 2.0f) / qmax;
    minimum[r] = low[r];
  }
}

// gain[c][r]: by how much the error of the other weights falls when column c is left out of the range.
void LeaveOneOut(const float* tile, int columns, float qmax, const float* pivots, float* gain) {
  float scale[kGridRows], minimum[kGridRows], cost[kSpqrGroup];
  for (int c = 0; c < columns; ++c) cost[c] = 1 / (pivots[c] * pivots[c]);
  const auto add = [&](int c, float* error) {
    const float* w = tile + c * kGridRows;
    for (int r = 0; r < kGridRows; ++r) {
      float code = RoundHalfEven((w[r] - minimum[r]) / scale[r]);
      code = code < 0 ? 0.0f : code;
      code = code > qmax ? qmax : code;
      const float e = scale[r] * code + minimum[r] - w[r];
      error[r] += e * e * cost[c];
    }
  };
  float base[kGridRows] = {};
  FitRange(tile, columns, -1, qmax, scale, minimum);
  for (int c = 0; c < columns; ++c) add(c, base);
  for (int left = 0; left < columns; ++left) {
    float error[kGridRows] = {};
    FitRange(tile, columns, left, qmax, scale, minimum);
    for (int c = 0; c < columns; ++c)
      if (c != left) add(c, error);
    for (int r = 0; r < kGridRows; ++r) gain[left * kGridRows + r] = base[r] - error[r];
  }
}

// Values of one tile of rows in kSpqrCodedBits bits: value = step * (code - zero), both exact in f16.
void CodeValues(float* values, int rows, uint8_t* codes, float* step, float* zero) {
  const float most = (1 << kSpqrCodedBits) - 1;
  const auto [low, high] = std::minmax_element(values, values + rows);
  const float minimum = *low;
  *step = RoundToHalf((*high - minimum) / most);
  // Alike, or too close to tell in f16: one step from zero is the value.
  if (!(*step > 0) || !(std::fabs(minimum) <= kLargestRatio * *step)) {
    *step = RoundToHalf((minimum + *high) / 2);
    *zero = 0;
    for (int r = 0; r < rows; ++r) {
      codes[r] = 1;
      values[r] = *step;
    }
    return;
  }
  *zero = RoundToHalf(-minimum / *step);
  for (int r = 0; r < rows; ++r) {
    const float code = std::clamp(RoundHalfEven(values[r] / *step + *zero), 0.0f, most);
    codes[r] = static_cast<uint8_t>(code);
    values[r] = *step * (code - *zero);
  }
}

}  // namespace

void QuantizeOnMinimum(const float* w, const float* scale, const float* minimum, int bits, uint8_t* codes, float* w_hat) {
  const float qmax = static_cast<float>((1 << bits) - 1);
  for (int r = 0; r < kGridRows; ++r) {
    float code = scale[r] > 0 ? (w[r] - minimum[r]) / scale[r] : 0.0f;
    code = code > 0 ? code : 0.0f;  // NaN too
    code = code > qmax ? qmax : code;
    code = RoundHalfEven(code);
    codes[r] = static_cast<uint8_t>(code);
    w_hat[r] = scale[r] * code + minimum[r];
  }
}

void FitSpqrGrid(const float* tile, int columns, int rows, int bits, const float* pivots, double threshold, bool coded, SpqrGrid* grid) {
  const float qmax = static_cast<float>((1 << bits) - 1);
  float kept[kSpqrGroup * kGridRows], minimum[kGridRows];
  std::copy(tile, tile + size_t(columns) * kGridRows, kept);
  if (std::isfinite(threshold) && columns > 1) {
    float gain[kSpqrGroup * kGridRows], sum[kGridRows] = {}, count[kGridRows] = {};
    LeaveOneOut(tile, columns, qmax, pivots, gain);
    for (int c = 0; c < columns; ++c) {
      for (int r = 0; r < kGridRows; ++r) {
        const float in = gain[c * kGridRows + r] <= threshold ? 1.0f : 0.0f;
        sum[r] += in * tile[c * kGridRows + r];
        count[r] += in;
      }
    }
    for (int c = 0; c < columns; ++c)
      for (int r = 0; r < kGridRows; ++r)
        if (!(gain[c * kGridRows + r] <= threshold)) kept[c * kGridRows + r] = sum[r] / std::max(count[r], 1.0f);
  }
  FitRange(kept, columns, -1, qmax, grid->scale, minimum);
  if (!coded) {
    for (int r = 0; r < kGridRows; ++r) {
      grid->scale[r] = RoundScale(grid->scale[r]);
      grid->minimum[r] = RoundToHalf(minimum[r]);
    }
    return;
  }
  float zero[kGridRows];
  for (int r = 0; r < kGridRows; ++r) zero[r] = -minimum[r] / grid->scale[r];
  for (int first = 0; first < rows; first += kSpqrGroup) {
    const int tile_rows = std::min(kSpqrGroup, rows - first), t = first / kSpqrGroup;
    CodeValues(grid->scale + first, tile_rows, grid->scale_code + first, grid->scale_step + t, grid->scale_zero + t);
    CodeValues(zero + first, tile_rows, grid->zero_code + first, grid->zero_step + t, grid->zero_zero + t);
  }
  for (int r = 0; r < kGridRows; ++r) {
    grid->scale[r] = RoundToHalf(grid->scale[r]);
    grid->minimum[r] = RoundToHalf(-grid->scale[r] * zero[r]);
  }
}

}  // namespace lowbit
