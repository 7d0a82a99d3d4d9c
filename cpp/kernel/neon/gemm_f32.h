// kernel/neon: f32 matrix product on panels (exact path, calibration). The work split and order of summation are those of
// kernel/simd/gemm_f32.h; the tile is 8 rows x 12 columns: 24 of 32 registers of sums, 3 of B, 2 of A, whose elements FMLA takes by
// lane: 24 FMLAs per 5 loads.
#pragma once

#include "kernel/kernel.h"
#include "kernel/neon/lanes.h"

namespace lowbit {
namespace {

constexpr int kTileVectors = 3;
// With one or two rows more columns are needed to hide the latency of the FMLA.
constexpr int kFewRows = 2;
constexpr int kFewRowsVectors = 6;
// Lines of B under a strip: 12 columns touch one or two panels, 2 x 128 x 64 bytes = 16 KB of the first-level cache.
constexpr int kSteps = 128;

struct F32TileArgs {
  const float* a;
  size_t a_line;
  const float* b;  // panel that holds the first column
  size_t b_panel, b_line;
  int lane;  // of the first column in its panel
  int steps;
  float* c;
  size_t ldc;
  int last_lanes;  // columns of the last vector
  bool add;
};

template <int kRows, int kVectors>
void F32Tile(const F32TileArgs& args) {
  constexpr int kVectorsOfA = (kRows + kLanes - 1) / kLanes;
  const float* b[kVectors];
  Float sums[kRows][kVectors];
  LOWBIT_UNROLL(6)
  for (int j = 0; j < kVectors; ++j) {
    const int lane = args.lane + j * kLanes;
    b[j] = args.b + static_cast<size_t>(lane / kPanelRows) * args.b_panel + lane % kPanelRows;
  }
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    LOWBIT_UNROLL(6)
    for (int j = 0; j < kVectors; ++j) sums[i][j] = Zero();
  }
  const float* a = args.a;
  size_t line = 0;
  for (int s = args.steps; s > 0; --s, a += args.a_line, line += args.b_line) {
    Float columns[kVectors], rows[kVectorsOfA];
    LOWBIT_UNROLL(2)
    for (int i = 0; i < kVectorsOfA; ++i) rows[i] = Load(a + i * kLanes);
    LOWBIT_UNROLL(6)
    for (int j = 0; j < kVectors; ++j) columns[j] = Load(b[j] + line);
    LOWBIT_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      LOWBIT_UNROLL(6)
      for (int j = 0; j < kVectors; ++j) sums[i][j] = Fma(columns[j], Set(rows[i / kLanes][i % kLanes]), sums[i][j]);
    }
  }
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    float* c = args.c + static_cast<size_t>(i) * args.ldc;
    LOWBIT_UNROLL(6)
    for (int j = 0; j < kVectors; ++j, c += kLanes) {
      if (j + 1 < kVectors || args.last_lanes == kLanes)
        Store(c, args.add ? Add(sums[i][j], Load(c)) : sums[i][j]);
      else
        Store(c, args.add ? Add(sums[i][j], Load(c, First{args.last_lanes})) : sums[i][j], First{args.last_lanes});
    }
  }
}

using F32TileFunction = void (*)(const F32TileArgs&);

template <int kRows>
LOWBIT_INLINE F32TileFunction F32TileForVectors(int vectors) {
  if constexpr (kRows <= kFewRows) {
    if (vectors == 6) return F32Tile<kRows, 6>;
    if (vectors == 5) return F32Tile<kRows, 5>;
    if (vectors == 4) return F32Tile<kRows, 4>;
  }
  return vectors == 3 ? F32Tile<kRows, 3> : vectors == 2 ? F32Tile<kRows, 2> : F32Tile<kRows, 1>;
}

F32TileFunction F32TileFor(int rows, int vectors) {
  switch (rows) {
    case 1:
      return F32TileForVectors<1>(vectors);
    case 2:
      return F32TileForVectors<2>(vectors);
    case 3:
      return F32TileForVectors<3>(vectors);
    case 4:
      return F32TileForVectors<4>(vectors);
    case 5:
      return F32TileForVectors<5>(vectors);
    case 6:
      return F32TileForVectors<6>(vectors);
    case 7:
      return F32TileForVectors<7>(vectors);
    default:
      return F32TileForVectors<kRowTile>(vectors);
  }
}

void GemmF32(const float* a, size_t a_tile_stride, size_t a_line_stride, const float* b, size_t b_panel_stride, size_t b_line_stride, int m,
             int n, int k, float* c, size_t ldc, bool accumulate) {
  static_assert(kRowTile == 8);
  const int strip = (m <= kFewRows ? kFewRowsVectors : kTileVectors) * kLanes;
  int done = 0;
  do {  // at least once: k = 0 still defines c
    F32TileArgs args{};
    args.a_line = a_line_stride;
    args.b_panel = b_panel_stride;
    args.b_line = b_line_stride;
    args.steps = k - done < kSteps ? k - done : kSteps;
    args.ldc = ldc;
    args.add = accumulate || done > 0;
    for (int column = 0; column < n; column += strip) {
      const int columns = n - column < strip ? n - column : strip, vectors = (columns + kLanes - 1) / kLanes;
      args.b = b + static_cast<size_t>(column / kPanelRows) * b_panel_stride + static_cast<size_t>(done) * b_line_stride;
      args.lane = column % kPanelRows;
      args.last_lanes = columns - (vectors - 1) * kLanes;
      for (int row = 0; row < m; row += kRowTile) {
        const int rows = m - row < kRowTile ? m - row : kRowTile;
        args.a = a + static_cast<size_t>(row / kRowTile) * a_tile_stride + static_cast<size_t>(done) * a_line_stride;
        args.c = c + static_cast<size_t>(row) * ldc + column;
        F32TileFor(rows, vectors)(args);
      }
    }
    done += args.steps;
  } while (done < k);
}

}  // namespace
}  // namespace lowbit
