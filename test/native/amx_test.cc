// test/native: kernel/amx in emulation. The products themselves are in simd_kernel_test.cc, which runs the emulated table beside the
// others; here: that the emulation is strict, that no tile was misused, and that kernel/self_check tells right from wrong.
#include "amx_emulated.h"
#include "kernel/self_check.h"
#include "kernel_tables.h"

using namespace lowbit;
using namespace lowbit_test;

namespace {

const KernelTable* g_base = nullptr;

// One product off by one part in a million, as from a broken instruction.
void SlightlyWrong(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                   uint8_t* scratch) {
  g_base->affine_gemm(w, x, y, ldy, panel0, panel1, accumulate, scratch);
  float& one = y[static_cast<size_t>(x.m - 1) * ldy + static_cast<size_t>(w.n - 1)];
  one += one * 1e-6f + 0.5f;
}
void NotANumber(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                uint8_t* scratch) {
  g_base->affine_gemm(w, x, y, ldy, panel0, panel1, accumulate, scratch);
  y[0] = std::nanf("");
}
void Nothing(const PackedView&, const QuantizedRows&, float*, size_t, int, int, bool, uint8_t*) {}

}  // namespace

LOWBIT_TEST(amx_emulation_is_strict) {
  if (!HasEmulatedAmx()) return;
  EXPECT(EmulationIsRight());
}

LOWBIT_TEST(amx_uses_tiles_as_allowed) {
  if (!HasEmulatedAmx()) return;
  TileFaults() = 0;
  EXPECT(GemmIsRight(*EmulatedAmxKernels()));
  EXPECT(TileFaults() == 0);
  EXPECT(!TilesInUse());  // given back
}

LOWBIT_TEST(self_check_accepts_every_table) {
  for (const KernelTable* t : Tables()) EXPECT(GemmIsRight(*t));
}

LOWBIT_TEST(self_check_finds_wrong_products) {
  g_base = RefKernels();
  for (const auto wrong : {SlightlyWrong, NotANumber, Nothing}) {
    KernelTable table = *g_base;
    table.affine_gemm = wrong;
    EXPECT(!GemmIsRight(table));
  }
}
