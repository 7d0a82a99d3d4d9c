// test/native: every kernel table of this machine (kernel/ref and its fast sets) against float64 computed from the values that were
// packed, and the fast tables against kernel/ref where results must be equal. The combinations of shape and format are sampled
// deterministically: every format meets every shape value, not every tuple.
// Tolerances: a sum of t rounded terms differs from the exact one by at most about t * 2^-24 times the sum of magnitudes (Higham,
// Accuracy and Stability, section 3.1); each test states its t.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "base/half.h"
#include "check.h"
#include "kernel/kernel.h"
#include "kernel_tables.h"
#include "part/layout.h"
#include "part/part.h"

using namespace lowbit;
using namespace lowbit_test;

namespace {

// kIntegers: scales 1 and small integer offsets, so that results are integers; kExtremes: also all codes largest and all
// activations +127 or all -127, what 16-bit intermediate sums must survive.
enum class Values { kRandom, kIntegers, kExtremes };

// What goes into a packed matrix, kept as the reference.
struct Source {
  int n, k, bits = 0, group = 0, groups = 0;
  AffineKind kind = AffineKind::kSymmetric;
  std::vector<uint8_t> codes;
  std::vector<float> scales, seconds;
  Part part;
  std::string name;

  Source(std::mt19937& random, int rows, int columns, int b, int group_size, AffineKind affine, bool meta_f32, Values values)
      : n(rows),
        k(columns),
        bits(b),
        group(group_size <= 0 || group_size >= columns ? (columns + 31) / 32 * 32 : group_size),
        kind(affine) {
    groups = (k + group - 1) / group;
    codes.resize(size_t(n) * size_t(k));
    const bool plain = values != Values::kRandom;
    for (uint8_t& code : codes)
      code = static_cast<uint8_t>(values == Values::kExtremes || random() % 3 == 0 ? (1u << bits) - 1 : random() & ((1u << bits) - 1));
    scales.resize(size_t(n) * size_t(groups));
    seconds.resize(kind == AffineKind::kSymmetric ? 0 : scales.size());
    const auto round = [&](float value) { return plain ? 1.0f : meta_f32 ? value : HalfToFloat(FloatToHalf(value)); };
    for (float& scale : scales) scale = round(0.02f * Uniform(random));
    for (float& second : seconds) {
      second = kind == AffineKind::kZeroPoint ? static_cast<float>(random() % (1u << bits)) : plain ? 3.0f : round(0.1f * Uniform(random));
    }
    Result<Part> packed = PackAffine("w", {n, k, bits, group, kind, meta_f32, codes, scales, seconds});
    EXPECT(packed.ok());
    if (packed.ok()) part = std::move(packed.value());
    name = std::to_string(bits) + " bits, group " + std::to_string(group) + ", kind " + std::to_string(int(kind)) +
           (meta_f32 ? ", f32" : ", f16") + ", n " + std::to_string(n) + ", k " + std::to_string(k);
  }
  // A K-quant: super-scales and codes of scales (MetaKind::kCoded), as gguf_test compares them with the definition of the format.
  Source(std::mt19937& random, DType dtype, int rows, int blocks) : n(rows), k(blocks * kSuperBlock) {
    const size_t block_bytes = size_t(Info(dtype).block_bytes);
    std::vector<uint8_t> bytes(size_t(n * blocks) * block_bytes);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    const size_t d = dtype == DType::kQ2_K ? 80 : dtype == DType::kQ3_K ? 108 : dtype == DType::kQ6_K ? 208 : 0;
    for (size_t at = d; at < bytes.size(); at += block_bytes) {
      for (size_t half = at; half < at + (dtype == DType::kQ3_K || dtype == DType::kQ6_K ? 2 : 4); half += 2) {
        const uint16_t value = FloatToHalf(0.001f * Uniform(random));
        std::memcpy(&bytes[half], &value, 2);
      }
    }
    Result<Part> packed = PackGguf("w", dtype, bytes.data(), n, k, {});
    if (!EXPECT(packed.ok())) return;
    part = std::move(packed.value());
    const PackedView& view = part.view;
    bits = view.bits;
    group = view.group_size;
    groups = k / group;
    kind = view.affine;
    name = std::string(Info(dtype).name) + ", n " + std::to_string(n) + ", k " + std::to_string(k);
    const AffineLayout layout(view);
    for (int row = 0; row < n; ++row) {
      for (int c = 0; c < k; ++c) codes.push_back(static_cast<uint8_t>(CodeAt(view, row, c)));
      for (int g = 0; g < groups; ++g) {
        float scale[kPanelRows], second[kPanelRows];
        LoadRecord(view, layout, view.data + size_t(row / kPanelRows) * view.panel_bytes, size_t(g), scale, second);
        scales.push_back(scale[row % kPanelRows]);
        if (kind != AffineKind::kSymmetric) seconds.push_back(second[row % kPanelRows]);
      }
    }
  }
  double Scale(int row, int column) const { return double(scales[size_t(row) * size_t(groups) + size_t(column / group)]); }
  double Second(int row, int column) const {
    return seconds.empty() ? 0 : double(seconds[size_t(row) * size_t(groups) + size_t(column / group)]);
  }
  double Zero(int row, int column) const {
    return kind == AffineKind::kSymmetric ? 1 << (bits - 1) : kind == AffineKind::kZeroPoint ? Second(row, column) : 0;
  }
  double Minimum(int row, int column) const { return kind == AffineKind::kMinimum ? Second(row, column) : 0; }
  int Code(int row, int column) const { return codes[size_t(row) * size_t(k) + size_t(column)]; }
};

// Buffers of QuantizedRows for m rows in tiles of `tile`; stale bytes everywhere, so that what is not written shows.
struct Rows {
  std::vector<int8_t> q;
  std::vector<float> scale, scale_sum, half_scale_sum;
  std::vector<int32_t> bias, half_bias;
  QuantizedRows view;

