// test/native: what surrounds GPTQ for quality: the refit of scales, the descent of codes, the guard of rows, the weighted range search.
// No step may raise the error of a row; the refit must find what normal equations in double give, the descent what plain loops do.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/half.h"
#include "check.h"
#include "layers.h"
#include "quantize/coordinate_descent.h"
#include "quantize/grid.h"
#include "quantize/refit_scales.h"

namespace {

using namespace lowbit;
using namespace lowbit_test;

QuantizeOptions ActStatic(QuantizeOptions options) {
  options.desc_act = options.static_groups = true;
  return options;
}

std::vector<double> Energies(const Layer& layer, const QuantizedLinear& q) {
  std::vector<float> w_hat(layer.w.size());
  Dequantize(q, w_hat);
  return ErrorEnergies(layer, w_hat);
}

int GroupOf(const QuantizedLinear& q, int c) { return q.g_idx.empty() ? c / q.group_size : q.g_idx[c]; }

// The scales of row r that minimise its error, by Gaussian elimination with pivoting on the normal equations in double.
std::vector<double> BestScales(const Layer& layer, const QuantizedLinear& q, int r) {
  const int n = q.groups, k = layer.k;
  std::vector<std::vector<double>> a(n, std::vector<double>(n + 1, 0));
  const auto code = [&](int c) { return double(q.codes[size_t(r) * k + c]) - q.zeros[size_t(r) * n + GroupOf(q, c)]; };
  for (int i = 0; i < k; ++i) {
    for (int j = 0; j < k; ++j) {
      const double h = layer.h[size_t(i) * k + j];
      a[GroupOf(q, i)][GroupOf(q, j)] += code(i) * h * code(j);
      a[GroupOf(q, i)][n] += code(i) * h * layer.w[size_t(r) * k + j];
    }
  }
  for (int s = 0; s < n; ++s) {
    int pivot = s;
    for (int i = s; i < n; ++i)
      if (std::fabs(a[i][s]) > std::fabs(a[pivot][s])) pivot = i;
    std::swap(a[s], a[pivot]);
    for (int i = 0; i < n; ++i) {
      if (i == s) continue;
      const double factor = a[i][s] / a[s][s];
      for (int j = s; j <= n; ++j) a[i][j] -= factor * a[s][j];
    }
  }
  std::vector<double> scales;
  for (int i = 0; i < n; ++i) scales.push_back(a[i][n] / a[i][i]);
  return scales;
}

}  // namespace

LOWBIT_TEST(RefitFindsTheBestScales) {
  const Layer layer = Correlated(53, 160, 31);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group_size : {32, 64, 128, -1}) {  // 160 columns: short last groups
      for (const bool stored_order : {false, true}) {
        QuantizeOptions options = Options(bits, group_size, bits != 3);
        options.desc_act = stored_order;
        const QuantizedLinear before = Run(layer, options).value();
        QuantizedLinear after = before;
        Pool pool(1);
        const int improved = RefitScales(&after, layer.w, layer.View(), *RefKernels(), pool).value();
        EXPECT(after.codes == before.codes && after.zeros == before.zeros && after.g_idx == before.g_idx);
        const std::vector<double> old_errors = Energies(layer, before), errors = Energies(layer, after);
        int changed = 0;
        for (int r = 0; r < layer.n; ++r) {
          const auto row = after.scales.begin() + size_t(r) * after.groups;
          const bool same = std::equal(row, row + after.groups, before.scales.begin() + size_t(r) * after.groups);
          changed += !same;
          EXPECT(same ? errors[r] == old_errors[r] : errors[r] < old_errors[r]);
          if (same) continue;
          const std::vector<double> best = BestScales(layer, before, r);
          // What rounding to f16 moves a scale by is half a unit in the last place; f32 sums over 160 columns add less.
          for (int g = 0; g < after.groups; ++g) {
            EXPECT(HalfToFloat(FloatToHalf(row[g])) == row[g]);
            EXPECT_NEAR(row[g], best[g], (0x1p-11 + 2e-4) * std::fabs(best[g]));
          }
        }
        EXPECT(changed == improved);
        if (bits <= 4) EXPECT(improved > layer.n / 2);
      }
    }
  }
}

LOWBIT_TEST(RefitDoesNotDependOnThreads) {
  const Layer layer = Correlated(150, 96, 8);
  const QuantizedLinear before = Run(layer, Options(3, 32, true)).value();
  std::vector<QuantizedLinear> found;
  for (const int threads : {1, 3}) {
    QuantizedLinear q = before;
    Pool pool(threads);
    EXPECT(RefitScales(&q, layer.w, layer.View(), *RefKernels(), pool).value() > 0);
    found.push_back(q);
  }
  EXPECT(found[0].scales == found[1].scales);
}

