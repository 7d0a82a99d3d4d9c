// plan/: ops that make a row from rows: norms, gated activations, sums. They run on their own or, in front of a linear op, row by row
// while their rows are quantised.
#include <algorithm>

#include "plan/executor.h"

namespace lowbit {

// Row r of what a kRmsNorm, kGlu or kAdd op writes.
void Executor::ComputeRow(const Op& op, int r, float* out) {
  const size_t width = static_cast<size_t>(op.out.width);
  const float* in = Row(op.in, r);
  if (op.kind == OpKind::kRmsNorm) {
    const float* weight = bindings_.vectors[static_cast<size_t>(op.index)].data();
    const size_t group = static_cast<size_t>(op.group);
    for (size_t c = 0; c < width; c += group) kernels_.rms_norm(in + c, weight, out + c, group, op.factor);
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
  if (before.kind != OpKind::kRmsNorm && before.kind != OpKind::kGlu) return InputRow::kStored;
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
