// quantize/gptq_core: GPTQ (Frantar et al. 2022), algorithm 1, on row chunks.
// Rows of W are independent given U. A task owns kGridRows rows, transposed ([k][kGridRows]), and runs the whole column
// loop on them: work is cut by shape alone, so the result does not depend on the number of threads. Inside a block of
// block_size columns, updates go through sub-blocks of kInner columns (one column at a time inside, a GEMM between);
// behind a block one GEMM updates all columns that are left ("lazy batch updates", section 3 step 2 of the paper).
#include "quantize/gptq_core.h"

#include <algorithm>
#include <cstring>

#include "solve/pack.h"

namespace lowbit {
namespace {

constexpr int kInner = 32;

struct Task {
  const GptqProblem& problem;
  const PackedFactor& factor;
  const KernelTable& kernels;
  const float* importance;  // of the steps
  QuantizedLinear* q;
  int row0, rows;
  // Scratch of this worker, lines of kGridRows:
  float* weights;  // [k] in solving order; updated behind whole blocks only
  float* block;    // [block_size] the columns being solved
  float* errors;   // [block_size] minus the scaled errors
  float* scales;   // [groups] as stored
  float* fitted;   // [groups] as codes are chosen by, before rounding
  float* zeros;    // [groups]
  float* minima;   // [groups] of grids that have them, in place of zeros
  uint8_t* codes;  // [k]

  void LoadWeights() {
    const int k = q->k;
    const float* w = problem.w.data() + size_t(row0) * k;
    LoadTile(w, k, rows, problem.order.data(), 0, k, weights);
    for (int p = 0; p < k; ++p)
      if (problem.dead[problem.order[p]]) std::fill(weights + size_t(p) * kGridRows, weights + size_t(p + 1) * kGridRows, 0.0f);
  }

  // Grids of all groups from the original columns; `weights` serves as scratch and is loaded afterwards.
  void FitStaticGroups() {
    const int k = q->k;
    for (int group = 0; group < q->groups; ++group) {
      const int first = group * q->group_size, count = std::min(q->group_size, k - first);
      LoadTile(problem.w.data() + size_t(row0) * k, k, rows, nullptr, first, count, weights);
      for (int c = 0; c < count; ++c)
        if (problem.dead[first + c]) std::fill(weights + size_t(c) * kGridRows, weights + size_t(c + 1) * kGridRows, 0.0f);
      const size_t at = size_t(group) * kGridRows;
      FitGrid(weights, count, problem.rule, scales + at, zeros + at, fitted + at,
              problem.importance == nullptr ? nullptr : problem.importance + first);
    }
  }

  // Grids that q brought along. Lanes beyond the last row repeat it.
  void LoadGrids() {
    for (int group = 0; group < q->groups; ++group) {
      for (int r = 0; r < kGridRows; ++r) {
        const size_t from = size_t(row0 + std::min(r, rows - 1)) * q->groups + group, at = size_t(group) * kGridRows + r;
        scales[at] = fitted[at] = q->scales[from];
        zeros[at] = static_cast<float>(q->zeros[from]);
        minima[at] = q->minima.empty() ? 0 : q->minima[from];
      }
    }
  }

  // Solves step p = i1 + i of the block, whose column has received all updates. Adds to loss[kGridRows].
  void SolveColumn(int i1, int i, double* loss) {
    const int p = i1 + i, group = (problem.groups_by_step ? p : problem.order[p]) / q->group_size;
    float* scale = scales + size_t(group) * kGridRows;
    float* zero = zeros + size_t(group) * kGridRows;
    float* fit = fitted + size_t(group) * kGridRows;
    if (!problem.static_groups && !problem.fixed_grids && p % q->group_size == 0) {
      // As in the reference code the grid is fitted on W, not on the block's copy: a group that starts inside a block
      // does not see the updates of that block. Fitting on fresh values is not better in general (late groups widen).
      FitGrid(weights + size_t(p) * kGridRows, std::min(q->group_size, q->k - p), problem.rule, scale, zero, fit,
              importance == nullptr ? nullptr : importance + p);
    }
    float* w = block + size_t(i) * kGridRows;
    float* error = errors + size_t(i) * kGridRows;
    float w_hat[kGridRows];
    if (q->minima.empty())
      QuantizeColumn(w, fit, problem.rule.classic ? fit : scale, zero, problem.rule.bits, codes + size_t(p) * kGridRows, w_hat);
    else
      QuantizeAffineColumn(w, scale, minima + size_t(group) * kGridRows, problem.rule.bits, codes + size_t(p) * kGridRows, w_hat);
    const float pivot = factor.Square(i1)[size_t(i) * factor.Rows(i1) + i];
    for (int r = 0; r < kGridRows; ++r) {
      error[r] = (w_hat[r] - w[r]) / pivot;
      loss[r] += static_cast<double>(error[r]) * error[r];
    }
  }

