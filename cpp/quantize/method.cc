// quantize/method: the list of methods, and the inverse of Quantize.
#include "quantize/method.h"

#include "quantize/checks.h"
#include "quantize/gptq.h"

namespace lowbit {

const char* MethodName(Method method) {
  switch (method) {
#define LOWBIT_METHOD(id, name, needs_hessian, one_grid) \
  case Method::id:                                       \
    return name;
#include "quantize/methods.def"
#undef LOWBIT_METHOD
  }
  return "";
}

bool NeedsHessian(Method method) {
  switch (method) {
#define LOWBIT_METHOD(id, name, needs_hessian, one_grid) \
  case Method::id:                                       \
    return needs_hessian;
#include "quantize/methods.def"
#undef LOWBIT_METHOD
  }
  return false;
}

bool MakesOneGrid(Method method) {
  switch (method) {
#define LOWBIT_METHOD(id, name, needs_hessian, one_grid) \
  case Method::id:                                       \
    return one_grid;
#include "quantize/methods.def"
#undef LOWBIT_METHOD
  }
  return false;
}

Result<Method> ParseMethod(const std::string& name) {
  std::string known;
#define LOWBIT_METHOD(id, method_name, needs_hessian, one_grid) \
  if (name == method_name) return Method::id;                   \
  known += known.empty() ? method_name : ", " method_name;
#include "quantize/methods.def"
#undef LOWBIT_METHOD
  return Error(Code::kInvalidArgument, "Expected one of: %s for method but received %s of type string", known.c_str(), name.c_str());
}

Result<QuantizedLinear> Quantize(Method method, const char* name, std::span<const float> w, int n, int k, const HessianView& hessian,
                                 const QuantizeOptions& options, const KernelTable& kernels, Pool& pool) {
  if (!MakesOneGrid(method))
    return Error(Code::kUnsupported, "Method %s makes more than codes on one grid of %s: its result goes into lowbit's own container",
                 MethodName(method), name);
  LOWBIT_RETURN_IF_ERROR(CheckOptions(method, options));
  LOWBIT_RETURN_IF_ERROR(CheckShapes(method, name, w, n, k, hessian));
  LOWBIT_RETURN_IF_ERROR(CheckWeights(name, w, n, k, kernels));
  switch (method) {
    case Method::kRtn:
      return QuantizeRtnWithReport(w, n, k, hessian, options, {}, kernels, pool);
    case Method::kGptq:
      return QuantizeGptq(w, n, k, hessian, options, kernels, pool);
    default:
      break;
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
