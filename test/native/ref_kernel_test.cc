// test/native: kernel/ref against float64.
// Tolerances: a sum of k products in f32, in any order, differs from the exact one by at most gamma * sum |a||b| with
// gamma = (k + 2) * 2^-24 (Higham, Accuracy and Stability, section 3.1); each test states the terms it adds to k.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>

#include "base/half.h"
#include "check.h"
#include "kernel/kernel.h"
#include "part/part.h"

using namespace lowbit;

namespace {

constexpr double kEps = 1.0 / 16777216;  // 2^-24, unit roundoff of f32

float Uniform(std::mt19937& random) { return static_cast<float>(random()) / 4294967296.0f * 2 - 1; }

std::vector<float> RandomVector(std::mt19937& random, size_t count, float range = 1) {
  std::vector<float> values(count);
  for (float& value : values) value = Uniform(random) * range;
  return values;
}

Result<Part> RandomPart(std::mt19937& random, int n, int k, int bits, int group_size, AffineKind kind, bool meta_f32) {
  const size_t groups = group_size >= k ? 1 : size_t((k + group_size - 1) / group_size);
  std::vector<uint8_t> codes(size_t(n) * size_t(k));
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
  std::vector<float> scales(size_t(n) * groups), seconds(kind == AffineKind::kSymmetric ? 0 : scales.size());
  for (float& scale : scales) scale = HalfToFloat(FloatToHalf(Uniform(random)));
  for (float& second : seconds)
    second = kind == AffineKind::kZeroPoint ? static_cast<float>(random() % (1u << bits)) : HalfToFloat(FloatToHalf(Uniform(random)));
  return PackAffine("w", {n, k, bits, group_size, kind, meta_f32, codes, scales, seconds});
}

// Buffers of QuantizedRows for m rows in tiles of `tile`.
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
    q.assign(size_t(m) * size_t(view.k_padded), 99);  // stale bytes: everything must be written
    scale.assign(size_t(m) * size_t(view.groups), 99);
    scale_sum = scale;
    bias.assign(scale.size(), 99);
    half_scale_sum.assign(size_t(m) * size_t(view.k_padded / 16), 99);
    half_bias.assign(half_scale_sum.size(), 99);
    view.q = q.data();
    view.scale = scale.data();
    view.scale_sum = scale_sum.data();
    view.bias = bias.data();
    if (halves) {
      view.half_scale_sum = half_scale_sum.data();
      view.half_bias = half_bias.data();
    }
  }
  size_t TileRows(int row) const { return size_t(std::min(view.tile, view.m - row / view.tile * view.tile)); }
  int Q(int row, int column) const {
    const size_t tile = size_t(row / view.tile * view.tile) * size_t(view.k_padded);
    return q[tile + (size_t(column / 4) * TileRows(row) + size_t(row % view.tile)) * 4 + size_t(column % 4)];
  }
  // Index of an entry of scale, scale_sum, bias (per_row = groups) or of the half arrays (per_row = k_padded / 16).
  size_t At(int row, int group, int per_row) const {
    return size_t(row / view.tile * view.tile) * size_t(per_row) + size_t(group) * TileRows(row) + size_t(row % view.tile);
  }
};

}  // namespace

