// test/native: routers and experts, copies of heads and interleaved rotations against plain loops in doubles; plans of them that must be
// refused; and that a row of experts does not depend on its company.
#include <algorithm>
#include <cmath>
#include <random>

#include "base/cpu.h"
#include "check.h"
#include "kernel/chooser.h"
#include "part/packer.h"
#include "plan/executor.h"

using namespace lowbit;

namespace {

constexpr int kK = 64, kWide = 96, kExperts = 6;
enum { kX, kRoute, kOut, kGathered, kGate, kUp, kGated, kProduct };  // buffers

std::vector<float> Random(size_t count, uint32_t seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = scale * normal(generator);
  return values;
}

// route, then experts: weight 0 is the router, 1 + 3e .. 3 + 3e are gate, up and down of expert e.
Plan MakePlan() {
  Plan plan;
  plan.vocab_size = 1;
  plan.hidden_size = kK;
  plan.max_seq_len = 64;
  for (const auto& [name, width] : {std::pair<const char*, int>{"x", kK},
                                    {"route", kExperts},
                                    {"out", kK},
                                    {"gathered", kK},
                                    {"gate", kWide},
                                    {"up", kWide},
                                    {"gated", kWide},
                                    {"product", kK}})
    plan.buffers.push_back({name, width});
  plan.logits = {kRoute, 0, 1};
  plan.weights = {{"router", kExperts, kK, -1}};
  plan.vectors = {{"bias", kExperts}};
  Op route, experts;
  route.kind = OpKind::kRoute;
  route.in = {kX, 0, kK};
  route.out = {kRoute, 0, kExperts};
  route.bias = -1;
  route.top_k = 2;
  route.factor = 1;
  experts.kind = OpKind::kExperts;
  experts.in = {kX, 0, kK};
  experts.in2 = {kRoute, 0, kExperts};
  experts.out = {kOut, 0, kK};
  experts.accumulate = true;
  experts.gathered = {kGathered, 0, kK};
  experts.gate = {kGate, 0, kWide};
  experts.up = {kUp, 0, kWide};
  experts.gated = {kGated, 0, kWide};
  experts.product = {kProduct, 0, kK};
  for (int e = 0; e < kExperts; ++e) {
    plan.weights.push_back({"gate", kWide, kK, -1});
    plan.weights.push_back({"up", kWide, kK, -1});
    plan.weights.push_back({"down", kK, kWide, -1});
    experts.experts.push_back({1 + 3 * e, 2 + 3 * e, 3 + 3 * e});
  }
  plan.ops = {route, experts};
  plan.blocks = {{0, 2}};
  plan.epilogue = {2, 2};
  return plan;
}

std::vector<std::vector<float>> MakeWeights(const Plan& plan) {
  std::vector<std::vector<float>> weights;
  for (const WeightShape& w : plan.weights)
    weights.push_back(Random(static_cast<size_t>(w.n) * static_cast<size_t>(w.k), 100 + static_cast<uint32_t>(weights.size()), 0.2f));
  return weights;
}

// The rows of `out` after both ops, `step` rows at a time. integer: experts in 8 bits.
std::vector<float> Run(const Plan& plan, const std::vector<std::vector<float>>& weights, const std::vector<float>& x, int rows, int step,
                       const KernelTable& kernels, int threads, bool integer) {
  Pool pool(threads);
  Bindings bindings;
  bindings.vectors = {Random(kExperts, 7, 0.3f)};
  for (size_t i = 0; i < weights.size(); ++i) {
    const WeightShape& w = plan.weights[i];
    const char* name = w.name.c_str();
    auto packer = DensePacker(name, DType::kF32, reinterpret_cast<const uint8_t*>(weights[i].data()), w.n, w.k, {});
    EXPECT(packer.ok());
    auto part =
        PackWhole(integer && i > 0 ? RequantizingPacker(name, std::move(packer.value()), 8, kernels.unpack_panel) : std::move(packer));
    EXPECT(part.ok());
    bindings.weights.emplace_back();
    bindings.weights.back().push_back(std::move(part.value()));
  }
  auto executor = Executor::Create(plan, bindings, kernels, pool, integer, rows, 1);
  EXPECT(executor.ok());
  std::vector<float> out;
  for (int first = 0; first < rows; first += step) {
    const int count = std::min(step, rows - first);
    Batch batch;
    batch.rows = count;
    batch.segments = {{0, 0, count, 0}};
    EXPECT(executor.value()->Begin(batch).ok());
    std::copy_n(x.begin() + first * kK, count * kK, executor.value()->Row({kX, 0, kK}, 0));
    std::fill_n(executor.value()->Row({kOut, 0, kK}, 0), count * kK, 0.5f);
    EXPECT(executor.value()->Run({0, 2}, nullptr, nullptr).ok());
    out.insert(out.end(), executor.value()->Row({kOut, 0, kK}, 0), executor.value()->Row({kOut, 0, kK}, 0) + count * kK);
  }
  return out;
}

std::vector<double> MatVec(const std::vector<float>& w, int n, const std::vector<double>& x) {
  std::vector<double> y(static_cast<size_t>(n), 0);
  for (size_t i = 0; i < y.size(); ++i)
    for (size_t j = 0; j < x.size(); ++j) y[i] += static_cast<double>(w[i * x.size() + j]) * x[j];
  return y;
}

// What each expert counts for, from the definition in lib/graph/plan.ts.
std::vector<double> Routes(const Op& op, const std::vector<double>& logits, const std::vector<float>& bias) {
  const size_t experts = logits.size(), length = experts / static_cast<size_t>(op.groups);
  std::vector<double> scores(experts), choice(experts), routes(experts, 0);
  double sum = 0;
  for (size_t e = 0; e < experts; ++e) sum += std::exp(logits[e]);
  for (size_t e = 0; e < experts; ++e) {
    scores[e] = op.scoring == Scoring::kSoftmax ? std::exp(logits[e]) / sum : 1 / (1 + std::exp(-logits[e]));
    choice[e] = scores[e] + (op.bias >= 0 ? bias[e] : 0.0f);
  }
  std::vector<std::pair<double, size_t>> groups;
  for (size_t g = 0; g < experts / length; ++g) {
    std::vector<double> own(choice.begin() + static_cast<std::ptrdiff_t>(g * length),
                            choice.begin() + static_cast<std::ptrdiff_t>((g + 1) * length));
    std::sort(own.rbegin(), own.rend());
    groups.push_back({-(own[0] + (length > 1 ? own[1] : 0)), g});
  }
  std::sort(groups.begin(), groups.end());
  std::vector<std::pair<double, size_t>> order;
  for (size_t i = 0; i < static_cast<size_t>(op.top_groups); ++i)
    for (size_t e = groups[i].second * length; e < (groups[i].second + 1) * length; ++e) order.push_back({-choice[e], e});
  std::sort(order.begin(), order.end());
  double total = 0;
  for (int i = 0; i < op.top_k; ++i) total += scores[order[static_cast<size_t>(i)].second];
  for (int i = 0; i < op.top_k; ++i) {
    const size_t e = order[static_cast<size_t>(i)].second;
    routes[e] = scores[e] * op.factor / (op.normalise ? total : 1);
  }
  return routes;
}

}  // namespace

