// test/native: GPTQ against golden values, against a plain solver in double, and by its invariants.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/half.h"
#include "check.h"
#include "layers.h"
#include "quantize/damping.h"
#include "quantize/gptq_core.h"
#include "quantize/order.h"
#include "quantize/rtn.h"
#include "solve/cholesky.h"

namespace {

using namespace lowbit;
using namespace lowbit_test;

struct OrderCase {
  const char* name;
  bool desc_act, static_groups, act_group_aware;
};
const OrderCase kOrders[] = {{"plain", false, false, false},
                             {"static", false, true, false},
                             {"group-aware", false, false, true},
                             {"desc_act", true, false, true},
                             {"desc_act static", true, true, false}};

QuantizeOptions WithOrder(QuantizeOptions options, const OrderCase& order) {
  options.desc_act = order.desc_act;
  options.static_groups = order.static_groups;
  options.act_group_aware = order.act_group_aware;
  return options;
}

double Differing(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a.size() != b.size() || a.empty()) return 1;
  size_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += a[i] != b[i];
  return double(count) / double(a.size());
}

bool Same(const QuantizedLinear& a, const QuantizedLinear& b) {
  return a.codes == b.codes && a.scales == b.scales && a.zeros == b.zeros && a.g_idx == b.g_idx;
}

bool Mentions(const QuantizedLinear& q, const std::string& text) {
  for (const std::string& fallback : q.fallbacks)
    if (fallback.find(text) != std::string::npos) return true;
  return false;
}

// ---- GPTQ as published, in double, one column at a time: explicit inverse, no blocks but for the published habit of
// fitting a group's grid on weights that lack the updates of the current block of 128 columns.
class Reference {
 public:
  Reference(const Layer& layer, const QuantizeOptions& options) : layer_(layer), o_(options), k_(layer.k) {
    g_ = o_.group_size < 0 ? k_ : o_.group_size;
    std::vector<int> columns(k_);
    std::iota(columns.begin(), columns.end(), 0);
    const auto diagonal = [&](int j) { return layer_.h[size_t(j) * k_ + j]; };
    if (o_.desc_act) {
      std::sort(columns.begin(), columns.end(), [&](int a, int b) { return diagonal(a) > diagonal(b); });
    } else if (o_.act_group_aware) {
      const int full = k_ / g_ * g_;
      std::vector<float> largest(k_ / g_ + 1, 0);
      for (int j = 0; j < full; ++j) largest[j / g_] = std::max(largest[j / g_], diagonal(j));
      std::sort(columns.begin(), columns.begin() + full,
                [&](int a, int b) { return a / g_ != b / g_ ? largest[a / g_] > largest[b / g_] : diagonal(a) > diagonal(b); });
    }
    order_ = columns;
  }

  void Solve(std::vector<uint8_t>* codes) {
    const std::vector<double> u = Factor();
    codes->assign(layer_.w.size(), 0);
    for (int r = 0; r < layer_.n; ++r) {
      const float* original = layer_.w.data() + size_t(r) * k_;
      std::vector<double> w(k_), stale;
      for (int p = 0; p < k_; ++p) w[p] = original[order_[p]];
      double scale = 1, zero = 0;
      for (int p = 0; p < k_; ++p) {
        if (p % o_.block_size == 0) stale = w;
        if (o_.static_groups) {
          const int first = order_[p] / g_ * g_;
          FitRange(std::vector<double>(original + first, original + std::min(k_, first + g_)), &scale, &zero);
        } else if (p % g_ == 0) {
          FitRange(std::vector<double>(stale.begin() + p, stale.begin() + std::min(k_, p + g_)), &scale, &zero);
        }
        const double code = std::clamp(std::nearbyint(w[p] / scale) + zero, 0.0, double((1 << o_.bits) - 1)), stored = Stored(scale);
        (*codes)[size_t(r) * k_ + order_[p]] = static_cast<uint8_t>(code);
        const double error = (w[p] - stored * (code - zero)) / u[size_t(p) * k_ + p];
        for (int t = p; t < k_; ++t) w[t] -= error * u[size_t(p) * k_ + t];
      }
    }
  }

 private:
  double Stored(double scale) const { return o_.classic ? scale : HalfToFloat(FloatToHalf(static_cast<float>(scale))); }

