// kernel/avx512bf16: bf16 matrix product with f32 sums (vdpbf16ps), the workhorse of calibration and of dense prefill.
//
// Both operands are panels of 16 rows, a line of 64 bytes per column pair, so that X^T X packs X once. Work split: blocks of
// kBlockPairs pairs; within a block, strips of 3 panels of B; within a strip, tiles of 8 rows of A. A strip of B stays in the
// first-level cache while every row tile passes over it. A tile: 8 x 3 accumulators, 3 lines of B and a broadcast are 28
// registers, and 11 loads feed 24 products. Every element sums its pairs in order within a block and its blocks in order,
// whatever m and n are, so a row's result does not depend on its neighbours.
#include "kernel/avx512/lanes.h"

#if defined(LOWBIT_AVX512) && defined(__AVX512BF16__)
#include "kernel/avx512bf16/internal.h"

namespace lowbit {
namespace {

constexpr int kTileRows = 8;
constexpr int kTilePanels = 3;
constexpr size_t kLine = 2 * kPanelRows;  // bf16 values of a line
constexpr int kBlockPairs = 128;          // 3 panels x 128 lines x 64 bytes = 24 KB

struct TileArgs {
  const uint16_t* a;  // first row of the tile
  const uint16_t* b;  // first panel of the strip
  size_t b_stride;
  int pairs;
  float* c;
  size_t ldc;
  int last_columns;  // of the last panel
  bool add;
};

LOWBIT_INLINE __m512bh Pair(const uint16_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof(pair));
  return (__m512bh)_mm512_set1_epi32(pair);
}

template <int kRows, int kPanels>
void Tile(const TileArgs& args) {
  Float sums[kRows][kPanels];
  // c is asked for now and added at the end: loading it here would stall on strides that are powers of two
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    LOWBIT_UNROLL(3)
    for (int j = 0; j < kPanels; ++j) {
      sums[i][j] = Zero();
      if (args.add) LOWBIT_PREFETCH(args.c + static_cast<size_t>(i) * args.ldc + j * kPanelRows);
    }
  }
  const uint16_t* a = args.a;
  const uint16_t* b = args.b;
  for (int s = args.pairs; s > 0; --s, a += kLine, b += kLine) {
    __m512bh columns[kPanels];
    LOWBIT_UNROLL(3)
    for (int j = 0; j < kPanels; ++j) columns[j] = (__m512bh)_mm512_loadu_si512(b + static_cast<size_t>(j) * args.b_stride);
    LOWBIT_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      const __m512bh x = Pair(a + 2 * i);
      LOWBIT_UNROLL(3)
      for (int j = 0; j < kPanels; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], columns[j], x);
    }
  }
  const auto finish = [&](float* c, Float sum, auto part) { Store(c, args.add ? Add(sum, Load(c, part)) : sum, part); };
  LOWBIT_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    float* c = args.c + static_cast<size_t>(i) * args.ldc;
    LOWBIT_UNROLL(3)
    for (int j = 0; j + 1 < kPanels; ++j) finish(c + j * kPanelRows, sums[i][j], All{});
    float* last = c + (kPanels - 1) * kPanelRows;
    if (args.last_columns == kPanelRows)
      finish(last, sums[i][kPanels - 1], All{});
    else
      finish(last, sums[i][kPanels - 1], First{args.last_columns});
  }
}

using TileFunction = void (*)(const TileArgs&);

template <int kRows>
LOWBIT_INLINE TileFunction TileForPanels(int panels) {
  return panels == 3 ? Tile<kRows, 3> : panels == 2 ? Tile<kRows, 2> : Tile<kRows, 1>;
}

LOWBIT_INLINE TileFunction TileFor(int rows, int panels) {
  switch (rows) {
    case 8:
      return TileForPanels<8>(panels);
    case 7:
      return TileForPanels<7>(panels);
    case 6:
      return TileForPanels<6>(panels);
    case 5:
      return TileForPanels<5>(panels);
    case 4:
      return TileForPanels<4>(panels);
    case 3:
      return TileForPanels<3>(panels);
    case 2:
      return TileForPanels<2>(panels);
    default:
      return TileForPanels<1>(panels);
  }
}

}  // namespace

void avx512bf16::GemmBf16(const uint16_t* a, size_t a_stride, const uint16_t* b, size_t b_stride, int m, int n, int pairs, float* c,
                          size_t ldc, bool accumulate) {
  int done = 0;
  do {  // at least once: no pairs still define c
    TileArgs args{};
    args.b_stride = b_stride;
    args.pairs = pairs - done < kBlockPairs ? pairs - done : kBlockPairs;
    args.ldc = ldc;
    args.add = accumulate || done > 0;
    const size_t line = static_cast<size_t>(done) * kLine;
    for (int column = 0; column < n; column += kTilePanels * kPanelRows) {
      const int columns = n - column < kTilePanels * kPanelRows ? n - column : kTilePanels * kPanelRows;
      const int panels = (columns + kPanelRows - 1) / kPanelRows;
      args.b = b + static_cast<size_t>(column / kPanelRows) * b_stride + line;
      args.last_columns = columns - (panels - 1) * kPanelRows;
      for (int row = 0; row < m; row += kTileRows) {
        args.a = a + static_cast<size_t>(row / kPanelRows) * a_stride + static_cast<size_t>(row % kPanelRows) * 2 + line;
        args.c = c + static_cast<size_t>(row) * ldc + column;
        TileFor(m - row < kTileRows ? m - row : kTileRows, panels)(args);
      }
    }
    done += args.pairs;
  } while (done < pairs);
}

}  // namespace lowbit
#endif