  double Solve() {
    const int k = q->k;
    if (problem.fixed_grids)
      LoadGrids();
    else if (problem.static_groups)
      FitStaticGroups();
    LoadWeights();
    double loss[kGridRows] = {};
    for (int i1 = 0; i1 < k; i1 += problem.block_size) {
      const int count = factor.Rows(i1), i2 = i1 + count;
      const float* square = factor.Square(i1);
      std::memcpy(block, weights + size_t(i1) * kGridRows, size_t(count) * kGridRows * sizeof(float));
      for (int a = 0; a < count; a += kInner) {
        const int b = std::min(count, a + kInner);
        for (int i = a; i < b; ++i) {
          float* w = block + size_t(i) * kGridRows;
          for (int s = a; s < i; ++s) {
            const float u = square[size_t(s) * count + i];
            const float* error = errors + size_t(s) * kGridRows;
            for (int r = 0; r < kGridRows; ++r) w[r] += error[r] * u;
          }
          SolveColumn(i1, i, loss);
        }
        if (b < count) {
          kernels.gemm_f32(square + size_t(a) * count + b, kRowTile, count, errors + size_t(a) * kGridRows, kPanelRows, kGridRows,
                           count - b, kGridRows, b - a, block + size_t(b) * kGridRows, kGridRows, true);
        }
      }
      if (i2 < k) {
        kernels.gemm_f32(factor.Tiles(i1), size_t(count) * kRowTile, kRowTile, errors, kPanelRows, kGridRows, k - i2, kGridRows, count,
                         weights + size_t(i2) * kGridRows, kGridRows, true);
      }
    }
    double sum = 0;
    for (int r = 0; r < rows; ++r) sum += loss[r];
    return sum;
  }

  void Store() {
    const int k = q->k;
    for (int r = 0; r < rows; ++r) {
      uint8_t* out = q->codes.data() + size_t(row0 + r) * k;
      for (int p = 0; p < k; ++p) out[problem.order[p]] = codes[size_t(p) * kGridRows + r];
      for (int group = 0; group < q->groups && !problem.fixed_grids; ++group) {
        q->scales[size_t(row0 + r) * q->groups + group] = scales[size_t(group) * kGridRows + r];
        q->zeros[size_t(row0 + r) * q->groups + group] = static_cast<uint8_t>(zeros[size_t(group) * kGridRows + r]);
      }
    }
  }
};

}  // namespace

int PackedFactor::Rows(int i1) const { return std::min(block_, k_ - i1); }

const float* PackedFactor::Square(int i1) const {
  const int rows = Rows(i1);
  return Tiles(i1) + TileFloats(rows, k_ - i1 - rows);
}

Result<PackedFactor> PackedFactor::Pack(Block u, int k, int block) {
  PackedFactor factor;
  factor.k_ = k;
  factor.block_ = std::min(block, k);
  LOWBIT_ASSIGN_OR_RETURN(Block copy,
                          Block::Allocate(size_t(factor.block_) * k * sizeof(float), MemoryClass::kScratch, "the inverse Hessian"));
  float* rows_copy = copy.as<float>();
  // Last block first: packed blocks are a little longer than dense ones and grow into space that is already free.
  for (int i1 = (k - 1) / factor.block_ * factor.block_; i1 >= 0; i1 -= factor.block_) {
    const int rows = std::min(factor.block_, k - i1), i2 = i1 + rows;
    std::memcpy(rows_copy, u.as<float>() + size_t(i1) * k, size_t(rows) * k * sizeof(float));
    float* tiles = u.as<float>() + size_t(i1) * (k + kRowTile);
    PackColumnTiles(rows_copy + i2, k, rows, k - i2, tiles);
    float* square = tiles + TileFloats(rows, k - i2);
    for (int i = 0; i < rows; ++i) std::memcpy(square + size_t(i) * rows, rows_copy + size_t(i) * k + i1, rows * sizeof(float));
  }
  factor.u_ = std::move(u);
  return factor;
}

Result<double> SolveGptq(const GptqProblem& problem, const PackedFactor& factor, const KernelTable& kernels, Pool& pool,
                         QuantizedLinear* q) {
  const int chunks = (q->n + kGridRows - 1) / kGridRows;
  const size_t line = kGridRows, block = std::min(problem.block_size, q->k);
  const size_t floats = line * (q->k + 2 * block + 4 * size_t(q->groups));
  const size_t task_bytes = floats * sizeof(float) + line * q->k;
  LOWBIT_ASSIGN_OR_RETURN(Block scratch, Block::Allocate(task_bytes * pool.threads(), MemoryClass::kScratch, "GPTQ row chunks"));
  std::vector<float> importance;  // by step
  for (int p = 0; problem.importance != nullptr && p < q->k; ++p) importance.push_back(problem.importance[problem.order[p]]);
  std::vector<double> losses(chunks);
  pool.Run(chunks, [&](int chunk, int worker) {
    float* base = reinterpret_cast<float*>(scratch.data() + worker * task_bytes);
    Task task{problem,
              factor,
              kernels,
              importance.empty() ? nullptr : importance.data(),
              q,
              chunk * kGridRows,
              std::min(kGridRows, q->n - chunk * kGridRows),
              base,
              nullptr,
              nullptr,
              nullptr,
              nullptr,
              nullptr,
              nullptr,
              nullptr};
    task.block = task.weights + line * q->k;
    task.errors = task.block + line * block;
    task.scales = task.errors + line * block;
    task.fitted = task.scales + line * q->groups;
    task.zeros = task.fitted + line * q->groups;
    task.minima = task.zeros + line * q->groups;
    task.codes = reinterpret_cast<uint8_t*>(task.minima + line * q->groups);
    losses[chunk] = task.Solve();
    task.Store();
  });
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return sum;
}

}  // namespace lowbit