  void FitRange(const std::vector<double>& w, double* scale, double* zero) const {
    const double qmax = (1 << o_.bits) - 1;
    double high = std::max(0.0, *std::max_element(w.begin(), w.end())), low = std::min(0.0, *std::min_element(w.begin(), w.end()));
    if (o_.sym && !(o_.classic && low == 0)) low = -(high = std::max(high, -low));
    *scale = static_cast<float>(high - low) / static_cast<float>(qmax);  // f32 as in the engine: ties depend on it
    *zero = o_.sym ? (qmax + 1) / 2 : std::clamp(std::nearbyint(-low / *scale), 0.0, qmax);
  }

  // Upper U with (H + damping)^-1 = U^T U, in solving order.
  std::vector<double> Factor() const {
    const size_t k = k_;
    std::vector<double> a(k * k);
    double mean = 0;
    for (size_t j = 0; j < k; ++j) mean += layer_.h[j * k + j] / double(k);
    for (size_t i = 0; i < k; ++i)
      for (size_t j = 0; j < k; ++j) a[i * k + j] = layer_.h[order_[i] * k + order_[j]] + (i == j ? o_.damp_percent * mean : 0);
    std::vector<double> inverse(k * k, 0);  // Gauss-Jordan; no pivoting needed for positive definite matrices
    for (size_t i = 0; i < k; ++i) inverse[i * k + i] = 1;
    for (size_t s = 0; s < k; ++s) {
      const double pivot = 1 / a[s * k + s];
      for (size_t j = 0; j < k; ++j) a[s * k + j] *= pivot, inverse[s * k + j] *= pivot;
      for (size_t i = 0; i < k; ++i) {
        const double factor = a[i * k + s];
        if (i == s || factor == 0) continue;
        for (size_t j = 0; j < k; ++j) a[i * k + j] -= factor * a[s * k + j], inverse[i * k + j] -= factor * inverse[s * k + j];
      }
    }
    std::vector<double> u(k * k, 0);
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = i; j < k; ++j) {
        double sum = inverse[i * k + j];
        for (size_t s = 0; s < i; ++s) sum -= u[s * k + i] * u[s * k + j];
        u[i * k + j] = i == j ? std::sqrt(sum) : sum / u[i * k + i];
      }
    }
    return u;
  }

  const Layer& layer_;
  const QuantizeOptions o_;
  int k_, g_;
  std::vector<int> order_;
};

Layer GoldenLayer() {
  return {2,
          4,
          {0.9f, -0.4f, 0.25f, -1.1f, 0.3f, 0.7f, -0.6f, 0.05f},
          {2, 1.2f, .4f, 0, 1.2f, 1.5f, .3f, .2f, .4f, .3f, 1, -.5f, 0, .2f, -.5f, .8f}};
}

}  // namespace

// Golden values computed with numpy in double, scales rounded to f16.
LOWBIT_TEST(GptqGolden) {
  const Layer layer = GoldenLayer();
  const struct {
    int bits;
    bool sym;
    std::vector<uint8_t> codes, rtn_codes;
    double energy, rtn_energy;
    std::vector<uint8_t> zeros;
  } cases[] = {
      {2, false, {3, 2, 2, 0, 2, 2, 0, 2}, {3, 1, 2, 0, 2, 3, 0, 1}, 0.210544248, 0.723934437, {2, 1}},
      {3, false, {7, 3, 5, 0, 5, 6, 0, 4}, {7, 3, 5, 0, 5, 7, 0, 3}, 0.033126306, 0.043929646, {4, 3}},
      {3, true, {7, 3, 5, 1, 6, 7, 1, 4}, {7, 3, 5, 0, 6, 7, 1, 4}, 0.063183803, 0.072441308, {4, 4}},
  };
  const double weight_energy = 4.0265;
  for (const auto& c : cases) {
    QuantizeOptions options = Options(c.bits, -1, c.sym);
    options.damp_percent = 0.01;
    options.act_group_aware = false;
    for (const int block_size : {1, 3, 128}) {
      options.block_size = block_size;
      const auto q = Run(layer, options);
      EXPECT(q.value().codes == c.codes);
      EXPECT(q.value().zeros == c.zeros);
      EXPECT_NEAR(q.value().error, c.energy / weight_energy, 1e-6);
      EXPECT(q.value().damp_percent == 0.01 && q.value().fallbacks.empty() && q.value().dead_columns == 0);
    }
    const auto rtn = Run(layer, options, Method::kRtn);
    EXPECT(rtn.value().codes == c.rtn_codes);
    EXPECT_NEAR(rtn.value().error, c.rtn_energy / weight_energy, 1e-6);
  }
  const double expected[16] = {.987819, -.783579, -.090250, .137216, 0, .908861, -.544620, -.558355,
                               0,       0,        1.190273, .731800, 0, 0,       0,        1.108889};
  std::vector<float> u = layer.h;
  for (int i = 0; i < 4; ++i) u[i * 5] += 0.01325f;
  Pool pool(1);
  EXPECT(InverseFactor(u.data(), 4, *RefKernels(), pool) == -1);
  for (int i = 0; i < 16; ++i) EXPECT_NEAR(u[i], expected[i], 1e-6);
}

