// test/native: the affine grid and its range search, against golden values (numpy, f16 scales) and loops in double.
#include "quantize/grid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/half.h"
#include "check.h"

namespace {

using namespace lowbit;

struct Grids {
  float scale[kGridRows], zero[kGridRows];
};

// Tile whose row r is rows[r % rows.size()].
std::vector<float> TileOf(const std::vector<std::vector<float>>& rows) {
  const size_t columns = rows[0].size();
  std::vector<float> tile(columns * kGridRows);
  for (size_t c = 0; c < columns; ++c)
    for (int r = 0; r < kGridRows; ++r) tile[c * kGridRows + r] = rows[r % rows.size()][c];
  return tile;
}

Grids Fit(const std::vector<std::vector<float>>& rows, const GridRule& rule, const std::vector<float>& importance = {}) {
  Grids grids;
  FitGrid(TileOf(rows).data(), static_cast<int>(rows[0].size()), rule, grids.scale, grids.zero, nullptr,
          importance.empty() ? nullptr : importance.data());
  return grids;
}

bool IsHalf(float x) { return HalfToFloat(FloatToHalf(x)) == x; }

// sum h |w_hat - w|^p with h 1 where importance is empty.
double Loss(const std::vector<float>& row, double scale, double zero, int bits, double p, const std::vector<float>& importance = {}) {
  const double qmax = (1 << bits) - 1;
  double sum = 0;
  for (size_t c = 0; c < row.size(); ++c) {
    const double q = std::clamp(std::nearbyint(row[c] / scale) + zero, 0.0, qmax);
    sum += (importance.empty() ? 1 : importance[c]) * std::pow(std::fabs(scale * (q - zero) - row[c]), p);
  }
  return sum;
}

// The published search, row by row.
double BestLoss(const std::vector<float>& row, const GridRule& rule, const std::vector<float>& importance = {}) {
  const double qmax = (1 << rule.bits) - 1;
  double high = std::max(0.0f, *std::max_element(row.begin(), row.end())), low = std::min(0.0f, *std::min_element(row.begin(), row.end()));
  if (rule.sym) low = -(high = std::max(high, -low));
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 80; ++i) {
    const double p = 1 - i / 100.0, scale = HalfToFloat(FloatToHalf(static_cast<float>(p * (high - low) / qmax)));
    const double zero = rule.sym ? (qmax + 1) / 2 : std::nearbyint(-p * low / scale);
    best = std::min(best, Loss(row, scale, zero, rule.bits, rule.mse, importance));
  }
  return best;
}

std::vector<float> HeavyTailed(int count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> row(count);
  for (float& v : row) {
    const double u = random() / 2147483648.0 - 1;
    v = static_cast<float>(0.02 * u * std::exp(2 * std::fabs(u)));
  }
  return row;
}

}  // namespace

LOWBIT_TEST(GridFullRange) {
  const Grids asym = Fit({{0.9f, -0.4f, 0.25f, -1.1f}, {0.3f, 0.7f, -0.6f, 0.05f}, {0.5f, 0.25f, 0.125f, 1.5f}}, {2, false, 0});
  EXPECT_NEAR(asym.scale[0], 0.66650390625, 0);
  EXPECT_NEAR(asym.scale[1], 0.4333496094, 1e-9);
  EXPECT(asym.zero[0] == 2 && asym.zero[1] == 1);
  EXPECT(asym.scale[2] == 0.5f && asym.zero[2] == 0);  // zero is part of the range of an all-positive row
  const Grids sym = Fit({{0.9f, -0.4f, 0.25f, -1.1f}, {0.25f, 0.5f, 1.75f, 0}}, {3, true, 0});
  EXPECT_NEAR(sym.scale[0], 0.314208984375, 0);
  EXPECT(sym.zero[0] == 4);
  EXPECT(sym.scale[1] == 0.5f && sym.zero[1] == 4);  // 2 * 1.75 / 7: an all-positive row keeps the symmetric range
}