  Rows(int m, int k, int group, int tile, bool halves) {
    view.m = m;
    view.k = k;
    view.k_padded = (k + 31) / 32 * 32;
    view.group = group;
    view.groups = (view.k_padded + group - 1) / group;
    view.tile = tile;
    q.assign(size_t(m) * size_t(view.k_padded), 99);
    scale.assign(size_t(m) * size_t(view.groups), 99);
    scale_sum = scale;
    bias.assign(scale.size(), 99);
    view.q = q.data();
    view.scale = scale.data();
    view.scale_sum = scale_sum.data();
    view.bias = bias.data();
    if (!halves) return;
    half_scale_sum.assign(size_t(m) * size_t(view.k_padded / 16), 99);
    half_bias.assign(half_scale_sum.size(), 99);
    view.half_scale_sum = half_scale_sum.data();
    view.half_bias = half_bias.data();
  }
  size_t TileRows(int row) const { return size_t(std::min(view.tile, view.m - row / view.tile * view.tile)); }
  int Q(int row, int column) const {
    const size_t tile = size_t(row / view.tile * view.tile) * size_t(view.k_padded);
    return q[tile + (size_t(column / 4) * TileRows(row) + size_t(row % view.tile)) * 4 + size_t(column % 4)];
  }
  double RowScale(int row, int column) const {
    return double(scale[size_t(row / view.tile * view.tile) * size_t(view.groups) + size_t(column / view.group) * TileRows(row) +
                        size_t(row % view.tile)]);
  }
};

struct Aligned {
  std::vector<uint8_t> bytes;
  uint8_t* data;
  explicit Aligned(size_t size) : bytes(size + 64), data(bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64)) {}
};

