// test/native: part/gptq_words - Hugging Face GPTQ tensors, read and written.
// The reference below fetches single bits from the words, so that it shares no shift or mask with the code under test.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "base/half.h"
#include "check.h"
#include "part/part.h"

using namespace lowbit;

namespace {

struct Layer {
  int n = 0, k = 0, bits = 0, group_size = 0, groups = 0, zero_offset = 0;
  std::vector<uint8_t> codes;  // [n][k], file column order
  std::vector<uint8_t> zeros;  // [n][groups]
  std::vector<int32_t> qweight, qzeros, g_idx;
  std::vector<uint16_t> scales;  // [groups][n] f16

  GptqTensors Tensors() const {
    GptqTensors t;
    t.n = n;
    t.k = k;
    t.bits = bits;
    t.group_size = group_size;
    t.zero_offset = zero_offset;
    t.qweight = qweight;
    t.qzeros = qzeros;
    t.scales = {reinterpret_cast<const uint8_t*>(scales.data()), scales.size() * 2};
    t.scales_dtype = DType::kF16;
    t.g_idx = g_idx;
    return t;
  }
  int Group(int column) const { return g_idx.empty() ? column / group_size : g_idx[size_t(column)]; }
  float Weight(int row, int column) const {
    const size_t g = size_t(Group(column));
    const int code = codes[size_t(row) * size_t(k) + size_t(column)], zero = zeros[size_t(row) * size_t(groups) + g];
    return HalfToFloat(scales[g * size_t(n) + size_t(row)]) * static_cast<float>(code - zero);
  }
};

// Bits [first, first + bits) of the stream that words[first_word + i * stride] form, least significant bit first.
int Field(const std::vector<int32_t>& words, size_t first_word, size_t stride, size_t first, int bits) {
  int value = 0;
  for (int b = 0; b < bits; ++b) {
    const size_t bit = first + size_t(b);
    value |= static_cast<int>(static_cast<uint32_t>(words[first_word + bit / 32 * stride]) >> bit % 32 & 1) << b;
  }
  return value;
}

Layer RandomLayer(std::mt19937& random, int n, int k, int bits, int group_size, int zero_offset) {
  Layer layer;
  layer.n = n;
  layer.k = k;
  layer.bits = bits;
  layer.group_size = group_size;
  layer.groups = (k + group_size - 1) / group_size;
  layer.zero_offset = zero_offset;
  layer.codes.resize(size_t(n) * size_t(k));
  for (uint8_t& code : layer.codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
  layer.zeros.resize(size_t(n) * size_t(layer.groups));
  // a 3-bit v1 file can hold zeros 1..8, every other file 0..2^bits-1
  const uint32_t count = 1u << bits, low = bits == 3 && zero_offset == 1 ? 1 : 0;
  for (uint8_t& zero : layer.zeros) zero = static_cast<uint8_t>(low + random() % count);
  for (int i = 0; i < n * layer.groups; ++i) layer.scales.push_back(FloatToHalf(static_cast<float>(random() % 1000 + 1) / 4096));
  layer.qweight.resize(size_t(k) * size_t(bits) / 32 * size_t(n));
  layer.qzeros.resize(size_t(layer.groups) * size_t(n) * size_t(bits) / 32);
  WriteGptqWords(n, k, bits, layer.groups, zero_offset, layer.codes, layer.zeros, layer.qweight, layer.qzeros);
  return layer;
}

// Packs and compares every weight with the layer; returns the part.
Result<Part> PackAndCompare(const Layer& layer, const RowMap& map = {}) {
  Result<Part> part = PackGptq("mlp.down_proj", layer.Tensors(), map);
  if (!EXPECT(part.ok())) return part;
  const std::vector<int32_t>& order = part.value().permutation;
  size_t wrong = 0;
  for (int i = 0; i < layer.n; ++i) {
    for (int j = 0; j < layer.k; ++j) {
      wrong += WeightAt(part.value().view, i, j) != layer.Weight(map.empty() ? i : map[size_t(i)], order.empty() ? j : order[size_t(j)]);
    }
  }
  // padding rows of the last panel and padding columns of the last sub-block
  for (int i = 0; i < (layer.n + 15) / 16 * 16; ++i) {
    for (int j = 0; j < (layer.k + 31) / 32 * 32; ++j) wrong += (i >= layer.n || j >= layer.k) && CodeAt(part.value().view, i, j) != 0;
    for (int j = 0; i >= layer.n && j < layer.k; ++j) wrong += WeightAt(part.value().view, i, j) != 0;
  }
  EXPECT(wrong == 0);
  return part;
}

}  // namespace

LOWBIT_TEST(gptq_words_match_the_bit_reference) {
  std::mt19937 random(21);
  for (const int bits : {2, 3, 4, 8}) {
    for (const int offset : {0, 1}) {
      const Layer layer = RandomLayer(random, 32, 96, bits, 32, offset);
      size_t wrong = 0;
      for (int i = 0; i < layer.n; ++i) {
        for (int j = 0; j < layer.k; ++j) {
          wrong += Field(layer.qweight, size_t(i), size_t(layer.n), size_t(j * bits), bits) != layer.codes[size_t(i * layer.k + j)];
        }
        for (int g = 0; g < layer.groups; ++g) {
          const int stored = Field(layer.qzeros, size_t(g * layer.n * bits / 32), 1, size_t(i * bits), bits);
          wrong += stored != ((layer.zeros[size_t(i * layer.groups + g)] - offset) & ((1 << bits) - 1));
        }
      }
      EXPECT(wrong == 0);
    }
  }
}

// Words that every reader of the format knows: the symmetric zero of v1 and v2, and the first word of counting codes.
LOWBIT_TEST(gptq_known_words) {
  const auto words = [](int bits, int offset) {
    std::vector<uint8_t> codes(32 * 32), zeros(32, static_cast<uint8_t>(1 << (bits - 1)));
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i % 32 & ((1u << bits) - 1));
    std::vector<int32_t> qweight(size_t(bits) * 32), qzeros { std::vector<int32_t>(size_t(bits)) };
    WriteGptqWords(32, 32, bits, 1, offset, codes, zeros, qweight, qzeros);
    return std::pair<uint32_t, uint32_t>(static_cast<uint32_t>(qweight[5]), static_cast<uint32_t>(qzeros[0]));
  };
  EXPECT(words(4, 1) == std::make_pair(0x76543210u, 0x77777777u));
  EXPECT(words(4, 0) == std::make_pair(0x76543210u, 0x88888888u));
  EXPECT(words(8, 1) == std::make_pair(0x03020100u, 0x7f7f7f7fu));
  EXPECT(words(2, 1) == std::make_pair(0xe4e4e4e4u, 0x55555555u));
  // 3 bits: 0 1 2 3 4 5 6 7 0 1 2 of column order, the last one cut by the word border; zero 3 repeated: 011 011 ...
  EXPECT(words(3, 1) == std::make_pair(0x88fac688u, 0xdb6db6dbu));
}

