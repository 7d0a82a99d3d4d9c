// kernel/ref/vector: elementwise functions and reductions in portable C++. Sums run in double, in index order.
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "kernel/ref/ref.h"

namespace lowbit::ref {

void RmsNorm(const float* x, const float* weight, float* y, size_t width, float eps) {
  double squares = 0;
  for (size_t i = 0; i < width; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const float factor = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(width) + static_cast<double>(eps)));
  for (size_t i = 0; i < width; ++i) y[i] = x[i] * factor * weight[i];
}

void Add(const float* a, const float* b, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

void SiluMul(const float* gate, const float* up, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void GeluTanhMul(const float* gate, const float* up, float* y, size_t count) {
  constexpr float kSqrtTwoOverPi = 0.7978845608028654f;
  for (size_t i = 0; i < count; ++i) {
    const float g = gate[i];
    y[i] = 0.5f * g * (1.0f + std::tanh(kSqrtTwoOverPi * (g + 0.044715f * g * g * g))) * up[i];
  }
}

void Softcap(float* x, size_t count, float cap) {
  for (size_t i = 0; i < count; ++i) x[i] = cap * std::tanh(x[i] / cap);
}

void RopeHalf(float* x, const float* cosines, const float* sines, size_t half) {
  for (size_t i = 0; i < half; ++i) {
    const float low = x[i], high = x[i + half];
    x[i] = low * cosines[i] - high * sines[i];
    x[i + half] = high * cosines[i] + low * sines[i];
  }
}

float ExpSum(float* x, size_t count, float maximum) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    x[i] = std::exp(x[i] - maximum);
    sum += static_cast<double>(x[i]);
  }
  return static_cast<float>(sum);
}

float Max(const float* x, size_t count) {
  float maximum = -HUGE_VALF;
  for (size_t i = 0; i < count; ++i) maximum = x[i] > maximum ? x[i] : maximum;
  return maximum;
}

void Scale(const float* x, float* y, size_t count, float factor) {
  for (size_t i = 0; i < count; ++i) y[i] = x[i] * factor;
}

void F32ToF16(const float* x, uint16_t* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = FloatToHalf(x[i]);
}

void F16ToF32(const uint16_t* x, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = HalfToFloat(x[i]);
}

bool AllFinite(const float* x, size_t count) {
  uint32_t bad = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof(bits));
    bad |= static_cast<uint32_t>((bits & 0x7f800000u) == 0x7f800000u);
  }
  return bad == 0;
}

}  // namespace lowbit::ref
