// quantize/refit_scales: see refit_scales.h. Rows go through in chunks of kGridRows, one per lane, so that every loop runs across rows.
#include "quantize/refit_scales.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/alloc.h"
#include "quantize/grid.h"
#include "quantize/hessian_tiles.h"

namespace lowbit {
namespace {

constexpr int kColumns = 128;    // columns of H per GEMM call
constexpr float kRidge = 1e-6f;  // least pivot, as a share of its diagonal: groups may be nearly dependent
constexpr size_t kLine = kGridRows;

// Lower triangles by rows: element (i, j <= i) of every lane.
size_t At(int i, int j) { return (size_t(i) * (i + 1) / 2 + j) * kLine; }

// One chunk of rows. All arrays are lines of kGridRows.
struct Chunk {
  const QuantizedLinear& q;
  const HessianTiles& groups;
  const KernelTable& kernels;
  float *codes, *rest;       // [k] codes less zero points; w - w_hat
  float *operand, *product;  // [group_size] codes of one group; [kColumns] H times them
  float *normal, *factor;    // [At(groups, 0)] C H C^T and its factor
  float *right, *step;       // [groups] C H rest^T, and the change of the scales

  static size_t Floats(const QuantizedLinear& q, int largest) {
    return (2 * size_t(q.k) + largest + kColumns + 2 * size_t(q.groups)) * kLine + 2 * At(q.groups, 0);
  }
  Chunk(const QuantizedLinear& linear, const HessianTiles& all, const KernelTable& table, float* scratch)
      : q(linear), groups(all), kernels(table) {
    codes = scratch;
    rest = codes + size_t(q.k) * kLine;
    operand = rest + size_t(q.k) * kLine;
    product = operand + size_t(all.largest()) * kLine;
    right = product + kColumns * kLine;
    step = right + size_t(q.groups) * kLine;
    normal = step + size_t(q.groups) * kLine;
    factor = normal + At(q.groups, 0);
  }

  void Load(const float* w, int row0, int rows) {
    if (rows < kGridRows) std::memset(codes, 0, 2 * size_t(q.k) * kLine * sizeof(float));
    for (int r = 0; r < rows; ++r) {
      const size_t row = row0 + r;
      for (int c = 0; c < q.k; ++c) {
        const size_t grid = row * q.groups + q.GroupOf(c);
        const bool minima = !q.minima.empty();
        const float code = static_cast<float>(int(q.codes[row * q.k + c]) - (minima ? 0 : int(q.zeros[grid])));
        codes[size_t(c) * kLine + r] = code;
        rest[size_t(c) * kLine + r] = w[row * q.k + c] - (q.scales[grid] * code + (minima ? q.minima[grid] : 0));
      }
    }
  }

  // normal and right: for each group H times its codes, a few columns of H at a time, and the products of those lines.
  void Multiply() {
    std::memset(normal, 0, At(q.groups, 0) * sizeof(float));
    std::memset(right, 0, size_t(q.groups) * kLine * sizeof(float));
    for (int g = 0; g < q.groups; ++g) {
      const std::vector<int32_t>& columns = groups.columns(g);
      const int count = static_cast<int>(columns.size());
      for (int s = 0; s < count; ++s) std::memcpy(operand + s * kLine, codes + size_t(columns[s]) * kLine, kLine * sizeof(float));
      for (int c0 = 0; c0 < q.k; c0 += kColumns) {
        const int lines = std::min(kColumns, q.k - c0);
        groups.Multiply(g, c0, lines, operand, product, false, kernels);
        AddLines(g, c0, lines);
      }
    }
  }
  void AddLines(int g, int c0, int lines) {
    for (int first = 0, end; first < lines; first = end) {
      const int other = q.GroupOf(c0 + first);
      for (end = first + 1; end < lines && q.GroupOf(c0 + end) == other;) ++end;
      float dots[kGridRows] = {}, rests[kGridRows] = {};
      for (int c = first; c < end; ++c) {
        const float* p = product + c * kLine;
        const float* code = codes + size_t(c0 + c) * kLine;
        const float* left = rest + size_t(c0 + c) * kLine;
        for (int r = 0; r < kGridRows; ++r) {
          dots[r] += p[r] * code[r];
          rests[r] += p[r] * left[r];
        }
      }
      for (int r = 0; r < kGridRows; ++r) right[g * kLine + r] += rests[r];
      if (other > g) continue;  // by symmetry the other half
      for (int r = 0; r < kGridRows; ++r) normal[At(g, other) + r] += dots[r];
    }
  }

