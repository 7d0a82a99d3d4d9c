// test/native: the bf16 products of every kernel table that has them, against float64 computed from the rounded operands.
// Products of two bf16 values are exact in f32; a block of 128 pairs adds 256 of them one by one and blocks are added up, so a
// result differs from the exact one by at most about (256 + blocks + 2) * 2^-24 times the sum of magnitudes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/half.h"
#include "check.h"
#include "kernel/chooser.h"
#include "kernel_tables.h"
#include "part/part.h"

using namespace lowbit;
using namespace lowbit_test;

namespace {

// The tables with bf16 products: those the chooser yields here.
std::vector<const KernelTable*> Bf16Tables() {
  std::vector<const KernelTable*> tables;
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    const auto table = ChooseKernels(IsaName(candidate.isa));
    EXPECT(table.ok());
    if (table.ok() && table.value()->gemm_bf16 != nullptr) tables.push_back(table.value());
  }
  static KernelTable emulated;
  if (HasEmulatedAmx() && Cpu().avx512_bf16) {
    emulated = *ChooseKernels("avx512").value();
    EmulateAmxBf16(&emulated);
    tables.push_back(&emulated);
  }
  return tables;
}

double Rounded(float value) { return double(Bfloat16ToFloat(FloatToBfloat16(value))); }

size_t Pairs(int k) { return size_t(k + 1) / 2; }
size_t PanelValues(int rows, int k) { return size_t((rows + 15) / 16) * Pairs(k) * 32; }

void CheckGemm(const KernelTable& t, std::mt19937& random, int m, int n, int k, bool accumulate, bool integers) {
  const auto value = [&] { return integers ? float(int(random() % 17) - 8) : Uniform(random) * (random() % 53 == 0 ? 1000.0f : 1.0f); };
  std::vector<float> x(size_t(m) * size_t(k)), w(size_t(n) * size_t(k));
  for (float& v : x) v = value();
  for (float& v : w) v = value();
  std::vector<uint16_t> a(PanelValues(m, k), 0x7fc0), b(PanelValues(n, k), 0x7fc0);  // stale NaN everywhere
  t.pack_rows_bf16(x.data(), size_t(k), m, k, a.data());
  t.pack_rows_bf16(w.data(), size_t(k), n, k, b.data());
  const size_t ldc = size_t(n) + 5, stride = Pairs(k) * 32;
  std::vector<float> before(size_t(m) * ldc, kGuard);
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) before[size_t(i) * ldc + 2 + size_t(j)] = accumulate ? value() : std::nanf("");
  std::vector<float> c = before;
  t.gemm_bf16(a.data(), stride, b.data(), stride, m, n, int(Pairs(k)), c.data() + 2, ldc, accumulate);
  bool ok = true, guarded = true;
  for (int i = 0; i < m; ++i)
    for (size_t j = 0; j < ldc; ++j) {
      const size_t at = size_t(i) * ldc + j;
      if (j < 2 || j >= size_t(n) + 2) {
        guarded = guarded && c[at] == kGuard;
        continue;
      }
      double sum = accumulate ? double(before[at]) : 0, magnitude = std::fabs(sum);
      for (int s = 0; s < k; ++s) {
        const double product = Rounded(x[size_t(i) * size_t(k) + size_t(s)]) * Rounded(w[(j - 2) * size_t(k) + size_t(s)]);
        sum += product;
        magnitude += std::fabs(product);
      }
      const double roundings = std::min(k, 256) + k / 256 + 2;
      ok = ok && Close(double(c[at]), sum, integers ? 0 : roundings * kEps * magnitude);
    }
  const std::string name = "gemm_bf16 m " + std::to_string(m) + ", n " + std::to_string(n) + ", k " + std::to_string(k);
  Report(ok, t, name);
  Report(guarded, t, name + ": neighbours");
}

}  // namespace

