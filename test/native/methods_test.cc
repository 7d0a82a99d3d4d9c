// test/native: AWQ, HQQ, SpQR, MixLLM, FineQuant, EoRA and SmoothQuant's scaling against an independent version in numpy
// (test/fixtures/methods/make.py: float64, no rounding of scales, LAPACK's eigenvectors and SVD), by their identities and orderings.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/half.h"
#include "check.h"
#include "layers.h"
#include "quantize/finequant.h"
#include "quantize/quantize_parts.h"
#include "solve/symmetric_eigen.h"

namespace {

using namespace lowbit;
using namespace lowbit_test;

// The layer of make.py; `heavy` with its heavy-tailed weights.
Layer Golden(bool heavy) {
  Layer layer{128, 256, std::vector<float>(128 * 256), std::vector<float>(256 * 256)};
  std::ifstream file(LOWBIT_SOURCE_DIR "/test/fixtures/methods/layer.bin", std::ios::binary);
  const auto bytes = static_cast<std::streamsize>(layer.w.size() * sizeof(float));
  for (int i = 0; i <= int(heavy); ++i) file.read(reinterpret_cast<char*>(layer.w.data()), bytes);
  if (!heavy) file.seekg(2 * bytes);
  for (size_t i = 0; i < 256; ++i) {
    file.read(reinterpret_cast<char*>(layer.h.data() + i * 256), static_cast<std::streamsize>((i + 1) * sizeof(float)));
    for (size_t j = 0; j <= i; ++j) layer.h[j * 256 + i] = layer.h[i * 256 + j];
  }
  EXPECT(file.good());
  return layer;
}

PartsOptions Base(int bits, int group_size, bool sym) {
  PartsOptions options;
  options.base = Options(bits, group_size, sym);
  return options;
}

Result<LinearParts> RunParts(const Layer& layer, Method method, const PartsOptions& options, int threads = 1, bool data = true) {
  Pool pool(threads);
  LayerStatistics stats;
  if (data) stats.hessian = layer.View();
  return QuantizeParts(method, "model.weight", layer.w, layer.n, layer.k, stats, options, *RefKernels(), pool);
}

std::vector<float> Dense(const LinearParts& parts) {
  Pool pool(1);
  std::vector<float> out(size_t(parts.n) * parts.k);
  DequantizeParts(parts, out, pool);
  return out;
}

double Total(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// sqrt of the relative error, from the parts' values alone, in double.
double Eps(const Layer& layer, const LinearParts& parts) {
  return std::sqrt(Total(ErrorEnergies(layer, Dense(parts))) / Total(ErrorEnergies(layer, {})));
}

bool Same(const LinearParts& a, const LinearParts& b) {
  if (a.affine.size() != b.affine.size() || a.input_scale != b.input_scale || a.error != b.error || a.fallbacks != b.fallbacks)
    return false;
  for (size_t i = 0; i < a.affine.size(); ++i) {
    const AffineCodes &x = a.affine[i], &y = b.affine[i];
    if (x.codes != y.codes || x.scales != y.scales || x.seconds != y.seconds || x.rows != y.rows || x.g_idx != y.g_idx) return false;
    if (x.coded.scale_codes != y.coded.scale_codes || x.coded.zero_codes != y.coded.zero_codes) return false;
  }
  return a.low_rank.a == b.low_rank.a && a.low_rank.b == b.low_rank.b && a.sparse.columns == b.sparse.columns &&
         a.sparse.values == b.sparse.values && a.sparse.row_offsets == b.sparse.row_offsets;
}

bool InHalf(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return HalfToFloat(FloatToHalf(x)) == x && std::isfinite(x); });
}