LOWBIT_TEST(RefitLeavesWhatItCannotImprove) {
  // A weight on its grid; a row of zeros, whose codes say nothing of a scale; columns that were never seen.
  Layer layer = Correlated(50, 64, 4);
  for (int r = 0; r < layer.n; ++r)
    for (int c = 0; c < layer.k; ++c)
      layer.w[size_t(r) * layer.k + c] = r == 7 ? 0.0f : 0.25f * static_cast<float>((r * 5 + c * 3) % 15 - 7);
  for (int j = 0; j < layer.k; ++j) layer.h[size_t(3) * layer.k + j] = layer.h[size_t(j) * layer.k + 3] = 0;
  QuantizedLinear q = Run(layer, Options(4, 32, true), Method::kRtn).value();
  for (float& scale : q.scales) scale = 0.25f;
  for (size_t i = 0; i < q.codes.size(); ++i) q.codes[i] = static_cast<uint8_t>(std::lround(layer.w[i] / 0.25f) + 8);
  const QuantizedLinear before = q;
  Pool pool(1);
  EXPECT(RefitScales(&q, layer.w, layer.View(), *RefKernels(), pool).value() == 0);
  EXPECT(q.scales == before.scales);
  // All of H zero: no error that could fall.
  std::fill(layer.h.begin(), layer.h.end(), 0.0f);
  EXPECT(RefitScales(&q, layer.w, layer.View(), *RefKernels(), pool).value() == 0);
  EXPECT(q.scales == before.scales);
}

// Weights of heavy tails, two bits, natural order: where GPTQ loses rows to rounding.
static Layer HeavyTailed(int n, int k, uint32_t seed) {
  Layer layer = Correlated(n, k, seed);
  for (float& w : layer.w) w = w * w * w * 2500;
  for (int i = 0; i < k; ++i)
    for (int j = 0; j < k; ++j) layer.h[size_t(i) * k + j] *= i == j ? 1.0f : 0.3f;  // inputs that hang together less
  return layer;
}

LOWBIT_TEST(GuardTakesTheBetterRow) {
  const Layer layer = HeavyTailed(97, 192, 17);
  for (const bool sym : {true, false}) {
    QuantizeOptions options = Options(2, 64, sym);
    options.act_group_aware = false;
    const QuantizedLinear solved = Run(layer, options).value(), rounded = Run(layer, options, Method::kRtn).value();
    options.row_guard = true;
    const QuantizedLinear guarded = Run(layer, options).value();
    const std::vector<double> a = Energies(layer, solved), b = Energies(layer, rounded), best = Energies(layer, guarded);
    int from_rounding = 0;
    for (int r = 0; r < layer.n; ++r) {
      EXPECT(best[r] <= std::min(a[r], b[r]) * (1 + 1e-5));
      from_rounding += b[r] < a[r] * (1 - 1e-5);
    }
    EXPECT(from_rounding > 0 && from_rounding < layer.n);
    EXPECT(guarded.guarded_rows >= from_rounding && guarded.guarded_rows <= layer.n);
    EXPECT(guarded.error <= solved.error && guarded.error <= rounded.error);
  }
  QuantizeOptions options = Options(4, 64, true);
  options.row_guard = options.desc_act = true;
  EXPECT_ERROR(Run(layer, options).status(), Code::kInvalidArgument, "row_guard");
}

LOWBIT_TEST(GuardKeepsDeadColumnsAtZero) {
  Layer layer = HeavyTailed(60, 96, 23);
  for (int j = 0; j < layer.k; ++j) layer.h[size_t(40) * layer.k + j] = layer.h[size_t(j) * layer.k + 40] = 0;
  QuantizeOptions options = Options(2, 32, true);
  options.act_group_aware = false;
  options.row_guard = true;
  const QuantizedLinear q = Run(layer, options).value();
  EXPECT(q.guarded_rows > 0 && q.dead_columns == 1);
  for (int r = 0; r < layer.n; ++r) EXPECT(q.codes[size_t(r) * layer.k + 40] == q.zeros[size_t(r) * q.groups + 40 / 32]);
}