// Runs one product and compares it with the float64 value of exactly the quantised operands, to which results must be equal unless the
// values are random, and with that of the activations before they were quantised (the exact path).
void CheckProduct(const KernelTable& t, std::mt19937& random, const Source& source, int m, bool gemm, bool accumulate, Values values) {
  const bool exact = values != Values::kRandom;
  const int n = source.n, k = source.k;
  const bool halves = source.group == 16;
  std::vector<float> x(size_t(m) * size_t(k));
  for (size_t i = 0; i < x.size(); ++i) {
    if (values == Values::kExtremes)
      x[i] = i / size_t(k) % 2 == 0 ? 127.0f : -127.0f;
    else if (!exact)
      x[i] = Uniform(random) * (i % 97 == 5 ? 8.0f : 1.0f);
    else
      x[i] = int(i % size_t(k)) % 32 == 0 ? 127.0f : static_cast<float>(int(random() % 255) - 127);  // scale exactly 1
  }
  Rows rows(m, k, 32, gemm ? t.gemm_tile : m, halves);
  t.quantize_rows(x.data(), size_t(k), rows.view, source.kind == AffineKind::kSymmetric ? 1 << (source.bits - 1) : 0, 0, m);
  // neighbours of y in a row belong to other matrices: 3 columns in front, 5 behind
  const size_t ldy = size_t(n) + 8;
  std::vector<float> before(size_t(m) * ldy, kGuard);
  for (int i = 0; i < m; ++i) {
    for (int r = 0; r < n; ++r) before[size_t(i) * ldy + 3 + size_t(r)] = exact ? float(r - 7) : Uniform(random);
  }
  std::vector<float> y = before;
  const int panels = (n + 15) / 16, cut = panels / 2;  // in two calls, as two threads would
  Aligned scratch(kGemmScratchBytes);
  for (const auto& [first, last] : {std::pair{cut, panels}, std::pair{0, cut}}) {
    if (gemm)
      t.affine_gemm(source.part.view, rows.view, y.data() + 3, ldy, first, last, accumulate, scratch.data);
    else
      t.affine_small(source.part.view, rows.view, y.data() + 3, ldy, first, last, accumulate);
  }
  bool good = true, guards = TileFaults() == 0 && !TilesInUse();  // of emulated AMX
  for (int i = 0; i < m; ++i) {
    const float* row = y.data() + size_t(i) * ldy;
    for (size_t c = 0; c < ldy; ++c) guards = guards && ((c >= 3 && c < size_t(n) + 3) || row[c] == kGuard);
    for (int r = 0; r < n; ++r) {
      const double start = accumulate ? double(before[size_t(i) * ldy + 3 + size_t(r)]) : 0;
      double expected = start, magnitude = std::fabs(start), unquantised = start, rounding = 0;
      for (int c = 0; c < k; ++c) {
        const double q = rows.Q(i, c), d = rows.RowScale(i, c), code = source.Code(r, c), zero = source.Zero(r, c),
                     minimum = source.Minimum(r, c);
        const double weight = source.Scale(r, c) * (code - zero) + minimum;
        expected += d * q * weight;
        unquantised += double(x[size_t(i) * size_t(k) + size_t(c)]) * weight;
        rounding += d * (0.5 + 127 * 2 * kEps) * std::fabs(weight);  // half a step, and the rounding of a quotient of at most 127
        // kernels may sum codes, zeros and minima apart (and 8-bit codes around 128)
        magnitude += d * std::fabs(q) * (std::fabs(source.Scale(r, c)) * (code + zero + (source.bits == 8 ? 128 : 0)) + std::fabs(minimum));
      }
      // per 32 columns at most: three products, two conversions, four additions
      const double tolerance = (9 * (k / 16 + 1) + 8) * kEps * magnitude;
      good = good && (exact ? double(row[3 + r]) == expected : Close(double(row[3 + r]), expected, tolerance));
      good = good && Close(double(row[3 + r]), unquantised, rounding + tolerance);
    }
  }
  const std::string what = std::string(gemm ? "gemm " : "small ") + source.name + ", m " + std::to_string(m) +
                           (values == Values::kIntegers   ? ", integers"
                            : values == Values::kExtremes ? ", extremes"
                                                          : "") +
                           (accumulate ? ", accumulate" : "");
  Report(good, t, what);
  Report(guards, t, "wrote outside of its columns (or misused a tile): " + what);
}

const int kRowsOfW[] = {1, 15, 16, 17, 33, 48}, kColumns[] = {16, 31, 32, 33, 96, 160, 576}, kGroups[] = {16, 32, 64, 128, 0};
constexpr int kMostRows = 33;  // of activations
constexpr DType kCodedTypes[] = {DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};
constexpr AffineKind kKinds[] = {AffineKind::kSymmetric, AffineKind::kMinimum, AffineKind::kZeroPoint};

// body(bits, group, kind, meta_f32, serial number)
void ForFormats(const std::function<void(int, int, AffineKind, bool, int)>& body) {
  int serial = 0;
  for (int bits = 1; bits <= 8; ++bits) {
    for (const int group : kGroups) {
      for (const AffineKind kind : kKinds) {
        for (const bool meta_f32 : {false, true}) body(bits, group, kind, meta_f32, serial++);
      }
    }
  }
}

}  // namespace