// Everything linear_parts.h promises of a result.
void CheckParts(const Layer& layer, const LinearParts& parts) {
  const size_t n = layer.n, k = layer.k;
  EXPECT(parts.n == layer.n && parts.k == layer.k);
  std::vector<int> covered(n, 0);
  for (const AffineCodes& codes : parts.affine) {
    const size_t rows = codes.Rows(layer.n), grids = rows * codes.groups;
    for (size_t i = 0; i < rows; ++i) ++covered[codes.rows.empty() ? i : codes.rows[i]];
    EXPECT(codes.codes.size() == rows * k && codes.scales.size() == grids);
    EXPECT(codes.groups == (layer.k + codes.group_size - 1) / codes.group_size);
    EXPECT(codes.seconds.size() == (codes.affine == AffineKind::kSymmetric ? 0 : grids));
    EXPECT(codes.g_idx.empty() || codes.g_idx.size() == k);
    EXPECT(std::all_of(codes.codes.begin(), codes.codes.end(), [&](uint8_t code) { return code < 1 << codes.bits; }));
    EXPECT(InHalf(codes.scales));
    if (codes.affine == AffineKind::kMinimum) EXPECT(InHalf(codes.seconds));
    if (codes.coded.bits == 0) continue;
    const CodedScales& coded = codes.coded;
    for (size_t row = 0; row < rows; ++row) {
      for (size_t g = 0; g < size_t(codes.groups); ++g) {
        const size_t at = row * codes.groups + g, tile = row / 16 * codes.groups + g;
        EXPECT(coded.scale_codes[at] < 8 && coded.zero_codes[at] < 8);
        const float scale = HalfToFloat(FloatToHalf(coded.scale_step[tile] * (float(coded.scale_codes[at]) - coded.scale_zero[tile])));
        const float zero = coded.zero_step[tile] * (float(coded.zero_codes[at]) - coded.zero_zero[tile]);
        EXPECT(scale == codes.scales[at] && scale > 0);
        EXPECT(HalfToFloat(FloatToHalf(-scale * zero)) == codes.seconds[at]);
      }
    }
    for (const auto* steps : {&coded.scale_step, &coded.scale_zero, &coded.zero_step, &coded.zero_zero}) EXPECT(InHalf(*steps));
  }
  EXPECT(std::all_of(covered.begin(), covered.end(), [](int count) { return count == 1; }));
  EXPECT(parts.low_rank.a.size() == parts.low_rank.rank * k && parts.low_rank.b.size() == parts.low_rank.rank * n);
  EXPECT(InHalf(parts.low_rank.a) && InHalf(parts.low_rank.b) && InHalf(parts.sparse.values));
  EXPECT(parts.input_scale.empty() || parts.input_scale.size() == k);
  for (const float s : parts.input_scale) EXPECT(s > 0 && std::isfinite(s));
  const auto& offsets = parts.sparse.row_offsets;
  EXPECT(offsets.empty() || (offsets.size() == n + 1 && offsets[0] == 0 && size_t(offsets[n]) == parts.sparse.columns.size()));
  for (size_t row = 0; row + 1 < offsets.size(); ++row)
    for (int32_t i = offsets[row] + 1; i < offsets[row + 1]; ++i) EXPECT(parts.sparse.columns[i - 1] < parts.sparse.columns[i]);
  // f32 sums over k columns against double.
  EXPECT_NEAR(std::sqrt(parts.error), Eps(layer, parts), 1e-4 * Eps(layer, parts) + 1e-6);
}

struct Expected3 {
  int bits;
  double rtn, awq, hqq, hqq_mean;
};
const Expected3 kRounding[] = {
    {2, 0.45841, 0.39362, 0.44101, 0.36923}, {3, 0.19528, 0.16963, 0.18728, 0.15747}, {4, 0.09187, 0.07877, 0.08594, 0.07378}};

}  // namespace

// Scales rounded to f16 move steps by 2^-12 at most, which moves some codes: 0.5 % covers all of it at these sizes.
LOWBIT_TEST(MethodsMatchNumpy) {
  const Layer layer = Golden(false);
  for (const Expected3& expected : kRounding) {
    PartsOptions options = Base(expected.bits, 64, false);
    EXPECT_NEAR(Eps(layer, RunParts(layer, Method::kRtn, options).value()), expected.rtn, 0.005 * expected.rtn);
    options.awq.clip = false;
    const LinearParts awq = RunParts(layer, Method::kAwq, options).value();
    EXPECT_NEAR(Eps(layer, awq), expected.awq, 0.005 * expected.awq);
    EXPECT_NEAR(awq.scale_ratio, 0.3, 1e-12);
    const LinearParts hqq = RunParts(layer, Method::kHqq, options).value();
    EXPECT_NEAR(Eps(layer, hqq), expected.hqq, 0.005 * expected.hqq);
    double mean = 0;
    const std::vector<float> w_hat = Dense(hqq);
    for (size_t i = 0; i < w_hat.size(); ++i) mean += std::fabs(double(layer.w[i]) - w_hat[i]);
    EXPECT_NEAR(mean / double(w_hat.size()) / 0.02, expected.hqq_mean, 0.003 * expected.hqq_mean);
  }
}

