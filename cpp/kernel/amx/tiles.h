// kernel/amx: the tile instructions that the products of this room use, by name. Tile numbers are immediates, hence template parameters.
// LOWBIT_AMX is defined when this file is compiled for the instruction set; otherwise the room compiles to nothing.
// A test defines LOWBIT_AMX_EMULATION as the name of a header with the same functions on plain arrays, and then compiles the very
// same products: few machines have these instructions, and none of them refuses as much.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VNNI__) && \
    ((defined(__AMX_TILE__) && defined(__AMX_INT8__)) || defined(LOWBIT_AMX_EMULATION))
#define LOWBIT_AMX 1

#include <cstddef>
#include <cstdint>

#include "kernel/avx512/lanes.h"

namespace lowbit {
namespace {

// What LDTILECFG reads: palette 1, and rows and bytes per row of each tile (Intel SDM volume 1, section 18.3).
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void Set(int tile, int tile_rows, int tile_row_bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(tile_row_bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace
}  // namespace lowbit

#ifdef LOWBIT_AMX_EMULATION
#include LOWBIT_AMX_EMULATION
#else

namespace lowbit {
namespace {

// Written in assembly, not with the intrinsics of GCC 12: those do not say which memory they read (so the compiler may move the
// stores that fill it behind them) and take tile numbers only as literals of the preprocessor. AT&T order: the destination is last.

// Tile state belongs to the thread: set up inside a call, and given back before it returns, so that a context switch of an idle
// thread need not save 8 KB.
LOWBIT_INLINE void ConfigureTiles(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
LOWBIT_INLINE void ReleaseTiles() { asm volatile("tilerelease" : : : "memory"); }

template <int kTile>
LOWBIT_INLINE void ZeroTile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// rows x row_bytes of the tile's configuration, line r at from + r * stride.
template <int kTile>
LOWBIT_INLINE void LoadTile(const void* from, size_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
LOWBIT_INLINE void StoreTile(void* to, size_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}
// kSum[r][c] += sum over g of the dot product of bytes 4g..4g+3 of kLeft[r] and 4c..4c+3 of kRight[g], all signed.
template <int kSum, int kLeft, int kRight>
LOWBIT_INLINE void DotTiles() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

// kSum[r][c] += sum over g of kLeft[r][2g] kRight[g][2c] and of kLeft[r][2g+1] kRight[g][2c+1], bf16 with f32 sums, each of the two
// in order and then together; denormals count as zero.
template <int kSum, int kLeft, int kRight>
LOWBIT_INLINE void DotTilesBf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

}  // namespace
}  // namespace lowbit
#endif
#endif
