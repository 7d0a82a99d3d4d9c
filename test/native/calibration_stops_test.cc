// test/native: the schedule of a calibration, run on symbols instead of numbers: every op writes a hash of itself and of all it
// reads. Whatever the stops keep, drop and repeat, each linear op must see the symbols that one uninterrupted run shows it.
#include "engine/calibration_stops.h"

#include <cstdint>
#include <tuple>
#include <vector>

#include "check.h"

using namespace lowbit;

namespace {

using Columns = std::vector<std::vector<uint64_t>>;  // per buffer

uint64_t Mix(uint64_t a, uint64_t b) {
  a ^= b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2);
  a *= 0xff51afd7ed558ccdu;
  return a ^ (a >> 33);
}

void RunOps(const Plan& plan, int begin, int end, Columns* columns) {
  for (int i = begin; i < end; ++i) {
    const Op& op = plan.ops[size_t(i)];
    uint64_t value = uint64_t(i);
    const auto read = [&](const View& v) {
      for (int c = 0; c < v.width; ++c) value = Mix(value, (*columns)[size_t(v.buffer)][size_t(v.offset + c)]);
    };
    const auto write = [&](const View& v) {
      for (int c = 0; c < v.width; ++c) (*columns)[size_t(v.buffer)][size_t(v.offset + c)] = Mix(value, uint64_t(c));
    };
    if (op.kind != OpKind::kEmbed) read(op.in);
    if (op.kind == OpKind::kAttention || op.kind == OpKind::kGlu || op.kind == OpKind::kAdd || op.kind == OpKind::kExperts) read(op.in2);
    if (op.kind == OpKind::kExperts) {
      read(op.out);
      for (const View& room : {op.gathered, op.gate, op.up, op.gated, op.product}) write(room);
    }
    if (op.kind == OpKind::kAttention) read(op.in3);
    for (const LinearOutput& o : op.outputs)
      if (o.accumulate) read(o.out);
    if (op.kind == OpKind::kLinear) {
      for (const LinearOutput& o : op.outputs) write(o.out);
    } else {
      write(op.kind == OpKind::kRope || op.kind == OpKind::kSoftcap ? op.in : op.out);
    }
  }
}

Columns Stale(const Plan& plan) {
  static uint64_t salt = 1;
  Columns columns;
  for (const Buffer& b : plan.buffers) columns.emplace_back(size_t(b.width), Mix(++salt, 77));
  return columns;
}

uint64_t Symbol(const Columns& columns, const View& v) {
  uint64_t value = 0;
  for (int c = 0; c < v.width; ++c) value = Mix(value, columns[size_t(v.buffer)][size_t(v.offset + c)]);
  return value;
}

struct Outcome {
  int columns = 0;    // floats kept per row
  int stops = 0;      // at linear ops
  int unchanged = 0;  // areas that did not have to be written again
  int unsaved = 0;    // stops without a state
};

Outcome CheckSchedule(const Plan& plan, int max_columns = INT32_MAX) {
  Outcome outcome;
  const std::vector<StopPoint> stops = PlanStops(plan, max_columns, &outcome.columns);
  Columns straight = Stale(plan);
  int done = plan.prologue.begin;
  std::vector<uint64_t> state(size_t(outcome.columns), 0);
  const StopPoint* last = nullptr;
  for (const StopPoint& stop : stops) {
    const int here = stop.end() ? stop.resume : stop.linear;
    RunOps(plan, done, here, &straight);
    done = here;
    EXPECT(stop.end() ? stop.resume == plan.blocks[size_t(stop.block)].end : stop.resume <= stop.linear && !StopInputs(plan, stop).empty());

    Columns columns = Stale(plan);  // another sample came between
    const auto each = [&](const StopPoint& s, auto fn) {
      for (const KeptView& k : s.kept)
        for (int c = 0; c < k.view.width; ++c)
          fn(k, &state[size_t(k.column + c)], &columns[size_t(k.view.buffer)][size_t(k.view.offset + c)]);
    };
    if (last != nullptr) each(*last, [](const KeptView&, const uint64_t* kept, uint64_t* column) { *column = *kept; });
    RunOps(plan, last != nullptr ? last->resume : plan.prologue.begin, stop.resume, &columns);
    each(stop, [](const KeptView& k, uint64_t* kept, const uint64_t* column) {
      if (k.fresh) *kept = *column;
    });
    RunOps(plan, stop.resume, here, &columns);
    const View in = stop.end() ? View{plan.residual, 0, plan.hidden_size} : plan.ops[size_t(stop.linear)].in;
    EXPECT(Symbol(columns, in) == Symbol(straight, in));
    if (!stop.end() && plan.ops[size_t(stop.linear)].kind == OpKind::kExperts)
      EXPECT(Symbol(columns, plan.ops[size_t(stop.linear)].in2) == Symbol(straight, plan.ops[size_t(stop.linear)].in2));
    for (const KeptView& k : stop.kept) outcome.unchanged += !k.fresh;
    outcome.stops += !stop.end();
    outcome.unsaved += !stop.saved;
    if (stop.saved) last = &stop;
  }
  return outcome;
}

