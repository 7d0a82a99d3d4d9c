// part/gguf_encode: see gguf_encode.h. Block layouts: GGUF v3, docs/formats.md, and beside each decoder of gguf_decode.cc.
#include "part/gguf_encode.h"

#include <array>
#include <cmath>
#include <cstring>

#include "base/half.h"

namespace lowbit {
namespace {

constexpr int kSuperColumns = 256;
constexpr size_t kMostGroups = 16;

constexpr BlockType kTypes[] = {
    {DType::kQ4_0, 4, 32, false, false, 0}, {DType::kQ4_1, 4, 32, true, false, 0},   {DType::kQ5_0, 5, 32, false, false, 0},
    {DType::kQ5_1, 5, 32, true, false, 0},  {DType::kQ8_0, 8, 32, false, false, 0},  {DType::kQ4_K, 4, 32, true, true, 63},
    {DType::kQ5_K, 5, 32, true, true, 63},  {DType::kQ6_K, 6, 16, false, true, 127},
};

void PutHalf(float value, uint8_t* out) {
  const uint16_t half = FloatToHalf(value);
  std::memcpy(out, &half, sizeof(half));
}

// One block: codes as stored (already turned round where the scale is negative) and what stands in front of them.
struct Stored {
  uint8_t codes[kSuperColumns];
  float scale, minimum;  // 32 columns; or the super-scales
  int scale_codes[kMostGroups];
  int minimum_codes[kMostGroups];
};

void PutNibbles(const uint8_t* codes, uint8_t* out) {
  for (int j = 0; j < 16; ++j) out[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}

void PutFifthBits(const uint8_t* codes, uint8_t* out) {
  uint32_t bits = 0;
  for (int j = 0; j < 32; ++j) bits |= static_cast<uint32_t>(codes[j] >> 4 & 1) << j;
  std::memcpy(out, &bits, sizeof(bits));
}

// Q4_K and Q5_K: eight six-bit scales and minima in 12 bytes. The first four of each fill the low six bits of a byte; of the other four the
// low nibbles share bytes 8 to 11 and the two high bits lie above the first ones.
void PutScalesAndMinima(const Stored& block, uint8_t* out) {
  PutHalf(block.scale, out);
  PutHalf(block.minimum, out + 2);
  uint8_t* s = out + 4;
  for (int j = 0; j < 4; ++j) {
    const int late_scale = block.scale_codes[j + 4], late_minimum = block.minimum_codes[j + 4];
    s[j] = static_cast<uint8_t>(block.scale_codes[j] | late_scale >> 4 << 6);
    s[j + 4] = static_cast<uint8_t>(block.minimum_codes[j] | late_minimum >> 4 << 6);
    s[j + 8] = static_cast<uint8_t>((late_scale & 15) | (late_minimum & 15) << 4);
  }
}

void PutWideNibbles(const uint8_t* codes, uint8_t* out) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 32; ++j) out[i * 32 + j] = static_cast<uint8_t>((codes[i * 64 + j] & 15) | (codes[i * 64 + 32 + j] & 15) << 4);
}

void PutQ6K(const Stored& block, uint8_t* out) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t* codes = block.codes + half * 128;
    for (int j = 0; j < 64; ++j) out[half * 64 + j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 64] & 15) << 4);
    for (int j = 0; j < 32; ++j) {
      int crumbs = 0;
      for (int s = 0; s < 4; ++s) crumbs |= codes[s * 32 + j] >> 4 << (2 * s);
      out[128 + half * 32 + j] = static_cast<uint8_t>(crumbs);
    }
  }
  for (int g = 0; g < 16; ++g) out[192 + g] = static_cast<uint8_t>(static_cast<int8_t>(block.scale_codes[g]));
  PutHalf(block.scale, out + 208);
}

void PutBlock(DType dtype, const Stored& block, uint8_t* out) {
  switch (dtype) {
    case DType::kQ4_0:
      PutHalf(block.scale, out);
      PutNibbles(block.codes, out + 2);
      return;
    case DType::kQ4_1:
      PutHalf(block.scale, out);
      PutHalf(block.minimum, out + 2);
      PutNibbles(block.codes, out + 4);
      return;
    case DType::kQ5_0:
      PutHalf(block.scale, out);
      PutFifthBits(block.codes, out + 2);
      PutNibbles(block.codes, out + 6);
      return;
    case DType::kQ5_1:
      PutHalf(block.scale, out);
      PutHalf(block.minimum, out + 2);
      PutFifthBits(block.codes, out + 4);
      PutNibbles(block.codes, out + 8);
      return;
    case DType::kQ8_0:
      PutHalf(block.scale, out);
      for (int j = 0; j < 32; ++j) out[2 + j] = block.codes[j] ^ 0x80;
      return;
    case DType::kQ4_K:
      PutScalesAndMinima(block, out);
      PutWideNibbles(block.codes, out + 16);
      return;
    case DType::kQ5_K:
      PutScalesAndMinima(block, out);
      for (int j = 0; j < 32; ++j) {
        int bits = 0;
        for (int i = 0; i < 8; ++i) bits |= (block.codes[i * 32 + j] >> 4 & 1) << i;
        out[16 + j] = static_cast<uint8_t>(bits);
      }
      PutWideNibbles(block.codes, out + 48);
      return;
    default:
      PutQ6K(block, out);
  }
}

