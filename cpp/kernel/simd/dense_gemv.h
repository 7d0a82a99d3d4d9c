// kernel/simd: one row times a dense weight, for token-by-token decoding (embedding heads of quantised models are dense, and are
// then most of the bytes). The weights go from memory through a register into the sum: no scratch, two integer operations per 32
// bf16 weights.
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

// Panels summed side by side: enough independent chains of FMAs to hide their latency.
constexpr int kGemvPanels = 4;

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
  constexpr int kParts = kPanelRows / kLanes;
  constexpr size_t kAhead = 2048, kPairBytes = kKind == PackedKind::kDenseF32 ? 128 : 64;
  const uint8_t* data = w.data + static_cast<size_t>(panel) * w.panel_bytes;
  const size_t k = static_cast<size_t>(w.k);
  Float sums[kPanels][kParts];
  LOWBIT_UNROLL(4)
  for (auto& row : sums)
    for (Float& sum : row) sum = Zero();
  for (size_t column = 0; column < k; column += 2) {
    // The 16-bit panels are padded to an even width with zeros; of f32 and of x nothing beyond column k - 1 is read.
    const bool whole = column + 1 < k;
    const Float first = Set(x[column]), second = whole ? Set(x[column + 1]) : Zero();
    LOWBIT_UNROLL(4)
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* source = data + static_cast<size_t>(p) * w.panel_bytes;
      __builtin_prefetch(source + column / 2 * kPairBytes + kAhead);
      LOWBIT_UNROLL(2)
      for (int part = 0; part < kParts; ++part) {
        Float even, odd;
        if (kKind == PackedKind::kDenseF32 && !whole) {
          even = Load(reinterpret_cast<const float*>(source) + column * kPanelRows + part * kLanes);
          odd = Zero();
        } else {
          LoadColumnPair<kKind>(source, column, part * kLanes, even, odd);
        }
        sums[p][part] = Fma(odd, second, Fma(even, first, sums[p][part]));
      }
    }
  }
  for (int p = 0; p < kPanels; ++p)
    for (int part = 0; part < kParts; ++part) {
      const int column = (panel + p) * kPanelRows + part * kLanes, left = w.n - column;
      if (left >= kLanes)
        Store(y + column, accumulate ? Add(Load(y + column), sums[p][part]) : sums[p][part]);
      else if (left > 0)
        Store(y + column, accumulate ? Add(Load(y + column, First{left}), sums[p][part]) : sums[p][part], First{left});
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
