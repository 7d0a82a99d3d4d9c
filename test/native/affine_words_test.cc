// test/native: part/affine_words - tensors of AWQ and compressed-tensors checkpoints. The words are made here bit by bit from where the
// formats say a number lies, so that no shift, mask or order is shared with the code under test.
#include <algorithm>
#include <array>
#include <cmath>
#include <random>

#include "base/half.h"
#include "check.h"
#include "part/part.h"

using namespace lowbit;

namespace {

// The row of its eight that nibble i of an AWQ word holds, as AutoAWQ's packer lists it.
constexpr size_t kAwqOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

struct Layer {
  int n = 0, k = 0, bits = 0, group_size = 0;
  size_t groups = 0;
  WordLayout layout = WordLayout::kAwq;
  std::vector<uint8_t> codes, zeros;  // [n][k], [n][groups]
  std::vector<uint16_t> scales;       // [n][groups] f16
  std::vector<int32_t> code_words, zero_words, g_idx;
  std::vector<uint16_t> stored_scales;

  WordTensors Tensors(bool with_zeros) const {
    WordTensors t;
    t.n = n;
    t.k = k;
    t.bits = bits;
    t.group_size = group_size;
    t.layout = layout;
    t.codes = code_words;
    if (with_zeros) t.zeros = zero_words;
    t.scales = {reinterpret_cast<const uint8_t*>(stored_scales.data()), stored_scales.size() * 2};
    t.g_idx = g_idx;
    return t;
  }
  float Weight(int row, int column, bool with_zeros) const {
    const size_t g = g_idx.empty() ? size_t(column / group_size) : size_t(g_idx[size_t(column)]);
    const size_t cell = size_t(row) * groups + g;
    const int zero = with_zeros ? zeros[cell] : 1 << (bits - 1);
    return HalfToFloat(scales[cell]) * static_cast<float>(codes[size_t(row) * size_t(k) + size_t(column)] - zero);
  }
};

size_t Words(WordLayout layout, size_t count, int bits) {
  return layout == WordLayout::kPadded ? (count + size_t(32 / bits) - 1) / size_t(32 / bits) : (count * size_t(bits) + 31) / 32;
}

// Sets the bits of value `index` of a line whose word w is words[first + w * stride].
void Put(std::vector<int32_t>& words, size_t first, size_t stride, WordLayout layout, size_t index, int bits, int value) {
  for (int b = 0; b < bits; ++b) {
    size_t bit = index * size_t(bits) + size_t(b);
    if (layout == WordLayout::kPadded) bit = index / size_t(32 / bits) * 32 + index % size_t(32 / bits) * size_t(bits) + size_t(b);
    if (layout == WordLayout::kAwq) {
      size_t nibble = 0;
      while (kAwqOrder[nibble] != index % 8) ++nibble;
      bit = index / 8 * 32 + nibble * 4 + size_t(b);
    }
    if (value >> b & 1) {
      int32_t& word = words[first + bit / 32 * stride];
      word = static_cast<int32_t>(static_cast<uint32_t>(word) | 1u << bit % 32);
    }
  }
}

Layer RandomLayer(std::mt19937& random, WordLayout layout, int n, int k, int bits, int group_size) {
  Layer layer;
  layer.n = n;
  layer.k = k;
  layer.bits = bits;
  layer.group_size = group_size;
  layer.layout = layout;
  const bool awq = layout == WordLayout::kAwq;
  const size_t rows = size_t(n), columns = size_t(k), groups = (columns + size_t(group_size) - 1) / size_t(group_size);
  layer.groups = groups;
  layer.codes.resize(rows * columns);
  layer.zeros.resize(rows * groups);
  for (uint8_t& code : layer.codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
  for (uint8_t& zero : layer.zeros) zero = static_cast<uint8_t>(random() & ((1u << bits) - 1));
  for (size_t i = 0; i < rows * groups; ++i) layer.scales.push_back(FloatToHalf(static_cast<float>(random() % 1000 + 1) / 4096));
  const size_t row_words = awq ? rows / 8 : Words(layout, columns, bits);
  layer.code_words.resize(awq ? columns * row_words : rows * row_words);
  layer.zero_words.resize(groups * (awq ? rows / 8 : Words(layout, rows, bits)));
  layer.stored_scales.resize(rows * groups);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      if (awq)
        Put(layer.code_words, j * row_words, 1, layout, i, bits, layer.codes[i * columns + j]);
      else
        Put(layer.code_words, i * row_words, 1, layout, j, bits, layer.codes[i * columns + j]);
    }
    for (size_t g = 0; g < groups; ++g) {
      Put(layer.zero_words, awq ? g * (rows / 8) : g, awq ? 1 : groups, layout, i, bits, layer.zeros[i * groups + g]);
      layer.stored_scales[awq ? g * rows + i : i * groups + g] = layer.scales[i * groups + g];
    }
  }
  return layer;
}