LOWBIT_TEST(ref_gemm_f32) {
  std::mt19937 random(31);
  const KernelTable& t = *RefKernels();
  for (const int m : {1, 2, 3, 7, 8, 9, 17}) {
    for (const int n : {1, 15, 16, 17, 40}) {
      for (const int k : {1, 2, 33, 300}) {
        // wider lines than needed on both sides; the padding is NaN, so that reading it into a result shows
        const size_t a_line = kRowTile + 3, a_tile = a_line * size_t(k) + 5, b_line = 16 + 2, b_panel = b_line * size_t(k) + 7,
                     ldc = size_t(n) + 4;
        std::vector<float> a(a_tile * size_t((m + 7) / 8), std::nanf("")), b(b_panel * size_t((n + 15) / 16), std::nanf(""));
        const std::vector<float> x = RandomVector(random, size_t(m) * size_t(k)), w = RandomVector(random, size_t(n) * size_t(k));
        for (int s = 0; s < k; ++s) {
          for (int i = 0; i < m; ++i) a[size_t(i / 8) * a_tile + size_t(s) * a_line + size_t(i % 8)] = x[size_t(i * k + s)];
          for (int j = 0; j < n; ++j) b[size_t(j / 16) * b_panel + size_t(s) * b_line + size_t(j % 16)] = w[size_t(j * k + s)];
        }
        for (const bool accumulate : {false, true}) {
          const std::vector<float> before = RandomVector(random, size_t(m) * ldc);
          std::vector<float> c = before;
          t.gemm_f32(a.data(), a_tile, a_line, b.data(), b_panel, b_line, m, n, k, c.data(), ldc, accumulate);
          for (int i = 0; i < m; ++i) {
            for (int j = 0; j < n; ++j) {
              double exact = accumulate ? double(before[size_t(i) * ldc + size_t(j)]) : 0, magnitude = std::fabs(exact);
              for (int s = 0; s < k; ++s) {
                const double product = double(x[size_t(i * k + s)]) * double(w[size_t(j * k + s)]);
                exact += product;
                magnitude += std::fabs(product);
              }
              EXPECT_NEAR(c[size_t(i) * ldc + size_t(j)], exact, (k + 3) * kEps * magnitude);
            }
            for (size_t j = size_t(n); j < ldc; ++j) EXPECT(c[size_t(i) * ldc + j] == before[size_t(i) * ldc + j]);
          }
        }
      }
    }
  }
}

// Chunked generation must equal one pass: a row's result may not depend on how many rows go with it.
LOWBIT_TEST(ref_results_do_not_depend_on_m) {
  std::mt19937 random(32);
  const KernelTable& t = *RefKernels();
  const int k = 77, n = 20, m = 13;
  const std::vector<float> x = RandomVector(random, size_t(m * k)), b = RandomVector(random, size_t(2 * k * 16));
  std::vector<float> a(size_t((m + 7) / 8 * 8 * k)), all(size_t(m * n)), one(static_cast<size_t>(n));
  t.pack_rows(x.data(), size_t(k), m, k, a.data());
  t.gemm_f32(a.data(), size_t(8 * k), 8, b.data(), size_t(16 * k), 16, m, n, k, all.data(), size_t(n), false);
  for (int i = 0; i < m; ++i) {
    t.pack_rows(x.data() + i * k, size_t(k), 1, k, a.data());
    t.gemm_f32(a.data(), size_t(8 * k), 8, b.data(), size_t(16 * k), 16, 1, n, k, one.data(), size_t(n), false);
    for (int j = 0; j < n; ++j) EXPECT(one[size_t(j)] == all[size_t(i * n + j)]);
  }
  Result<Part> part = RandomPart(random, n, k, 4, 32, AffineKind::kMinimum, false);
  if (!EXPECT(part.ok())) return;
  const Block scratch = std::move(Block::Allocate(kGemmScratchBytes, MemoryClass::kScratch, "test").value());
  Rows rows(m, k, 32, t.gemm_tile, false);
  t.quantize_rows(x.data(), size_t(k), rows.view, 0, 0, m);
  t.affine_gemm(part.value().view, rows.view, all.data(), size_t(n), 0, 2, false, scratch.data());
  for (int i = 0; i < m; ++i) {
    Rows row(1, k, 32, 1, false);
    t.quantize_rows(x.data() + i * k, size_t(k), row.view, 0, 0, 1);
    t.affine_small(part.value().view, row.view, one.data(), size_t(n), 0, 2, false);
    for (int j = 0; j < n; ++j) EXPECT(one[size_t(j)] == all[size_t(i * n + j)]);
  }
}

