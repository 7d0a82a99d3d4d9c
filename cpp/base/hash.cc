// base/hash: eight independent chains of add, multiply, rotate, so that the multiplier never waits; then a mix of their ends.
#include "base/hash.h"

#include <bit>
#include <cstring>

namespace lowbit {
namespace {

constexpr size_t kChains = 8;
constexpr uint64_t kMultiplier = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio, odd

// Invertible in both arguments, so that a difference never disappears by itself; the rotation carries high bits to low ones.
uint64_t Step(uint64_t state, uint64_t word) { return std::rotl((state + word) * kMultiplier, 31); }

uint64_t Mix(uint64_t value) {
  value ^= value >> 32;
  value *= kMultiplier;
  return value ^ value >> 29;
}

}  // namespace

uint64_t Hash64(const void* data, size_t size, uint64_t seed) {
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  uint64_t chains[kChains], words[kChains];
  for (size_t i = 0; i < kChains; ++i) chains[i] = seed + i * kMultiplier;
  const auto absorb = [&] {
    for (size_t i = 0; i < kChains; ++i) chains[i] = Step(chains[i], words[i]);
  };
  size_t left = size;
  for (; left >= sizeof(words); left -= sizeof(words), bytes += sizeof(words)) {
    std::memcpy(words, bytes, sizeof(words));
    absorb();
  }
  if (left > 0) {
    std::memset(words, 0, sizeof(words));
    std::memcpy(words, bytes, left);
    absorb();
  }
  uint64_t result = Mix(seed ^ static_cast<uint64_t>(size));
  for (const uint64_t chain : chains) result = Mix(Step(result, chain));
  return result;
}

}  // namespace lowbit
