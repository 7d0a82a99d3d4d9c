// part/lanes: the word operations that packers are made of. "Rows in lanes": a Lanes value holds one 32-bit word of each of the 16
// rows of a panel, which is also one 64-byte line of a packed sub-block (packed.h). Plain loops over the 16 lanes, which every
// compiler turns into vector code for the instruction set it may assume. Internal to part/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "part/packed.h"

namespace lowbit {

using Lanes = uint32_t[kPanelRows];

inline uint32_t WordAt(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

inline uint16_t HalfWordAt(const uint8_t* bytes) {
  uint16_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// Words offset / 4 .. + kWords of every row, of which rows[r] need not be aligned.
template <size_t kWords>
inline void Gather(const uint8_t* const rows[kPanelRows], size_t offset, Lanes* out) {
  for (size_t r = 0; r < kPanelRows; ++r) {
    for (size_t w = 0; w < kWords; ++w) out[w][r] = WordAt(rows[r] + offset + 4 * w);
  }
}

inline void StoreLine(const Lanes& lanes, uint8_t* line) { std::memcpy(line, lanes, sizeof(lanes)); }

}  // namespace lowbit