LOWBIT_TEST(GridScalesFitTheirStorage) {
  const float tiny = 1e-30f, huge = 3e38f;
  const Grids grids = Fit({{0, 0, 0}, {tiny, -tiny, 0}, {huge, -huge, 1}, {1e-5f, -3e-5f, 2e-5f}}, {4, true, 2.4});
  for (const float scale : grids.scale) {
    EXPECT(IsHalf(scale) && std::isfinite(scale));
    EXPECT(scale >= std::ldexp(1.0f, -22));
  }
  EXPECT(grids.scale[2] == 65504);
  EXPECT_NEAR(Fit({{0, 0, 0}}, {4, true, 0}).scale[0], 2.0 / 15, 2.0 / 15 / 2048);
  // Subnormal f16: multiples of 2^-24.
  EXPECT_NEAR(Fit({{1e-5f, -3e-5f, 2e-5f}}, {2, true, 0}).scale[0], std::nearbyint(2e-5 * (1 << 24)) / (1 << 24), 0);
  // Every scale over many magnitudes agrees with base/half.
  int wrong = 0;
  for (double m = 1e-6; m < 1e5; m *= 1.0123) {
    const float range = 2 * static_cast<float>(m);
    wrong +=
        !(Fit({{static_cast<float>(m)}}, {4, true, 0}).scale[0] == std::max(HalfToFloat(FloatToHalf(range / 15)), std::ldexp(1.0f, -22)));
  }
  EXPECT(wrong == 0);
}

LOWBIT_TEST(GridRoundsHalfToEven) {
  float w[kGridRows], scale[kGridRows], zero[kGridRows], w_hat[kGridRows];
  uint8_t codes[kGridRows];
  const float values[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 6.5f, 7.5f, 100, -100, 0, -7.5f, -8.5f};
  const int expected[] = {8, 10, 10, 8, 6, 14, 15, 15, 0, 8, 0, 0};
  std::fill(w, w + kGridRows, 0.0f);
  std::copy(std::begin(values), std::end(values), w);
  std::fill(scale, scale + kGridRows, 1.0f);
  std::fill(zero, zero + kGridRows, 8.0f);
  QuantizeColumn(w, scale, scale, zero, 4, codes, w_hat);
  for (size_t i = 0; i < std::size(values); ++i) {
    EXPECT(codes[i] == expected[i]);
    EXPECT(w_hat[i] == expected[i] - 8);
  }
  // Values on the grid come back unchanged.
  for (int r = 0; r < kGridRows; ++r) {
    scale[r] = HalfToFloat(FloatToHalf(0.013f * (1 + r)));
    w[r] = scale[r] * static_cast<float>(r % 16 - 8);
  }
  QuantizeColumn(w, scale, scale, zero, 4, codes, w_hat);
  for (int r = 0; r < kGridRows; ++r) EXPECT(w_hat[r] == w[r] && codes[r] == r % 16);
}

LOWBIT_TEST(RangeSearchGolden) {
  std::vector<std::vector<float>> rows(2);
  for (int i = 0; i < 32; ++i) {
    rows[0].push_back(static_cast<float>(((i * 37) % 64 - 31) / 40.0 + (i == 5 ? 1.5 : 0)));
    rows[1].push_back(static_cast<float>(((i * 29) % 61 - 12) / 50.0));
  }
  const struct {
    GridRule rule;
    double scale[2], zero[2];
  } cases[] = {
      {{2, true, 2.0}, {0.6591796875, 0.64013671875}, {2, 2}},     {{3, false, 2.0}, {0.384521484375, 0.154296875}, {2, 1}},
      {{4, true, 2.0}, {0.272216796875, 0.1280517578125}, {8, 8}}, {{2, true, 2.4}, {0.73095703125, 0.64013671875}, {2, 2}},
      {{3, false, 2.4}, {0.388671875, 0.154296875}, {2, 1}},       {{4, true, 2.4}, {0.275146484375, 0.1280517578125}, {8, 8}},
      {{2, true, 1.0}, {0.386962890625, 0.64013671875}, {2, 2}},   {{3, false, 1.0}, {0.363525390625, 0.154296875}, {2, 1}},
      {{2, true, 4.0}, {1.189453125, 0.64013671875}, {2, 2}},      {{3, false, 4.0}, {0.392822265625, 0.154296875}, {2, 1}},
  };
  for (const auto& c : cases) {
    const Grids grids = Fit(rows, c.rule);
    for (int r = 0; r < 2; ++r) {
      EXPECT_NEAR(grids.scale[r], c.scale[r], 0);
      EXPECT_NEAR(grids.zero[r], c.zero[r], 0);
    }
  }
}

