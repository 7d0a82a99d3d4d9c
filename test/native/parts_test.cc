// test/native: linears of several parts (row subsets, low rank, sparse, input scales) against plain loops over the numbers they were
// packed from.
#include <algorithm>
#include <cmath>
#include <random>

#include "base/cpu.h"
#include "check.h"
#include "kernel/chooser.h"
#include "plan/executor.h"
#include "quantize/pack_parts.h"
#include "random_parts.h"

using namespace lowbit;
using lowbit_test::PartsShape;
using lowbit_test::RandomCodes;
using lowbit_test::RandomLinear;

namespace {

// [n][k], from the numbers alone.
std::vector<double> Dense(const LinearParts& linear) {
  const size_t k = static_cast<size_t>(linear.k);
  std::vector<double> w(static_cast<size_t>(linear.n) * k);
  for (const AffineCodes& a : linear.affine) {
    const size_t count = a.codes.size() / k;
    for (size_t i = 0; i < count; ++i)
      for (size_t c = 0; c < k; ++c) {
        const size_t g = i * static_cast<size_t>(a.groups) + c / static_cast<size_t>(a.group_size);
        const double code = a.codes[i * k + c], scale = static_cast<double>(a.scales[g]);
        const double value = a.affine == AffineKind::kMinimum     ? scale * code + static_cast<double>(a.seconds[g])
                             : a.affine == AffineKind::kZeroPoint ? scale * (code - static_cast<double>(a.seconds[g]))
                                                                  : scale * (code - (1 << (a.bits - 1)));
        w[(a.rows.empty() ? i : static_cast<size_t>(a.rows[i])) * k + c] += value;
      }
  }
  const size_t rank = static_cast<size_t>(linear.low_rank.rank);
  for (size_t r = 0; r < static_cast<size_t>(linear.n); ++r) {
    for (size_t i = 0; i < rank; ++i)
      for (size_t c = 0; c < k; ++c)
        w[r * k + c] += static_cast<double>(linear.low_rank.b[r * rank + i]) * static_cast<double>(linear.low_rank.a[i * k + c]);
    if (linear.sparse.row_offsets.empty()) continue;
    for (int32_t i = linear.sparse.row_offsets[r]; i < linear.sparse.row_offsets[r + 1]; ++i)
      w[r * k + static_cast<size_t>(linear.sparse.columns[static_cast<size_t>(i)])] +=
          static_cast<double>(linear.sparse.values[static_cast<size_t>(i)]);
  }
  if (!linear.input_scale.empty())
    for (size_t i = 0; i < w.size(); ++i) w[i] *= static_cast<double>(linear.input_scale[i % k]);
  return w;
}

// Two linears on one input: the first with a bias, the second added to what is there. Returns the outputs [rows][2 n], computed in
// batches of `step` rows.
std::vector<float> Run(const LinearParts linears[2], const std::vector<float>& bias, const std::vector<float>& x,
                       const std::vector<float>& y0, int rows, int step, const KernelTable& kernels, int threads, bool fast) {
  const int n = linears[0].n, k = linears[0].k;
  Plan plan;
  plan.vocab_size = 1;
  plan.hidden_size = k;
  plan.max_seq_len = 64;
  plan.buffers = {{"x", k}, {"y", 2 * n}};
  plan.weights = {{"a", n, k, 0}, {"b", n, k, -1}};
  plan.vectors = {{"bias", n}};
  Op op;
  op.kind = OpKind::kLinear;
  op.in = {0, 0, k};
  op.outputs = {{0, {1, 0, n}, false}, {1, {1, n, n}, true}};
  plan.ops = {op};
  plan.blocks = {{0, 1}};
  plan.epilogue = {1, 1};
  Pool pool(threads);
  Bindings bindings;
  bindings.vectors = {bias};
  for (int i = 0; i < 2; ++i) {
    auto parts = PackParts("w", linears[i]);
    if (!EXPECT(parts.ok())) return {};
    bindings.weights.push_back(std::move(parts.value()));
  }
  auto executor = Executor::Create(plan, bindings, kernels, pool, fast, step, 1);
  if (!EXPECT(executor.ok())) return {};
  std::vector<float> out(y0);
  for (int begin = 0; begin < rows; begin += step) {
    Batch batch;
    batch.rows = std::min(step, rows - begin);
    batch.segments = {{0, 0, batch.rows, 0}};
    EXPECT(executor.value()->Begin(batch).ok());
    for (int r = 0; r < batch.rows; ++r) {
      std::copy_n(x.data() + static_cast<size_t>(begin + r) * static_cast<size_t>(k), k, executor.value()->Row({0, 0, k}, r));
      std::copy_n(y0.data() + static_cast<size_t>(begin + r) * static_cast<size_t>(2 * n), 2 * n, executor.value()->Row({1, 0, 2 * n}, r));
    }
    EXPECT(executor.value()->Run({0, 1}, nullptr, nullptr).ok());
    for (int r = 0; r < batch.rows; ++r)
      std::copy_n(executor.value()->Row({1, 0, 2 * n}, r), 2 * n, out.data() + static_cast<size_t>(begin + r) * static_cast<size_t>(2 * n));
  }
  return out;
}

// Largest |actual - expected| over the sum of |w x| of that output, which rounding errors are in proportion to.
double Worst(const std::vector<float>& actual, const LinearParts linears[2], const std::vector<float>& bias, const std::vector<float>& x,
             const std::vector<float>& y0, int rows) {
  const size_t n = static_cast<size_t>(linears[0].n), k = static_cast<size_t>(linears[0].k);
  const std::vector<double> w[2] = {Dense(linears[0]), Dense(linears[1])};
  double worst = 0;
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r)
    for (size_t o = 0; o < 2 * n; ++o) {
      const size_t row = o % n;
      double sum = o < n ? static_cast<double>(bias[row]) : static_cast<double>(y0[r * 2 * n + o]), magnitude = std::fabs(sum);
      for (size_t c = 0; c < k; ++c) {
        const double term = w[o / n][row * k + c] * static_cast<double>(x[r * k + c]);
        sum += term;
        magnitude += std::fabs(term);
      }
      const double error = std::fabs(static_cast<double>(actual[r * 2 * n + o]) - sum) / magnitude;
      if (!(error <= worst)) worst = error;
    }
  return worst;
}

