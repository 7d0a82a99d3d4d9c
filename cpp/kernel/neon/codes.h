// kernel/neon: packed code lines -> one unsigned code per byte, 16 codes (4 rows x 4 columns) at a time. The same bit planes as
// kernel/simd/planes.h (part/packed.h), but with shifts of bytes, which bring in no neighbour's bits: the field at the top of its byte
// needs no mask. Instructions per 16 codes, at most: 8 bits 0, 4 bits 1, 1 and 2 bits 2, 3 bits 3, 5 and 6 bits 4, 7 bits 7.
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

using Codes = uint8x16_t;

LOWBIT_INLINE Codes AndByte(Codes v, int mask) { return vandq_u8(v, vdupq_n_u8(static_cast<uint8_t>(mask))); }
LOWBIT_INLINE Codes RightByte(Codes v, int count) { return count == 0 ? v : v >> vdupq_n_u8(static_cast<uint8_t>(count)); }
LOWBIT_INLINE Codes LeftByte(Codes v, int count) { return count == 0 ? v : v << vdupq_n_u8(static_cast<uint8_t>(count)); }

// The field of `width` bits at bit `from` of every byte, at bit `to`; other bits zero.
LOWBIT_INLINE Codes Field(Codes v, int width, int from, int to) {
  const int mask = (1 << width) - 1;
  if (to == 0) return from + width == 8 ? RightByte(v, from) : AndByte(RightByte(v, from), mask);
  return AndByte(to > from ? LeftByte(v, to - from) : RightByte(v, from - to), mask << to);
}

LOWBIT_INLINE Codes Plane4(const uint8_t* plane, int t, int to) { return Field(vld1q_u8(plane + 64 * (t & 3)), 4, 4 * (t >> 2), to); }
LOWBIT_INLINE Codes Plane2(const uint8_t* plane, int t, int to) { return Field(vld1q_u8(plane + 64 * (t & 1)), 2, 2 * (t >> 1), to); }
LOWBIT_INLINE Codes Plane1(const uint8_t* plane, int t, int to) { return Field(vld1q_u8(plane), 1, t, to); }

// Codes of quad t (columns 4t..4t+3) of a sub-block for 4 rows; `lines` points at the first line, plus 4 bytes per row before them.
template <int kBits>
LOWBIT_INLINE Codes QuadCodes(const uint8_t* lines, int t) {
  constexpr int kPlane4 = 64 * 4, kPlane2 = 64 * 2;
  if constexpr (kBits == 8)
    return vld1q_u8(lines + 64 * t);
  else if constexpr (kBits == 7)
    return vorrq_u8(Plane4(lines, t, 0), vorrq_u8(Plane2(lines + kPlane4, t, 4), Plane1(lines + kPlane4 + kPlane2, t, 6)));
  else if constexpr (kBits == 6)
    return vorrq_u8(Plane4(lines, t, 0), Plane2(lines + kPlane4, t, 4));
  else if constexpr (kBits == 5)
    return vorrq_u8(Plane4(lines, t, 0), Plane1(lines + kPlane4, t, 4));
  else if constexpr (kBits == 4)
    return Plane4(lines, t, 0);
  else if constexpr (kBits == 3) {
    // quads t and t+4 together: two crumbs and their top bits merge into two nibbles, which the compiler shares between both
    const Codes low = RightByte(vld1q_u8(lines + 64 * (t & 1)), 2 * (t >> 1 & 1)), line = vld1q_u8(lines + kPlane2);
    const Codes top = (t & 3) == 3 ? RightByte(line, 1) : LeftByte(line, 2 - (t & 3));
    const Codes both = AndByte(vbslq_u8(vdupq_n_u8(0x33), low, top), 0x77);
    return t < 4 ? AndByte(both, 15) : RightByte(both, 4);
  } else if constexpr (kBits == 2)
    return Plane2(lines, t, 0);
  else
    return Plane1(lines, t, 0);
}

}  // namespace
}  // namespace lowbit
