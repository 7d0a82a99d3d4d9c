// solve/pack: see pack.h. Moves floats only; no arithmetic.
#include "solve/pack.h"

#include <algorithm>
#include <cstring>

namespace lowbit {
namespace {

template <int kWidth>
void PackColumns(const float* src, size_t ld, int steps, int columns, float* out) {
  for (int c0 = 0; c0 < columns; c0 += kWidth) {
    const int width = std::min(kWidth, columns - c0);
    for (int s = 0; s < steps; ++s, out += kWidth) {
      const float* line = src + s * ld + c0;
      if (width == kWidth) {
        std::memcpy(out, line, kWidth * sizeof(float));
      } else {
        std::memcpy(out, line, width * sizeof(float));
        std::memset(out + width, 0, (kWidth - width) * sizeof(float));
      }
    }
  }
}

}  // namespace

void PackColumnTiles(const float* src, size_t ld, int steps, int columns, float* out) {
  PackColumns<kRowTile>(src, ld, steps, columns, out);
}

void PackColumnPanels(const float* src, size_t ld, int steps, int columns, float* out) {
  PackColumns<kPanelRows>(src, ld, steps, columns, out);
}

void PackRowPanels(const float* src, size_t ld, int rows, int steps, float* out) {
  for (int r0 = 0; r0 < rows; r0 += kPanelRows, out += size_t(kPanelRows) * steps) {
    const int width = std::min(kPanelRows, rows - r0);
    if (width < kPanelRows) std::memset(out, 0, size_t(kPanelRows) * steps * sizeof(float));
    for (int r = 0; r < width; ++r) {
      const float* row = src + (r0 + r) * ld;
      for (int s = 0; s < steps; ++s) out[size_t(s) * kPanelRows + r] = row[s];
    }
  }
}

}  // namespace lowbit