// The same golden case in the published arithmetic (numpy, double): scales are those of the range, not yet rounded.
LOWBIT_TEST(ClassicGptqGolden) {
  const Layer layer = GoldenLayer();
  const struct {
    int bits;
    bool sym;
    std::vector<uint8_t> codes, zeros;
    double scales[2];
  } cases[] = {
      {2, false, {3, 2, 2, 0, 2, 2, 0, 2}, {2, 1}, {0.6666667, 0.4333333}},
      {3, false, {7, 3, 5, 0, 5, 6, 0, 4}, {4, 3}, {2.0 / 7, 1.3 / 7}},
      {3, true, {7, 3, 5, 1, 6, 7, 1, 4}, {4, 4}, {0.3142857, 0.2}},
  };
  for (const auto& c : cases) {
    QuantizeOptions options = Options(c.bits, -1, c.sym);
    options.damp_percent = 0.01;
    options.act_group_aware = false;
    options.classic = true;
    const auto q = Run(layer, options);
    EXPECT(q.value().codes == c.codes);
    EXPECT(q.value().zeros == c.zeros);
    for (int r = 0; r < 2; ++r) EXPECT_NEAR(q.value().scales[r], c.scales[r], 0x1p-11 * c.scales[r]);
  }
}

LOWBIT_TEST(ClassicGptqMatchesPlainSolverInDouble) {
  Layer layer = Correlated(70, 200, 12);
  for (int c = 64; c < 128; ++c)
    layer.w[size_t(5) * layer.k + c] = std::fabs(layer.w[size_t(5) * layer.k + c]);  // a group without negatives
  for (const OrderCase& order : kOrders) {
    for (const int bits : {2, 3, 4}) {
      QuantizeOptions options = WithOrder(Options(bits, 64, bits != 4), order);
      options.classic = true;
      options.damp_percent = 0.01;
      const auto q = Run(layer, options);
      QuantizedLinear reference = q.value();
      Reference(layer, options).Solve(&reference.codes);
      EXPECT(Differing(q.value().codes, reference.codes) < 0.01);
    }
  }
}

LOWBIT_TEST(ClassicHalfRange) {
  // No negative weight in the second group: its scale is that of [0, m].
  Layer layer = Correlated(48, 128, 13);
  for (int r = 0; r < layer.n; ++r)
    for (int c = 64; c < 128; ++c) layer.w[size_t(r) * layer.k + c] = std::fabs(layer.w[size_t(r) * layer.k + c]);
  QuantizeOptions options = Options(4, 64, true);
  options.static_groups = true;
  const QuantizedLinear plain = Run(layer, options).value();
  options.classic = true;
  const QuantizedLinear classic = Run(layer, options).value();
  for (int r = 0; r < layer.n; ++r) {
    EXPECT(classic.scales[size_t(r) * 2] == plain.scales[size_t(r) * 2]);
    EXPECT_NEAR(classic.scales[size_t(r) * 2 + 1], plain.scales[size_t(r) * 2 + 1] / 2, 0x1p-10 * plain.scales[size_t(r) * 2 + 1]);
    EXPECT(classic.zeros[size_t(r) * 2 + 1] == 8);
  }
}

