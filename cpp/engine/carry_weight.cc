// engine/carry_weight: see carry_weight.h.
#include "engine/carry_weight.h"

#include <algorithm>

#include "quantize/gptq_tensors.h"
#include "quantize/unpack_parts.h"

namespace lowbit {
namespace {

// Group numbers that say what their absence would.
bool TrivialOrder(const AffineCodes& a) {
  for (size_t c = 0; c < a.g_idx.size(); ++c)
    if (static_cast<size_t>(a.g_idx[c]) != c / static_cast<size_t>(a.group_size)) return false;
  return true;
}

}  // namespace

Result<CarriedWeight> CarryWeight(Model& model, int weight, CarryFormat format, int zero_offset, bool tensors, const Progress& progress) {
  if (weight < 0 || weight >= static_cast<int>(model.plan().weights.size()))
    return Error(Code::kInvalidArgument, "Weight %d is not in the plan", weight);
  const WeightShape& shape = model.plan().weights[static_cast<size_t>(weight)];
  const char* name = shape.name.c_str();
  CarriedWeight carried;
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<Part> parts, model.RowParts(weight, 0, shape.n, progress));
  if (!parts.empty() && parts[0].kind == PartKind::kDense) {
    carried.misfit = "no codes: it is dense";
    return carried;
  }
  LOWBIT_ASSIGN_OR_RETURN(const LinearParts linear, UnpackParts(name, shape.n, shape.k, parts, model.kernels().unpack_panel, model.pool()));
  const bool gptq = format == CarryFormat::kGptq;
  carried.misfit = gptq ? GptqMisfit(linear) : ContainerMisfit(linear);
  if (!carried.misfit.empty()) return carried;
  const AffineCodes& first = linear.affine[0];
  carried.bits = first.bits;
  carried.group_size = first.group_size;
  carried.symmetric = first.affine == AffineKind::kSymmetric;
  carried.ordered = !TrivialOrder(first);
  carried.least_zero = carried.largest_zero = 1 << (first.bits - 1);
  if (first.affine == AffineKind::kZeroPoint) {
    const auto [least, largest] = std::minmax_element(first.seconds.begin(), first.seconds.end());
    carried.least_zero = static_cast<int>(*least);
    carried.largest_zero = static_cast<int>(*largest);
  }
  if (!tensors) return carried;
  if (gptq && (carried.least_zero < zero_offset || carried.largest_zero - zero_offset >= 1 << first.bits))
    return Error(Code::kInvalidArgument, "%s has zero points from %d to %d, which version %d of a GPTQ checkpoint does not hold", name,
                 carried.least_zero, carried.largest_zero, zero_offset == 1 ? 1 : 2);
  carried.tensors = gptq ? GptqTensors(linear, zero_offset) : ContainerTensors(linear);
  return carried;
}

}  // namespace lowbit
