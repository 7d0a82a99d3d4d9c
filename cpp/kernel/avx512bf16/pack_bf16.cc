// kernel/avx512bf16: f32 rows, transposed rows and packed weights -> bf16 panels for gemm_bf16.
// Values are rounded to the nearest bf16, half to even; f32 denormals become zero (vcvtne2ps2bf16), NaN and infinity stay.
#include "kernel/avx512/lanes.h"

#if defined(LOWBIT_AVX512) && defined(__AVX512BF16__)
#include "kernel/avx512bf16/internal.h"
#include "kernel/simd/unpack_panel.h"

namespace lowbit {
namespace {

constexpr size_t kLine = 2 * kPanelRows;  // bf16 values of a line
constexpr int kChunk = 64;                // columns unpacked to f32 at a time: 4 KiB

// {16 low, 16 high} -> 32 bf16 values, low first.
LOWBIT_INLINE Int Convert(Float low, Float high) { return (Int)_mm512_cvtne2ps_pbh(high, low); }

// Two lines of 16 f32 values -> one line of pairs {low[r], high[r]}.
LOWBIT_INLINE Int Interleave(Float low, Float high) {
  const Int order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2,
                                     17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, Convert(low, high));
}

LOWBIT_INLINE void StoreLine(uint16_t* p, Int line) { _mm512_storeu_si512(p, line); }

// 16 x 16 transpose of 32-bit elements, in place: pairs, quads, then 128-bit parts in two steps.
LOWBIT_INLINE void Transpose16(Int (&v)[16]) {
  Int t[16];
  LOWBIT_UNROLL(8)
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
  LOWBIT_UNROLL(4)
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // v[4*q + e] holds, in part p, element 4*p + e of rows 4*q .. 4*q+3
  LOWBIT_UNROLL(4)
  for (int e = 0; e < 4; ++e) {
    t[e] = _mm512_shuffle_i32x4(v[e], v[4 + e], 0x88);
    t[4 + e] = _mm512_shuffle_i32x4(v[e], v[4 + e], 0xdd);
    t[8 + e] = _mm512_shuffle_i32x4(v[8 + e], v[12 + e], 0x88);
    t[12 + e] = _mm512_shuffle_i32x4(v[8 + e], v[12 + e], 0xdd);
  }
  LOWBIT_UNROLL(4)
  for (int e = 0; e < 4; ++e) {
    v[e] = _mm512_shuffle_i32x4(t[e], t[8 + e], 0x88);
    v[4 + e] = _mm512_shuffle_i32x4(t[4 + e], t[12 + e], 0x88);
    v[8 + e] = _mm512_shuffle_i32x4(t[e], t[8 + e], 0xdd);
    v[12 + e] = _mm512_shuffle_i32x4(t[4 + e], t[12 + e], 0xdd);
  }
}

// The first `count` of 16 values, the rest zero.
LOWBIT_INLINE Float LoadFirst(const float* p, int count) { return count >= kLanes ? Load(p) : count > 0 ? Load(p, First{count}) : Zero(); }

}  // namespace

void avx512bf16::PackRowsBf16(const float* x, size_t ldx, int rows, int k, uint16_t* out) {
  const int pairs = (k + 1) / 2;
  for (int row = 0; row < rows; row += kPanelRows, out += static_cast<size_t>(pairs) * kLine) {
    const float* first = x + static_cast<size_t>(row) * ldx;
    const int present = rows - row < kPanelRows ? rows - row : kPanelRows;
    for (int s = 0; s < pairs; s += kPanelRows) {
      const int column = 2 * s;
      Int lines[16];
      for (int i = 0; i < kPanelRows; ++i) {
        const float* at = first + static_cast<size_t>(i) * ldx + column;
        lines[i] = i < present ? Convert(LoadFirst(at, k - column), LoadFirst(at + kLanes, k - column - kLanes)) : _mm512_setzero_si512();
      }
      Transpose16(lines);
      const int count = pairs - s < kPanelRows ? pairs - s : kPanelRows;
      for (int i = 0; i < count; ++i) StoreLine(out + static_cast<size_t>(s + i) * kLine, lines[i]);
    }
  }
}

void avx512bf16::PackColumnsBf16(const float* const* rows, int count, int k, uint16_t* out, size_t stride) {
  for (int t = 0; t < count; t += 2, out += kLine) {
    const float* low = rows[t];
    const float* high = t + 1 < count ? rows[t + 1] : nullptr;
    uint16_t* line = out;
    for (int c = 0; c < k; c += kPanelRows, line += stride) {
      const Float upper = high != nullptr ? LoadFirst(high + c, k - c) : Zero();
      StoreLine(line, Interleave(LoadFirst(low + c, k - c), upper));
    }
  }
}

void avx512bf16::UnpackPanelBf16(const PackedView& w, int panel, int k0, int kc, uint16_t* out) {
  if (w.kind == PackedKind::kDenseBf16) {
    const uint8_t* data = w.data + static_cast<size_t>(panel) * w.panel_bytes + static_cast<size_t>(k0 / 2) * 64;
    std::memcpy(out, data, static_cast<size_t>((kc + 1) / 2) * 64);
    return;
  }
  alignas(64) float lines[kChunk * kPanelRows];
  for (int done = 0; done < kc; done += kChunk) {
    const int columns = kc - done < kChunk ? kc - done : kChunk;
    UnpackPanel(w, panel, k0 + done, columns, lines);
    for (int s = 0; s < columns; s += 2, out += kLine) {
      const float* low = lines + s * kPanelRows;
      StoreLine(out, Interleave(Load(low), s + 1 < columns ? Load(low + kPanelRows) : Zero()));
    }
  }
}

void avx512bf16::F16LinesToBf16(const uint16_t* lines, size_t stride, int count, uint16_t* out) {
  for (int i = 0; i < count; i += 2, lines += 2 * stride, out += kLine)
    StoreLine(out, Interleave(LoadHalf(lines), i + 1 < count ? LoadHalf(lines + stride) : Zero()));
}

}  // namespace lowbit
#endif
