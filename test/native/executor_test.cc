// test/native: attention, linear and liveness of the executor against straightforward double-precision loops.
#include "plan/executor.h"

#include <cmath>
#include <random>

#include "base/cpu.h"
#include "check.h"
#include "kernel/chooser.h"

using namespace lowbit;

namespace {

std::vector<float> Random(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(generator);
  return values;
}

struct AttentionCase {
  int n_heads, n_kv_heads, head_dim, window;
  float softcap;
  bool f16;
  std::vector<int> steps;  // rows of successive batches
  bool fast = false;
};

// One attention op over successive batches of one sequence, against a plain softmax per row. Returns the outputs of all rows.
std::vector<float> RunAttention(const AttentionCase& c, const KernelTable& kernels, Pool& pool) {
  const int q = c.n_heads * c.head_dim, kv = c.n_kv_heads * c.head_dim;
  Plan plan;
  plan.vocab_size = 1;
  plan.hidden_size = q;
  plan.max_seq_len = 4096;
  plan.buffers = {{"qkv", q + 2 * kv}, {"out", q}};
  plan.caches = {{c.n_kv_heads, c.head_dim}};
  Op op;
  op.kind = OpKind::kAttention;
  op.in = {0, 0, q};
  op.in2 = {0, q, kv};
  op.in3 = {0, q + kv, kv};
  op.out = {1, 0, q};
  op.n_heads = c.n_heads;
  op.n_kv_heads = c.n_kv_heads;
  op.head_dim = c.head_dim;
  op.window = c.window;
  op.softcap = c.softcap;
  op.factor = 0.3f;
  plan.ops = {op};
  plan.blocks = {{0, 1}};
  plan.epilogue = {1, 1};
  int total = 0;
  for (int s : c.steps) total += s;
  const Bindings bindings;
  auto cache = KvCache::Create(plan.caches, 2, total, c.f16);  // before the executor, whose late workers may read it
  auto executor = Executor::Create(plan, bindings, kernels, pool, c.fast, total, 1);
  std::vector<float> outputs;
  if (!EXPECT(executor.ok() && cache.ok())) return outputs;
  const std::vector<float> rows = Random(static_cast<size_t>(total) * static_cast<size_t>(q + 2 * kv), 5);
  const auto at = [&](int token, int column) {
    return static_cast<double>(rows[static_cast<size_t>(token) * static_cast<size_t>(q + 2 * kv) + static_cast<size_t>(column)]);
  };
  int past = 0;
  double worst = 0;
  for (int count : c.steps) {
    Batch batch;
    batch.rows = count;
    batch.segments = {{1, 0, count, past}};
    EXPECT(executor.value()->Begin(batch).ok());
    for (int t = 0; t < count; ++t)
      for (int j = 0; j < q + 2 * kv; ++j) executor.value()->Row({0, 0, q + 2 * kv}, t)[j] = static_cast<float>(at(past + t, j));
    EXPECT(executor.value()->Run({0, 1}, &cache.value(), nullptr).ok());
    for (int t = 0; t < count; ++t) {
      const float* row = executor.value()->Row(op.out, t);
      outputs.insert(outputs.end(), row, row + q);
    }
    // Of a long batch every 37th row and the last are compared.
    for (int t = 0; t < count; t += t + 1 == count ? 1 : std::min(count > 100 ? 37 : 1, count - 1 - t))
      for (int h = 0; h < c.n_heads; ++h) {
        const int position = past + t, kv_head = h / (c.n_heads / c.n_kv_heads);
        const int from = c.window > 0 ? std::max(0, position - c.window + 1) : 0;
        std::vector<double> p;
        double sum = 0;
        for (int j = from; j <= position; ++j) {
          double score = 0;
          for (int d = 0; d < c.head_dim; ++d) score += at(position, h * c.head_dim + d) * at(j, q + kv_head * c.head_dim + d);
          score *= 0.3f;
          if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
          p.push_back(std::exp(score));
          sum += p.back();
        }
        for (int d = 0; d < c.head_dim; ++d) {
          double expected = 0;
          for (int j = from; j <= position; ++j)
            expected += p[static_cast<size_t>(j - from)] / sum * at(j, q + kv + kv_head * c.head_dim + d);
          const double error = std::fabs(executor.value()->Row(op.out, t)[h * c.head_dim + d] - expected);
          if (!(error <= worst)) worst = error;
        }
      }
    past += count;
  }
  // f32: scores of magnitude up to 40 carry 40*2^-23 error, which exp turns into a relative 5e-6 of values up to 5;
  // f16 keys and values add 2^-11 relative to both.
  EXPECT_NEAR(worst, 0, c.f16 ? 3e-2 : 1e-4);
  return outputs;
}

}  // namespace

