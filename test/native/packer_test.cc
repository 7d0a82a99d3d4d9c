// test/native: packing in ranges of panels, and rounding to fewer bits while packing.
#include "part/packer.h"

#include <cmath>
#include <cstring>
#include <random>

#include "base/half.h"
#include "check.h"
#include "kernel/kernel.h"

using namespace lowbit;

namespace {

std::vector<uint8_t> SafeBytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random()) & 0x3f;  // no exponent of all ones
  return bytes;
}

}  // namespace

// Panel by panel, backwards, from a source that is not aligned, gives the bytes of one call.
LOWBIT_TEST(packer_ranges_make_the_whole) {
  const int n = 77, k = 512;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ8_0, DType::kQ3_K, DType::kQ4_K, DType::kQ6_K}) {
    const std::vector<uint8_t> source = SafeBytes(size_t(n) * size_t(k) * 4 + 1, 4);
    const uint8_t* rows = source.data() + 1;
    const bool dense = Info(dtype).block_values == 1;
    const Result<Part> whole = dense ? PackDense("w", dtype, rows, n, k, {}) : PackGguf("w", dtype, rows, n, k, {});
    Result<std::unique_ptr<Packer>> packer = dense ? DensePacker("w", dtype, rows, n, k, {}) : GgufPacker("w", dtype, rows, n, k, {});
    if (!EXPECT(whole.ok() && packer.ok())) continue;
    const Part& part = packer.value()->part();
    Result<Block> block = Block::Allocate(part.bytes(), MemoryClass::kScratch, "test");
    if (!EXPECT(block.ok() && part.bytes() == whole.value().bytes())) continue;
    for (int p = PanelCount(part.view) - 1; p >= 0; --p)
      EXPECT(packer.value()->Pack(p, p + 1, block.value().data() + static_cast<size_t>(p) * part.view.panel_bytes).ok());
    EXPECT(std::memcmp(block.value().data(), whole.value().view.data, part.bytes()) == 0);
  }
}

// Every value within half a step of its group's grid, plus what rounding the scale and the minimum to f16 moves the grid:
// a relative 2^-11 of the scale times the largest code, and of the minimum.
LOWBIT_TEST(requantizing_stays_within_half_a_step) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  for (const int bits : {4, 5, 6, 8}) {
    for (const auto& [n, k] : {std::pair<int, int>{16, 64}, {21, 75}}) {
      std::vector<float> values(size_t(n) * size_t(k));
      for (float& v : values) v = 0.05f * normal(random);
      for (int j = 0; j < 32; ++j) values[size_t(j)] = 0;          // a group of zeros
      for (int j = 0; j < 32; ++j) values[size_t(k + j)] = 0.25f;  // and one of equal values
      Result<std::unique_ptr<Packer>> source = DensePacker("w", DType::kF32, reinterpret_cast<const uint8_t*>(values.data()), n, k, {});
      const Result<Part> part = PackWhole(RequantizingPacker("w", std::move(source.value()), bits, RefKernels()->unpack_panel));
      if (!EXPECT(part.ok())) continue;
      const PackedView& view = part.value().view;
      EXPECT(view.bits == bits && view.group_size == 32 && view.meta == MetaKind::kF16);
      EXPECT(view.affine == (bits >= 6 ? AffineKind::kSymmetric : AffineKind::kMinimum));
      size_t wrong = 0;
      for (int i = 0; i < n; ++i) {
        for (int g = 0; g * 32 < k; ++g) {
          float low = 1e9f, high = -1e9f;
          for (int j = g * 32; j < std::min(k, g * 32 + 32); ++j) {
            low = std::min(low, values[size_t(i * k + j)]);
            high = std::max(high, values[size_t(i * k + j)]);
          }
          const float largest = std::max(std::fabs(low), std::fabs(high)), codes = static_cast<float>((1 << bits) - 1);
          const float step = bits >= 6 ? largest / ((codes - 1) / 2) : (high - low) / codes;
          const float moved = (largest + (high - low)) / 2048 + 1e-6f;  // 2^-24 is f16's smallest step
          for (int j = g * 32; j < std::min(k, g * 32 + 32); ++j)
            wrong += !(std::fabs(WeightAt(view, i, j) - values[size_t(i * k + j)]) <= 0.5001f * step + moved);
        }
      }
      EXPECT(wrong == 0);
      for (int i = n; i < (n + 15) / 16 * 16; ++i)
        for (int j = 0; j < (k + 31) / 32 * 32; ++j) EXPECT(CodeAt(view, i, j) == 0 && WeightAt(view, i, j) == 0);
    }
  }
}

// Codes on the grid come back as they were: Q8_0 rounded to 8 bits is itself wherever its largest code is used.
LOWBIT_TEST(requantizing_keeps_values_on_the_grid) {
  std::vector<float> values(16 * 32);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(static_cast<int>(i * 37 % 255) - 127) / 256;
  for (int i = 0; i < 16; ++i) values[size_t(i) * 32 + 3] = 127.0f / 256;
  Result<std::unique_ptr<Packer>> source = DensePacker("w", DType::kF32, reinterpret_cast<const uint8_t*>(values.data()), 16, 32, {});
  const Result<Part> part = PackWhole(RequantizingPacker("w", std::move(source.value()), 8, RefKernels()->unpack_panel));
  if (!EXPECT(part.ok())) return;
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 32; ++j) EXPECT(WeightAt(part.value().view, i, j) == values[size_t(i * 32 + j)]);
}

LOWBIT_TEST(requantizing_errors) {
  const float large[32] = {3e38f};
  const auto source = [&] {
    return std::move(DensePacker("lm_head", DType::kF32, reinterpret_cast<const uint8_t*>(large), 1, 32, {}).value());
  };
  for (const int bits : {0, 3, 7, 9, 16}) {
    EXPECT_ERROR(RequantizingPacker("lm_head", source(), bits, RefKernels()->unpack_panel).status(), Code::kInvalidArgument,
                 "4, 5, 6 or 8 for the bits that lm_head is rounded to");
  }
  for (const int bits : {4, 8}) {
    EXPECT_ERROR(PackWhole(RequantizingPacker("lm_head", source(), bits, RefKernels()->unpack_panel)).status(), Code::kUnsupported,
                 "pass 16 for lmHeadBits");
  }
}
