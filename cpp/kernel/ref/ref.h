// kernel/ref: declarations of the portable table's functions. Each is described at its field of KernelTable (kernel/kernel.h).
// Portable C++ without intrinsics: what every fast table is tested against, and what runs on processors that have none. The two
// loops that matter use Vector4; the rest has constant trip counts over rows in lanes, which compilers vectorise themselves.
#pragma once

#include <cstring>

#include "kernel/kernel.h"

namespace lowbit::ref {

// Four floats: one register of SSE or NEON. A GCC and Clang type that exists for every processor; left to itself GCC 12
// vectorises the reduction of affine.cc across columns, with shuffles: 6 instead of 17-20 GOPS (m = 64, one shared Zen 5 core).
using Vector4 = float __attribute__((vector_size(16)));

inline Vector4 Load4(const float* from) {
  Vector4 value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// exact.cc
void GemmF32(const float* a, size_t a_tile_stride, size_t a_line_stride, const float* b, size_t b_panel_stride, size_t b_line_stride, int m,
             int n, int k, float* c, size_t ldc, bool accumulate);
void UnpackPanel(const PackedView& w, int panel, int k0, int kc, float* out);
void PackRows(const float* x, size_t ldx, int rows, int k, float* out);
void DenseGemv(const PackedView& w, const float* x, float* y, int panel0, int panel1, bool accumulate);
void SparseFew(const SparseView& w, const float* x, size_t ldx, int m, float* y, size_t ldy, int panel0, int panel1, bool accumulate);

// affine.cc
void QuantizeRows(const float* x, size_t ldx, const QuantizedRows& q, int zero_code, int row0, int row1);
void AffineSmall(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate);
void AffineGemm(const PackedView& w, const QuantizedRows& x, float* y, size_t ldy, int panel0, int panel1, bool accumulate,
                uint8_t* scratch);

// attend.cc
void ScoresF16(const float* q, int rows, int head_dim, const uint16_t* keys, int panels, float* scores, size_t ld, const uint16_t* next);
void ValuesF16(const float* p, size_t ldp, int rows, int keys, const uint16_t* values, size_t stride, int dim, float* out, size_t ldo,
               const uint16_t* next);

// vector.cc
void RmsNorm(const float* x, const float* weight, float* y, size_t width, float eps);
void Add(const float* a, const float* b, float* y, size_t count);
void SiluMul(const float* gate, const float* up, float* y, size_t count);
void GeluTanhMul(const float* gate, const float* up, float* y, size_t count);
void Softcap(float* x, size_t count, float cap);
void RopeHalf(float* x, const float* cosines, const float* sines, size_t half);
float ExpSum(float* x, size_t count, float maximum);
float Max(const float* x, size_t count);
void Scale(const float* x, float* y, size_t count, float factor);
void F32ToF16(const float* x, uint16_t* y, size_t count);
void F16ToF32(const uint16_t* x, float* y, size_t count);
bool AllFinite(const float* x, size_t count);

}  // namespace lowbit::ref
