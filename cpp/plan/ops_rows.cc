// plan/: ops that make a row from rows: norms, gated activations, sums. They run on their own or, in front of a linear op, row by row
// while their rows are quantised.
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

// Whether and how the op before linear op `index` produces its input rows on the way.
InputRow Executor::ProducedRows(int index) const {
  const Op& op = plan_.ops[static_cast<size_t>(index)];
  const LinearOp& linear = linears_[static_cast<size_t>(index)];
  if (index == 0) return InputRow::kStored;
  const Op& before = plan_.ops[static_cast<size_t>(index) - 1];
  if (before.kind != OpKind::kRmsNorm && before.kind != OpKind::kGlu) return InputRow::kStored;
  if (before.out.buffer != op.in.buffer || before.out.offset != op.in.offset || before.out.width != op.in.width) return InputRow::kStored;
  for (const LinearRun& run : linear.runs)
    if (run.form != InputForm::kInt8Rows || run.permutation != nullptr) return InputRow::kStored;
  if (linear.runs.size() > 1 || op.in.buffer == plan_.residual || op.in.buffer == plan_.logits.buffer) return InputRow::kProduced;
  int end = plan_.epilogue.end;
  for (const OpRange& block : plan_.blocks)
    if (index < block.end) {
      end = block.end;
      break;
    }
  for (const View& view : LiveViews(plan_, index + 1, end))
    if (view.buffer == op.in.buffer && view.offset < op.in.offset + op.in.width && op.in.offset < view.offset + view.width)
      return InputRow::kProduced;
  return InputRow::kPassing;
}

}  // namespace lowbit