LOWBIT_TEST(gptq_round_trip) {
  std::mt19937 random(22);
  for (const int bits : {2, 3, 4, 8}) {
    for (const int offset : {0, 1}) {
      for (const int group_size : {16, 32, 48, 64, 128, 1000}) {
        for (const auto& [n, k] : {std::pair<int, int>{32, 32}, {64, 224}, {96, 160}}) {
          const Layer layer = RandomLayer(random, n, k, bits, group_size, offset);
          const Result<Part> part = PackAndCompare(layer);
          if (!part.ok()) continue;
          EXPECT(part.value().permutation.empty());
          EXPECT(part.value().view.meta == MetaKind::kF16);
          EXPECT(part.value().view.group_size == (group_size >= k ? k : group_size == 48 ? 16 : group_size));
          const size_t cells = size_t(n) * size_t(layer.groups);
          EXPECT(part.value().stored_bytes == size_t(n * k * bits / 8) + cells * 2 + cells * size_t(bits) / 8);
        }
      }
    }
  }
}

// n and k that fill words but neither panels nor sub-blocks.
LOWBIT_TEST(gptq_ragged_shapes) {
  std::mt19937 random(23);
  for (const auto& [bits, n, k] : {std::array<int, 3>{2, 16, 48}, {4, 8, 40}, {4, 24, 104}, {8, 4, 36}, {8, 20, 132}}) {
    EXPECT(PackAndCompare(RandomLayer(random, n, k, bits, 32, 1)).ok());
    EXPECT(PackAndCompare(RandomLayer(random, n, k, bits, 4096, 0)).ok());
    RowMap reversed(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) reversed[size_t(i)] = n - 1 - i;
    EXPECT(PackAndCompare(RandomLayer(random, n, k, bits, 32, 1), reversed).ok());
  }
}

