// test/native: layer norms, activations and learned positions against plain loops in doubles, and plans of them that must be refused.
#include <cmath>
#include <cstring>
#include <random>

#include "base/cpu.h"
#include "check.h"
#include "kernel/chooser.h"
#include "part/packer.h"
#include "plan/executor.h"

using namespace lowbit;

namespace {

std::vector<float> Random(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(generator);
  return values;
}

// x [rows, width] -> y [rows, width] by one op; positions_of_first: `past` of the only segment.
Plan OnePlan(int width) {
  Plan plan;
  plan.vocab_size = 5;
  plan.hidden_size = width;
  plan.max_seq_len = 20;
  plan.buffers = {{"x", width}, {"y", width}};
  plan.vectors = {{"w", width}, {"b", width}};
  plan.weights = {{"table", 23, width, -1}};
  plan.logits = {1, 0, 5};
  return plan;
}

Op Make(OpKind kind, int width) {
  Op op;
  op.kind = kind;
  op.in = {0, 0, width};
  op.out = {1, 0, width};
  op.index = 0;
  op.bias = 1;
  op.factor = 1e-3f;
  return op;
}

double Gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
double GeluTanh(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x))); }

}  // namespace

LOWBIT_TEST(RowOpsMatchPlainLoops) {
  const int rows = 3;
  for (const int width : {5, 16, 71, 128}) {
    const size_t w = static_cast<size_t>(width);
    const std::vector<float> x = Random(rows * w, 1), weight = Random(w, 2), bias = Random(w, 3), table = Random(23 * w, 4);
    const auto at = [&](int r, size_t c) { return static_cast<double>(x[static_cast<size_t>(r) * w + c]); };
    Pool pool(2);
    for (const KernelCandidate& candidate : KernelCandidates()) {
      if (!candidate.usable) continue;
      const KernelTable& kernels = *ChooseKernels(IsaName(candidate.isa)).value();
      const auto run = [&](Op op, bool in_place) {
        Plan plan = OnePlan(width);
        if (in_place) op.out = op.in;
        plan.ops = {op};
        const bool prologue = op.kind == OpKind::kEmbedPosition;
        plan.prologue = {0, prologue ? 1 : 0};
        plan.blocks = {{plan.prologue.end, 1}};
        plan.epilogue = {1, 1};
        EXPECT(ValidatePlan(plan).ok());
        Bindings bindings;
        bindings.vectors = {weight, bias};
        bindings.weights.resize(1);
        auto part = PackDense("table", DType::kF32, reinterpret_cast<const uint8_t*>(table.data()), 23, width, {});
        EXPECT(part.ok());
        bindings.weights[0].push_back(std::move(part.value()));
        auto executor = Executor::Create(plan, bindings, kernels, pool, false, rows, 1);
        EXPECT(executor.ok());
        Batch batch;
        batch.rows = rows;
        batch.segments = {{0, 0, rows, 7}};
        EXPECT(executor.value()->Begin(batch).ok());
        std::copy(x.begin(), x.end(), executor.value()->Row({0, 0, width}, 0));
        std::copy(x.begin(), x.end(), executor.value()->Row({1, 0, width}, 0));
        EXPECT(executor.value()->Run({0, 1}, nullptr, nullptr).ok());
        const float* y = executor.value()->Row(op.out, 0);
        return std::vector<float>(y, y + rows * w);
      };
      const auto expect = [&](const std::vector<float>& y, double tolerance, const auto& value) {
        double worst = 0;
        for (int r = 0; r < rows; ++r)
          for (size_t c = 0; c < w; ++c) {
            const double error = std::fabs(y[static_cast<size_t>(r) * w + c] - value(r, c));
            if (!(error <= worst)) worst = error;
          }
        EXPECT_NEAR(worst, 0, tolerance);
      };
      for (const bool in_place : {false, true}) {
        // f32 sums of at most 128 terms of magnitude 3, times weights of up to 3
        expect(run(Make(OpKind::kLayerNorm, width), in_place), 2e-5, [&](int r, size_t c) {
          double mean = 0, variance = 0;
          for (size_t i = 0; i < w; ++i) mean += at(r, i) / width;
          for (size_t i = 0; i < w; ++i) variance += (at(r, i) - mean) * (at(r, i) - mean) / width;
          return (at(r, c) - mean) / std::sqrt(variance + 1e-3) * weight[c] + bias[c];
        });
        Op op = Make(OpKind::kActivation, width);
        op.activation = Activation::kRelu;
        expect(run(op, in_place), 0, [&](int r, size_t c) { return std::max(0.0, at(r, c)); });
        op.activation = Activation::kGelu;
        expect(run(op, in_place), 1e-6, [&](int r, size_t c) { return Gelu(at(r, c)); });
        op.activation = Activation::kGeluTanh;
        expect(run(op, in_place), 1e-5, [&](int r, size_t c) { return GeluTanh(at(r, c)); });
        op.activation = Activation::kSilu;
        expect(run(op, in_place), 1e-5, [&](int r, size_t c) { return at(r, c) / (1 + std::exp(-at(r, c))); });
      }
      Op op = Make(OpKind::kEmbedPosition, width);
      op.shift = 2;
      expect(run(op, false), 1e-6,
             [&](int r, size_t c) { return at(r, c) + static_cast<double>(table[static_cast<size_t>(7 + r + 2) * w + c]); });
    }
  }
}

