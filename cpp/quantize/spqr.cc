// quantize/spqr: see spqr.h. Rows in chunks of kGridRows as in gptq_core.cc, three tiles of 16 that share second-level steps; inside a
// block of columns, updates go group by group, so that a group's grid sees all of them.
#include "quantize/spqr.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/half.h"
#include "quantize/damping.h"
#include "quantize/gptq_core.h"
#include "quantize/order.h"
#include "quantize/spqr_grid.h"

namespace lowbit {
namespace {

constexpr int kBlock = 128;  // columns per lazy update

struct Problem {
  std::span<const float> w;
  const std::vector<int32_t>& order;
  const HessianDiagonal& diagonal;
  bool groups_by_step;
  int bits;
  bool coded;
  double threshold;  // infinity = no outliers
};

struct Outlier {
  int32_t column;
  float value;
};

class Task {
 public:
  Task(const Problem& problem, const PackedFactor& factor, const KernelTable& kernels, AffineCodes* out, int n, int k, int row0,
       std::vector<std::vector<Outlier>>* outliers, float* scratch)
      : p_(problem),
        factor_(factor),
        kernels_(kernels),
        out_(out),
        outliers_(outliers),
        k_(k),
        row0_(row0),
        rows_(std::min(kGridRows, n - row0)),
        weights_(scratch),
        block_(weights_ + size_t(k) * kGridRows),
        errors_(block_ + size_t(kBlock) * kGridRows) {}

  static size_t Floats(int k) { return (size_t(k) + 2 * kBlock) * kGridRows; }

  double Solve() {
    Load();
    double loss = 0;
    for (int i1 = 0; i1 < k_; i1 += kBlock) {
      const int count = factor_.Rows(i1), i2 = i1 + count;
      const float* square = factor_.Square(i1);
      std::memcpy(block_, weights_ + size_t(i1) * kGridRows, size_t(count) * kGridRows * sizeof(float));
      for (int a = 0; a < count; a += kSpqrGroup) {
        const int b = std::min(count, a + kSpqrGroup);
        loss += SolveGroup(i1, a, b, square, count);
        if (b < count) {
          kernels_.gemm_f32(square + size_t(a) * count + b, kRowTile, count, errors_ + size_t(a) * kGridRows, kPanelRows, kGridRows,
                            count - b, kGridRows, b - a, block_ + size_t(b) * kGridRows, kGridRows, true);
        }
      }
      if (i2 < k_) {
        kernels_.gemm_f32(factor_.Tiles(i1), size_t(count) * kRowTile, kRowTile, errors_, kPanelRows, kGridRows, k_ - i2, kGridRows, count,
                          weights_ + size_t(i2) * kGridRows, kGridRows, true);
      }
    }
    return loss;
  }

 private:
  void Load() {
    LoadTile(p_.w.data() + size_t(row0_) * k_, k_, rows_, p_.order.data(), 0, k_, weights_);
    for (int s = 0; s < k_; ++s)
      if (p_.diagonal.dead[p_.order[s]]) std::fill(weights_ + size_t(s) * kGridRows, weights_ + size_t(s + 1) * kGridRows, 0.0f);
  }

  // Steps [a, b) of the block at i1, one group, which have received the updates of all before them.
  double SolveGroup(int i1, int a, int b, const float* square, int count) {
    float pivots[kSpqrGroup];
    for (int i = a; i < b; ++i) pivots[i - a] = square[size_t(i) * count + i];
    SpqrGrid grid;
    FitSpqrGrid(block_ + size_t(a) * kGridRows, b - a, rows_, p_.bits, pivots, p_.threshold, p_.coded, &grid);
    StoreGrid((p_.groups_by_step ? i1 + a : p_.order[i1 + a]) / kSpqrGroup, grid);
    double loss = 0;
    for (int i = a; i < b; ++i) {
      float* w = block_ + size_t(i) * kGridRows;
      for (int s = a; s < i; ++s) {
        const float u = square[size_t(s) * count + i];
        const float* error = errors_ + size_t(s) * kGridRows;
        for (int r = 0; r < kGridRows; ++r) w[r] += error[r] * u;
      }
      loss += SolveColumn(p_.order[i1 + i], w, grid, pivots[i - a], errors_ + size_t(i) * kGridRows);
    }
    return loss;
  }

