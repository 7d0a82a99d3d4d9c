// quantize/method: the list of methods, and the inverse of Quantize.
#include "quantize/method.h"

#include "part/gguf_encode.h"
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
                                 const QuantizeOptions& given, const KernelTable& kernels, Pool& pool) {
  if (!MakesOneGrid(method))
    return Error(Code::kUnsupported, "Method %s makes more than codes on one grid of %s: its result goes into lowbit's own container",
                 MethodName(method), name);
  LOWBIT_ASSIGN_OR_RETURN(const QuantizeOptions options, WithBlockType(name, given, k));
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

Result<QuantizeOptions> WithBlockType(const char* name, const QuantizeOptions& options, int k) {
  if (options.block_type == DType::kF32) return options;
  const BlockType* type = FindBlockType(options.block_type);
  const DTypeInfo& info = Info(options.block_type);
  if (type == nullptr) return Error(Code::kInvalidArgument, "Blocks of %s are read but not written", info.name);
  if (k % info.block_values != 0)
    return Error(Code::kInvalidArgument, "%s has %d columns, but a row of %s holds a multiple of %d", name, k, info.name,
                 info.block_values);
  QuantizeOptions whole = options;
  whole.bits = type->bits;
  whole.group_size = type->group_size;
  whole.sym = !type->has_minimum;
  whole.static_groups = true;
  whole.classic = false;
  return whole;
}

void Dequantize(const QuantizedLinear& q, std::span<float> out) {
  for (size_t row = 0; row < size_t(q.n); ++row) {
    for (int c = 0; c < q.k; ++c) {
      const size_t grid = row * q.groups + (q.GroupOf(c));
      const int code = q.codes[row * q.k + c];
      out[row * q.k + c] = q.minima.empty() ? q.scales[grid] * static_cast<float>(code - int(q.zeros[grid]))
                                            : q.scales[grid] * static_cast<float>(code) + q.minima[grid];
    }
  }
}

}  // namespace lowbit
