// plan/: products of linear ops in bf16 with f32 sums: activations and weights are rounded to bf16, everything else is as on the
// exact path. Used where the kernel table has gemm_bf16; ops_linear.cc decides which products come here.
#include <algorithm>

#include "plan/linear.h"

namespace lowbit {
namespace {

// Weight panels and columns unpacked at a time: what one register block of gemm_bf16 sweeps over all rows, 24 KiB in the
// first-level cache.
constexpr int kPanels = 3;
constexpr int kColumns = 256;
static_assert(size_t(kPanels) * kColumns * kPanelRows * sizeof(uint16_t) <= kGemmScratchBytes);

}  // namespace

void MultiplyBf16(const KernelTable& kernels, const PackedView& w, const uint16_t* packed, int m, int panel0, int panel1, float* y,
                  size_t ldy, uint8_t* scratch) {
  uint16_t* lines = reinterpret_cast<uint16_t*>(scratch);
  for (int p = panel0; p < panel1; p += kPanels) {
    const int panels = std::min(kPanels, panel1 - p), columns = std::min(w.n - p * kPanelRows, panels * kPanelRows);
    for (int k0 = 0; k0 < w.k; k0 += kColumns) {
      const int kc = std::min(kColumns, w.k - k0), pairs = (kc + 1) / 2;
      const size_t stride = static_cast<size_t>(pairs) * 2 * kPanelRows;
      for (int i = 0; i < panels; ++i) kernels.unpack_panel_bf16(w, p + i, k0, kc, lines + static_cast<size_t>(i) * stride);
      kernels.gemm_bf16(packed + static_cast<size_t>(k0) * kPanelRows, Bf16PanelStride(w.k), lines, stride, m, columns, pairs,
                        y + p * kPanelRows, ldy, k0 > 0);
    }
  }
}

}  // namespace lowbit
