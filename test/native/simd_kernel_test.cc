// test/native: every kernel table of this machine (kernel/ref, avx2, avx512) against float64 computed from the values that were
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

#include "base/cpu.h"
#include "base/half.h"
#include "check.h"
#include "kernel/kernel.h"
#include "part/part.h"

using namespace lowbit;

namespace {

constexpr double kEps = 1.0 / 16777216;
constexpr float kGuard = -12345.0f;

std::vector<const KernelTable*> Tables() {
  std::vector<const KernelTable*> tables = {RefKernels()};
  if (Cpu().avx2 && Avx2Kernels() != nullptr) tables.push_back(Avx2Kernels());
  if (Cpu().avx512 && Cpu().avx512_vnni && Avx512Kernels() != nullptr) tables.push_back(Avx512Kernels());
  return tables;
}

// False for NaN and infinities.
bool Close(double actual, double expected, double tolerance) { return std::isfinite(actual) && std::fabs(actual - expected) <= tolerance; }

// One EXPECT per matrix instead of one per element; the text names table and case.
void Report(bool ok, const KernelTable& t, const std::string& what) { lowbit_test::Check(ok, __FILE__, __LINE__, std::string(t.name) + ": " + what); }

float Uniform(std::mt19937& random) { return static_cast<float>(random()) / 4294967296.0f * 2 - 1; }

std::vector<float> RandomVector(std::mt19937& random, size_t count, float range = 1) {
  std::vector<float> values(count);
  for (float& value : values) value = Uniform(random) * range;
  return values;
}

// kIntegers: scales 1 and small integer offsets, so that results are integers; kExtremes: also all codes largest and all
// activations +127 or all -127, what 16-bit intermediate sums must survive.
enum class Values { kRandom, kIntegers, kExtremes };

// What goes into a packed matrix, kept as the reference.
struct Source {
  int n, k, bits, group, groups;
  AffineKind kind;
  std::vector<uint8_t> codes;
  std::vector<float> scales, seconds;
  Part part;
  std::string name;

  Source(std::mt19937& random, int rows, int columns, int b, int group_size, AffineKind affine, bool meta_f32, Values values)
      : n(rows), k(columns), bits(b), group(group_size <= 0 || group_size >= columns ? (columns + 31) / 32 * 32 : group_size), kind(affine) {
    groups = (k + group - 1) / group;
    codes.resize(size_t(n) * size_t(k));
    const bool plain = values != Values::kRandom;
    for (uint8_t& code : codes) code = static_cast<uint8_t>(values == Values::kExtremes || random() % 3 == 0 ? (1u << bits) - 1 : random() & ((1u << bits) - 1));
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
    name = std::to_string(bits) + " bits, group " + std::to_string(group) + ", kind " + std::to_string(int(kind)) + (meta_f32 ? ", f32" : ", f16") +
           ", n " + std::to_string(n) + ", k " + std::to_string(k);
  }
  double Scale(int row, int column) const { return double(scales[size_t(row) * size_t(groups) + size_t(column / group)]); }
  double Second(int row, int column) const { return seconds.empty() ? 0 : double(seconds[size_t(row) * size_t(groups) + size_t(column / group)]); }
  double Zero(int row, int column) const { return kind == AffineKind::kSymmetric ? 1 << (bits - 1) : kind == AffineKind::kZeroPoint ? Second(row, column) : 0; }
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
    return double(scale[size_t(row / view.tile * view.tile) * size_t(view.groups) + size_t(column / view.group) * TileRows(row) + size_t(row % view.tile)]);
  }
};

struct Aligned {
  std::vector<uint8_t> bytes;
  uint8_t* data;
  explicit Aligned(size_t size) : bytes(size + 64), data(bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64)) {}
};