LOWBIT_TEST(ref_pack_rows) {
  std::mt19937 random(33);
  for (const int rows : {1, 7, 8, 9, 20}) {
    for (const int k : {1, 5, 64}) {
      const size_t ldx = size_t(k) + 3;
      const std::vector<float> x = RandomVector(random, size_t(rows) * ldx);
      std::vector<float> out(size_t((rows + 7) / 8 * 8) * size_t(k), 99);
      RefKernels()->pack_rows(x.data(), ldx, rows, k, out.data());
      for (int i = 0; i < (rows + 7) / 8 * 8; ++i) {
        for (int s = 0; s < k; ++s) EXPECT(out[size_t((i / 8 * k + s) * 8 + i % 8)] == (i < rows ? x[size_t(i) * ldx + size_t(s)] : 0.0f));
      }
    }
  }
}

LOWBIT_TEST(ref_unpack_panel_equals_weight_at) {
  std::mt19937 random(34);
  const auto check = [&](const PackedView& view) {
    const int step = view.kind == PackedKind::kAffine ? 32 : 7;
    for (int panel = 0; panel * 16 < view.n; ++panel) {
      for (int k0 = 0; k0 < view.k; k0 += step) {
        for (const int kc : {view.k - k0, std::min(view.k - k0, 5)}) {
          std::vector<float> out(size_t(kc) * 16 + 1, 99);
          RefKernels()->unpack_panel(view, panel, k0, kc, out.data());
          size_t wrong = out.back() != 99;
          for (int c = 0; c < kc; ++c) {
            for (int r = 0; r < 16; ++r) wrong += out[size_t(c * 16 + r)] != WeightAt(view, panel * 16 + r, k0 + c);
          }
          EXPECT(wrong == 0);
        }
      }
    }
  };
  for (int bits = 1; bits <= 8; ++bits) {
    for (const AffineKind kind : {AffineKind::kSymmetric, AffineKind::kMinimum, AffineKind::kZeroPoint}) {
      for (const int group_size : {16, 32, 64, 4096}) {
        for (const bool f32 : {false, true}) {
          const Result<Part> part = RandomPart(random, 19, 135, bits, group_size, kind, f32);
          if (EXPECT(part.ok())) check(part.value().view);
        }
      }
    }
  }
  std::vector<uint16_t> halves(19 * 45);
  for (uint16_t& half : halves) half = FloatToHalf(Uniform(random));
  const std::vector<float> floats = RandomVector(random, 19 * 45);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const uint8_t* bytes =
        dtype == DType::kF32 ? reinterpret_cast<const uint8_t*>(floats.data()) : reinterpret_cast<const uint8_t*>(halves.data());
    const Result<Part> part = PackDense("w", dtype, bytes, 19, 45, {});
    if (EXPECT(part.ok())) check(part.value().view);
  }
}

LOWBIT_TEST(ref_quantize_rows) {
  std::mt19937 random(35);
  for (const int m : {1, 5, 8, 19}) {
    for (const int k : {1, 32, 70}) {
      for (const int group : {32, 64}) {
        for (const int tile : {m, 8}) {
          const size_t ldx = size_t(k) + 1;
          std::vector<float> x = RandomVector(random, size_t(m) * ldx, 5);
          if (k > 32) std::fill(x.begin() + 32, x.begin() + std::min(k, 64), 0.0f);  // a group of zeros in row 0
          Rows rows(m, k, group, tile, true);
          const int middle = m / 2, zero_code = 8;
          RefKernels()->quantize_rows(x.data(), ldx, rows.view, zero_code, 0, middle);
          RefKernels()->quantize_rows(x.data(), ldx, rows.view, zero_code, middle, m);
          for (int i = 0; i < m; ++i) {
            for (int g = 0; g < rows.view.groups; ++g) {
              const int begin = g * group, end = std::min(begin + group, rows.view.k_padded);
              float maximum = 0;
              for (int c = begin; c < std::min(end, k); ++c) maximum = std::max(maximum, std::fabs(x[size_t(i) * ldx + size_t(c)]));
              const float d = maximum / 127;
              int sum = 0;
              for (int c = begin; c < end; ++c) {
                const int expected = c < k && d > 0 ? static_cast<int>(std::nearbyint(x[size_t(i) * ldx + size_t(c)] / d)) : 0;
                EXPECT(rows.Q(i, c) == expected);
                sum += expected;
              }
              const size_t at = rows.At(i, g, rows.view.groups);
              EXPECT(rows.scale[at] == d);
              EXPECT(rows.scale_sum[at] == d * static_cast<float>(sum));
              EXPECT(rows.bias[at] == -zero_code * sum);
              for (int half = begin / 16; half < end / 16; ++half) {
                int half_sum = 0;
                for (int c = half * 16; c < half * 16 + 16; ++c) half_sum += rows.Q(i, c);
                const size_t half_at = rows.At(i, half, rows.view.k_padded / 16);
                EXPECT(rows.half_scale_sum[half_at] == d * static_cast<float>(half_sum));
                EXPECT(rows.half_bias[half_at] == -zero_code * half_sum);
              }
            }
          }
        }
      }
    }
  }
}