constexpr int kHidden = 6, kHeads = 4, kFeed = 10;
enum Buffers { kResidual, kNormed, kQkv, kAttended, kGateUp, kExtra };

Op Make(OpKind kind, View in, View out, View in2 = {}, View in3 = {}) {
  Op op;
  op.kind = kind;
  op.in = in;
  op.in2 = in2;
  op.in3 = in3;
  op.out = out;
  return op;
}

Op Linear(View in, std::vector<LinearOutput> outputs) {
  Op op;
  op.kind = OpKind::kLinear;
  op.in = in;
  op.outputs = std::move(outputs);
  return op;
}

// Blocks of a Llama (products add to the residual), or of a Gemma (norms behind the products, then an add).
Plan Decoder(int blocks, bool norms_behind) {
  Plan plan;
  plan.hidden_size = kHidden;
  plan.buffers = {{"x", kHidden}, {"h", kHidden}, {"qkv", 3 * kHeads}, {"a", kHeads}, {"f", 2 * kFeed}, {"e", kHidden}};
  const View x{kResidual, 0, kHidden}, h{kNormed, 0, kHidden}, e{kExtra, 0, kHidden}, a{kAttended, 0, kHeads};
  const View q{kQkv, 0, kHeads}, k{kQkv, kHeads, kHeads}, v{kQkv, 2 * kHeads, kHeads}, gate{kGateUp, 0, kFeed}, up{kGateUp, kFeed, kFeed};
  plan.ops.push_back(Make(OpKind::kEmbed, {}, x));
  plan.prologue = {0, 1};
  for (int b = 0; b < blocks; ++b) {
    const int begin = int(plan.ops.size());
    const auto product = [&](View in, int weight) {
      if (!norms_behind) {
        plan.ops.push_back(Linear(in, {{weight, x, true}}));
        return;
      }
      plan.ops.push_back(Linear(in, {{weight, e, false}}));
      plan.ops.push_back(Make(OpKind::kRmsNorm, e, e));
      plan.ops.push_back(Make(OpKind::kAdd, x, x, e));
    };
    plan.ops.push_back(Make(OpKind::kRmsNorm, x, h));
    plan.ops.push_back(Linear(h, {{0, q, false}, {1, k, false}, {2, v, false}}));
    plan.ops.push_back(Make(OpKind::kRope, q, {}));
    plan.ops.push_back(Make(OpKind::kAttention, q, a, k, v));
    product(a, 3);
    plan.ops.push_back(Make(OpKind::kRmsNorm, x, h));
    plan.ops.push_back(Linear(h, {{4, gate, false}, {5, up, false}}));
    plan.ops.push_back(Make(OpKind::kGlu, gate, gate, up));
    product(gate, 6);
    plan.blocks.push_back({begin, int(plan.ops.size())});
  }
  plan.epilogue = {int(plan.ops.size()), int(plan.ops.size())};
  return plan;
}

}  // namespace

LOWBIT_TEST(CalibrationStopsKeepWhatLaterOpsRead) {
  const Outcome llama = CheckSchedule(Decoder(3, false));
  EXPECT(llama.stops == 12);
  EXPECT(llama.columns == kHidden + kFeed);  // in front of the down projection; norms are run again, not kept
  EXPECT(llama.unchanged == 3 * 2 + 2);      // the residual, behind attention and the activation, and from block to block
  const Outcome gemma = CheckSchedule(Decoder(3, true));
  EXPECT(gemma.stops == 12);
  EXPECT(gemma.columns == kHidden + kFeed);
  EXPECT(gemma.unchanged == 3 * 2 + 2);
}

