// test/native: solve/hessian against sums in double, and what happens to rows that are not finite.
#include "solve/hessian.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

namespace {

using namespace lowbit;

std::vector<float> Values(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> x(count);
  for (float& v : x) v = static_cast<float>(random()) / 2147483648.0f - 1 + 0.25f;
  return x;
}

// Feeds x in parts of the given sizes and finishes.
Hessian Accumulate(const std::vector<float>& x, size_t ldx, int k, const std::vector<int>& parts, Pool& pool) {
  Hessian hessian = std::move(Hessian::Create(k, "test").value());
  const float* next = x.data();
  for (const int tokens : parts) {
    EXPECT(hessian.Add(next, ldx, tokens, *RefKernels(), pool).ok());
    next += tokens * ldx;
  }
  hessian.Finish();
  return hessian;
}

void CompareWithDouble(int k, size_t ldx, const std::vector<int>& parts) {
  int tokens = 0;
  for (const int part : parts) tokens += part;
  const std::vector<float> x = Values(tokens * ldx, 7 + k);
  Pool pool(2);
  const Hessian hessian = Accumulate(x, ldx, k, parts, pool);
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
  const Hessian a = Accumulate(x, k, k, {tokens}, one), b = Accumulate(x, k, k, {tokens}, three);
  EXPECT(std::memcmp(a.data(), b.data(), size_t(k) * k * sizeof(float)) == 0);
}

LOWBIT_TEST(HessianRefusesMisuse) {
  EXPECT_ERROR(Hessian::Create(0, "layer.0").status(), Code::kInvalidArgument, "layer.0 but received 0");
  EXPECT_ERROR(Hessian::Create(1 << 20, "layer.0").status(), Code::kInvalidArgument, "layer.0");
  Pool pool(1);
  const float x[1] = {1};
  Hessian hessian = Accumulate({1}, 1, 1, {1}, pool);
  EXPECT(hessian.data()[0] == 2);
  EXPECT_ERROR(hessian.Add(x, 1, 1, *RefKernels(), pool), Code::kInternal, "after Finish");
}
