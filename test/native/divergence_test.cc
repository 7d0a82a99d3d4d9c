// test/native: divergences of predictions against sums in double.
#include "engine/divergence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "kernel/chooser.h"
#include "kernel_tables.h"

namespace {

using namespace lowbit;

std::vector<float> Logits(size_t count, uint32_t seed, float spread) {
  std::mt19937 random(seed);
  std::vector<float> logits(count);
  for (float& l : logits) l = spread * (static_cast<float>(random()) / 2147483648.0f - 1) + 17;
  return logits;
}

double Reference(const std::vector<float>& a, const std::vector<float>& b) {
  const auto log_sum = [](const std::vector<float>& x) {
    const double top = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (const float v : x) sum += std::exp(v - top);
    return top + std::log(sum);
  };
  const double za = log_sum(a), zb = log_sum(b);
  double kl = 0;
  for (size_t i = 0; i < a.size(); ++i) kl += std::exp(a[i] - za) * ((a[i] - za) - (b[i] - zb));
  return kl;
}

}  // namespace

LOWBIT_TEST(DivergenceMatchesSumsInDouble) {
  std::vector<float> scratch;
  for (const KernelTable* table : lowbit_test::Tables()) {
    for (const size_t count : {1, 7, 300, 49152}) {
      for (const float spread : {0.1f, 12.0f}) {
        const std::vector<float> a = Logits(count, 1, spread);
        for (const float noise : {0.0f, 0.001f, 0.3f, 5.0f}) {
          std::vector<float> b = Logits(count, 2, noise);
          for (size_t i = 0; i < count; ++i) b[i] += a[i] - 40;  // another level: only differences count
          const Divergence found = Diverge(*table, a, b, &scratch);
          const double expected = Reference(a, b);
          // p and both sums of exponentials carry the error of exp_sum, 2e-6 at most; it meets differences of at most 2 * noise.
          EXPECT_NEAR(found.kl, expected, 4e-6 * (1 + 2 * noise));
          EXPECT(found.same_top == (std::max_element(a.begin(), a.end()) - a.begin() == std::max_element(b.begin(), b.end()) - b.begin()));
        }
        const Divergence same = Diverge(*table, a, a, &scratch);
        EXPECT(same.kl == 0 && same.same_top);
      }
    }
    // A sharp prediction against a flat one, and what is no number must be none afterwards.
    std::vector<float> sharp(1000, 0), flat(1000, 3);
    sharp[321] = 60;
    EXPECT_NEAR(Diverge(*table, sharp, flat, &scratch).kl, std::log(1000.0), 1e-4);
    sharp[7] = std::numeric_limits<float>::quiet_NaN();
    EXPECT(!std::isfinite(Diverge(*table, sharp, flat, &scratch).kl) || !std::isfinite(Diverge(*table, flat, sharp, &scratch).kl));
  }
}