Result<Part> PackAndCompare(const Layer& layer, const WordTensors& tensors, bool with_zeros, const RowMap& map = {}) {
  Result<Part> part = PackWords("mlp.down_proj", tensors, map);
  if (!EXPECT(part.ok())) return part;
  const std::vector<int32_t>& order = part.value().permutation;
  size_t wrong = 0;
  for (int i = 0; i < layer.n; ++i) {
    for (int j = 0; j < layer.k; ++j) {
      const float expected = layer.Weight(map.empty() ? i : map[size_t(i)], order.empty() ? j : order[size_t(j)], with_zeros);
      wrong += WeightAt(part.value().view, i, j) != expected;
    }
  }
  for (int i = 0; i < (layer.n + 15) / 16 * 16; ++i)
    for (int j = 0; j < (layer.k + 31) / 32 * 32; ++j) wrong += (i >= layer.n || j >= layer.k) && CodeAt(part.value().view, i, j) != 0;
  EXPECT(wrong == 0);
  return part;
}

}  // namespace

LOWBIT_TEST(words_of_every_width_layout_and_shape) {
  std::mt19937 random(31);
  for (const WordLayout layout : {WordLayout::kAwq, WordLayout::kStream, WordLayout::kPadded}) {
    for (int bits = 1; bits <= 8; ++bits) {
      if (layout == WordLayout::kAwq && bits != 4) continue;
      for (const auto& [n, k, group_size] :
           {std::array<int, 3>{32, 96, 32}, {24, 64, 16}, {40, 160, 48}, {8, 21, 1000}, {16, 100, 64}, {48, 33, 32}}) {
        const Layer layer = RandomLayer(random, layout, n, k, bits, group_size);
        const Result<Part> part = PackAndCompare(layer, layer.Tensors(true), true);
        EXPECT(part.ok() && part.value().view.affine == AffineKind::kZeroPoint);
        RowMap reversed(static_cast<size_t>(n));
        for (int i = 0; i < n; ++i) reversed[size_t(i)] = n - 1 - i;
        EXPECT(PackAndCompare(layer, layer.Tensors(true), true, reversed).ok());
        if (layout == WordLayout::kAwq) continue;
        const Result<Part> symmetric = PackAndCompare(layer, layer.Tensors(false), false);
        EXPECT(symmetric.ok() && symmetric.value().view.affine == AffineKind::kSymmetric);
      }
    }
  }
}

