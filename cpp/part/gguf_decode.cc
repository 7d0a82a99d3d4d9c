// part/gguf_decode: GGUF quantised blocks -> plain floats, one row at a time, for 1-D tensors and as the reference of the packer
// (gguf_blocks.cc), which shares no decoding with it.
// Every block type here is an affine grid: w = scale * (code - 2^(bits-1)) or w = scale * code + minimum per 16, 32 or 256 columns. IQ4_NL
// is one too: its 16 values are whole numbers, so they are 8-bit codes. Block layouts: GGUF v3, docs/formats.md. d and dmin are f16, little
// endian; "low nibbles" = value & 15.
#include <cstring>

#include "base/half.h"
#include "part/part.h"

namespace lowbit {
namespace {

constexpr size_t kMaxBlock = 256;  // columns
constexpr size_t kMaxGroups = 16;  // scale groups per block

float HalfAt(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof(half));
  return HalfToFloat(half);
}

uint32_t WordAt(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// 16 bytes: low nibbles are columns 0-15, high nibbles columns 16-31.
void Nibbles(const uint8_t* qs, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = qs[j] & 15;
    codes[j + 16] = qs[j] >> 4;
  }
}

// 32 bits, one per column, become bit 4 of the codes.
void FifthBits(uint32_t high, uint8_t* codes) {
  for (int j = 0; j < 32; ++j) codes[j] = static_cast<uint8_t>(codes[j] | (high >> j & 1) << 4);
}

// Q4_0, 18 bytes: d, 16 bytes of nibbles; w = d * (q - 8).
void DecodeQ4_0(const uint8_t* block, uint8_t* codes, float* scales, float*) {
  scales[0] = HalfAt(block);
  Nibbles(block + 2, codes);
}

// Q4_1, 20 bytes: d, m, 16 bytes of nibbles; w = d * q + m.
void DecodeQ4_1(const uint8_t* block, uint8_t* codes, float* scales, float* minima) {
  scales[0] = HalfAt(block);
  minima[0] = HalfAt(block + 2);
  Nibbles(block + 4, codes);
}

// Q5_0, 22 bytes: d, 32 fifth bits, 16 bytes of nibbles; w = d * (q - 16).
void DecodeQ5_0(const uint8_t* block, uint8_t* codes, float* scales, float*) {
  scales[0] = HalfAt(block);
  Nibbles(block + 6, codes);
  FifthBits(WordAt(block + 2), codes);
}

// Q5_1, 24 bytes: d, m, 32 fifth bits, 16 bytes of nibbles; w = d * q + m.
void DecodeQ5_1(const uint8_t* block, uint8_t* codes, float* scales, float* minima) {
  scales[0] = HalfAt(block);
  minima[0] = HalfAt(block + 2);
  Nibbles(block + 8, codes);
  FifthBits(WordAt(block + 4), codes);
}

// Q8_0, 34 bytes: d, 32 int8; w = d * q. The code is q + 128.
void DecodeQ8_0(const uint8_t* block, uint8_t* codes, float* scales, float*) {
  scales[0] = HalfAt(block);
  for (int j = 0; j < 32; ++j) codes[j] = block[2 + j] ^ 0x80;
}

// Crumbs of Q2_K and Q3_K: per 128 columns 32 bytes, columns 32s..32s+31 in bits 2s and 2s+1.
void Crumbs(const uint8_t* qs, uint8_t* codes) {
  for (int half = 0; half < 2; ++half) {
    for (int s = 0; s < 4; ++s) {
      for (int j = 0; j < 32; ++j) codes[half * 128 + s * 32 + j] = qs[half * 32 + j] >> (2 * s) & 3;
    }
  }
}

// Q2_K, 84 bytes: 16 x (low nibble scale, high nibble minimum), 64 bytes of crumbs, d, dmin; w = d*sc*q - dmin*m per 16.
void DecodeQ2K(const uint8_t* block, uint8_t* codes, float* scales, float* minima) {
  const float d = HalfAt(block + 80), dmin = HalfAt(block + 82);
  for (int g = 0; g < 16; ++g) {
    scales[g] = d * static_cast<float>(block[g] & 15);
    minima[g] = -(dmin * static_cast<float>(block[g] >> 4));
  }
  Crumbs(block + 16, codes);
}

// Q3_K, 110 bytes: 32 bytes of third bits (bit i of byte j: column 32i + j), 64 bytes of crumbs, 16 six-bit scales in 12 bytes,
// d; w = d * (sc - 32) * (q - 4) per 16. Scale g: low nibble g (bytes 0-7: low nibbles 0-7, high nibbles 8-15), two high bits in
// byte 8 + g%4 at bit 2*(g/4).
void DecodeQ3K(const uint8_t* block, uint8_t* codes, float* scales, float*) {
  const float d = HalfAt(block + 108);
  const uint8_t* packed = block + 96;
  for (int g = 0; g < 16; ++g) {
    const int low = packed[g % 8] >> (g / 8 * 4) & 15, high = packed[8 + g % 4] >> (g / 4 * 2) & 3;
    scales[g] = d * static_cast<float>((low | high << 4) - 32);
  }
  Crumbs(block + 32, codes);
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 32; ++j) codes[i * 32 + j] = static_cast<uint8_t>(codes[i * 32 + j] | (block[j] >> i & 1) << 2);
  }
}

