// kernel/simd: the two products of attention for few query rows over f16 keys and values, read once and converted in registers.
// Bound by reading the cache: a line of 16 halves feeds one fused multiply-add per row.
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

constexpr int kAttendRows = 4;                       // query rows that share a pass over keys or values
constexpr int kPanelVectors = 16 / kLanes;           // vectors of one line of 16 keys
constexpr int kValueVectors = kLanes == 16 ? 4 : 2;  // vectors of values whose sums stay in registers

// One panel after the other, strictly forward: two panels side by side are two streams of memory that end every few lines, and
// were read at 10 instead of 25 GB/s (a Zen 4 core, cold).
template <int kRows>
LOWBIT_INLINE void ScorePanel(const float* q, int head_dim, const uint16_t* keys, float* scores, size_t ld, const uint16_t* next) {
  const size_t dim = static_cast<size_t>(head_dim);
  Float sums[kRows][kPanelVectors];
  LOWBIT_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    LOWBIT_UNROLL(4)
    for (int v = 0; v < kPanelVectors; ++v) sums[r][v] = Zero();
  }
  for (size_t d = 0; d < dim; ++d) {
    if (d % 2 == 0) LOWBIT_PREFETCH(next + d * 16);
    Float line[kPanelVectors];
    LOWBIT_UNROLL(4)
    for (int v = 0; v < kPanelVectors; ++v) line[v] = LoadHalf(keys + d * 16 + static_cast<size_t>(v) * kLanes);
    LOWBIT_UNROLL(4)
    for (int r = 0; r < kRows; ++r) {
      const Float x = Set(q[static_cast<size_t>(r) * dim + d]);
      LOWBIT_UNROLL(4)
      for (int v = 0; v < kPanelVectors; ++v) sums[r][v] = Fma(line[v], x, sums[r][v]);
    }
  }
  LOWBIT_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    LOWBIT_UNROLL(4)
    for (int v = 0; v < kPanelVectors; ++v) Store(scores + static_cast<size_t>(r) * ld + static_cast<size_t>(v) * kLanes, sums[r][v]);
  }
}

template <int kRows>
void ScoreRows(const float* q, int head_dim, const uint16_t* keys, int panels, float* scores, size_t ld, const uint16_t* next) {
  const size_t panel = 16 * static_cast<size_t>(head_dim);
  for (int p = 0; p < panels; ++p, keys += panel, next += panel) ScorePanel<kRows>(q, head_dim, keys, scores + p * 16, ld, next);
}

void ScoresF16(const float* q, int rows, int head_dim, const uint16_t* keys, int panels, float* scores, size_t ld, const uint16_t* next) {
  for (int r = 0; r < rows; r += kAttendRows) {
    const float* from = q + static_cast<size_t>(r) * static_cast<size_t>(head_dim);
    float* to = scores + static_cast<size_t>(r) * ld;
    switch (rows - r) {
      case 1:
        ScoreRows<1>(from, head_dim, keys, panels, to, ld, next);
        break;
      case 2:
        ScoreRows<2>(from, head_dim, keys, panels, to, ld, next);
        break;
      case 3:
        ScoreRows<3>(from, head_dim, keys, panels, to, ld, next);
        break;
      default:
        ScoreRows<4>(from, head_dim, keys, panels, to, ld, next);
    }
  }
}

template <int kRows, int kVectors>
LOWBIT_INLINE void ValueColumns(const float* p, size_t ldp, int keys, const uint16_t* values, size_t stride, float* out, size_t ldo,
                                const uint16_t* next) {
  Float sums[kRows][kVectors];
  LOWBIT_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    LOWBIT_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Load(out + static_cast<size_t>(r) * ldo + static_cast<size_t>(v) * kLanes);
  }
  for (int j = 0; j < keys; ++j, values += stride, next += stride) {
    LOWBIT_UNROLL(4)
    for (int v = 0; v < kVectors * kLanes; v += 32) LOWBIT_PREFETCH(next + v);
    Float line[kVectors];
    LOWBIT_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) line[v] = LoadHalf(values + static_cast<size_t>(v) * kLanes);
    LOWBIT_UNROLL(4)
    for (int r = 0; r < kRows; ++r) {
      const Float x = Set(p[static_cast<size_t>(r) * ldp + static_cast<size_t>(j)]);
      LOWBIT_UNROLL(4)
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Fma(line[v], x, sums[r][v]);
    }
  }
  LOWBIT_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    LOWBIT_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) Store(out + static_cast<size_t>(r) * ldo + static_cast<size_t>(v) * kLanes, sums[r][v]);
  }
}

template <int kRows>
void ValueRows(const float* p, size_t ldp, int keys, const uint16_t* values, size_t stride, int dim, float* out, size_t ldo,
               const uint16_t* next) {
  int d = 0;
  for (; d + kValueVectors * kLanes <= dim; d += kValueVectors * kLanes)
    ValueColumns<kRows, kValueVectors>(p, ldp, keys, values + d, stride, out + d, ldo, next + d);
  for (; d < dim; d += kLanes) ValueColumns<kRows, 1>(p, ldp, keys, values + d, stride, out + d, ldo, next + d);
}

void ValuesF16(const float* p, size_t ldp, int rows, int keys, const uint16_t* values, size_t stride, int dim, float* out, size_t ldo,
               const uint16_t* next) {
  for (int r = 0; r < rows; r += kAttendRows) {
    const float* from = p + static_cast<size_t>(r) * ldp;
    float* to = out + static_cast<size_t>(r) * ldo;
    switch (rows - r) {
      case 1:
        ValueRows<1>(from, ldp, keys, values, stride, dim, to, ldo, next);
        break;
      case 2:
        ValueRows<2>(from, ldp, keys, values, stride, dim, to, ldo, next);
        break;
      case 3:
        ValueRows<3>(from, ldp, keys, values, stride, dim, to, ldo, next);
        break;
      default:
        ValueRows<4>(from, ldp, keys, values, stride, dim, to, ldo, next);
    }
  }
}

}  // namespace
}  // namespace lowbit