LOWBIT_TEST(ExpertsMatchPlainLoops) {
  const int rows = 23;
  const std::vector<float> x = Random(rows * kK, 1), bias = Random(kExperts, 7, 0.3f);
  std::vector<Op> routers;
  for (int i = 0; i < 4; ++i) {
    Op route = MakePlan().ops[0];
    if (i == 1) route.normalise = true;
    if (i >= 2) {
      route.scoring = Scoring::kSigmoid;
      route.bias = 0;
      route.normalise = true;
      route.factor = 2.5f;
    }
    if (i == 3) {
      route.groups = 3;
      route.top_groups = 2;
      route.top_k = 3;
    }
    routers.push_back(route);
  }
  for (const Op& route : routers) {
    Plan plan = MakePlan();
    plan.ops[0] = route;
    EXPECT(ValidatePlan(plan).ok());
    const auto weights = MakeWeights(plan);
    std::vector<double> expected;
    for (int r = 0; r < rows; ++r) {
      const std::vector<double> row(x.begin() + r * kK, x.begin() + (r + 1) * kK);
      const std::vector<double> routes = Routes(route, MatVec(weights[0], kExperts, row), bias);
      std::vector<double> out(kK, 0.5);
      for (size_t e = 0; e < kExperts; ++e) {
        if (routes[e] == 0) continue;
        std::vector<double> gated = MatVec(weights[1 + 3 * e], kWide, row);
        const std::vector<double> up = MatVec(weights[2 + 3 * e], kWide, row);
        for (size_t i = 0; i < gated.size(); ++i) gated[i] = gated[i] / (1 + std::exp(-gated[i])) * up[i];
        const std::vector<double> product = MatVec(weights[3 + 3 * e], kK, gated);
        for (size_t i = 0; i < out.size(); ++i) out[i] += routes[e] * product[i];
      }
      expected.insert(expected.end(), out.begin(), out.end());
    }
    for (const KernelCandidate& candidate : KernelCandidates()) {
      if (!candidate.usable) continue;
      const KernelTable& kernels = *ChooseKernels(IsaName(candidate.isa)).value();
      for (const bool integer : {false, true}) {
        const std::vector<float> actual = Run(plan, weights, x, rows, rows, kernels, 2, integer);
        double worst = 0;
        for (size_t i = 0; i < expected.size(); ++i) {
          const double error = std::fabs(actual[i] - expected[i]);
          if (!(error <= worst)) worst = error;
        }
        // Outputs reach 40. f32: some hundred roundings. int8: weights and activations are 2^-8 off, two products deep.
        EXPECT_NEAR(worst, 0, integer ? 0.6 : 2e-4);
      }
    }
  }
}

