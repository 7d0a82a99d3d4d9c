// quantize/gptq: what surrounds GPTQ's column loop (gptq_core.cc): dead columns, order, damping, fallbacks, the report.
// Frantar et al. 2022, algorithm 1 and section 3; orders as in GPTQModel (quantize/order.h). It differs from the published
// code in two places, both of which keep the stored tensor equal to the optimised one and the result independent of the
// scale of H: scales are rounded to f16 first, and a dead column's diagonal becomes the mean of the live ones, not 1.
// QuantizeOptions::classic has it the published way.
#include "quantize/gptq.h"

#include <algorithm>
#include <cmath>

#include "quantize/coordinate_descent.h"
#include "quantize/gptq_core.h"
#include "quantize/order.h"
#include "quantize/proxy_error.h"
#include "quantize/refit_scales.h"
#include "quantize/rtn.h"
#include "solve/cholesky.h"

namespace lowbit {
namespace {

constexpr int kCopyRows = 64;   // rows of H per copying task
constexpr int kFloorSteps = 6;  // 1e-6 to 1e-1 of the largest diagonal, as GPTQModel
constexpr double kFloorStart = 1e-6;

bool Finite(const HessianView& hessian, const KernelTable& kernels) {
  for (int i = 0; i < hessian.k; ++i)
    if (!kernels.all_finite(hessian.data + size_t(i) * hessian.k, hessian.k)) return false;
  return true;
}

// The Hessian in solving order with `added` on the diagonal; dead columns have `dead_diagonal` there.
void LoadDamped(const HessianView& hessian, const std::vector<int32_t>& order, const std::vector<uint8_t>& dead, float dead_diagonal,
                float added, float* out, Pool& pool) {
  const int k = hessian.k;
  pool.Run((k + kCopyRows - 1) / kCopyRows, [&](int task, int) {
    for (int i = task * kCopyRows; i < std::min(k, (task + 1) * kCopyRows); ++i) {
      const float* row = hessian.data + size_t(order[i]) * k;
      float* line = out + size_t(i) * k;
      for (int j = 0; j < k; ++j) line[j] = row[order[j]];
      line[i] = (dead[order[i]] ? dead_diagonal : line[i]) + added;
    }
  });
}

// g_idx of columns grouped in solving order; empty when it is c / group_size anyway.
std::vector<int32_t> GroupIndex(const std::vector<int32_t>& order, int group_size) {
  std::vector<int32_t> index(order.size());
  bool trivial = true;
  for (size_t p = 0; p < order.size(); ++p) {
    index[order[p]] = static_cast<int32_t>(p) / group_size;
    trivial = trivial && static_cast<int32_t>(p) / group_size == order[p] / group_size;
  }
  return trivial ? std::vector<int32_t>() : index;
}

std::vector<int32_t> SolvingOrder(const QuantizeOptions& options, int group_size, const std::vector<float>& diagonal) {
  if (options.desc_act) return FallingOrder(diagonal);
  if (options.act_group_aware) return GroupAwareOrder(diagonal, group_size);
  return NaturalOrder(static_cast<int>(diagonal.size()));
}

// GPTQ's error is not below that of rounding row by row (2 bit, natural order): rows that rounding serves better take its codes.
Status GuardRows(const GptqProblem& problem, const QuantizeOptions& options, const HessianView& hessian, const KernelTable& kernels,
                 Pool& pool, QuantizedLinear* q) {
  LOWBIT_ASSIGN_OR_RETURN(QuantizedLinear rtn, QuantizeRtn(problem.w, q->n, q->k, options, problem.importance, pool));
  LOWBIT_ASSIGN_OR_RETURN(const RowErrors solved, ErrorsOfRows(*q, problem.w, hessian, kernels, pool));
  LOWBIT_ASSIGN_OR_RETURN(const RowErrors rounded, ErrorsOfRows(rtn, problem.w, hessian, kernels, pool));
  for (size_t r = 0; r < size_t(q->n); ++r) {
    if (!(rounded.error[r] < solved.error[r])) continue;
    const size_t codes = r * q->k, grids = r * q->groups;
    for (int c = 0; c < q->k; ++c) q->codes[codes + c] = problem.dead[c] ? rtn.zeros[grids + c / q->group_size] : rtn.codes[codes + c];
    std::copy_n(rtn.scales.begin() + grids, q->groups, q->scales.begin() + grids);
    std::copy_n(rtn.zeros.begin() + grids, q->groups, q->zeros.begin() + grids);
    ++q->guarded_rows;
  }
  return Status::Ok();
}

}  // namespace

Result<QuantizedLinear> QuantizeRtnWithReport(std::span<const float> w, int n, int k, const HessianView& hessian,
                                              const QuantizeOptions& options, std::vector<std::string> fallbacks,
                                              const KernelTable& kernels, Pool& pool) {
  LOWBIT_ASSIGN_OR_RETURN(QuantizedLinear q, QuantizeRtn(w, n, k, options, nullptr, pool));
  const bool usable = hessian.data != nullptr && hessian.tokens > 0 && Finite(hessian, kernels);
  LOWBIT_ASSIGN_OR_RETURN(q.error, RelativeError(q, w, usable ? hessian : HessianView(), kernels, pool));
  q.fallbacks = std::move(fallbacks);
  return q;
}

Result<QuantizedLinear> QuantizeGptq(std::span<const float> w, int n, int k, const HessianView& hessian, const QuantizeOptions& options,
                                     const KernelTable& kernels, Pool& pool) {
  std::vector<std::string> fallbacks;
  const auto rtn = [&](std::string reason) {
    fallbacks.push_back("RTN instead of GPTQ: " + std::move(reason));
    return QuantizeRtnWithReport(w, n, k, hessian, options, fallbacks, kernels, pool);
  };

  // Without tokens H is zero and every column would look dead: test that first.
  if (hessian.tokens <= 0) return rtn("no calibration token reached this layer");
  if (hessian.tokens < options.min_tokens)
    return rtn(Format("%lld calibration tokens reached this layer, fewer than min_tokens %lld", static_cast<long long>(hessian.tokens),
                      static_cast<long long>(options.min_tokens)));
  if (!Finite(hessian, kernels)) return rtn("the Hessian holds a value that is not finite");

  std::vector<float> diagonal(k);
  std::vector<uint8_t> dead(k);
  double sum = 0, largest = 0;
  int dead_columns = 0;
  for (int j = 0; j < k; ++j) {
    diagonal[j] = hessian.data[size_t(j) * k + j];
    dead[j] = diagonal[j] == 0;
    dead_columns += dead[j];
    sum += diagonal[j];
    largest = std::max(largest, static_cast<double>(diagonal[j]));
  }
  if (dead_columns == k) return rtn("every input column was zero during calibration");
  if (!(sum > 0)) return rtn("the Hessian's diagonal is not positive");
  const double mean = options.classic ? (sum + dead_columns) / k : sum / (k - dead_columns);
  const float dead_diagonal = options.classic ? 1.0f : static_cast<float>(mean);
  if (dead_columns > 0)
    fallbacks.push_back(Format("%d of %d input columns were zero during calibration: their weights are stored as zero", dead_columns, k));

  const int group_size = options.group_size < 0 ? k : options.group_size;
  const std::vector<int32_t> order = SolvingOrder(options, group_size, diagonal);
  const GptqProblem problem{w,
                            order,
                            dead,
                            GridRule{options.bits, options.sym, options.mse, options.classic},
                            options.static_groups,
                            options.desc_act && !options.static_groups,
                            options.block_size,
                            options.hessian_mse ? diagonal.data() : nullptr};

  double damp = options.damp_percent, floor = 0;
  int floor_step = 0;
  std::string trouble;  // why the first attempt was not the last
  for (;;) {
    LOWBIT_ASSIGN_OR_RETURN(Block u,
                            Block::Allocate(PackedFactor::Floats(k) * sizeof(float), MemoryClass::kScratch, "the inverse Hessian"));
    LoadDamped(hessian, order, dead, dead_diagonal, static_cast<float>(damp * mean + floor), u.as<float>(), pool);
    const int failed = InverseFactor(u.as<float>(), k, kernels, pool);
    if (failed >= k)
      return Error(Code::kOutOfMemory, "Could not allocate scratch for the inverse Hessian of %d columns; close other programs", k);
    if (failed < 0) {
      LOWBIT_ASSIGN_OR_RETURN(const PackedFactor factor, PackedFactor::Pack(std::move(u), k, options.block_size));
      QuantizedLinear q = EmptyResult(n, k, options);
      if (problem.groups_by_step) q.g_idx = GroupIndex(order, group_size);
      LOWBIT_ASSIGN_OR_RETURN(const double loss, SolveGptq(problem, factor, kernels, pool, &q));
      if (std::isfinite(loss)) {
        if (options.row_guard) LOWBIT_RETURN_IF_ERROR(GuardRows(problem, options, hessian, kernels, pool, &q));
        // Scales for the codes, codes for those scales, and scales for those codes: each lowers the error.
        if (options.sweeps > 0) {
          if (options.refit_scales) LOWBIT_RETURN_IF_ERROR(RefitScales(&q, w, hessian, kernels, pool).status());
          LOWBIT_RETURN_IF_ERROR(DescendCodes(&q, w, hessian, options.sweeps, kernels, pool).status());
        }
        if (options.refit_scales) {
          LOWBIT_ASSIGN_OR_RETURN(q.refitted_rows, RefitScales(&q, w, hessian, kernels, pool));
        }
        LOWBIT_ASSIGN_OR_RETURN(q.error, RelativeError(q, w, hessian, kernels, pool));
        if (floor > 0) {
          fallbacks.push_back(Format("diagonal floor %g (%g of the largest Hessian diagonal) added to damping %g: %s", floor,
                                     floor / largest, damp, trouble.c_str()));
        } else if (damp > options.damp_percent) {
          fallbacks.push_back(
              Format("damping raised from %g to %g of the mean Hessian diagonal: %s", options.damp_percent, damp, trouble.c_str()));
        }
        q.damp_percent = damp;
        q.dead_columns = dead_columns;
        q.fallbacks = std::move(fallbacks);
        return q;
      }
      if (trouble.empty()) trouble = Format("with %g the solve left the range of f32", damp);
      damp = std::max(10 * damp, damp + options.damp_auto_increment);
      if (floor > 0 || damp >= 1) return rtn("the solve left the range of f32 at every damping below 1");
      continue;
    }
    if (trouble.empty()) trouble = Format("with %g the Cholesky factorisation failed at step %d of %d", damp, failed, k);
    if (floor == 0 && damp + options.damp_auto_increment < 1) {
      damp += options.damp_auto_increment;
      continue;
    }
    if (floor_step == kFloorSteps) return rtn("the Hessian is not positive definite at any damping or diagonal floor");
    damp = options.damp_percent;
    floor = kFloorStart * std::pow(10, floor_step++) * largest;
  }
}

}  // namespace lowbit