LOWBIT_TEST(AwqIsNeverWorseThanRounding) {
  for (const bool sym : {true, false}) {
    for (const int group_size : {32, 128, -1}) {
      const Layer layer = Correlated(75, 160, 9);
      PartsOptions options = Base(3, group_size, sym);
      const LinearParts rounded = RunParts(layer, Method::kRtn, options).value();
      options.awq.clip = false;
      const LinearParts scaled = RunParts(layer, Method::kAwq, options).value();
      options.awq.clip = true;
      const LinearParts clipped = RunParts(layer, Method::kAwq, options).value();
      EXPECT(scaled.error < rounded.error && clipped.error < scaled.error);
      CheckParts(layer, scaled);
      CheckParts(layer, clipped);
      options.awq.grid = 1;
      options.awq.clip = false;
      const LinearParts plain = RunParts(layer, Method::kAwq, options).value();
      EXPECT(plain.affine[0].codes == rounded.affine[0].codes && plain.input_scale.empty());
    }
  }
}

LOWBIT_TEST(AwqProtectsALoudChannel) {
  Layer layer = Correlated(48, 96, 12);
  for (int j = 0; j < layer.k; ++j) {
    layer.h[size_t(30) * layer.k + j] *= 50;
    layer.h[size_t(j) * layer.k + 30] *= 50;
  }
  PartsOptions options = Base(3, 32, false);
  const LinearParts rounded = RunParts(layer, Method::kRtn, options).value(), awq = RunParts(layer, Method::kAwq, options).value();
  EXPECT(awq.scale_ratio > 0 && awq.input_scale[30] == *std::min_element(awq.input_scale.begin(), awq.input_scale.end()));
  double before = 0, after = 0;
  const std::vector<float> a = Dense(rounded), b = Dense(awq);
  for (size_t i = 30; i < a.size(); i += layer.k) {
    before += (layer.w[i] - a[i]) * (layer.w[i] - a[i]);
    after += (layer.w[i] - b[i]) * (layer.w[i] - b[i]);
  }
  EXPECT(after < 0.5 * before);
}

LOWBIT_TEST(HqqKeepsTheBestZero) {
  const Layer layer = Correlated(51, 150, 77);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group_size : {32, 64, -1}) {
      PartsOptions options = Base(bits, group_size, true);
      std::vector<double> last;
      for (const int iterations : {0, 1, 5, 20}) {
        options.hqq.iterations = iterations;
        const LinearParts parts = RunParts(layer, Method::kHqq, options, 1, false).value();
        const AffineCodes& codes = parts.affine[0];
        std::vector<double> errors(size_t(layer.n) * codes.groups, 0);
        const std::vector<float> w_hat = Dense(parts);
        for (size_t i = 0; i < w_hat.size(); ++i)
          errors[i / layer.k * codes.groups + i % layer.k / codes.group_size] += std::fabs(double(layer.w[i]) - w_hat[i]);
        for (size_t i = 0; i < last.size(); ++i) EXPECT(errors[i] <= last[i] * (1 + 1e-6));
        last = errors;
      }
    }
  }
}

LOWBIT_TEST(HqqOfDegenerateGroups) {
  // Zeros, equal weights, one outlier, weights below f16's subnormals: finite values, exact where the grid has them.
  Layer layer = Correlated(6, 64, 5);
  for (int c = 0; c < 64; ++c) {
    layer.w[c] = 0;
    layer.w[64 + c] = 0.25f;
    layer.w[128 + c] = c == 9 ? 1000.0f : 0.001f;
    layer.w[192 + c] = 1e-9f * static_cast<float>(c);
    layer.w[256 + c] = -60000.0f + 1000.0f * static_cast<float>(c);
  }
  const LinearParts parts = RunParts(layer, Method::kHqq, Base(4, 64, true), 1, false).value();
  const std::vector<float> w_hat = Dense(parts);
  for (int c = 0; c < 64; ++c) EXPECT(w_hat[c] == 0 && w_hat[64 + c] == 0.25f);
  EXPECT(std::all_of(w_hat.begin(), w_hat.end(), [](float x) { return std::isfinite(x); }));
  EXPECT(std::fabs(w_hat[128 + 9] - 1000) < 100);
}