LOWBIT_TEST(simd_checker_rejects_bad_values) {
  EXPECT(Close(1, 1.5, 0.5));
  EXPECT(!Close(1, 1.5, 0.4));
  EXPECT(!Close(std::nan(""), 0, 1));
  EXPECT(!Close(0, std::nan(""), 1));
  EXPECT(!Close(HUGE_VAL, HUGE_VAL, 1));
  EXPECT(!Close(-1, 1, 1));
}

LOWBIT_TEST(simd_affine_products) {
  std::printf("  %zu kernel tables run here\n", Tables().size());
  for (const KernelTable* t : Tables()) {
    std::mt19937 random(71);
    ForFormats([&](int bits, int group, AffineKind kind, bool meta_f32, int serial) {
      for (int sample = 0; sample < 6; ++sample) {
        const int pick = serial * 5 + sample * 7;
        const Source source(random, kRowsOfW[(pick + sample) % 6], kColumns[(pick + pick / 7) % 7], bits, group, kind, meta_f32,
                            Values::kRandom);
        CheckProduct(*t, random, source, pick % kSmallRows + 1, false, pick % 3 == 0, Values::kRandom);
        CheckProduct(*t, random, source, (pick + pick / kMostRows) % kMostRows + 1, true, pick % 3 == 1, Values::kRandom);
      }
    });
  }
}

// Rows of one super-block, of some, and of several passes that cut them.
LOWBIT_TEST(simd_affine_products_of_coded_scales) {
  std::mt19937 random(79);
  for (const DType dtype : kCodedTypes) {
    for (const auto& [n, blocks] : {std::pair{1, 1}, {33, 3}, {17, 2 * 4096 / kSuperBlock + 1}}) {
      const Source source(random, dtype, n, blocks);
      for (const KernelTable* t : Tables()) {
        for (const int m : {1, 2, 4, 7, kSmallRows}) CheckProduct(*t, random, source, m, false, m == 2, Values::kRandom);
        for (const int m : {1, 13, kMostRows}) CheckProduct(*t, random, source, m, true, m == 13, Values::kRandom);
      }
    }
  }
}

LOWBIT_TEST(simd_affine_products_are_exact_on_integers) {
  for (const KernelTable* t : Tables()) {
    std::mt19937 random(72);
    ForFormats([&](int bits, int group, AffineKind kind, bool meta_f32, int serial) {
      for (const Values values : {Values::kIntegers, Values::kExtremes}) {
        const Source source(random, kRowsOfW[serial % 6], kColumns[serial / 2 % 6], bits, group, kind, meta_f32, values);
        CheckProduct(*t, random, source, serial % kSmallRows + 1, false, serial % 5 == 0, values);
        CheckProduct(*t, random, source, serial % kMostRows + 1, true, serial % 5 == 1, values);
      }
    });
  }
}

// Rows of several passes of the GEMM (of up to 4096 columns): even ones, ones that cut groups, and a short last one.
LOWBIT_TEST(simd_affine_products_of_long_rows) {
  std::mt19937 random(73);
  int serial = 0;
  for (const AffineKind kind : kKinds) {
    for (const int bits : {3, 4, 8}) {
      for (const int group : {16, 32, 96, 0}) {
        const Source source(random, 17, ++serial % 2 == 0 ? 4096 + 32 : 2 * 4096 + 100, bits, group, kind, true, Values::kRandom);
        for (const KernelTable* t : Tables()) {
          CheckProduct(*t, random, source, 2, false, false, Values::kRandom);
          CheckProduct(*t, random, source, 7, true, false, Values::kRandom);
        }
      }
    }
  }
}