// Ties go to the even integer, extremes to +-127, tiny and non-finite inputs stay in range.
LOWBIT_TEST(ref_quantize_rounding) {
  std::vector<float> x(64, 0);
  const float values[] = {127, -127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, 3.49f};
  const int expected[] = {127, -127, 0, 2, 2, 0, -2, -2, 126, 3};
  std::copy(std::begin(values), std::end(values), x.begin());
  x[32] = 0x1.fp-120f;  // below kLeastMagnitude
  x[33] = 1e-45f;
  Rows rows(1, 64, 32, 1, false);
  RefKernels()->quantize_rows(x.data(), 64, rows.view, 0, 0, 1);
  for (int i = 0; i < 10; ++i) EXPECT(rows.Q(0, i) == expected[i]);
  EXPECT(rows.Q(0, 32) == 0 && rows.Q(0, 33) == 0);
  x[40] = kLeastMagnitude;  // 127 / x is still finite
  x[32] = kLeastMagnitude / 2;
  RefKernels()->quantize_rows(x.data(), 64, rows.view, 0, 0, 1);
  EXPECT(rows.Q(0, 40) == 127 && rows.Q(0, 32) == 64 && rows.Q(0, 33) == 0);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    x[3] = bad;
    RefKernels()->quantize_rows(x.data(), 64, rows.view, 0, 0, 1);
    bool in_range = true;
    for (int c = 0; c < 32; ++c) in_range = in_range && rows.Q(0, c) >= -127 && rows.Q(0, c) <= 127;
    EXPECT(in_range);
  }
}

