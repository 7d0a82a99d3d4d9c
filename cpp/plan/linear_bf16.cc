// plan/: products of linear ops in bf16 with f32 sums: activations and weights are rounded to bf16, everything else is as on the
// exact path. Used where the kernel table has gemm_bf16; ops_linear.cc decides which products come here.
#include <algorithm>

#include "plan/executor.h"

namespace lowbit {
namespace {

// Weight panels and columns unpacked at a time: what one register block of gemm_bf16 sweeps over all rows, 24 KiB in the
// first-level cache.
constexpr int kPanels = 3;
constexpr int kColumns = 256;
static_assert(size_t(kPanels) * kColumns * kPanelRows * sizeof(uint16_t) <= kGemmScratchBytes);

size_t PanelStride(int k) { return static_cast<size_t>(k + 1) / 2 * 2 * kPanelRows; }

}  // namespace

// Packs the input rows x[rows][ldx] of k columns into packed_rows_.
void Executor::PackBf16(const float* x, size_t ldx, int rows, int k) {
  uint16_t* out = reinterpret_cast<uint16_t*>(packed_rows_);
  pool_.Run((rows + kPanelRows - 1) / kPanelRows, [&](int tile, int) {
    const int r = tile * kPanelRows;
    kernels_.pack_rows_bf16(x + static_cast<size_t>(r) * ldx, ldx, std::min(kPanelRows, rows - r), k,
                            out + static_cast<size_t>(tile) * PanelStride(k));
  });
}

// y[rows][ldy] (+)= packed rows x panels [panel0, panel1) of w; y points at column 0. scratch: kGemmScratchBytes.
void Executor::MultiplyBf16(const PackedView& w, int rows, int panel0, int panel1, float* y, size_t ldy, bool accumulate,
                            uint8_t* scratch) {
  const uint16_t* x = reinterpret_cast<const uint16_t*>(packed_rows_);
  uint16_t* lines = reinterpret_cast<uint16_t*>(scratch);
  for (int p = panel0; p < panel1; p += kPanels) {
    const int panels = std::min(kPanels, panel1 - p), columns = std::min(w.n - p * kPanelRows, panels * kPanelRows);
    for (int k0 = 0; k0 < w.k; k0 += kColumns) {
      const int kc = std::min(kColumns, w.k - k0), pairs = (kc + 1) / 2;
      const size_t stride = static_cast<size_t>(pairs) * 2 * kPanelRows;
      for (int i = 0; i < panels; ++i) kernels_.unpack_panel_bf16(w, p + i, k0, kc, lines + static_cast<size_t>(i) * stride);
      kernels_.gemm_bf16(x + static_cast<size_t>(k0) * kPanelRows, PanelStride(w.k), lines, stride, rows, columns, pairs,
                         y + p * kPanelRows, ldy, accumulate || k0 > 0);
    }
  }
}

}  // namespace lowbit