  // step = normal^-1 right by a Cholesky factorisation per lane. A group whose codes are all zero keeps its scale.
  void Solve() {
    const int n = q.groups;
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j <= i; ++j) {
        float sum[kGridRows];
        std::memcpy(sum, normal + At(i, j), sizeof(sum));
        for (int p = 0; p < j; ++p) {
          const float *a = factor + At(i, p), *b = factor + At(j, p);
          for (int r = 0; r < kGridRows; ++r) sum[r] -= a[r] * b[r];
        }
        float* out = factor + At(i, j);
        if (j < i) {
          const float* pivot = factor + At(j, j);
          for (int r = 0; r < kGridRows; ++r) out[r] = sum[r] / pivot[r];
        } else {
          const float* whole = normal + At(i, i);
          for (int r = 0; r < kGridRows; ++r) {
            const float least = whole[r] > 0 ? kRidge * whole[r] : 1.0f;
            out[r] = std::sqrt(sum[r] > least ? sum[r] : least);
          }
        }
      }
    }
    std::memcpy(step, right, size_t(n) * kLine * sizeof(float));
    for (int i = 0; i < n; ++i) {
      for (int p = 0; p < i; ++p) SubtractProduct(factor + At(i, p), step + p * kLine, step + i * kLine);
      Divide(factor + At(i, i), step + i * kLine);
    }
    for (int i = n - 1; i >= 0; --i) {
      for (int p = i + 1; p < n; ++p) SubtractProduct(factor + At(p, i), step + p * kLine, step + i * kLine);
      Divide(factor + At(i, i), step + i * kLine);
    }
  }
  static void SubtractProduct(const float* a, const float* b, float* out) {
    for (int r = 0; r < kGridRows; ++r) out[r] -= a[r] * b[r];
  }
  static void Divide(const float* by, float* out) {
    for (int r = 0; r < kGridRows; ++r) out[r] /= by[r];
  }

  // Scales of row `row`, lane r: new ones where they, as stored, lower the error. Whether they did.
  bool Store(size_t row, int r, float* scales) const {
    double change = 0;  // of the error: d normal d^T - 2 d right^T
    std::vector<double> moved(q.groups);
    for (int g = 0; g < q.groups; ++g) {
      const float old = q.scales[row * q.groups + g];
      scales[g] = RoundScale(old + step[g * kLine + r]);
      moved[g] = double(scales[g]) - old;
    }
    for (int i = 0; i < q.groups; ++i) {
      double product = 0;
      for (int j = 0; j < i; ++j) product += 2 * moved[j] * normal[At(i, j) + r];
      product += moved[i] * normal[At(i, i) + r];
      change += moved[i] * (product - 2 * right[i * kLine + r]);
    }
    return change < 0;
  }
};

}  // namespace

Result<int> RefitScales(QuantizedLinear* q, std::span<const float> w, const HessianView& hessian, const KernelTable& kernels, Pool& pool) {
  std::vector<std::vector<int32_t>> columns(q->groups);
  for (int c = 0; c < q->k; ++c) columns[q->GroupOf(c)].push_back(c);
  LOWBIT_ASSIGN_OR_RETURN(const HessianTiles groups, HessianTiles::Pack(hessian, std::move(columns), pool));
  const size_t floats = Chunk::Floats(*q, groups.largest());
  LOWBIT_ASSIGN_OR_RETURN(Block scratch,
                          Block::Allocate(floats * pool.threads() * sizeof(float), MemoryClass::kScratch, "the refit of scales"));
  const int chunks = (q->n + kGridRows - 1) / kGridRows;
  std::vector<int> improved(chunks, 0);
  pool.Run(chunks, [&](int index, int worker) {
    Chunk chunk(*q, groups, kernels, scratch.as<float>() + worker * floats);
    const int row0 = index * kGridRows, rows = std::min(kGridRows, q->n - row0);
    chunk.Load(w.data(), row0, rows);
    chunk.Multiply();
    chunk.Solve();
    std::vector<float> scales(q->groups);
    for (int r = 0; r < rows; ++r) {
      if (!chunk.Store(row0 + r, r, scales.data())) continue;
      std::copy(scales.begin(), scales.end(), q->scales.begin() + (size_t(row0) + r) * q->groups);
      ++improved[index];
    }
  });
  int total = 0;
  for (const int count : improved) total += count;
  return total;
}

}  // namespace lowbit
