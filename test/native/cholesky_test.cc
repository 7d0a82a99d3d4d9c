// test/native: the blocked factorisations of solve/ against plain loops in double.
#include "solve/cholesky.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

namespace {

using namespace lowbit;

const int kSizes[] = {1, 7, 64, 65, 128, 129, 200, 385, 576};

// B B^T / n + I with uniform B of variance 1: eigenvalues in about [1, 5].
std::vector<float> PositiveDefinite(int n) {
  std::mt19937 random(n);
  std::vector<float> b(size_t(n) * n), a(size_t(n) * n);
  for (float& v : b) v = (static_cast<float>(random()) / 2147483648.0f - 1) * 1.7320508f;
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = 0;
      for (int s = 0; s < n; ++s) sum += double(b[size_t(i) * n + s]) * b[size_t(j) * n + s];
      a[size_t(i) * n + j] = a[size_t(j) * n + i] = static_cast<float>(sum / n + (i == j));
    }
  }
  return a;
}

std::vector<double> ReferenceCholesky(const std::vector<double>& a, int n) {
  std::vector<double> l(size_t(n) * n, 0);
  for (int j = 0; j < n; ++j) {
    for (int i = j; i < n; ++i) {
      double sum = a[size_t(i) * n + j];
      for (int s = 0; s < j; ++s) sum -= l[size_t(i) * n + s] * l[size_t(j) * n + s];
      l[size_t(i) * n + j] = i == j ? std::sqrt(sum) : sum / l[size_t(j) * n + j];
    }
  }
  return l;
}

std::vector<double> ReferenceInverseLower(const std::vector<double>& l, int n) {
  std::vector<double> x(size_t(n) * n, 0);
  for (int j = 0; j < n; ++j) {
    for (int i = j; i < n; ++i) {
      double sum = i == j;
      for (int s = j; s < i; ++s) sum -= l[size_t(i) * n + s] * x[size_t(s) * n + j];
      x[size_t(i) * n + j] = sum / l[size_t(i) * n + i];
    }
  }
  return x;
}

double Worst(const std::vector<float>& actual, const std::vector<double>& expected) {
  double worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::fabs(actual[i] - expected[i]);
    if (!(difference <= worst)) worst = difference;  // NaN sticks
  }
  return worst;
}

// Entries are of order 1 and the condition is about 5: sums of n terms of f32 rounding, with a margin of 4.
double Tolerance(int n) { return 4 * 5 * std::sqrt(double(n) + 8) * std::ldexp(1, -24); }

}  // namespace

LOWBIT_TEST(CholeskyMatchesDouble) {
  for (const int n : kSizes) {
    std::vector<float> a = PositiveDefinite(n);
    const std::vector<double> expected = ReferenceCholesky(std::vector<double>(a.begin(), a.end()), n);
    for (int i = 0; i < n; ++i)
      for (int j = i + 1; j < n; ++j) a[size_t(i) * n + j] = std::numeric_limits<float>::quiet_NaN();  // never read
    Pool pool(2);
    EXPECT(Cholesky(a.data(), n, *RefKernels(), pool) == -1);
    EXPECT_NEAR(Worst(a, expected), 0, Tolerance(n));
    const std::vector<double> inverse = ReferenceInverseLower(expected, n);
    InvertLower(a.data(), n, *RefKernels(), pool);
    EXPECT_NEAR(Worst(a, inverse), 0, Tolerance(n));
  }
}

LOWBIT_TEST(InverseFactorMatchesDouble) {
  for (const int n : kSizes) {
    const std::vector<float> h = PositiveDefinite(n);
    // The published way: L L^T = H, H^-1 = L^-T L^-1, U = upper factor of H^-1.
    const std::vector<double> x = ReferenceInverseLower(ReferenceCholesky(std::vector<double>(h.begin(), h.end()), n), n);
    std::vector<double> inverse(size_t(n) * n, 0);
    for (int s = 0; s < n; ++s)
      for (int i = 0; i <= s; ++i)
        for (int j = 0; j <= s; ++j) inverse[size_t(i) * n + j] += x[size_t(s) * n + i] * x[size_t(s) * n + j];
    const std::vector<double> lower = ReferenceCholesky(inverse, n);
    std::vector<double> expected(size_t(n) * n);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) expected[size_t(i) * n + j] = lower[size_t(j) * n + i];
    std::vector<float> u = h;
    Pool pool(1);
    EXPECT(InverseFactor(u.data(), n, *RefKernels(), pool) == -1);
    EXPECT_NEAR(Worst(u, expected), 0, Tolerance(n));
  }
}

LOWBIT_TEST(CholeskyNamesTheFailingColumn) {
  Pool pool(1);
  for (const int n : {5, 70, 300}) {
    for (const int bad : {0, n / 2, n - 1}) {
      for (const float pivot : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        std::vector<float> a(size_t(n) * n, 0);
        for (int i = 0; i < n; ++i) a[size_t(i) * n + i] = i == bad ? pivot : 2.0f;
        EXPECT(Cholesky(a.data(), n, *RefKernels(), pool) == bad);
      }
    }
  }
  std::vector<float> ones(200 * 200, 1);  // rank one
  EXPECT(Cholesky(ones.data(), 200, *RefKernels(), pool) == 1);
}

LOWBIT_TEST(InverseFactorDoesNotDependOnThreads) {
  const int n = 400;
  std::vector<float> a = PositiveDefinite(n), b = a;
  Pool one(1), three(3);
  EXPECT(InverseFactor(a.data(), n, *RefKernels(), one) == -1);
  EXPECT(InverseFactor(b.data(), n, *RefKernels(), three) == -1);
  EXPECT(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}
