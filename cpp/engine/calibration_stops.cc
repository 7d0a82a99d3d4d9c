// engine/calibration_stops: see calibration_stops.h. Looks at the plan only; runs nothing.
#include "engine/calibration_stops.h"

#include <algorithm>

namespace lowbit {
namespace {

int Columns(const std::vector<View>& views) {
  int columns = 0;
  for (const View& v : views) columns += v.width;
  return columns;
}

// The narrowest place between `first` and `linear`; the last one of equals.
int ResumePoint(const Plan& plan, const OpRange& block, int first, int linear) {
  int best = linear, narrowest = Columns(LiveViews(plan, linear, block.end));
  for (int i = linear - 1; i >= first; --i) {
    const OpKind kind = plan.ops[static_cast<size_t>(i)].kind;
    if (kind != OpKind::kRmsNorm && kind != OpKind::kLayerNorm && kind != OpKind::kAdd && kind != OpKind::kGlu) break;
    const int columns = Columns(LiveViews(plan, i, block.end));
    if (columns < narrowest) {
      best = i;
      narrowest = columns;
    }
  }
  return best;
}

// The lowest column at which `width` columns are free.
int FreeColumn(const std::vector<KeptView>& taken, int width) {
  int column = 0;
  for (bool moved = true; moved;) {
    moved = false;
    for (const KeptView& k : taken) {
      if (column + width <= k.column || k.column + k.view.width <= column) continue;
      column = k.column + k.view.width;
      moved = true;
    }
  }
  return column;
}

// What is live at `stop`: views unchanged since `previous` stay where they are, the others go where there is room.
std::vector<KeptView> Keep(const Plan& plan, const StopPoint* previous, const StopPoint& stop) {
  std::vector<KeptView> kept;
  std::vector<View> fresh;
  for (const View& view : LiveViews(plan, stop.resume, plan.blocks[static_cast<size_t>(stop.block)].end)) {
    const KeptView* same = nullptr;
    if (previous != nullptr && !Writes(plan, {previous->resume, stop.resume}, view))
      for (const KeptView& k : previous->kept)
        if (k.view.buffer == view.buffer && k.view.offset == view.offset && k.view.width == view.width) same = &k;
    if (same != nullptr)
      kept.push_back({view, same->column, false});
    else
      fresh.push_back(view);
  }
  for (const View& view : fresh) kept.push_back({view, FreeColumn(kept, view.width), true});
  return kept;
}

}  // namespace

std::vector<StopInput> StopInputs(const Plan& plan, const StopPoint& stop) {
  std::vector<StopInput> inputs;
  if (stop.end()) return inputs;
  const Op& op = plan.ops[static_cast<size_t>(stop.linear)];
  if (op.kind == OpKind::kLinear) {
    StopInput input;
    input.view = op.in;
    for (const LinearOutput& o : op.outputs) input.weights.push_back(o.weight);
    inputs.push_back(std::move(input));
  }
  for (int e = stop.expert_begin; e < stop.expert_end; ++e) {
    const Expert& expert = op.experts[static_cast<size_t>(e)];
    if (stop.down)
      inputs.push_back({e, op.gated, {expert.down}});
    else
      inputs.push_back({e, op.gathered, {expert.gate, expert.up}});
  }
  return inputs;
}

std::vector<StopPoint> PlanStops(const Plan& plan, int max_columns, int* columns) {
  std::vector<StopPoint> stops;
  *columns = 1;
  const auto add = [&](StopPoint stop, bool always) {
    const StopPoint* previous = nullptr;
    for (const StopPoint& s : stops)
      if (s.saved) previous = &s;
    stop.kept = Keep(plan, previous, stop);
    int width = 0;
    for (const KeptView& k : stop.kept) width = std::max(width, k.column + k.view.width);
    stop.saved = always || width <= max_columns;
    if (stop.saved)
      *columns = std::max(*columns, width);
    else
      stop.kept.clear();
    stops.push_back(std::move(stop));
  };
  for (size_t b = 0; b < plan.blocks.size(); ++b) {
    const OpRange& block = plan.blocks[b];
    int first = block.begin;
    for (int i = block.begin; i < block.end; ++i) {
      const Op& op = plan.ops[static_cast<size_t>(i)];
      if (op.kind != OpKind::kLinear && op.kind != OpKind::kExperts) continue;
      StopPoint stop;
      stop.block = static_cast<int>(b);
      stop.linear = i;
      stop.resume = ResumePoint(plan, block, first, i);
      const bool always = first == block.begin;
      if (op.kind == OpKind::kLinear) add(stop, always);
      const int experts = static_cast<int>(op.experts.size());
      for (int stage = 0; stage < 2 && experts > 0; ++stage) {
        stop.down = stage == 1;
        const int64_t k = stop.down ? op.gated.width : op.in.width;
        const int step = static_cast<int>(std::clamp<int64_t>(kStopHessianBytes / (4 * k * k), 1, experts));
        for (int e = 0; e < experts; e += step) {
          stop.expert_begin = e;
          stop.expert_end = std::min(experts, e + step);
          add(stop, always);
        }
      }
      first = i + 1;
    }
    StopPoint end;
    end.block = static_cast<int>(b);
    end.linear = -1;
    end.resume = block.end;
    add(std::move(end), true);
  }
  return stops;
}

}  // namespace lowbit
