// test/native: part/gguf_blocks - GGUF block decoding and packing.
// Three independent references: blocks made by hand, a decoder written bit by bit from the format's table (below), and
// fixtures/gguf_blocks.bin: random blocks (scales drawn finite, one of them a subnormal half) with the floats that the Python package
// gguf's quants.dequantize gives for them. Layout of that file: u32 number of types; per type 8 bytes of name, u32 number of
// blocks, the blocks, the f32 values.
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "base/half.h"
#include "check.h"
#include "part/part.h"

using namespace lowbit;

namespace {

struct Type {
  DType dtype;
  int bits;
  int group_size;
  std::vector<int> halves;  // offsets of the f16 fields
};

const std::vector<Type>& Types() {
  static const std::vector<Type> types = {
      {DType::kQ4_0, 4, 32, {0}},    {DType::kQ4_1, 4, 32, {0, 2}},   {DType::kQ5_0, 5, 32, {0}},   {DType::kQ5_1, 5, 32, {0, 2}},
      {DType::kQ8_0, 8, 32, {0}},    {DType::kQ2_K, 2, 16, {80, 82}}, {DType::kQ3_K, 3, 16, {108}}, {DType::kQ4_K, 4, 32, {0, 2}},
      {DType::kQ5_K, 5, 32, {0, 2}}, {DType::kQ6_K, 6, 16, {208}},    {DType::kIQ4_NL, 8, 32, {0}}, {DType::kTQ1_0, 2, 256, {52}},
      {DType::kTQ2_0, 2, 256, {64}},
  };
  return types;
}

float Half(const uint8_t* p) { return HalfToFloat(static_cast<uint16_t>(p[0] | p[1] << 8)); }

// Value i of one block, each from its own bytes.
float Reference(DType dtype, const uint8_t* b, int i) {
  const auto nibble = [](uint8_t byte, bool high) { return high ? byte >> 4 : byte & 15; };
  const int half = i / 128, in_half = i % 128;
  switch (dtype) {
    case DType::kQ4_0:
      return static_cast<float>(nibble(b[2 + i % 16], i >= 16) - 8) * Half(b);
    case DType::kQ4_1:
      return static_cast<float>(nibble(b[4 + i % 16], i >= 16)) * Half(b) + Half(b + 2);
    case DType::kQ5_0:
      return static_cast<float>((nibble(b[6 + i % 16], i >= 16) | (b[2 + i / 8] >> i % 8 & 1) << 4) - 16) * Half(b);
    case DType::kQ5_1:
      return static_cast<float>(nibble(b[8 + i % 16], i >= 16) | (b[4 + i / 8] >> i % 8 & 1) << 4) * Half(b) + Half(b + 2);
    case DType::kQ8_0:
      return static_cast<float>(static_cast<int8_t>(b[2 + i])) * Half(b);
    case DType::kQ2_K: {
      const int q = b[16 + half * 32 + in_half % 32] >> (in_half / 32 * 2) & 3;
      return Half(b + 80) * static_cast<float>(b[i / 16] & 15) * static_cast<float>(q) - Half(b + 82) * static_cast<float>(b[i / 16] >> 4);
    }
    case DType::kQ3_K: {
      const int low = b[32 + half * 32 + in_half % 32] >> (in_half / 32 * 2) & 3;
      const int q = low - ((b[i % 32] >> (i / 32) & 1) != 0 ? 0 : 4);
      const int g = i / 16;
      // the 16 six-bit scales as ggml shuffles them: four words of low nibbles, two high bits from the last word
      const int six = nibble(b[96 + g % 8], g >= 8) | (b[104 + g % 4] >> (g / 4 * 2) & 3) << 4;
      return Half(b + 108) * static_cast<float>(six - 32) * static_cast<float>(q);
    }
    case DType::kQ4_K:
    case DType::kQ5_K: {
      const uint8_t* s = b + 4;
      const int j = i / 32;
      const int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
      const int m = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
      const uint8_t* qs = b + (dtype == DType::kQ4_K ? 16 : 48);
      int q = nibble(qs[i / 64 * 32 + i % 32], i % 64 >= 32);
      if (dtype == DType::kQ5_K) q |= (b[16 + i % 32] >> j & 1) << 4;
      return Half(b) * static_cast<float>(sc) * static_cast<float>(q) - Half(b + 2) * static_cast<float>(m);
    }
    case DType::kIQ4_NL: {
      const int values[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
      return static_cast<float>(values[nibble(b[2 + i % 16], i >= 16)]) * Half(b);
    }
    case DType::kTQ1_0: {  // the digits of b * 243 / 256 in base 3, most significant first
      const int run = i < 160 ? 0 : i < 240 ? 1 : 2;
      const int first[] = {0, 160, 240}, offset[] = {0, 32, 48}, width[] = {32, 16, 4};
      const int at = i - first[run];
      unsigned byte = b[offset[run] + at % width[run]], digit = 0;
      for (int t = 0; t <= at / width[run]; ++t) {
        digit = byte * 3 / 256;
        byte = byte * 3 % 256;
      }
      return (static_cast<float>(digit) - 1) * Half(b + 52);
    }
    case DType::kTQ2_0:
      return static_cast<float>((b[half * 32 + in_half % 32] >> (in_half / 32 * 2) & 3) - 1) * Half(b + 64);
    default: {  // Q6_K
      const int l = in_half % 32, quarter = in_half / 32;
      const int low = nibble(b[half * 64 + l + (quarter % 2) * 32], quarter >= 2), high = b[128 + half * 32 + l] >> (2 * quarter) & 3;
      return Half(b + 208) * static_cast<float>(static_cast<int8_t>(b[192 + i / 16])) * static_cast<float>((low | high << 4) - 32);
    }
  }
}

// Random blocks whose f16 fields are finite; `stride` bytes each.
std::vector<uint8_t> RandomBlocks(std::mt19937& random, const Type& type, size_t count) {
  const size_t bytes = size_t(Info(type.dtype).block_bytes);
  std::vector<uint8_t> blocks(count * bytes);
  for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(random());
  for (size_t i = 0; i < count; ++i) {
    for (const int offset : type.halves) blocks[i * bytes + size_t(offset) + 1] &= 0xbf;  // exponent below 16: magnitude under 2
  }
  return blocks;
}

bool SameBits(float a, float b) { return std::memcmp(&a, &b, 4) == 0; }

}  // namespace

// Each type: a block with one scale and one marked value, decoded on paper.
LOWBIT_TEST(gguf_hand_made_blocks) {
  const auto decode = [](DType dtype, std::vector<std::pair<int, int>> bytes, int i) {
    std::vector<uint8_t> block(size_t(Info(dtype).block_bytes), 0);
    for (const auto& [offset, value] : bytes) block[size_t(offset)] = static_cast<uint8_t>(value);
    std::vector<float> out(size_t(Info(dtype).block_values));
    if (!EXPECT(DecodeGguf(dtype, block.data(), Info(dtype).block_values, out.data()).ok())) return -999.0f;
    return out[size_t(i)];
  };
  // 0x3c00 = 1, 0x4000 = 2, 0x3800 = 0.5 as f16: the high byte is at the odd offset
  EXPECT(decode(DType::kQ4_0, {{1, 0x40}, {2 + 5, 0x0f}}, 5) == 14.0f);   // (15 - 8) * 2
  EXPECT(decode(DType::kQ4_0, {{1, 0x40}, {2 + 5, 0xf0}}, 21) == 14.0f);  // high nibble: element 5 + 16
  EXPECT(decode(DType::kQ4_0, {{1, 0x40}, {2 + 5, 0xf0}}, 5) == -16.0f);  // low nibble 0
  EXPECT(decode(DType::kQ4_1, {{1, 0x40}, {3, 0x38}, {4 + 15, 0x90}}, 31) == 18.5f);
  EXPECT(decode(DType::kQ5_0, {{1, 0x3c}, {2 + 2, 0x02}, {6 + 1, 0x30}}, 17) == 3.0f);  // 16 + 3 - 16
  EXPECT(decode(DType::kQ5_0, {{1, 0x3c}, {6 + 1, 0x03}}, 1) == -13.0f);
  EXPECT(decode(DType::kQ5_1, {{1, 0x3c}, {3, 0x40}, {4, 0x01}, {8, 0x01}}, 0) == 19.0f);  // 17 + 2
  EXPECT(decode(DType::kQ8_0, {{1, 0x38}, {2 + 31, 0x80}}, 31) == -64.0f);
  EXPECT(decode(DType::kQ8_0, {{1, 0x38}, {2 + 31, 0x7f}}, 31) == 63.5f);
  // Q2_K element 130 + 32: second half, shift 2, byte 2; group 10: scale 3, minimum 5
  EXPECT(decode(DType::kQ2_K, {{81, 0x3c}, {83, 0x38}, {10, 0x53}, {16 + 32 + 2, 0x08}}, 162) == 3 * 2 - 0.5f * 5);
  // Q3_K element 33: third bit 1 of byte 1, crumb 1 of byte 1; group 2: six bits 63 - 32
  EXPECT(decode(DType::kQ3_K, {{109, 0x3c}, {1, 0x02}, {32 + 1, 0x0c}, {96 + 2, 0x0f}, {104 + 2, 0x03}}, 33) == 31.0f * 3);
  EXPECT(decode(DType::kQ3_K, {{109, 0x3c}, {32 + 1, 0x0c}, {96 + 2, 0x0f}, {104 + 2, 0x03}}, 33) == -31.0f);  // 3 - 4
  EXPECT(decode(DType::kQ3_K, {{109, 0x3c}, {96 + 7, 0x10}, {104 + 3, 0xc0}}, 255) == 17.0f * -4);             // group 15: 49 - 32
  // Q4_K group 5 (element 160): scale 4 bits from s[9] and 2 from s[1]; minimum 4 from s[9] high, 2 from s[5]
  EXPECT(decode(DType::kQ4_K, {{1, 0x3c}, {3, 0x38}, {4 + 9, 0x21}, {4 + 1, 0x40}, {4 + 5, 0x80}, {16 + 64, 0x70}}, 160) ==
         17 * 7 - 0.5f * 34);
  EXPECT(decode(DType::kQ5_K, {{1, 0x3c}, {4 + 1, 1}, {16, 0x02}, {48, 0x70}}, 32) == 23.0f);  // group 1: 16 + 7
  // Q6_K element 96: high nibble of byte 32, crumb 3 of byte 0; group 6
  EXPECT(decode(DType::kQ6_K, {{209, 0x3c}, {32, 0x50}, {128, 0x80}, {192 + 6, 0xff}}, 96) == -5.0f);  // (5 + 32 - 32) * -1
}

LOWBIT_TEST(gguf_decodes_like_the_table) {
  std::mt19937 random(11);
  for (const Type& type : Types()) {
    const size_t count = 9, values = size_t(Info(type.dtype).block_values), bytes = size_t(Info(type.dtype).block_bytes);
    const std::vector<uint8_t> blocks = RandomBlocks(random, type, count);
    std::vector<float> out(count * values);
    EXPECT(DecodeGguf(type.dtype, blocks.data(), static_cast<int64_t>(out.size()), out.data()).ok());
    size_t wrong = 0;
    for (size_t i = 0; i < out.size(); ++i)
      wrong += out[i] != Reference(type.dtype, &blocks[i / values * bytes], static_cast<int>(i % values));
    EXPECT(wrong == 0);
  }
}

LOWBIT_TEST(gguf_decodes_like_the_golden_file) {
  std::ifstream file(LOWBIT_SOURCE_DIR "/test/fixtures/gguf_blocks.bin", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!EXPECT(bytes.size() > 4)) return;
  size_t at = 0;
  const auto word = [&] {
    uint32_t value;
    std::memcpy(&value, &bytes[at], 4);
    at += 4;
    return value;
  };
  const uint32_t types = word();
  EXPECT(types == Types().size());
  for (uint32_t i = 0; i < types; ++i) {
    const Result<DType> dtype = ParseDType(&bytes[at]);
    at += 8;
    if (!EXPECT(dtype.ok())) return;
    const size_t blocks = word(), values = blocks * size_t(Info(dtype.value()).block_values);
    std::vector<float> out(values);
    EXPECT(DecodeGguf(dtype.value(), reinterpret_cast<const uint8_t*>(&bytes[at]), static_cast<int64_t>(values), out.data()).ok());
    at += blocks * size_t(Info(dtype.value()).block_bytes);
    size_t wrong = 0;
    for (size_t j = 0; j < values; ++j, at += 4) {
      float expected;
      std::memcpy(&expected, &bytes[at], 4);
      wrong += out[j] != expected;
    }
    EXPECT(wrong == 0);
  }
  EXPECT(at == bytes.size());
}

LOWBIT_TEST(gguf_packing_is_bit_exact) {
  std::mt19937 random(12);
  for (const Type& type : Types()) {
    const int values = Info(type.dtype).block_values;
    for (const auto& [n, blocks] : {std::pair<int, int>{1, 1}, {16, 2}, {37, 3}}) {
      for (const bool mapped : {false, true}) {
        const int k = blocks * values;
        const std::vector<uint8_t> source = RandomBlocks(random, type, size_t(n * blocks));
        std::vector<float> expected(size_t(n) * size_t(k));
        EXPECT(DecodeGguf(type.dtype, source.data(), static_cast<int64_t>(expected.size()), expected.data()).ok());
        RowMap map;
        for (int i = 0; mapped && i < n; ++i) map.push_back((i * 5 + 2) % n);
        const Result<Part> part = PackGguf("w", type.dtype, source.data(), n, k, map);
        if (!EXPECT(part.ok())) continue;
        const PackedView& view = part.value().view;
        EXPECT(view.bits == type.bits && view.group_size == type.group_size && view.n == n && view.k == k);
        size_t wrong = 0;
        for (int i = 0; i < n; ++i) {
          const int row = mapped ? (i * 5 + 2) % n : i;
          for (int j = 0; j < k; ++j) wrong += !SameBits(WeightAt(view, i, j), expected[size_t(row) * size_t(k) + size_t(j)]);
        }
        for (int i = n; i < (n + 15) / 16 * 16; ++i) {
          // IQ4_NL has no code 0; what a padding row holds there counts for nothing, because its scale is 0.
          for (int j = 0; j < k; ++j) wrong += (CodeAt(view, i, j) != 0 && type.dtype != DType::kIQ4_NL) || WeightAt(view, i, j) != 0;
        }
        EXPECT(wrong == 0);
        EXPECT(part.value().stored_bytes == source.size());
        EXPECT(part.value().kind == PartKind::kAffine);
      }
    }
  }
}

LOWBIT_TEST(gguf_decodes_plain_types) {
  const uint16_t halves[] = {0x3c00, 0xc000};
  const float floats[] = {0.1f, -3};
  float out[2];
  EXPECT(DecodeGguf(DType::kF16, reinterpret_cast<const uint8_t*>(halves), 2, out).ok() && out[0] == 1 && out[1] == -2);
  EXPECT(DecodeGguf(DType::kF32, reinterpret_cast<const uint8_t*>(floats), 2, out).ok() && out[0] == 0.1f && out[1] == -3);
  const uint16_t brain[] = {0x3f80, 0xc000};
  EXPECT(DecodeGguf(DType::kBF16, reinterpret_cast<const uint8_t*>(brain), 2, out).ok() && out[0] == 1 && out[1] == -2);
}

LOWBIT_TEST(gguf_errors) {
  std::mt19937 random(13);
  std::vector<uint8_t> blocks(4096, 0);
  float out[256];
  EXPECT_ERROR(PackGguf("blk.0.w", DType::kF32, blocks.data(), 1, 32, {}).status(), Code::kUnsupported,
               "Tensor blk.0.w has element type F32");
  EXPECT_ERROR(PackGguf("blk.0.w", DType::kQ4_K, blocks.data(), 1, 320, {}).status(), Code::kCorruptFile, "Tensor blk.0.w has 320 columns");
  EXPECT_ERROR(PackGguf("blk.0.w", DType::kQ4_0, blocks.data(), 1, 0, {}).status(), Code::kInvalidArgument, "columns of blk.0.w");
  EXPECT_ERROR(PackGguf("blk.0.w", DType::kQ4_0, blocks.data(), 2, 32, {0, 7}).status(), Code::kInvalidArgument, "row map of blk.0.w");
  EXPECT_ERROR(DecodeGguf(DType::kQ4_0, blocks.data(), 33, out), Code::kInvalidArgument,
               "a multiple of 32 for the number of Q4_0 values but received 33");
  EXPECT_ERROR(DecodeGguf(DType::kQ4_0, blocks.data(), -32, out), Code::kInvalidArgument, "received -32");
  EXPECT_ERROR(DecodeGguf(DType::kI64, blocks.data(), 1, out), Code::kUnsupported, "I64");
  // every f16 field of every type, infinite and NaN, in the last of three rows
  for (const Type& type : Types()) {
    for (const int offset : type.halves) {
      for (const uint8_t high : {0x7c, 0x7e, 0xfc}) {
        const size_t bytes = size_t(Info(type.dtype).block_bytes);
        std::vector<uint8_t> rows = RandomBlocks(random, type, 3);
        rows[2 * bytes + size_t(offset)] = 0;
        rows[2 * bytes + size_t(offset) + 1] = high;
        EXPECT_ERROR(PackGguf("blk.0.w", type.dtype, rows.data(), 3, Info(type.dtype).block_values, {}).status(), Code::kCorruptFile,
                     "Tensor blk.0.w holds a block scale that is not finite");
      }
    }
  }
}