Status CheckTables(const char* name, const BlockType& type, const BlockCodes& source) {
  const size_t n = static_cast<size_t>(source.n), k = static_cast<size_t>(source.k), values = n * k;
  const size_t groups = values / static_cast<size_t>(type.group_size), supers = values / kSuperColumns;
  const bool sizes =
      source.codes.size() == values && (type.has_minimum || source.zeros.size() == groups) &&
      (type.coded ? source.super_scales.size() == supers && source.scale_codes.size() == groups &&
                        (!type.has_minimum || (source.super_minima.size() == supers && source.minimum_codes.size() == groups))
                  : source.scales.size() == groups && (!type.has_minimum || source.minima.size() == groups));
  if (!sizes) return Error(Code::kInvalidArgument, "The tables of %s do not have the sizes that %s needs", name, Info(type.dtype).name);
  uint8_t codes = 0;
  for (const uint8_t code : source.codes) codes |= code;
  bool fits = codes >> type.bits == 0;
  if (!type.has_minimum)
    for (const uint8_t zero : source.zeros) fits = fits && (zero == 1 << (type.bits - 1) || zero + 1 == 1 << (type.bits - 1));
  for (const uint8_t code : source.scale_codes) fits = fits && (!type.coded || code <= type.scale_codes);
  for (const uint8_t code : source.minimum_codes) fits = fits && (!type.coded || code <= type.scale_codes);
  for (const std::span<const float> halves :
       type.coded ? std::array{source.super_scales, source.super_minima} : std::array{source.scales, source.minima}) {
    for (const float value : halves) fits = fits && HalfToFloat(FloatToHalf(value)) == value;
  }
  if (!fits) return Error(Code::kInternal, "%s has codes or scales that %s cannot store", name, Info(type.dtype).name);
  return Status::Ok();
}

}  // namespace

const BlockType* FindBlockType(DType dtype) {
  for (const BlockType& type : kTypes)
    if (type.dtype == dtype) return &type;
  return nullptr;
}

Status EncodeBlocks(const char* name, DType dtype, const BlockCodes& source, std::vector<uint8_t>* out) {
  const BlockType* type = FindBlockType(dtype);
  if (type == nullptr) return Error(Code::kInvalidArgument, "Blocks of %s are read but not written", Info(dtype).name);
  const DTypeInfo& info = Info(dtype);
  if (source.n < 1 || source.k < 1 || source.k % info.block_values != 0) {
    return Error(Code::kInvalidArgument, "%s has %d columns, but a row of %s holds a multiple of %d", name, source.k, info.name,
                 info.block_values);
  }
  LOWBIT_RETURN_IF_ERROR(CheckTables(name, *type, source));
  const size_t columns = static_cast<size_t>(info.block_values), bytes = static_cast<size_t>(info.block_bytes);
  const size_t group_size = static_cast<size_t>(type->group_size), groups = columns / group_size;
  const size_t blocks = static_cast<size_t>(source.n) * static_cast<size_t>(source.k) / columns;
  out->resize(blocks * bytes);
  const int half = 1 << (type->bits - 1), last = 2 * half - 1;
  Stored block{};
  for (size_t b = 0; b < blocks; ++b) {
    for (size_t g = 0; g < groups; ++g) {
      const size_t group = b * groups + g;
      const bool turned = !type->has_minimum && source.zeros[group] != half;
      const uint8_t* codes = source.codes.data() + group * group_size;
      for (size_t c = 0; c < group_size; ++c) block.codes[g * group_size + c] = static_cast<uint8_t>(turned ? last - codes[c] : codes[c]);
      if (type->coded) {
        block.scale_codes[g] = turned ? -int(source.scale_codes[group]) : source.scale_codes[group];
        if (type->has_minimum) block.minimum_codes[g] = source.minimum_codes[group];
      } else {
        block.scale = turned ? -source.scales[group] : source.scales[group];
        if (type->has_minimum) block.minimum = source.minima[group];
      }
    }
    if (type->coded) {
      block.scale = source.super_scales[b];
      if (type->has_minimum) block.minimum = source.super_minima[b];
    }
    PutBlock(dtype, block, out->data() + b * bytes);
  }
  return Status::Ok();
}

Status EncodeDense(const char* name, DType dtype, std::span<const float> values, std::vector<uint8_t>* out) {
  if (dtype == DType::kF32) {
    out->resize(values.size() * sizeof(float));
    std::memcpy(out->data(), values.data(), out->size());
    return Status::Ok();
  }
  if (dtype != DType::kF16 && dtype != DType::kBF16)
    return Error(Code::kInvalidArgument, "Expected F32, F16 or BF16 for the dense type of %s but received %s", name, Info(dtype).name);
  out->resize(values.size() * sizeof(uint16_t));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = dtype == DType::kF16 ? FloatToHalf(values[i]) : FloatToBfloat16(values[i]);
    if (dtype == DType::kF16 && (bits & 0x7fff) == 0x7c00 && std::isfinite(values[i]))
      return Error(Code::kUnsupported, "%s holds %g, which F16 cannot; choose BF16 or F32", name, static_cast<double>(values[i]));
    std::memcpy(out->data() + 2 * i, &bits, sizeof(bits));
  }
  return Status::Ok();
}

}  // namespace lowbit
