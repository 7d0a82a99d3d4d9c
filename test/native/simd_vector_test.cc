// test/native: the element-wise functions and reductions of every kernel table against double precision.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "base/half.h"
#include "check.h"
#include "kernel/kernel.h"
#include "kernel_tables.h"

using namespace lowbit;
using namespace lowbit_test;

namespace {

// Lengths around one vector, and enough for every unrolled loop and its tail.
const size_t kLengths[] = {1, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130, 577};

// Applies fn(x, y, count), y being an output or the in-place operand, at every length; compares with expected(i), relative.
void CheckElementwise(const KernelTable& t, const char* what, const std::vector<float>& x, double relative,
                      const std::function<void(const float*, float*, size_t)>& fn, const std::function<double(double)>& expected) {
  for (const size_t count : kLengths) {
    for (size_t start = 0; start + count <= x.size(); start += count * 3 + 1) {
      std::vector<float> y(x.begin() + long(start), x.begin() + long(start + count));
      y.push_back(kGuard);
      fn(x.data() + start, y.data(), count);
      for (size_t i = 0; i < count; ++i) {
        const double value = expected(double(x[start + i]));
        // below the normal range floats have no relative precision left
        if (Close(double(y[i]), value, relative * std::fabs(value) + 3e-45)) continue;
        Report(false, t, std::string(what) + " of " + std::to_string(x[start + i]) + " gave " + std::to_string(y[i]));
        return;
      }
      Report(y[count] == kGuard, t, std::string(what) + " wrote behind its end");
    }
  }
}

// Dense in the range where things happen, sparse and large beyond.
std::vector<float> Arguments(std::mt19937& random, float range) {
  std::vector<float> x = {0.0f, -0.0f, 1e-30f, -1e-30f, 0.6f, -0.6f, 0.59999996f, 88.0f, -86.0f, -87.5f, 1.0f, -1.0f};
  for (int i = 0; i < 6000; ++i) x.push_back(Uniform(random) * (i % 4 == 0 ? range : i % 4 == 1 ? range / 100 : 6.0f));
  return x;
}

}  // namespace

LOWBIT_TEST(simd_activations) {
  std::mt19937 random(78);
  for (const KernelTable* t : Tables()) {
    // kernel/ref works in plain float, whose left tails cancel; the fast tables promise 1e-6 of the value everywhere
    const bool ref = t == RefKernels();
    const std::vector<float> ones(600, 1.0f), x = Arguments(random, 80.0f);
    std::vector<float> gelu = Arguments(random, 6.0f);
    for (float& v : gelu) v = std::max(v, ref ? -1.0f : -12.0f);  // below, the result leaves the normal range
    CheckElementwise(
        *t, "silu", x, 1e-6, [&](const float* g, float* y, size_t n) { t->silu_mul(g, ones.data(), y, n); },
        [](double v) { return v / (1 + std::exp(-v)); });
    CheckElementwise(
        *t, "gelu_tanh", gelu, ref ? 5e-6 : 1e-6, [&](const float* g, float* y, size_t n) { t->gelu_tanh_mul(g, ones.data(), y, n); },
        // 0.5 v (1 + tanh u) without its cancellation
        [](double v) { return v / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))); });
    for (const float cap : {30.0f, 50.0f}) {
      CheckElementwise(
          *t, "softcap", x, 1e-6, [&](const float*, float* y, size_t n) { t->softcap(y, n, cap); },
          [&](double v) { return double(cap) * std::tanh(v / double(cap)); });
    }
    CheckElementwise(
        *t, "exp", x, 3e-7, [&](const float*, float* y, size_t n) { t->exp_sum(y, n, 0.0f); }, [](double v) { return std::exp(v); });
    // gate and up are really multiplied, and y may be up
    std::vector<float> gate = RandomVector(random, 37), up = RandomVector(random, 37), product = up;
    t->silu_mul(gate.data(), product.data(), product.data(), 37);
    for (size_t i = 0; i < 37; ++i) EXPECT_NEAR(product[i], double(gate[i]) / (1 + std::exp(-double(gate[i]))) * double(up[i]), 1e-6);
  }
}

LOWBIT_TEST(simd_exp_sum) {
  std::mt19937 random(79);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const KernelTable* t : Tables()) {
    for (const size_t count : kLengths) {
      std::vector<float> x = RandomVector(random, count, 9), logits = x;
      const float maximum = t->max(x.data(), count);
      EXPECT(maximum == *std::max_element(x.begin(), x.end()));
      double sum = 0;
      for (const float v : x) sum += std::exp(double(v) - double(maximum));
      // v - maximum is rounded (|v| <= 18), the sum has `count` terms
      EXPECT_NEAR(t->exp_sum(x.data(), count, maximum), sum, sum * (3e-7 + (18 + double(count)) * kEps));
      const float first = t->exp_sum(logits.data(), count, maximum);
      double written = 0;
      for (const float v : logits) written += double(v);
      EXPECT_NEAR(first, written, sum * (double(count) + 2) * kEps);
    }
    // masked positions: zero, never NaN; far below the maximum: zero
    std::vector<float> masked(19, -infinity);
    masked[3] = 2;
    masked[18] = -1e30f;
    EXPECT(t->exp_sum(masked.data(), masked.size(), 2) == 1.0f);
    for (size_t i = 0; i < masked.size(); ++i) EXPECT(masked[i] == (i == 3 ? 1.0f : 0.0f));
    std::vector<float> broken = {0, 1, std::nanf(""), 2};
    EXPECT(std::isnan(t->exp_sum(broken.data(), broken.size(), 2)));
    EXPECT(std::isnan(broken[2]) && !std::isnan(broken[1]));
    for (size_t at = 0; at < 70; ++at) {
      std::vector<float> x(70, -3.0f);
      x[at] = -2.0f;
      EXPECT(t->max(x.data(), x.size()) == -2.0f);
    }
  }
}