LOWBIT_TEST(AttentionMatchesPlainSoftmax) {
  Pool pool(3);
  const std::vector<AttentionCase> cases = {
      {4, 4, 16, 0, 0, false, {1, 1, 5, 40, 1}},
      {9, 3, 64, 0, 0, false, {70, 1, 1, 300}},
      {6, 2, 32, 0, 0, true, {33, 1, 17}},
      {4, 2, 24, 7, 0, false, {20, 1, 30, 1}},
      {2, 1, 80, 0, 5, false, {19, 1, 2}},
      {4, 1, 16, 300, 30, false, {600, 1, 3}},
      {1, 1, 288, 0, 0, false, {5, 1}},
      {40, 1, 8, 16, 0, true, {50, 1}},
      // over an f16 cache in the fast path: few rows, several blocks of keys, windows that begin inside a block
      {6, 2, 32, 0, 0, true, {33, 1, 8, 17, 2}, true},
      {9, 3, 64, 0, 0, true, {700, 1, 5}, true},
      {4, 2, 24, 7, 0, true, {20, 1, 3, 1}, true},
      {4, 1, 80, 300, 30, true, {800, 1, 3}, true},
      {10, 2, 16, 0, 0, true, {1, 1, 1, 40, 4}, true},
      {1, 1, 8, 0, 0, true, {4200, 1, 2}, true},
  };
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    const auto kernels = ChooseKernels(IsaName(candidate.isa));
    if (!EXPECT(kernels.ok())) continue;
    for (const AttentionCase& c : cases) RunAttention(c, *kernels.value(), pool);
  }
}

// The bits of a row depend neither on the rows that share its step, up to eight of one sequence, nor on the number of threads.
LOWBIT_TEST(AttentionOfFewRowsIsReproducible) {
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    const auto kernels = ChooseKernels(IsaName(candidate.isa));
    if (!EXPECT(kernels.ok())) continue;
    for (const bool fast : {false, true}) {
      Pool one(1), three(3);
      AttentionCase together{9, 3, 64, 0, 0, true, {600, 8}, fast}, alone = together;
      alone.steps = {600, 1, 1, 1, 1, 1, 1, 1, 1};
      const std::vector<float> expected = RunAttention(alone, *kernels.value(), one);
      EXPECT(RunAttention(together, *kernels.value(), one) == expected);
      EXPECT(RunAttention(together, *kernels.value(), three) == expected);
    }
  }
}