LOWBIT_TEST(ExpertsOfFewRowsAreReproducible) {
  const int rows = 16;
  const Plan plan = MakePlan();
  const auto weights = MakeWeights(plan);
  const std::vector<float> x = Random(rows * kK, 2);
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    const KernelTable& kernels = *ChooseKernels(IsaName(candidate.isa)).value();
    for (const bool integer : {false, true}) {
      const std::vector<float> single = Run(plan, weights, x, rows, 1, kernels, 1, integer);
      EXPECT(Run(plan, weights, x, rows, 5, kernels, 1, integer) == single);
      EXPECT(Run(plan, weights, x, rows, rows, kernels, 3, integer) == single);
    }
  }
}

// Not a number in a router must not look like a model without experts.
LOWBIT_TEST(RoutersPassOnWhatIsNotFinite) {
  const Plan plan = MakePlan();
  const auto weights = MakeWeights(plan);
  std::vector<float> x = Random(2 * kK, 3);
  x[kK + 5] = std::nanf("");
  const std::vector<float> out = Run(plan, weights, x, 2, 2, *ChooseKernels("ref").value(), 1, false);
  EXPECT(std::all_of(out.begin(), out.begin() + kK, [](float v) { return std::isfinite(v); }));
  EXPECT(std::all_of(out.begin() + kK, out.end(), [](float v) { return std::isnan(v); }));
}

LOWBIT_TEST(BadExpertPlansAreRefused) {
  EXPECT(ValidatePlan(MakePlan()).ok());
  const auto broken = [](auto change, const char* text) {
    Plan plan = MakePlan();
    change(plan.ops[0], plan.ops[1], plan);
    EXPECT_ERROR(ValidatePlan(plan), Code::kInvalidArgument, text);
  };
  broken([](Op& route, Op&, Plan&) { route.index = 99; }, "weight out of range");
  broken([](Op& route, Op&, Plan&) { route.index = 1; }, "views do not fit the router");
  broken([](Op& route, Op&, Plan&) { route.bias = 1; }, "the bias does not fit");
  broken([](Op& route, Op&, Plan&) { route.bias = -2; }, "the bias does not fit");
  broken([](Op& route, Op&, Plan&) { route.groups = 4; }, "groups do not fit");
  broken([](Op& route, Op&, Plan&) { route.groups = 0; }, "groups do not fit");
  broken([](Op& route, Op&, Plan&) { route.top_groups = 2; }, "groups do not fit");
  broken([](Op& route, Op&, Plan&) { route.top_k = 7; }, "more experts wanted");
  broken(
      [](Op& route, Op&, Plan&) {
        route.groups = 3;
        route.top_groups = 1;
        route.top_k = 3;
      },
      "more experts wanted");
  broken([](Op& route, Op&, Plan& p) { p.weights[0].bias = 0, route.factor = 1; }, "views do not fit the router");
  broken([](Op&, Op& experts, Plan&) { experts.experts.pop_back(); }, "differ in number");
  broken([](Op&, Op& experts, Plan&) { experts.experts.clear(); }, "differ in number");
  broken([](Op&, Op& experts, Plan&) { experts.experts[3].up = 100; }, "weight out of range");
  broken([](Op&, Op& experts, Plan&) { experts.experts[3].up = 3; }, "differs from the weight's");
  broken([](Op&, Op& experts, Plan&) { experts.gated = experts.gate; }, "views overlap");
  broken([](Op&, Op& experts, Plan&) { experts.out = experts.in; }, "views overlap");
  broken([](Op&, Op& experts, Plan&) { experts.product.buffer = -1; }, "view out of range");
  broken([](Op&, Op& experts, Plan&) { experts.gathered.width = kK - 1; }, "the room for rows");
}

