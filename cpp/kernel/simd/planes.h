// kernel/simd: packed code lines -> one unsigned code per byte (bit planes: part/packed.h).
#pragma once

#include "kernel/simd/compiler.h"

namespace lowbit {
namespace {

// Moves a bit field from bit `from` of its byte to bit `to`. Neighbouring bytes leak into the other bits; callers mask.
LOWBIT_INLINE Int MoveField(Int v, int from, int to) {
  return to > from ? ShiftLeft16(v, to - from) : from > to ? ShiftRight16(v, from - to) : v;
}

// The field of quad t of a plane, at bit `to`, unmasked.
LOWBIT_INLINE Int Field4(const uint8_t* plane, int t, int to) { return MoveField(LoadLine(plane + 64 * (t & 3)), 4 * (t >> 2), to); }
LOWBIT_INLINE Int Field2(const uint8_t* plane, int t, int to) { return MoveField(LoadLine(plane + 64 * (t & 1)), 2 * (t >> 1), to); }
LOWBIT_INLINE Int Field1(const uint8_t* plane, int t, int to) { return MoveField(LoadLine(plane), t, to); }

// Codes of quad t (columns 4t..4t+3) of a sub-block whose lines start at `lines`: lane r, byte i = row r, column 4t+i.
// 256-bit rooms add 32 to `lines` for rows 8-15.
template <int kBits>
LOWBIT_INLINE Int Quad(const uint8_t* lines, int t) {
  constexpr int kPlane4 = 64 * 4, kPlane2 = 64 * 2;
  if constexpr (kBits == 8)
    return LoadLine(lines + 64 * t);
  else if constexpr (kBits == 7) {
    const Int high = BitSelect(SetByte(0x30), Field2(lines + kPlane4, t, 4), Field1(lines + kPlane4 + kPlane2, t, 6));
    return And(BitSelect(SetByte(15), Field4(lines, t, 0), high), SetByte(127));
  } else if constexpr (kBits == 6)
    return And(BitSelect(SetByte(15), Field4(lines, t, 0), Field2(lines + kPlane4, t, 4)), SetByte(63));
  else if constexpr (kBits == 5)
    return And(BitSelect(SetByte(15), Field4(lines, t, 0), Field1(lines + kPlane4, t, 4)), SetByte(31));
  else if constexpr (kBits == 4)
    return And(Field4(lines, t, 0), SetByte(15));
  else if constexpr (kBits == 3) {
    // quads t and t+4 together: two crumbs and their top bits merge into two nibbles, which the compiler shares between both
    const Int low = MoveField(LoadLine(lines + 64 * (t & 1)), 2 * (t >> 1 & 1), 0);
    const Int top = MoveField(LoadLine(lines + kPlane2), t & 3, 2);
    return And(MoveField(BitSelect(SetByte(0x33), low, top), t & 4, 0), SetByte(7));
  } else if constexpr (kBits == 2)
    return And(Field2(lines, t, 0), SetByte(3));
  else
    return And(Field1(lines, t, 0), SetByte(1));
}

// The two halves of 8-bit codes, for rooms whose products have no space for all 8 bits.
LOWBIT_INLINE Int LowNibbles(const uint8_t* line) { return And(LoadLine(line), SetByte(15)); }
LOWBIT_INLINE Int HighNibbles(const uint8_t* line) { return And(ShiftRight16(LoadLine(line), 4), SetByte(15)); }

// An order of the quads in which users of one line are neighbours: fewer live registers.
template <int kBits>
constexpr int QuadOrder(int i) {
  return kBits == 8 || kBits == 1 ? i : kBits >= 4 ? (i >> 1) + (i & 1) * 4 : (i >> 2) + (i & 3) * 2;
}

}  // namespace
}  // namespace lowbit