// Runs one product and compares it with the float64 value of exactly the quantised operands. Unless the
// values are random, results must be equal.
void CheckProduct(const KernelTable& t, std::mt19937& random, const Source& source, int m, int activation_group, bool gemm, bool accumulate,
                  Values values) {
  const bool exact = values != Values::kRandom;
  const int n = source.n, k = source.k;
  const bool halves = source.group == 16;
  std::vector<float> x(size_t(m) * size_t(k));
  for (size_t i = 0; i < x.size(); ++i) {
    if (values == Values::kExtremes) x[i] = i / size_t(k) % 2 == 0 ? 127.0f : -127.0f;
    else if (!exact) x[i] = Uniform(random) * (i % 97 == 5 ? 8.0f : 1.0f);
    else x[i] = int(i % size_t(k)) % activation_group == 0 ? 127.0f : static_cast<float>(int(random() % 255) - 127);  // scale exactly 1
  }
  Rows rows(m, k, activation_group, gemm ? t.gemm_tile : m, halves);
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
    if (gemm) t.affine_gemm(source.part.view, rows.view, y.data() + 3, ldy, first, last, accumulate, scratch.data);
    else t.affine_small(source.part.view, rows.view, y.data() + 3, ldy, first, last, accumulate);
  }
  bool good = true, guards = true;
  for (int i = 0; i < m; ++i) {
    const float* row = y.data() + size_t(i) * ldy;
    for (size_t c = 0; c < ldy; ++c) guards = guards && ((c >= 3 && c < size_t(n) + 3) || row[c] == kGuard);
    for (int r = 0; r < n; ++r) {
      const double start = accumulate ? double(before[size_t(i) * ldy + 3 + size_t(r)]) : 0;
      double expected = start, magnitude = std::fabs(start);
      for (int c = 0; c < k; ++c) {
        const double q = rows.Q(i, c), d = rows.RowScale(i, c), code = source.Code(r, c), zero = source.Zero(r, c), minimum = source.Minimum(r, c);
        expected += d * q * (source.Scale(r, c) * (code - zero) + minimum);
        // kernels may sum codes, zeros and minima apart (and 8-bit codes around 128)
        magnitude += d * std::fabs(q) * (std::fabs(source.Scale(r, c)) * (code + zero + (source.bits == 8 ? 128 : 0)) + std::fabs(minimum));
      }
      // per 32 columns at most: three products, two conversions, four additions
      good = good && (exact ? double(row[3 + r]) == expected : Close(double(row[3 + r]), expected, (9 * (k / 16 + 1) + 8) * kEps * magnitude));
    }
  }
  const std::string what = std::string(gemm ? "gemm " : "small ") + source.name + ", m " + std::to_string(m) + ", x group " + std::to_string(activation_group) +
                           (values == Values::kIntegers ? ", integers" : values == Values::kExtremes ? ", extremes" : "") + (accumulate ? ", accumulate" : "");
  Report(good, t, what);
  Report(guards, t, "wrote outside of its columns: " + what);
}

const int kRowsOfW[] = {1, 15, 16, 17, 33, 48}, kColumns[] = {16, 31, 32, 33, 96, 160, 576}, kGroups[] = {16, 32, 64, 128, 0};
const int kGemmRows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 33};
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
        const Source source(random, kRowsOfW[(pick + sample) % 6], kColumns[(pick + pick / 7) % 7], bits, group, kind, meta_f32, Values::kRandom);
        CheckProduct(*t, random, source, pick % kSmallRows + 1, 32, false, pick % 3 == 0, Values::kRandom);
        CheckProduct(*t, random, source, kGemmRows[(pick + pick / 12) % 12], 32, true, pick % 3 == 1, Values::kRandom);
      }
    });
  }
}

LOWBIT_TEST(simd_affine_products_are_exact_on_integers) {
  for (const KernelTable* t : Tables()) {
    std::mt19937 random(72);
    ForFormats([&](int bits, int group, AffineKind kind, bool meta_f32, int serial) {
      for (const Values values : {Values::kIntegers, Values::kExtremes}) {
        const Source source(random, kRowsOfW[serial % 6], kColumns[serial / 2 % 6], bits, group, kind, meta_f32, values);
        CheckProduct(*t, random, source, serial % kSmallRows + 1, 32, false, serial % 5 == 0, values);
        CheckProduct(*t, random, source, kGemmRows[serial % 12], 32, true, serial % 5 == 1, values);
      }
    });
  }
}

