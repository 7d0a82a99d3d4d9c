// quantize/quantize_parts: checks, the transform in front of a method, the method, the low-rank part behind it, the report's error.
#include "quantize/quantize_parts.h"

#include <algorithm>
#include <cmath>

#include "quantize/awq.h"
#include "quantize/checks.h"
#include "quantize/eora.h"
#include "quantize/finequant.h"
#include "quantize/hessian_energy.h"
#include "quantize/hqq.h"
#include "quantize/input_scale.h"
#include "quantize/mixllm.h"
#include "quantize/rtn.h"
#include "quantize/spqr.h"
#include "quantize/spqr_grid.h"

namespace lowbit {
namespace {

constexpr int kMaxRank = 256;
constexpr int kMaxGrid = 100;
constexpr int kMaxIterations = 1000;

bool Between(double value, double low, double high) { return value >= low && value <= high; }

Status CheckAwq(const AwqOptions& o) {
  if (o.grid < 1 || o.grid > kMaxGrid) return Expected("integer between 1 and 100", "awq.grid", o.grid);
  if (o.clip_grid < 1 || o.clip_grid > kMaxGrid) return Expected("integer between 1 and 100", "awq.clip_grid", o.clip_grid);
  if (!(o.max_shrink >= 0 && o.max_shrink < 1)) return Expected("a number from 0 to below 1", "awq.max_shrink", o.max_shrink);
  return Status::Ok();
}

Status CheckHqq(const HqqOptions& o) {
  if (!(o.lp_norm > 0 && o.lp_norm <= 1)) return Expected("a number above 0 and at most 1", "hqq.lp_norm", o.lp_norm);
  if (!(o.beta > 0 && o.beta <= 1e6)) return Expected("a number above 0 and at most 1e6", "hqq.beta", o.beta);
  if (!Between(o.kappa, 1, 10)) return Expected("a number between 1 and 10", "hqq.kappa", o.kappa);
  if (o.iterations < 0 || o.iterations > kMaxIterations) return Expected("integer between 0 and 1000", "hqq.iterations", o.iterations);
  return Status::Ok();
}

Status CheckSpqr(const SpqrOptions& o) {
  if (!(o.outlier_threshold >= 0)) return Expected("a number of at least 0", "spqr.outlier_threshold", o.outlier_threshold);
  if (!Between(o.max_outliers, 0, 1)) return Expected("a number between 0 and 1", "spqr.max_outliers", o.max_outliers);
  return Status::Ok();
}

Status CheckMixllm(const MixllmOptions& o, int bits) {
  if ((o.high_bits != 3 && o.high_bits != 4 && o.high_bits != 8) || o.high_bits <= bits)
    return Expected("3, 4 or 8, and more than bits", "mixllm.high_bits", o.high_bits);
  if (!Between(o.fraction, 0, 1)) return Expected("a number between 0 and 1", "mixllm.fraction", o.fraction);
  return Status::Ok();
}

Status CheckFinequant(const FinequantOptions& o) {
  if (!(o.alpha > 0 && o.alpha < 1)) return Expected("a number above 0 and below 1", "finequant.alpha", o.alpha);
  if (o.min_group != 32 && o.min_group != 64 && o.min_group != 128) return Expected("32, 64 or 128", "finequant.min_group", o.min_group);
  return Status::Ok();
}

Status CheckStatistic(const char* name, const char* what, std::span<const float> values, int k) {
  if (values.empty()) return Status::Ok();
  if (values.size() != size_t(k))
    return Error(Code::kInvalidArgument, "Expected %d values of %s for %s but received %zu", k, what, name, values.size());
  for (const float value : values)
    if (!(value >= 0) || !std::isfinite(value))
      return Error(Code::kInvalidArgument, "Expected finite values of at least 0 in %s for %s but received %g", what, name, value);
  return Status::Ok();
}

Status CheckParts(Method method, const char* name, int k, const LayerStatistics& stats, const PartsOptions& options) {
  LOWBIT_RETURN_IF_ERROR(CheckStatistic(name, "mean_abs", stats.mean_abs, k));
  LOWBIT_RETURN_IF_ERROR(CheckStatistic(name, "max_abs", stats.max_abs, k));
  if (!Between(options.smooth.alpha, 0, 1)) return Expected("a number between 0 and 1", "smooth.alpha", options.smooth.alpha);
  if (options.eora.rank < 0 || options.eora.rank > kMaxRank) return Expected("integer between 0 and 256", "eora.rank", options.eora.rank);
  if (method == Method::kAwq) return CheckAwq(options.awq);
  if (method == Method::kHqq) return CheckHqq(options.hqq);
  if (method == Method::kSpqr) return CheckSpqr(options.spqr);
  if (method == Method::kMixllm) return CheckMixllm(options.mixllm, options.base.bits);
  if (method == Method::kFinequant) return CheckFinequant(options.finequant);
  return Status::Ok();
}

Result<LinearParts> Run(Method method, const char* name, std::span<const float> w, int n, int k, const LayerStatistics& stats,
                        const PartsOptions& options, const KernelTable& kernels, Pool& pool) {
  const HessianView& hessian = stats.hessian;
  if (MakesOneGrid(method)) {
    LOWBIT_ASSIGN_OR_RETURN(QuantizedLinear q, Quantize(method, name, w, n, k, hessian, options.base, kernels, pool));
    return FromQuantized(std::move(q));
  }
  if (NeedsHessian(method)) {
    const std::string reason = WhyUnusable(hessian, options.base.min_tokens, kernels);
    if (!reason.empty()) return RoundInstead(method, reason, w, n, k, options, pool);
  }
  switch (method) {
    case Method::kAwq:
      return QuantizeAwq(w, n, k, stats, options, kernels, pool);
    case Method::kHqq:
      return QuantizeHqq(w, n, k, options, pool);
    case Method::kSpqr:
      return QuantizeSpqr(w, n, k, hessian, options, kernels, pool);
    case Method::kMixllm:
      return QuantizeMixllm(name, w, n, k, hessian, options, kernels, pool);
    case Method::kFinequant:
      return QuantizeFinequant(w, n, k, options, pool);
    default:
      return Error(Code::kInternal, "no implementation of method %s", MethodName(method));
  }
}

std::vector<float> Product(const std::vector<float>& a, std::vector<float> b) {
  if (b.empty()) return a;
  for (size_t j = 0; j < a.size(); ++j) b[j] *= a[j];
  return b;
}

}  // namespace

Result<LinearParts> RoundInstead(Method method, const std::string& reason, std::span<const float> w, int n, int k,
                                 const PartsOptions& options, Pool& pool) {
  QuantizeOptions rounding = options.base;
  if (method == Method::kSpqr) {
    rounding.group_size = kSpqrGroup;
    rounding.sym = false;
  }
  LOWBIT_ASSIGN_OR_RETURN(QuantizedLinear q, QuantizeRtn(w, n, k, rounding, nullptr, pool));
  LinearParts parts = FromQuantized(std::move(q));
  parts.fallbacks.push_back(Format("RTN instead of %s: %s", MethodName(method), reason.c_str()));
  return parts;
}

Result<LinearParts> QuantizeParts(Method method, const char* name, std::span<const float> w, int n, int k, const LayerStatistics& stats,
                                  const PartsOptions& options, const KernelTable& kernels, Pool& pool) {
  LOWBIT_RETURN_IF_ERROR(CheckOptions(method, options.base));
  LOWBIT_RETURN_IF_ERROR(CheckShapes(method, name, w, n, k, stats.hessian));
  LOWBIT_RETURN_IF_ERROR(CheckParts(method, name, k, stats, options));
  LOWBIT_RETURN_IF_ERROR(CheckWeights(name, w, n, k, kernels));
  const bool usable = stats.hessian.data != nullptr && stats.hessian.tokens > 0 && FiniteHessian(stats.hessian, kernels);
  const HessianView undamped = usable ? stats.hessian : HessianView();

  // The method sees the weight behind the transform and statistics of the scaled inputs.
  std::vector<float> input_scale;
  Block scaled_weight, scaled_hessian;
  std::span<const float> seen = w;
  LayerStatistics seen_stats = stats;
  std::vector<float> mean_abs;
  if (options.smooth.alpha > 0) {
    input_scale = SmoothInputScale(w, n, k, InputMagnitudes(stats.max_abs, undamped, k), options.smooth.alpha);
    LOWBIT_ASSIGN_OR_RETURN(scaled_weight, Block::Allocate(w.size() * sizeof(float), MemoryClass::kScratch, "a scaled weight"));
    const std::span<float> out(scaled_weight.as<float>(), w.size());
    ScaleColumns(w, k, input_scale, out, pool);
    LOWBIT_RETURN_IF_ERROR(CheckWeights(name, out, n, k, kernels));
    seen = out;
    if (stats.hessian.data != nullptr) {
      LOWBIT_ASSIGN_OR_RETURN(scaled_hessian, ScaledHessian(stats.hessian, input_scale, pool));
      seen_stats.hessian.data = scaled_hessian.as<float>();
    }
    if (!stats.mean_abs.empty()) {
      mean_abs = Product(input_scale, {stats.mean_abs.begin(), stats.mean_abs.end()});
      seen_stats.mean_abs = mean_abs;
    }
    seen_stats.max_abs = {};
  }
  LOWBIT_ASSIGN_OR_RETURN(LinearParts parts, Run(method, name, seen, n, k, seen_stats, options, kernels, pool));
  if (MakesOneGrid(method) && input_scale.empty() && options.eora.rank == 0) return parts;  // which has its error already
  if (!input_scale.empty()) parts.input_scale = Product(input_scale, std::move(parts.input_scale));

  LOWBIT_ASSIGN_OR_RETURN(Block dense, Block::Allocate(w.size() * sizeof(float), MemoryClass::kScratch, "the error of a layer"));
  const std::span<float> w_hat(dense.as<float>(), w.size());
  if (options.eora.rank > 0) {
    // In front of the whole input scale, AWQ's included.
    HessianView view = undamped;
    std::span<const float> target = w;
    Block block;
    if (!parts.input_scale.empty()) {
      ScaleColumns(w, k, parts.input_scale, w_hat, pool);
      target = w_hat;
      if (usable) {
        LOWBIT_ASSIGN_OR_RETURN(block, ScaledHessian(undamped, parts.input_scale, pool));
        view.data = block.as<float>();
      }
    }
    LOWBIT_RETURN_IF_ERROR(AddLowRank(&parts, target, view, options.eora.rank, kernels, pool));
  }
  DequantizeParts(parts, w_hat, pool);
  LOWBIT_ASSIGN_OR_RETURN(const HessianEnergy energy, HessianEnergy::Pack(undamped, k, pool));
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<double> error, energy.Rows(n, Difference(w.data(), w_hat.data(), k), kernels, pool));
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<double> weight, energy.Rows(n, Difference(w.data(), nullptr, k), kernels, pool));
  parts.error = Sum(error) == 0 && Sum(weight) == 0 ? 0 : Sum(error) / Sum(weight);
  return parts;
}

}  // namespace lowbit