// What a row gives in affine_small is the same bits alone and among others: a sequence decodes the same tokens in any batch.
LOWBIT_TEST(simd_affine_small_rows_are_independent) {
  for (const KernelTable* t : Tables()) {
    std::mt19937 random(78);
    ForFormats([&](int bits, int group, AffineKind kind, bool meta_f32, int serial) {
      const int n = 33, k = 160, m = serial % (kSmallRows - 1) + 2, zero_code = kind == AffineKind::kSymmetric ? 1 << (bits - 1) : 0;
      const Source source(random, n, k, bits, group, kind, meta_f32, Values::kRandom);
      const std::vector<float> x = RandomVector(random, size_t(m * k));
      const auto product = [&](const float* first, int rows) {
        Rows quantised(rows, k, 32, rows, group == 16);
        t->quantize_rows(first, size_t(k), quantised.view, zero_code, 0, rows);
        std::vector<float> y(size_t(rows * n));
        t->affine_small(source.part.view, quantised.view, y.data(), size_t(n), 0, (n + 15) / 16, false);
        return y;
      };
      const std::vector<float> together = product(x.data(), m);
      bool good = true;
      for (int i = 0; i < m; ++i)
        good = good && std::memcmp(product(x.data() + i * k, 1).data(), together.data() + i * n, size_t(n) * sizeof(float)) == 0;
      Report(good, *t, "rows depend on each other: " + source.name + ", m " + std::to_string(m));
    });
  }
}

LOWBIT_TEST(simd_quantize_rows) {
  std::mt19937 random(74);
  for (const int k : {16, 31, 32, 33, 96, 160, 576}) {
    for (const int m : {1, 3, 4, 6, 7, 13}) {
      for (const int group : {32, 64}) {
        for (const int tile : {m, 4, 6}) {
          std::vector<float> x = RandomVector(random, size_t(m) * size_t(k + 3), 5);
          for (size_t i = 0; i < x.size(); ++i) {
            if (i % 3 == 0) x[i] = std::nearbyint(x[i]) + 0.5f;  // ties
            if (i / 64 % 5 == 4) x[i] = 0;
            if (i / 64 % 11 == 7) x[i] *= 1e-44f;
          }
          Rows expected(m, k, group, tile, true);
          RefKernels()->quantize_rows(x.data(), size_t(k + 3), expected.view, 8, 0, m);
          for (const KernelTable* t : Tables()) {
            Rows rows(m, k, group, tile, true);
            t->quantize_rows(x.data(), size_t(k + 3), rows.view, 8, m / 2, m);
            t->quantize_rows(x.data(), size_t(k + 3), rows.view, 8, 0, m / 2);
            Report(rows.q == expected.q && rows.scale == expected.scale && rows.scale_sum == expected.scale_sum &&
                       rows.bias == expected.bias && rows.half_scale_sum == expected.half_scale_sum && rows.half_bias == expected.half_bias,
                   *t,
                   "quantize_rows differs from ref, k " + std::to_string(k) + " m " + std::to_string(m) + " tile " + std::to_string(tile));
            bool good = true;
            for (int i = 0; i < m; ++i) {
              for (int c = 0; c < rows.view.k_padded; ++c) {
                const double d = rows.RowScale(i, c), value = c < k ? double(x[size_t(i) * size_t(k + 3) + size_t(c)]) : 0;
                // half a step, and the rounding of a quotient of at most 127
                good = good && (d > 1e-37 ? Close(rows.Q(i, c) * d, value, d * (0.5 + 127 * 2 * kEps)) : rows.Q(i, c) == 0 || d > 0);
              }
            }
            Report(good, *t, "quantize_rows");
          }
        }
      }
    }
  }
}