// A few codes flip where a weight lies within f32 rounding of the middle of two grid points, and each flip shifts what
// follows in its row; more than 1 % would be a mistake in the method. The error must agree closely all the same.
LOWBIT_TEST(GptqMatchesPlainSolverInDouble) {
  const Layer layer = Correlated(70, 200, 11);
  for (const OrderCase& order : kOrders) {
    for (const int group_size : {32, 64, 128, -1}) {
      for (const int bits : {2, 4}) {
        const QuantizeOptions options = WithOrder(Options(bits, group_size, bits == 4), order);
        const auto q = Run(layer, options);
        QuantizedLinear reference = q.value();
        Reference(layer, options).Solve(&reference.codes);
        EXPECT(Differing(q.value().codes, reference.codes) < 0.01);
        std::vector<float> w_hat(layer.w.size());
        Dequantize(q.value(), w_hat);
        const double energy = ErrorEnergy(layer, w_hat) / ErrorEnergy(layer, {});
        EXPECT_NEAR(q.value().error, energy, 1e-4 * energy);
      }
    }
  }
}

LOWBIT_TEST(GptqScaledErrorsAddUpToTheDampedError) {
  Layer layer = Correlated(40, 150, 3);
  const std::vector<float> undamped = layer.h;
  for (int j = 0; j < layer.k; ++j) layer.h[size_t(j) * (layer.k + 1)] += 0.1f;
  Pool pool(1);
  const std::vector<int32_t> order = NaturalOrder(layer.k);
  const std::vector<uint8_t> dead(layer.k, 0);
  for (const int block_size : {1, 32, 50, 128, 4096}) {
    Block u = std::move(Block::Allocate(PackedFactor::Floats(layer.k) * sizeof(float), MemoryClass::kScratch, "test").value());
    std::memcpy(u.data(), layer.h.data(), layer.h.size() * sizeof(float));
    EXPECT(InverseFactor(u.as<float>(), layer.k, *RefKernels(), pool) == -1);
    const PackedFactor factor = std::move(PackedFactor::Pack(std::move(u), layer.k, block_size).value());
    const GptqProblem problem{layer.w, order, dead, GridRule{3, true, 0}, false, false, block_size};
    QuantizedLinear q = EmptyResult(layer.n, layer.k, Options(3, 32, true));
    const double sum = SolveGptq(problem, factor, *RefKernels(), pool, &q).value();
    std::vector<float> w_hat(layer.w.size());
    Dequantize(q, w_hat);
    const double energy = ErrorEnergy(layer, w_hat);
    EXPECT_NEAR(sum, energy, 1e-4 * energy);
  }
}

LOWBIT_TEST(GptqWithDiagonalHessianIsRtn) {
  Layer layer = Correlated(66, 160, 5);
  for (int i = 0; i < layer.k; ++i)
    for (int j = 0; j < layer.k; ++j)
      if (i != j) layer.h[size_t(i) * layer.k + j] = 0;
  for (const OrderCase& order : kOrders) {
    for (const int bits : {2, 3, 4, 5, 6, 8}) {
      for (const double mse : {0.0, 2.4}) {
        // Groups that follow the falling diagonal are other groups than RTN's; a whole row is the same group.
        QuantizeOptions options = WithOrder(Options(bits, order.desc_act && !order.static_groups ? -1 : 64, bits != 3), order);
        options.mse = mse;
        EXPECT(Same(Run(layer, options).value(), Run(layer, options, Method::kRtn).value()));
      }
    }
  }
}

LOWBIT_TEST(GptqBeatsRtnOnCorrelatedInputs) {
  const Layer layer = Correlated(128, 256, 21);
  for (const int group_size : {64, 128, -1}) {
    const QuantizeOptions options = Options(4, group_size, true);
    const double rtn = Run(layer, options, Method::kRtn).value().error;
    double errors[5];
    for (int i = 0; i < 5; ++i) errors[i] = Run(layer, WithOrder(options, kOrders[i])).value().error;
    // Relative errors are squared here: 0.95 of the norm is 0.9025.
    EXPECT(errors[0] < 0.9025 * rtn);
    EXPECT(errors[3] < 0.95 * errors[0]);  // desc_act
    EXPECT(errors[4] < 0.95 * errors[0]);  // desc_act with static groups
    EXPECT(errors[2] < errors[0]);         // group-aware
  }
  for (const int bits : {2, 3}) {  // a searched range helps most where codes are few
    QuantizeOptions options = Options(bits, 64, true);
    const double plain = Run(layer, options).value().error;
    options.mse = 2.4;
    EXPECT(Run(layer, options).value().error < plain);
  }
}

