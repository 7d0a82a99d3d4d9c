// test/native: solve/hessian against sums in double, and what happens to rows that are not finite.
#include "solve/hessian.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/half.h"
#include "check.h"
#include "kernel/chooser.h"

namespace {

using namespace lowbit;

std::vector<float> Values(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> x(count);
  for (float& v : x) v = static_cast<float>(random()) / 2147483648.0f - 1 + 0.25f;
  return x;
}

// Feeds x in parts of the given sizes and finishes.
Hessian Accumulate(const std::vector<float>& x, size_t ldx, int k, const std::vector<int>& parts, Pool& pool,
                   const KernelTable& kernels = *RefKernels(), bool bf16 = false, TokenWeights weights = TokenWeights::kMagnitude) {
  Hessian hessian = std::move(Hessian::Create(k, "test", bf16, weights).value());
  const float* next = x.data();
  for (const int tokens : parts) {
    EXPECT(hessian.Add(next, ldx, tokens, kernels, pool).ok());
    next += tokens * ldx;
  }
  hessian.Finish(pool);
  return hessian;
}

// bf16: the reference is the product of the rounded inputs, which are exact factors; then only the sums are rounded.
void CompareWithDouble(int k, size_t ldx, const std::vector<int>& parts, const KernelTable& kernels = *RefKernels(), bool bf16 = false,
                       float massive = 1) {
  int tokens = 0;
  for (const int part : parts) tokens += part;
  std::vector<float> x = Values(tokens * ldx, 7 + k);
  for (int t = 0; t < tokens; t += 64) x[t * ldx + size_t(k) / 2] *= massive;
  Pool pool(2);
  const Hessian hessian = Accumulate(x, ldx, k, parts, pool, kernels, bf16);
  if (bf16)
    for (float& v : x) v = Bfloat16ToFloat(FloatToBfloat16(v));
  EXPECT(hessian.tokens() == tokens && hessian.dropped_rows() == 0);
  int wrong = 0, unsymmetric = 0;
  for (int i = 0; i < k; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = 0, magnitude = 0;
      for (int t = 0; t < tokens; ++t) {
        const double product = double(x[t * ldx + i]) * x[t * ldx + j];
        sum += product;
        magnitude += std::fabs(product);
      }
      // Sums of at most 256 products, then at most tokens/256 + parts partial sums: first-order bound on f32 rounding.
      const double roundings = 256 + tokens / 256.0 + double(parts.size()) + 4;
      const double tolerance = 2.0 / tokens * magnitude * roundings * std::ldexp(1, -24);
      const double actual = hessian.data()[size_t(i) * k + j];
      wrong += !(std::fabs(actual - 2.0 / tokens * sum) <= tolerance);
      unsymmetric += !(hessian.data()[size_t(j) * k + i] == hessian.data()[size_t(i) * k + j]);
    }
  }
  EXPECT(wrong == 0);
  EXPECT(unsymmetric == 0);
}

}  // namespace

LOWBIT_TEST(HessianMatchesDouble) {
  CompareWithDouble(1, 1, {1});
  CompareWithDouble(7, 9, {3, 1});
  CompareWithDouble(16, 16, {31});
  CompareWithDouble(17, 17, {257, 5});
  CompareWithDouble(100, 100, {64});
  CompareWithDouble(130, 133, {1100, 3, 900});
  CompareWithDouble(300, 300, {40});
}

// The widest table of this machine; every test of bf16 sums is empty where it has none.
const KernelTable& Fastest() { return *ChooseKernels("").value(); }

LOWBIT_TEST(Bf16HessianMatchesDouble) {
  if (Fastest().gemm_bf16 == nullptr) return;
  CompareWithDouble(1, 1, {1}, Fastest(), true);
  CompareWithDouble(7, 9, {3, 1}, Fastest(), true);
  CompareWithDouble(17, 17, {257, 5}, Fastest(), true);
  CompareWithDouble(100, 100, {64}, Fastest(), true);
  CompareWithDouble(300, 303, {1100, 3, 900}, Fastest(), true);
  CompareWithDouble(1030, 1030, {70}, Fastest(), true);
  // A first token 10,000 times the rest in one column: nothing overflows, the other columns keep their precision.
  CompareWithDouble(130, 130, {512, 512}, Fastest(), true, 1e4f);
}

// Rounding to bf16 moves an input by at most 2^-8 of itself, so an element by at most (2^-7 + 2^-16) |x_i| . |x_j|.
LOWBIT_TEST(Bf16HessianIsCloseToTheExactOne) {
  if (Fastest().gemm_bf16 == nullptr) return;
  const int k = 200, tokens = 700;
  std::vector<float> x = Values(size_t(k) * tokens, 17);
  for (int t = 0; t < tokens; t += 100) x[size_t(t) * k + 3] = 9000;
  Pool pool(2);
  const Hessian exact = Accumulate(x, k, k, {tokens}, pool, Fastest()), rounded = Accumulate(x, k, k, {tokens}, pool, Fastest(), true);
  int wrong = 0;
  for (int i = 0; i < k; ++i)
    for (int j = 0; j < k; ++j) {
      double magnitude = 0;
      for (int t = 0; t < tokens; ++t) magnitude += std::fabs(double(x[size_t(t) * k + i]) * x[size_t(t) * k + j]);
      const double difference = double(exact.data()[size_t(i) * k + j]) - rounded.data()[size_t(i) * k + j];
      wrong += !(std::fabs(difference) <= 2.0 / tokens * magnitude * (std::ldexp(1, -7) + std::ldexp(1, -16) + std::ldexp(600, -24)));
    }
  EXPECT(wrong == 0);
}