LOWBIT_TEST(CalibrationStopsWithoutRoomForWideStates) {
  for (const bool norms_behind : {false, true}) {
    // Room for everything but the state in front of the down projection: gate and up run twice.
    const Outcome most = CheckSchedule(Decoder(3, norms_behind), kHidden + kHeads);
    EXPECT(most.columns == kHidden + kHeads && most.unsaved == 3);
    // For the residual alone: a block runs from its beginning to the input of attention's output, and from there to that of down.
    const Outcome least = CheckSchedule(Decoder(3, norms_behind), 0);
    EXPECT(least.columns == kHidden && least.stops == 12);
    EXPECT(least.unsaved == 9);
  }
}

LOWBIT_TEST(CalibrationStopsOfBlocksWithoutLinearOps) {
  Plan plan = Decoder(2, false);
  const int begin = plan.blocks[0].begin, end = plan.blocks[0].end;
  for (int i = begin; i < end; ++i)
    if (plan.ops[size_t(i)].kind == OpKind::kLinear)
      plan.ops[size_t(i)] = Make(OpKind::kAdd, {kResidual, 0, 6}, {kResidual, 0, 6}, {kNormed, 0, 6});
  const Outcome outcome = CheckSchedule(plan);
  EXPECT(outcome.stops == 4);
  plan.blocks.clear();
  plan.epilogue = plan.prologue = {0, 0};
  int columns;
  EXPECT(PlanStops(plan, 100, &columns).empty() && columns == 1);
}

// Experts of a Mixtral-like block: all gates and ups, then all downs, as many experts a stop as their Hessians have room for.
LOWBIT_TEST(StopsOfExperts) {
  for (const auto& [width, gates, downs] : {std::tuple<int, int, int>{kFeed, 1, 1}, {8192, 1, 5}, {4096, 1, 2}}) {
    Plan plan = Decoder(2, false);
    plan.buffers.push_back({"route", 5});
    for (const int room : {kHidden, width, width, width, kHidden}) plan.buffers.push_back({"room", room});
    plan.weights.resize(32);
    for (OpRange& block : plan.blocks) {
      // In place of the feed-forward: the last three ops.
      Op route = Make(OpKind::kRoute, {kNormed, 0, kHidden}, {6, 0, 5});
      Op experts = Make(OpKind::kExperts, {kNormed, 0, kHidden}, {kResidual, 0, kHidden}, {6, 0, 5});
      experts.accumulate = true;
      experts.gathered = {7, 0, kHidden};
      experts.gate = {8, 0, width};
      experts.up = {9, 0, width};
      experts.gated = {10, 0, width};
      experts.product = {11, 0, kHidden};
      for (int e = 0; e < 5; ++e) experts.experts.push_back({7 + 3 * e, 8 + 3 * e, 9 + 3 * e});
      plan.ops[size_t(block.end - 3)] = route;
      plan.ops[size_t(block.end - 2)] = experts;
      plan.ops[size_t(block.end - 1)] = Make(OpKind::kAdd, {kResidual, 0, kHidden}, {kResidual, 0, kHidden}, {kResidual, 0, kHidden});
    }
    const Outcome outcome = CheckSchedule(plan);
    EXPECT(outcome.stops == 2 * (2 + gates + downs));
    EXPECT(outcome.columns == kHidden + kHidden + 5);  // in front of the experts: x, h and the routes
    int columns;
    std::vector<int> seen;
    for (const StopPoint& stop : PlanStops(plan, INT32_MAX, &columns)) {
      if (stop.block > 0 || stop.end() || plan.ops[size_t(stop.linear)].kind != OpKind::kExperts) continue;
      for (const StopInput& input : StopInputs(plan, stop)) {
        EXPECT(input.view.width == (stop.down ? width : kHidden) && input.expert >= 0);
        seen.insert(seen.end(), input.weights.begin(), input.weights.end());
      }
    }
    EXPECT(seen == (std::vector<int>{7, 8, 10, 11, 13, 14, 16, 17, 19, 20, 9, 12, 15, 18, 21}));
  }
}
