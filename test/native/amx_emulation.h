// test/native: the tile instructions of kernel/amx/tiles.h on plain arrays, after the operation sections of the Intel SDM (volume 2:
// LDTILECFG, TILEZERO, TILELOADD, TILESTORED, TDPBSSD, TDPBF16PS, TILERELEASE). Stricter than a processor: what would raise #UD or #GP is
// counted, tiles hold rubbish after configuration instead of zero, and the bytes a smaller tile does not have cannot be read.
// Included into the products of kernel/amx by test/native/amx_emulated.cc.
#pragma once

#include "amx_emulated.h"

namespace lowbit {
namespace {

struct EmulatedTile {
  int rows = 0, row_bytes = 0;
  uint8_t bytes[16][64];
};

struct EmulatedTiles {
  bool configured = false;
  EmulatedTile tiles[8];
};

EmulatedTiles& Tiles() {
  static thread_local EmulatedTiles tiles;
  return tiles;
}

void Fault() { ++lowbit_test::TileFaults(); }

// A tile that may be used: configured, with rows and columns.
EmulatedTile& Used(int number) {
  EmulatedTile& tile = Tiles().tiles[number];
  if (!Tiles().configured || tile.rows == 0) Fault();
  return tile;
}

void ConfigureTiles(const TileConfig& config) {
  EmulatedTiles& all = Tiles();
  all.configured = true;
  lowbit_test::TilesInUse() = true;
  if (reinterpret_cast<uintptr_t>(&config) % 64 != 0) Fault();  // no rule of the instruction, but it should not cross a line
  if (config.palette != 1 || config.start_row != 0) Fault();
  for (const uint8_t reserved : config.reserved) {
    if (reserved != 0) Fault();
  }
  for (int t = 0; t < 16; ++t) {
    const int rows = config.rows[t], row_bytes = config.row_bytes[t];
    if (t >= 8) {
      if (rows != 0 || row_bytes != 0) Fault();
      continue;
    }
    if (rows > 16 || row_bytes > 64 || (rows == 0) != (row_bytes == 0)) Fault();
    all.tiles[t].rows = rows;
    all.tiles[t].row_bytes = row_bytes;
    std::memset(all.tiles[t].bytes, 0x5a, sizeof(all.tiles[t].bytes));
  }
}

void ReleaseTiles() {
  if (!Tiles().configured) Fault();
  Tiles().configured = false;
  lowbit_test::TilesInUse() = false;
}

template <int kTile>
void ZeroTile() {
  std::memset(Used(kTile).bytes, 0, sizeof(EmulatedTile::bytes));
}

template <int kTile>
void LoadTile(const void* from, size_t stride) {
  EmulatedTile& tile = Used(kTile);
  std::memset(tile.bytes, 0, sizeof(tile.bytes));
  for (int r = 0; r < tile.rows; ++r)
    std::memcpy(tile.bytes[r], static_cast<const uint8_t*>(from) + static_cast<size_t>(r) * stride, static_cast<size_t>(tile.row_bytes));
}

template <int kTile>
void StoreTile(void* to, size_t stride) {
  const EmulatedTile& tile = Used(kTile);
  for (int r = 0; r < tile.rows; ++r)
    std::memcpy(static_cast<uint8_t*>(to) + static_cast<size_t>(r) * stride, tile.bytes[r], static_cast<size_t>(tile.row_bytes));
}

// Three tiles whose shapes fit, in dwords.
void CheckProduct(const EmulatedTile& sum, const EmulatedTile& left, const EmulatedTile& right) {
  if (&sum == &left || &sum == &right || &left == &right) Fault();
  if (sum.rows != left.rows || sum.row_bytes != right.row_bytes || left.row_bytes != 4 * right.rows) Fault();
  if (sum.row_bytes % 4 != 0 || left.row_bytes % 4 != 0) Fault();
}

template <int kSum, int kLeft, int kRight>
void DotTiles() {
  EmulatedTile& sum = Used(kSum);
  const EmulatedTile &left = Used(kLeft), &right = Used(kRight);
  CheckProduct(sum, left, right);
  for (int m = 0; m < sum.rows; ++m) {
    for (int k = 0; k < left.row_bytes / 4; ++k) {
      for (int n = 0; n < sum.row_bytes / 4; ++n) {
        int32_t dot;
        std::memcpy(&dot, sum.bytes[m] + 4 * n, sizeof(dot));
        for (int i = 0; i < 4; ++i) dot += static_cast<int8_t>(left.bytes[m][4 * k + i]) * static_cast<int8_t>(right.bytes[k][4 * n + i]);
        std::memcpy(sum.bytes[m] + 4 * n, &dot, sizeof(dot));
      }
    }
  }
}

// Denormal operands are zero, sums are rounded to nearest (denormal sums stay, where the processor has zero).
template <int kSum, int kLeft, int kRight>
void DotTilesBf16() {
  EmulatedTile& sum = Used(kSum);
  const EmulatedTile &left = Used(kLeft), &right = Used(kRight);
  CheckProduct(sum, left, right);
  const auto value = [](const uint8_t* p) {
    uint32_t bits = (static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8) << 16;
    if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
    float f;
    std::memcpy(&f, &bits, sizeof(f));
    return f;
  };
  for (int m = 0; m < sum.rows; ++m) {
    for (int n = 0; n < sum.row_bytes / 4; ++n) {
      float dots[2] = {0, 0}, all;
      for (int k = 0; k < left.row_bytes / 4; ++k)
        for (int i = 0; i < 2; ++i) dots[i] += value(left.bytes[m] + 4 * k + 2 * i) * value(right.bytes[k] + 4 * n + 2 * i);
      std::memcpy(&all, sum.bytes[m] + 4 * n, sizeof(all));
      all += dots[0] + dots[1];
      std::memcpy(sum.bytes[m] + 4 * n, &all, sizeof(all));
    }
  }
}

}  // namespace
}  // namespace lowbit