LOWBIT_TEST(BadRowOpsAreRefused) {
  const int width = 16;
  const auto refused = [&](Op op, bool prologue, const char* text) {
    Plan plan = OnePlan(width);
    plan.ops = {op};
    plan.prologue = {0, prologue ? 1 : 0};
    plan.blocks = {{plan.prologue.end, 1}};
    plan.epilogue = {1, 1};
    EXPECT_ERROR(ValidatePlan(plan), Code::kInvalidArgument, text);
  };
  Op norm = Make(OpKind::kLayerNorm, width);
  norm.bias = 2;
  refused(norm, false, "vector out of range");
  norm = Make(OpKind::kLayerNorm, width);
  norm.in = norm.out = {0, 0, width - 1};
  refused(norm, false, "a vector is not as long as the view is wide");
  norm.out = {1, 0, width};
  refused(norm, false, "views do not match");
  Op activation = Make(OpKind::kActivation, width);
  activation.out = {1, 0, 8};
  refused(activation, false, "views do not match");
  activation.in = {0, 0, 8};
  activation.out = {0, 4, 8};
  refused(activation, false, "overlaps the input");
  Op glu = Make(OpKind::kGlu, width);
  glu.in2 = glu.in;
  glu.activation = Activation::kRelu;
  refused(glu, false, "activation of another op");
  Op position = Make(OpKind::kEmbedPosition, width);
  position.shift = 4;  // 23 rows for 20 positions
  refused(position, true, "fewer rows than there are positions");
  position.shift = 0x7fffffff;
  refused(position, true, "fewer rows than there are positions");
  position.shift = 0;
  position.index = 1;
  refused(position, true, "weight out of range");
  position.index = 0;
  refused(position, false, "embeddings belong to the prologue");
}

// The panels of a matrix and of its transpose are the same bytes, in every element type, with rows in another order and without.
LOWBIT_TEST(TransposedWeightsPackAlike) {
  const int n = 37, k = 21;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const size_t size = static_cast<size_t>(Info(dtype).block_bytes);
    std::mt19937 random(3);
    std::vector<uint8_t> rows(size_t(n) * k * size), columns(rows.size());
    for (uint8_t& byte : rows) byte = static_cast<uint8_t>(random()) & 0x3f;  // no exponent of all ones
    for (size_t r = 0; r < size_t(n); ++r)
      for (size_t c = 0; c < size_t(k); ++c) std::memcpy(&columns[(c * n + r) * size], &rows[(r * k + c) * size], size);
    RowMap reversed;
    for (int r = n - 1; r >= 0; --r) reversed.push_back(r);
    for (const RowMap& map : {RowMap(), reversed}) {
      const Result<Part> expected = PackDense("w", dtype, rows.data(), n, k, map);
      const Result<Part> actual = PackWhole(TransposedPacker("w", dtype, columns.data(), n, k, map));
      if (!EXPECT(expected.ok() && actual.ok() && actual.value().bytes() == expected.value().bytes())) continue;
      EXPECT(std::memcmp(actual.value().view.data, expected.value().view.data, expected.value().bytes()) == 0);
    }
    std::memset(&columns[(size_t(4) * n + 30) * size], 0xff, size);  // NaN in row 30
    EXPECT_ERROR(PackWhole(TransposedPacker("w", dtype, columns.data(), n, k, {})).status(), Code::kCorruptFile, "not finite in row 30");
  }
}