// Long rows (several passes of the GEMM), and activation groups wider than 32, which must divide the weight group.
LOWBIT_TEST(simd_affine_products_of_long_rows) {
  for (const KernelTable* t : Tables()) {
    std::mt19937 random(73);
    for (const int bits : {3, 4, 8}) {
      for (const AffineKind kind : kKinds) {
        for (const int group : {16, 96, 128, 0}) {
          const Source source(random, 40, 2 * kGemmColumns + 96, bits, group, kind, true, Values::kRandom);
          for (const int activation_group : {32, 64, 128}) {
            if (activation_group != 32 && group % activation_group != 0) continue;
            CheckProduct(*t, random, source, 3, activation_group, false, false, Values::kRandom);
            CheckProduct(*t, random, source, 7, activation_group, true, false, Values::kRandom);
          }
        }
      }
    }
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
            Report(rows.q == expected.q && rows.scale == expected.scale && rows.scale_sum == expected.scale_sum && rows.bias == expected.bias &&
                       rows.half_scale_sum == expected.half_scale_sum && rows.half_bias == expected.half_bias,
                   *t, "quantize_rows differs from ref, k " + std::to_string(k) + " m " + std::to_string(m) + " tile " + std::to_string(tile));
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
        for (int r = 0; r < 16 && panel * 16 + r < view.n; ++r) good = good && out[size_t(c) * 16 + size_t(r)] == WeightAt(view, panel * 16 + r, k0 + c);
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
          for (size_t s = 0; s < size_t(k); ++s) good = good && out[(i / 8 * size_t(k) + s) * 8 + i % 8] == (i < size_t(rows) ? x[i * ldx + s] : 0.0f);
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
      const size_t a_line = serial % 2 == 0 ? kRowTile : kRowTile + 3, a_tile = a_line * size_t(k) + 5, b_line = 16 + 2, b_panel = b_line * size_t(k) + 7;
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
          std::vector<float> alone(before.begin() + long(size_t(row) * ldc), before.begin() + long(size_t(row + 1) * ldc)), lane(a_line * size_t(k) + 8);
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

namespace {

// Lengths around one vector, and enough for every unrolled loop and its tail.
const size_t kLengths[] = {1, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130, 577};

// Applies fn(x, y, count), y being an output or the in-place operand, at every length; compares with expected(i), relative.
void CheckElementwise(const KernelTable& t, const char* what, const std::vector<float>& x, double relative,
                      const std::function<void(const float*, float*, size_t)>& fn, const std::function<double(double)>& expected) {
  for (const size_t count : kLengths) {
    for (size_t start = 0; start + count <= x.size(); start += count * 3 + 1) {
      std::vector<float> y(x.begin() + long(start), x.begin() + long(start + count));
      y.push_back(kGuard);
      fn(x.data() + start, y.data(), count);
      for (size_t i = 0; i < count; ++i) {
        const double value = expected(double(x[start + i]));
        // below the normal range floats have no relative precision left
        if (Close(double(y[i]), value, relative * std::fabs(value) + 3e-45)) continue;
        Report(false, t, std::string(what) + " of " + std::to_string(x[start + i]) + " gave " + std::to_string(y[i]));
        return;
      }
      Report(y[count] == kGuard, t, std::string(what) + " wrote behind its end");
    }
  }
}

// Dense in the range where things happen, sparse and large beyond.
std::vector<float> Arguments(std::mt19937& random, float range) {
  std::vector<float> x = {0.0f, -0.0f, 1e-30f, -1e-30f, 0.6f, -0.6f, 0.59999996f, 88.0f, -86.0f, -87.5f, 1.0f, -1.0f};
  for (int i = 0; i < 6000; ++i) x.push_back(Uniform(random) * (i % 4 == 0 ? range : i % 4 == 1 ? range / 100 : 6.0f));
  return x;
}

}  // namespace

LOWBIT_TEST(simd_activations) {
  std::mt19937 random(78);
  for (const KernelTable* t : Tables()) {
    // kernel/ref works in plain float, whose left tails cancel; the fast tables promise 1e-6 of the value everywhere
    const bool ref = t == RefKernels();
    const std::vector<float> ones(600, 1.0f), x = Arguments(random, 80.0f);
    std::vector<float> gelu = Arguments(random, 6.0f);
    for (float& v : gelu) v = std::max(v, ref ? -1.0f : -12.0f);  // below, the result leaves the normal range
    CheckElementwise(*t, "silu", x, 1e-6, [&](const float* g, float* y, size_t n) { t->silu_mul(g, ones.data(), y, n); }, [](double v) { return v / (1 + std::exp(-v)); });
    CheckElementwise(
        *t, "gelu_tanh", gelu, ref ? 5e-6 : 1e-6, [&](const float* g, float* y, size_t n) { t->gelu_tanh_mul(g, ones.data(), y, n); },
        // 0.5 v (1 + tanh u) without its cancellation
        [](double v) { return v / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))); });
    for (const float cap : {30.0f, 50.0f}) {
      CheckElementwise(*t, "softcap", x, 1e-6, [&](const float*, float* y, size_t n) { t->softcap(y, n, cap); },
                       [&](double v) { return double(cap) * std::tanh(v / double(cap)); });
    }
    CheckElementwise(
        *t, "exp", x, 3e-7,
        [&](const float*, float* y, size_t n) { t->exp_sum(y, n, 0.0f); }, [](double v) { return std::exp(v); });
    // gate and up are really multiplied, and y may be up
    std::vector<float> gate = RandomVector(random, 37), up = RandomVector(random, 37), product = up;
    t->silu_mul(gate.data(), product.data(), product.data(), 37);
    for (size_t i = 0; i < 37; ++i) EXPECT_NEAR(product[i], double(gate[i]) / (1 + std::exp(-double(gate[i]))) * double(up[i]), 1e-6);
  }
}

