// test/native: part/ - the packed layout, byte for byte, and the dense and affine packers.
#include "part/part.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/half.h"
#include "check.h"
#include "part/layout.h"

using namespace lowbit;

namespace {

float Uniform(std::mt19937& random) { return static_cast<float>(random()) / 4294967296.0f * 2 - 1; }

struct Matrix {
  AffineSource source;
  std::vector<uint8_t> codes;
  std::vector<float> scales, seconds;
};

Matrix RandomAffine(std::mt19937& random, int n, int k, int bits, int group_size, AffineKind kind, bool meta_f32) {
  Matrix m;
  const int groups = group_size >= k ? 1 : (k + group_size - 1) / group_size;
  m.codes.resize(size_t(n) * size_t(k));
  for (uint8_t& code : m.codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
  m.scales.resize(size_t(n) * size_t(groups));
  for (float& scale : m.scales) scale = meta_f32 ? Uniform(random) : HalfToFloat(FloatToHalf(Uniform(random)));
  if (kind != AffineKind::kSymmetric) {
    m.seconds.resize(m.scales.size());
    for (float& second : m.seconds) {
      second = kind == AffineKind::kZeroPoint ? static_cast<float>(random() % ((1u << bits) + 1))
               : meta_f32                     ? Uniform(random)
                                              : HalfToFloat(FloatToHalf(Uniform(random)));
    }
  }
  m.source = {n, k, bits, group_size, kind, meta_f32, m.codes, m.scales, m.seconds};
  return m;
}

PackedView Format(int n, int k, int bits, int group_size, AffineKind kind, bool meta_f32) {
  PackedView view;
  view.n = n;
  view.k = k;
  view.kind = PackedKind::kAffine;
  view.bits = bits;
  view.group_size = group_size;
  view.affine = kind;
  view.meta = meta_f32 ? MetaKind::kF32 : MetaKind::kF16;
  return view;
}

}  // namespace

LOWBIT_TEST(part_kind_names) {
  EXPECT(std::strcmp(PartKindName(PartKind::kDense), "dense") == 0);
  EXPECT(std::strcmp(PartKindName(PartKind::kAffine), "affine") == 0);
}

// Sizes worked out by hand from packed.h.
LOWBIT_TEST(part_panel_bytes) {
  const AffineKind sym = AffineKind::kSymmetric, min = AffineKind::kMinimum, zero = AffineKind::kZeroPoint;
  EXPECT(PackedPanelBytes(Format(16, 64, 4, 32, sym, false)) == 64 + 2 * 4 * 64);      // two groups share a line
  EXPECT(PackedPanelBytes(Format(16, 96, 4, 32, sym, false)) == 2 * 64 + 3 * 4 * 64);  // an odd third group has its own
  EXPECT(PackedPanelBytes(Format(16, 96, 4, 32, sym, true)) == 3 * 64 + 3 * 4 * 64);
  EXPECT(PackedPanelBytes(Format(16, 32, 4, 32, min, false)) == 64 + 4 * 64);
  EXPECT(PackedPanelBytes(Format(16, 32, 4, 32, min, true)) == 2 * 64 + 4 * 64);
  EXPECT(PackedPanelBytes(Format(16, 257, 3, 128, zero, false)) == 3 * 64 + 9 * 3 * 64);  // short last group
  EXPECT(PackedPanelBytes(Format(16, 33, 3, 16, sym, false)) == 2 * (64 + 3 * 64));
  EXPECT(PackedPanelBytes(Format(16, 33, 2, 16, min, false)) == 2 * (2 * 64 + 2 * 64));
  EXPECT(PackedPanelBytes(Format(16, 33, 6, 16, sym, true)) == 2 * (2 * 64 + 6 * 64));
  const auto coded = [&](int bits, int group_size, AffineKind kind) {
    PackedView view = Format(16, 512, bits, group_size, kind, false);
    view.meta = MetaKind::kCoded;
    return view;
  };
  EXPECT(PackedPanelBytes(coded(4, 32, min)) == 2 * (64 + 8 * 32 + 8 * 4 * 64));   // Q4_K
  EXPECT(PackedPanelBytes(coded(6, 16, sym)) == 2 * (64 + 16 * 16 + 8 * 6 * 64));  // Q6_K
  EXPECT(PackedPanelBytes(coded(2, 16, min)) == 2 * (64 + 16 * 32 + 8 * 2 * 64));  // Q2_K
  EXPECT(CheckFormat("w", coded(4, 32, min)).ok());
  EXPECT(!CheckFormat("w", coded(4, 64, min)).ok() && !CheckFormat("w", coded(4, 32, zero)).ok());
  PackedView ragged = coded(4, 32, min);
  ragged.k = 480;
  EXPECT(!CheckFormat("w", ragged).ok());
  ragged.k = 512;
  ragged.meta = static_cast<MetaKind>(3);
  EXPECT(!CheckFormat("w", ragged).ok());
  EXPECT(PackedPanelBytes(Format(16, 33, 2, 16, min, true)) == 2 * (4 * 64 + 2 * 64));
  PackedView dense;
  dense.n = 17;
  dense.k = 5;
  dense.kind = PackedKind::kDenseF32;
  EXPECT(PackedPanelBytes(dense) == 5 * 64);
  EXPECT(PackedBytes(dense) == 2 * 5 * 64);
  dense.kind = PackedKind::kDenseF16;
  EXPECT(PackedPanelBytes(dense) == 3 * 64);  // columns padded to 6
  dense.kind = PackedKind::kDenseBf16;
  EXPECT(PackedPanelBytes(dense) == 3 * 64);
}

// One code is set at a time; exactly the byte and bits that packed.h names must change. The table is written out, not derived.
LOWBIT_TEST(part_code_addresses) {
  struct Field {
    int bits, column;                        // of row 3; byte of row 3 is 12 + column % 4
    std::vector<std::array<int, 3>> pieces;  // line, shift in the byte, mask of the code bits (already in place)
  };
  const std::vector<Field> fields = {
      {8, 5, {{1, 0, 0xff}}},                 // quad 1 -> line 1
      {8, 31, {{7, 0, 0xff}}},                //
      {4, 5, {{1, 0, 0x0f}}},                 // quad 1 -> line 1, low nibble
      {4, 21, {{1, 4, 0x0f}}},                // quad 5 -> line 1, high nibble
      {2, 9, {{0, 2, 0x03}}},                 // quad 2 -> line 0, crumb 1
      {2, 30, {{1, 6, 0x03}}},                // quad 7 -> line 1, crumb 3
      {1, 17, {{0, 4, 0x01}}},                // quad 4 -> bit 4
      {3, 13, {{1, 2, 0x03}, {2, 3, 0x04}}},  // quad 3: line 1 crumb 1, then line 2 bit 3
      {5, 22, {{1, 4, 0x0f}, {4, 5, 0x10}}},  // quad 5: line 1 high nibble, then line 4 bit 5
      {6, 22, {{1, 4, 0x0f}, {5, 4, 0x30}}},  // quad 5: then crumb 2 of line 4 + 1
      {7, 22, {{1, 4, 0x0f}, {5, 4, 0x30}, {6, 5, 0x40}}},
  };
  for (const Field& field : fields) {
    Matrix m;
    m.codes.assign(16 * 32, 0);
    m.scales.assign(16, 1.0f);
    m.source = {16, 32, field.bits, 32, AffineKind::kSymmetric, false, m.codes, m.scales, {}};
    const int code = (1 << field.bits) - 1;
    m.codes[3 * 32 + size_t(field.column)] = static_cast<uint8_t>(code);
    const Result<Part> part = PackAffine("w", m.source);
    if (!EXPECT(part.ok())) continue;
    std::vector<uint8_t> expected(size_t(field.bits) * 64, 0);
    for (const auto& [line, shift, mask] : field.pieces) {
      int low = mask;
      while ((low & 1) == 0) low >>= 1;
      expected[size_t(line * 64 + 12 + field.column % 4)] |= static_cast<uint8_t>(low << shift);
    }
    EXPECT(std::memcmp(part.value().storage.data() + 64, expected.data(), expected.size()) == 0);
    EXPECT(CodeAt(part.value().view, 3, field.column) == code);
    EXPECT(CodeAt(part.value().view, 3, field.column ^ 1) == 0);
    EXPECT(CodeAt(part.value().view, 2, field.column) == 0);
  }
}

// The first row's scales are 1, 2, 3 ... by group; their bytes must be where packed.h says.
LOWBIT_TEST(part_meta_addresses) {
  struct Case {
    int group_size;
    AffineKind kind;
    bool f32;
    std::vector<size_t> scale, second;  // byte offset of each group's record of row 0
  };
  const size_t sub = 4 * 64;  // 4 bits; three sub-blocks of columns
  const std::vector<Case> cases = {
      {32, AffineKind::kSymmetric, false, {0, 32, 64 + 2 * sub}, {}},
      {32, AffineKind::kMinimum, false, {0, 64 + sub, 2 * (64 + sub)}, {32, 64 + sub + 32, 2 * (64 + sub) + 32}},
      {32, AffineKind::kSymmetric, true, {0, 64 + sub, 2 * (64 + sub)}, {}},
      {32, AffineKind::kZeroPoint, true, {0, 128 + sub, 2 * (128 + sub)}, {64, 128 + sub + 64, 2 * (128 + sub) + 64}},
      {64, AffineKind::kMinimum, false, {0, 64 + 2 * sub}, {32, 64 + 2 * sub + 32}},
      {16, AffineKind::kSymmetric, false, {0, 32, 64 + sub, 64 + sub + 32, 2 * (64 + sub), 2 * (64 + sub) + 32}, {}},
      {16, AffineKind::kMinimum, false, {0, 64, 128 + sub}, {32, 96, 128 + sub + 32}},
      {16, AffineKind::kSymmetric, true, {0, 64, 128 + sub}, {}},
      {16, AffineKind::kMinimum, true, {0, 128, 256 + sub}, {64, 192, 256 + sub + 64}},
  };
  for (const Case& test : cases) {
    const size_t groups = 96 / size_t(test.group_size) + (96 % test.group_size != 0);
    Matrix m;
    m.codes.assign(96, 0);
    for (size_t g = 0; g < groups; ++g) m.scales.push_back(static_cast<float>(g + 1));
    if (test.kind != AffineKind::kSymmetric) {
      for (size_t g = 0; g < groups; ++g) m.seconds.push_back(static_cast<float>(g + 8));
    }
    m.source = {1, 96, 4, test.group_size, test.kind, test.f32, m.codes, m.scales, m.seconds};
    const Result<Part> part = PackAffine("w", m.source);
    if (!EXPECT(part.ok())) continue;
    const auto read = [&](size_t offset) {
      float value;
      uint16_t half;
      std::memcpy(&value, part.value().storage.data() + offset, 4);
      std::memcpy(&half, part.value().storage.data() + offset, 2);
      return test.f32 ? value : HalfToFloat(half);
    };
    for (size_t g = 0; g < test.scale.size(); ++g) EXPECT(read(test.scale[g]) == static_cast<float>(g + 1));
    for (size_t g = 0; g < test.second.size(); ++g) EXPECT(read(test.second[g]) == static_cast<float>(g + 8));
  }
}

LOWBIT_TEST(part_affine_round_trip) {
  std::mt19937 random(1);
  const std::pair<int, int> shapes[] = {{1, 1}, {5, 33}, {16, 64}, {17, 96}, {33, 200}};
  for (int bits = 1; bits <= 8; ++bits) {
    for (const AffineKind kind : {AffineKind::kSymmetric, AffineKind::kMinimum, AffineKind::kZeroPoint}) {
      for (const bool f32 : {false, true}) {
        for (const int group_size : {16, 32, 64, 1024}) {
          for (const auto& [n, k] : shapes) {
            const Matrix m = RandomAffine(random, n, k, bits, group_size, kind, f32);
            const Result<Part> packed = PackAffine("w", m.source);
            if (!EXPECT(packed.ok())) continue;
            const PackedView& view = packed.value().view;
            const int groups = group_size >= k ? 1 : (k + group_size - 1) / group_size;
            bool codes_ok = true, weights_ok = true;
            for (int i = 0; i < n; ++i) {
              for (int j = 0; j < k; ++j) {
                const float code = m.codes[size_t(i * k + j)];
                const size_t at = size_t(i * groups + (group_size >= k ? 0 : j / group_size));
                const float expected = kind == AffineKind::kMinimum     ? m.scales[at] * code + m.seconds[at]
                                       : kind == AffineKind::kZeroPoint ? m.scales[at] * (code - m.seconds[at])
                                                                        : m.scales[at] * (code - static_cast<float>(1 << (bits - 1)));
                codes_ok = codes_ok && CodeAt(view, i, j) == m.codes[size_t(i * k + j)];
                weights_ok = weights_ok && WeightAt(view, i, j) == expected;
              }
            }
            // padding: rows up to the panel and columns up to the sub-block hold code 0; padding rows weigh 0
            const int rows = (n + 15) / 16 * 16, columns = (k + 31) / 32 * 32;
            for (int i = 0; i < rows; ++i) {
              for (int j = 0; j < columns; ++j) {
                if (i >= n || j >= k) codes_ok = codes_ok && CodeAt(view, i, j) == 0;
                if (i >= n) weights_ok = weights_ok && WeightAt(view, i, j) == 0;
              }
            }
            EXPECT(codes_ok);
            EXPECT(weights_ok);
            EXPECT(reinterpret_cast<uintptr_t>(view.data) % 64 == 0);
            EXPECT(view.panel_bytes % 64 == 0 && view.panel_bytes == PackedPanelBytes(view));
            EXPECT(packed.value().bytes() == PackedBytes(view));
          }
        }
      }
    }
  }
}

LOWBIT_TEST(part_affine_whole_row_and_bytes) {
  std::mt19937 random(2);
  const Matrix m = RandomAffine(random, 3, 70, 4, 70, AffineKind::kZeroPoint, false);
  const size_t before = MemoryInUse(MemoryClass::kWeights);
  {
    const Result<Part> part = PackAffine("w", m.source);
    if (!EXPECT(part.ok())) return;
    EXPECT(part.value().kind == PartKind::kAffine);
    EXPECT(part.value().view.group_size == 96);
    EXPECT(part.value().permutation.empty());
    EXPECT(part.value().stored_bytes == 3 * 70 / 2 + (3 * (16 + 4) + 7) / 8);
    EXPECT(MemoryInUse(MemoryClass::kWeights) > before);
  }
  EXPECT(MemoryInUse(MemoryClass::kWeights) == before);
}

LOWBIT_TEST(part_affine_errors) {
  std::mt19937 random(3);
  const Matrix good = RandomAffine(random, 2, 64, 4, 32, AffineKind::kZeroPoint, false);
  const auto pack = [&](auto&& change) {
    Matrix m = good;
    m.source.codes = m.codes;
    m.source.scales = m.scales;
    m.source.seconds = m.seconds;
    change(m);
    return PackAffine("model.w", m.source).status();
  };
  EXPECT(pack([](Matrix&) {}).ok());
  EXPECT_ERROR(pack([](Matrix& m) { m.source.n = 0; }), Code::kInvalidArgument, "number of rows of model.w but received 0");
  EXPECT_ERROR(pack([](Matrix& m) { m.source.k = std::numeric_limits<int>::max(); }), Code::kInvalidArgument,
               "number of columns of model.w");
  EXPECT_ERROR(pack([](Matrix& m) { m.source.bits = 9; }), Code::kInvalidArgument, "between 1 and 8 for bits of model.w but received 9");
  for (const int group_size : {-1, 0, 8, 24, 48}) {
    EXPECT_ERROR(pack([&](Matrix& m) { m.source.group_size = group_size; }), Code::kInvalidArgument,
                 "for group_size of model.w but received " + std::to_string(group_size));
  }
  EXPECT_ERROR(pack([](Matrix& m) { m.codes[77] = 16; }), Code::kInvalidArgument, "between 0 and 15 for the codes of model.w");
  EXPECT_ERROR(pack([](Matrix& m) { m.source.codes = m.source.codes.first(3); }), Code::kInvalidArgument,
               "Expected 128 codes for model.w but received 3");
  EXPECT_ERROR(pack([](Matrix& m) { m.source.scales = {}; }), Code::kInvalidArgument, "Expected 4 scales for model.w but received 0");
  EXPECT_ERROR(pack([](Matrix& m) { m.source.seconds = {}; }), Code::kInvalidArgument, "Expected 4 zero points or minima for model.w");
  EXPECT_ERROR(pack([](Matrix& m) { m.source.affine = AffineKind::kSymmetric; }), Code::kInvalidArgument,
               "Expected 0 zero points or minima");
  EXPECT_ERROR(pack([](Matrix& m) { m.scales[1] = 0.1f; }), Code::kInvalidArgument, "f16 holds exactly for scale 1 of model.w");
  EXPECT_ERROR(pack([](Matrix& m) { m.scales[1] = 1e30f; }), Code::kInvalidArgument, "f16 holds exactly for scale 1 of model.w");
  EXPECT_ERROR(pack([](Matrix& m) { m.scales[3] = std::nanf(""); }), Code::kInvalidArgument, "finite number for scale 3 of model.w");
  EXPECT_ERROR(pack([](Matrix& m) { m.seconds[2] = 0.5f; }), Code::kInvalidArgument, "between 0 and 16 for zero point 2 of model.w");
  EXPECT_ERROR(pack([](Matrix& m) { m.seconds[2] = -1; }), Code::kInvalidArgument, "between 0 and 16 for zero point 2 of model.w");
  EXPECT_ERROR(pack([](Matrix& m) { m.seconds[0] = std::numeric_limits<float>::infinity(); }), Code::kInvalidArgument,
               "finite number for zero point or minimum 0");
}

LOWBIT_TEST(part_dense_round_trip) {
  std::mt19937 random(4);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const size_t element = size_t(Info(dtype).block_bytes);
    for (const auto& [n, k] : {std::pair<int, int>{1, 1}, {16, 2}, {17, 33}, {40, 50}}) {
      for (const bool mapped : {false, true}) {
        const size_t count = size_t(n) * size_t(k);
        std::vector<float> values(count);
        std::vector<uint8_t> bytes(count * element + 1);  // one byte off, as a mapped file may be
        for (size_t i = 0; i < count; ++i) {
          const float value = Uniform(random) * 3;
          const uint16_t half = dtype == DType::kF16 ? FloatToHalf(value) : FloatToBfloat16(value);
          values[i] = dtype == DType::kF32 ? value : dtype == DType::kF16 ? HalfToFloat(half) : Bfloat16ToFloat(half);
          if (dtype == DType::kF32) std::memcpy(&bytes[1 + i * 4], &value, 4);
          if (dtype != DType::kF32) std::memcpy(&bytes[1 + i * 2], &half, 2);
        }
        RowMap map;
        for (int i = 0; mapped && i < n; ++i) map.push_back(n - 1 - i);
        const Result<Part> part = PackDense("w", dtype, bytes.data() + 1, n, k, map);
        if (!EXPECT(part.ok())) continue;
        bool ok = true;
        for (int i = 0; i < n; ++i) {
          for (int j = 0; j < k; ++j) ok = ok && WeightAt(part.value().view, i, j) == values[size_t((mapped ? n - 1 - i : i) * k + j)];
        }
        for (int i = n; i < (n + 15) / 16 * 16; ++i) {
          for (int j = 0; j < k; ++j) ok = ok && WeightAt(part.value().view, i, j) == 0;
        }
        EXPECT(ok);
        EXPECT(part.value().kind == PartKind::kDense);
        EXPECT(part.value().stored_bytes == count * element);
      }
    }
  }
}

