// kernel/amx: bf16 matrix product with f32 sums on the matrix tiles of AMX-BF16. For calibration (Hessians, true-sequential passes), dense
// prefill and attention over many rows.
//
// A right operand is 16 lines of a panel of B as they lie: [16 pairs][16 columns]{2}. A left operand has a row of A per line, which
// a panel has in its columns: kBlockPairs pairs of two panels of A are transposed once, 16 x 16 dwords at a time, and then used for
// all of B. 2 x 2 sums in tiles are loaded from and stored to c itself; 4 loads of operands (8 cycles each) feed 4 products (16
// cycles each). Every element sums its pairs in blocks of 16 in order, whatever m and n are.
#include "kernel/amx/tiles.h"

#ifdef LOWBIT_AMX
#include "kernel/amx/internal.h"
#include "kernel/amx/transpose.h"

namespace lowbit {
namespace {

constexpr int kTilePairs = 16;
constexpr int kBlockTiles = 8, kBlockPairs = kBlockTiles * kTilePairs;
constexpr size_t kLine = 2 * kPanelRows;            // bf16 values of a pair of columns
constexpr size_t kTileValues = kTilePairs * kLine;  // and of a tile
constexpr int kSums = 0, kLeft = 4, kRight = 6;     // tile numbers: 2 x 2 sums, two left and two right operands

struct alignas(64) Operands {
  uint16_t a[2][kBlockTiles * kTileValues];  // [panel][tile][row][pair]{2}
  uint16_t rest[2][kTileValues];             // the last lines of two panels of B, zeros behind them
  float sums[kPanelRows][kPanelRows];        // of a tile that c has not room for
};

// `pairs` lines of a panel to tiles [pairs up to 16][row][pair]{2}, zeros behind.
LOWBIT_INLINE void TransposePanel(const uint16_t* lines, int pairs, uint16_t* out) {
  for (int done = 0; done < pairs; done += kTilePairs, lines += kTileValues, out += kTileValues) {
    __m512i block[16];
    LOWBIT_UNROLL(16)
    for (int i = 0; i < 16; ++i)
      block[i] = done + i < pairs ? _mm512_loadu_si512(lines + static_cast<size_t>(i) * kLine) : _mm512_setzero_si512();
    Transpose16(block);
    LOWBIT_UNROLL(16)
    for (int i = 0; i < 16; ++i) _mm512_store_si512(out + static_cast<size_t>(i) * kLine, block[i]);
  }
}

// Where the sums of 16 x 16 elements of c lie for the tiles: c itself, or a copy for what is smaller.
struct Block {
  float* c;
  size_t ldc;
  int rows, columns;