LOWBIT_TEST(simd_vectors) {
  std::mt19937 random(80);
  for (const KernelTable* t : Tables()) {
    for (const size_t count : kLengths) {
      const std::vector<float> a = RandomVector(random, count, 3), b = RandomVector(random, count, 3);
      std::vector<float> y(count + 1, kGuard);
      t->add(a.data(), b.data(), y.data(), count);
      for (size_t i = 0; i < count; ++i) EXPECT(y[i] == a[i] + b[i]);
      EXPECT(y[count] == kGuard);
      std::copy(a.begin(), a.end(), y.begin());
      t->scale(y.data(), y.data(), count, 0.3f);
      for (size_t i = 0; i < count; ++i) EXPECT(y[i] == a[i] * 0.3f);
      EXPECT(y[count] == kGuard);

      double squares = 0;
      for (const float v : a) squares += double(v) * double(v);
      const double factor = 1 / std::sqrt(squares / double(count) + 1e-5);
      std::copy(a.begin(), a.end(), y.begin());
      t->rms_norm(y.data(), b.data(), y.data(), count, 1e-5f);
      // `count` rounded terms under a root, then five rounded operations
      for (size_t i = 0; i < count; ++i)
        EXPECT_NEAR(y[i], double(a[i]) * factor * double(b[i]),
                    (double(count) / 2 + 6) * kEps * std::fabs(double(a[i]) * factor * double(b[i])));
      EXPECT(y[count] == kGuard);

      std::vector<float> head = RandomVector(random, 2 * count + 1), cosines(count), sines(count);
      head[2 * count] = kGuard;
      for (size_t i = 0; i < count; ++i) {
        cosines[i] = std::cos(float(i));
        sines[i] = std::sin(float(i));
      }
      const std::vector<float> old = head;
      t->rope_half(head.data(), cosines.data(), sines.data(), count);
      for (size_t i = 0; i < count; ++i) {
        const double low = old[i], high = old[i + count], c = cosines[i], s = sines[i];
        EXPECT_NEAR(head[i], low * c - high * s, 2.5 * kEps * (std::fabs(low * c) + std::fabs(high * s)));
        EXPECT_NEAR(head[i + count], high * c + low * s, 2.5 * kEps * (std::fabs(high * c) + std::fabs(low * s)));
      }
      EXPECT(head[2 * count] == kGuard);

      std::vector<float> finite = a;
      EXPECT(t->all_finite(finite.data(), count));
      for (size_t i = 0; i < count; ++i) {
        for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::nanf("")}) {
          finite[i] = bad;
          EXPECT(!t->all_finite(finite.data(), count));
        }
        finite[i] = i % 2 == 0 ? std::numeric_limits<float>::max() : -std::numeric_limits<float>::denorm_min();
        EXPECT(t->all_finite(finite.data(), count));
      }
    }
  }
}

LOWBIT_TEST(simd_halves) {
  for (const KernelTable* t : Tables()) {
    std::vector<uint16_t> all(65536), back(65537, 0xabcd);
    std::vector<float> values(65537, kGuard);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    t->f16_to_f32(all.data(), values.data(), all.size());
    EXPECT(values[65536] == kGuard);
    t->f32_to_f16(values.data(), back.data(), all.size());
    EXPECT(back[65536] == 0xabcd);
    bool good = true;
    for (size_t i = 0; i < all.size(); ++i) {
      const float expected = HalfToFloat(all[i]);
      good = good && (std::isnan(expected) ? std::isnan(values[i]) && std::isnan(HalfToFloat(back[i]))
                                           : values[i] == expected && back[i] == all[i]);
    }
    Report(good, *t, "every f16 value");
    // halfway between neighbours, one float below and above; overflow; tails
    std::vector<float> edges = {65519.996f, 65520.0f, 1e10f, -1e10f, 1e-9f, 5.9604645e-8f, 2.9802322e-8f, 2.9802326e-8f};
    for (uint32_t h = 0; h < 0x7bff; h += 37) {
      const float middle = (HalfToFloat(static_cast<uint16_t>(h)) + HalfToFloat(static_cast<uint16_t>(h + 1))) / 2;
      for (const float v : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) edges.push_back(h % 2 == 0 ? v : -v);
    }
    for (const size_t count : {edges.size(), size_t(1), size_t(7), size_t(9), size_t(23)}) {
      std::vector<uint16_t> halves(count + 1, 0xabcd);
      t->f32_to_f16(edges.data(), halves.data(), count);
      good = halves[count] == 0xabcd;
      for (size_t i = 0; i < count; ++i) good = good && halves[i] == FloatToHalf(edges[i]);
      Report(good, *t, "f32_to_f16 of " + std::to_string(count));
    }
  }
}
