// test/native: round to nearest through the public call: error on Gaussian weights, shapes, refusals.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "layers.h"
#include "quantize/method.h"

namespace {

using namespace lowbit;
using lowbit_test::Options;

std::vector<float> Gaussian(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> w(count);
  for (size_t i = 0; i < count; i += 2) {  // Box-Muller: the same numbers with every standard library
    const double u = (random() + 0.5) / 4294967296.0, v = random() / 4294967296.0;
    const double radius = std::sqrt(-2 * std::log(u)), angle = 6.283185307179586 * v;
    w[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) w[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
  return w;
}

Result<QuantizedLinear> Rtn(const std::vector<float>& w, int n, int k, const QuantizeOptions& options, int threads = 1,
                            const HessianView& hessian = {}) {
  Pool pool(threads);
  return Quantize(Method::kRtn, "model.weight", w, n, k, hessian, options, *RefKernels(), pool);
}

Status Refusal(const QuantizeOptions& options) { return Rtn(Gaussian(64, 1), 2, 32, options).status(); }

}  // namespace

// Expected relative Frobenius errors of the published quantiser on Gaussian weights, computed in double; both ways of
// rounding scales agree within the 3 % that sampling takes.
LOWBIT_TEST(RtnErrorOnGaussianWeights) {
  const int n = 256, k = 4096;
  const std::vector<float> w = Gaussian(size_t(n) * k, 1);
  const struct {
    int bits;
    bool sym;
    double g32, g64, g128, row;
  } expected[] = {
      {2, false, .406, .457, .503, .684},     {2, true, .471, .511, .549, .710},     {3, false, .173, .195, .216, .300},
      {3, true, .203, .220, .237, .315},      {4, false, .0808, .0911, .1007, .140}, {4, true, .0948, .1029, .1108, .147},
      {8, false, .0047, .0054, .0059, .0082}, {8, true, .0056, .0060, .0065, .0086},
  };
  for (const auto& e : expected) {
    const struct {
      int group_size;
      double error;
    } cases[] = {{32, e.g32}, {64, e.g64}, {128, e.g128}, {-1, e.row}};
    for (const auto& c : cases) {
      const auto q = Rtn(w, n, k, Options(e.bits, c.group_size, e.sym));
      EXPECT_NEAR(std::sqrt(q.value().error), c.error, 0.03 * c.error);
    }
  }
}

LOWBIT_TEST(RtnShortLastGroupAndOddShapes) {
  for (const int n : {1, 63, 64, 65}) {
    for (const int k : {1, 31, 100, 129}) {
      const std::vector<float> w = Gaussian(size_t(n) * k, n + k);
      for (const bool sym : {false, true}) {
        const auto result = Rtn(w, n, k, Options(8, 32, sym));
        const QuantizedLinear& q = result.value();
        EXPECT(q.groups == (k + 31) / 32 && q.g_idx.empty() && q.fallbacks.empty());
        EXPECT(q.codes.size() == w.size() && q.scales.size() == size_t(n) * q.groups && q.zeros.size() == size_t(n) * q.groups);
        std::vector<float> w_hat(w.size());
        Dequantize(q, w_hat);
        int far = 0;
        double error = 0, weight = 0;
        for (size_t i = 0; i < w.size(); ++i) {
          // Half a step, or a whole one where the positive end of a symmetric range or the f16 rounding of a scale clips;
          // a subnormal scale may be 2^-25 off, 255 times.
          const double scale = q.scales[i / k * q.groups + i % k / 32], difference = double(w[i]) - w_hat[i];
          far += !(std::fabs(difference) <= scale * 1.001 + 255 * std::ldexp(1, -25));
          error += difference * difference;
          weight += double(w[i]) * w[i];
        }
        EXPECT(far == 0);
        EXPECT_NEAR(q.error, error / weight, 1e-5 * error / weight);
      }
    }
  }
}

LOWBIT_TEST(RtnRangeSearchLowersTheError) {
  const int n = 64, k = 512;
  const std::vector<float> w = Gaussian(size_t(n) * k, 9);
  for (const int bits : {2, 3, 4}) {
    for (const bool sym : {false, true}) {
      QuantizeOptions options = Options(bits, 128, sym);
      const double plain = Rtn(w, n, k, options).value().error;
      options.mse = 2;
      EXPECT(Rtn(w, n, k, options).value().error < 0.97 * plain);
    }
  }
}

LOWBIT_TEST(RtnZeroWeightsStayZero) {
  const std::vector<float> w(3 * 64, 0.0f);
  std::vector<float> w_hat(w.size(), 1);
  const auto q = Rtn(w, 3, 64, Options(4, 32, false));
  Dequantize(q.value(), w_hat);
  EXPECT(w_hat == w);
  EXPECT(q.value().error == 0);
}

LOWBIT_TEST(RtnDoesNotDependOnThreadsNorOnOtherRows) {
  const int n = 200, k = 160;
  const std::vector<float> w = Gaussian(size_t(n) * k, 4);
  QuantizeOptions options = Options(3, 64, false);
  options.mse = 2.4;
  const auto one = Rtn(w, n, k, options), three = Rtn(w, n, k, options, 3);
  EXPECT(one.value().codes == three.value().codes && one.value().scales == three.value().scales);
  EXPECT(one.value().error == three.value().error);
  const int first = 70;
  const auto part = Rtn({w.begin() + first * k, w.end()}, n - first, k, options);
  EXPECT(std::memcmp(part.value().codes.data(), one.value().codes.data() + first * k, size_t(n - first) * k) == 0);
}

LOWBIT_TEST(RtnReportsTheErrorTheInputsSee) {
  // H = diag(1, 0, 0, ...): only column 0 counts.
  const int k = 32;
  std::vector<float> w = Gaussian(k, 2), h(k * k, 0);
  h[0] = 3;
  const auto q = Rtn(w, 1, k, Options(2, -1, true), 1, {h.data(), k, 10});
  std::vector<float> w_hat(k);
  Dequantize(q.value(), w_hat);
  const double expected = std::pow((double(w[0]) - w_hat[0]) / w[0], 2);
  EXPECT_NEAR(q.value().error, expected, 1e-6 * expected);
}

LOWBIT_TEST(QuantizeRefusesWhatItCannotDo) {
  EXPECT_ERROR(Refusal(Options(7, 32, true)), Code::kInvalidArgument, "Expected 2, 3, 4, 5, 6 or 8 for bits but received 7 of type number");
  EXPECT_ERROR(Refusal(Options(-4, 32, true)), Code::kInvalidArgument, "bits but received -4");
  for (const int group_size : {0, 1, 48, 256, -2})
    EXPECT_ERROR(Refusal(Options(4, group_size, true)), Code::kInvalidArgument, "group_size but received " + std::to_string(group_size));
  QuantizeOptions options;
  for (const double mse : {-1.0, 0.5, 8.5, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    options.mse = mse;
    EXPECT_ERROR(Refusal(options), Code::kInvalidArgument, "for mse but received");
  }
  options = QuantizeOptions();
  EXPECT_ERROR(Rtn({}, 0, 32, options).status(), Code::kInvalidArgument, "model.weight but received [0, 32]");
  EXPECT_ERROR(Rtn({1, 2}, 1, 3, options).status(), Code::kInvalidArgument, "Expected 3 weights for model.weight [1, 3] but received 2");
  const float h[4] = {1, 0, 0, 1};
  EXPECT_ERROR(Rtn({1, 2, 3}, 1, 3, options, 1, {h, 2, 1}).status(), Code::kInvalidArgument, "Expected a Hessian of 3 columns");
  std::vector<float> w = Gaussian(128, 1);
  w[64 + 7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_ERROR(Rtn(w, 2, 64, options).status(), Code::kCorruptFile, "model.weight holds a value that is not finite at [1, 7]");
  w[64 + 7] = -std::numeric_limits<float>::infinity();
  EXPECT_ERROR(Rtn(w, 2, 64, options).status(), Code::kCorruptFile, "model.weight");
}

LOWBIT_TEST(MethodNames) {
  EXPECT(std::string(MethodName(Method::kRtn)) == "rtn" && std::string(MethodName(Method::kGptq)) == "gptq");
  EXPECT(ParseMethod("gptq").value() == Method::kGptq);
  EXPECT_ERROR(ParseMethod("nf4").status(), Code::kInvalidArgument,
               "Expected one of: rtn, gptq, awq, hqq, spqr, mixllm, finequant for method but received nf4 of type string");
}