LOWBIT_TEST(RangeSearchFindsTheBestCandidate) {
  for (const int columns : {1, 5, 32, 67, 128}) {
    std::vector<std::vector<float>> rows;
    for (int r = 0; r < kGridRows; ++r) rows.push_back(HeavyTailed(columns, 100 * columns + r));
    for (const GridRule& rule :
         {GridRule{2, true, 2.4}, GridRule{2, false, 2.4}, GridRule{4, true, 2}, GridRule{3, false, 1}, GridRule{4, false, 8}}) {
      const Grids grids = Fit(rows, rule);
      for (int r = 0; r < kGridRows; ++r) {
        // Powers are good to 1e-4, so another candidate may win that is at most 2e-4 worse; a single weight can be hit
        // exactly, where rounding of f32 decides: hence the absolute part, (1e-6 of the range)^p per column.
        const double best = BestLoss(rows[r], rule), range = 15 * grids.scale[r];
        EXPECT(Loss(rows[r], grids.scale[r], grids.zero[r], rule.bits, rule.mse) <=
               best * (1 + 2e-4) + columns * std::pow(1e-6 * range, rule.mse));
      }
    }
  }
}

LOWBIT_TEST(RangeSearchWeighsColumns) {
  const int columns = 67;
  std::vector<std::vector<float>> rows;
  for (int r = 0; r < kGridRows; ++r) rows.push_back(HeavyTailed(columns, 7000 + r));
  std::vector<float> importance = HeavyTailed(columns, 5);
  for (float& h : importance) h = h * h * 1e6f;  // over many orders of magnitude, as the diagonal of a Hessian
  importance[3] = 0;
  int moved = 0;
  for (const GridRule& rule : {GridRule{2, true, 2.4}, GridRule{3, false, 2}, GridRule{4, true, 2}}) {
    const Grids grids = Fit(rows, rule, importance), plain = Fit(rows, rule);
    for (int r = 0; r < kGridRows; ++r) {
      const double best = BestLoss(rows[r], rule, importance);
      EXPECT(Loss(rows[r], grids.scale[r], grids.zero[r], rule.bits, rule.mse, importance) <= best * (1 + 1e-3));
      moved += grids.scale[r] != plain.scale[r];
    }
    // Only ratios count, and no importance at all is the same importance for all.
    for (const float factor : {1e-30f, 1e20f}) {
      std::vector<float> scaled = importance;
      for (float& h : scaled) h *= factor;
      const Grids same = Fit(rows, rule, scaled);
      for (int r = 0; r < kGridRows; ++r) EXPECT(std::fabs(same.scale[r] / grids.scale[r] - 1) < 0.02f);
    }
    const Grids zeros = Fit(rows, rule, std::vector<float>(columns, 0)), ones = Fit(rows, rule, std::vector<float>(columns, 3.5f));
    for (int r = 0; r < kGridRows; ++r) EXPECT(zeros.scale[r] == plain.scale[r] && ones.scale[r] == plain.scale[r]);
  }
  EXPECT(moved > kGridRows);
}

LOWBIT_TEST(RangeSearchKeepsTheFirstOfEqualCandidates) {
  for (const double p : {1.0, 2.0, 2.4, 8.0}) {
    EXPECT_NEAR(Fit({{0, 0, 0}}, {4, true, p}).scale[0], Fit({{0, 0, 0}}, {4, true, 0}).scale[0], 0);
    const std::vector<float> on_grid = {0, 0.5f, 1, 2.5f, 7.5f};
    EXPECT_NEAR(Fit({on_grid}, {4, false, p}).scale[0], 0.5, 0);
  }
}

LOWBIT_TEST(PowersAreAccurate) {
  double worst = 0;
  for (const double p : {1.0, 1.3, 2.0, 2.4, 3.7, 8.0}) {
    for (double x = 1e-4; x < 1500; x *= 1.003) {
      const float value = static_cast<float>(x);
      const double relative = std::fabs(PowerSum(&value, 1, p) / std::pow(double(value), p) - 1);
      if (!(relative <= worst)) worst = relative;
    }
    const float zero = 0;
    EXPECT(PowerSum(&zero, 1, p) <= 1e-37f);
  }
  EXPECT_NEAR(worst, 0, 1e-4);
}