// y = sum over columns of (scale_x * q) * w, in float64 on the very same q. The kernel rounds per sub-block (three operations, the
// integers inside are exact) and once per addition: gamma over the number of half sub-blocks plus 4.
LOWBIT_TEST(ref_affine_kernels) {
  std::mt19937 random(36);
  const KernelTable& t = *RefKernels();
  const Block scratch = std::move(Block::Allocate(kGemmScratchBytes, MemoryClass::kScratch, "test").value());
  int checked = 0;
  for (int bits = 1; bits <= 8; ++bits) {
    for (const AffineKind kind : {AffineKind::kSymmetric, AffineKind::kMinimum, AffineKind::kZeroPoint}) {
      for (const int group_size : {16, 32, 128, 4096}) {
        for (const auto& [m, n, k] : {std::array<int, 3>{1, 1, 1}, {3, 17, 95}, {8, 40, 288}, {21, 33, 1100}}) {
          if (m > kSmallRows && bits != 4 && bits != 3) continue;
          const bool f32 = random() % 2 == 0;
          const Result<Part> part = RandomPart(random, n, k, bits, group_size, kind, f32);
          if (!EXPECT(part.ok())) continue;
          const PackedView& view = part.value().view;
          const std::vector<float> x = RandomVector(random, size_t(m) * size_t(k));
          const int zero_code = kind == AffineKind::kSymmetric ? 1 << (bits - 1) : 0, group = random() % 2 == 0 ? 32 : 96;
          std::vector<float> weights(size_t(n) * size_t(k));
          for (int j = 0; j < n; ++j) {
            for (int c = 0; c < k; ++c) weights[size_t(j * k + c)] = WeightAt(view, j, c);
          }
          for (const bool small : {true, false}) {
            if (small && m > kSmallRows) continue;
            Rows rows(m, k, group, small ? m : t.gemm_tile, group_size == 16);
            t.quantize_rows(x.data(), size_t(k), rows.view, zero_code, 0, m);
            for (const bool accumulate : {false, true}) {
              const size_t ldy = size_t(n) + 3;
              const std::vector<float> before = RandomVector(random, size_t(m) * ldy);
              std::vector<float> y = before;
              const int panels = (n + 15) / 16, split = panels / 2;
              for (const auto& [p0, p1] : {std::pair<int, int>{0, split}, {split, panels}}) {
                if (small) t.affine_small(view, rows.view, y.data(), ldy, p0, p1, accumulate);
                if (!small) t.affine_gemm(view, rows.view, y.data(), ldy, p0, p1, accumulate, scratch.data());
              }
              for (int i = 0; i < m; ++i) {
                for (int j = 0; j < n; ++j) {
                  double exact = accumulate ? double(before[size_t(i) * ldy + size_t(j)]) : 0, magnitude = std::fabs(exact);
                  for (int c = 0; c < k; ++c) {
                    const double activation = double(rows.scale[rows.At(i, c / group, rows.view.groups)]) * rows.Q(i, c);
                    exact += activation * double(weights[size_t(j * k + c)]);
                    // terms as the kernel forms them: scale * code and minimum may cancel in the weight itself
                    const double minimum = kind == AffineKind::kMinimum ? 1.0 : 0.0;
                    magnitude += std::fabs(activation) * (std::fabs(double(weights[size_t(j * k + c)])) + 2 * minimum);
                  }
                  EXPECT_NEAR(y[size_t(i) * ldy + size_t(j)], exact, (view.k / 16 + 6) * kEps * magnitude);
                  ++checked;
                }
                for (size_t j = size_t(n); j < ldy; ++j) EXPECT(y[size_t(i) * ldy + j] == before[size_t(i) * ldy + j]);
              }
            }
          }
        }
      }
    }
  }
  EXPECT(checked > 100000);
}

