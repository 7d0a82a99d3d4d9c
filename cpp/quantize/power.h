// quantize/power: x^p and rounding in plain arithmetic that any compiler vectorises, the same bits everywhere.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace lowbit {

// 1.5 * 2^23: adding and subtracting it rounds to an integer, half to even, for |x| < 2^22.
constexpr float kRound = 12582912.0f;
inline float RoundHalfEven(float x) { return (x + kRound) - kRound; }

// x^p for x >= 0 and p > 0: log2 by exponent and polynomial (absolute error 2.2e-6), times p, exp2 likewise (relative error 2.6e-6).
// x is held inside [2^(-125/p), 2^(125/p)], so zero becomes 2^-125. The bounds are members, not constants: with constants
// GCC threads jumps through the comparison and no longer vectorises the loop.
struct Power {
  explicit Power(double exponent)
      : p(static_cast<float>(exponent)),
        low(static_cast<float>(std::exp2(-125 / exponent))),
        high(static_cast<float>(std::exp2(125 / exponent))) {}
  float p, low, high;

  float operator()(float x) const {
    x = x > low ? x : low;  // NaN becomes low
    x = x < high ? x : high;
    const int32_t bits = std::bit_cast<int32_t>(x);
    const int32_t exponent = (bits - 0x3f3504f3) >> 23;  // sqrt(1/2): the mantissa lies in [sqrt(1/2), sqrt(2))
    const float t = std::bit_cast<float>(bits - (exponent << 23)) - 1;
    float log = -0.206603336f;
    log = log * t + 0.322142463f;
    log = log * t - 0.367484f;
    log = log * t + 0.479349725f;
    log = log * t - 0.721132259f;
    log = log * t + 1.44271342f;
    const float y = p * (static_cast<float>(exponent) + log * t);
    const float whole = RoundHalfEven(y), f = y - whole;
    float exp = 0.00957009667f;
    exp = exp * f + 0.0559178599f;
    exp = exp * f + 0.24024745f;
    exp = exp * f + 0.693121815f;
    exp = exp * f + 0.999999261f;
    return exp * std::bit_cast<float>((static_cast<int32_t>(whole) + 127) << 23);
  }
};

}  // namespace lowbit