// 8 six-bit scales and 8 six-bit minima in 12 bytes, as Q4_K and Q5_K hold them.
void ScalesAndMinima(const uint8_t* block, float* scales, float* minima) {
  const float d = HalfAt(block), dmin = HalfAt(block + 2);
  const uint8_t* s = block + 4;
  for (int j = 0; j < 8; ++j) {
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    const int minimum = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    scales[j] = d * static_cast<float>(scale);
    minima[j] = -(dmin * static_cast<float>(minimum));
  }
}

// Per 64 columns 32 bytes: low nibbles are the first 32 columns, high nibbles the next 32.
void WideNibbles(const uint8_t* qs, uint8_t* codes) {
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 32; ++j) {
      codes[i * 64 + j] = qs[i * 32 + j] & 15;
      codes[i * 64 + 32 + j] = qs[i * 32 + j] >> 4;
    }
  }
}

// Q4_K, 144 bytes: d, dmin, 12 bytes of scales and minima, 128 bytes of nibbles; w = d*sc*q - dmin*m per 32.
void DecodeQ4K(const uint8_t* block, uint8_t* codes, float* scales, float* minima) {
  ScalesAndMinima(block, scales, minima);
  WideNibbles(block + 16, codes);
}

// Q5_K, 176 bytes: as Q4_K with 32 bytes of fifth bits (bit i of byte j: column 32i + j) before the nibbles.
void DecodeQ5K(const uint8_t* block, uint8_t* codes, float* scales, float* minima) {
  ScalesAndMinima(block, scales, minima);
  WideNibbles(block + 48, codes);
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 32; ++j) codes[i * 32 + j] = static_cast<uint8_t>(codes[i * 32 + j] | (block[16 + j] >> i & 1) << 4);
  }
}

// Q6_K, 210 bytes: 128 bytes of low nibbles, 64 bytes of high crumbs, 16 int8 scales, d; w = d * sc * (q - 32) per 16.
// Per 128 columns: 64 bytes hold the nibbles of columns 0-63 (low) and 64-127 (high), 32 bytes the crumbs as in Q2_K.
void DecodeQ6K(const uint8_t* block, uint8_t* codes, float* scales, float*) {
  const float d = HalfAt(block + 208);
  for (int g = 0; g < 16; ++g) scales[g] = d * static_cast<float>(static_cast<int8_t>(block[192 + g]));
  Crumbs(block + 128, codes);
  for (int half = 0; half < 2; ++half) {
    uint8_t* out = codes + half * 128;
    for (int j = 0; j < 64; ++j) {
      const uint8_t low = block[half * 64 + j];
      out[j] = static_cast<uint8_t>(out[j] << 4 | (low & 15));
      out[j + 64] = static_cast<uint8_t>(out[j + 64] << 4 | low >> 4);
    }
  }
}

// IQ4_NL, 18 bytes as Q4_0; w = d * value[q] with 16 fixed values, here as 8-bit codes around 128.
void DecodeIQ4NL(const uint8_t* block, uint8_t* codes, float* scales, float*) {
  constexpr int8_t kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  scales[0] = HalfAt(block);
  Nibbles(block + 2, codes);
  for (int j = 0; j < 32; ++j) codes[j] = static_cast<uint8_t>(kValues[codes[j]] + 128);
}

