// test/native: 16-bit floats, dtypes, blocks and messages.
#include <cmath>
#include <cstring>
#include <limits>

#include "base/alloc.h"
#include "base/cpu.h"
#include "base/dtype.h"
#include "base/half.h"
#include "check.h"

using namespace lowbit;

// All 65536 halves survive the way to float and back; NaNs stay NaN.
LOWBIT_TEST(HalfRoundTrip) {
  int wrong = 0;
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = HalfToFloat(static_cast<uint16_t>(h));
    const bool nan = (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0;
    if (nan ? !std::isnan(f) || !std::isnan(HalfToFloat(FloatToHalf(f))) : FloatToHalf(f) != h) ++wrong;
  }
  EXPECT(wrong == 0);
}

// Rounding to nearest even against the definition: the nearest of the two neighbours, the even one on a tie.
LOWBIT_TEST(HalfRounding) {
  int wrong = 0;
  for (uint32_t h = 0; h < 0x7bff; ++h) {
    const float low = HalfToFloat(static_cast<uint16_t>(h)), high = HalfToFloat(static_cast<uint16_t>(h + 1));
    const float middle = low + (high - low) / 2;  // exact: floats have 13 more bits
    const uint16_t even = static_cast<uint16_t>(h % 2 == 0 ? h : h + 1);
    wrong += FloatToHalf(middle) != even;
    wrong += FloatToHalf(std::nextafter(middle, low)) != h;
    wrong += FloatToHalf(std::nextafter(middle, high)) != h + 1;
  }
  EXPECT(wrong == 0);
  EXPECT(FloatToHalf(65519.0f) == 0x7bff);  // largest finite
  EXPECT(FloatToHalf(65520.0f) == 0x7c00);  // halfway to 65536: infinity
  EXPECT(FloatToHalf(-1e-8f) == 0x8000);    // underflow keeps the sign
  EXPECT(FloatToHalf(std::numeric_limits<float>::infinity()) == 0x7c00);
}

LOWBIT_TEST(Bfloat16Rounding) {
  EXPECT(FloatToBfloat16(1.0f) == 0x3f80);
  EXPECT(FloatToBfloat16(1.00390625f) == 0x3f80);  // 1 + 2^-8: tie to even, down
  EXPECT(FloatToBfloat16(1.01171875f) == 0x3f82);  // 1 + 3*2^-8: tie to even, up
  EXPECT(std::isnan(Bfloat16ToFloat(FloatToBfloat16(std::nanf("")))));
  EXPECT(Bfloat16ToFloat(0xc000) == -2.0f);
}

LOWBIT_TEST(DTypeNames) {
  EXPECT(ParseDType("Q6_K").ok() && Info(ParseDType("Q6_K").value()).block_bytes == 210);
  EXPECT_ERROR(ParseDType("F8_E4M3").status(), Code::kUnsupported, "F8_E4M3");
}

LOWBIT_TEST(BlocksAreAccountedAndAligned) {
  const size_t before = MemoryInUse(MemoryClass::kScratch);
  {
    Result<Block> big = Block::Allocate(9u << 20, MemoryClass::kScratch, "test");
    EXPECT(big.ok());
    EXPECT(reinterpret_cast<uintptr_t>(big.value().data()) % (2u << 20) == 0);
    EXPECT(MemoryInUse(MemoryClass::kScratch) >= before + (9u << 20));
    int nonzero = 0;
    for (size_t i = 0; i < big.value().size(); i += 4096) nonzero += big.value().data()[i] != 0;
    EXPECT(nonzero == 0);
    Block moved = std::move(big.value());
    std::memset(moved.data(), 1, moved.size());
    EXPECT(big.value().data() == nullptr);
  }
  EXPECT(MemoryInUse(MemoryClass::kScratch) == before);
  EXPECT_ERROR(Block::Allocate(size_t(1) << 60, MemoryClass::kScratch, "a huge thing").status(), Code::kOutOfMemory, "a huge thing");
}

LOWBIT_TEST(CoresAreCounted) { EXPECT(UsableCores() >= 1 && UsableCores() <= 4096); }
