// kernel/ref/exact: the exact path in portable C++: f32 GEMM over packed operands, and the packing of both sides.
#include <cstring>

#include "base/half.h"
#include "kernel/ref/ref.h"
#include "part/layout.h"

namespace lowbit::ref {
namespace {

// Accumulators of one step: 4 rows x 8 columns are 8 SSE or NEON registers, which leaves room for the operands.
constexpr int kTileRows = 4;
constexpr int kTileColumns = 8;

void Tile(const float* a, size_t a_line_stride, const float* b, size_t b_line_stride, int k, float sums[kTileRows][kTileColumns]) {
  Vector4 acc[kTileRows][kTileColumns / 4] = {};
  for (int s = 0; s < k; ++s, a += a_line_stride, b += b_line_stride) {
    for (int j = 0; j < kTileColumns / 4; ++j) {
      const Vector4 value = Load4(b + 4 * j);
      for (int i = 0; i < kTileRows; ++i) acc[i][j] += value * a[i];
    }
  }
  std::memcpy(sums, acc, sizeof(acc));
}

}  // namespace

void GemmF32(const float* a, size_t a_tile_stride, size_t a_line_stride, const float* b, size_t b_panel_stride, size_t b_line_stride, int m,
             int n, int k, float* c, size_t ldc, bool accumulate) {
  for (int j0 = 0; j0 < n; j0 += kTileColumns) {
    const float* b_tile = b + static_cast<size_t>(j0 / kPanelRows) * b_panel_stride + j0 % kPanelRows;
    const int columns = n - j0 < kTileColumns ? n - j0 : kTileColumns;
    for (int i0 = 0; i0 < m; i0 += kTileRows) {
      const float* a_tile = a + static_cast<size_t>(i0 / kRowTile) * a_tile_stride + i0 % kRowTile;
      const int rows = m - i0 < kTileRows ? m - i0 : kTileRows;
      float sums[kTileRows][kTileColumns];
      Tile(a_tile, a_line_stride, b_tile, b_line_stride, k, sums);
      for (int i = 0; i < rows; ++i) {
        float* out = c + static_cast<size_t>(i0 + i) * ldc + j0;
        for (int j = 0; j < columns; ++j) out[j] = accumulate ? out[j] + sums[i][j] : sums[i][j];
      }
    }
  }
}

void UnpackPanel(const PackedView& w, int panel, int k0, int kc, float* out) {
  const uint8_t* base = w.data + static_cast<size_t>(panel) * w.panel_bytes;
  const size_t lanes = kPanelRows, first = static_cast<size_t>(k0), count = static_cast<size_t>(kc);
  if (w.kind == PackedKind::kDenseF32) {
    std::memcpy(out, base + first * lanes * 4, count * lanes * 4);
    return;
  }
  if (w.kind == PackedKind::kDenseF16) {
    for (size_t i = 0; i < count * lanes; ++i) {
      uint16_t value;
      std::memcpy(&value, base + (first * lanes + i) * 2, 2);
      out[i] = HalfToFloat(value);
    }
    return;
  }
  if (w.kind == PackedKind::kDenseBf16) {
    for (size_t c = 0; c < count; ++c) {
      const size_t column = first + c;
      for (size_t r = 0; r < lanes; ++r) {
        uint16_t value;
        std::memcpy(&value, base + ((column / 2 * lanes + r) * 2 + column % 2) * 2, 2);
        out[c * lanes + r] = Bfloat16ToFloat(value);
      }
    }
    return;
  }
  const AffineLayout layout(w);
  const size_t run = w.group_size == 16 ? 16 : kSubBlock;  // columns that share a record inside a sub-block
  for (size_t begin = 0; begin < count; begin += kSubBlock) {
    const size_t sub_block = (first + begin) / kSubBlock, end = begin + kSubBlock < count ? begin + kSubBlock : count;
    uint32_t quads[8][kPanelRows];
    LoadSubBlock(base + layout.SubBlockOffset(sub_block), w.bits, quads);
    float scales[kPanelRows], seconds[kPanelRows];
    for (size_t c = begin; c < end; ++c) {
      const size_t column = first + c, inner = c - begin;
      if (inner % run == 0) {
        LoadRecord(w, layout, base, column / static_cast<size_t>(w.group_size), scales, seconds);
      }
      const uint32_t* quad = quads[inner / 4];
      const size_t shift = inner % 4 * 8;
      for (size_t r = 0; r < lanes; ++r) {
        const float code = static_cast<float>(static_cast<int32_t>(quad[r] >> shift & 255));
        out[c * lanes + r] = w.affine == AffineKind::kMinimum ? scales[r] * code + seconds[r] : scales[r] * (code - seconds[r]);
      }
    }
  }
}

void PackRows(const float* x, size_t ldx, int rows, int k, float* out) {
  const size_t columns = static_cast<size_t>(k);
  for (int row0 = 0; row0 < rows; row0 += kRowTile, out += columns * kRowTile) {
    for (int i = 0; i < kRowTile; ++i) {
      const bool padding = row0 + i >= rows;
      const float* source = padding ? x : x + static_cast<size_t>(row0 + i) * ldx;
      for (size_t s = 0; s < columns; ++s) out[s * kRowTile + static_cast<size_t>(i)] = padding ? 0.0f : source[s];
    }
  }
}

void DenseGemv(const PackedView& w, const float* x, float* y, int panel0, int panel1, bool accumulate) {
  constexpr int kColumns = 64;  // 4 KiB unpacked at a time
  float lines[kColumns * kPanelRows];
  for (int panel = panel0; panel < panel1; ++panel) {
    float sums[kPanelRows] = {};
    for (int k0 = 0; k0 < w.k; k0 += kColumns) {
      const int columns = w.k - k0 < kColumns ? w.k - k0 : kColumns;
      UnpackPanel(w, panel, k0, columns, lines);
      for (int j = 0; j < columns; ++j)
        for (int r = 0; r < kPanelRows; ++r) sums[r] += lines[j * kPanelRows + r] * x[k0 + j];
    }
    const int rows = w.n - panel * kPanelRows < kPanelRows ? w.n - panel * kPanelRows : kPanelRows;
    float* out = y + static_cast<size_t>(panel) * kPanelRows;
    for (int r = 0; r < rows; ++r) out[r] = accumulate ? out[r] + sums[r] : sums[r];
  }
}

void SparseFew(const SparseView& w, const float* x, size_t ldx, int m, float* y, size_t ldy, int panel0, int panel1, bool accumulate) {
  for (int panel = panel0; panel < panel1; ++panel) {
    const int columns = w.n - panel * kPanelRows < kPanelRows ? w.n - panel * kPanelRows : kPanelRows;
    const int own = w.starts[panel] + w.shared[panel];
    for (int r = 0; r < m; ++r) {
      const float* row = x + static_cast<size_t>(r) * ldx;
      float sums[kPanelRows] = {};
      for (int line = w.starts[panel]; line < w.starts[panel + 1]; ++line) {
        uint16_t at[kPanelRows], values[kPanelRows];
        std::memcpy(at, w.lines + static_cast<size_t>(line) * kSparseLine, sizeof(at));
        std::memcpy(values, w.lines + static_cast<size_t>(line) * kSparseLine + sizeof(at), sizeof(values));
        for (int i = 0; i < kPanelRows; ++i) sums[line < own ? i : w.owners[line]] += HalfToFloat(values[i]) * row[at[i]];
      }
      float* out = y + static_cast<size_t>(r) * ldy + static_cast<size_t>(panel) * kPanelRows;
      for (int i = 0; i < columns; ++i) out[i] = accumulate ? out[i] + sums[i] : sums[i];
    }
  }
}

}  // namespace lowbit::ref