LOWBIT_TEST(simd_unpack_panel) {
  std::mt19937 random(75);
  std::vector<float> out;
  const auto check = [&](const KernelTable& t, const PackedView& view, int k0, int kc, const std::string& what) {
    for (int panel = 0; panel < (view.n + 15) / 16; ++panel) {
      out.assign(size_t(kc + 1) * 16, kGuard);
      t.unpack_panel(view, panel, k0, kc, out.data());
      bool good = true;
      for (int c = 0; c < kc; ++c) {
        for (int r = 0; r < 16 && panel * 16 + r < view.n; ++r)
          good = good && out[size_t(c) * 16 + size_t(r)] == WeightAt(view, panel * 16 + r, k0 + c);
      }
      for (int r = 0; r < 16; ++r) good = good && out[size_t(kc) * 16 + size_t(r)] == kGuard;
      Report(good, t, "unpack_panel " + what + ", k0 " + std::to_string(k0) + ", kc " + std::to_string(kc));
    }
  };
  for (const KernelTable* t : Tables()) {
    ForFormats([&](int bits, int group, AffineKind kind, bool meta_f32, int serial) {
      const int k = kColumns[serial % 7];
      const Source source(random, kRowsOfW[serial / 7 % 6], k, bits, group, kind, meta_f32, Values::kRandom);
      check(*t, source.part.view, 0, k, source.name);
      const int k0 = static_cast<int>(random() % unsigned((k + 31) / 32)) * 32;
      check(*t, source.part.view, k0, static_cast<int>(random() % unsigned(k - k0)) + 1, source.name);
    });
    for (const DType dtype : kCodedTypes) {
      const Source source(random, dtype, 19, 3);
      check(*t, source.part.view, 0, source.k, source.name);
      for (const int k0 : {32, 224, 288}) check(*t, source.part.view, k0, source.k - k0 - 5, source.name);
    }
    for (const auto& [dtype, size] : {std::pair{DType::kF32, 4}, std::pair{DType::kF16, 2}, std::pair{DType::kBF16, 2}}) {
      for (const int k : {1, 7, 33, 96}) {
        std::vector<uint8_t> bytes(size_t(19 * k * size));
        for (int i = 0; i < 19 * k; ++i) {
          const float value = Uniform(random);
          const uint16_t small = dtype == DType::kF16 ? FloatToHalf(value) : FloatToBfloat16(value);
          std::memcpy(bytes.data() + i * size, size == 4 ? static_cast<const void*>(&value) : &small, size_t(size));
        }
        const Result<Part> part = PackDense("w", dtype, bytes.data(), 19, k, {});
        EXPECT(part.ok());
        if (!part.ok()) continue;
        check(*t, part.value().view, 0, k, "dense");
        for (const int k0 : {1, 2, 5}) {
          if (k0 < k) check(*t, part.value().view, k0, k - k0, "dense");
        }
      }
    }
  }
}

LOWBIT_TEST(simd_pack_rows) {
  std::mt19937 random(76);
  for (const KernelTable* t : Tables()) {
    for (const int rows : {1, 2, 7, 8, 9, 17}) {
      for (const int k : {1, 7, 8, 9, 31, 64}) {
        const size_t ldx = size_t(k) + 2, tiles = size_t((rows + 7) / 8);
        const std::vector<float> x = RandomVector(random, size_t(rows) * ldx);
        std::vector<float> out(tiles * size_t(k) * 8 + 8, kGuard);
        t->pack_rows(x.data(), ldx, rows, k, out.data());
        bool good = true;
        for (size_t i = 0; i < tiles * 8; ++i) {
          for (size_t s = 0; s < size_t(k); ++s)
            good = good && out[(i / 8 * size_t(k) + s) * 8 + i % 8] == (i < size_t(rows) ? x[i * ldx + s] : 0.0f);
        }
        for (size_t i = tiles * size_t(k) * 8; i < out.size(); ++i) good = good && out[i] == kGuard;
        Report(good, *t, "pack_rows " + std::to_string(rows) + " x " + std::to_string(k));
      }
    }
  }
}

