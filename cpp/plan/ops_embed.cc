// plan/: the ops that look rows up in a table: by token, or by position and added to what is there.
#include "plan/executor.h"
#include "plan/scratch.h"

namespace lowbit {

Status Executor::Embed(const Op& op, int rows) {
  const std::vector<Part>& parts = bindings_.weights[static_cast<size_t>(op.index)];
  if (parts.empty()) return Error(Code::kInternal, "The embedding is not in memory");
  const size_t width = static_cast<size_t>(op.out.width);
  for (const Part& part : parts)
    if (!part.panelled() || !part.permutation.empty() || !part.rows.empty() || !part.input_scale.empty())
      return Error(Code::kUnsupported,
                   "The embedding must be dense or affine parts of all rows, without an order or scales of its columns; quantise it again");
  if (op.kind == OpKind::kEmbedPosition)
    for (int r = 0; r < rows; ++r)
      if (positions_[static_cast<size_t>(r)] >= plan_.max_seq_len)
        return Error(Code::kInvalidArgument, "Position %d is beyond the model's limit of %d tokens", positions_[static_cast<size_t>(r)],
                     plan_.max_seq_len);
  // One token's row is a lane of its panel; unpacking the panel costs 16 rows but keeps a single copy of a table that
  // tied models also use as head.
  const auto embed = [&](int r, float* panel) {
    const bool adds = op.kind == OpKind::kEmbedPosition;
    const int row = adds ? positions_[static_cast<size_t>(r)] + op.shift : batch_.tokens[r];
    float* to = Row(op.out, r);
    for (size_t i = 0; i < parts.size(); ++i) {
      const PackedView& w = parts[i].view;
      for (size_t k0 = 0; k0 < width; k0 += kExactColumns) {
        const size_t kc = std::min(kExactColumns, width - k0);
        kernels_.unpack_panel(w, row / kPanelRows, static_cast<int>(k0), static_cast<int>(kc), panel);
        for (size_t j = 0; j < kc; ++j) {
          const float value = panel[j * kPanelRows + static_cast<size_t>(row % kPanelRows)] * (adds ? 1.0f : op.factor);
          to[k0 + j] = i == 0 && !adds ? value : to[k0 + j] + value;
        }
      }
    }
  };
  pool_.Run(rows, [&](int r, int worker) { embed(r, reinterpret_cast<float*>(ThreadScratch(worker))); });
  return Status::Ok();
}

}  // namespace lowbit