LOWBIT_TEST(SpqrMatchesNumpy) {
  const Layer layer = Golden(true);
  struct Case {
    int bits;
    double threshold, eps, share;
  };
  const double none = std::numeric_limits<double>::infinity();
  const Case cases[] = {{3, none, 0.07631, 0},       {3, 1, 0.06577, 0.00235}, {3, 0.5, 0.06153, 0.006012}, {3, 0.2, 0.05526, 0.017975},
                        {3, 0.1, 0.04827, 0.044159}, {4, none, 0.03809, 0},    {4, 1, 0.03513, 0.000305},   {4, 0.2, 0.03186, 0.00296}};
  for (const Case& c : cases) {
    PartsOptions options = Base(c.bits, 128, true);
    options.base.damp_percent = 0.01;
    options.spqr.outlier_threshold = c.threshold;
    const LinearParts parts = RunParts(layer, Method::kSpqr, options).value();
    // One flipped code moves what follows in its row; outlier codes differ on purpose (nearest instead of that of zero).
    EXPECT_NEAR(Eps(layer, parts), c.eps, 0.02 * c.eps);
    EXPECT_NEAR(double(parts.sparse.columns.size()) / double(layer.w.size()), c.share, 0.05 * c.share + 1e-4);
    EXPECT(parts.fallbacks.empty() && parts.affine[0].g_idx.size() == 256);
    CheckParts(layer, parts);
    const double bits = c.bits + 6.0 / 16 + 64.0 / 256 + 32 * double(parts.sparse.columns.size()) / double(layer.w.size());
    const double indices = 32.0 * (256 + (parts.sparse.columns.empty() ? 0 : 129)) / double(layer.w.size());
    EXPECT_NEAR(StoredBits(parts) / double(layer.w.size()), bits + indices, 1e-9);
  }
  PartsOptions options = Base(3, 128, true);
  options.base.damp_percent = 0.01;
  options.spqr.outlier_threshold = none;
  options.spqr.coded_scales = false;
  EXPECT_NEAR(Eps(layer, RunParts(layer, Method::kSpqr, options).value()), 0.07282, 0.02 * 0.07282);
}

LOWBIT_TEST(SpqrOrdersAndThresholds) {
  const Layer layer = Golden(true);
  PartsOptions options = Base(3, 128, true);
  options.base.damp_percent = 0.01;
  options.base.desc_act = options.base.static_groups = true;
  const double gptq = RunParts(layer, Method::kGptq, options).value().error;
  for (const SpqrOrder order : {SpqrOrder::kIdentity, SpqrOrder::kActOrder, SpqrOrder::kGroupAware}) {
    options.spqr.order = order;
    double last = gptq;
    size_t count = 0;
    for (const double threshold : {std::numeric_limits<double>::infinity(), 1.0, 0.3, 0.1}) {
      options.spqr.outlier_threshold = threshold;
      const LinearParts parts = RunParts(layer, Method::kSpqr, options).value();
      EXPECT(parts.error < last);
      EXPECT(std::isinf(threshold) ? parts.sparse.columns.empty() : parts.sparse.columns.size() > count);
      EXPECT(parts.affine[0].g_idx.empty() == (order != SpqrOrder::kActOrder));
      last = parts.error;
      count = parts.sparse.columns.size();
    }
  }
  // Everything an outlier: what is left is the rounding of differences, as large as weights, to f16.
  options.spqr.outlier_threshold = 0;
  options.spqr.max_outliers = 1;
  const LinearParts all = RunParts(layer, Method::kSpqr, options).value();
  EXPECT(all.sparse.columns.size() > layer.w.size() * 99 / 100);
  EXPECT(all.error < 0x1p-22);
  // Too many: the threshold rises until they fit, and the report says so.
  options.spqr.max_outliers = 0.01;
  options.spqr.outlier_threshold = 0.1;
  const LinearParts fewer = RunParts(layer, Method::kSpqr, options).value();
  EXPECT(fewer.sparse.columns.size() <= layer.w.size() / 100 && !fewer.sparse.columns.empty());
  EXPECT(fewer.fallbacks.size() == 1 && fewer.fallbacks[0].find("outlier_threshold raised from 0.1 to ") != std::string::npos);
}

