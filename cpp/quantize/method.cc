// quantize/method: checks of everything that crosses into this room, the list of methods, and the inverse of Quantize.
#include "quantize/method.h"

#include <cmath>

#include "quantize/gptq.h"

namespace lowbit {
namespace {

constexpr int kMaxSide = 1 << 24;  // rows or columns; n * k then fits easily into size_t
constexpr int kMaxBlockSize = 4096;
constexpr int kMaxSweeps = 100;
constexpr double kMinIncrement = 0.001;  // at most a thousand factorisations

Status Expected(const char* what, const char* option, double received) {
  return Error(Code::kInvalidArgument, "Expected %s for %s but received %.15g of type number", what, option, received);
}

Status CheckOptions(Method method, const QuantizeOptions& options) {
  if (options.bits != 2 && options.bits != 3 && options.bits != 4 && options.bits != 8)
    return Expected("2, 3, 4 or 8", "bits", options.bits);
  if (options.group_size != 32 && options.group_size != 64 && options.group_size != 128 && options.group_size != -1)
    return Expected("32, 64, 128 or -1 (the whole row)", "group_size", options.group_size);
  if (!(options.mse == 0 || (options.mse >= 1 && options.mse <= 8))) return Expected("0 or a number between 1 and 8", "mse", options.mse);
  if (method != Method::kGptq) return Status::Ok();
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
  if (method == Method::kGptq && hessian.data == nullptr && hessian.tokens > 0)
    return Error(Code::kInvalidArgument, "Expected a Hessian for %s with method gptq but received none; calibrate first", name);
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

}  // namespace

const char* MethodName(Method method) {
  switch (method) {
#define LOWBIT_METHOD(id, name, needs_hessian) \
  case Method::id:                             \
    return name;
#include "quantize/methods.def"
#undef LOWBIT_METHOD
  }
  return "";
}

Result<Method> ParseMethod(const std::string& name) {
  std::string known;
#define LOWBIT_METHOD(id, method_name, needs_hessian) \
  if (name == method_name) return Method::id;         \
  known += known.empty() ? method_name : ", " method_name;
#include "quantize/methods.def"
#undef LOWBIT_METHOD
  return Error(Code::kInvalidArgument, "Expected one of: %s for method but received %s of type string", known.c_str(), name.c_str());
}

Result<QuantizedLinear> Quantize(Method method, const char* name, std::span<const float> w, int n, int k, const HessianView& hessian,
                                 const QuantizeOptions& options, const KernelTable& kernels, Pool& pool) {
  LOWBIT_RETURN_IF_ERROR(CheckOptions(method, options));
  LOWBIT_RETURN_IF_ERROR(CheckShapes(method, name, w, n, k, hessian));
  LOWBIT_RETURN_IF_ERROR(CheckWeights(name, w, n, k, kernels));
  switch (method) {
    case Method::kRtn:
      return QuantizeRtnWithReport(w, n, k, hessian, options, {}, kernels, pool);
    case Method::kGptq:
      return QuantizeGptq(w, n, k, hessian, options, kernels, pool);
  }
  return Error(Code::kInternal, "no implementation of method %s", MethodName(method));
}

void Dequantize(const QuantizedLinear& q, std::span<float> out) {
  for (size_t row = 0; row < size_t(q.n); ++row) {
    for (int c = 0; c < q.k; ++c) {
      const size_t grid = row * q.groups + (q.GroupOf(c));
      out[row * q.k + c] = q.scales[grid] * static_cast<float>(int(q.codes[row * q.k + c]) - int(q.zeros[grid]));
    }
  }
}

}  // namespace lowbit