LOWBIT_TEST(GptqIgnoresTheScaleOfTheHessian) {
  const Layer layer = Correlated(64, 130, 6);
  Layer scaled = layer;
  for (const OrderCase& order : kOrders) {
    const QuantizeOptions options = WithOrder(Options(3, 64, false), order);
    const auto q = Run(layer, options);
    for (const float factor : {4.0f, 0.0625f, 3e-6f}) {  // powers of four are exact in every step
      for (size_t i = 0; i < layer.h.size(); ++i) scaled.h[i] = layer.h[i] * factor;
      const auto other = Run(scaled, options);
      EXPECT(factor == 3e-6f ? Differing(q.value().codes, other.value().codes) < 0.01 : Same(q.value(), other.value()));
      EXPECT_NEAR(other.value().error, q.value().error, 1e-3 * q.value().error);
    }
  }
}

LOWBIT_TEST(GptqRowsAreIndependent) {
  const Layer layer = Correlated(150, 96, 8);
  Layer permuted = layer;
  std::vector<int> rows(layer.n);
  std::iota(rows.begin(), rows.end(), 0);
  std::reverse(rows.begin(), rows.end());
  std::swap(rows[3], rows[99]);
  for (int r = 0; r < layer.n; ++r) std::copy_n(layer.w.begin() + rows[r] * layer.k, layer.k, permuted.w.begin() + r * layer.k);
  for (const OrderCase& order : kOrders) {
    const auto a = Run(layer, WithOrder(Options(4, 32, false), order)), b = Run(permuted, WithOrder(Options(4, 32, false), order));
    int wrong = 0;
    for (int r = 0; r < layer.n; ++r) {
      wrong += std::memcmp(b.value().codes.data() + r * layer.k, a.value().codes.data() + rows[r] * layer.k, layer.k) != 0;
      wrong += std::memcmp(b.value().scales.data() + r * 3, a.value().scales.data() + rows[r] * 3, 3 * sizeof(float)) != 0;
    }
    EXPECT(wrong == 0);
  }
}

LOWBIT_TEST(GptqBlockSizeDoesNotMatterForWholeRowsAndStaticGroups) {
  const Layer layer = Correlated(64, 200, 9);
  for (const bool whole_row : {true, false}) {
    QuantizeOptions options = Options(4, whole_row ? -1 : 32, true);
    options.static_groups = !whole_row;
    const auto q = Run(layer, options);
    for (const int block_size : {1, 7, 32, 200, 4096}) {
      options.block_size = block_size;
      const auto other = Run(layer, options);
      EXPECT(Differing(q.value().codes, other.value().codes) < 0.005);
      EXPECT_NEAR(other.value().error, q.value().error, 1e-2 * q.value().error);
      EXPECT(other.value().scales == q.value().scales);
    }
  }
}

LOWBIT_TEST(GptqDoesNotDependOnThreads) {
  const Layer layer = Correlated(200, 140, 10);
  for (const OrderCase& order : kOrders) {
    QuantizeOptions options = WithOrder(Options(4, 64, true), order);
    options.mse = 2.4;
    const auto one = Run(layer, options), three = Run(layer, options, Method::kGptq, 3);
    EXPECT(Same(one.value(), three.value()) && one.value().error == three.value().error);
  }
}

LOWBIT_TEST(GptqWithAKeptFactorIsThatWithout) {
  // One after the other, each solve wanting the factor in another order or with another damping than the last, or in the same.
  const Layer layer = Correlated(40, 140, 13);
  Pool pool(2);
  FactorCache factors;
  HessianView view = layer.View();
  view.factors = &factors;
  int kept = 0;
  for (const OrderCase& order : kOrders) {
    for (const double damp : {0.05, 0.01}) {
      for (const int bits : {3, 4}) {
        QuantizeOptions options = WithOrder(Options(bits, 64, bits == 3), order);
        options.damp_percent = damp;
        const Block before = std::move(factors.factor);
        auto copy = Block::Allocate(before.size(), MemoryClass::kScratch, "a copy");
        factors.factor = std::move(copy.value());
        if (before.size() > 0) std::memcpy(factors.factor.data(), before.data(), before.size());
        const auto q = Quantize(Method::kGptq, "w", layer.w, layer.n, layer.k, view, options, *RefKernels(), pool);
        EXPECT(Same(q.value(), Run(layer, options).value()) && q.value().error == Run(layer, options).value().error);
        EXPECT(factors.factor.size() == size_t(layer.k) * layer.k * sizeof(float));
        kept += before.size() > 0 && std::memcmp(before.data(), factors.factor.data(), before.size()) == 0;
      }
    }
  }
  // At least the second width of each order and damping used the first one's.
  EXPECT(kept >= 10 && kept < 20);
}

