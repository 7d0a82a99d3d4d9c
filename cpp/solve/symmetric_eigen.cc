// solve/symmetric_eigen: see symmetric_eigen.h.
#include "solve/symmetric_eigen.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace lowbit {
namespace {

constexpr int kMaxSweeps = 30;         // convergence is quadratic: 6 to 10 are normal
constexpr double kNegligible = 1e-15;  // of the diagonal, for the off-diagonal part

// Rows p and q of m [n][n] by the rotation (c, s).
void RotateRows(double* m, size_t n, size_t p, size_t q, double c, double s) {
  double* a = m + p * n;
  double* b = m + q * n;
  for (size_t i = 0; i < n; ++i) {
    const double x = a[i], y = b[i];
    a[i] = c * x - s * y;
    b[i] = s * x + c * y;
  }
}

}  // namespace

SymmetricEigen EigenSymmetric(std::vector<double> a, int count) {
  const size_t n = count;
  std::vector<double> v(n * n, 0);
  for (size_t i = 0; i < n; ++i) v[i * n + i] = 1;
  double norm = 0;
  for (const double x : a) norm += x * x;
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    double off = 0;
    for (size_t p = 0; p < n; ++p)
      for (size_t q = p + 1; q < n; ++q) off += a[p * n + q] * a[p * n + q];
    if (!(off > kNegligible * kNegligible * norm)) break;
    for (size_t p = 0; p < n; ++p) {
      for (size_t q = p + 1; q < n; ++q) {
        const double apq = a[p * n + q];
        if (apq == 0) continue;
        const double tau = (a[q * n + q] - a[p * n + p]) / (2 * apq);
        const double t = (tau >= 0 ? 1 : -1) / (std::fabs(tau) + std::sqrt(1 + tau * tau));
        const double c = 1 / std::sqrt(1 + t * t), s = t * c;
        RotateRows(a.data(), n, p, q, c, s);
        for (size_t i = 0; i < n; ++i) {
          const double x = a[i * n + p], y = a[i * n + q];
          a[i * n + p] = c * x - s * y;
          a[i * n + q] = s * x + c * y;
        }
        RotateRows(v.data(), n, p, q, c, s);
      }
    }
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t x, size_t y) { return a[x * n + x] > a[y * n + y]; });
  SymmetricEigen found;
  for (const size_t i : order) {
    found.values.push_back(a[i * n + i]);
    found.vectors.insert(found.vectors.end(), v.begin() + i * n, v.begin() + (i + 1) * n);
  }
  return found;
}

}  // namespace lowbit