LOWBIT_TEST(SpqrFindsAPlantedOutlier) {
  Layer layer = Correlated(40, 100, 15);  // a short last group, a short last tile
  layer.w[size_t(7) * layer.k + 20] = 0.4f;
  PartsOptions options = Base(3, 128, true);
  options.spqr.outlier_threshold = 1;
  const LinearParts parts = RunParts(layer, Method::kSpqr, options).value();
  CheckParts(layer, parts);
  bool found = false;
  for (int32_t i = parts.sparse.row_offsets[7]; i < parts.sparse.row_offsets[8]; ++i) found = found || parts.sparse.columns[i] == 20;
  EXPECT(found);
}

LOWBIT_TEST(SpqrOfDegenerateWeights) {
  // Rows all alike (second-level steps of zero), zero rows, columns that were never seen.
  Layer layer = Correlated(37, 48, 18);
  for (int r = 0; r < 20; ++r)
    for (int c = 0; c < 48; ++c) layer.w[size_t(r) * 48 + c] = r < 4 ? 0.0f : 0.01f * static_cast<float>(c % 8);
  for (int j = 0; j < 48; ++j) layer.h[size_t(5) * 48 + j] = layer.h[size_t(j) * 48 + 5] = 0;
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    PartsOptions options = Base(bits, 128, true);
    options.spqr.max_outliers = 1;
    const LinearParts parts = RunParts(layer, Method::kSpqr, options).value();
    EXPECT(parts.dead_columns == 1 && parts.fallbacks.size() == 1);
    EXPECT(std::isfinite(parts.error) && parts.error < 0.5);
    const std::vector<float> w_hat = Dense(parts);
    EXPECT(std::all_of(w_hat.begin(), w_hat.end(), [](float x) { return std::isfinite(x) && std::fabs(x) < 1; }));
  }
}

LOWBIT_TEST(MixllmKeepsTheWorstRowsAtEightBits) {
  Layer layer = Correlated(60, 128, 21);
  for (int c = 0; c < layer.k; ++c) layer.w[size_t(33) * layer.k + c] *= 50;  // a salient row
  PartsOptions options = Base(4, 64, false);
  double last = RunParts(layer, Method::kGptq, options).value().error;
  for (const double fraction : {0.0, 0.1, 0.5, 1.0}) {
    options.mixllm.fraction = fraction;
    const LinearParts parts = RunParts(layer, Method::kMixllm, options).value();
    CheckParts(layer, parts);
    EXPECT(fraction == 0 ? std::fabs(parts.error - last) < 1e-9 : parts.error < last);
    last = parts.error;
    if (fraction != 0.1) continue;
    const AffineCodes &high = parts.affine[0], &low = parts.affine[1];
    EXPECT(high.bits == 8 && high.affine == AffineKind::kSymmetric && high.rows.size() == 6);
    EXPECT(low.bits == 4 && low.affine == AffineKind::kZeroPoint && low.rows.size() == 54);
    EXPECT(std::find(high.rows.begin(), high.rows.end(), 33) != high.rows.end());
  }
}

LOWBIT_TEST(FinequantFollowsOutliers) {
  std::mt19937 random(9);
  std::vector<float> w(64 * 4096);
  for (float& x : w) x = static_cast<float>(Normal(random));
  const FinequantOptions options;
  EXPECT(ChooseGroupSize(w, 64, 4096, 4096, options) == 4096);  // 0.957 per halving
  EXPECT(ChooseGroupSize(w, 64, 4096, 128, options) == 128);    // 0.921
  for (int r = 0; r < 64; ++r) w[size_t(r) * 4096 + random() % 4096] = 30;
  EXPECT(ChooseGroupSize(w, 64, 4096, 4096, options) == 32);  // 0.71 to 0.78
  FinequantOptions coarse = options;
  coarse.min_group = 64;
  EXPECT(ChooseGroupSize(w, 64, 4096, 4096, coarse) == 64);
  int last = 4096;
  for (const double alpha : {0.6, 0.73, 0.77, 0.9}) {  // finer as alpha grows
    FinequantOptions some = options;
    some.alpha = alpha;
    const int group_size = ChooseGroupSize(w, 64, 4096, 4096, some);
    EXPECT(group_size <= last);
    last = group_size;
  }
  EXPECT(ChooseGroupSize(std::vector<float>(576, 0.0f), 1, 576, 576, options) == 576);  // zeros: nothing shrinks
  Layer layer = Correlated(40, 576, 3);
  layer.w[5] = 3;
  const LinearParts parts = RunParts(layer, Method::kFinequant, Base(4, -1, true)).value();
  CheckParts(layer, parts);
  EXPECT(AsGptq("w", parts).ok());
}