LOWBIT_TEST(gptq_symmetric_is_detected) {
  std::mt19937 random(24);
  for (const int bits : {2, 3, 4, 8}) {
    for (const int offset : {0, 1}) {
      Layer layer = RandomLayer(random, 32, 64, bits, 32, offset);
      std::fill(layer.zeros.begin(), layer.zeros.end(), static_cast<uint8_t>(1 << (bits - 1)));
      WriteGptqWords(layer.n, layer.k, bits, layer.groups, offset, layer.codes, layer.zeros, layer.qweight, layer.qzeros);
      Result<Part> part = PackAndCompare(layer);
      EXPECT(part.ok() && part.value().view.affine == AffineKind::kSymmetric);
      ++layer.zeros.back();  // one zero off in the last row's last group
      WriteGptqWords(layer.n, layer.k, bits, layer.groups, offset, layer.codes, layer.zeros, layer.qweight, layer.qzeros);
      part = PackAndCompare(layer);
      EXPECT(part.ok() && part.value().view.affine == AffineKind::kZeroPoint);
    }
  }
}

// v1 adds one to the stored zero: 2, 4 and 8 bits wrap to 0, 3 bits give 8.
LOWBIT_TEST(gptq_stored_zero_wraps_except_for_3_bits) {
  for (const int bits : {2, 3, 4, 8}) {
    Layer layer;
    layer.n = layer.k = layer.group_size = 32;
    layer.bits = bits;
    layer.groups = layer.zero_offset = 1;
    layer.qweight.assign(size_t(bits) * 32, 0);
    layer.qzeros.assign(size_t(bits), -1);
    layer.scales.assign(32, 0x3c00);
    const Result<Part> part = PackGptq("w", layer.Tensors(), {});
    if (!EXPECT(part.ok())) continue;
    EXPECT(WeightAt(part.value().view, 7, 9) == (bits == 3 ? -8.0f : 0.0f));
  }
}

LOWBIT_TEST(gptq_act_order) {
  std::mt19937 random(25);
  for (const int bits : {2, 3, 4, 8}) {
    for (const int group_size : {32, 48, 128}) {
      Layer layer = RandomLayer(random, 32, 320, bits, group_size, 1);
      layer.g_idx.resize(size_t(layer.k));
      for (int j = 0; j < layer.k; ++j) layer.g_idx[size_t(j)] = j / group_size;
      Result<Part> part = PackAndCompare(layer);
      EXPECT(part.ok() && part.value().permutation.empty());  // trivial
      std::shuffle(layer.g_idx.begin(), layer.g_idx.end(), random);
      part = PackAndCompare(layer);
      if (!part.ok()) continue;
      const std::vector<int32_t>& order = part.value().permutation;
      std::vector<int32_t> sorted = order;
      std::sort(sorted.begin(), sorted.end());
      std::vector<int32_t> identity(size_t(layer.k));
      std::iota(identity.begin(), identity.end(), 0);
      EXPECT(sorted == identity);
      bool stable = true;
      for (size_t j = 1; j < order.size(); ++j) {
        const int32_t before = layer.g_idx[size_t(order[j - 1])], here = layer.g_idx[size_t(order[j])];
        stable = stable && (before < here || (before == here && order[j - 1] < order[j]));
      }
      EXPECT(stable);
    }
  }
}

