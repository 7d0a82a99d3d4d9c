// part/word_stream: least-significant-bit-first streams of codes in 32-bit words, as GPTQ and compressed-tensors files hold them, 32
// columns of 16 rows at a time -> the lines of a sub-block (packed.h). Internal to part/; knows no file format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "part/lanes.h"
#include "part/packed.h"

namespace lowbit {

// Four codes of kBits <= 4 bits in a row, lowest first, to the low bits of four bytes.
template <size_t kBits>
inline uint32_t Spread(uint32_t codes) {
  constexpr uint32_t kMask = 0x01010101u * ((1u << kBits) - 1);
  codes = (codes | codes << (16 - 2 * kBits)) & (((1u << 2 * kBits) - 1) * 0x00010001u);
  return (codes | codes << (8 - kBits)) & kMask;
}

// 32 columns in file order, kBits words of every row, as the lines of a sub-block. kBits is a constant so that shifts are, too.
template <size_t kBits>
inline void StoreWords(const Lanes* words, uint8_t* lines) {
  if constexpr (kBits == 8) {  // word j holds quad j, which is line j
    std::memcpy(lines, words, 8 * sizeof(Lanes));
  } else if constexpr (kBits == 4) {  // line j: quad j in the low nibbles, quad j + 4 in the high ones
    for (size_t j = 0; j < 4; ++j) {
      Lanes line;
      const size_t shift = j % 2 * 16;
      for (int r = 0; r < kPanelRows; ++r) {
        line[r] = Spread<4>(words[j / 2][r] >> shift & 0xffffu) | Spread<4>(words[j / 2 + 2][r] >> shift & 0xffffu) << 4;
      }
      StoreLine(line, lines + j * sizeof(Lanes));
    }
  } else if constexpr (kBits == 2) {  // line j: quad j + 2t in crumb t; quad q is byte q % 4 of word q / 4 = t / 2
    for (size_t j = 0; j < 2; ++j) {
      Lanes line;
      for (int r = 0; r < kPanelRows; ++r) {
        uint32_t word = 0;
        for (size_t t = 0; t < 4; ++t) word |= Spread<2>(words[t / 2][r] >> (j + 2 * t) % 4 * 8 & 0xffu) << (2 * t);
        line[r] = word;
      }
      StoreLine(line, lines + j * sizeof(Lanes));
    }
  } else {  // 3 bits: quad q is 12 bits of the stream, planes of 2 and 1 bits
    Lanes low[2], high;
    for (int r = 0; r < kPanelRows; ++r) {
      uint32_t crumbs[2] = {0, 0}, bits = 0;
      for (size_t q = 0; q < 8; ++q) {
        const size_t word = q * 12 / 32, shift = q * 12 % 32;
        const uint32_t field = shift <= 20 ? words[word][r] >> shift : words[word][r] >> shift | words[word + 1][r] << (32 - shift);
        const uint32_t quad = Spread<3>(field & 0xfffu);
        crumbs[q % 2] |= (quad & 0x03030303u) << (q / 2 * 2);
        bits |= (quad >> 2 & 0x01010101u) << q;
      }
      low[0][r] = crumbs[0];
      low[1][r] = crumbs[1];
      high[r] = bits;
    }
    std::memcpy(lines, low, sizeof(low));
    StoreLine(high, lines + sizeof(low));
  }
}

}  // namespace lowbit
