// kernel/simd: one panel of any packed weight -> f32 lines of 16 rows (exact path, and layers that ask for dense columns).
// Values are bit-identical to WeightAt (part/part.h).
#pragma once

#include "kernel/simd/compiler.h"
#include "kernel/simd/planes.h"
#include "kernel/simd/units.h"

namespace lowbit {
namespace {

// How a code becomes a weight. kFused rounds once: scale*code and scale*zero are exact in f32 when the scale came from f16
// (11 + 9 bits) or is coded (11 + 8 + at most 5 bits where there is a minimum) or the zero is a power of two, so one fma equals the
// separate operations.
enum class Decode { kFused, kProductPlusMinimum, kDifferenceTimesScale };

LOWBIT_INLINE Decode DecodeOf(const PackedView& w) {
  if (w.meta != MetaKind::kF32 || w.affine == AffineKind::kSymmetric) return Decode::kFused;
  return w.affine == AffineKind::kMinimum ? Decode::kProductPlusMinimum : Decode::kDifferenceTimesScale;
}

template <Decode kDecode>
LOWBIT_INLINE Float DecodeCode(Float code, Float scale, Float second) {
  if constexpr (kDecode == Decode::kFused)
    return Fma(code, scale, second);
  else if constexpr (kDecode == Decode::kProductPlusMinimum) {
    Float product = Mul(code, scale);
    LOWBIT_PIN(product);
    return Add(product, second);
  } else
    return Mul(Sub(code, second), scale);
}

// Quads [quad0, quad1) of one sub-block and `lanes` of the panel starting at row0; out = line of the sub-block's column 0.
template <int kBits, Decode kDecode>
LOWBIT_INLINE void DecodeQuads(const uint8_t* lines, int quad0, int quad1, Float scale, Float second, float* out) {
  const Int byte = SetInt(255);
  LOWBIT_UNROLL(8)
  for (int i = 0; i < quad1 - quad0; ++i) {
    const int t = quad1 - quad0 == 8 ? QuadOrder<kBits>(i) : quad0 + i;
    const Int codes = Quad<kBits>(lines, t);
    float* line = out + t * 4 * kPanelRows;
    Store(line, DecodeCode<kDecode>(ToFloat(And(codes, byte)), scale, second));
    Store(line + kPanelRows, DecodeCode<kDecode>(ToFloat(And(ShiftRight32(codes, 8), byte)), scale, second));
    Store(line + 2 * kPanelRows, DecodeCode<kDecode>(ToFloat(And(ShiftRight32(codes, 16), byte)), scale, second));
    Store(line + 3 * kPanelRows, DecodeCode<kDecode>(ToFloat(ShiftRight32(codes, 24)), scale, second));
  }
}

template <int kBits, Decode kDecode>
void UnpackAffine(const PackedView& w, const uint8_t* panel, int k0, int kc, float* out) {
  const PanelLayout layout = LayoutOf(w);
  const bool symmetric = w.affine == AffineKind::kSymmetric;
  const bool negate = w.affine == AffineKind::kZeroPoint && kDecode == Decode::kFused;
  const Float zero = Set(static_cast<float>(1 << (kBits - 1)));
  int block = k0 / kSubBlock, in_group = block % layout.group_blocks, left = kc;
  GroupCursor cursor = GroupAt(layout, panel, block / layout.group_blocks);
  const uint8_t* codes = cursor.codes + static_cast<size_t>(in_group) * layout.block_bytes;
  alignas(64) float partial[kSubBlock * kPanelRows];
  while (left > 0) {
    float* target = left >= kSubBlock ? out : partial;
    LOWBIT_UNROLL(2)
    for (int row0 = 0; row0 < kPanelRows; row0 += kLanes) {
      const uint8_t* lines = codes + row0 * 4;
      Float scale = LoadScales(cursor.record, w.meta, row0);
      Float second = symmetric ? Fnma(scale, zero, Zero()) : LoadOffsets(cursor.record, w.meta, negate, row0, scale);
      if (!layout.halves) {
        DecodeQuads<kBits, kDecode>(lines, 0, 8, scale, second, target + row0);
      } else {
        DecodeQuads<kBits, kDecode>(lines, 0, 4, scale, second, target + row0);
        const Record record = HalfOf(layout.record_bytes, cursor.record, 1);
        scale = LoadScales(record, w.meta, row0);
        second = symmetric ? Fnma(scale, zero, Zero()) : LoadOffsets(record, w.meta, negate, row0, scale);
        DecodeQuads<kBits, kDecode>(lines, 4, 8, scale, second, target + row0);
      }
    }
    if (left < kSubBlock) std::memcpy(out, partial, static_cast<size_t>(left) * kPanelRows * sizeof(float));
    left -= kSubBlock;
    out += kSubBlock * kPanelRows;
    codes += layout.block_bytes;
    if (++in_group == layout.group_blocks && left > 0) {
      in_group = 0;
      NextGroup(layout, codes, cursor);
      codes = cursor.codes;
    }
  }
}

template <int kBits>
LOWBIT_INLINE void UnpackAffineBits(const PackedView& w, const uint8_t* panel, int k0, int kc, float* out) {
  switch (DecodeOf(w)) {
    case Decode::kFused:
      return UnpackAffine<kBits, Decode::kFused>(w, panel, k0, kc, out);
    case Decode::kProductPlusMinimum:
      return UnpackAffine<kBits, Decode::kProductPlusMinimum>(w, panel, k0, kc, out);
    case Decode::kDifferenceTimesScale:
      return UnpackAffine<kBits, Decode::kDifferenceTimesScale>(w, panel, k0, kc, out);
  }
}

// Column pairs [16]{even, odd}: the even column is the low half of a lane.
void UnpackBf16(const uint8_t* panel, int k0, int kc, float* out) {
  const Int high_half = SetInt(static_cast<int32_t>(0xffff0000u));
  for (int column = k0; column < k0 + kc; ++column, out += kPanelRows) {
    LOWBIT_UNROLL(2)
    for (int row0 = 0; row0 < kPanelRows; row0 += kLanes) {
      const Int pair = LoadLine(panel + static_cast<size_t>(column / 2) * 64 + row0 * 4);
      Store(out + row0, FloatOfBits(column % 2 == 0 ? ShiftLeft32(pair, 16) : And(pair, high_half)));
    }
  }
}

void UnpackF16(const uint8_t* panel, int k0, int kc, float* out) {
  const uint8_t* half = panel + static_cast<size_t>(k0) * kPanelRows * 2;
  for (int i = 0; i < kc * kPanelRows; i += kLanes) Store(out + i, LoadHalf(half + static_cast<size_t>(i) * 2));
}

void UnpackPanel(const PackedView& w, int panel, int k0, int kc, float* out) {
  const uint8_t* data = w.data + static_cast<size_t>(panel) * w.panel_bytes;
  switch (w.kind) {
    case PackedKind::kDenseF32:
      std::memcpy(out, data + static_cast<size_t>(k0) * kPanelRows * sizeof(float), static_cast<size_t>(kc) * kPanelRows * sizeof(float));
      return;
    case PackedKind::kDenseF16:
      return UnpackF16(data, k0, kc, out);
    case PackedKind::kDenseBf16:
      return UnpackBf16(data, k0, kc, out);
    case PackedKind::kAffine:
      break;
  }
  switch (w.bits) {
    case 1:
      return UnpackAffineBits<1>(w, data, k0, kc, out);
    case 2:
      return UnpackAffineBits<2>(w, data, k0, kc, out);
    case 3:
      return UnpackAffineBits<3>(w, data, k0, kc, out);
    case 4:
      return UnpackAffineBits<4>(w, data, k0, kc, out);
    case 5:
      return UnpackAffineBits<5>(w, data, k0, kc, out);
    case 6:
      return UnpackAffineBits<6>(w, data, k0, kc, out);
    case 7:
      return UnpackAffineBits<7>(w, data, k0, kc, out);
    default:
      return UnpackAffineBits<8>(w, data, k0, kc, out);
  }
}

}  // namespace
}  // namespace lowbit