// The best rank-r correction leaves the squared singular values behind the r-th (numpy: eigenvectors of H, SVD).
LOWBIT_TEST(LowRankLeavesTheTail) {
  const Layer layer = Golden(false);
  PartsOptions options = Base(3, 64, false);
  const double plain[] = {0.17992, 0.16557, 0.13888}, promised[] = {0.14724, 0.11935, 0.08441};
  const int ranks[] = {8, 16, 32};
  for (int i = 0; i < 3; ++i) {
    options.eora.rank = ranks[i];
    const LinearParts parts = RunParts(layer, Method::kRtn, options).value();
    EXPECT(parts.low_rank.rank == ranks[i] && parts.fallbacks.empty());
    EXPECT_NEAR(Eps(layer, parts), promised[i], 0.005 * promised[i]);
    CheckParts(layer, parts);
    const LinearParts data_free = RunParts(layer, Method::kRtn, options, 1, false).value();  // plain SVD
    EXPECT_NEAR(Eps(layer, data_free), plain[i], 0.02 * plain[i]);
  }
  // Full rank: the factors' own rounding is left.
  options.eora.rank = 128;
  EXPECT(Eps(layer, RunParts(layer, Method::kRtn, options).value()) < 1e-3);
}

LOWBIT_TEST(LowRankHelpsEveryMethod) {
  const Layer layer = Correlated(64, 128, 44);
  for (const Method method :
       {Method::kRtn, Method::kGptq, Method::kAwq, Method::kHqq, Method::kSpqr, Method::kMixllm, Method::kFinequant}) {
    PartsOptions options = Base(3, 32, false);
    const LinearParts before = RunParts(layer, method, options).value();
    double last = before.error;
    for (const int rank : {1, 4, 16}) {
      options.eora.rank = rank;
      const LinearParts parts = RunParts(layer, method, options).value();
      EXPECT(parts.error < last);
      EXPECT(parts.affine[0].codes == before.affine[0].codes && parts.input_scale == before.input_scale);
      CheckParts(layer, parts);
      last = parts.error;
    }
  }
}

LOWBIT_TEST(LowRankOfDegenerateErrors) {
  // No error, an error of one row, a Hessian of rank 3, more rank than the weight has.
  Layer layer = Correlated(20, 64, 6);
  for (size_t i = 0; i < layer.w.size(); ++i) layer.w[i] = 0.25f * static_cast<float>(int(i * 7 % 15) - 7);
  for (int r = 0; r < 20; ++r) layer.w[size_t(r) * 64] = -2, layer.w[size_t(r) * 64 + 32] = -2;
  PartsOptions options = Base(4, 32, false);
  options.eora.rank = 4;
  LinearParts parts = RunParts(layer, Method::kHqq, options).value();
  EXPECT(parts.error < 1e-6);
  std::fill(layer.w.begin() + 64, layer.w.end(), 0.0f);
  for (int c = 0; c < 64; ++c) layer.w[c] = static_cast<float>(std::sin(c));
  parts = RunParts(layer, Method::kRtn, options).value();
  EXPECT(parts.low_rank.rank >= 1 && parts.error < 1e-6);
  layer = Correlated(20, 64, 6);
  for (int i = 0; i < 64; ++i)
    for (int j = 0; j < 64; ++j) {
      layer.h[size_t(i) * 64 + j] = 0;
      for (const double f : {0.3, 1.1, 2.3}) layer.h[size_t(i) * 64 + j] += static_cast<float>(std::sin(f * i) * std::sin(f * j));
    }
  options.base.bits = 2;
  options.eora.rank = 3;
  parts = RunParts(layer, Method::kRtn, options).value();
  EXPECT(parts.error < 1e-5);
  options.eora.rank = 256;
  EXPECT(RunParts(layer, Method::kRtn, options).value().low_rank.rank <= 20);
}