// TQ1_0, 54 bytes: 32 and 16 bytes of five ternary digits, 4 bytes of four, d; w = d * (q - 1). Digit t of byte m of a run of `width`
// bytes is column t * width + m of that run; byte b holds digit t as b * 3^t mod 256, times 3, divided by 256.
void DecodeTQ10(const uint8_t* block, uint8_t* codes, float* scales, float* minima) {
  scales[0] = HalfAt(block + 52);
  minima[0] = -scales[0];
  const struct {
    int offset, width, digits;
  } runs[] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};
  for (const auto& run : runs) {
    for (int t = 0, power = 1; t < run.digits; ++t, power *= 3) {
      for (int m = 0; m < run.width; ++m) *codes++ = static_cast<uint8_t>((block[run.offset + m] * power & 255) * 3 >> 8);
    }
  }
}

// TQ2_0, 66 bytes: 64 bytes of crumbs as in Q2_K, d; w = d * (q - 1).
void DecodeTQ20(const uint8_t* block, uint8_t* codes, float* scales, float* minima) {
  scales[0] = HalfAt(block + 64);
  minima[0] = -scales[0];
  Crumbs(block, codes);
}

struct BlockFormat {
  DType dtype;
  int bits;
  int group_size;
  AffineKind affine;
  // codes[columns of the block], scales and minima[groups of the block]; minima stay untouched for kSymmetric.
  void (*decode)(const uint8_t* block, uint8_t* codes, float* scales, float* minima);
};

constexpr BlockFormat kFormats[] = {
    {DType::kQ4_0, 4, 32, AffineKind::kSymmetric, DecodeQ4_0},    {DType::kQ4_1, 4, 32, AffineKind::kMinimum, DecodeQ4_1},
    {DType::kQ5_0, 5, 32, AffineKind::kSymmetric, DecodeQ5_0},    {DType::kQ5_1, 5, 32, AffineKind::kMinimum, DecodeQ5_1},
    {DType::kQ8_0, 8, 32, AffineKind::kSymmetric, DecodeQ8_0},    {DType::kQ2_K, 2, 16, AffineKind::kMinimum, DecodeQ2K},
    {DType::kQ3_K, 3, 16, AffineKind::kSymmetric, DecodeQ3K},     {DType::kQ4_K, 4, 32, AffineKind::kMinimum, DecodeQ4K},
    {DType::kQ5_K, 5, 32, AffineKind::kMinimum, DecodeQ5K},       {DType::kQ6_K, 6, 16, AffineKind::kSymmetric, DecodeQ6K},
    {DType::kIQ4_NL, 8, 32, AffineKind::kSymmetric, DecodeIQ4NL}, {DType::kTQ1_0, 2, 256, AffineKind::kMinimum, DecodeTQ10},
    {DType::kTQ2_0, 2, 256, AffineKind::kMinimum, DecodeTQ20},
};

const BlockFormat* FindFormat(DType dtype) {
  for (const BlockFormat& format : kFormats) {
    if (format.dtype == dtype) return &format;
  }
  return nullptr;
}

}  // namespace

Status DecodeGguf(DType dtype, const uint8_t* blocks, int64_t count, float* out) {
  const int64_t columns = Info(dtype).block_values, bytes = Info(dtype).block_bytes;
  if (count < 0 || count % columns != 0) {
    return Error(Code::kInvalidArgument, "Expected a multiple of %d for the number of %s values but received %lld",
                 Info(dtype).block_values, Info(dtype).name, static_cast<long long>(count));
  }
  const BlockFormat* format = FindFormat(dtype);
  if (format == nullptr && dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16) {
    return Error(Code::kUnsupported, "Element type %s cannot be decoded to float", Info(dtype).name);
  }
  if (dtype == DType::kF32) {
    std::memcpy(out, blocks, static_cast<size_t>(count) * sizeof(float));
    return Status::Ok();
  }
  if (format == nullptr) {
    for (int64_t i = 0; i < count; ++i) {
      uint16_t value;
      std::memcpy(&value, blocks + 2 * i, sizeof(value));
      out[i] = dtype == DType::kF16 ? HalfToFloat(value) : Bfloat16ToFloat(value);
    }
    return Status::Ok();
  }
  for (; count > 0; count -= columns, blocks += bytes, out += columns) {
    uint8_t codes[kMaxBlock];
    float scales[kMaxGroups], minima[kMaxGroups];
    format->decode(blocks, codes, scales, minima);
    const float zero = static_cast<float>(1 << (format->bits - 1));
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t g = j / format->group_size;
      const float code = static_cast<float>(codes[j]);
      out[j] = format->affine == AffineKind::kMinimum ? scales[g] * code + minima[g] : scales[g] * (code - zero);
    }
  }
  return Status::Ok();
}

}  // namespace lowbit
