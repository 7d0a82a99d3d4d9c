// kernel/simd: f32 matrix product on panels, the workhorse of the exact path, of calibration and of X^T X.
//
// Work split: blocks of kSteps steps; within a block, strips of kVectors vectors of columns; within a strip, tiles of kRows
// rows. A strip of B stays in the first-level cache while every row tile passes over it; tiles of A stream from the second.
// A tile keeps kRows x kVectors accumulators in registers. Every element sums its steps in order within a block and its
// blocks in order, whatever m and n are, so a row's result does not depend on its neighbours.
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

// 512-bit: 8 x 3 of 32 registers. 256-bit: 4 x 3 of 16; two halves of a panel count as two vectors.
constexpr int kTileRows = kLanes == 16 ? 8 : 4;
constexpr int kTileVectors = 3;
// With one or two rows more columns are needed to hide the latency of the fma (4 cycles, 1-2 a cycle).
constexpr int kFewRows = 2;
constexpr int kFewRowsVectors = 6;
// The cache lines under a strip: 3 panels x 128 steps x 64 bytes = 24 KB (three halves touch two panels: 16 KB).
constexpr int kSteps = 128;

struct TileArgs {
  const float* a;
  size_t a_line;
  const float* b;  // panel that holds the first column
  size_t b_panel, b_line;
  int half;  // 256-bit: the first column is in the upper half of its panel
  int steps;
  float* c;
  size_t ldc;
  int last_lanes;  // columns of the last vector
  bool add;
};

template <int kRows, int kVectors>
void Tile(const TileArgs& args) {
  const float* b[kVectors];
  Float sums[kRows][kVectors];
  LOWBIT_UNROLL(6)
  for (int j = 0; j < kVectors; ++j) {
    const int lane = args.half * kLanes + j * kLanes;
    b[j] = args.b + static_cast<size_t>(lane / 16) * args.b_panel + lane % 16;
  }
  // c is asked for now and added at the end: loading it here would stall on strides that are powers of two
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    LOWBIT_UNROLL(6)
    for (int j = 0; j < kVectors; ++j) {
      sums[i][j] = Zero();
      if (args.add) LOWBIT_PREFETCH(args.c + static_cast<size_t>(i) * args.ldc + j * kLanes);
    }
  }
  const float* a = args.a;
  size_t line = 0;
  for (int s = args.steps; s > 0; --s, a += args.a_line, line += args.b_line) {
    Float columns[kVectors];
    LOWBIT_UNROLL(6)
    for (int j = 0; j < kVectors; ++j) columns[j] = Load(b[j] + line);
    LOWBIT_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      const Float x = Set(a[i]);
      LOWBIT_UNROLL(6)
      for (int j = 0; j < kVectors; ++j) sums[i][j] = Fma(columns[j], x, sums[i][j]);
    }
  }
  const auto finish = [&](float* c, Float sum, auto part) { Store(c, args.add ? Add(sum, Load(c, part)) : sum, part); };
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    float* c = args.c + static_cast<size_t>(i) * args.ldc;
    LOWBIT_UNROLL(6)
    for (int j = 0; j + 1 < kVectors; ++j) finish(c + j * kLanes, sums[i][j], All{});
    float* last = c + (kVectors - 1) * kLanes;
    if (args.last_lanes == kLanes)
      finish(last, sums[i][kVectors - 1], All{});
    else
      finish(last, sums[i][kVectors - 1], First{args.last_lanes});
  }
}

using TileFunction = void (*)(const TileArgs&);

template <int kRows>
LOWBIT_INLINE TileFunction TileForVectors(int vectors) {
  if constexpr (kRows <= kFewRows) {
    if (vectors == 6) return Tile<kRows, 6>;
    if (vectors == 5) return Tile<kRows, 5>;
    if (vectors == 4) return Tile<kRows, 4>;
  }
  return vectors == 3 ? Tile<kRows, 3> : vectors == 2 ? Tile<kRows, 2> : Tile<kRows, 1>;
}

LOWBIT_INLINE TileFunction TileFor(int rows, int vectors) {
  if constexpr (kTileRows == 8) {
    switch (rows) {
      case 8:
        return TileForVectors<8>(vectors);
      case 7:
        return TileForVectors<7>(vectors);
      case 6:
        return TileForVectors<6>(vectors);
      case 5:
        return TileForVectors<5>(vectors);
      default:
        break;
    }
  }
  switch (rows) {
    case 4:
      return TileForVectors<4>(vectors);
    case 3:
      return TileForVectors<3>(vectors);
    case 2:
      return TileForVectors<2>(vectors);
    default:
      return TileForVectors<1>(vectors);
  }
}

void GemmF32(const float* a, size_t a_tile_stride, size_t a_line_stride, const float* b, size_t b_panel_stride, size_t b_line_stride, int m,
             int n, int k, float* c, size_t ldc, bool accumulate) {
  const int strip = (m <= kFewRows ? kFewRowsVectors : kTileVectors) * kLanes;
  int done = 0;
  do {  // at least once: k = 0 still defines c
    TileArgs args{};
    args.a_line = a_line_stride;
    args.b_panel = b_panel_stride;
    args.b_line = b_line_stride;
    args.steps = k - done < kSteps ? k - done : kSteps;
    args.ldc = ldc;
    args.add = accumulate || done > 0;
    for (int column = 0; column < n; column += strip) {
      const int columns = n - column < strip ? n - column : strip, vectors = (columns + kLanes - 1) / kLanes;
      args.b = b + static_cast<size_t>(column / 16) * b_panel_stride + static_cast<size_t>(done) * b_line_stride;
      args.half = column % 16 / kLanes;
      args.last_lanes = columns - (vectors - 1) * kLanes;
      for (int row = 0; row < m; row += kTileRows) {
        const int rows = m - row < kTileRows ? m - row : kTileRows;
        args.a = a + static_cast<size_t>(row / kRowTile) * a_tile_stride + row % kRowTile + static_cast<size_t>(done) * a_line_stride;
        args.c = c + static_cast<size_t>(row) * ldc + column;
        TileFor(rows, vectors)(args);
      }
    }
    done += args.steps;
  } while (done < k);
}

}  // namespace
}  // namespace lowbit