LOWBIT_TEST(SmoothingIsExactAndWorksWithEveryMethod) {
  const Layer layer = Correlated(40, 96, 61);
  for (const Method method :
       {Method::kRtn, Method::kGptq, Method::kAwq, Method::kHqq, Method::kSpqr, Method::kMixllm, Method::kFinequant}) {
    for (const double alpha : {0.25, 0.5, 1.0}) {
      PartsOptions options = Base(method == Method::kMixllm ? 4 : 8, 32, true);
      options.smooth.alpha = alpha;
      options.mixllm.fraction = 1;
      options.eora.rank = 2;
      const LinearParts parts = RunParts(layer, method, options).value();
      EXPECT(parts.input_scale.size() == 96);
      EXPECT(parts.error < 1e-3);  // eight bits: the scales went into the codes and out again
      CheckParts(layer, parts);
    }
  }
  // Loud channels get small input scales.
  PartsOptions options = Base(8, 32, true);
  options.smooth.alpha = 1;
  const LinearParts parts = RunParts(layer, Method::kRtn, options).value();
  for (int j = 1; j < 96; ++j) {
    const bool louder = layer.h[size_t(j) * 97] > layer.h[0];
    EXPECT(louder == (parts.input_scale[j] < parts.input_scale[0]));
  }
}

LOWBIT_TEST(MethodsDoNotDependOnThreads) {
  const Layer layer = Correlated(150, 96, 8);
  for (const Method method :
       {Method::kRtn, Method::kGptq, Method::kAwq, Method::kHqq, Method::kSpqr, Method::kMixllm, Method::kFinequant}) {
    PartsOptions options = Base(3, 32, false);
    options.eora.rank = 3;
    options.smooth.alpha = 0.5;
    EXPECT(Same(RunParts(layer, method, options, 1).value(), RunParts(layer, method, options, 3).value()));
  }
}

LOWBIT_TEST(MethodsWithoutDataSayWhatTheyDid) {
  Layer layer = Correlated(20, 64, 2);
  for (const Method method : {Method::kAwq, Method::kSpqr, Method::kMixllm, Method::kGptq}) {
    const LinearParts parts = RunParts(layer, method, Base(4, 32, true), 1, false).value();
    EXPECT(parts.fallbacks.size() == 1 && parts.fallbacks[0].find("no calibration token") != std::string::npos);
    EXPECT(std::isfinite(parts.error) && parts.error < 0.1);
  }
  layer.h[7] = std::numeric_limits<float>::quiet_NaN();
  for (const Method method : {Method::kAwq, Method::kSpqr, Method::kMixllm}) {
    const LinearParts parts = RunParts(layer, method, Base(4, 32, true)).value();
    EXPECT(parts.fallbacks.size() == 1 && parts.fallbacks[0].find("not finite") != std::string::npos && std::isfinite(parts.error));
  }
  layer.w[70] = std::numeric_limits<float>::infinity();
  EXPECT_ERROR(RunParts(layer, Method::kHqq, Base(4, 32, true)).status(), Code::kCorruptFile,
               "model.weight holds a value that is not finite at [1, 6]");
}