// Permuted columns, bias, accumulation and several parts of one output.
LOWBIT_TEST(LinearSumsParts) {
  const int n = 37, k = 70, m = 11;
  Plan plan;
  plan.vocab_size = 1;
  plan.hidden_size = k;
  plan.max_seq_len = 64;
  plan.buffers = {{"x", k}, {"y", n + 5}};
  plan.weights = {{"w", n, k, 0}};
  plan.vectors = {{"b", n}};
  Op op;
  op.kind = OpKind::kLinear;
  op.in = {0, 0, k};
  op.outputs = {{0, {1, 3, n}, true}};
  plan.ops = {op};
  plan.blocks = {{0, 1}};
  plan.epilogue = {1, 1};
  const std::vector<float> w1 = Random(size_t(n) * k, 1), w2 = Random(size_t(n) * k, 2), bias = Random(size_t(n), 3),
                           x = Random(size_t(m) * k, 4), y0 = Random(size_t(m) * (n + 5), 6);
  std::vector<int32_t> reversed;
  for (int j = k - 1; j >= 0; --j) reversed.push_back(j);
  Pool pool(2);
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    const auto kernels = ChooseKernels(IsaName(candidate.isa));
    Bindings bindings;
    bindings.vectors = {bias};
    bindings.weights.resize(1);
    for (const auto* w : {&w1, &w2}) {
      auto part = PackDense("w", DType::kF32, reinterpret_cast<const uint8_t*>(w->data()), n, k, {});
      if (!EXPECT(part.ok())) return;
      if (w == &w2) part.value().permutation = reversed;
      bindings.weights[0].push_back(std::move(part.value()));
    }
    auto executor = Executor::Create(plan, bindings, *kernels.value(), pool, true, m, 1);
    if (!EXPECT(executor.ok())) return;
    Batch batch;
    batch.rows = m;
    batch.segments = {{0, 0, m, 0}};
    EXPECT(executor.value()->Begin(batch).ok());
    for (int r = 0; r < m; ++r) {
      for (int j = 0; j < k; ++j) executor.value()->Row({0, 0, k}, r)[j] = x[static_cast<size_t>(r * k + j)];
      for (int j = 0; j < n + 5; ++j) executor.value()->Row({1, 0, n + 5}, r)[j] = y0[static_cast<size_t>(r * (n + 5) + j)];
    }
    EXPECT(executor.value()->Run({0, 1}, nullptr, nullptr).ok());
    double worst = 0;
    for (int r = 0; r < m; ++r)
      for (int j = 0; j < n + 5; ++j) {
        double expected = y0[static_cast<size_t>(r * (n + 5) + j)];
        if (j >= 3 && j < 3 + n) {
          const size_t row = static_cast<size_t>(j - 3);
          expected += bias[row];
          for (int i = 0; i < k; ++i)
            expected += static_cast<double>(x[static_cast<size_t>(r * k + i)]) *
                        (w1[row * k + static_cast<size_t>(i)] + static_cast<double>(w2[row * k + static_cast<size_t>(k - 1 - i)]));
        }
        const double error = std::fabs(executor.value()->Row({1, 0, n + 5}, r)[j] - expected);
        if (!(error <= worst)) worst = error;
      }
    EXPECT_NEAR(worst, 0, 2e-4);  // 140 products of magnitude 10 at 2^-24
  }
}

// The bits of a row depend neither on the number of threads nor, up to sixteen rows, on those that share its step: for dense and
// integer weights, outputs that are written and outputs that are added to.
LOWBIT_TEST(LinearIsReproducible) {
  const int n = 700, k = 96, rows = 40;
  Plan plan;
  plan.vocab_size = 1;
  plan.hidden_size = k;
  plan.max_seq_len = 64;
  plan.buffers = {{"x", k}, {"y", 2 * n}};
  plan.weights = {{"a", n, k, 0}, {"b", n, k, -1}};
  plan.vectors = {{"bias", n}};
  Op op;
  op.kind = OpKind::kLinear;
  op.in = {0, 0, k};
  op.outputs = {{0, {1, 0, n}, false}, {1, {1, n, n}, true}};
  plan.ops = {op};
  plan.blocks = {{0, 1}};
  plan.epilogue = {1, 1};
  const std::vector<float> x = Random(size_t(rows) * k, 4), y0 = Random(size_t(rows) * 2 * n, 6), dense = Random(size_t(n) * k, 8);
  std::vector<uint8_t> blocks(size_t(n) * k / 32 * 34);  // Q8_0: an f16 scale, here 2^-7, and 32 codes
  std::mt19937 random(9);
  for (size_t i = 0; i < blocks.size(); ++i)
    blocks[i] = i % 34 == 0 ? 0x00 : i % 34 == 1 ? 0x20 : static_cast<uint8_t>(random() % 255 - 127);

  const auto run = [&](const KernelTable& kernels, bool integer, int threads, int step) {
    Pool pool(threads);
    Bindings bindings;
    bindings.vectors = {Random(size_t(n), 3)};
    for (int i = 0; i < 2; ++i) {
      auto part = integer ? PackGguf("w", DType::kQ8_0, blocks.data(), n, k, {})
                          : PackDense("w", DType::kF32, reinterpret_cast<const uint8_t*>(dense.data()), n, k, {});
      EXPECT(part.ok());
      bindings.weights.emplace_back();
      bindings.weights.back().push_back(std::move(part.value()));
    }
    auto executor = Executor::Create(plan, bindings, kernels, pool, true, rows, 1);
    std::vector<float> y;
    for (int first = 0; first < rows; first += step) {
      const int count = std::min(step, rows - first);
      Batch batch;
      batch.rows = count;
      batch.segments = {{0, 0, count, 0}};
      EXPECT(executor.value()->Begin(batch).ok());
      std::copy_n(x.begin() + first * k, count * k, executor.value()->Row({0, 0, k}, 0));
      std::copy_n(y0.begin() + first * 2 * n, count * 2 * n, executor.value()->Row({1, 0, 2 * n}, 0));
      EXPECT(executor.value()->Run({0, 1}, nullptr, nullptr).ok());
      y.insert(y.end(), executor.value()->Row({1, 0, 2 * n}, 0), executor.value()->Row({1, 0, 2 * n}, 0) + count * 2 * n);
    }
    return y;
  };
  for (const KernelCandidate& candidate : KernelCandidates()) {
    if (!candidate.usable) continue;
    const KernelTable& kernels = *ChooseKernels(IsaName(candidate.isa)).value();
    for (const bool integer : {false, true}) {
      const std::vector<float> single = run(kernels, integer, 1, 1);
      for (int step : {2, 5, 8, kSmallRows}) EXPECT(run(kernels, integer, 1, step) == single);
      EXPECT(run(kernels, integer, 4, 8) == single);
      const std::vector<float> many = run(kernels, integer, 1, rows);
      for (int threads : {2, 5}) EXPECT(run(kernels, integer, threads, rows) == many);
      double worst = 0;
      for (size_t i = 0; i < many.size(); ++i) {
        const double error = std::fabs(many[i] - single[i]);
        if (!(error <= worst)) worst = error;
      }
      EXPECT_NEAR(worst, 0, 1e-3);  // sums of 96 products of magnitude 10, in another order
    }
  }
}