LOWBIT_TEST(GptqGroupIndex) {
  const Layer layer = Correlated(3, 200, 12);
  for (const OrderCase& order : kOrders) {
    const auto result = Run(layer, WithOrder(Options(4, 64, true), order));
    const QuantizedLinear& q = result.value();
    EXPECT(q.groups == 4 && q.group_size == 64);
    if (!order.desc_act || order.static_groups) {
      EXPECT(q.g_idx.empty());
      continue;
    }
    EXPECT(q.g_idx.size() == 200);
    int sizes[4] = {};
    double least[4] = {1e300, 1e300, 1e300, 1e300}, most[4] = {};
    for (int j = 0; j < 200; ++j) {
      const int group = q.g_idx[j];
      if (!EXPECT(group >= 0 && group < 4)) return;
      const double diagonal = layer.h[size_t(j) * 201];
      ++sizes[group];
      least[group] = std::min(least[group], diagonal);
      most[group] = std::max(most[group], diagonal);
    }
    EXPECT(sizes[0] == 64 && sizes[1] == 64 && sizes[2] == 64 && sizes[3] == 8);
    for (int g = 0; g < 3; ++g) EXPECT(least[g] >= most[g + 1]);
  }
  // A whole row has one group, whatever the order.
  EXPECT(Run(layer, WithOrder(Options(4, -1, true), kOrders[3])).value().g_idx.empty());
}

LOWBIT_TEST(OrdersOfColumns) {
  EXPECT((FallingOrder({1, 3, 2, 3}) == std::vector<int32_t>{1, 3, 2, 0}));
  // Groups of two: {5, 1} {7, 6} {7, 2}, tail 9. Equal maxima keep their order, the tail stays last.
  EXPECT((GroupAwareOrder({1, 5, 6, 7, 2, 7, 9}, 2) == std::vector<int32_t>{3, 2, 5, 4, 1, 0, 6}));
  EXPECT((GroupAwareOrder({1, 2, 3}, 4) == std::vector<int32_t>{0, 1, 2}));
}

LOWBIT_TEST(GptqDeadColumns) {
  Layer layer = Correlated(20, 100, 13);
  for (const int dead : {0, 37, 99})
    for (int j = 0; j < layer.k; ++j) layer.h[size_t(dead) * layer.k + j] = layer.h[size_t(j) * layer.k + dead] = 0;
  // A huge weight in a dead column must not widen its group's range.
  for (int r = 0; r < layer.n; ++r) layer.w[size_t(r) * layer.k + 37] = 100;
  for (const OrderCase& order : kOrders) {
    const auto result = Run(layer, WithOrder(Options(4, 32, false), order));
    const QuantizedLinear& q = result.value();
    EXPECT(q.dead_columns == 3);
    EXPECT(Mentions(q, "3 of 100 input columns were zero during calibration"));
    std::vector<float> w_hat(layer.w.size());
    Dequantize(q, w_hat);
    for (int r = 0; r < layer.n; ++r)
      for (const int dead : {0, 37, 99}) EXPECT(w_hat[size_t(r) * layer.k + dead] == 0);
    EXPECT(q.error < 0.01);
  }
  std::fill(layer.h.begin(), layer.h.end(), 0.0f);
  const auto none = Run(layer, Options(4, 32, true));
  EXPECT(Mentions(none.value(), "RTN instead of GPTQ: every input column was zero"));
  EXPECT(none.value().codes == Run(layer, Options(4, 32, true), Method::kRtn).value().codes);
}