// f32: column lines; f16: half lines; bf16: pairs of columns, as packed.h draws them.
LOWBIT_TEST(part_dense_addresses) {
  const float f32[] = {1, 2, 3, 4, 5, 6};
  uint16_t f16[6], bf16[6];
  for (int i = 0; i < 6; ++i) {
    f16[i] = FloatToHalf(f32[i]);
    bf16[i] = FloatToBfloat16(f32[i]);
  }
  const Result<Part> a = PackDense("w", DType::kF32, reinterpret_cast<const uint8_t*>(f32), 2, 3, {});
  const Result<Part> b = PackDense("w", DType::kF16, reinterpret_cast<const uint8_t*>(f16), 2, 3, {});
  const Result<Part> c = PackDense("w", DType::kBF16, reinterpret_cast<const uint8_t*>(bf16), 2, 3, {});
  if (!EXPECT(a.ok() && b.ok() && c.ok())) return;
  EXPECT(a.value().storage.as<float>()[2 * 16 + 1] == 6);  // column 2, row 1
  EXPECT(b.value().storage.as<uint16_t>()[2 * 16 + 1] == f16[5]);
  EXPECT(c.value().storage.as<uint16_t>()[1 * 2 + 1] == bf16[4]);   // pair 0, row 1, second of the pair
  EXPECT(c.value().storage.as<uint16_t>()[32 + 1 * 2] == bf16[5]);  // pair 1, row 1, first
  EXPECT(c.value().storage.as<uint16_t>()[32 + 1 * 2 + 1] == 0);    // its second column is padding
}