// A norm or gated activation that makes its rows while they are quantised leaves the bits that it leaves on its own, and what a later
// op reads of them.
LOWBIT_TEST(ProducedRowsAreThoseOfSeparateOps) {
  const int k = 64, ffn = 96, rows = 40;
  std::mt19937 random(12);
  std::vector<uint8_t> blocks(size_t(2 * ffn) * ffn / 32 * 34);  // enough Q8_0 blocks for every weight
  for (size_t i = 0; i < blocks.size(); ++i)
    blocks[i] = i % 34 == 0 ? 0x00 : i % 34 == 1 ? 0x20 : static_cast<uint8_t>(random() % 255 - 127);
  for (const bool read_later : {false, true}) {
    Plan plan;
    plan.vocab_size = 1;
    plan.hidden_size = k;
    plan.max_seq_len = 64;
    plan.buffers = {{"x", k}, {"normed", k}, {"ffn", 2 * ffn}, {"logits", 1}};
    plan.weights = {{"up", 2 * ffn, k, -1}, {"down", k, ffn, -1}, {"side", k, k, -1}};
    plan.vectors = {{"norm", k}};
    plan.logits = {3, 0, 1};
    Op norm, up, glu, down, side;
    norm.kind = OpKind::kRmsNorm;
    norm.in = {0, 0, k};
    norm.out = {1, 0, k};
    norm.group = k;
    norm.factor = 1e-5f;
    up.kind = down.kind = side.kind = OpKind::kLinear;
    up.in = side.in = {1, 0, k};
    up.outputs = {{0, {2, 0, 2 * ffn}, false}};
    glu.kind = OpKind::kGlu;
    glu.in = glu.out = down.in = {2, 0, ffn};
    glu.in2 = {2, ffn, ffn};
    down.outputs = {{1, {0, 0, k}, true}};
    side.outputs = {{2, {0, 0, k}, true}};
    plan.ops = {norm, up, glu, down};
    if (read_later) plan.ops.push_back(side);
    const int end = static_cast<int>(plan.ops.size());
    plan.blocks = {{0, end}};
    plan.epilogue = {end, end};
    const std::vector<float> x = Random(size_t(rows) * k, 21);
    for (const KernelCandidate& candidate : KernelCandidates()) {
      if (!candidate.usable) continue;
      const KernelTable& kernels = *ChooseKernels(IsaName(candidate.isa)).value();
      const auto run = [&](int threads, int count, bool together) {
        Pool pool(threads);
        Bindings bindings;
        bindings.vectors = {Random(size_t(k), 3)};
        for (const WeightShape& w : plan.weights) {
          bindings.weights.emplace_back();
          bindings.weights.back().push_back(std::move(PackGguf("w", DType::kQ8_0, blocks.data(), w.n, w.k, {}).value()));
        }
        auto executor = Executor::Create(plan, bindings, kernels, pool, true, rows, 1);
        EXPECT(executor.value()->NextStop(0) == 2 && executor.value()->NextStop(1) == 2 && executor.value()->NextStop(2) == 4);
        Batch batch;
        batch.rows = count;
        batch.segments = {{0, 0, count, 0}};
        EXPECT(executor.value()->Begin(batch).ok());
        std::copy_n(x.begin(), count * k, executor.value()->Row({0, 0, k}, 0));
        if (together) {
          EXPECT(executor.value()->Run({0, end}, nullptr, nullptr).ok());
        } else {
          for (int i = 0; i < end; ++i) EXPECT(executor.value()->Run({i, i + 1}, nullptr, nullptr).ok());
        }
        const float* y = executor.value()->Row({0, 0, k}, 0);
        return std::vector<float>(y, y + count * k);
      };
      for (const int count : {3, rows})
        for (const int threads : {1, 3}) EXPECT(run(threads, count, true) == run(1, count, false));
    }
  }
}

