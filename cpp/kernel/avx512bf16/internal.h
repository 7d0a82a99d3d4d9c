// kernel/avx512bf16: the functions that its translation units give to the table in kernels.cc. Not for other rooms.
#pragma once

#include "kernel/kernel.h"

namespace lowbit::avx512bf16 {

void GemmBf16(const uint16_t* a, size_t a_stride, const uint16_t* b, size_t b_stride, int m, int n, int pairs, float* c, size_t ldc,
              bool accumulate);
void PackRowsBf16(const float* x, size_t ldx, int rows, int k, uint16_t* out);
void PackColumnsBf16(const float* const* rows, int count, int k, uint16_t* out, size_t stride);
void UnpackPanelBf16(const PackedView& w, int panel, int k0, int kc, uint16_t* out);
void F16LinesToBf16(const uint16_t* lines, size_t stride, int count, uint16_t* out);

}  // namespace lowbit::avx512bf16
