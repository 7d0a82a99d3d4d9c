// test/native: random linears of several parts, as numbers. For tests of the parts themselves, their container and their packers.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "base/half.h"
#include "quantize/linear_parts.h"

namespace lowbit_test {

using namespace lowbit;

inline float RoundHalf(float value) { return HalfToFloat(FloatToHalf(value)); }

struct PartsShape {
  int n, k, group_size, rank;
  bool subsets, sparse, scales, minimum;
};

inline AffineCodes RandomCodes(std::mt19937& random, std::vector<int32_t> rows, int count, int k, int bits, int group_size,
                               AffineKind kind) {
  AffineCodes a;
  a.rows = std::move(rows);
  a.bits = bits;
  a.group_size = group_size;
  a.groups = (k + group_size - 1) / group_size;
  a.affine = kind;
  std::uniform_real_distribution<float> unit(0.25f, 1.0f);
  for (int i = 0; i < count * k; ++i) a.codes.push_back(static_cast<uint8_t>(random() % (1u << bits)));
  for (int i = 0; i < count * a.groups; ++i) {
    a.scales.push_back(RoundHalf(unit(random) / static_cast<float>(1 << bits)));
    if (kind == AffineKind::kMinimum) a.seconds.push_back(RoundHalf(-unit(random) / 2));
    if (kind == AffineKind::kZeroPoint) a.seconds.push_back(static_cast<float>(random() % (1u << bits)));
  }
  return a;
}

inline LinearParts RandomLinear(const PartsShape& s, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  LinearParts linear;
  linear.n = s.n;
  linear.k = s.k;
  const AffineKind kind = s.minimum ? AffineKind::kMinimum : AffineKind::kZeroPoint;
  if (s.subsets) {
    std::vector<int32_t> high, low;
    for (int r = 0; r < s.n; ++r) (random() % 5 == 0 ? high : low).push_back(r);
    const int low_count = static_cast<int>(low.size()), high_count = static_cast<int>(high.size());
    linear.affine.push_back(RandomCodes(random, low, low_count, s.k, 4, s.group_size, kind));
    linear.affine.push_back(RandomCodes(random, high, high_count, s.k, 8, s.group_size, AffineKind::kSymmetric));
  } else {
    linear.affine.push_back(RandomCodes(random, {}, s.n, s.k, 3, s.group_size, kind));
  }
  if (s.rank > 0) {
    linear.low_rank.rank = s.rank;
    for (int i = 0; i < s.rank * s.k; ++i) linear.low_rank.a.push_back(RoundHalf(normal(random) / 8));
    for (int i = 0; i < s.n * s.rank; ++i) linear.low_rank.b.push_back(RoundHalf(normal(random) / 8));
  }
  if (s.sparse) {
    linear.sparse.row_offsets.push_back(0);
    for (int r = 0; r < s.n; ++r) {
      for (int c = 0; c < s.k; ++c) {
        if (r % 7 == 3 || random() % (r % 11 == 5 ? 2 : 20) != 0) continue;  // some rows have none, some half of all
        linear.sparse.columns.push_back(c);
        linear.sparse.values.push_back(RoundHalf(normal(random)));
      }
      linear.sparse.row_offsets.push_back(static_cast<int32_t>(linear.sparse.columns.size()));
    }
  }
  if (s.scales)
    for (int c = 0; c < s.k; ++c) linear.input_scale.push_back(std::exp(normal(random) / 2));
  return linear;
}

}  // namespace lowbit_test