// The published algorithm, row by row in double: no blocks, no lanes.
static std::vector<uint8_t> Descended(const Layer& layer, const QuantizedLinear& q, int sweeps) {
  std::vector<uint8_t> codes = q.codes;
  const size_t k = layer.k;
  const double qmax = (1 << q.bits) - 1;
  for (size_t r = 0; r < size_t(layer.n); ++r) {
    std::vector<double> rest(k);
    const auto value = [&](size_t c) {
      const size_t grid = r * q.groups + q.GroupOf(static_cast<int>(c));
      return q.scales[grid] * (double(codes[r * k + c]) - q.zeros[grid]);
    };
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      for (size_t c = 0; c < k; ++c) {
        for (size_t j = 0; j < k; ++j) rest[j] = layer.w[r * k + j] - value(j);
        double pull = 0;
        for (size_t j = 0; j < k; ++j) pull += layer.h[c * k + j] * rest[j];
        const double scale = q.scales[r * q.groups + q.GroupOf(static_cast<int>(c))];
        const double best = codes[r * k + c] + std::nearbyint(pull / layer.h[c * k + c] / scale);
        codes[r * k + c] = static_cast<uint8_t>(std::clamp(best, 0.0, qmax));
      }
    }
  }
  return codes;
}

LOWBIT_TEST(DescentMatchesPlainLoops) {
  const Layer layer = Correlated(50, 150, 41);
  for (const int bits : {2, 4}) {
    for (const bool stored_order : {false, true}) {
      QuantizeOptions options = Options(bits, 32, bits == 4);
      options.desc_act = stored_order;
      QuantizedLinear q = Run(layer, options).value();
      const std::vector<uint8_t> expected = Descended(layer, q, 3);
      Pool pool(1);
      EXPECT(DescendCodes(&q, layer.w, layer.View(), 3, *RefKernels(), pool).value() > 0);
      // A tie that f32 and f64 see differently moves what follows in its row.
      size_t different = 0;
      for (size_t i = 0; i < expected.size(); ++i) different += expected[i] != q.codes[i];
      EXPECT(different < expected.size() / 100);
    }
  }
}

LOWBIT_TEST(DescentNeverRaisesTheError) {
  for (const int k : {1, 31, 64, 65, 200}) {
    Layer layer = Correlated(49, k, 500 + k);
    if (k > 10)  // a column that was never seen
      for (int j = 0; j < k; ++j) layer.h[size_t(7) * k + j] = layer.h[size_t(j) * k + 7] = 0;
    for (const int bits : {2, 3, 8}) {
      QuantizedLinear q = Run(layer, Options(bits, 32, bits != 3), Method::kRtn).value();
      const QuantizedLinear before = q;
      std::vector<double> errors = Energies(layer, q);
      Pool pool(2);
      for (int pass = 0; pass < 3; ++pass) {
        const int64_t changes = DescendCodes(&q, layer.w, layer.View(), 2, *RefKernels(), pool).value();
        EXPECT(changes >= 0 && q.scales == before.scales && q.zeros == before.zeros);
        const std::vector<double> now = Energies(layer, q);
        for (int r = 0; r < layer.n; ++r) EXPECT(now[r] <= errors[r] * (1 + 1e-5) + 1e-12);
        errors = now;
      }
      for (int r = 0; r < layer.n && k > 10; ++r) EXPECT(q.codes[size_t(r) * k + 7] == before.codes[size_t(r) * k + 7]);
      for (const uint8_t code : q.codes) EXPECT(code < 1 << bits);
      EXPECT(DescendCodes(&q, layer.w, layer.View(), 100, *RefKernels(), pool).ok());
      EXPECT(DescendCodes(&q, layer.w, layer.View(), 100, *RefKernels(), pool).value() == 0);  // where it has come to rest
    }
  }
}

// The ladder: rounding, a searched range, GPTQ with act-order and static groups, its weighted search, guard, refit.
LOWBIT_TEST(EveryStepOfTheLadderHelps) {
  const Layer layer = Correlated(128, 256, 3);
  for (const int bits : {2, 3, 4}) {
    for (const bool sym : {true, false}) {
      QuantizeOptions options = Options(bits, 64, sym);
      const double rtn = Run(layer, options, Method::kRtn).value().error;
      options.mse = 2.4;
      const double searched = Run(layer, options, Method::kRtn).value().error;
      options = ActStatic(options);
      const double gptq = Run(layer, options).value().error;
      options.hessian_mse = true;
      const double weighted = Run(layer, options).value().error;
      options.row_guard = true;
      const double guarded = Run(layer, options).value().error;
      options.refit_scales = true;
      const QuantizedLinear refitted = Run(layer, options).value();
      options.sweeps = 4;
      const QuantizedLinear descended = Run(layer, options).value();
      EXPECT(searched < rtn);
      EXPECT(gptq < 0.75 * searched);
      EXPECT(weighted < 1.02 * gptq);  // an empirical step
      EXPECT(guarded <= weighted);
      EXPECT(refitted.error < guarded);
      EXPECT(descended.error < refitted.error);
      EXPECT(refitted.refitted_rows > layer.n / 2 && refitted.g_idx.empty());
    }
  }
}
