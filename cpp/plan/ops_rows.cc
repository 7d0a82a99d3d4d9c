// plan/: ops that make a row from rows: norms, activations, sums. They run on their own or, in front of a linear op, row by row
// while their rows are quantised.
#include <algorithm>
#include <cmath>

#include "plan/executor.h"

namespace lowbit {
namespace {

// Sum of f(0) .. f(count - 1) in a fixed order: as many independent sums as the narrowest vector units need to stay busy.
template <typename Fn>
float SumOf(size_t count, const Fn& f) {
  constexpr size_t kSums = 16;
  float sums[kSums] = {};
  size_t i = 0;
  for (; i + kSums <= count; i += kSums)
    for (size_t s = 0; s < kSums; ++s) sums[s] += f(i + s);
  for (size_t s = 0; i < count; ++i, ++s) sums[s] += f(i);
  for (size_t step = kSums / 2; step > 0; step /= 2)
    for (size_t s = 0; s < step; ++s) sums[s] += sums[s + step];
  return sums[0];
}

// y = (x - mean) / sqrt(variance + eps) * weight + bias, variance around the mean and over all of `width` (Ba et al. 2016). y may be x.
void LayerNorm(const float* x, const float* weight, const float* bias, float* y, size_t width, float eps) {
  const float mean = SumOf(width, [&](size_t i) { return x[i]; }) / static_cast<float>(width);
  const float squares = SumOf(width, [&](size_t i) { return (x[i] - mean) * (x[i] - mean); });
  const float factor = 1.0f / std::sqrt(squares / static_cast<float>(width) + eps);
  for (size_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

// y = activation(x); y may be x.
void Activate(const KernelTable& kernels, Activation activation, const float* x, float* y, size_t width) {
  switch (activation) {
    case Activation::kRelu:
      for (size_t i = 0; i < width; ++i) y[i] = x[i] < 0 ? 0.0f : x[i];  // NaN stays
      return;
    case Activation::kGelu:
      for (size_t i = 0; i < width; ++i) y[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678f));
      return;
    case Activation::kSilu:
    case Activation::kGeluTanh: {
      // The gated kernels, with ones for what the gate multiplies.
      static constexpr size_t kPiece = 64;
      alignas(64) static constexpr float kOnes[kPiece] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                                          1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                                          1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
      const auto gated = activation == Activation::kSilu ? kernels.silu_mul : kernels.gelu_tanh_mul;
      for (size_t i = 0; i < width; i += kPiece) gated(x + i, kOnes, y + i, std::min(kPiece, width - i));
      return;
    }
  }
}

}  // namespace

// Row r of what a norm, kGlu, kActivation or kAdd op writes.
void Executor::ComputeRow(const Op& op, int r, float* out) {
  const size_t width = static_cast<size_t>(op.out.width);
  const float* in = Row(op.in, r);
  if (op.kind == OpKind::kRmsNorm) {
    const float* weight = bindings_.vectors[static_cast<size_t>(op.index)].data();
    const size_t group = static_cast<size_t>(op.group);
    for (size_t c = 0; c < width; c += group) kernels_.rms_norm(in + c, weight, out + c, group, op.factor);
  } else if (op.kind == OpKind::kLayerNorm) {
    LayerNorm(in, bindings_.vectors[static_cast<size_t>(op.index)].data(), bindings_.vectors[static_cast<size_t>(op.bias)].data(), out,
              width, op.factor);
  } else if (op.kind == OpKind::kActivation) {
    Activate(kernels_, op.activation, in, out, width);
  } else if (op.kind == OpKind::kAdd) {
    kernels_.add(in, Row(op.in2, r), out, width);
  } else {
    (op.activation == Activation::kSilu ? kernels_.silu_mul : kernels_.gelu_tanh_mul)(in, Row(op.in2, r), out, width);
  }
}

// Whether and how the op before a linear op may produce its input rows on the way, as far as the plan decides.
InputRow Executor::ProducedRows(const Plan& plan, int index) {
  const Op& op = plan.ops[static_cast<size_t>(index)];
  if (op.kind != OpKind::kLinear || index == 0) return InputRow::kStored;
  const Op& before = plan.ops[static_cast<size_t>(index) - 1];
  if (before.kind != OpKind::kRmsNorm && before.kind != OpKind::kLayerNorm && before.kind != OpKind::kGlu &&
      before.kind != OpKind::kActivation)
    return InputRow::kStored;
  if (before.out.buffer != op.in.buffer || before.out.offset != op.in.offset || before.out.width != op.in.width) return InputRow::kStored;
  if (op.in.buffer == plan.residual || op.in.buffer == plan.logits.buffer) return InputRow::kProduced;
  int end = plan.epilogue.end;
  for (const OpRange& block : plan.blocks)
    if (index < block.end) {
      end = block.end;
      break;
    }
  const std::vector<View> live = LiveViews(plan, index + 1, end);
  const bool read_later = std::any_of(live.begin(), live.end(), [&](const View& view) { return Overlap(view, op.in); });
  return read_later ? InputRow::kProduced : InputRow::kPassing;
}

// And as far as the weights decide: they must be all integer ones in the order of the columns; two runs read the rows twice.
InputRow Executor::InputRowFor(const LinearOp& linear, InputRow planned) {
  for (const LinearRun& run : linear.runs)
    if (run.form != InputForm::kInt8Rows || run.permutation != nullptr || run.input_scale != nullptr) return InputRow::kStored;
  return linear.runs.size() > 1 && planned == InputRow::kPassing ? InputRow::kProduced : planned;
}

}  // namespace lowbit
