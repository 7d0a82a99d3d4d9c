// plan/: mixtures of experts. `route` scores the experts of each row and chooses some; `experts` runs the chosen ones, one after the other,
// each over the rows that were routed to it, which are gathered first. Of the experts' weights, only those of chosen ones are read.
//
// A row's bits do not depend on its company: routers run row by row in f32, products keep the rule of ops_linear.cc, and the outputs of a
// row's experts are added in the order of the experts.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "plan/executor.h"

namespace lowbit {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Index of the largest of values[0, count), the lowest of equals; -1 when nothing is above minus infinity.
int Best(const float* values, int count) {
  int best = -1;
  float highest = kNever;
  for (int i = 0; i < count; ++i)
    if (values[i] > highest) {
      highest = values[i];
      best = i;
    }
  return best;
}

// Leaves the experts of the op's top_groups groups with the highest sum of their two best, sets the others to minus infinity
// (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
void LimitGroups(const Op& op, float* choice, int experts) {
  const int length = experts / op.groups;
  float sums[kMaxExperts];
  for (int g = 0; g < op.groups; ++g) {
    float first = kNever, second = kNever;
    for (int i = g * length; i < (g + 1) * length; ++i) {
      if (choice[i] > first) {
        second = first;
        first = choice[i];
      } else if (choice[i] > second) {
        second = choice[i];
      }
    }
    sums[g] = length > 1 ? first + second : first;
  }
  bool kept[kMaxExperts] = {};
  for (int i = 0; i < op.top_groups; ++i) {
    const int g = Best(sums, op.groups);
    if (g < 0) break;
    kept[g] = true;
    sums[g] = kNever;
  }
  for (int e = 0; e < experts; ++e)
    if (!kept[e / length]) choice[e] = kNever;
}

// Router outputs -> what each expert counts for, in place.
void RouteRow(const Op& op, const float* bias, float* row) {
  const int experts = op.out.width;
  bool finite = true;
  for (int e = 0; e < experts; ++e) finite = finite && std::isfinite(row[e]);
  if (!finite) {  // whoever looks at the logits shall see it
    std::fill(row, row + experts, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  float scores[kMaxExperts], choice[kMaxExperts];
  if (op.scoring == Scoring::kSoftmax) {
    const float highest = *std::max_element(row, row + experts);
    float sum = 0;
    for (int e = 0; e < experts; ++e) sum += scores[e] = std::exp(row[e] - highest);
    for (int e = 0; e < experts; ++e) scores[e] /= sum;
  } else {
    for (int e = 0; e < experts; ++e) scores[e] = 1.0f / (1.0f + std::exp(-row[e]));
  }
  for (int e = 0; e < experts; ++e) choice[e] = bias == nullptr ? scores[e] : scores[e] + bias[e];
  if (op.top_groups < op.groups) LimitGroups(op, choice, experts);
  std::fill(row, row + experts, 0.0f);
  float sum = 0;
  for (int i = 0; i < op.top_k; ++i) {
    const int e = Best(choice, experts);
    if (e < 0) break;
    choice[e] = kNever;
    row[e] = scores[e];
    sum += scores[e];
  }
  // All sigmoids may round to zero: the smallest addend that keeps 0 / 0 away, as transformers has it.
  const float factor = op.normalise ? op.factor / (sum + 1e-20f) : op.factor;
  for (int e = 0; e < experts; ++e) row[e] *= factor;
}

}  // namespace

Status Executor::PrepareExperts(const Op& op, ExpertsOp* prepared) const {
  prepared->glu = ExpertGlu(op);
  prepared->up.assign(op.experts.size(), {});
  prepared->down.assign(op.experts.size(), {});
  for (size_t e = 0; e < op.experts.size(); ++e) {
    LOWBIT_RETURN_IF_ERROR(PrepareLinear(ExpertUp(op, op.experts[e]), &prepared->up[e]));
    LOWBIT_RETURN_IF_ERROR(PrepareLinear(ExpertDown(op, op.experts[e]), &prepared->down[e]));
    prepared->down[e].input = InputRowFor(prepared->down[e], InputRow::kPassing);
  }
  return Status::Ok();
}

Status Executor::Route(const Op& op, int rows) {
  const std::vector<Part>& parts = bindings_.weights[static_cast<size_t>(op.index)];
  const bool plain = parts.size() == 1 && parts[0].kind == PartKind::kDense && parts[0].permutation.empty() && parts[0].rows.empty() &&
                     parts[0].input_scale.empty();
  if (!plain)
    return Error(Code::kUnsupported, "Router %s must be one dense matrix; leave it as it was published",
                 plan_.weights[static_cast<size_t>(op.index)].name.c_str());
  const PackedView& w = parts[0].view;
  const float* bias = op.bias >= 0 ? bindings_.vectors[static_cast<size_t>(op.bias)].data() : nullptr;
  const int panels = (w.n + kPanelRows - 1) / kPanelRows;
  const auto route = [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      kernels_.dense_gemv(w, Row(op.in, r), Row(op.out, r), 0, panels, false);
      RouteRow(op, bias, Row(op.out, r));
    }
  };
  // Products of fewer weights than this are done before a worker is awake.
  constexpr int64_t kMinParallelProducts = 1 << 17;
  if (static_cast<int64_t>(rows) * w.n * w.k < kMinParallelProducts)
    route(0, rows);
  else
    ForRows(rows, route);
  return Status::Ok();
}

int Executor::GatherExpert(int index, int expert, int rows) {
  const Op& op = plan_.ops[static_cast<size_t>(index)];
  routed_.clear();
  for (int r = 0; r < rows; ++r)
    if (Row(op.in2, r)[expert] != 0) routed_.push_back(r);
  for (size_t i = 0; i < routed_.size(); ++i)
    std::memcpy(Row(op.gathered, static_cast<int>(i)), Row(op.in, routed_[i]), static_cast<size_t>(op.in.width) * sizeof(float));
  return static_cast<int>(routed_.size());
}

Result<int> Executor::RunExpertUp(int index, int expert, int rows) {
  const int count = GatherExpert(index, expert, rows);
  if (count > 0) {
    const ExpertsOp& prepared = experts_[static_cast<size_t>(index)];
    LOWBIT_RETURN_IF_ERROR(Linear(prepared.up[static_cast<size_t>(expert)], count, nullptr));
    for (int r = 0; r < count; ++r) ComputeRow(prepared.glu, r, Row(prepared.glu.out, r));
  }
  return count;
}

Status Executor::Experts(int index, int rows) {
  const Op& op = plan_.ops[static_cast<size_t>(index)];
  const ExpertsOp& prepared = experts_[static_cast<size_t>(index)];
  const size_t width = static_cast<size_t>(op.out.width);
  if (!op.accumulate)
    for (int r = 0; r < rows; ++r) std::fill_n(Row(op.out, r), width, 0.0f);
  for (size_t e = 0; e < op.experts.size(); ++e) {
    const int count = GatherExpert(index, static_cast<int>(e), rows);
    if (count == 0) continue;
    LOWBIT_RETURN_IF_ERROR(Linear(prepared.up[e], count, nullptr));
    const bool stored = prepared.down[e].input == InputRow::kStored;
    if (stored)
      ForRows(count, [&](int begin, int end) {
        for (int r = begin; r < end; ++r) ComputeRow(prepared.glu, r, Row(prepared.glu.out, r));
      });
    LOWBIT_RETURN_IF_ERROR(Linear(prepared.down[e], count, stored ? nullptr : &prepared.glu));
    for (int i = 0; i < count; ++i) {
      const float* from = Row(op.product, i);
      float* to = Row(op.out, routed_[static_cast<size_t>(i)]);
      const float factor = Row(op.in2, routed_[static_cast<size_t>(i)])[e];
      for (size_t c = 0; c < width; ++c) to[c] += factor * from[c];
    }
  }
  return Status::Ok();
}

}  // namespace lowbit