// The first words of counting codes, from the formats' own descriptions.
LOWBIT_TEST(words_known_values) {
  const auto weight = [](WordLayout layout, int bits, int n, std::vector<int32_t> words, int row, int column) {
    WordTensors t;
    t.n = n;
    t.k = 32;
    t.bits = bits;
    t.group_size = 32;
    t.layout = layout;
    std::vector<int32_t> zeros(layout == WordLayout::kAwq ? size_t(n) / 8 : 0);
    words.resize(layout == WordLayout::kAwq ? 32 * size_t(n) / 8 : layout == WordLayout::kStream ? size_t(n * bits) : size_t(n) * 4);
    t.codes = words;
    t.zeros = zeros;
    const std::vector<uint16_t> scales(size_t(n), 0x3c00);
    t.scales = {reinterpret_cast<const uint8_t*>(scales.data()), scales.size() * 2};
    const Result<Part> part = PackWords("w", t, {});
    return part.ok() ? WeightAt(part.value().view, row, column) : -1000.0f;
  };
  // AWQ: the word 0x76543210 holds rows 0 2 4 6 1 3 5 7 in rising nibbles.
  const int expected[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  for (int row = 0; row < 8; ++row) EXPECT(weight(WordLayout::kAwq, 4, 8, {0x76543210}, row, 0) == static_cast<float>(expected[row]));
  // 3 bits 0 1 2 ... 7 0 1 2 3: eleven to a word of 32 bits and a third of it in the stream, ten in the padded layout. Minus 4.
  const std::vector<int32_t> stream = {static_cast<int32_t>(0x88fac688u), static_cast<int32_t>(0xc688fac6u),
                                       static_cast<int32_t>(0xfac688fau)};
  const std::vector<int32_t> padded = {static_cast<int32_t>(0x08fac688u)};
  for (int column = 0; column < 32; ++column) EXPECT(weight(WordLayout::kStream, 3, 1, stream, 0, column) == column % 8 - 4);
  for (int column = 0; column < 10; ++column) EXPECT(weight(WordLayout::kPadded, 3, 1, padded, 0, column) == column % 8 - 4);
  EXPECT(weight(WordLayout::kPadded, 3, 1, padded, 0, 10) == -4);  // of the second word
}

LOWBIT_TEST(words_act_order) {
  std::mt19937 random(32);
  for (const WordLayout layout : {WordLayout::kAwq, WordLayout::kStream, WordLayout::kPadded}) {
    for (const int bits : {3, 4, 6}) {
      if (layout == WordLayout::kAwq && bits != 4) continue;
      Layer layer = RandomLayer(random, layout, 32, 320, bits, 48);
      layer.g_idx.assign(320, -1);  // as compressed-tensors fills it when there is no order
      WordTensors unset = layer.Tensors(true);
      layer.g_idx.clear();
      std::vector<int32_t> minus(320, -1);
      unset.g_idx = minus;
      Result<Part> part = PackAndCompare(layer, unset, true);
      EXPECT(part.ok() && part.value().permutation.empty());
      for (int j = 0; j < layer.k; ++j) layer.g_idx.push_back(j / layer.group_size);
      std::shuffle(layer.g_idx.begin(), layer.g_idx.end(), random);
      part = PackAndCompare(layer, layer.Tensors(true), true);
      EXPECT(part.ok() && part.value().permutation.size() == 320);
    }
  }
}

LOWBIT_TEST(words_byte_zeros_and_single_scale) {
  std::mt19937 random(33);
  Layer layer = RandomLayer(random, WordLayout::kStream, 16, 64, 5, 32);
  std::vector<int8_t> bytes;
  for (const uint8_t zero : layer.zeros) bytes.push_back(static_cast<int8_t>(zero - 16));
  WordTensors t = layer.Tensors(false);
  t.byte_zeros = bytes;
  EXPECT(PackAndCompare(layer, t, true).ok());
  bytes[3] = 16;
  EXPECT_ERROR(PackWords("w", t, {}).status(), Code::kCorruptFile, "Zero point 3 of w is 16, which 5 bits do not hold");

  layer = RandomLayer(random, WordLayout::kStream, 16, 64, 8, 64);
  layer.scales.assign(16, layer.scales[0]);
  layer.stored_scales.resize(1);
  layer.stored_scales[0] = layer.scales[0];
  EXPECT(PackAndCompare(layer, layer.Tensors(false), false).ok());
}

LOWBIT_TEST(words_errors) {
  std::mt19937 random(34);
  const Layer awq = RandomLayer(random, WordLayout::kAwq, 32, 64, 4, 32), ct = RandomLayer(random, WordLayout::kStream, 32, 64, 3, 32);
  const auto pack = [](const Layer& layer, auto&& change) {
    WordTensors t = layer.Tensors(true);
    change(t);
    return PackWords("mlp.up_proj", t, {}).status();
  };
  EXPECT(pack(awq, [](WordTensors&) {}).ok());
  EXPECT_ERROR(pack(awq, [](WordTensors& t) { t.bits = 8; }), Code::kUnsupported, "Expected 4 for bits of mlp.up_proj but received 8");
  EXPECT_ERROR(pack(ct, [](WordTensors& t) { t.bits = 9; }), Code::kUnsupported, "between 1 and 8 for bits of mlp.up_proj");
  EXPECT_ERROR(pack(ct, [](WordTensors& t) { t.bits = 0; }), Code::kUnsupported, "received 0");
  EXPECT_ERROR(pack(ct, [](WordTensors& t) { t.k = 1 << 30; }), Code::kCorruptFile, "packed codes of mlp.up_proj hold 192 values");
  EXPECT_ERROR(pack(ct, [](WordTensors& t) { t.n = 0; }), Code::kInvalidArgument, "rows of mlp.up_proj");
  EXPECT_ERROR(pack(ct, [](WordTensors& t) { t.group_size = 0; }), Code::kInvalidArgument, "group_size of mlp.up_proj but received 0");
  EXPECT_ERROR(pack(ct, [](WordTensors& t) { t.group_size = 24; }), Code::kUnsupported, "mlp.up_proj has group_size 24");
  EXPECT_ERROR(pack(ct, [](WordTensors& t) { t.layout = WordLayout::kPadded; }), Code::kCorruptFile, "where the layer needs 224");
  EXPECT_ERROR(pack(ct, [](WordTensors& t) { t.zeros = t.zeros.first(5); }), Code::kCorruptFile,
               "zero points of mlp.up_proj hold 5 values");
  EXPECT_ERROR(pack(awq, [](WordTensors& t) { t.zeros = {}; }), Code::kCorruptFile, "zero points of mlp.up_proj hold 0 values");
  EXPECT_ERROR(pack(awq, [](WordTensors& t) { t.n = 36; }), Code::kUnsupported, "has 36 rows, which do not fill words of 8");
  EXPECT_ERROR(pack(ct, [](WordTensors& t) { t.scales = t.scales.first(2); }), Code::kCorruptFile, "scales of mlp.up_proj hold 1 values");
  EXPECT_ERROR(pack(ct, [](WordTensors& t) { t.scales_dtype = DType::kI32; }), Code::kUnsupported, "have element type I32");
  std::vector<uint16_t> scales(64, 0x3c00);
  scales[5] = 0x7e00;
  const auto with_scales = [&](WordTensors& t) { t.scales = {reinterpret_cast<const uint8_t*>(scales.data()), 128}; };
  EXPECT_ERROR(pack(ct, with_scales), Code::kCorruptFile, "not finite at group 1, row 2");
  EXPECT_ERROR(pack(awq, with_scales), Code::kCorruptFile, "not finite at group 0, row 5");
  std::vector<int32_t> g_idx(64, 0);
  EXPECT_ERROR(pack(ct, [&](WordTensors& t) { t.g_idx = g_idx; }), Code::kUnsupported, "weight_g_idx of mlp.up_proj assigns 64 columns");
  g_idx[7] = 9;
  EXPECT_ERROR(pack(ct, [&](WordTensors& t) { t.g_idx = g_idx; }), Code::kCorruptFile, "assigns column 7 to group 9");
}
