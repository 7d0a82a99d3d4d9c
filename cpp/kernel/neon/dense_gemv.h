// kernel/neon: one row times a dense weight, for token-by-token decoding. The weights go from memory through a register into the
// sum; activations are taken by lane, four columns at a time. Per 4 weights: 1 FMLA, and 1 instruction to widen (none for f32).
#pragma once

#include "kernel/kernel.h"
#include "kernel/neon/lanes.h"

namespace lowbit {
namespace {

// Panels summed side by side: 16 independent chains of FMLAs hide their latency on up to four pipes.
constexpr int kGemvPanels = 4;
constexpr int kGemvParts = kPanelRows / kLanes;

// Columns `column` (even) and column + 1 of kLanes rows from row0 on.
template <PackedKind kKind>
LOWBIT_INLINE void LoadColumnPair(const uint8_t* panel, size_t column, int row0, Float& even, Float& odd) {
  if constexpr (kKind == PackedKind::kDenseBf16) {
    const Int pair = LoadLine(panel + column / 2 * 64 + row0 * 4);
    even = FloatOfBits(ShiftLeft32(pair, 16));
    odd = FloatOfBits(And(pair, SetInt(static_cast<int32_t>(0xffff0000u))));
  } else if constexpr (kKind == PackedKind::kDenseF16) {
    even = LoadHalf(panel + (column * kPanelRows + static_cast<size_t>(row0)) * 2);
    odd = LoadHalf(panel + ((column + 1) * kPanelRows + static_cast<size_t>(row0)) * 2);
  } else {
    const float* line = reinterpret_cast<const float*>(panel) + column * kPanelRows + row0;
    even = Load(line);
    odd = Load(line + kPanelRows);
  }
}

template <PackedKind kKind, int kPanels>
void GemvPanels(const PackedView& w, const float* x, float* y, int panel, bool accumulate) {
  const uint8_t* data = w.data + static_cast<size_t>(panel) * w.panel_bytes;
  const size_t k = static_cast<size_t>(w.k);
  Float sums[kPanels][kGemvParts];
  LOWBIT_UNROLL(4)
  for (int p = 0; p < kPanels; ++p) {
    LOWBIT_UNROLL(4)
    for (int part = 0; part < kGemvParts; ++part) sums[p][part] = Zero();
  }
  const auto pair = [&](size_t column, float first, float second) {
    LOWBIT_UNROLL(4)
    for (int p = 0; p < kPanels; ++p) {
      LOWBIT_UNROLL(4)
      for (int part = 0; part < kGemvParts; ++part) {
        Float even, odd;
        LoadColumnPair<kKind>(data + static_cast<size_t>(p) * w.panel_bytes, column, part * kLanes, even, odd);
        sums[p][part] = vfmaq_n_f32(vfmaq_n_f32(sums[p][part], even, first), odd, second);
      }
    }
  };
  size_t column = 0;
  for (; column + 4 <= k; column += 4) {
    const Float four = Load(x + column);
    pair(column, four[0], four[1]);
    pair(column + 2, four[2], four[3]);
  }
  if (column + 2 <= k) {
    pair(column, x[column], x[column + 1]);
    column += 2;
  }
  if (column < k) {
    if constexpr (kKind == PackedKind::kDenseF32) {  // nothing is stored beyond column k - 1
      LOWBIT_UNROLL(4)
      for (int p = 0; p < kPanels; ++p) {
        const float* line = reinterpret_cast<const float*>(data + static_cast<size_t>(p) * w.panel_bytes) + column * kPanelRows;
        LOWBIT_UNROLL(4)
        for (int part = 0; part < kGemvParts; ++part) sums[p][part] = vfmaq_n_f32(sums[p][part], Load(line + part * kLanes), x[column]);
      }
    } else {  // padded to an even width with zeros
      pair(column, x[column], 0);
    }
  }
  LOWBIT_UNROLL(4)
  for (int p = 0; p < kPanels; ++p) {
    LOWBIT_UNROLL(4)
    for (int part = 0; part < kGemvParts; ++part) {
      const int row = (panel + p) * kPanelRows + part * kLanes, left = w.n - row;
      if (left >= kLanes)
        Store(y + row, accumulate ? Add(Load(y + row), sums[p][part]) : sums[p][part]);
      else if (left > 0)
        Store(y + row, accumulate ? Add(Load(y + row, First{left}), sums[p][part]) : sums[p][part], First{left});
    }
  }
}

template <PackedKind kKind>
void GemvKind(const PackedView& w, const float* x, float* y, int panel0, int panel1, bool accumulate) {
  int panel = panel0;
  for (; panel + kGemvPanels <= panel1; panel += kGemvPanels) GemvPanels<kKind, kGemvPanels>(w, x, y, panel, accumulate);
  for (; panel < panel1; ++panel) GemvPanels<kKind, 1>(w, x, y, panel, accumulate);
}

void DenseGemv(const PackedView& w, const float* x, float* y, int panel0, int panel1, bool accumulate) {
  switch (w.kind) {
    case PackedKind::kDenseF32:
      return GemvKind<PackedKind::kDenseF32>(w, x, y, panel0, panel1, accumulate);
    case PackedKind::kDenseF16:
      return GemvKind<PackedKind::kDenseF16>(w, x, y, panel0, panel1, accumulate);
    default:
      return GemvKind<PackedKind::kDenseBf16>(w, x, y, panel0, panel1, accumulate);
  }
}

}  // namespace
}  // namespace lowbit