LOWBIT_TEST(gptq_scale_types) {
  std::mt19937 random(26);
  const Layer layer = RandomLayer(random, 32, 64, 4, 32, 1);
  const auto pack = [&](DType dtype, const auto& scales) {
    GptqTensors t = layer.Tensors();
    t.scales_dtype = dtype;
    t.scales = {reinterpret_cast<const uint8_t*>(scales.data()), scales.size() * sizeof(scales[0])};
    return PackGptq("w", t, {});
  };
  std::vector<float> f32(64, 0.25f);
  std::vector<uint16_t> bf16(64, FloatToBfloat16(0.25f));
  Result<Part> part = pack(DType::kF32, f32);
  EXPECT(part.ok() && part.value().view.meta == MetaKind::kF16);
  part = pack(DType::kBF16, bf16);
  EXPECT(part.ok() && part.value().view.meta == MetaKind::kF16);
  f32[63] = 0.1f;
  bf16[63] = FloatToBfloat16(1e-12f);  // below what f16 holds
  part = pack(DType::kF32, f32);
  if (EXPECT(part.ok() && part.value().view.meta == MetaKind::kF32)) {
    EXPECT(WeightAt(part.value().view, 31, 63) == 0.1f * static_cast<float>(layer.codes[31 * 64 + 63] - layer.zeros[31 * 2 + 1]));
    EXPECT(WeightAt(part.value().view, 30, 0) == 0.25f * static_cast<float>(layer.codes[30 * 64] - layer.zeros[30 * 2]));
  }
  part = pack(DType::kBF16, bf16);
  EXPECT(part.ok() && part.value().view.meta == MetaKind::kF32);
  f32[3] = std::nanf("");
  EXPECT_ERROR(pack(DType::kF32, f32).status(), Code::kCorruptFile, "GPTQ scales of w hold a value that is not finite at group 0, row 3");
  std::vector<uint16_t> f16(64, 0x3c00);
  f16[40] = 0x7c00;
  EXPECT_ERROR(pack(DType::kF16, f16).status(), Code::kCorruptFile, "not finite at group 1, row 8");
  EXPECT_ERROR(pack(DType::kI32, f32).status(), Code::kUnsupported, "GPTQ scales of w have element type I32");
}

LOWBIT_TEST(gptq_errors) {
  std::mt19937 random(27);
  const Layer good = RandomLayer(random, 32, 64, 4, 32, 1);
  const auto pack = [&](auto&& change) {
    GptqTensors t = good.Tensors();
    change(t);
    return PackGptq("mlp.up_proj", t, {}).status();
  };
  EXPECT(pack([](GptqTensors&) {}).ok());
  EXPECT_ERROR(pack([](GptqTensors& t) { t.bits = 5; }), Code::kUnsupported,
               "2, 3, 4 or 8 for bits of GPTQ layer mlp.up_proj but received 5");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.n = -4; }), Code::kInvalidArgument, "rows of mlp.up_proj but received -4");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.k = std::numeric_limits<int>::max(); }), Code::kInvalidArgument, "columns of mlp.up_proj");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.k = 1 << 30; }), Code::kCorruptFile, "qweight of mlp.up_proj holds 256 values");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.group_size = 0; }), Code::kInvalidArgument,
               "group_size of GPTQ layer mlp.up_proj but received 0");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.group_size = 24; }), Code::kUnsupported, "mlp.up_proj has group_size 24");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.zero_offset = 7; }), Code::kInvalidArgument, "0 or 1 for zero_offset");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.k = 36; }), Code::kUnsupported, "mlp.up_proj is 32 x 36");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.qweight = t.qweight.first(255); }), Code::kCorruptFile,
               "qweight of mlp.up_proj holds 255 values where its layer needs 256");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.qzeros = {}; }), Code::kCorruptFile,
               "qzeros of mlp.up_proj holds 0 values where its layer needs 8");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.scales = t.scales.first(126); }), Code::kCorruptFile,
               "scales of mlp.up_proj holds 63 values where its layer needs 64");
  EXPECT_ERROR(pack([](GptqTensors& t) { t.group_size = 64; }), Code::kCorruptFile,
               "qzeros of mlp.up_proj holds 8 values where its layer needs 4");
  std::vector<int32_t> g_idx(64, 0);
  const auto pack_g = [&] { return pack([&](GptqTensors& t) { t.g_idx = g_idx; }); };
  EXPECT_ERROR(pack_g(), Code::kUnsupported, "g_idx of mlp.up_proj assigns 64 columns to group 0");
  for (size_t j = 0; j < 64; ++j) g_idx[j] = static_cast<int32_t>(j % 2);
  EXPECT(pack_g().ok());
  g_idx[5] = 2;
  EXPECT_ERROR(pack_g(), Code::kCorruptFile, "g_idx of mlp.up_proj assigns column 5 to group 2");
  g_idx[5] = -1;
  EXPECT_ERROR(pack_g(), Code::kCorruptFile, "column 5 to group -1");
  g_idx.pop_back();
  EXPECT_ERROR(pack_g(), Code::kCorruptFile, "g_idx of mlp.up_proj holds 63 values where its layer needs 64");
  EXPECT_ERROR(PackGptq("mlp.up_proj", good.Tensors(), {1, 2}).status(), Code::kInvalidArgument, "row map of mlp.up_proj");
}