std::vector<float> Normal(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

const PartsShape kShapes[] = {
    {37, 96, 32, 0, true, false, false, false},   {100, 64, 64, 5, false, false, false, false}, {50, 160, 16, 0, false, true, false, true},
    {64, 128, 128, 0, false, false, true, true},  {75, 256, 32, 9, true, true, true, true},     {700, 96, 32, 32, true, true, true, false},
    {21, 3200, 16, 0, false, true, false, false},
};

}  // namespace

LOWBIT_TEST(PartsOfALinearAddUp) {
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    const auto kernels = ChooseKernels(IsaName(candidate.isa));
    for (const PartsShape& s : kShapes) {
      const LinearParts linears[2] = {RandomLinear(s, 11), RandomLinear(s, 12)};
      const int rows = 40;
      const std::vector<float> bias = Normal(static_cast<size_t>(s.n), 1), x = Normal(static_cast<size_t>(rows * s.k), 2),
                               y0 = Normal(static_cast<size_t>(rows * 2 * s.n), 3);
      for (const int step : {1, 7, 16, 17, 40}) {
        // Sums of up to 256 terms in f32, two deep. The fast path rounds an input by up to 1/254 of the largest of 32, which is three to
        // four times their mean magnitude, and factors to bf16.
        EXPECT_NEAR(Worst(Run(linears, bias, x, y0, rows, step, *kernels.value(), 2, false), linears, bias, x, y0, rows), 0, 3e-6);
        EXPECT_NEAR(Worst(Run(linears, bias, x, y0, rows, step, *kernels.value(), 2, true), linears, bias, x, y0, rows), 0, 1.5e-2);
      }
    }
  }
}

// The bits of a row do not depend on threads nor, up to sixteen rows, on its company.
LOWBIT_TEST(PartsOfALinearAreReproducible) {
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    const auto kernels = ChooseKernels(IsaName(candidate.isa));
    for (const PartsShape& s : kShapes) {
      const LinearParts linears[2] = {RandomLinear(s, 11), RandomLinear(s, 12)};
      const int rows = 32;
      const std::vector<float> bias = Normal(static_cast<size_t>(s.n), 1), x = Normal(static_cast<size_t>(rows * s.k), 2),
                               y0 = Normal(static_cast<size_t>(rows * 2 * s.n), 3);
      for (const bool fast : {false, true}) {
        const auto expected = Run(linears, bias, x, y0, rows, 1, *kernels.value(), 1, fast);
        if (fast) EXPECT(Run(linears, bias, x, y0, rows, 16, *kernels.value(), 3, fast) == expected);
        EXPECT(Run(linears, bias, x, y0, rows, 1, *kernels.value(), 4, fast) == expected);
        EXPECT(Run(linears, bias, x, y0, rows, 32, *kernels.value(), 4, fast) ==
               Run(linears, bias, x, y0, rows, 32, *kernels.value(), 1, fast));
      }
    }
  }
}

