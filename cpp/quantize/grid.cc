// quantize/grid: see grid.h. The inner loops have constant trip counts and no branches: any compiler vectorises them for
// the baseline instruction set (80 candidates per weight: 170 ns with p = 2.4, 26 ns with p = 2; SSE2, one busy Zen 5 core,
// November 2026).
#include "quantize/grid.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "quantize/power.h"

namespace lowbit {
namespace {

constexpr int kCandidates = 80;   // int(maxshrink * grid) of the reference: 0.8 * 100
constexpr int kCheck = 16;        // columns between looks at whether a candidate can still win
constexpr float kExact = 1e-30f;  // sums up to this are the residue of Power at zero: every weight is on the grid

struct Square {
  float operator()(float x) const { return x * x; }
};

// The h of a group's columns, with a mean of 1: sums of errors stay in the middle of what f32 holds.
struct Importance {
  const float* values;  // null: 1 everywhere
  float factor = 1;

  Importance(const float* given, int columns) : values(given) {
    double sum = 0;
    for (int c = 0; given != nullptr && c < columns; ++c) sum += given[c];
    if (sum > 0)
      factor = static_cast<float>(columns / sum);
    else
      values = nullptr;
  }
  float At(int c) const { return values == nullptr ? 1.0f : values[c] * factor; }
};

// Adds h |w/s - q|^p of columns [first, end) to error. Errors are in code units: no underflow for tiny weights.
template <typename Pow>
void AddErrors(const float* tile, int first, int end, const Importance& importance, const float* inverse, const float* low,
               const float* high, Pow pow, float* error) {
  tile += size_t(first) * kGridRows;
  for (int c = first; c < end; ++c, tile += kGridRows) {
    const float h = importance.At(c);
    for (int r = 0; r < kGridRows; ++r) {
      const float t = tile[r] * inverse[r];
      float q = t < low[r] ? low[r] : t;
      q = q > high[r] ? high[r] : q;
      error[r] += h * pow(std::fabs(RoundHalfEven(q) - t));
    }
  }
}

template <typename Pow>
void SearchRange(const float* tile, int columns, const GridRule& rule, const Importance& importance, const float* minimum,
                 const float* maximum, Pow pow, float* scale, float* zero) {
  const float qmax = static_cast<float>((1 << rule.bits) - 1);
  float full[kGridRows], best[kGridRows];
  std::copy(scale, scale + kGridRows, full);
  std::fill(best, best + kGridRows, std::numeric_limits<float>::infinity());
  for (int i = 0; i < kCandidates; ++i) {
    const float p = static_cast<float>(1 - i / 100.0);
    float s[kGridRows], z[kGridRows], inverse[kGridRows], low[kGridRows], high[kGridRows], weight[kGridRows], error[kGridRows] = {};
    for (int r = 0; r < kGridRows; ++r) {
      const float raw = p * (maximum[r] - minimum[r]) / qmax;
      s[r] = rule.classic ? raw : RoundScale(raw);
      inverse[r] = 1 / s[r];
      z[r] = rule.sym ? zero[r] : RoundHalfEven(std::min(std::max(-p * minimum[r] / s[r], 0.0f), qmax));
      low[r] = -z[r];
      high[r] = qmax - z[r];
      weight[r] = pow(s[r] / full[r]);  // back from code units, up to a constant per row
    }
    // Sums only grow: once every row is past its best, the candidate has lost.
    bool alive = true;
    for (int c = 0; c < columns && alive; c += kCheck) {
      AddErrors(tile, c, std::min(columns, c + kCheck), importance, inverse, low, high, pow, error);
      int winning = 0;
      for (int r = 0; r < kGridRows; ++r) winning += error[r] * weight[r] < best[r];
      alive = winning > 0;
    }
    if (!alive) continue;
    for (int r = 0; r < kGridRows; ++r) {
      const float total = error[r] > kExact ? error[r] * weight[r] : 0.0f;
      const bool better = total < best[r];
      best[r] = better ? total : best[r];
      scale[r] = better ? s[r] : scale[r];
      zero[r] = better ? z[r] : zero[r];
    }
  }
}

}  // namespace

float RoundScale(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const float normal = std::bit_cast<float>((bits + 0xfff + ((bits >> 13) & 1)) & ~uint32_t(0x1fff));
  const float subnormal = (x + 0.5f) - 0.5f;  // the float adder rounds to multiples of 2^-24
  const float rounded = x < 6.103515625e-5f ? subnormal : normal;
  return std::min(std::max(rounded, 2.384185791015625e-7f), 65504.0f);
}

void FitGrid(const float* tile, int columns, const GridRule& rule, float* scale, float* zero, float* fitted, const float* importance) {
  const float qmax = static_cast<float>((1 << rule.bits) - 1);
  float minimum[kGridRows] = {}, maximum[kGridRows] = {};  // zero is always inside the range
  for (int c = 0; c < columns; ++c) {
    const float* w = tile + size_t(c) * kGridRows;
    for (int r = 0; r < kGridRows; ++r) {
      minimum[r] = w[r] < minimum[r] ? w[r] : minimum[r];
      maximum[r] = w[r] > maximum[r] ? w[r] : maximum[r];
    }
  }
  for (int r = 0; r < kGridRows; ++r) {
    const bool half = rule.classic && minimum[r] == 0 && maximum[r] > 0;
    if (rule.sym && !half) {
      maximum[r] = std::max(-minimum[r], maximum[r]);
      minimum[r] = -maximum[r];
    }
    if (minimum[r] == maximum[r]) {  // all zero
      minimum[r] = -1;
      maximum[r] = 1;
    }
    const float exact = (maximum[r] - minimum[r]) / qmax;
    scale[r] = RoundScale(exact);
    // Rounding moves a scale by 2^-11 of itself, or much further where f16 ends; codes must then follow what is stored.
    const bool close = std::fabs(exact - scale[r]) <= scale[r] * 0x1p-10f;
    const float used = rule.classic || (fitted != nullptr && rule.mse == 0 && close) ? exact : scale[r];
    if (fitted != nullptr) fitted[r] = used;
    zero[r] = rule.sym ? (qmax + 1) / 2 : RoundHalfEven(std::min(std::max(-minimum[r] / used, 0.0f), qmax));
  }
  if (rule.mse == 2) {
    SearchRange(tile, columns, rule, Importance(importance, columns), minimum, maximum, Square{}, scale, zero);
  } else if (rule.mse > 0) {
    SearchRange(tile, columns, rule, Importance(importance, columns), minimum, maximum, Power(rule.mse), scale, zero);
  }
  if (rule.mse == 0) return;
  if (fitted != nullptr) std::copy(scale, scale + kGridRows, fitted);
  for (int r = 0; r < kGridRows && rule.classic; ++r) scale[r] = RoundScale(scale[r]);
}

void QuantizeColumn(const float* w, const float* fitted, const float* scale, const float* zero, int bits, uint8_t* codes, float* w_hat) {
  const float qmax = static_cast<float>((1 << bits) - 1);
  for (int r = 0; r < kGridRows; ++r) {
    float q = w[r] / fitted[r];
    q = q > -zero[r] ? q : -zero[r];  // NaN becomes code 0: the conversion below stays defined
    q = q < qmax - zero[r] ? q : qmax - zero[r];
    q = RoundHalfEven(q);
    codes[r] = static_cast<uint8_t>(static_cast<int32_t>(q + zero[r]));
    w_hat[r] = q * scale[r];
  }
}

void QuantizeAffineColumn(const float* w, const float* scale, const float* minimum, int bits, uint8_t* codes, float* w_hat) {
  const float qmax = static_cast<float>((1 << bits) - 1);
  for (int r = 0; r < kGridRows; ++r) {
    float q = (w[r] - minimum[r]) / scale[r];
    q = q > 0 ? q : 0;  // NaN becomes code 0
    q = q < qmax ? q : qmax;
    q = RoundHalfEven(q);
    codes[r] = static_cast<uint8_t>(static_cast<int32_t>(q));
    w_hat[r] = scale[r] * q + minimum[r];
  }
}

void LoadTile(const float* w, int k, int rows, const int32_t* columns, int first, int count, float* tile) {
  constexpr int kBlock = 128;  // lines of the tile written at a time: 32 KiB
  for (int c0 = 0; c0 < count; c0 += kBlock) {
    const int end = std::min(count, c0 + kBlock);
    for (int r = 0; r < rows; ++r) {
      const float* row = w + size_t(r) * k;
      if (columns == nullptr) {
        for (int c = c0; c < end; ++c) tile[size_t(c) * kGridRows + r] = row[first + c];
      } else {
        for (int c = c0; c < end; ++c) tile[size_t(c) * kGridRows + r] = row[columns[c]];
      }
    }
    for (int c = c0; c < end && rows < kGridRows; ++c)
      std::fill(tile + size_t(c) * kGridRows + rows, tile + size_t(c + 1) * kGridRows, 0.0f);
  }
}

float PowerSum(const float* x, int count, double p) {
  const Power power(p);
  float sum = 0;
  for (int i = 0; i < count; ++i) sum += p == 2 ? x[i] * x[i] : power(std::fabs(x[i]));
  return sum;
}

}  // namespace lowbit