LOWBIT_TEST(part_dense_errors) {
  const float values[] = {1, 2, 3, std::nanf("")};
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(values);
  EXPECT_ERROR(PackDense("model.w", DType::kF32, bytes, 2, 2, {}).status(), Code::kCorruptFile,
               "Tensor model.w holds a value that is not finite in row 1");
  EXPECT(PackDense("model.w", DType::kF32, bytes, 1, 2, {}).ok());
  EXPECT_ERROR(PackDense("model.w", DType::kI32, bytes, 2, 2, {}).status(), Code::kUnsupported, "Tensor model.w has element type I32");
  EXPECT_ERROR(PackDense("model.w", DType::kF32, bytes, 0, 2, {}).status(), Code::kInvalidArgument, "number of rows of model.w");
  EXPECT_ERROR(PackDense("model.w", DType::kF32, bytes, 2, 1, {0}).status(), Code::kInvalidArgument,
               "Expected 2 entries in the row map of model.w but received 1");
  EXPECT_ERROR(PackDense("model.w", DType::kF32, bytes, 2, 1, {0, 2}).status(), Code::kInvalidArgument,
               "entry 1 of the row map of model.w but received 2");
  EXPECT_ERROR(PackDense("model.w", DType::kF32, bytes, 2, 1, {-1, 0}).status(), Code::kInvalidArgument,
               "entry 0 of the row map of model.w but received -1");
  const uint16_t halves[] = {0x7c00, 0x7f80};  // infinity as f16, and as bf16
  EXPECT_ERROR(PackDense("w", DType::kF16, reinterpret_cast<const uint8_t*>(halves), 1, 1, {}).status(), Code::kCorruptFile, "not finite");
  EXPECT_ERROR(PackDense("w", DType::kBF16, reinterpret_cast<const uint8_t*>(halves + 1), 1, 1, {}).status(), Code::kCorruptFile,
               "not finite");
}

// The packed size is bounded before it is asked for: the largest legal shape fails as memory, not as overflow.
LOWBIT_TEST(part_huge_shape_is_out_of_memory) {
  const uint8_t none = 0;
  EXPECT_ERROR(PackDense("w", DType::kF32, &none, kMaxDimension, kMaxDimension, {}).status(), Code::kOutOfMemory, "w");
  EXPECT_ERROR(PackGguf("w", DType::kQ2_K, &none, kMaxDimension, kMaxDimension, {}).status(), Code::kOutOfMemory, "w");
}
