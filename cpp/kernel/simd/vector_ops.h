// kernel/simd: elementwise and row operations of the kernel table on f32 vectors.
// Fixed order of summation for a given length and ISA. Arrays need no alignment.
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

// body(offset, All) for whole vectors, then body(offset, First) for the rest.
template <class Body>
LOWBIT_INLINE void ForLanes(size_t count, Body body) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, All{});
  if (i < count) body(i, First{static_cast<int>(count - i)});
}

// exp(high + low), |low| <= ulp(high). Relative error < 2e-7 where the result is a normal number; 0 from -104 down (also for
// -inf), infinity above 88.73, NaN for NaN. exp(r) on |r| <= ln(2)/2: minimax polynomial (Remez, error 1.1e-8), n*ln(2)
// subtracted in two parts of which the first product is exact.
LOWBIT_INLINE Float Exp(Float high, Float low) {
  const Float x = Min(Set(90.0f), Max(Set(-104.0f), high));  // this order of operands lets NaN through
  const Float n = RoundEven(Mul(x, Set(1.44269504f)));
  const Float r = Add(Fnma(n, Set(-2.12194440e-4f), Fnma(n, Set(0.693359375f), x)), low);
  Float p = Set(1.394112912e-3f);
  p = Fma(p, r, Set(8.363183256e-3f));
  p = Fma(p, r, Set(4.166637507e-2f));
  p = Fma(p, r, Set(1.666657696e-1f));
  p = Fma(p, r, Set(5.000000027e-1f));
  return ScaleByPowerOfTwo(Add(Fma(Mul(r, r), p, r), Set(1.0f)), n);
}

// 1 / (1 + exp(-(high + low))): the exponential is never above 1, so nothing overflows and the left tail keeps its digits.
LOWBIT_INLINE Float Sigmoid(Float high, Float low) {
  const Float e = Exp(CopySign(Abs(high), Set(-1.0f)), SelectLess(high, Zero(), low, Sub(Zero(), low)));
  return Div(SelectLess(high, Zero(), e, Set(1.0f)), Add(e, Set(1.0f)));
}

// x * sigmoid(2u), u = sqrt(2/pi) * (x + 0.044715 x^3). An error of 2u is magnified by |2u| in the left tail, so 2u is
// carried as a sum of two floats: 2u = x * (c1 + c2 x^2).
LOWBIT_INLINE Float GeluTanh(Float x) {
  const Float c1 = Set(1.59576917f), c1_low = Set(-4.53406804e-8f), c2 = Set(0.0713548139f), c2_low = Set(2.39883240e-9f);
  const Float bounded = Min(Set(64.0f), Max(Set(-64.0f), x));  // beyond, sigmoid is 0 or 1 and the cube must not overflow
  const Float square = Mul(bounded, bounded), square_low = Fms(bounded, bounded, square);
  const Float product = Mul(c2, square), product_low = Fma(c2, square_low, Fma(c2_low, square, Fms(c2, square, product)));
  Float sum = Add(product, c1);
  LOWBIT_PIN(sum);
  const Float c1_part = Sub(sum, product);  // two-sum: sum + error = product + c1 exactly
  const Float error = Add(Sub(c1, c1_part), Sub(product, Sub(sum, c1_part)));
  const Float sum_low = Add(error, Add(product_low, c1_low));
  const Float high = Mul(bounded, sum), low = Fma(bounded, sum_low, Fms(bounded, sum, high));
  return Mul(x, Sigmoid(high, low));
}

// Odd minimax polynomial (Remez, error 2.8e-9) below 0.6, where 1 - 2/(exp(2x)+1) would cancel.
LOWBIT_INLINE Float Tanh(Float x) {
  const Float magnitude = Abs(x), square = Mul(x, x);
  Float p = Set(-5.895158579e-3f);
  p = Fma(p, square, Set(2.079597213e-2f));
  p = Fma(p, square, Set(-5.378383043e-2f));
  p = Fma(p, square, Set(1.333192413e-1f));
  p = Fma(p, square, Set(-3.333329800e-1f));
  const Float small = Fma(Mul(p, square), magnitude, magnitude);
  const Float large = Sub(Set(1.0f), Div(Set(2.0f), Add(Exp(Add(magnitude, magnitude), Zero()), Set(1.0f))));
  return CopySign(SelectLess(magnitude, Set(0.6f), small, large), x);
}

void RmsNorm(const float* x, const float* weight, float* y, size_t width, float eps) {
  Float sums[4] = {Zero(), Zero(), Zero(), Zero()};
  size_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
    LOWBIT_UNROLL(4)
    for (int j = 0; j < 4; ++j) {
      const Float v = Load(x + i + static_cast<size_t>(j) * kLanes);
      sums[j] = Fma(v, v, sums[j]);
    }
  }
  ForLanes(width - i, [&](size_t at, auto part) {
    const Float v = Load(x + i + at, part);
    sums[0] = Fma(v, v, sums[0]);
  });
  const float mean = SumLanes(Add(Add(sums[0], sums[1]), Add(sums[2], sums[3]))) / static_cast<float>(width);
  const Float factor = Set(1.0f / SquareRoot(mean + eps));
  ForLanes(width, [&](size_t at, auto part) { Store(y + at, Mul(Mul(Load(x + at, part), factor), Load(weight + at, part)), part); });
}