LOWBIT_TEST(ref_vectors) {
  std::mt19937 random(37);
  const KernelTable& t = *RefKernels();
  for (const size_t count : {size_t(1), size_t(7), size_t(64), size_t(129)}) {
    const std::vector<float> a = RandomVector(random, count, 8), b = RandomVector(random, count, 2);
    std::vector<float> y(count);
    t.add(a.data(), b.data(), y.data(), count);
    for (size_t i = 0; i < count; ++i) EXPECT(y[i] == a[i] + b[i]);

    // two roundings of x*f and of the product with the weight, one of f itself, one of its square root
    t.rms_norm(a.data(), b.data(), y.data(), count, 1e-5f);
    double squares = 0;
    for (const float value : a) squares += double(value) * double(value);
    const double factor = 1 / std::sqrt(squares / double(count) + double(1e-5f));
    for (size_t i = 0; i < count; ++i) EXPECT_NEAR(y[i], a[i] * factor * b[i], 4 * kEps * std::fabs(a[i] * factor * b[i]));
    std::vector<float> in_place = a;
    t.rms_norm(in_place.data(), b.data(), in_place.data(), count, 1e-5f);
    EXPECT(in_place == y);

    // exp and tanh of the C library are within 2 units, and 1 + exp, the quotient and the product round once each
    t.silu_mul(a.data(), b.data(), y.data(), count);
    for (size_t i = 0; i < count; ++i) {
      const double exact = a[i] / (1 + std::exp(-double(a[i]))) * b[i];
      EXPECT_NEAR(y[i], exact, 8 * kEps * std::fabs(exact));
    }
    // 1 + tanh cancels for negative gates: the error is relative to the gate, not to the result; its argument z adds |z| roundings
    t.gelu_tanh_mul(a.data(), b.data(), y.data(), count);
    for (size_t i = 0; i < count; ++i) {
      const double g = a[i], exact = 0.5 * g * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (g + 0.044715 * g * g * g))) * b[i];
      EXPECT_NEAR(y[i], exact, 16 * kEps * std::fabs(g * b[i]));
    }
    y = a;
    t.softcap(y.data(), count, 3.0f);
    for (size_t i = 0; i < count; ++i) EXPECT_NEAR(y[i], 3 * std::tanh(a[i] / 3.0), 8 * kEps * 3);
    y = a;
    t.scale(y.data(), y.data(), count, 0.3f);
    for (size_t i = 0; i < count; ++i) EXPECT(y[i] == a[i] * 0.3f);
    EXPECT(t.max(a.data(), count) == *std::max_element(a.begin(), a.end()));
    y = a;
    const float maximum = t.max(a.data(), count), sum = t.exp_sum(y.data(), count, maximum);
    double total = 0;
    for (size_t i = 0; i < count; ++i) {
      // the argument is at most 16 and rounds once: relative error of exp up to 16 * eps
      EXPECT_NEAR(y[i], std::exp(double(a[i]) - double(maximum)), 20 * kEps * std::exp(double(a[i]) - double(maximum)));
      total += double(y[i]);
    }
    EXPECT_NEAR(sum, total, 2 * kEps * total);
    std::vector<uint16_t> halves(count);
    t.f32_to_f16(a.data(), halves.data(), count);
    t.f16_to_f32(halves.data(), y.data(), count);
    for (size_t i = 0; i < count; ++i) EXPECT_NEAR(y[i], a[i], std::fabs(a[i]) / 2048 + 1e-7);  // half an f16 unit, or a subnormal
  }
}

LOWBIT_TEST(ref_rope_half) {
  std::mt19937 random(38);
  const size_t half = 17;
  const std::vector<float> x = RandomVector(random, 2 * half), cosines = RandomVector(random, half), sines = RandomVector(random, half);
  std::vector<float> y = x;
  RefKernels()->rope_half(y.data(), cosines.data(), sines.data(), half);
  for (size_t i = 0; i < half; ++i) {
    const double c = cosines[i], s = sines[i], low = x[i], high = x[i + half];
    EXPECT_NEAR(y[i], low * c - high * s, 3 * kEps * (std::fabs(low * c) + std::fabs(high * s)));
    EXPECT_NEAR(y[i + half], high * c + low * s, 3 * kEps * (std::fabs(high * c) + std::fabs(low * s)));
  }
}

LOWBIT_TEST(ref_extremes) {
  const KernelTable& t = *RefKernels();
  const float infinity = std::numeric_limits<float>::infinity();
  float gate[] = {200, -200, 0}, up[] = {1, 1, 1}, y[3];
  t.silu_mul(gate, up, y, 3);
  EXPECT(y[0] == 200 && y[1] == 0 && y[2] == 0);
  t.gelu_tanh_mul(gate, up, y, 3);
  EXPECT(y[0] == 200 && y[1] == 0 && y[2] == 0);
  float scores[] = {-infinity, 0, -infinity};  // a causal mask
  EXPECT(t.max(scores, 3) == 0 && t.exp_sum(scores, 3, 0) == 1 && scores[0] == 0 && scores[1] == 1);
  for (const float bad : {infinity, -infinity, std::nanf("")}) {
    for (const size_t at : {size_t(0), size_t(8), size_t(16)}) {
      std::vector<float> x(17, 1e38f);
      EXPECT(t.all_finite(x.data(), x.size()));
      x[at] = bad;
      EXPECT(!t.all_finite(x.data(), x.size()));
    }
  }
  EXPECT(t.all_finite(nullptr, 0));
}