LOWBIT_TEST(simd_exp_sum) {
  std::mt19937 random(79);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const KernelTable* t : Tables()) {
    for (const size_t count : kLengths) {
      std::vector<float> x = RandomVector(random, count, 9), logits = x;
      const float maximum = t->max(x.data(), count);
      EXPECT(maximum == *std::max_element(x.begin(), x.end()));
      double sum = 0;
      for (const float v : x) sum += std::exp(double(v) - double(maximum));
      // v - maximum is rounded (|v| <= 18), the sum has `count` terms
      EXPECT_NEAR(t->exp_sum(x.data(), count, maximum), sum, sum * (3e-7 + (18 + double(count)) * kEps));
      const float first = t->exp_sum(logits.data(), count, maximum);
      double written = 0;
      for (const float v : logits) written += double(v);
      EXPECT_NEAR(first, written, sum * (double(count) + 2) * kEps);
    }
    // masked positions: zero, never NaN; far below the maximum: zero
    std::vector<float> masked(19, -infinity);
    masked[3] = 2;
    masked[18] = -1e30f;
    EXPECT(t->exp_sum(masked.data(), masked.size(), 2) == 1.0f);
    for (size_t i = 0; i < masked.size(); ++i) EXPECT(masked[i] == (i == 3 ? 1.0f : 0.0f));
    std::vector<float> broken = {0, 1, std::nanf(""), 2};
    EXPECT(std::isnan(t->exp_sum(broken.data(), broken.size(), 2)));
    EXPECT(std::isnan(broken[2]) && !std::isnan(broken[1]));
    for (size_t at = 0; at < 70; ++at) {
      std::vector<float> x(70, -3.0f);
      x[at] = -2.0f;
      EXPECT(t->max(x.data(), x.size()) == -2.0f);
    }
  }
}