LOWBIT_TEST(Bf16GemmMatchesDouble) {
  const int ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64};
  const int ns[] = {1, 15, 16, 17, 33, 47, 48, 49, 100, 192};
  const int ks[] = {1, 2, 3, 31, 32, 33, 255, 256, 257, 576, 700};
  for (const KernelTable* t : Bf16Tables()) {
    std::mt19937 random(11);
    int turn = 0;
    for (const int m : ms)
      for (const int k : ks) {
        CheckGemm(*t, random, m, ns[size_t(turn) % 10], k, turn % 2 == 1, false);
        ++turn;
      }
    for (const int n : ns) {
      CheckGemm(*t, random, 33, n, 65, false, true);
      CheckGemm(*t, random, 8, n, 512, true, true);
    }
    CheckGemm(*t, random, 3, 5, 0, false, true);  // no columns: zero
  }
}

LOWBIT_TEST(amx_uses_tiles_of_bf16_as_allowed) {
  if (!HasEmulatedAmx() || !Cpu().avx512_bf16) return;
  TileFaults() = 0;
  std::mt19937 random(3);
  KernelTable emulated = *ChooseKernels("avx512").value();
  EmulateAmxBf16(&emulated);
  for (const int m : {1, 16, 33, 70}) CheckGemm(emulated, random, m, 101 - m, 300 + m, m % 2 == 0, false);
  EXPECT(TileFaults() == 0);
  EXPECT(!TilesInUse());  // given back
}

LOWBIT_TEST(Bf16GemmRowsDoNotDependOnTheirNeighbours) {
  for (const KernelTable* t : Bf16Tables()) {
    const int m = 37, n = 70, k = 300;
    std::mt19937 random(5);
    const std::vector<float> x = RandomVector(random, size_t(m) * k), w = RandomVector(random, size_t(n) * k);
    std::vector<uint16_t> a(PanelValues(m, k)), b(PanelValues(n, k)), one(PanelValues(1, k));
    t->pack_rows_bf16(x.data(), k, m, k, a.data());
    t->pack_rows_bf16(w.data(), k, n, k, b.data());
    const size_t stride = Pairs(k) * 32;
    std::vector<float> all(size_t(m) * n), row(n);
    t->gemm_bf16(a.data(), stride, b.data(), stride, m, n, int(Pairs(k)), all.data(), n, false);
    bool same = true;
    for (int i = 0; i < m; ++i) {
      t->pack_rows_bf16(x.data() + size_t(i) * k, k, 1, k, one.data());
      t->gemm_bf16(one.data(), stride, b.data(), stride, 1, n, int(Pairs(k)), row.data(), n, false);
      same = same && std::memcmp(row.data(), all.data() + size_t(i) * n, size_t(n) * sizeof(float)) == 0;
    }
    Report(same, *t, "gemm_bf16 row by row");
  }
}

LOWBIT_TEST(Bf16PackingRoundsAndPads) {
  for (const KernelTable* t : Bf16Tables()) {
    std::mt19937 random(3);
    for (const int rows : {1, 2, 7, 16, 17, 40}) {
      for (const int k : {1, 2, 15, 16, 17, 31, 32, 33, 100}) {
        const size_t ldx = size_t(k) + 3;
        std::vector<float> x = RandomVector(random, size_t(rows) * ldx, 1e6f);
        x[0] = 1 + 0x1p-8f;  // half way: to even, 1
        if (k > 1) x[1] = 1 + 3 * 0x1p-8f;
        if (k > 2) x[2] = 3.0e38f;
        const auto code = [&](int row, int column) {
          return row < rows && column < k ? FloatToBfloat16(x[size_t(row) * ldx + size_t(column)]) : uint16_t(0);
        };
        bool ok = true;
        std::vector<uint16_t> out(PanelValues(rows, k) + 1, 0x1234);
        t->pack_rows_bf16(x.data(), ldx, rows, k, out.data());
        for (size_t p = 0; p < size_t(rows + 15) / 16; ++p)
          for (size_t s = 0; s < 2 * Pairs(k); ++s)
            for (size_t r = 0; r < 16; ++r) ok = ok && out[(p * Pairs(k) + s / 2) * 32 + r * 2 + s % 2] == code(int(p * 16 + r), int(s));
        Report(ok && out.back() == 0x1234, *t, "pack_rows_bf16 " + std::to_string(rows) + " x " + std::to_string(k));

        ok = true;
        std::vector<const float*> pointers;
        for (int r = 0; r < rows; ++r) pointers.push_back(x.data() + size_t(r) * ldx);
        const size_t stride = Pairs(rows) * 32 + 32;  // a spare line behind every panel
        const size_t panels = size_t(k + 15) / 16;
        out.assign(panels * stride, 0x1234);
        t->pack_columns_bf16(pointers.data(), rows, k, out.data(), stride);
        for (size_t p = 0; p < panels; ++p)
          for (size_t line = 0; line <= Pairs(rows); ++line)
            for (size_t lane = 0; lane < 32; ++lane) {
              const uint16_t expected = line == Pairs(rows) ? uint16_t(0x1234) : code(int(2 * line + lane % 2), int(p * 16 + lane / 2));
              ok = ok && out[p * stride + line * 32 + lane] == expected;
            }
        Report(ok, *t, "pack_columns_bf16 " + std::to_string(rows) + " x " + std::to_string(k));
      }
    }
  }
}