LOWBIT_TEST(MethodOptionsAreChecked) {
  const Layer layer = Correlated(4, 32, 2);
  const auto fails = [&](Method method, const char* text, void (*change)(PartsOptions*)) {
    PartsOptions options = Base(4, 32, true);
    change(&options);
    EXPECT_ERROR(RunParts(layer, method, options).status(), Code::kInvalidArgument, text);
  };
  fails(Method::kHqq, "Expected 2, 3, 4, 5, 6 or 8 for bits but received 7", [](PartsOptions* o) { o->base.bits = 7; });
  fails(Method::kAwq, "for awq.grid but received 0", [](PartsOptions* o) { o->awq.grid = 0; });
  fails(Method::kAwq, "awq.clip_grid", [](PartsOptions* o) { o->awq.clip_grid = 101; });
  fails(Method::kAwq, "awq.max_shrink", [](PartsOptions* o) { o->awq.max_shrink = std::nan(""); });
  fails(Method::kHqq, "hqq.lp_norm", [](PartsOptions* o) { o->hqq.lp_norm = 0; });
  fails(Method::kHqq, "hqq.beta", [](PartsOptions* o) { o->hqq.beta = -1; });
  fails(Method::kHqq, "hqq.kappa", [](PartsOptions* o) { o->hqq.kappa = 0.5; });
  fails(Method::kHqq, "hqq.iterations", [](PartsOptions* o) { o->hqq.iterations = 1001; });
  fails(Method::kSpqr, "spqr.outlier_threshold", [](PartsOptions* o) { o->spqr.outlier_threshold = std::nan(""); });
  fails(Method::kSpqr, "spqr.max_outliers", [](PartsOptions* o) { o->spqr.max_outliers = 1.5; });
  fails(Method::kSpqr, "damp_percent", [](PartsOptions* o) { o->base.damp_percent = 1; });
  fails(Method::kMixllm, "mixllm.high_bits", [](PartsOptions* o) { o->mixllm.high_bits = 4; });
  fails(Method::kMixllm, "mixllm.fraction", [](PartsOptions* o) { o->mixllm.fraction = 2; });
  fails(Method::kFinequant, "finequant.alpha", [](PartsOptions* o) { o->finequant.alpha = 1; });
  fails(Method::kFinequant, "finequant.min_group", [](PartsOptions* o) { o->finequant.min_group = 16; });
  fails(Method::kRtn, "smooth.alpha", [](PartsOptions* o) { o->smooth.alpha = 1.01; });
  fails(Method::kGptq, "eora.rank", [](PartsOptions* o) { o->eora.rank = 257; });
}

LOWBIT_TEST(WhatAGptqFileHolds) {
  const Layer layer = Correlated(40, 64, 13);
  PartsOptions options = Base(4, 32, true);
  for (const bool sym : {true, false}) {
    for (const bool order : {true, false}) {
      options.base.sym = sym;
      options.base.desc_act = order;
      const QuantizedLinear q = AsGptq("w", RunParts(layer, Method::kGptq, options).value()).value();
      const QuantizedLinear direct = Run(layer, options.base).value();
      EXPECT(q.codes == direct.codes && q.scales == direct.scales && q.zeros == direct.zeros && q.g_idx == direct.g_idx &&
             q.sym == direct.sym);
      EXPECT_NEAR(q.error, direct.error, 1e-5 * direct.error);
    }
  }
  options = Base(4, 32, true);
  const auto refused = [&](Method method, const char* why) {
    EXPECT_ERROR(AsGptq("w", RunParts(layer, method, options).value()).status(), Code::kUnsupported, why);
  };
  refused(Method::kHqq, "minima");
  refused(Method::kAwq, "a scale of its inputs");
  refused(Method::kMixllm, "rows of several widths");
  refused(Method::kSpqr, "format 'lowbit'");
  options.eora.rank = 2;
  refused(Method::kRtn, "a low-rank part");
}

LOWBIT_TEST(EigenvaluesOfSmallMatrices) {
  for (const int n : {1, 2, 5, 40}) {
    std::mt19937 random(n);
    std::vector<double> a(size_t(n) * n);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j <= i; ++j) a[size_t(i) * n + j] = a[size_t(j) * n + i] = Normal(random);
    const SymmetricEigen eigen = EigenSymmetric(a, n);
    for (int i = 0; i < n; ++i) {
      EXPECT(i == 0 || eigen.values[i - 1] >= eigen.values[i]);
      const double* v = eigen.vectors.data() + size_t(i) * n;
      for (int j = 0; j < n; ++j) {
        double product = 0, dot = 0;
        for (int c = 0; c < n; ++c) {
          product += a[size_t(j) * n + c] * v[c];
          dot += eigen.vectors[size_t(j) * n + c] * v[c];
        }
        EXPECT_NEAR(product, eigen.values[i] * v[j], 1e-11);
        EXPECT_NEAR(dot, i == j ? 1.0 : 0.0, 1e-12);
      }
    }
  }
}