  bool Whole() const { return rows == kPanelRows && columns == kPanelRows; }
};

template <int kTileNumber>
LOWBIT_INLINE void LoadSums(const Block& block, bool add, Operands& memory) {
  if (!add) {
    ZeroTile<kTileNumber>();
  } else if (block.Whole()) {
    LoadTile<kTileNumber>(block.c, block.ldc * sizeof(float));
  } else {
    for (int i = 0; i < kPanelRows; ++i)
      Store(memory.sums[i], i < block.rows ? Load(block.c + static_cast<size_t>(i) * block.ldc, First{block.columns}) : Zero());
    LoadTile<kTileNumber>(memory.sums, sizeof(memory.sums[0]));
  }
}

template <int kTileNumber>
LOWBIT_INLINE void StoreSums(const Block& block, Operands& memory) {
  if (block.Whole()) {
    StoreTile<kTileNumber>(block.c, block.ldc * sizeof(float));
  } else {
    StoreTile<kTileNumber>(memory.sums, sizeof(memory.sums[0]));
    for (int i = 0; i < block.rows; ++i) Store(block.c + static_cast<size_t>(i) * block.ldc, Load(memory.sums[i]), First{block.columns});
  }
}

// kRows x kColumns tiles of c, over all pairs of the block. b: the first line of the first panel; rest: of whole tiles of pairs, the lines
// that are left over.
template <int kRows, int kColumns>
LOWBIT_INLINE void MultiplyTiles(Operands& memory, const uint16_t* b, size_t b_stride, int pairs, const Block (&blocks)[2][2], bool add) {
  LoadSums<kSums>(blocks[0][0], add, memory);
  if constexpr (kColumns == 2) LoadSums<kSums + 1>(blocks[0][1], add, memory);
  if constexpr (kRows == 2) LoadSums<kSums + 2>(blocks[1][0], add, memory);
  if constexpr (kRows == 2 && kColumns == 2) LoadSums<kSums + 3>(blocks[1][1], add, memory);
  constexpr size_t kLineBytes = kLine * sizeof(uint16_t);
  for (int done = 0, tile = 0; done < pairs; done += kTilePairs, ++tile) {
    const uint16_t* right[2] = {b + static_cast<size_t>(tile) * kTileValues, b + b_stride + static_cast<size_t>(tile) * kTileValues};
    if (pairs - done < kTilePairs) {
      right[0] = memory.rest[0];
      right[1] = memory.rest[1];
    }
    LoadTile<kLeft>(memory.a[0] + static_cast<size_t>(tile) * kTileValues, kLineBytes);
    if constexpr (kRows == 2) LoadTile<kLeft + 1>(memory.a[1] + static_cast<size_t>(tile) * kTileValues, kLineBytes);
    LoadTile<kRight>(right[0], kLineBytes);
    if constexpr (kColumns == 2) LoadTile<kRight + 1>(right[1], kLineBytes);
    DotTilesBf16<kSums, kLeft, kRight>();
    if constexpr (kColumns == 2) DotTilesBf16<kSums + 1, kLeft, kRight + 1>();
    if constexpr (kRows == 2) DotTilesBf16<kSums + 2, kLeft + 1, kRight>();
    if constexpr (kRows == 2 && kColumns == 2) DotTilesBf16<kSums + 3, kLeft + 1, kRight + 1>();
  }
  StoreSums<kSums>(blocks[0][0], memory);
  if constexpr (kColumns == 2) StoreSums<kSums + 1>(blocks[0][1], memory);
  if constexpr (kRows == 2) StoreSums<kSums + 2>(blocks[1][0], memory);
  if constexpr (kRows == 2 && kColumns == 2) StoreSums<kSums + 3>(blocks[1][1], memory);
}

}  // namespace

void amx::GemmBf16(const uint16_t* a, size_t a_stride, const uint16_t* b, size_t b_stride, int m, int n, int pairs, float* c, size_t ldc,
                   bool accumulate) {
  TileConfig config;
  for (int t = 0; t < 8; ++t) config.Set(t, kPanelRows, 64);
  ConfigureTiles(config);
  Operands memory;
  int done = 0;
  do {  // at least once: no pairs still define c
    const int count = pairs - done < kBlockPairs ? pairs - done : kBlockPairs;
    const size_t line = static_cast<size_t>(done) * kLine;
    const bool add = accumulate || done > 0;
    for (int row = 0; row < m; row += 2 * kPanelRows) {
      const int row_panels = m - row > kPanelRows ? 2 : 1;
      for (int p = 0; p < row_panels; ++p)
        TransposePanel(a + static_cast<size_t>(row / kPanelRows + p) * a_stride + line, count, memory.a[p]);
      for (int column = 0; column < n; column += 2 * kPanelRows) {
        const int panels = n - column > kPanelRows ? 2 : 1;
        const uint16_t* from = b + static_cast<size_t>(column / kPanelRows) * b_stride + line;
        const int whole = count / kTilePairs * kTilePairs;
        for (int p = 0; p < panels && whole < count; ++p)
          for (int i = 0; i < kTilePairs; ++i)
            StoreLine(reinterpret_cast<uint8_t*>(memory.rest[p] + static_cast<size_t>(i) * kLine),
                      whole + i < count
                          ? _mm512_loadu_si512(from + static_cast<size_t>(p) * b_stride + static_cast<size_t>(whole + i) * kLine)
                          : ZeroInt());
        Block blocks[2][2];
        for (int i = 0; i < 2; ++i)
          for (int j = 0; j < 2; ++j) {
            const int rows = m - row - i * kPanelRows, columns = n - column - j * kPanelRows;
            blocks[i][j] = {c + static_cast<size_t>(row + i * kPanelRows) * ldc + column + j * kPanelRows, ldc,
                            rows < kPanelRows ? rows : kPanelRows, columns < kPanelRows ? columns : kPanelRows};
          }
        if (row_panels == 2 && panels == 2)
          MultiplyTiles<2, 2>(memory, from, b_stride, count, blocks, add);
        else if (row_panels == 2)
          MultiplyTiles<2, 1>(memory, from, b_stride, count, blocks, add);
        else if (panels == 2)
          MultiplyTiles<1, 2>(memory, from, b_stride, count, blocks, add);
        else
          MultiplyTiles<1, 1>(memory, from, b_stride, count, blocks, add);
      }
    }
    done += count;
  } while (done < pairs);
  ReleaseTiles();
}

}  // namespace lowbit
#endif
