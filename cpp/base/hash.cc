// base/hash: eight independent chains of multiplications, so that the multiplier never waits; then a chain over their ends.
#include "base/hash.h"

#include <cstring>

namespace lowbit {
namespace {

constexpr size_t kChains = 8, kLine = kChains * sizeof(uint64_t);
constexpr uint64_t kMultiplier = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio, odd

// Both halves of the 128-bit product: every bit of the word reaches every bit of the state, the highest ones too, which a product of
// 64 bits would keep in the top bits, where a second difference can cancel them.
uint64_t Step(uint64_t state, uint64_t word) {
  const unsigned __int128 product = static_cast<unsigned __int128>(state ^ word) * kMultiplier;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t WordAt(const uint8_t* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

}  // namespace

uint64_t Hash64(const void* data, size_t size, uint64_t seed) {
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  uint64_t chains[kChains];
  for (size_t i = 0; i < kChains; ++i) chains[i] = seed + (i + 1) * kMultiplier;
  const auto absorb = [&](const uint8_t* line) {  // word by word: a copy of the line would go through memory
    for (size_t i = 0; i < kChains; ++i) chains[i] = Step(chains[i], WordAt(line + i * sizeof(uint64_t)));
  };
  size_t left = size;
  for (; left >= kLine; left -= kLine, bytes += kLine) absorb(bytes);
  if (left > 0) {
    uint8_t last[kLine] = {};
    std::memcpy(last, bytes, left);
    absorb(last);
  }
  uint64_t result = Step(seed, static_cast<uint64_t>(size));
  for (const uint64_t chain : chains) result = Step(result, chain);
  return Step(result, kMultiplier);
}

}  // namespace lowbit