LOWBIT_TEST(Bf16UnpackRoundsTheExactWeight) {
  for (const KernelTable* t : Bf16Tables()) {
    std::mt19937 random(9);
    const auto check = [&](const Part& part, int n, int k, int from, const std::string& what) {
      bool ok = true;
      for (int panel = 0; panel * 16 < n; ++panel) {
        std::vector<uint16_t> out(Pairs(k - from) * 32 + 1, 0x1234);
        std::vector<float> lines(size_t(k - from) * 16);
        t->unpack_panel_bf16(part.view, panel, from, k - from, out.data());
        RefKernels()->unpack_panel(part.view, panel, from, k - from, lines.data());
        for (size_t s = 0; s < 2 * Pairs(k - from); ++s)
          for (size_t r = 0; r < 16; ++r) {
            const uint16_t expected = s < size_t(k - from) ? FloatToBfloat16(lines[s * 16 + r]) : uint16_t(0);
            ok = ok && (out[(s / 2) * 32 + r * 2 + s % 2] & 0x7fff) == (expected & 0x7fff) &&
                 (expected == 0x8000 || out[(s / 2) * 32 + r * 2 + s % 2] == expected);
          }
        ok = ok && out.back() == 0x1234;
      }
      Report(ok, *t, "unpack_panel_bf16 " + what);
    };
    for (const int k : {1, 33, 96, 160, 289}) {
      const int n = 19;
      const std::vector<float> values = RandomVector(random, size_t(n) * size_t(k));
      std::vector<uint16_t> half(values.size()), brain(values.size());
      for (size_t i = 0; i < values.size(); ++i) {
        half[i] = FloatToHalf(values[i]);
        brain[i] = FloatToBfloat16(values[i]);
      }
      const std::pair<DType, const void*> dense[] = {
          {DType::kF32, values.data()}, {DType::kF16, half.data()}, {DType::kBF16, brain.data()}};
      for (const auto& [dtype, data] : dense) {
        const auto part = PackDense("w", dtype, static_cast<const uint8_t*>(data), n, k, RowMap());
        EXPECT(part.ok());
        if (!part.ok()) continue;
        check(part.value(), n, k, 0, std::string(Info(dtype).name) + ", k " + std::to_string(k));
        if (k > 34) check(part.value(), n, k, 34, std::string(Info(dtype).name) + " from 34, k " + std::to_string(k));
      }
      for (int bits = 1; bits <= 8; ++bits) {
        const int group = bits % 2 == 0 ? 32 : 128, groups = (k + group - 1) / group;
        std::vector<uint8_t> codes(values.size());
        for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
        std::vector<float> scales(size_t(n) * size_t(groups)), seconds;
        for (float& scale : scales) scale = HalfToFloat(FloatToHalf(Uniform(random)));
        const AffineKind kind = static_cast<AffineKind>(bits % 3);
        if (kind != AffineKind::kSymmetric)
          for (size_t i = 0; i < scales.size(); ++i) seconds.push_back(float(random() % (1u << bits)));
        const auto part = PackAffine("w", {n, k, bits, group, kind, false, codes, scales, seconds});
        EXPECT(part.ok());
        if (!part.ok()) continue;
        check(part.value(), n, k, 0, std::to_string(bits) + " bits, k " + std::to_string(k));
        if (k > 64) check(part.value(), n, k, 64, std::to_string(bits) + " bits from 64, k " + std::to_string(k));
      }
    }
  }
}
