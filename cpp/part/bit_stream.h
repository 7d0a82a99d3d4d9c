// part/bit_stream: codes of 1 to 8 bits as the lowbit container stores them: per row one stream of bits, first code in the lowest bits of
// the first byte, each row from a byte boundary. 32 codes of b bits are 4 b bytes, so that blocks of 32 columns begin at byte boundaries
// too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

inline size_t StreamBytes(size_t count, int bits) { return (count * static_cast<size_t>(bits) + 7) / 8; }

// codes[count] -> StreamBytes(count, bits) bytes. Codes must be below 2^bits.
inline void WriteStream(const uint8_t* codes, size_t count, int bits, uint8_t* out) {
  uint32_t held = 0;
  int have = 0;
  for (size_t i = 0; i < count; ++i) {
    held |= static_cast<uint32_t>(codes[i]) << have;
    for (have += bits; have >= 8; have -= 8, held >>= 8) *out++ = static_cast<uint8_t>(held);
  }
  if (have > 0) *out = static_cast<uint8_t>(held);
}

// The inverse. Reads StreamBytes(count, bits) bytes and no more.
inline void ReadStream(const uint8_t* in, size_t count, int bits, uint8_t* codes) {
  uint32_t held = 0;
  int have = 0;
  const uint32_t mask = (1u << bits) - 1;
  for (size_t i = 0; i < count; ++i) {
    if (have < bits) {
      held |= static_cast<uint32_t>(*in++) << have;
      have += 8;
    }
    codes[i] = static_cast<uint8_t>(held & mask);
    held >>= bits;
    have -= bits;
  }
}

}  // namespace lowbit
