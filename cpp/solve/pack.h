// solve/pack: the operand layouts of gemm_f32 (kernel/kernel.h) made from row-major matrices.
// "Tiles" are A operands, kRowTile = 8 floats per step; "panels" are B operands, kPanelRows = 16 floats per step. Lanes
// beyond the matrix become zero, so that a whole tile or line may always be read.
#pragma once

#include <cstddef>

#include "kernel/kernel.h"

namespace lowbit {

inline int PadTo(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
inline size_t TileFloats(int steps, int columns) { return size_t(PadTo(columns, kRowTile)) * steps; }
inline size_t PanelFloats(int steps, int columns) { return size_t(PadTo(columns, kPanelRows)) * steps; }

// out[((c/8)*steps + s)*8 + c%8] = src[s*ld + c]: A(c, s) for C = src^T B. (The kernel table's pack_rows makes A from rows.)
void PackColumnTiles(const float* src, size_t ld, int steps, int columns, float* out);
// out[((c/16)*steps + s)*16 + c%16] = src[s*ld + c]: B(s, c) for C = A src.
void PackColumnPanels(const float* src, size_t ld, int steps, int columns, float* out);
// out[((r/16)*steps + s)*16 + r%16] = src[r*ld + s]: B(s, r) for C = A src^T.
void PackRowPanels(const float* src, size_t ld, int rows, int steps, float* out);

}  // namespace lowbit
