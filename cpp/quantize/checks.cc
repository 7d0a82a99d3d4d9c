// quantize/checks: see checks.h.
#include "quantize/checks.h"

#include <cmath>

namespace lowbit {
namespace {

constexpr int kMaxSide = 1 << 24;  // rows or columns; n * k then fits easily into size_t
constexpr int kMaxBlockSize = 4096;
constexpr int kMaxSweeps = 100;
constexpr double kMinIncrement = 0.001;  // at most a thousand factorisations

}  // namespace

Status Expected(const char* what, const char* option, double received) {
  return Error(Code::kInvalidArgument, "Expected %s for %s but received %.15g of type number", what, option, received);
}

Status CheckOptions(Method method, const QuantizeOptions& options) {
  const bool own_grid = options.block_type == DType::kF32;  // a block type has decided bits and group_size
  if (own_grid && (options.bits < 2 || options.bits > 8 || options.bits == 7)) return Expected("2, 3, 4, 5, 6 or 8", "bits", options.bits);
  if (own_grid && options.group_size != 32 && options.group_size != 64 && options.group_size != 128 && options.group_size != -1)
    return Expected("32, 64, 128 or -1 (the whole row)", "group_size", options.group_size);
  if (!(options.mse == 0 || (options.mse >= 1 && options.mse <= 8))) return Expected("0 or a number between 1 and 8", "mse", options.mse);
  if (!NeedsHessian(method) || method == Method::kAwq) return Status::Ok();  // the rest is of the solve
  if (!(options.damp_percent > 0 && options.damp_percent < 1))
    return Expected("a number above 0 and below 1", "damp_percent", options.damp_percent);
  if (!(options.damp_auto_increment >= kMinIncrement && options.damp_auto_increment < 1))
    return Expected("a number from 0.001 to below 1", "damp_auto_increment", options.damp_auto_increment);
  if (options.block_size < 1 || options.block_size > kMaxBlockSize)
    return Expected("integer between 1 and 4096", "block_size", options.block_size);
  if (options.sweeps < 0 || options.sweeps > kMaxSweeps) return Expected("integer between 0 and 100", "sweeps", options.sweeps);
  if (options.row_guard && options.desc_act && !options.static_groups)
    return Error(Code::kInvalidArgument,
                 "row_guard needs groups in the original order of columns: set static_groups, or leave row_guard out");
  if (options.min_tokens < 0) return Expected("integer of at least 0", "min_tokens", static_cast<double>(options.min_tokens));
  return Status::Ok();
}

Status CheckShapes(Method method, const char* name, std::span<const float> w, int n, int k, const HessianView& hessian) {
  if (n < 1 || n > kMaxSide || k < 1 || k > kMaxSide)
    return Error(Code::kInvalidArgument, "Expected sides between 1 and %d for %s but received [%d, %d]", kMaxSide, name, n, k);
  if (w.size() != size_t(n) * k)
    return Error(Code::kInvalidArgument, "Expected %zu weights for %s [%d, %d] but received %zu", size_t(n) * k, name, n, k, w.size());
  if (hessian.data != nullptr && hessian.k != k)
    return Error(Code::kInvalidArgument, "Expected a Hessian of %d columns for %s but received one of %d", k, name, hessian.k);
  if (NeedsHessian(method) && hessian.data == nullptr && hessian.tokens > 0)
    return Error(Code::kInvalidArgument, "Expected a Hessian for %s with method %s but received none; calibrate first", name,
                 MethodName(method));
  return Status::Ok();
}

Status CheckWeights(const char* name, std::span<const float> w, int n, int k, const KernelTable& kernels) {
  for (int r = 0; r < n; ++r) {
    const float* row = w.data() + size_t(r) * k;
    if (kernels.all_finite(row, k)) continue;
    int c = 0;
    while (c < k && std::isfinite(row[c])) ++c;
    return Error(Code::kCorruptFile, "%s holds a value that is not finite at [%d, %d]; get the checkpoint again from its source", name, r,
                 c);
  }
  return Status::Ok();
}

bool FiniteHessian(const HessianView& hessian, const KernelTable& kernels) {
  for (int i = 0; i < hessian.k; ++i)
    if (!kernels.all_finite(hessian.data + size_t(i) * hessian.k, hessian.k)) return false;
  return true;
}

std::string WhyUnusable(const HessianView& hessian, int64_t min_tokens, const KernelTable& kernels) {
  // Without tokens H is zero and every column would look dead: test that first.
  if (hessian.tokens <= 0 || hessian.data == nullptr) return "no calibration token reached this layer";
  if (hessian.tokens < min_tokens)
    return Format("%lld calibration tokens reached this layer, fewer than min_tokens %lld", static_cast<long long>(hessian.tokens),
                  static_cast<long long>(min_tokens));
  if (!FiniteHessian(hessian, kernels)) return "the Hessian holds a value that is not finite";
  double sum = 0;
  bool alive = false;
  for (int j = 0; j < hessian.k; ++j) {
    const double h = hessian.data[size_t(j) * hessian.k + j];
    alive = alive || h != 0;
    sum += h;
  }
  if (!alive) return "every input column was zero during calibration";
  if (!(sum > 0)) return "the Hessian's diagonal is not positive";
  return "";
}

}  // namespace lowbit