LOWBIT_TEST(simd_vectors) {
  std::mt19937 random(80);
  for (const KernelTable* t : Tables()) {
    for (const size_t count : kLengths) {
      const std::vector<float> a = RandomVector(random, count, 3), b = RandomVector(random, count, 3);
      std::vector<float> y(count + 1, kGuard);
      t->add(a.data(), b.data(), y.data(), count);
      for (size_t i = 0; i < count; ++i) EXPECT(y[i] == a[i] + b[i]);
      EXPECT(y[count] == kGuard);
      std::copy(a.begin(), a.end(), y.begin());
      t->scale(y.data(), count, 0.3f);
      for (size_t i = 0; i < count; ++i) EXPECT(y[i] == a[i] * 0.3f);
      EXPECT(y[count] == kGuard);

      double squares = 0;
      for (const float v : a) squares += double(v) * double(v);
      const double factor = 1 / std::sqrt(squares / double(count) + 1e-5);
      std::copy(a.begin(), a.end(), y.begin());
      t->rms_norm(y.data(), b.data(), y.data(), count, 1e-5f);
      // `count` rounded terms under a root, then five rounded operations
      for (size_t i = 0; i < count; ++i) EXPECT_NEAR(y[i], double(a[i]) * factor * double(b[i]), (double(count) / 2 + 6) * kEps * std::fabs(double(a[i]) * factor * double(b[i])));
      EXPECT(y[count] == kGuard);

      std::vector<float> head = RandomVector(random, 2 * count + 1), cosines(count), sines(count);
      head[2 * count] = kGuard;
      for (size_t i = 0; i < count; ++i) {
        cosines[i] = std::cos(float(i));
        sines[i] = std::sin(float(i));
      }
      const std::vector<float> old = head;
      t->rope_half(head.data(), cosines.data(), sines.data(), count);
      for (size_t i = 0; i < count; ++i) {
        const double low = old[i], high = old[i + count], c = cosines[i], s = sines[i];
        EXPECT_NEAR(head[i], low * c - high * s, 2.5 * kEps * (std::fabs(low * c) + std::fabs(high * s)));
        EXPECT_NEAR(head[i + count], high * c + low * s, 2.5 * kEps * (std::fabs(high * c) + std::fabs(low * s)));
      }
      EXPECT(head[2 * count] == kGuard);

      std::vector<float> finite = a;
      EXPECT(t->all_finite(finite.data(), count));
      for (size_t i = 0; i < count; ++i) {
        for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::nanf("")}) {
          finite[i] = bad;
          EXPECT(!t->all_finite(finite.data(), count));
        }
        finite[i] = i % 2 == 0 ? std::numeric_limits<float>::max() : -std::numeric_limits<float>::denorm_min();
        EXPECT(t->all_finite(finite.data(), count));
      }
    }
  }
}

LOWBIT_TEST(simd_halves) {
  for (const KernelTable* t : Tables()) {
    std::vector<uint16_t> all(65536), back(65537, 0xabcd);
    std::vector<float> values(65537, kGuard);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    t->f16_to_f32(all.data(), values.data(), all.size());
    EXPECT(values[65536] == kGuard);
    t->f32_to_f16(values.data(), back.data(), all.size());
    EXPECT(back[65536] == 0xabcd);
    bool good = true;
    for (size_t i = 0; i < all.size(); ++i) {
      const float expected = HalfToFloat(all[i]);
      good = good && (std::isnan(expected) ? std::isnan(values[i]) && std::isnan(HalfToFloat(back[i])) : values[i] == expected && back[i] == all[i]);
    }
    Report(good, *t, "every f16 value");
    // halfway between neighbours, one float below and above; overflow; tails
    std::vector<float> edges = {65519.996f, 65520.0f, 1e10f, -1e10f, 1e-9f, 5.9604645e-8f, 2.9802322e-8f, 2.9802326e-8f};
    for (uint32_t h = 0; h < 0x7bff; h += 37) {
      const float middle = (HalfToFloat(static_cast<uint16_t>(h)) + HalfToFloat(static_cast<uint16_t>(h + 1))) / 2;
      for (const float v : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) edges.push_back(h % 2 == 0 ? v : -v);
    }
    for (const size_t count : {edges.size(), size_t(1), size_t(7), size_t(9), size_t(23)}) {
      std::vector<uint16_t> halves(count + 1, 0xabcd);
      t->f32_to_f16(edges.data(), halves.data(), count);
      good = halves[count] == 0xabcd;
      for (size_t i = 0; i < count; ++i) good = good && halves[i] == FloatToHalf(edges[i]);
      Report(good, *t, "f32_to_f16 of " + std::to_string(count));
    }
  }
}
