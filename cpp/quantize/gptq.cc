// quantize/gptq: what surrounds GPTQ's column loop (gptq_core.cc): dead columns, order, damping, fallbacks, the report.
// Frantar et al. 2022, algorithm 1 and section 3; orders as in GPTQModel (quantize/order.h). It differs from the published
// code in two places, both of which keep the stored tensor equal to the optimised one and the result independent of the
// scale of H: scales are rounded to f16 first, and a dead column's diagonal becomes the mean of the live ones, not 1.
// QuantizeOptions::classic has it the published way.
#include "quantize/gptq.h"

#include <algorithm>

#include "part/gguf_encode.h"
#include "quantize/block_grid.h"
#include "quantize/checks.h"
#include "quantize/coordinate_descent.h"
#include "quantize/damping.h"
#include "quantize/gptq_core.h"
#include "quantize/order.h"
#include "quantize/proxy_error.h"
#include "quantize/refit_scales.h"
#include "quantize/rtn.h"

namespace lowbit {
namespace {

std::vector<int32_t> SolvingOrder(const QuantizeOptions& options, int group_size, const std::vector<float>& diagonal) {
  if (options.desc_act) return FallingOrder(diagonal);
  if (options.act_group_aware) return GroupAwareOrder(diagonal, group_size);
  return NaturalOrder(static_cast<int>(diagonal.size()));
}

// GPTQ's error is not below that of rounding row by row (2 bit, natural order): rows that rounding serves better take its codes.
Status GuardRows(const GptqProblem& problem, const QuantizeOptions& options, const HessianView& hessian, const KernelTable& kernels,
                 Pool& pool, QuantizedLinear* q) {
  QuantizedLinear rtn;
  if (problem.fixed_grids) {
    rtn = *q;
    RoundOnGrids(problem.w, pool, &rtn);
  } else {
    LOWBIT_ASSIGN_OR_RETURN(rtn, QuantizeRtn(problem.w, q->n, q->k, options, problem.importance, pool));
  }
  LOWBIT_ASSIGN_OR_RETURN(const RowErrors solved, ErrorsOfRows(*q, problem.w, hessian, kernels, pool));
  LOWBIT_ASSIGN_OR_RETURN(const RowErrors rounded, ErrorsOfRows(rtn, problem.w, hessian, kernels, pool));
  for (size_t r = 0; r < size_t(q->n); ++r) {
    if (!(rounded.error[r] < solved.error[r])) continue;
    const size_t codes = r * q->k, grids = r * q->groups;
    for (int c = 0; c < q->k; ++c) {
      if (problem.fixed_grids && problem.dead[c]) continue;  // its code stands for zero on the same grid
      q->codes[codes + c] = problem.dead[c] ? rtn.zeros[grids + c / q->group_size] : rtn.codes[codes + c];
    }
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
  const bool usable = hessian.data != nullptr && hessian.tokens > 0 && FiniteHessian(hessian, kernels);
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

  if (std::string reason = WhyUnusable(hessian, options.min_tokens, kernels); !reason.empty()) return rtn(std::move(reason));

  const HessianDiagonal diagonal = ReadDiagonal(hessian, options.classic);
  if (diagonal.dead_columns > 0)
    fallbacks.push_back(
        Format("%d of %d input columns were zero during calibration: their weights are stored as zero", diagonal.dead_columns, k));

  const int group_size = options.group_size < 0 ? k : options.group_size;
  const std::vector<int32_t> order = SolvingOrder(options, group_size, diagonal.values);
  const GptqProblem problem{w,
                            order,
                            diagonal.dead,
                            GridRule{options.bits, options.sym, options.mse, options.classic},
                            options.static_groups,
                            options.desc_act && !options.static_groups,
                            options.block_size,
                            options.hessian_mse ? diagonal.values.data() : nullptr,
                            options.block_type != DType::kF32};
  // Super-scales are shared by groups and stay as they were chosen.
  const bool refit = options.refit_scales && (!problem.fixed_grids || !FindBlockType(options.block_type)->coded);

  QuantizedLinear q;
  const auto solve = [&](Block u) -> Result<double> {
    LOWBIT_ASSIGN_OR_RETURN(const PackedFactor factor, PackedFactor::Pack(std::move(u), k, options.block_size));
    q = EmptyResult(n, k, options);
    if (problem.fixed_grids) FitBlockGrids(w, diagonal.dead.data(), problem.importance, options.mse > 0, pool, &q);
    return SolveGptq(problem, factor, kernels, pool, &q);
  };
  LOWBIT_ASSIGN_OR_RETURN(const DampedSolve damped, SolveDamped(hessian, diagonal, order, options, kernels, pool, solve));
  if (!damped.solved) return rtn(damped.note);
  if (problem.groups_by_step) q.g_idx = GroupIndex(order, group_size);

  if (options.row_guard) LOWBIT_RETURN_IF_ERROR(GuardRows(problem, options, hessian, kernels, pool, &q));
  // Scales for the codes, codes for those scales, and scales for those codes: each lowers the error.
  if (options.sweeps > 0) {
    if (refit) LOWBIT_RETURN_IF_ERROR(RefitScales(&q, w, hessian, kernels, pool).status());
    LOWBIT_RETURN_IF_ERROR(DescendCodes(&q, w, hessian, options.sweeps, kernels, pool).status());
  }
  if (refit) {
    LOWBIT_ASSIGN_OR_RETURN(q.refitted_rows, RefitScales(&q, w, hessian, kernels, pool));
  }
  LOWBIT_ASSIGN_OR_RETURN(q.error, RelativeError(q, w, hessian, kernels, pool));
  if (!damped.note.empty()) fallbacks.push_back(damped.note);
  q.damp_percent = damped.damp_percent;
  q.dead_columns = diagonal.dead_columns;
  q.fallbacks = std::move(fallbacks);
  return q;
}

}  // namespace lowbit