// Heads of 5 columns spread to heads of 9 with 2 zeros behind them, one head broadcast, and what lies between stays.
LOWBIT_TEST(CopiesOfHeads) {
  Plan plan;
  plan.vocab_size = 1;
  plan.hidden_size = 20;
  plan.max_seq_len = 8;
  plan.buffers = {{"x", 20}, {"y", 27}};
  plan.logits = {0, 0, 1};
  Op spread;
  spread.kind = OpKind::kCopy;
  spread.in = {0, 1, 17};  // heads at 1, 7, 13
  spread.out = {1, 0, 25};
  spread.n_heads = 3;
  spread.width = 5;
  spread.zeros = 2;
  spread.in_stride = 6;
  spread.out_stride = 9;
  Op shared = spread;
  shared.in = {0, 18, 2};
  shared.out = {1, 7, 20};
  shared.width = 2;
  shared.zeros = 0;
  shared.in_stride = 0;
  plan.ops = {spread, shared};
  plan.blocks = {{0, 2}};
  plan.epilogue = {2, 2};
  EXPECT(ValidatePlan(plan).ok());
  Pool pool(2);
  const Bindings bindings;
  auto executor = Executor::Create(plan, bindings, *ChooseKernels("ref").value(), pool, false, 2, 1);
  Batch batch;
  batch.rows = 2;
  batch.segments = {{0, 0, 2, 0}};
  EXPECT(executor.ok() && executor.value()->Begin(batch).ok());
  for (int r = 0; r < 2; ++r)
    for (int c = 0; c < 20; ++c) executor.value()->Row({0, 0, 20}, r)[c] = static_cast<float>(100 * r + c);
  EXPECT(executor.value()->Run({0, 2}, nullptr, nullptr).ok());
  for (int r = 0; r < 2; ++r)
    for (int h = 0; h < 3; ++h) {
      const float* head = executor.value()->Row({1, 0, 27}, r) + 9 * h;
      for (int c = 0; c < 5; ++c) EXPECT(head[c] == static_cast<float>(100 * r + 1 + 6 * h + c));
      EXPECT(head[5] == 0 && head[6] == 0);
      EXPECT(head[7] == static_cast<float>(100 * r + 18) && head[8] == static_cast<float>(100 * r + 19));
    }
  const auto broken = [&](auto change, const char* text) {
    Plan bad = plan;
    change(bad.ops[0]);
    EXPECT_ERROR(ValidatePlan(bad), Code::kInvalidArgument, text);
  };
  broken([](Op& op) { op.n_heads = 4; }, "views do not span the heads");
  broken([](Op& op) { op.n_heads = 0; }, "sizes out of range");
  broken([](Op& op) { op.zeros = -1; }, "sizes out of range");
  broken([](Op& op) { op.in_stride = 0x7fffffff; }, "views do not span the heads");
  broken([](Op& op) { op.out.buffer = 2; }, "view out of range");
  broken([](Op& op) { op.out_stride = 6, op.out.width = 19; }, "heads overlap");
  broken([](Op& op) { op.in_stride = 4, op.in.width = 13; }, "heads overlap");
}

// Pairs that lie side by side, in the last columns of every head.
LOWBIT_TEST(InterleavedRotation) {
  Plan plan;
  plan.vocab_size = 1;
  plan.hidden_size = 14;
  plan.max_seq_len = 64;
  plan.buffers = {{"x", 14}};
  plan.logits = {0, 0, 1};
  plan.ropes = {{{0.7, 0.1}, 1.5}};
  Op op;
  op.kind = OpKind::kRope;
  op.in = {0, 0, 14};
  op.n_heads = 2;
  op.head_dim = 7;
  op.offset = 3;
  op.interleaved = true;
  plan.ops = {op};
  plan.blocks = {{0, 1}};
  plan.epilogue = {1, 1};
  EXPECT(ValidatePlan(plan).ok());
  const std::vector<float> x = Random(14, 4);
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    Pool pool(1);
    const Bindings bindings;
    auto executor = Executor::Create(plan, bindings, *ChooseKernels(IsaName(candidate.isa)).value(), pool, false, 1, 1);
    Batch batch;
    batch.rows = 1;
    batch.segments = {{0, 0, 1, 11}};
    EXPECT(executor.ok() && executor.value()->Begin(batch).ok());
    float* row = executor.value()->Row({0, 0, 14}, 0);
    std::copy(x.begin(), x.end(), row);
    EXPECT(executor.value()->Run({0, 1}, nullptr, nullptr).ok());
    for (int h = 0; h < 2; ++h) {
      const float *from = x.data() + 7 * h, *to = row + 7 * h;
      for (int c = 0; c < 3; ++c) EXPECT(to[c] == from[c]);
      for (int i = 0; i < 2; ++i) {
        const double angle = 11 * plan.ropes[0].inverse_frequencies[static_cast<size_t>(i)], a = from[3 + 2 * i], b = from[4 + 2 * i];
        EXPECT_NEAR(to[3 + i], 1.5 * (a * std::cos(angle) - b * std::sin(angle)), 1e-6);
        EXPECT_NEAR(to[5 + i], 1.5 * (b * std::cos(angle) + a * std::sin(angle)), 1e-6);
      }
    }
  }
  plan.ops[0].offset = 4;
  EXPECT_ERROR(ValidatePlan(plan), Code::kInvalidArgument, "head sizes do not fit");
  plan.ops[0].offset = -1;
  EXPECT_ERROR(ValidatePlan(plan), Code::kInvalidArgument, "head sizes do not fit");
}