LOWBIT_TEST(simd_gemm_f32) {
  std::mt19937 random(77);
  int serial = 0;
  for (const int m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 33}) {
    for (const int n : {1, 7, 8, 9, 15, 16, 17, 31, 33, 48, 49, 97}) {
      const int ks[] = {0, 1, 2, 33, 127, 128, 129, 257, 600}, k = ks[serial++ % 9];
      // wider lines than needed on both sides; the padding is NaN, so that reading it into a result shows
      const size_t a_line = serial % 2 == 0 ? kRowTile : kRowTile + 3, a_tile = a_line * size_t(k) + 5, b_line = 16 + 2,
                   b_panel = b_line * size_t(k) + 7;
      const size_t ldc = size_t(n) + 4;
      std::vector<float> a(a_tile * size_t((m + 7) / 8) + 8, std::nanf("")), b(b_panel * size_t((n + 15) / 16) + 16, std::nanf(""));
      const std::vector<float> x = RandomVector(random, size_t(m) * size_t(k)), w = RandomVector(random, size_t(n) * size_t(k));
      for (int s = 0; s < k; ++s) {
        for (int i = 0; i < m; ++i) a[size_t(i / 8) * a_tile + size_t(s) * a_line + size_t(i % 8)] = x[size_t(i * k + s)];
        for (int j = 0; j < n; ++j) b[size_t(j / 16) * b_panel + size_t(s) * b_line + size_t(j % 16)] = w[size_t(j * k + s)];
      }
      const std::vector<float> before = RandomVector(random, size_t(m) * ldc);
      for (const KernelTable* t : Tables()) {
        for (const bool accumulate : {false, true}) {
          std::vector<float> c = before;
          t->gemm_f32(a.data(), a_tile, a_line, b.data(), b_panel, b_line, m, n, k, c.data(), ldc, accumulate);
          bool good = true, guards = true;
          for (int i = 0; i < m; ++i) {
            for (int j = 0; j < n; ++j) {
              double expected = accumulate ? double(before[size_t(i) * ldc + size_t(j)]) : 0, magnitude = std::fabs(expected);
              for (int s = 0; s < k; ++s) {
                const double product = double(x[size_t(i * k + s)]) * double(w[size_t(j * k + s)]);
                expected += product;
                magnitude += std::fabs(product);
              }
              good = good && Close(double(c[size_t(i) * ldc + size_t(j)]), expected, (k + 8) * kEps * magnitude);
            }
            for (size_t j = size_t(n); j < ldc; ++j) guards = guards && c[size_t(i) * ldc + j] == before[size_t(i) * ldc + j];
          }
          // a row alone gives the same bits: the order of summation does not depend on m
          const int row = m - 1;
          std::vector<float> alone(before.begin() + long(size_t(row) * ldc), before.begin() + long(size_t(row + 1) * ldc)),
              lane(a_line * size_t(k) + 8);
          for (int s = 0; s < k; ++s) lane[size_t(s) * a_line] = x[size_t(row * k + s)];
          t->gemm_f32(lane.data(), 0, a_line, b.data(), b_panel, b_line, 1, n, k, alone.data(), ldc, accumulate);
          const std::string what = "gemm_f32 m " + std::to_string(m) + " n " + std::to_string(n) + " k " + std::to_string(k);
          Report(good, *t, what);
          Report(guards, *t, "wrote outside of c: " + what);
          Report(std::memcmp(alone.data(), c.data() + size_t(row) * ldc, size_t(n) * sizeof(float)) == 0, *t, "depends on m: " + what);
        }
      }
    }
  }
}

LOWBIT_TEST(simd_dense_gemv) {
  std::mt19937 random(91);
  for (const KernelTable* t : Tables()) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const int n : {1, 15, 16, 17, 64, 83, 130}) {
        for (const int k : {1, 2, 31, 64, 577}) {
          const std::vector<float> values = RandomVector(random, static_cast<size_t>(n) * static_cast<size_t>(k));
          std::vector<uint16_t> halves;
          for (const float v : values) halves.push_back(dtype == DType::kF16 ? FloatToHalf(v) : FloatToBfloat16(v));
          const void* rows = dtype == DType::kF32 ? static_cast<const void*>(values.data()) : halves.data();
          const Result<Part> part = PackDense("w", dtype, static_cast<const uint8_t*>(rows), n, k, {});
          if (!EXPECT(part.ok())) return;
          const PackedView& w = part.value().view;
          const std::vector<float> x = RandomVector(random, static_cast<size_t>(k)), before = RandomVector(random, static_cast<size_t>(n));
          const int panels = (n + kPanelRows - 1) / kPanelRows, split = panels / 2;
          for (const bool accumulate : {false, true}) {
            std::vector<float> y = before;
            y.push_back(kGuard);
            t->dense_gemv(w, x.data(), y.data(), 0, split, accumulate);
            t->dense_gemv(w, x.data(), y.data(), split, panels, accumulate);
            bool ok = y[static_cast<size_t>(n)] == kGuard;
            for (int i = 0; i < n; ++i) {
              double sum = accumulate ? double(before[static_cast<size_t>(i)]) : 0, magnitude = std::fabs(sum);
              for (int j = 0; j < k; ++j) {
                const double term = double(WeightAt(w, i, j)) * double(x[static_cast<size_t>(j)]);
                sum += term;
                magnitude += std::fabs(term);
              }
              ok = ok && Close(double(y[static_cast<size_t>(i)]), sum, (k + 2) * kEps * magnitude);
            }
            Report(ok, *t, Format("dense_gemv %s n=%d k=%d accumulate=%d", Info(dtype).name, n, k, accumulate));
          }
        }
      }
    }
  }
}