LOWBIT_TEST(GptqRaisesDampingWhenTheHessianIsSingular) {
  const int k = 64;
  Layer layer{8, k, Correlated(8, k, 14).w, std::vector<float>(k * k, 1.0f)};  // rank one; 1 + 1e-9 is 1 in f32
  QuantizeOptions options = Options(4, 32, true);
  options.damp_percent = 1e-9;
  const auto q = Run(layer, options);
  EXPECT_NEAR(q.value().damp_percent, 0.01, 1e-6);
  EXPECT(q.value().fallbacks.size() == 1 && Mentions(q.value(), "damping raised from 1e-09 to 0.01"));
  EXPECT(q.value().error < Run(layer, options, Method::kRtn).value().error);

  // Negative eigenvalue of -49 beside a mean diagonal near 6: only the diagonal floor, a part of the largest, helps.
  const int m = 200;
  Layer spiked{4, m, Correlated(4, m, 15).w, std::vector<float>(m * m, 0.0f)};
  for (int j = 0; j < m; ++j) spiked.h[size_t(j) * (m + 1)] = j == 5 ? 1000.0f : 1.0f;
  spiked.h[20 * m + 21] = spiked.h[21 * m + 20] = 50;
  options = Options(4, 32, true);
  options.damp_auto_increment = 0.2;
  const auto floor = Run(spiked, options);
  EXPECT(Mentions(floor.value(), "diagonal floor 100 (0.1 of the largest Hessian diagonal) added to damping 0.05"));
  spiked.h[20 * m + 21] = spiked.h[21 * m + 20] = 5000;
  const auto hopeless = Run(spiked, options);
  EXPECT(Mentions(hopeless.value(), "RTN instead of GPTQ: the Hessian is not positive definite"));
  EXPECT(hopeless.value().codes == Run(spiked, options, Method::kRtn).value().codes);
}

LOWBIT_TEST(GptqWithoutEnoughTokensIsRtn) {
  Layer layer = Correlated(8, 64, 16);
  Pool pool(1);
  QuantizeOptions options = Options(4, 32, true);
  options.min_tokens = 256;
  const auto quantize = [&](const HessianView& hessian) {
    return Quantize(Method::kGptq, "model.weight", layer.w, layer.n, layer.k, hessian, options, *RefKernels(), pool);
  };
  const auto rtn = Run(layer, options, Method::kRtn);
  const auto none = quantize(layer.View(0)), few = quantize(layer.View(255)), without = quantize({});
  EXPECT(none.value().codes == rtn.value().codes && Mentions(none.value(), "RTN instead of GPTQ: no calibration token reached this layer"));
  EXPECT(without.value().codes == rtn.value().codes && Mentions(without.value(), "no calibration token"));
  EXPECT(few.value().codes == rtn.value().codes &&
         Mentions(few.value(), "255 calibration tokens reached this layer, fewer than min_tokens 256"));
  EXPECT(quantize(layer.View(256)).value().fallbacks.empty());
  EXPECT_ERROR(quantize({nullptr, layer.k, 5}).status(), Code::kInvalidArgument, "Expected a Hessian for model.weight");
  layer.h[7] = std::numeric_limits<float>::quiet_NaN();
  const auto broken = quantize(layer.View());
  EXPECT(broken.value().codes == rtn.value().codes &&
         Mentions(broken.value(), "RTN instead of GPTQ: the Hessian holds a value that is not finite"));
  EXPECT(std::isfinite(broken.value().error));
  layer.w[65] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_ERROR(quantize(layer.View()).status(), Code::kCorruptFile, "model.weight holds a value that is not finite at [1, 1]");
}

LOWBIT_TEST(GptqOptionRanges) {
  const Layer layer = Correlated(1, 32, 17);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  QuantizeOptions options;
  for (const double value : {0.0, -0.1, 1.0, 2.0, nan}) {
    options.damp_percent = value;
    EXPECT_ERROR(Run(layer, options).status(), Code::kInvalidArgument,
                 "Expected a number above 0 and below 1 for damp_percent but received");
  }
  options = QuantizeOptions();
  for (const double value : {0.0, 1e-4, -1.0, 1.0, nan}) {
    options.damp_auto_increment = value;
    EXPECT_ERROR(Run(layer, options).status(), Code::kInvalidArgument, "for damp_auto_increment but received");
  }
  options = QuantizeOptions();
  for (const int value : {0, -1, 4097}) {
    options.block_size = value;
    EXPECT_ERROR(Run(layer, options).status(), Code::kInvalidArgument, "block_size but received " + std::to_string(value));
  }
  options = QuantizeOptions();
  options.min_tokens = -1;
  EXPECT_ERROR(Run(layer, options).status(), Code::kInvalidArgument, "for min_tokens but received -1");
  EXPECT(Run(layer, options, Method::kRtn).ok());  // RTN does not look at GPTQ's options
}