LOWBIT_TEST(LivenessKeepsOnlyWhatIsRead) {
  Plan plan;
  plan.vocab_size = 1;
  plan.hidden_size = 4;
  plan.max_seq_len = 8;
  plan.buffers = {{"x", 4}, {"normed", 4}, {"ffn", 12}};
  plan.weights = {{"up", 12, 4, -1}, {"down", 4, 6, -1}};
  plan.vectors = {{"norm", 4}};
  Op norm, up, glu, down;
  norm.kind = OpKind::kRmsNorm;
  norm.in = {0, 0, 4};
  norm.out = {1, 0, 4};
  norm.group = 4;
  up.kind = OpKind::kLinear;
  up.in = {1, 0, 4};
  up.outputs = {{0, {2, 0, 12}, false}};
  glu.kind = OpKind::kGlu;
  glu.in = {2, 0, 6};
  glu.in2 = {2, 6, 6};
  glu.out = {2, 0, 6};
  down.kind = OpKind::kLinear;
  down.in = {2, 0, 6};
  down.outputs = {{1, {0, 0, 4}, true}};
  plan.ops = {norm, up, glu, down};
  const auto width = [&](int from) {
    int columns = 0;
    for (const View& v : LiveViews(plan, from, 4)) columns += v.width;
    return columns;
  };
  EXPECT(width(0) == 4);       // x
  EXPECT(width(1) == 4 + 4);   // x, normed
  EXPECT(width(2) == 4 + 12);  // x, gate and up
  EXPECT(width(3) == 4 + 6);   // x, the gated half
  EXPECT(width(4) == 4);       // x
}

LOWBIT_TEST(PlansAreChecked) {
  Plan plan;
  plan.vocab_size = 8;
  plan.hidden_size = 4;
  plan.max_seq_len = 8;
  plan.buffers = {{"x", 4}, {"logits", 8}};
  plan.weights = {{"embed", 8, 4, -1}};
  Op embed, head;
  embed.kind = OpKind::kEmbed;
  embed.out = {0, 0, 4};
  head.kind = OpKind::kLinear;
  head.in = {0, 0, 4};
  head.outputs = {{0, {1, 0, 8}, false}};
  plan.ops = {embed, head};
  plan.prologue = {0, 1};
  plan.epilogue = {1, 2};
  plan.logits = {1, 0, 8};
  EXPECT(ValidatePlan(plan).ok());
  const auto broken = [&](auto change, const char* text) {
    Plan bad = plan;
    change(bad);
    EXPECT_ERROR(ValidatePlan(bad), Code::kInvalidArgument, text);
  };
  broken([](Plan& p) { p.ops[0].out.offset = 1; }, "op 0 (embed)");
  broken([](Plan& p) { p.ops[0].index = 1; }, "weight out of range");
  broken([](Plan& p) { p.vocab_size = 9; }, "logits view");
  broken([](Plan& p) { p.ops[1].outputs[0].weight = -1; }, "weight out of range");
  broken([](Plan& p) { p.ops[1].in.buffer = 7; }, "op 1 (linear)");
  broken([](Plan& p) { p.ops[1].in = {1, 0, 4}; }, "overlaps");
  broken([](Plan& p) { p.epilogue = {1, 1}; }, "epilogue");
  broken([](Plan& p) { p.buffers[0].width = 1 << 30; }, "buffer width");
  broken([](Plan& p) { p.weights[0].bias = 0; }, "bias");
}
