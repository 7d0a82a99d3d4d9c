// engine/encode_weight: see encode_weight.h.
#include "engine/encode_weight.h"

#include <algorithm>

#include "base/half.h"
#include "part/gguf_encode.h"
#include "part/layout.h"
#include "quantize/block_grid.h"
#include "quantize/proxy_error.h"
#include "quantize/rtn.h"

namespace lowbit {
namespace {

float AsHalf(float x) { return HalfToFloat(FloatToHalf(x)); }

// Codes, scales and minima of an affine part as they stand, where the block type has room for them; false where not. Minima are rounded to
// f16.
bool CarryOver(const std::vector<Part>& parts, const BlockType& type, QuantizedLinear* q) {
  if (parts.size() != 1 || parts[0].kind != PartKind::kAffine || type.coded) return false;
  const Part& part = parts[0];
  const PackedView& view = part.view;
  if (!part.permutation.empty() || !part.rows.empty() || !part.input_scale.empty() || view.group_size % type.group_size != 0) return false;
  if (!type.has_minimum && view.affine == AffineKind::kMinimum) return false;
  const AffineLayout layout(view);
  const int half = 1 << (type.bits - 1), most = 2 * half - 1;
  if (type.has_minimum) q->minima.resize(q->scales.size());
  for (int r = 0; r < q->n; ++r) {
    const uint8_t* panel = view.data + static_cast<size_t>(r / kPanelRows) * view.panel_bytes;
    for (int g = 0; g < q->groups; ++g) {
      const int first = g * type.group_size;
      float scales[kPanelRows], seconds[kPanelRows];
      LoadRecord(view, layout, panel, static_cast<size_t>(first / view.group_size), scales, seconds);
      const float scale = scales[r % kPanelRows], second = seconds[r % kPanelRows];
      if (!(scale >= 0) || AsHalf(scale) != scale) return false;
      const size_t grid = static_cast<size_t>(r) * static_cast<size_t>(q->groups) + static_cast<size_t>(g);
      q->scales[grid] = scale;
      q->zeros[grid] = static_cast<uint8_t>(half);
      if (type.has_minimum) q->minima[grid] = AsHalf(view.affine == AffineKind::kMinimum ? second : -scale * second);
      const int shift = type.has_minimum ? 0 : half - static_cast<int>(second);
      for (int c = first; c < first + type.group_size; ++c) {
        const int code = CodeAt(view, r, c) + shift;
        if (code < 0 || code > most) return false;
        q->codes[static_cast<size_t>(r) * static_cast<size_t>(q->k) + static_cast<size_t>(c)] = static_cast<uint8_t>(code);
      }
    }
  }
  return true;
}

}  // namespace

Result<EncodedWeight> EncodeWeight(Model& model, int weight, DType dtype, int begin, int end, const Progress& progress) {
  if (weight < 0 || weight >= static_cast<int>(model.plan().weights.size()))
    return Error(Code::kInvalidArgument, "Weight %d is not in the plan", weight);
  const WeightShape& shape = model.plan().weights[static_cast<size_t>(weight)];
  const char* name = shape.name.c_str();
  LOWBIT_ASSIGN_OR_RETURN(const std::vector<Part> parts, model.RowParts(weight, begin, end, progress));
  const int rows = end - begin;
  const std::vector<float> dense = SumOfParts(parts, rows, shape.k, model.kernels().unpack_panel);
  EncodedWeight encoded;
  for (const float value : dense) encoded.norm += double(value) * double(value);
  const BlockType* type = FindBlockType(dtype);
  if (type == nullptr) {
    LOWBIT_RETURN_IF_ERROR(EncodeDense(name, dtype, dense, &encoded.bytes));
    std::vector<float> back(dense.size());
    LOWBIT_RETURN_IF_ERROR(DecodeGguf(dtype, encoded.bytes.data(), static_cast<int64_t>(dense.size()), back.data()));
    for (size_t i = 0; i < dense.size(); ++i) {
      const double rest = double(dense[i]) - double(back[i]);
      encoded.error += rest * rest;
    }
    return encoded;
  }
  QuantizeOptions options;
  options.block_type = dtype;
  options.mse = 2;
  LOWBIT_ASSIGN_OR_RETURN(options, WithBlockType(name, options, shape.k));
  QuantizedLinear linear = EmptyResult(rows, shape.k, options);
  if (CarryOver(parts, *type, &linear)) {
    LOWBIT_ASSIGN_OR_RETURN(linear.error, RelativeError(linear, dense, HessianView(), model.kernels(), model.pool()));
  } else {
    LOWBIT_ASSIGN_OR_RETURN(linear,
                            Quantize(Method::kRtn, name, dense, rows, shape.k, HessianView(), options, model.kernels(), model.pool()));
  }
  LOWBIT_ASSIGN_OR_RETURN(encoded.bytes, BlocksOf(name, linear));
  encoded.error = linear.error * encoded.norm;
  return encoded;
}

}  // namespace lowbit
