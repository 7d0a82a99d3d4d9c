// quantize/coordinate_descent: see coordinate_descent.h. Rows go through in chunks of kGridRows, one per lane. A block of columns is
// descended with its own part of H at hand; what its changes mean for the other columns is one GEMM behind it, as in GPTQ.
#include "quantize/coordinate_descent.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/alloc.h"
#include "quantize/grid.h"
#include "quantize/hessian_tiles.h"

namespace lowbit {
namespace {

constexpr int kColumns = 64;  // per block; a multiple of kRowTile
constexpr size_t kLine = kGridRows;
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to an integer

// One chunk of rows. All arrays are lines of kGridRows.
struct Chunk {
  const QuantizedLinear& q;
  const HessianView& hessian;
  const HessianTiles& tiles;
  const KernelTable& kernels;
  float *codes, *pull;               // [k] codes less zero points; H (w - w_hat): how far a column could still fall
  float* rest;                       // [kColumns] w - w_hat of a block; what its columns changed by
  float *scales, *lowest, *highest;  // [groups]

  static size_t Floats(const QuantizedLinear& q) { return (2 * size_t(q.k) + kColumns + 3 * size_t(q.groups)) * kLine; }

  Chunk(const QuantizedLinear& linear, const HessianView& h, const HessianTiles& packed, const KernelTable& table, float* scratch)
      : q(linear), hessian(h), tiles(packed), kernels(table) {
    codes = scratch;
    pull = codes + size_t(q.k) * kLine;
    rest = pull + size_t(q.k) * kLine;
    scales = rest + kColumns * kLine;
    lowest = scales + size_t(q.groups) * kLine;
    highest = lowest + size_t(q.groups) * kLine;
  }

  void Load(const float* w, int row0, int rows) {
    const float qmax = static_cast<float>((1 << q.bits) - 1);
    std::memset(codes, 0, size_t(q.k) * kLine * sizeof(float));
    for (int g = 0; g < q.groups; ++g) {
      for (int r = 0; r < kGridRows; ++r) {
        const size_t grid = size_t(row0 + std::min(r, rows - 1)) * q.groups + g, at = g * kLine + r;
        scales[at] = q.scales[grid];
        lowest[at] = q.minima.empty() ? -static_cast<float>(q.zeros[grid]) : 0;
        highest[at] = qmax + lowest[at];
      }
    }
    std::memset(pull, 0, size_t(q.k) * kLine * sizeof(float));
    for (int set = 0; set < tiles.sets(); ++set) {
      const int first = set * kColumns, count = static_cast<int>(tiles.columns(set).size());
      std::memset(rest, 0, count * kLine * sizeof(float));
      for (int r = 0; r < rows; ++r) {
        const size_t row = row0 + r;
        for (int i = 0; i < count; ++i) {
          const int c = first + i;
          const size_t at = q.GroupOf(c) * kLine + r;
          const float code = static_cast<float>(q.codes[row * q.k + c]) + lowest[at];
          codes[c * kLine + r] = code;
          const float minimum = q.minima.empty() ? 0 : q.minima[row * q.groups + q.GroupOf(c)];
          rest[i * kLine + r] = w[row * q.k + c] - (scales[at] * code + minimum);
        }
      }
      tiles.Multiply(set, 0, q.k, rest, pull, true, kernels);
    }
  }

  int64_t Sweep() {
    int64_t changes = 0;
    for (int set = 0; set < tiles.sets(); ++set) {
      const int first = set * kColumns, count = static_cast<int>(tiles.columns(set).size()), end = first + count;
      int64_t here = 0;
      for (int i = 0; i < count; ++i) here += Column(first, i, count);
      changes += here;
      if (here == 0) continue;
      if (first > 0) tiles.Multiply(set, 0, first, rest, pull, true, kernels);
      if (end < q.k) tiles.Multiply(set, end, q.k - end, rest, pull + end * kLine, true, kernels);
    }
    return changes;
  }

  // Column first + i of a block: its best codes, and the block's other columns told of the change.
  int Column(int first, int i, int count) {
    const int c = first + i;
    const float* own = hessian.data + size_t(c) * hessian.k;
    float* minus = rest + i * kLine;  // minus the change of w_hat
    std::memset(minus, 0, kLine * sizeof(float));
    if (!(own[c] > 0)) return 0;
    const size_t group = q.GroupOf(c) * kLine;
    const float inverse = 1 / own[c];
    float* code = codes + c * kLine;
    const float* fall = pull + c * kLine;
    int changes = 0;
    for (int r = 0; r < kGridRows; ++r) {
      const float scale = scales[group + r];
      // A scale of 0 (block grids) makes this infinite or NaN, which the bounds below turn into some code; all are equal then.
      float best = code[r] + ((fall[r] * inverse / scale + kRound) - kRound);
      best = best > lowest[group + r] ? best : lowest[group + r];  // NaN becomes the lowest code
      best = best < highest[group + r] ? best : highest[group + r];
      const float change = best - code[r];
      minus[r] = -scale * change;
      changes += change != 0;
      code[r] = best;
    }
    if (changes == 0) return 0;
    for (int j = 0; j < count; ++j) {
      const float h = own[first + j];
      float* line = pull + (first + j) * kLine;
      for (int r = 0; r < kGridRows; ++r) line[r] += h * minus[r];
    }
    return changes;
  }

  void Store(int row0, int rows, uint8_t* out) const {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < q.k; ++c) {
        const float code = codes[c * kLine + r] - lowest[q.GroupOf(c) * kLine + r];
        out[size_t(row0 + r) * q.k + c] = static_cast<uint8_t>(static_cast<int32_t>(code));
      }
    }
  }
};

}  // namespace

Result<int64_t> DescendCodes(QuantizedLinear* q, std::span<const float> w, const HessianView& hessian, int sweeps,
                             const KernelTable& kernels, Pool& pool) {
  std::vector<std::vector<int32_t>> blocks((q->k + kColumns - 1) / kColumns);
  for (int c = 0; c < q->k; ++c) blocks[c / kColumns].push_back(c);
  LOWBIT_ASSIGN_OR_RETURN(const HessianTiles tiles, HessianTiles::Pack(hessian, std::move(blocks), pool));
  const size_t floats = Chunk::Floats(*q);
  LOWBIT_ASSIGN_OR_RETURN(Block scratch,
                          Block::Allocate(floats * pool.threads() * sizeof(float), MemoryClass::kScratch, "coordinate descent"));
  const int chunks = (q->n + kGridRows - 1) / kGridRows;
  std::vector<int64_t> changes(chunks, 0);
  pool.Run(chunks, [&](int index, int worker) {
    Chunk chunk(*q, hessian, tiles, kernels, scratch.as<float>() + worker * floats);
    const int row0 = index * kGridRows, rows = std::min(kGridRows, q->n - row0);
    chunk.Load(w.data(), row0, rows);
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      const int64_t changed = chunk.Sweep();
      changes[index] += changed;
      if (changed == 0) break;
    }
    chunk.Store(row0, rows, q->codes.data());
  });
  int64_t total = 0;
  for (const int64_t count : changes) total += count;
  return total;
}

}  // namespace lowbit
