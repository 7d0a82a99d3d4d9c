// test/native: compiles the products of kernel/amx over the emulated tiles. This file is compiled for AVX-512 (CMakeLists.txt), so it
// includes no std:: header and nothing here may run on other processors but the accessors.
#define LOWBIT_AMX_EMULATION "amx_emulation.h"
#include "amx_emulated.h"

#include "kernel/amx/affine_gemm.cc"
#include "kernel/amx/gemm_bf16.cc"

namespace lowbit_test {

int& TileFaults() {
  static int faults = 0;
  return faults;
}

bool& TilesInUse() {
  static bool in_use = false;
  return in_use;
}

#ifdef LOWBIT_AMX
using namespace lowbit;

const KernelTable* EmulatedAmxKernels() {
  static KernelTable table;
  table = *Avx512Kernels();
  table.name = "amx (emulated)";
  table.gemm_tile = amx::kGemmTile;
  table.affine_gemm = amx::AffineGemm;
  return &table;
}

void EmulateAmxBf16(KernelTable* table) {
  table->name = "amx (emulated)";
  table->gemm_bf16 = amx::GemmBf16;
}

bool EmulationIsRight() {
  const int before = TileFaults();
  constexpr int kM = 3, kQuads = 2, kN = 5;
  TileConfig config;
  config.Set(0, kM, 4 * kN);
  config.Set(1, kM, 4 * kQuads);
  config.Set(2, kQuads, 4 * kN);
  int8_t a[kM][4 * kQuads], b[kQuads][kN][4];
  int32_t c[kM][kN];
  for (int i = 0; i < kM * 4 * kQuads; ++i) a[i / (4 * kQuads)][i % (4 * kQuads)] = static_cast<int8_t>(i * 41 - 128);
  for (int i = 0; i < kQuads * kN * 4; ++i) b[i / (4 * kN)][i / 4 % kN][i % 4] = static_cast<int8_t>(i * 57 + 100);
  ConfigureTiles(config);
  ZeroTile<0>();
  LoadTile<1>(a, sizeof(a[0]));
  LoadTile<2>(b, sizeof(b[0]));
  DotTiles<0, 1, 2>();
  DotTiles<0, 1, 2>();  // adds
  StoreTile<0>(c, sizeof(c[0]));
  bool right = TileFaults() == before;
  for (int m = 0; m < kM; ++m) {
    for (int n = 0; n < kN; ++n) {
      int expected = 0;
      for (int k = 0; k < 4 * kQuads; ++k) expected += 2 * a[m][k] * b[k / 4][n][k % 4];
      right = right && c[m][n] == expected;
    }
  }
  DotTiles<0, 2, 1>();  // shapes that do not fit
  right = right && TileFaults() > before;
  ReleaseTiles();
  const int released = TileFaults();
  ZeroTile<0>();  // no configuration
  right = right && TileFaults() > released && !TilesInUse();
  TileFaults() = before;
  return right;
}
#else
const lowbit::KernelTable* EmulatedAmxKernels() { return nullptr; }
void EmulateAmxBf16(lowbit::KernelTable*) {}
bool EmulationIsRight() { return true; }
#endif

}  // namespace lowbit_test
