// test/native: kernel/amx in emulation. The products themselves are in simd_kernel_test.cc, which runs the emulated table beside the
// others; here: that the emulation is strict, that no tile was misused, and that kernel/self_check tells right from wrong.
#include <cmath>

#include "amx_emulated.h"
#include "base/half.h"
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
// Right but for the last element.
void ProductsBf16(const uint16_t* a, size_t a_stride, const uint16_t* b, size_t b_stride, int m, int n, int pairs, float* c, size_t ldc,
                  float wrong) {
  const auto value = [](const uint16_t* p, size_t stride, int row, int s) {
    const size_t at = static_cast<size_t>(row / 16) * stride + static_cast<size_t>(s / 2 * 32 + row % 16 * 2 + s % 2);
    return Bfloat16ToFloat(p[at]);
  };
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j)
      for (int s = 0; s < 2 * pairs; ++s)
        c[static_cast<size_t>(i) * ldc + static_cast<size_t>(j)] += value(a, a_stride, i, s) * value(b, b_stride, j, s);
  c[static_cast<size_t>(m - 1) * ldc + static_cast<size_t>(n - 1)] += wrong;
}
void SlightlyWrongBf16(const uint16_t* a, size_t a_stride, const uint16_t* b, size_t b_stride, int m, int n, int pairs, float* c,
                       size_t ldc, bool) {
  ProductsBf16(a, a_stride, b, b_stride, m, n, pairs, c, ldc, 0.25f);
}
void NotANumberBf16(const uint16_t* a, size_t a_stride, const uint16_t* b, size_t b_stride, int m, int n, int pairs, float* c, size_t ldc,
                    bool) {
  ProductsBf16(a, a_stride, b, b_stride, m, n, pairs, c, ldc, std::nanf(""));
}
void NothingBf16(const uint16_t*, size_t, const uint16_t*, size_t, int, int, int, float*, size_t, bool) {}
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
  for (const KernelTable* t : Tables()) {
    EXPECT(GemmIsRight(*t));
    if (t->gemm_bf16 != nullptr) EXPECT(Bf16GemmIsRight(*t));
  }
}

LOWBIT_TEST(self_check_finds_wrong_products) {
  g_base = RefKernels();
  for (const auto wrong : {SlightlyWrong, NotANumber, Nothing}) {
    KernelTable table = *g_base;
    table.affine_gemm = wrong;
    EXPECT(!GemmIsRight(table));
  }
  KernelTable table = *g_base;
  for (const auto wrong : {SlightlyWrongBf16, NotANumberBf16, NothingBf16}) {
    table.gemm_bf16 = wrong;
    EXPECT(!Bf16GemmIsRight(table));
  }
}