void AddVectors(const float* a, const float* b, float* y, size_t count) {
  ForLanes(count, [&](size_t i, auto part) { Store(y + i, Add(Load(a + i, part), Load(b + i, part)), part); });
}

// x / (1 + exp(-x)) needs no care for the left tail: where the exponential overflows, the quotient is below 1e-36.
void SiluMul(const float* gate, const float* up, float* y, size_t count) {
  ForLanes(count, [&](size_t i, auto part) {
    const Float x = Load(gate + i, part);
    Store(y + i, Mul(Div(x, Add(Set(1.0f), Exp(Sub(Zero(), x), Zero()))), Load(up + i, part)), part);
  });
}

void GeluTanhMul(const float* gate, const float* up, float* y, size_t count) {
  ForLanes(count, [&](size_t i, auto part) { Store(y + i, Mul(GeluTanh(Load(gate + i, part)), Load(up + i, part)), part); });
}

void Softcap(float* x, size_t count, float cap) {
  const Float c = Set(cap);
  ForLanes(count, [&](size_t i, auto part) { Store(x + i, Mul(c, Tanh(Div(Load(x + i, part), c))), part); });
}

void RopeHalf(float* x, const float* cosines, const float* sines, size_t half) {
  ForLanes(half, [&](size_t i, auto part) {
    const Float first = Load(x + i, part), second = Load(x + half + i, part), c = Load(cosines + i, part), s = Load(sines + i, part);
    Store(x + i, Fms(first, c, Mul(second, s)), part);
    Store(x + half + i, Fma(second, c, Mul(first, s)), part);
  });
}

float ExpSum(float* x, size_t count, float maximum) {
  const Float shift = Set(maximum);
  Float sums[2] = {Zero(), Zero()};
  size_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    LOWBIT_UNROLL(2)
    for (int j = 0; j < 2; ++j) {
      float* at = x + i + static_cast<size_t>(j) * kLanes;
      const Float e = Exp(Sub(Load(at), shift), Zero());
      Store(at, e);
      sums[j] = Add(sums[j], e);
    }
  }
  float tail = 0;
  ForLanes(count - i, [&](size_t at, auto part) {
    Store(x + i + at, Exp(Sub(Load(x + i + at, part), shift), Zero()), part);
    tail += SumLanes(Load(x + i + at, part));  // read back, so that lanes beyond the end count as zero
  });
  return SumLanes(Add(sums[0], sums[1])) + tail;
}

// Lanes beyond the end must not take part, so the tail is scalar. -inf for an empty vector.
float MaxOf(const float* x, size_t count) {
  const Float lowest = Set(-__builtin_inff());
  Float most[4] = {lowest, lowest, lowest, lowest};
  size_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    LOWBIT_UNROLL(4)
    for (int j = 0; j < 4; ++j) most[j] = Max(Load(x + i + static_cast<size_t>(j) * kLanes), most[j]);
  }
  for (; i + kLanes <= count; i += kLanes) most[0] = Max(Load(x + i), most[0]);
  float result = MaxLanes(Max(Max(most[0], most[1]), Max(most[2], most[3])));
  for (; i < count; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

void Scale(const float* x, float* y, size_t count, float factor) {
  const Float f = Set(factor);
  ForLanes(count, [&](size_t i, auto part) { Store(y + i, Mul(Load(x + i, part), f), part); });
}

void F32ToF16(const float* x, uint16_t* y, size_t count) {
  ForLanes(count, [&](size_t i, auto part) { StoreHalf(y + i, Load(x + i, part), part); });
}

void F16ToF32(const uint16_t* x, float* y, size_t count) {
  ForLanes(count, [&](size_t i, auto part) { Store(y + i, LoadHalf(x + i, part), part); });
}

// Without the sign bit, infinities and NaNs are the largest bit patterns.
bool AllFinite(const float* x, size_t count) {
  const Int magnitude = SetInt(0x7fffffff);
  Int most[4] = {ZeroInt(), ZeroInt(), ZeroInt(), ZeroInt()};
  size_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    LOWBIT_UNROLL(4)
    for (int j = 0; j < 4; ++j) most[j] = MaxUnsigned(most[j], And(BitsOf(Load(x + i + static_cast<size_t>(j) * kLanes)), magnitude));
  }
  ForLanes(count - i, [&](size_t at, auto part) { most[0] = MaxUnsigned(most[0], And(BitsOf(Load(x + i + at, part)), magnitude)); });
  return MaxUnsignedLanes(MaxUnsigned(MaxUnsigned(most[0], most[1]), MaxUnsigned(most[2], most[3]))) < 0x7f800000u;
}

}  // namespace
}  // namespace lowbit