LOWBIT_TEST(HessianDropsRowsThatAreNotFinite) {
  const int k = 20, tokens = 12;
  std::vector<float> x = Values(size_t(k) * tokens, 3);
  std::vector<float> clean;
  x[2 * k + 5] = std::numeric_limits<float>::quiet_NaN();
  x[7 * k] = std::numeric_limits<float>::infinity();
  x[11 * k + 19] = -std::numeric_limits<float>::infinity();
  for (int t = 0; t < tokens; ++t)
    if (t != 2 && t != 7 && t != 11) clean.insert(clean.end(), x.begin() + t * k, x.begin() + (t + 1) * k);
  Pool pool(1);
  const Hessian with = Accumulate(x, k, k, {tokens}, pool), without = Accumulate(clean, k, k, {tokens - 3}, pool);
  EXPECT(with.tokens() == tokens - 3);
  EXPECT(with.dropped_rows() == 3);
  EXPECT(std::memcmp(with.data(), without.data(), size_t(k) * k * sizeof(float)) == 0);

  std::vector<float> bad(k, std::numeric_limits<float>::quiet_NaN());
  const Hessian none = Accumulate(bad, k, k, {1}, pool);
  EXPECT(none.tokens() == 0 && none.dropped_rows() == 1);
  EXPECT(none.data()[0] == 0);
}

LOWBIT_TEST(HessianDoesNotDependOnThreads) {
  const int k = 290, tokens = 500;
  const std::vector<float> x = Values(size_t(k) * tokens, 5);
  Pool one(1), three(3);
  const auto same = [&](const KernelTable& kernels, bool bf16) {
    const Hessian a = Accumulate(x, k, k, {tokens}, one, kernels, bf16), b = Accumulate(x, k, k, {tokens}, three, kernels, bf16);
    return std::memcmp(a.data(), b.data(), size_t(k) * k * sizeof(float)) == 0;
  };
  EXPECT(same(*RefKernels(), false));
  EXPECT(same(Fastest(), Fastest().gemm_bf16 != nullptr));
}

LOWBIT_TEST(HessianRefusesMisuse) {
  EXPECT_ERROR(Hessian::Create(0, "layer.0").status(), Code::kInvalidArgument, "layer.0 but received 0");
  EXPECT_ERROR(Hessian::Create(1 << 20, "layer.0").status(), Code::kInvalidArgument, "layer.0");
  Pool pool(1);
  const float x[1] = {1};
  Hessian hessian = Accumulate({1}, 1, 1, {1}, pool);
  EXPECT(hessian.data()[0] == 2);
  EXPECT_ERROR(hessian.Add(x, 1, 1, *RefKernels(), pool), Code::kInternal, "after Finish");
  Hessian bf16 = std::move(Hessian::Create(1, "layer.0", true).value());
  EXPECT_ERROR(bf16.Add(x, 1, 1, *RefKernels(), pool), Code::kInternal, "ref have no bf16 products");
}

LOWBIT_TEST(EqualTokensAreThoseOfScaledRows) {
  const int k = 37, tokens = 1500;  // more than a chunk
  std::vector<float> x = Values(size_t(tokens) * k, 3);
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < k; ++j) x[size_t(t) * k + j] *= t % 512 == 0 ? 5000.0f : 0.01f * float(1 + t % 7);
  std::fill(x.begin() + 40 * k, x.begin() + 41 * k, 0.0f);         // a row of zeros
  x[size_t(90) * k + 5] = std::numeric_limits<float>::infinity();  // left out
  std::vector<float> scaled;
  for (int t = 0; t < tokens; ++t) {
    double square = 0;
    for (int j = 0; j < k; ++j) square += double(x[size_t(t) * k + j]) * x[size_t(t) * k + j] / k;
    for (int j = 0; j < k && t != 90; ++j) scaled.push_back(static_cast<float>(square > 0 ? x[size_t(t) * k + j] / std::sqrt(square) : 0));
  }
  Pool one(1), three(3);
  const Hessian equal = Accumulate(x, k, k, {700, 800}, three, *RefKernels(), false, TokenWeights::kEqual);
  const Hessian same = Accumulate(x, k, k, {700, 800}, one, *RefKernels(), false, TokenWeights::kEqual);
  const Hessian expected = Accumulate(scaled, k, k, {tokens - 1}, one);
  EXPECT(equal.tokens() == tokens - 1 && equal.dropped_rows() == 1);
  for (int i = 0; i < k * k; ++i) {
    EXPECT_NEAR(equal.data()[i], expected.data()[i], 1e-5 * 2 * k);  // a trace of 2k, summed in another order
    EXPECT(equal.data()[i] == same.data()[i]);
  }
}