  double SolveColumn(int column, const float* w, const SpqrGrid& grid, float pivot, float* error) {
    uint8_t codes[kGridRows];
    float w_hat[kGridRows];
    QuantizeOnMinimum(w, grid.scale, grid.minimum, p_.bits, codes, w_hat);
    double loss = 0;
    for (int r = 0; r < kGridRows; ++r) error[r] = (w_hat[r] - w[r]) / pivot;
    for (int r = 0; r < rows_; ++r) {
      out_->codes[size_t(row0_ + r) * k_ + column] = codes[r];
      if (double(error[r]) * error[r] > p_.threshold) {
        const float value = HalfToFloat(FloatToHalf(std::clamp(w[r] - w_hat[r], -65504.0f, 65504.0f)));
        (*outliers_)[row0_ + r].push_back({column, value});
        error[r] = (w_hat[r] + value - w[r]) / pivot;
      }
      loss += double(error[r]) * error[r];
    }
    return loss;
  }

  void StoreGrid(int group, const SpqrGrid& grid) {
    CodedScales& coded = out_->coded;
    const size_t groups = out_->groups;
    for (int r = 0; r < rows_; ++r) {
      const size_t at = size_t(row0_ + r) * groups + group;
      out_->scales[at] = grid.scale[r];
      out_->seconds[at] = grid.minimum[r];
      if (!p_.coded) continue;
      coded.scale_codes[at] = grid.scale_code[r];
      coded.zero_codes[at] = grid.zero_code[r];
      if (r % kSpqrGroup != 0) continue;
      const int t = r / kSpqrGroup;
      const size_t tile = size_t(row0_ + r) / kSpqrGroup * groups + group;
      coded.scale_step[tile] = grid.scale_step[t];
      coded.scale_zero[tile] = grid.scale_zero[t];
      coded.zero_step[tile] = grid.zero_step[t];
      coded.zero_zero[tile] = grid.zero_zero[t];
    }
  }