// Parts of several widths quantise their input once, for all of them. Each part must give the bits that it gives alone.
LOWBIT_TEST(PartsOfSeveralWidthsAsEachAlone) {
  struct Own {
    int bits, group_size;
    AffineKind kind;
  };
  const std::vector<Own> mixtures[] = {
      {{4, 32, AffineKind::kSymmetric}, {8, 32, AffineKind::kSymmetric}},  // MixLLM
      {{8, 96, AffineKind::kSymmetric}, {4, 32, AffineKind::kZeroPoint}},  // the wide one first; a part without starts
      {{4, 32, AffineKind::kMinimum}, {3, 16, AffineKind::kSymmetric}, {6, 32, AffineKind::kSymmetric}},  // groups of 16 beside 32
      {{5, 160, AffineKind::kSymmetric}, {2, 16, AffineKind::kSymmetric}, {8, 32, AffineKind::kSymmetric}, {5, 32, AffineKind::kSymmetric}},
  };
  const int n = 75, k = 160, rows = 21;
  const std::vector<float> x = Normal(static_cast<size_t>(rows * k), 2), bias = Normal(n, 1), y0 = Normal(rows * 2 * n, 3);
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    const auto kernels = ChooseKernels(IsaName(candidate.isa));
    for (const auto& mixture : mixtures) {
      std::mt19937 random(7);
      LinearParts linears[2];
      std::vector<std::vector<int32_t>> owned(mixture.size());
      for (int32_t r = 0; r < n; ++r) owned[random() % mixture.size()].push_back(r);
      for (LinearParts& linear : linears) {
        linear.n = n;
        linear.k = k;
        for (size_t p = 0; p < mixture.size(); ++p) {
          const auto& [bits, group_size, kind] = mixture[p];
          linear.affine.push_back(RandomCodes(random, owned[p], static_cast<int>(owned[p].size()), k, bits, group_size, kind));
        }
      }
      for (const int step : {1, 5, rows}) {
        const auto together = Run(linears, bias, x, y0, rows, step, *kernels.value(), 2, true);
        bool same = !together.empty();
        for (size_t p = 0; p < mixture.size() && same; ++p) {
          const size_t count = owned[p].size();
          LinearParts alone[2];
          std::vector<float> own_bias, own_y0(static_cast<size_t>(rows) * 2 * count);
          const auto at = [&](size_t r, size_t i) { return r * 2 * n + i / count * n + static_cast<size_t>(owned[p][i % count]); };
          for (int i = 0; i < 2; ++i) {
            alone[i].n = static_cast<int>(count);
            alone[i].k = k;
            alone[i].affine = {linears[i].affine[p]};
            alone[i].affine[0].rows.clear();
          }
          for (const int32_t row : owned[p]) own_bias.push_back(bias[static_cast<size_t>(row)]);
          for (size_t i = 0; i < own_y0.size(); ++i) own_y0[i] = y0[at(i / (2 * count), i % (2 * count))];
          const auto expected = Run(alone, own_bias, x, own_y0, rows, step, *kernels.value(), 1, true);
          for (size_t i = 0; i < own_y0.size(); ++i) same = same && together[at(i / (2 * count), i % (2 * count))] == expected[i];
        }
        EXPECT(same);
      }
    }
  }
}

LOWBIT_TEST(SumOfPartsIsTheirSum) {
  for (const PartsShape& s : kShapes) {
    const LinearParts linear = RandomLinear(s, 5);
    const auto parts = PackParts("w", linear);
    if (!EXPECT(parts.ok())) continue;
    const std::vector<float> sum = SumOfParts(parts.value(), s.n, s.k, RefKernels()->unpack_panel);
    const std::vector<double> expected = Dense(linear);
    double worst = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double error = std::fabs(static_cast<double>(sum[i]) - expected[i]);
      if (!(error <= worst)) worst = error;
    }
    EXPECT_NEAR(worst, 0, 1e-5);
  }
}

LOWBIT_TEST(PartsThatDoNotFitAreRefused) {
  const PartsShape s = {37, 96, 32, 4, true, true, true, false};
  const LinearParts good = RandomLinear(s, 1);
  EXPECT(PackParts("w", good).ok());
  LinearParts bad = good;
  bad.affine[0].rows[1] = bad.affine[0].rows[0];
  EXPECT_ERROR(PackParts("w", bad).status(), Code::kInvalidArgument, "rows must rise");
  bad = good;
  bad.affine.pop_back();
  EXPECT_ERROR(PackParts("w", bad).status(), Code::kInvalidArgument, "belongs to no affine part");
  bad = good;
  bad.input_scale[5] = 0;
  EXPECT_ERROR(PackParts("w", bad).status(), Code::kInvalidArgument, "positive finite input scales");
  bad = good;
  bad.low_rank.a[3] = 1e9f;
  EXPECT_ERROR(PackParts("w", bad).status(), Code::kInvalidArgument, "f16 holds exactly");
  bad = good;
  bad.low_rank.rank = 38;
  bad.low_rank.a.resize(38 * 96);
  bad.low_rank.b.resize(38 * 37);
  EXPECT_ERROR(PackParts("w", bad).status(), Code::kInvalidArgument, "between 1 and 37 for the rank");
  bad = good;
  bad.sparse.columns[0] = 96;
  EXPECT_ERROR(PackParts("w", bad).status(), Code::kCorruptFile, "stay below 96");
  bad = good;
  bad.sparse.row_offsets[4] = 1 << 30;
  EXPECT_ERROR(PackParts("w", bad).status(), Code::kCorruptFile, "fall at row 3");
  bad = good;
  bad.sparse.row_offsets.pop_back();
  EXPECT_ERROR(PackParts("w", bad).status(), Code::kCorruptFile, "do not lead from 0");
}