  const Problem& p_;
  const PackedFactor& factor_;
  const KernelTable& kernels_;
  AffineCodes* out_;
  std::vector<std::vector<Outlier>>* outliers_;
  int k_, row0_, rows_;
  float *weights_, *block_, *errors_;  // [k], [kBlock], [kBlock] lines of kGridRows; errors are minus the scaled ones
};

AffineCodes EmptyCodes(int n, int k, int bits, bool coded) {
  AffineCodes codes;
  codes.bits = bits;
  codes.group_size = kSpqrGroup;
  codes.groups = (k + kSpqrGroup - 1) / kSpqrGroup;
  codes.affine = AffineKind::kMinimum;
  const size_t grids = size_t(n) * codes.groups, tiles = size_t((n + kSpqrGroup - 1) / kSpqrGroup) * codes.groups;
  codes.codes.resize(size_t(n) * k);
  codes.scales.resize(grids);
  codes.seconds.resize(grids);
  if (!coded) return codes;
  codes.coded.bits = kSpqrCodedBits;
  codes.coded.scale_codes.resize(grids);
  codes.coded.zero_codes.resize(grids);
  for (std::vector<float>* steps : {&codes.coded.scale_step, &codes.coded.scale_zero, &codes.coded.zero_step, &codes.coded.zero_zero})
    steps->resize(tiles);
  return codes;
}

// The published unit of the threshold: the mean over columns of var(W_j) / U_jj^2.
double OutlierScale(const Problem& problem, int n, int k, const PackedFactor& factor) {
  double total = 0;
  for (int s = 0; s < k; ++s) {
    const int column = problem.order[s], i1 = s / kBlock * kBlock;
    if (problem.diagonal.dead[column]) continue;
    double sum = 0, squares = 0;
    for (size_t r = 0; r < size_t(n); ++r) sum += problem.w[r * k + column];
    for (size_t r = 0; r < size_t(n); ++r) {
      const double d = problem.w[r * k + column] - sum / n;
      squares += d * d;
    }
    const double pivot = factor.Square(i1)[size_t(s - i1) * factor.Rows(i1) + (s - i1)];
    total += squares / std::max(1, n - 1) / (pivot * pivot);
  }
  return total / k;
}

std::vector<int32_t> Order(SpqrOrder order, const std::vector<float>& diagonal) {
  if (order == SpqrOrder::kActOrder) return FallingOrder(diagonal);
  if (order == SpqrOrder::kGroupAware) return GroupAwareOrder(diagonal, kSpqrGroup);
  return NaturalOrder(static_cast<int>(diagonal.size()));
}

SparseWeights Sparse(std::vector<std::vector<Outlier>>& rows) {
  SparseWeights sparse;
  sparse.row_offsets.push_back(0);
  for (std::vector<Outlier>& row : rows) {
    std::sort(row.begin(), row.end(), [](const Outlier& a, const Outlier& b) { return a.column < b.column; });
    for (const Outlier& outlier : row) {
      sparse.columns.push_back(outlier.column);
      sparse.values.push_back(outlier.value);
    }
    sparse.row_offsets.push_back(static_cast<int32_t>(sparse.columns.size()));
  }
  return sparse.columns.empty() ? SparseWeights() : sparse;
}

}  // namespace

Result<LinearParts> QuantizeSpqr(std::span<const float> w, int n, int k, const HessianView& hessian, const PartsOptions& options,
                                 const KernelTable& kernels, Pool& pool) {
  const SpqrOptions& own = options.spqr;
  const HessianDiagonal diagonal = ReadDiagonal(hessian, false);
  const std::vector<int32_t> order = Order(own.order, diagonal.values);
  Problem problem{w, order, diagonal, own.order == SpqrOrder::kActOrder, options.base.bits, own.coded_scales, 0};
  const double allowed = own.max_outliers * double(n) * k;

  AffineCodes codes;
  std::vector<std::vector<Outlier>> outliers;
  double threshold = own.outlier_threshold;
  const int chunks = (n + kGridRows - 1) / kGridRows;
  const auto attempt = [&](const PackedFactor& factor) -> Result<double> {
    LOWBIT_ASSIGN_OR_RETURN(Block scratch,
                            Block::Allocate(Task::Floats(k) * pool.threads() * sizeof(float), MemoryClass::kScratch, "SpQR row chunks"));
    codes = EmptyCodes(n, k, options.base.bits, own.coded_scales);
    outliers.assign(n, {});
    std::vector<double> losses(chunks);
    pool.Run(chunks, [&](int chunk, int worker) {
      Task task(problem, factor, kernels, &codes, n, k, chunk * kGridRows, &outliers, scratch.as<float>() + worker * Task::Floats(k));
      losses[chunk] = task.Solve();
    });
    double loss = 0;
    for (const double one : losses) loss += one;
    return loss;
  };
  const auto solve = [&](Block u) -> Result<double> {
    LOWBIT_ASSIGN_OR_RETURN(const PackedFactor factor, PackedFactor::Pack(std::move(u), k, kBlock));
    const double unit = OutlierScale(problem, n, k, factor);
    for (threshold = own.outlier_threshold;; threshold = threshold > 0 ? 2 * threshold : 0.05) {
      problem.threshold = threshold * unit;
      if (std::isnan(problem.threshold)) problem.threshold = std::numeric_limits<double>::infinity();
      LOWBIT_ASSIGN_OR_RETURN(const double loss, attempt(factor));
      size_t count = 0;
      for (const auto& row : outliers) count += row.size();
      if (!std::isfinite(loss) || double(count) <= allowed || std::isinf(threshold)) return loss;
      if (threshold > 1e6) threshold = std::numeric_limits<double>::infinity();
    }
  };
  LOWBIT_ASSIGN_OR_RETURN(const DampedSolve damped, SolveDamped(hessian, diagonal, order, options.base, kernels, pool, solve));
  if (!damped.solved) return RoundInstead(Method::kSpqr, damped.note, w, n, k, options, pool);

  LinearParts parts;
  parts.n = n;
  parts.k = k;
  if (problem.groups_by_step) codes.g_idx = GroupIndex(order, kSpqrGroup);
  parts.affine.push_back(std::move(codes));
  parts.sparse = Sparse(outliers);
  parts.damp_percent = damped.damp_percent;
  parts.dead_columns = diagonal.dead_columns;
  if (diagonal.dead_columns > 0)
    parts.fallbacks.push_back(
        Format("%d of %d input columns were zero during calibration: their weights count as zero", diagonal.dead_columns, k));
  if (!damped.note.empty()) parts.fallbacks.push_back(damped.note);
  if (threshold != own.outlier_threshold)
    parts.fallbacks.push_back(Format("outlier_threshold raised from %g to %g: more than max_outliers %g of the weights were outliers",
                                     own.outlier_threshold, threshold, own.max_outliers));
  return parts;
}

}  // namespace lowbit
